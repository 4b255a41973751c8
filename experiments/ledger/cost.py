"""What length costs, measured and counted: claims and their controls."""

from collections.abc import Iterable

from experiments.complexity import COUNTED
from experiments.ledger.claim import MEASURE_AGAIN, VASWANI, Claim
from experiments.ledger.effects import Effect, Records, growth, noise
from experiments.results import counts
from experiments.results.times import STEADY

RECURRENT = ('lstm', 'gru')
NONLINEAR = ('elman', *RECURRENT)
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
    'repeat', 'The same step takes as long when it is measured twice', 'control', 'parallelism',
    noise, 'times itself', '<', STEADY, remedy=MEASURE_AGAIN,
  ),
  Claim(
    'repeat-complexity', 'A step of one layer takes as long as itself', 'control', 'complexity',
    noise, 'times itself', '<', STEADY, remedy=MEASURE_AGAIN,
  ),
  Claim(
    'hand-count', 'A simple recurrent network has as many operations as are counted by hand',
    'control', 'complexity', miscounted, 'part by which they differ', '<', 1e-9, exact=True,
  ),
  Claim(
    'silent-members', 'Chips that each train a member of their own have nothing to say', 'control',
    'compile_tpu', spoken, 'exchanges', '<', 0.5, exact=True,
  ),
)
CLAIMS = (
  Claim(
    'recurrent-training-grows', 'Training time a token grows with length for recurrence', VASWANI,
    'parallelism', growth('train', RECURRENT), 'times the shortest length', '>', 1.25,
  ),
  Claim(
    'attention-training-flat', 'Training time a token does not grow with length for attention',
    VASWANI, 'parallelism', growth('train', ('attention',)), 'times the shortest length',
    '<', 1.25,
  ),
  Claim(
    'convolution-training-flat',
    'Training time a token does not grow with length for convolution', 'Bai et al. 2018',
    'parallelism', growth('train', ('tcn',)), 'times the shortest length', '<', 1.25,
  ),
  Claim(
    'attention-generation-grows', 'A token takes attention longer to generate the later it comes',
    'Katharopoulos et al. 2020', 'parallelism', growth('generate', ('attention',)),
    'times the first position', '>', 1.25,
  ),
  Claim(
    'recurrent-generation-flat', 'A token takes recurrence as long to generate wherever it comes',
    'Katharopoulos et al. 2020', 'parallelism', growth('generate', RECURRENT),
    'times the first position', '<', 1.25,
  ),
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
  Claim(
    'compiles', 'Every layer compiles for a TPU, to train, to read and to write', 'this repository',
    'compile_tpu', compiles, 'part of the models', '>', 0.999,
  ),
)
