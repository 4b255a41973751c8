"""The `Run` type, which contains all settings that determine the results of a grid cell.

The canonical JSON of a run identifies its record, so that a cell whose record is stored is not
executed again. How a run is executed (devices, pmap or jit, time limits) is not a part of it.
"""

import dataclasses
import math
import typing
from typing import Any

from experiments.lab.cells import limits
from experiments.lab.training.recipe import Recipe, check_choice, check_positive, setting_field

MATCHES = ('params', 'none')
DTYPES = ('float32', 'bfloat16')
BLOCKS = ('pre_norm', 'post_norm', 'no_norm', 'plain')
FEEDFORWARDS = ('none', 'relu', 'gelu', 'gelu_exact', 'swiglu')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Recipe):
  """The settings of a grid cell, which trains a layer with all seeds and learning rates."""

  layer: str = setting_field('attention', 'Layer, as a spec.')
  task: str = setting_field('recall', 'Task, as a spec.')
  width: int = setting_field(
    64, 'Model width D; with --match=params, the width of the Transformer that sets the budget.'
  )
  depth: int = setting_field(2, 'Number of residual blocks in sequence.')
  feedforward: str = setting_field(
    'none', f'Feed-forward network after each layer: {", ".join(FEEDFORWARDS)}.'
  )
  expansion: float = setting_field(
    2.0, 'Hidden width of the feed-forward network, as a multiple of the model width.'
  )
  block: str = setting_field(
    'pre_norm',
    'Residual block around each layer. pre_norm: layer norm before the layer; post_norm: layer '
    'norm after the residual sum; no_norm: no layer norm; plain: neither layer norm nor residual '
    'connection, as in the first stacked recurrent networks.',
  )
  dropout: float = setting_field(
    0.0, "Dropout probability of each block's output, at least 0 and below 1."
  )
  dtype: str = setting_field('float32', f'Data type of the activations: {", ".join(DTYPES)}.')
  match: str = setting_field(
    'params',
    'Matching of model sizes. params: every layer gets the width at which its model has as many '
    'parameters as the Transformer of --width; none: every layer has the width --width.',
  )
  test_lengths: tuple[int, ...] = setting_field(
    (), 'Additional distances at which trained models are tested, in ascending order and separated '
    'by commas; larger than the training distance, except for translation tasks.'
  )
  seeds: tuple[int, ...] = (0, 1, 2)
  learning_rates: tuple[float, ...] = (3e-3,)

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'width', 'depth', 'expansion')
    for name, value in vars(self).items():
      if type(value) in (int, float):
        limits.check_limit(name, value)
    if not 0 <= self.dropout < 1:
      raise ValueError(f'dropout must be at least 0 and below 1, not {self.dropout}')
    check_choice('match', self.match, MATCHES)
    check_choice('dtype', self.dtype, DTYPES)
    check_choice('block', self.block, BLOCKS)
    check_choice('feedforward', self.feedforward, FEEDFORWARDS)
    if self.block == 'plain' and self.feedforward != 'none':
      raise ValueError(
        f'--block=plain has no feed-forward network and needs --feedforward=none, '
        f'not {self.feedforward!r}'
      )
    self._check_lengths_seeds_and_learning_rates()

  def _check_lengths_seeds_and_learning_rates(self) -> None:
    """Raises ValueError for invalid test lengths, seeds or learning rates."""
    if (0, *self.test_lengths) != tuple(sorted({0, *self.test_lengths})):
      raise ValueError(f'test_lengths must be positive and ascending, not {self.test_lengths}')
    for length in self.test_lengths:
      limits.check_limit('length', length, 'task')
    if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
      raise ValueError(f'seeds must be one or more distinct numbers, 0 or larger, not {self.seeds}')
    if (max(self.seeds) + 1) * self.steps >= 2**31:
      raise ValueError(f'seed {max(self.seeds)} and {self.steps} steps: (seed + 1) * steps must be '
                       f'below 2**31, because batches are numbered in 32 bits')
    if not self.learning_rates or len(set(self.learning_rates)) < len(self.learning_rates):
      raise ValueError(
        f'learning rates must be one or more distinct numbers, not {self.learning_rates}')
    for rate in self.learning_rates:
      if not 0 < rate < math.inf:
        raise ValueError(f'a learning rate must be positive and finite, not {rate}')

  def to_json_values(self) -> dict:
    """Returns the settings by name as JSON values, with tuples converted to lists."""
    return {
      name: list(value) if isinstance(value, tuple) else value
      for name, value in dataclasses.asdict(self).items()
    }


def create_run_from_json(json_values: dict) -> Run:
  """Creates a run from its JSON values, or raises ValueError if a value has a wrong type."""
  types = {field.name: field.type for field in dataclasses.fields(Run)}
  for name, value in json_values.items():
    if name not in types or not _has_type(value, types[name]):
      raise ValueError(f'a run has no setting {name} with a value such as {value!r:.100}')
  return Run(**{k: tuple(v) if isinstance(v, list) else v for k, v in json_values.items()})


def _has_type(value: Any, expected: Any) -> bool:
  """Whether a JSON value is valid for a field of the expected type."""
  if typing.get_origin(expected) is tuple:
    element_type, _ = typing.get_args(expected)
    return isinstance(value, list | tuple) and all(
      _has_type(element, element_type) for element in value)
  if expected is float:
    return type(value) is float or (type(value) is int and abs(value) < 2**63)
  return type(value) is expected
