"""Experiments, which combine a run with its layer, its tasks and a model of matched size.

With `match=params` every layer gets the width at which its model has as many parameters as the
model of the REFERENCE layer at the run's width.
"""

import dataclasses
import functools
from collections.abc import Callable

from flax import linen as nn

from experiments.lab.cells import models, spec
from experiments.lab.cells.run import Run
from experiments.lab.errors import BadInput
from experiments.lab.tasks.task import Task

REFERENCE = {'layer': 'attention', 'translator': 'transformer'}  # models that set the budget
TOLERANCE = 0.01  # share of the budget by which a count may differ without a note in the tables


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A run with the layer and the tasks that its specs describe.

  Attributes:
    run: the settings.
    task: the task to train on.
    layer: the layer of the run. For a translation task it is the component that defines encoder and
      decoder.
    extrapolation_tasks: the task at each of the run's test lengths.

  """

  run: Run
  task: Task
  layer: nn.Module
  extrapolation_tasks: tuple[Task, ...] = ()

  @property
  def width_multiple(self) -> int:
    """The number, such as the number of heads, that must divide the model width."""
    return models.required_width_multiple(self.run, self.layer, self.task)

  @property
  def budget_reference(self) -> nn.Module:
    """The layer or translator whose model sets the parameter budget."""
    return reference_component(self.task.model_kind)

  def model_at_width(self, layer: nn.Module | None = None, width: int | None = None) -> nn.Module:
    """Builds the model of a layer at a width, by default the layer and the width of the run."""
    layer = self.layer if layer is None else layer
    return models.build_model(self.run, layer, self.task, width or self.run.width)

  @property
  def model(self) -> nn.Module:
    """The model of the run's layer at the matched width."""
    return self._matched_model_and_sizes[0]

  @property
  def matched_sizes(self) -> dict:
    """The matched `width`, the number of `parameters` and the parameter `budget`."""
    return self._matched_model_and_sizes[1]

  @functools.cached_property
  def parameter_budget(self) -> int | None:
    """The number of parameters that the model should have, or None without matching."""
    if self.run.match != 'params':
      return None
    try:
      return models.count_parameters(self.model_at_width(self.budget_reference), self.task)
    except ValueError as error:
      raise BadInput(str(error)) from None

  @functools.cached_property
  def _matched_model_and_sizes(self) -> tuple[nn.Module, dict]:
    """Matches the model's parameter count to the budget, and returns the model and its sizes."""
    run = self.run
    try:
      def count_at_width(layer, width):
        return models.count_parameters(self.model_at_width(layer, width), self.task)

      width, budget = run.width, self.parameter_budget
      if budget is not None:
        width = nearest_width(
          functools.partial(count_at_width, self.layer), budget, self.width_multiple, width)
      sizes = {'width': width, 'parameters': count_at_width(self.layer, width), 'budget': budget}
      return self.model_at_width(width=width), sizes
    except ValueError as error:  # such as a width that is not divisible by the number of heads
      raise BadInput(str(error)) from None


@functools.cache
def reference_component(kind: str) -> nn.Module:
  """Creates the layer or translator whose model sets the parameter budget."""
  return spec.parse_spec(REFERENCE[kind], kind)


def create_experiment(
    run: Run, layer: nn.Module | None = None, task: Task | None = None) -> Experiment:
  """Creates the experiment of a run from given components, or else from the specs of the run.

  Args:
    run: the settings.
    layer: the layer or translator of the run; None parses the run's spec.
    task: the task of the run; None parses the run's spec.

  Returns:
    The experiment with its layer, its task and its extrapolation tasks.

  Raises:
    BadInput: if a spec or a test length is invalid.

  """
  task = spec.parse_spec(run.task, 'task') if task is None else task
  layer = spec.parse_spec(run.layer, task.model_kind) if layer is None else layer
  return Experiment(run, task, layer, extrapolation_tasks(run, task))


def extrapolation_tasks(run: Run, task: Task) -> tuple[Task, ...]:
  """Creates one variant of the task for each of the run's additional test lengths.

  Each task tests only lengths above those of the previous task. Test lengths must exceed the
  trained length, except for translation tasks.
  """
  tasks = []
  for length in run.test_lengths:
    longer = tasks or length > task.distance
    if not longer and task.model_kind == 'layer':
      raise BadInput(f'--test_lengths must exceed the trained {task.distance}, not be {length}')
    try:
      task = task.extrapolation_task(length) if longer else task.with_distance(length)
    except ValueError as error:
      raise BadInput(f'--test_lengths: {error}') from None
    tasks.append(task)
  return tuple(tasks)


def nearest_width(
    count_parameters: Callable[[int], int], budget: int, multiple: int, start: int) -> int:
  """Finds the width at which the number of parameters is nearest to a budget.

  Args:
    count_parameters: the number of parameters of the model at a width, which increases with it.
    budget: the number of parameters to match.
    multiple: the number of which the width must be a multiple.
    start: the width from which the search starts.

  Returns:
    A positive multiple of `multiple`.

  """
  count_parameters = functools.cache(count_parameters)
  low, high = 0, max(1, start // multiple)  # in multiples; the count at `low` is below the budget
  while count_parameters(high * multiple) < budget:
    low, high = high, 2 * high
  while high - low > 1:
    # Parameters grow about quadratically with the width, hence the square root of their ratio.
    scale = (budget / count_parameters(high * multiple)) ** 0.5
    estimate = round((high * multiple) * scale / multiple)
    middle = min(max(estimate, low + 1), high - 1)
    if count_parameters(middle * multiple) < budget:
      low = middle
    else:
      high = middle
  candidates = [width * multiple for width in (low, high) if width]
  return min(candidates, key=lambda width: abs(count_parameters(width) - budget))
