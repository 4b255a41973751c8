"""A run: everything that decides what a cell's numbers are, as strings and numbers only.

Its canonical JSON is its identity: the name of its record and the reason to skip it when the
record is there. How a run is executed (devices, pmap or jit, time limits) is not part of it.
"""

import dataclasses
import math
import typing
from typing import Any

from experiments.lab.cells import limits
from experiments.lab.training.recipe import Recipe, check_choice, check_positive, setting

MATCHES = ('params', 'none')
DTYPES = ('float32', 'bfloat16')
BLOCKS = ('pre_norm', 'post_norm', 'no_norm', 'plain')
FEEDFORWARDS = ('none', 'relu', 'gelu', 'gelu_exact', 'swiglu')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Recipe):
  """A recipe applied to a layer, in a shell, on a task, for all its seeds and learning rates."""

  layer: str = setting('attention', 'The layer, as a spec.')
  task: str = setting('recall', 'The task, as a spec.')
  width: int = setting(64, "The model's width D; with --match=params, the Transformer's.")
  depth: int = setting(2, 'Blocks, one above another.')
  feedforward: str = setting(
    'none', f'The position-wise network after each layer: {", ".join(FEEDFORWARDS)}.'
  )
  expansion: float = setting(2.0, 'Its width, in multiples of the width.')
  block: str = setting(
    'pre_norm',
    'The residual block around each layer: layer norm before the layer (pre_norm), after the sum '
    '(post_norm) or nowhere (no_norm); plain: neither norm nor residual connection, as recurrent '
    'layers were first stacked.',
  )
  dropout: float = setting(0.0, "Dropout of each block's output.")
  dtype: str = setting('float32', f'What activations are computed in: {", ".join(DTYPES)}.')
  match: str = setting(
    'params',
    'params: every layer gets the width at which its model has as many parameters as the '
    'Transformer of --width; none: all have that width.',
  )
  test_lengths: tuple[int, ...] = setting(
    (), 'Distances beyond the trained one to test at as well, ascending, separated by commas.'
  )
  seeds: tuple[int, ...] = (0, 1, 2)
  learning_rates: tuple[float, ...] = (3e-3,)

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'width', 'depth', 'expansion')
    for name, value in vars(self).items():
      if type(value) in (int, float):
        limits.check(name, value)
    if not 0 <= self.dropout < 1:
      raise ValueError(f'dropout is at least 0 and below 1, not {self.dropout}')
    check_choice('match', self.match, MATCHES)
    check_choice('dtype', self.dtype, DTYPES)
    check_choice('block', self.block, BLOCKS)
    check_choice('feedforward', self.feedforward, FEEDFORWARDS)
    if self.block == 'plain' and self.feedforward != 'none':
      raise ValueError(
        f'--block=plain has no feed-forward network: --feedforward=none, not {self.feedforward!r}'
      )
    if (0, *self.test_lengths) != tuple(sorted({0, *self.test_lengths})):
      raise ValueError(f'test_lengths are positive and ascending, not {self.test_lengths}')
    for length in self.test_lengths:
      limits.check('length', length, 'task')
    if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
      raise ValueError(f'seeds are distinct and not negative, one or more, not {self.seeds}')
    if (max(self.seeds) + 1) * self.steps >= 2**31:
      raise ValueError(f'seed {max(self.seeds)} x {self.steps} steps: too many batches to number')
    if not self.learning_rates or len(set(self.learning_rates)) < len(self.learning_rates):
      raise ValueError(f'learning rates are distinct, one or more, not {self.learning_rates}')
    for rate in self.learning_rates:
      if not 0 < rate < math.inf:
        raise ValueError(f'a learning rate is positive and finite, not {rate}')

  def identity(self) -> dict:
    """The run as plain JSON values."""
    return {
      name: list(value) if isinstance(value, tuple) else value
      for name, value in dataclasses.asdict(self).items()
    }


def run_from(values: dict) -> Run:
  """A run from the JSON values of its identity; a ValueError where one has another type."""
  kinds = {field.name: field.type for field in dataclasses.fields(Run)}
  for name, value in values.items():
    if name not in kinds or not _has_type(value, kinds[name]):
      raise ValueError(f'a run has no {name} of this kind: {value!r:.100}')
  return Run(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _has_type(value: Any, kind: Any) -> bool:
  """Whether a JSON value is one of a field of this type."""
  if typing.get_origin(kind) is tuple:
    part, _ = typing.get_args(kind)
    return isinstance(value, list | tuple) and all(_has_type(each, part) for each in value)
  if kind is float:
    return type(value) is float or (type(value) is int and abs(value) < 2**63)
  return type(value) is kind
