"""The ledger: what is claimed, stated in advance, and what the stored records say of it.

  python -m experiments.claims --runs=runs/quick

A claim is data: a statement and its source, the study whose records settle it, an effect (one
number a seed or a round), and the relation to a threshold that is expected of it. One rule turns
the effect's mean, with its 95 % bootstrap interval, into a verdict:

  supported      the whole interval is on the expected side of the threshold
  contradicted   the whole interval is on the other side
  inconclusive   the threshold lies within the interval or on its edge, or there is only one value
  not run        a record that the effect needs is missing
  void           a control of the study failed: what must fail did not fail, say
  error          the effect could not be computed from the records

A control is a claim too, on which the claims of its study rest. It fails if it is contradicted. If
it is inconclusive, the claims keep their verdicts, and it is named beside them. Of a control that
is computed exactly, every value must be on the expected side, and one value is enough.
"""

import dataclasses
import pathlib
import sys

from experiments.claims import ledger, rule
from experiments.claims.stored import stored
from experiments.lab.launch import flags
from experiments.lab.results import publish


def main() -> None:
  """Prints the ledger, the controls that it rests on, and what to do about those that failed."""
  folder = pathlib.Path(flags.FLAGS.runs)
  records, omitted = stored(folder)
  found, controls = rule.findings(records), rule.judged(records)
  tables = [ledger.table(found), dataclasses.replace(ledger.table(controls), title='Controls')]
  publish.tables('claims', tables, folder)
  for note in ledger.advice(controls, folder):
    print(f'{note}\n')
  for note in (*omitted, *ledger.errors([*found, *controls], folder)):
    print(note, file=sys.stderr)


define = flags.define_store

if __name__ == '__main__':
  flags.main(main, define, __doc__)
