"""How a model is trained: settings alone, so that they can be read without loading JAX."""

import dataclasses
import math

OPTIMIZERS = ('adamw', 'adam')
PARALLEL = ('jit', 'pmap')
SCHEDULES = ('cosine', 'constant', 'inverse_sqrt')


def setting(default, text: str):
  """A field with a sentence about it: its flag's help."""
  return dataclasses.field(default=default, metadata={'help': text})


def check_positive(settings, *names: str) -> None:
  """A ValueError for the first of these fields that is not a positive, finite number."""
  for name in names:
    value = getattr(settings, name)
    if not 0 < value < math.inf:
      raise ValueError(f'{name} must be positive and finite, not {value}')


def check_choice(name: str, value: str, choices) -> None:
  """A ValueError if a value is none of the choices."""
  if value not in choices:
    raise ValueError(f'no {name} {value!r}; there are {", ".join(choices)}')


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Everything that training needs to know but the model, the task, the seed and the rate."""

  steps: int = setting(1000, 'Training steps.')
  batch_size: int = setting(64, 'Sequences in a training batch, over all devices.')
  optimizer: str = setting('adamw', f'The optimiser: {", ".join(OPTIMIZERS)}.')
  schedule: str = setting('cosine', f'Of the learning rate after warm-up: {", ".join(SCHEDULES)}.')
  warmup: float = setting(0.05, 'Part of the steps over which the learning rate rises to its peak.')
  beta1: float = setting(0.9, 'Adam: how slowly the mean of the gradients moves.')
  beta2: float = setting(0.999, 'Adam: how slowly the mean of their squares moves.')
  epsilon: float = setting(1e-8, 'Adam: what is added to the root of that mean.')
  label_smoothing: float = setting(
    0.0, 'Part of the probability that training wants to be shared by all tokens alike.'
  )
  average: int = setting(
    0, 'Test the mean of the parameters at the last so many looks at validation; 0: the last ones.'
  )
  weight_decay: float = setting(
    0.01, 'AdamW: decay of weight matrices, filters and token embeddings; not of biases, scales of '
    'norms, gains, rates, skips and positions.'
  )
  clip: float = setting(1.0, 'Gradients are scaled down to this global norm; 0: they are not.')
  validations: int = setting(20, 'How often the validation split is looked at.')
  validation_batches: int = setting(4, 'Batches of the validation split; they choose the rate.')
  test_batches: int = setting(16, 'Batches of the test split; they give the score.')
  beam: int = setting(1, 'Hypotheses that a translator keeps while it writes; 1: greedy.')
  length_penalty: float = setting(0.6, 'Of its beam search: alpha of Wu et al. 2016.')
  stop_when_solved: bool = setting(True, 'Stop a member that has solved its task on validation.')

  def __post_init__(self):
    check_positive(
      self, 'steps', 'batch_size', 'beam', 'validations', 'validation_batches', 'test_batches'
    )
    check_choice('optimizer', self.optimizer, OPTIMIZERS)
    check_choice('schedule', self.schedule, SCHEDULES)
    if not 0 <= self.warmup < 1:
      raise ValueError(f'warmup is a part of the steps, from 0 to below 1, not {self.warmup}')
    for name in ('beta1', 'beta2', 'label_smoothing'):
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(f'{name} is from 0 to below 1, not {getattr(self, name)}')
    check_positive(self, 'epsilon')
    for name in ('weight_decay', 'clip', 'average', 'length_penalty'):
      if not 0 <= getattr(self, name) < math.inf:
        raise ValueError(f'{name} must be finite and not negative, not {getattr(self, name)}')

  @property
  def steps_per_call(self) -> int:
    """Steps between two looks at the validation split."""
    return -(-self.steps // self.validations)
