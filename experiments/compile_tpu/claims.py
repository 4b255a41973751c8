"""What is claimed of programs for a TPU, and what the claim rests on."""

from experiments.lab.evidence.claim import Claim
from experiments.lab.evidence.effects import Records


def compiles(records: Records) -> list[float] | None:
  """1 for each model and topology of which all programs compile and fit, 0 for each other."""
  return [float(record['status'] == 'finished') for record in records] or None


def collective_operations(records: Records) -> list[float] | None:
  """How many collective operations each program that trains independent members contains."""
  return [
    float(sum(count for count, _ in program['collectives'].values()))
    for record in records for program in record['result'].get('programs', ())
    if program['part'] == 'ensemble'
  ] or None


CONTROLS = (
  Claim(
    'independent-members',
    'A program that trains one independent member a chip contains no collective operation',
    'control', 'compile_tpu', collective_operations, 'collective operations', '<', 0.5, exact=True,
  ),
)
CLAIMS = (
  Claim(
    'compiles', 'Every layer compiles for a TPU, to train, to read and to write', 'this repository',
    'compile_tpu', compiles, 'part of the models', '>', 0.999,
  ),
)
