"""What is claimed of programs for a TPU, and what the claim rests on."""

from experiments.lab.evidence.claim import Claim
from experiments.lab.evidence.effects import Records


def compiles(records: Records) -> list[float] | None:
  """1 for each model and topology of which all programs compile and fit, 0 for each other."""
  return [float(record['status'] == 'finished') for record in records] or None


def spoken(records: Records) -> list[float] | None:
  """How often chips speak to each other in programs of members that have nothing to say."""
  return [
    float(sum(count for count, _ in program['collectives'].values()))
    for record in records for program in record['result'].get('programs', ())
    if program['part'] == 'ensemble'
  ] or None


CONTROLS = (
  Claim(
    'silent-members', 'Chips that each train a member of their own have nothing to say', 'control',
    'compile_tpu', spoken, 'exchanges', '<', 0.5, exact=True,
  ),
)
CLAIMS = (
  Claim(
    'compiles', 'Every layer compiles for a TPU, to train, to read and to write', 'this repository',
    'compile_tpu', compiles, 'part of the models', '>', 0.999,
  ),
)
