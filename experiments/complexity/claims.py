"""What is claimed of Table 1, and what the claims rest on."""

from collections.abc import Iterable

from experiments.complexity import counts
from experiments.complexity.table_1 import COUNTED
from experiments.lab.evidence.claim import MEASURE_AGAIN, VASWANI, Claim
from experiments.lab.evidence.effects import Effect, Records, noise
from experiments.lab.results.times import STEADY

NONLINEAR = ('elman', 'lstm', 'gru')
LINEAR = ('mingru', 'lru', 's5', 'rglru')


def counted(records: Records, layer: str) -> dict | None:
  """The record of a layer's counts in its form for an accelerator; None: not run."""
  return next((
    record for record in records
    if record['status'] == 'finished' and record['run'].get('platform') == 'gpu'
    and record['run'].get('layer') == COUNTED.get(layer, layer)), None)


def power(layers: Iterable[str], quantity: str) -> Effect:
  """With what power of the length a count grows, by layer and pair of neighbouring lengths."""
  def effect(records: Records) -> list[float] | None:
    found = [counted(records, layer) for layer in layers]
    if None in found:
      return None
    return [slope for record in found for slope in counts.slopes(record, quantity)]

  return effect


def miscounted(records: Records) -> list[float] | None:
  """By which part the count of a simple recurrent network differs from 4 n d^2, at each size."""
  record = counted(records, 'elman')
  if record is None:
    return None
  return [
    abs(p['products'] / (4 * p['length'] * p['width'] ** 2) - 1)
    for p in counts.points(record, 'forward')
  ]


CONTROLS = (
  Claim(
    'repeat-complexity', 'A step of one layer takes as long as itself', 'control', 'complexity',
    noise, 'times itself', '<', STEADY, remedy=MEASURE_AGAIN,
  ),
  Claim(
    'hand-count', 'A simple recurrent network has as many operations as are counted by hand',
    'control', 'complexity', miscounted, 'part by which they differ', '<', 1e-9, exact=True,
  ),
)
CLAIMS = (
  Claim(
    'attention-depth', 'Self-attention needs no more operations in sequence for a longer one',
    VASWANI, 'complexity', power(('attention',), 'depth'), 'power of the length', '<', 0.1,
  ),
  Claim(
    'convolution-depth', 'Nor does convolution', VASWANI, 'complexity',
    power(('convolution', 'tcn'), 'depth'), 'power of the length', '<', 0.1,
  ),
  Claim(
    'recurrence-depth', 'Recurrence needs as many as the sequence is long', VASWANI, 'complexity',
    power(NONLINEAR, 'depth'), 'power of the length', '>', 0.9,
  ),
  Claim(
    'linear-depth', 'A linear recurrence needs no more than a logarithm of them',
    'Blelloch 1990; Martin and Cundy 2018', 'complexity', power(LINEAR, 'depth'),
    'power of the length', '<', 0.5,
  ),
  Claim(
    'attention-path', 'In self-attention any two positions are as few operations apart', VASWANI,
    'complexity', power(('attention',), 'operations'), 'power of the length', '<', 0.1,
  ),
  Claim(
    'recurrence-path', 'In recurrence they are as far apart as there are tokens between them',
    VASWANI, 'complexity', power(NONLINEAR, 'operations'), 'power of the length', '>', 0.9,
  ),
  Claim(
    'dilated-path', 'Dilated convolutions bring them together in logarithmically many layers',
    VASWANI, 'complexity', power(('tcn',), 'layers'), 'power of the length', '<', 0.5,
  ),
  Claim(
    'restricted-path', 'Restricted self-attention needs as many layers as windows lie between',
    VASWANI, 'complexity', power(('sliding_window',), 'layers'), 'power of the length', '>', 0.5,
  ),
  Claim(
    'attention-work', 'The work of self-attention grows with the square of the length', VASWANI,
    'complexity', power(('attention',), 'products'), 'power of the length', '>', 1.5,
  ),
)
