"""The hyperparameters of training, in a module that does not import JAX."""

import dataclasses
import math

OPTIMIZERS = ('adamw', 'adam')
PARALLEL = ('jit', 'pmap')
SCHEDULES = ('cosine', 'constant', 'inverse_sqrt')


def setting_field(default, help_text: str):
  """A dataclass field with a default value and with the help text of its command-line flag."""
  return dataclasses.field(default=default, metadata={'help': help_text})


def check_positive(settings, *names: str) -> None:
  """Raises a ValueError if one of the named settings is not a positive, finite number."""
  for name in names:
    value = getattr(settings, name)
    if not 0 < value < math.inf:
      raise ValueError(f'{name} must be positive and finite, not {value}')


def check_choice(name: str, value: str, choices) -> None:
  """Raises a ValueError if a setting does not have one of its allowed values.

  Args:
    name: the name of the setting.
    value: the value.
    choices: the allowed values.

  Raises:
    ValueError: if the value is not allowed.

  """
  if value not in choices:
    raise ValueError(f'{name} must be one of {", ".join(choices)}, not {value!r}')


@dataclasses.dataclass(frozen=True)
class Recipe:
  """The hyperparameters of training, except the model, the task, the seed and the learning rate."""

  steps: int = setting_field(1000, 'Number of training steps.')
  batch_size: int = setting_field(64, 'Number of sequences in a training batch, over all devices.')
  optimizer: str = setting_field('adamw', f'Optimiser: {", ".join(OPTIMIZERS)}.')
  schedule: str = setting_field(
    'cosine', f'Schedule of the learning rate after warm-up: {", ".join(SCHEDULES)}.'
  )
  warmup: float = setting_field(
    0.05, 'Fraction of the steps over which the learning rate rises to its peak.'
  )
  beta1: float = setting_field(0.9, 'Adam: decay rate of the mean of the gradients.')
  beta2: float = setting_field(0.999, 'Adam: decay rate of the mean of the squared gradients.')
  epsilon: float = setting_field(
    1e-8, 'Adam: constant added to the root of the mean of the squared gradients.'
  )
  label_smoothing: float = setting_field(
    0.0, 'Fraction of the target probability that is spread evenly over all tokens.'
  )
  average: int = setting_field(
    0, 'Number of final validations whose parameters are averaged for the test; 0: no averaging.'
  )
  weight_decay: float = setting_field(
    0.01, 'AdamW: weight decay of matrices, filters and token embeddings; biases, scales of norms, '
    'gains, rates, skips and positions are not decayed.'
  )
  clip: float = setting_field(1.0, 'Maximal global norm of the gradients; 0: no clipping.')
  validations: int = setting_field(20, 'Number of validations during training.')
  validation_batches: int = setting_field(
    4, 'Number of validation batches, whose metric selects the learning rate.'
  )
  test_batches: int = setting_field(16, 'Number of test batches, over which scores are averaged.')
  beam: int = setting_field(1, 'Beam size of a translator; 1: greedy decoding.')
  length_penalty: float = setting_field(
    0.6, 'Length penalty of beam search: alpha of Wu et al. 2016.'
  )
  stop_when_solved: bool = setting_field(
    True, 'Stop training once the validation metric reaches the threshold of the task.'
  )

  def __post_init__(self):
    check_positive(
      self, 'steps', 'batch_size', 'beam', 'validations', 'validation_batches', 'test_batches'
    )
    check_choice('optimizer', self.optimizer, OPTIMIZERS)
    check_choice('schedule', self.schedule, SCHEDULES)
    if not 0 <= self.warmup < 1:
      raise ValueError(f'warmup, a fraction of the steps, must be in [0, 1), not {self.warmup}')
    for name in ('beta1', 'beta2', 'label_smoothing'):
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(f'{name} must be in [0, 1), not {getattr(self, name)}')
    check_positive(self, 'epsilon')
    for name in ('weight_decay', 'clip', 'average', 'length_penalty'):
      if not 0 <= getattr(self, name) < math.inf:
        raise ValueError(f'{name} must be finite and not negative, not {getattr(self, name)}')

  @property
  def settings_of_programs(self) -> 'Recipe':
    """The hyperparameters that compiled programs depend on, without those of a subclass.

    Other hyperparameters have their default values, so that runs which differ in them alone share
    their programs.
    """
    unused = {'validation_batches', 'test_batches', 'stop_when_solved'}
    unused |= set() if self.average else {'validations'}
    names = {field.name for field in dataclasses.fields(Recipe)} - unused
    return Recipe(**{name: getattr(self, name) for name in names})

  @property
  def validation_interval(self) -> int:
    """The number of steps between two validations."""
    return -(-self.steps // self.validations)
