"""Definition of comparisons of computation times, with upper bounds on the time ratios."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

TITLES = {
  'lstm': 'LSTM',
  'gru': 'GRU',
  'attention': 'causal attention',
  'recurrence': 'diagonal recurrence',
  'mamba': 'Mamba layer',
  's4d': 'S4D layer',
  'ssd': 'SSD',
  'gated_delta_rule': 'gated delta rule',
  'convolution': 'convolution',
  'decoder': 'decoder',
  'lstm_model': 'LSTM language model',
  'mamba2_model': 'Mamba-2 language model',
  'generation': 'greedy decoding',
}
LETTERS = {
  'batch': 'B', 'length': 'T', 'width': 'D', 'heads': 'H', 'head_width': 'K', 'state_size': 'N',
  'kernel': 'k', 'dilation': 'd', 'depth': 'L', 'steps': 'x', 'num_generated_tokens': 'g',
}


# Names in tables of the computations in records, in the order of the rows.
COMPUTATIONS = {
  'forward': 'forward', 'gradient': 'forward and backward', 'steps': 'training steps',
}


class Target(NamedTuple):
  """Two upper limits on our time divided by another implementation's time.

  The limit `required` must be met, and the limit `desired` is stricter. They apply to the named
  computations, by default to all.
  """

  required: float
  desired: float
  computations: tuple[str, ...] = tuple(COMPUTATIONS)


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Name and sizes of a benchmark, and target time ratios.

  The mapping `targets` contains, for each other implementation, the upper limits on our time
  divided by its time.
  """

  benchmark: str
  sizes: Mapping[str, int]
  targets: Mapping[str, Target] = dataclasses.field(default_factory=dict)
  timed: bool = True  # if False, programs are only compiled, for their planned memory


def comparison_title(benchmark: str, sizes: Mapping[str, int]) -> str:
  """Returns the title of a benchmark and its sizes, such as 'LSTM B8 T128 D128'."""
  size_labels = (f'{LETTERS[name]}{sizes[name]}' for name in LETTERS if name in sizes)
  return ' '.join([TITLES.get(benchmark, benchmark), *size_labels])
