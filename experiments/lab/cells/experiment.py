"""A run resolved: its specs parsed, once, and its model at the width at which budgets match.

With `match=params` every layer gets the width at which its model has as many parameters as that of
REFERENCE at the run's width.
"""

import dataclasses
import functools

from flax import linen as nn

from experiments.lab.cells import models, spec
from experiments.lab.cells.run import Run
from experiments.lab.errors import BadInput
from experiments.lab.tasks.task import Task

REFERENCE = {'layer': 'attention', 'translator': 'transformer'}  # they set the budget
TOLERANCE = 0.01  # of the budget; beyond it a table says so


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A run with what its specs describe.

  Attributes:
    run: the settings.
    task: what is trained on.
    layer: the run's layer; where its task is to translate, what makes encoder and decoder of one.
    farther: the task at the run's test lengths.

  """

  run: Run
  task: Task
  layer: nn.Module
  extrapolation_tasks: tuple[Task, ...] = ()

  @property
  def width_multiple(self) -> int:
    """The widths that the model can take are the multiples of this."""
    return models.width_multiple(self.run, self.layer, self.task)

  @property
  def reference(self) -> nn.Module:
    """What sets the budget of parameters."""
    return reference_of(self.task.answered_by)

  def unmatched(self, layer: nn.Module | None = None, width: int | None = None) -> nn.Module:
    """The model of the run's layer, or of another, at the run's width or another."""
    layer = self.layer if layer is None else layer
    return models.model_of(self.run, layer, self.task, width or self.run.width)

  @property
  def model(self) -> nn.Module:
    """The model at the matched width."""
    return self._matched[0]

  @property
  def match(self) -> dict:
    """What was matched: the `width` of the model, its `parameters`, and the `budget`."""
    return self._matched[1]

  @functools.cached_property
  def budget(self) -> int | None:
    """How many parameters the model is to have; None: as many as it has at the run's width."""
    if self.run.match != 'params':
      return None
    try:
      return models.count_parameters(self.unmatched(self.reference), self.task)
    except ValueError as error:
      raise BadInput(str(error)) from None

  @functools.cached_property
  def _matched(self) -> tuple[nn.Module, dict]:
    """A layer that only takes multiples of some width gets the one whose count is nearest."""
    run = self.run
    try:
      def count(layer, width):
        return models.count_parameters(self.unmatched(layer, width), self.task)

      width = run.width
      if self.budget is not None:
        own = functools.partial(count, self.layer)
        width = nearest_width(own, self.budget, self.width_multiple, width)
      match = {'width': width, 'parameters': count(self.layer, width), 'budget': self.budget}
      return self.unmatched(width=width), match
    except ValueError as error:  # such as a width that the heads do not share
      raise BadInput(str(error)) from None


@functools.cache
def reference_of(kind: str) -> nn.Module:
  """The layer, or the translator, that sets budgets."""
  return spec.parse(REFERENCE[kind], kind)


def resolve(run: Run, layer: nn.Module | None = None, task: Task | None = None) -> Experiment:
  """The experiment of a run; its layer and its task are parsed unless they are known."""
  task = spec.parse(run.task, 'task') if task is None else task
  layer = spec.parse(run.layer, task.answered_by) if layer is None else layer
  return Experiment(run, task, layer, extrapolation_tasks(run, task))


def extrapolation_tasks(run: Run, task: Task) -> tuple[Task, ...]:
  """A task at a run's test lengths, each asking only what lies beyond the one before.

  They lie beyond the trained one; but a transduction can be asked from the shortest on.
  """
  tasks = []
  for length in run.test_lengths:
    longer = tasks or length > task.distance
    if not longer and task.answered_by == 'layer':
      raise BadInput(f'--test_lengths lie beyond the trained {task.distance}, not at {length}')
    try:
      task = task.beyond(length) if longer else task.at(length)
    except ValueError as error:
      raise BadInput(f'--test_lengths: {error}') from None
    tasks.append(task)
  return tuple(tasks)


def nearest_width(count, budget: int, multiple: int, start: int) -> int:
  """The multiple at which `count`, which grows with the width, is nearest to a budget."""
  count = functools.cache(count)
  low, high = 0, max(1, start // multiple)  # the count at `low` is below the budget
  while count(high * multiple) < budget:
    low, high = high, 2 * high
  while high - low > 1:
    # About quadratic in the width: its root is a better guess than the middle.
    baseline = round((high * multiple) * (budget / count(high * multiple)) ** 0.5 / multiple)
    middle = min(max(baseline, low + 1), high - 1)
    if count(middle * multiple) < budget:
      low = middle
    else:
      high = middle
  candidates = [width * multiple for width in (low, high) if width]
  return min(candidates, key=lambda width: abs(count(width) - budget))
