"""Claims about programs that are compiled for a TPU, and the quantities that test the claims."""

from experiments.lab.evidence.claim import Claim
from experiments.lab.evidence.effects import Records


def compilation_success_per_model(records: Records) -> list[float] | None:
  """Returns, for each model and topology, 1 if all programs compile and fit, or else 0."""
  return [float(record['status'] == 'finished') for record in records] or None


def count_collectives_in_ensemble_training(records: Records) -> list[float] | None:
  """Counts the collective operations of each program that trains one model per chip."""
  return [
    float(sum(count for count, _ in program['collectives'].values()))
    for record in records for program in record['result'].get('programs', ())
    if program['part'] == 'ensemble'
  ] or None


CONTROLS = (
  Claim(
    'independent-members',
    'A program that is compiled for several TPU chips and trains one independent model on each '
    'contains no collective operation',
    'control', 'compile_tpu', count_collectives_in_ensemble_training,
    'number of collective operations', '<', 0.5, exact=True,
  ),
)
CLAIMS = (
  Claim(
    'compiles',
    'With every layer, the programs that train a model, encode a prompt and generate a token '
    'compile for a TPU and fit into the memory of a chip',
    'this repository', 'compile_tpu', compilation_success_per_model,
    'fraction of the models whose programs compile and fit', '>', 0.999,
  ),
)
