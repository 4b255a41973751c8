"""The `Experiment` type, which combines a run with its layer, its tasks and its model.

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
  """A run together with its layer and its tasks, which are created from the specs of the run.

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
  def required_width_divisor(self) -> int:
    """The number that must divide the model width, such as the number of heads."""
    return models.required_model_width_divisor(self.run, self.layer, self.task)

  @property
  def layer_that_sets_parameter_budget(self) -> nn.Module:
    """The layer or encoder-decoder of the model whose parameter count other models should match.

    This reference model sets the parameter budget of runs with `match='params'`.
    """
    return layer_of_reference_model(self.task.model_kind)

  def model_at_width(self, layer: nn.Module | None = None, width: int | None = None) -> nn.Module:
    """Builds the model of a given layer and width, by default the layer and width of the run."""
    layer = self.layer if layer is None else layer
    return models.build_model(self.run, layer, self.task, width or self.run.width)

  @property
  def model(self) -> nn.Module:
    """The run's model, at the width that brings its parameter count nearest to the budget.

    Without a budget, the model has the width of the run.
    """
    return self._parameter_matched_model_and_its_size[0]

  @property
  def model_width_and_parameter_counts(self) -> dict:
    """A dictionary of the model's `width`, number of `parameters` and parameter `budget`."""
    return self._parameter_matched_model_and_its_size[1]

  @functools.cached_property
  def parameter_budget(self) -> int | None:
    """The parameter count that the model should match, or None if the run sets no budget."""
    if self.run.match != 'params':
      return None
    try:
      reference_model = self.model_at_width(self.layer_that_sets_parameter_budget)
      return models.count_parameters(reference_model, self.task)
    except ValueError as error:
      raise BadInput(str(error)) from None

  @functools.cached_property
  def _parameter_matched_model_and_its_size(self) -> tuple[nn.Module, dict]:
    """Returns the model, and a dictionary of its width, parameter count and budget."""
    run = self.run
    try:
      def num_parameters_at_width(layer, width):
        return models.count_parameters(self.model_at_width(layer, width), self.task)

      width, budget = run.width, self.parameter_budget
      if budget is not None:
        width = nearest_width(
          functools.partial(num_parameters_at_width, self.layer), budget,
          self.required_width_divisor, width)
      parameters = num_parameters_at_width(self.layer, width)
      sizes = {'width': width, 'parameters': parameters, 'budget': budget}
      return self.model_at_width(width=width), sizes
    except ValueError as error:  # such as a width that is not divisible by the number of heads
      raise BadInput(str(error)) from None


@functools.cache
def layer_of_reference_model(model_kind: str) -> nn.Module:
  """Creates the layer or encoder-decoder of the reference model that sets the parameter budget."""
  return spec.parse_spec(REFERENCE[model_kind], model_kind)


def create_experiment(
    run: Run, layer: nn.Module | None = None, task: Task | None = None) -> Experiment:
  """Creates the experiment of a run from its settings, its layer and its task.

  The layer and the task default to those that the specs of the run describe.

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
    longer = tasks or length > task.dependency_distance
    if not longer and task.model_kind == 'layer':
      raise BadInput(
        f'--test_lengths must exceed the trained {task.dependency_distance}, not be {length}')
    try:
      task = task.extrapolation_task(length) if longer else task.with_dependency_distance(length)
    except ValueError as error:
      raise BadInput(f'--test_lengths: {error}') from None
    tasks.append(task)
  return tuple(tasks)


def nearest_width(
    count_parameters: Callable[[int], int], budget: int, width_divisor: int, initial_width: int
) -> int:
  """Finds the model width at which the number of parameters is nearest to a budget.

  Args:
    count_parameters: the number of parameters of the model at a width, which increases with it.
    budget: the number of parameters to match.
    width_divisor: the number that must divide the width.
    initial_width: the width from which the search starts.

  Returns:
    A positive multiple of `width_divisor`.

  """
  count_parameters = functools.cache(count_parameters)
  # The widths `low` and `high` are in units of `width_divisor`.
  # At the width `low`, the model has fewer parameters than the budget.
  low, high = 0, max(1, initial_width // width_divisor)
  while count_parameters(high * width_divisor) < budget:
    low, high = high, 2 * high
  while high - low > 1:
    # The estimate assumes that the parameter count is quadratic in the width.
    scale = (budget / count_parameters(high * width_divisor)) ** 0.5
    estimate = round((high * width_divisor) * scale / width_divisor)
    middle = min(max(estimate, low + 1), high - 1)
    if count_parameters(middle * width_divisor) < budget:
      low = middle
    else:
      high = middle
  candidates = [width * width_divisor for width in (low, high) if width]
  return min(candidates, key=lambda width: abs(count_parameters(width) - budget))
