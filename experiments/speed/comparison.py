"""What is compared for speed, as data: a computation at sizes, and what is to be reached."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

TITLES = {
  'lstm': 'LSTM',
  'gru': 'GRU',
  'attention': 'causal attention',
  'recurrence': 'diagonal recurrence',
  'ssd': 'SSD',
  'gated_delta_rule': 'gated delta rule',
  'convolution': 'convolution',
  'decoder': 'decoder',
  'generation': 'greedy decoding',
}
LETTERS = {
  'batch': 'B', 'length': 'T', 'width': 'D', 'heads': 'H', 'head_width': 'K', 'kernel': 'k',
  'dilation': 'd', 'depth': 'L', 'steps': 'x', 'written': 'w',
}


class Target(NamedTuple):
  """A ratio of forward and backward that must be kept, and the one that is aimed at."""

  must: float
  aim: float


@dataclasses.dataclass(frozen=True)
class Comparison:
  """What is compared, at which sizes, and what is to be reached against which rival."""

  what: str
  sizes: Mapping[str, int]
  targets: Mapping[str, Target] = dataclasses.field(default_factory=dict)
  timed: bool = True  # or compiled only, for its memory


def title(what: str, sizes: Mapping[str, int]) -> str:
  """A comparison in a few words."""
  known = (f'{LETTERS[name]}{sizes[name]}' for name in LETTERS if name in sizes)
  return ' '.join([TITLES.get(what, what), *known])
