"""Claims about operation counts and path lengths, and controls that check the measurements."""

from collections.abc import Iterable

from experiments.complexity import count_tables
from experiments.complexity.table_1 import COUNTED
from experiments.lab.evidence.claim import MEASURE_AGAIN, VASWANI, Claim
from experiments.lab.evidence.effects import Effect, Records, ratios_between_repeated_timings
from experiments.lab.results.times import MAX_REPETITION_DRIFT

NONLINEAR = ('elman', 'lstm', 'gru')
LINEAR = ('mingru', 'lru', 's5', 'rglru')
EXPONENT = 'exponent of the sequence length'


def find_operation_counts(records: Records, layer: str) -> dict | None:
  """Returns the finished record with a layer's operation counts for a GPU, or None if absent."""
  return next((
    record for record in records
    if record['status'] == 'finished' and record['run'].get('platform') == 'gpu'
    and record['run'].get('layer') == COUNTED.get(layer, layer)), None)


def growth_exponents(layers: Iterable[str], counted_quantity: str) -> Effect:
  """Returns a function that computes the exponents p of operation counts that grow as length^p.

  There is one exponent for each layer and each pair of adjacent sequence lengths.
  """
  def growth_exponents_from_records(records: Records) -> list[float] | None:
    layer_records = [find_operation_counts(records, layer) for layer in layers]
    if None in layer_records:
      return None
    return [slope for record in layer_records
            for slope in count_tables.log_log_slopes_over_length(record, counted_quantity)]

  return growth_exponents_from_records


def relative_operation_count_errors(records: Records) -> list[float] | None:
  """Relative differences between the operation counts of an Elman layer and the exact 4 n d^2."""
  record = find_operation_counts(records, 'elman')
  if record is None:
    return None
  return [
    abs(count['products'] / (4 * count['length'] * count['width'] ** 2) - 1)
    for count in count_tables.operation_counts_of_phase(record, 'forward')
  ]


CONTROLS = (
  Claim(
    'repeat-complexity',
    'In the study of complexity, two measurements of the time of the same training step agree',
    'control', 'complexity', ratios_between_repeated_timings,
    'longer of both measured times divided by the shorter', '<', MAX_REPETITION_DRIFT,
    remedy=MEASURE_AGAIN,
  ),
  Claim(
    'hand-count',
    'The counted operations in matrix products of an Elman network of width d on n tokens equal '
    '4 n d^2',
    'control', 'complexity', relative_operation_count_errors, 'relative difference from 4 n d^2',
    '<', 1e-9, exact=True,
  ),
)
CLAIMS = (
  Claim(
    'attention-depth',
    'The number of sequential operations of self-attention does not grow with the sequence length',
    VASWANI, 'complexity', growth_exponents(('attention',), 'depth'), EXPONENT, '<', 0.1,
  ),
  Claim(
    'convolution-depth',
    'The number of sequential operations of a convolution and of a temporal convolutional network '
    'does not grow with the sequence length',
    VASWANI, 'complexity', growth_exponents(('convolution', 'tcn'), 'depth'), EXPONENT, '<', 0.1,
  ),
  Claim(
    'recurrence-depth',
    'The number of sequential operations of an Elman network, an LSTM and a GRU grows linearly '
    'with the sequence length',
    VASWANI, 'complexity', growth_exponents(NONLINEAR, 'depth'), EXPONENT, '>', 0.9,
  ),
  Claim(
    'linear-depth',
    'The number of sequential operations of linear recurrences (minGRU, LRU, S5, RG-LRU) grows at '
    'most logarithmically with the sequence length',
    'Blelloch 1990; Martin and Cundy 2018', 'complexity', growth_exponents(LINEAR, 'depth'),
    EXPONENT, '<', 0.5,
  ),
  Claim(
    'attention-path',
    'The maximum path length of self-attention does not grow with the sequence length',
    VASWANI, 'complexity', growth_exponents(('attention',), 'operations'), EXPONENT, '<', 0.1,
  ),
  Claim(
    'recurrence-path',
    'The maximum path length of an Elman network, an LSTM and a GRU grows linearly with the '
    'sequence length',
    VASWANI, 'complexity', growth_exponents(NONLINEAR, 'operations'), EXPONENT, '>', 0.9,
  ),
  Claim(
    'dilated-path',
    'The number of dilated convolutions (levels of a temporal convolutional network) on a path '
    'between any two positions grows logarithmically with the sequence length',
    VASWANI, 'complexity', growth_exponents(('tcn',), 'layers'), EXPONENT, '<', 0.5,
  ),
  Claim(
    'restricted-path',
    'The number of layers of restricted self-attention on a path between any two positions grows '
    'in proportion to the number of windows in the sequence',
    VASWANI, 'complexity', growth_exponents(('sliding_window',), 'layers'), EXPONENT, '>', 0.5,
  ),
  Claim(
    'attention-work',
    'The number of operations in matrix products of self-attention grows with the square of the '
    'sequence length',
    VASWANI, 'complexity', growth_exponents(('attention',), 'products'), EXPONENT, '>', 1.5,
  ),
)
