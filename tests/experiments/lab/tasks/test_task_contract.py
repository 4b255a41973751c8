"""The task contract: every entry of TASKS keeps it.

The worked examples in a task's docstring are specs, such as `recall(length=16, num_pairs=2)`, each
with a source row and a target row. They are the instances that the laws are verified for, so
that what a reader checks by eye is what is tested, and naming a task in TASKS is all it takes.
"""

import ast
import dataclasses
import inspect
import re
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lab.tasks import TASKS
from experiments.lab.tasks.laws import LAWS, sample_batches, verify_task
from experiments.lab.tasks.task import Batch, Space, Task, one_hot_logits, uniform_logits
from transformer.laws import LawViolations


class Example(NamedTuple):
  """A worked example of a docstring."""

  task: Task
  batch: Batch  # of one row


def read_row(cells, space):
  """One row of a docstring: tokens, or channels divided by `/`; a dot is a place without weight."""
  if space.kind == 'tokens':
    return np.array([[0 if cell == '.' else int(cell) for cell in cells]], np.int32)
  empty = '/'.join('0' * space.size)
  channels = [(empty if cell == '.' else cell).split('/') for cell in cells]
  return np.array([channels], np.float32)


def worked_examples(task_class):
  """The worked examples in a task's docstring."""
  pattern = r'^ *(\w+)\((.*)\)\n *source +(.+)\n *target +(.+)$'
  for found in re.findall(pattern, inspect.getdoc(task_class), re.MULTILINE):
    name, settings, source, target = found
    assert name == task_class.family
    keywords = ast.parse(f'_({settings})', mode='eval').body.keywords
    task = task_class(**{word.arg: ast.literal_eval(word.value) for word in keywords})
    weight = np.array([[float(cell != '.') for cell in target.split()]], np.float32)
    rows = read_row(source.split(), task.input_space), read_row(target.split(), task.output_space)
    yield Example(task, Batch(*map(jnp.asarray, (*rows, weight))))


# What streams is read from a disk: it has no oracle, and tests of its own (test_corpus).
MADE = [name for name, task_class in TASKS.items() if not task_class.streams]
EXAMPLES = [example for name in MADE for example in worked_examples(TASKS[name])]


FIRST = {type(example.task): example.task for example in reversed(EXAMPLES)}
# What other settings may change; the rest is the same code at any.
OF_SETTINGS = (
  'arrays_match_declared_spaces', 'loss_weights_select_predictable_targets', 'oracle_is_perfect',
  'baseline_metric_equals_chance',
)


def slow_unless_first(task):
  """The mark of a test of an instance: the first of each task is always tried."""
  return [pytest.mark.slow] * (task != FIRST[type(task)])


@pytest.mark.parametrize(('law', 'task'), [
  pytest.param(law, task, marks=slow_unless_first(task), id=f'{law}-{task!r}')
  for task in (example.task for example in EXAMPLES) for law in LAWS
  if task == FIRST[type(task)] or law in OF_SETTINGS
])
def test_law(law, task):
  assert verify_task(task, [law]) == (law,)


@pytest.mark.parametrize('name', MADE)
def test_is_documented_by_two_worked_examples(name):
  task_class = TASKS[name]
  examples = list(worked_examples(task_class))
  assert task_class.family == name
  assert len({example.task for example in examples}) >= 2, (
    f'the docstring of {task_class.__name__} is to show two worked examples: a spec, and below it '
    'a line `source` and a line `target`, as in experiments/lab/tasks/recall.py')
  for variants in (f for f in dataclasses.fields(task_class) if f.name == 'variant'):
    assert {example.task.variant for example in examples} > {variants.default}


@pytest.mark.parametrize('example', [
  pytest.param(example, marks=slow_unless_first(example.task), id=repr(example.task))
  for example in EXAMPLES
])
def test_worked_example_is_a_batch_that_the_oracle_solves(example):
  task, row = example
  total, count = task.metric_sums(task.oracle_outputs(row.source), row)
  assert total / count == pytest.approx(task.metric.perfect, abs=1e-6)
  assert np.max(row.weight * task.loss(task.oracle_outputs(row.source), row)) < 1e-5
  for ours, theirs in zip(row, sample_batches(task, 'train'), strict=True):
    assert (ours.shape[1:], ours.dtype) == (theirs.shape[2:], theirs.dtype)
  assert np.any(sample_batches(task, 'train').weight.sum(-1) == row.weight.sum())


@pytest.mark.parametrize('name', MADE)
def test_defaults_make_a_batch(name):
  task = TASKS[name]()
  batch = jax.eval_shape(lambda: task.batch('train', 0, 2))
  assert batch.weight.shape == batch.target.shape[:2]
  assert len(batch.source) == len(batch.target) == 2


# A contract is worth what it rejects. Echo keeps every law; each fault below breaks one.


@dataclasses.dataclass(frozen=True)
class Echo(Task):
  """Answer each token but the last with itself."""

  length: int = 8
  family: ClassVar[str] = 'echo'
  axis: ClassVar[str] = 'length'
  input_space: ClassVar[Space] = Space('tokens', 10)
  output_space: ClassVar[Space] = Space('tokens', 10)
  chance_level: ClassVar[float] = 0.1

  @property
  def dependency_distance(self):
    return self.length

  def with_dependency_distance(self, distance):
    return dataclasses.replace(self, length=distance)

  def batch(self, split, index, batch_size):
    source = jax.random.randint(self.batch_key(split, index), (batch_size, self.length), 0, 10)
    return Batch(source, source, jnp.ones(source.shape).at[:, -1].set(0.0))

  def oracle_outputs(self, source):
    return one_hot_logits(source, 10)

  def baseline_outputs(self, source):
    return jnp.broadcast_to(uniform_logits(jnp.arange(10) >= 0), (*source.shape, 10))


class Stranger(Echo):
  """A task of other tokens."""

  input_space: ClassVar[Space] = Space('tokens', 11)


def stray_weight(self, *arguments):
  """A batch in which the last target is noise, and counted."""
  source, target, weight = Echo.batch(self, *arguments)
  return Batch(source, target.at[:, -1].set(target[:, 0]), jnp.ones_like(weight))


def one_row(self, *arguments):
  """A batch that repeats its first row."""
  first = jax.tree.map(lambda leaf: leaf[:1], Echo.batch(self, *arguments))
  return jax.tree.map(lambda leaf: jnp.repeat(leaf, arguments[2], 0), first)


def impure(self, split, index, batch_size):
  """A batch that differs when it is compiled."""
  return Echo.batch(self, split, index + isinstance(index, jax.core.Tracer), batch_size)


def unweighted(self, outputs, batch):
  """A metric that forgets the weights."""
  return jnp.sum(jnp.argmax(outputs, -1) == batch.target), jnp.sum(batch.weight)


BROKEN = (
  ('arrays_match_declared_spaces', {'output_space': Space('tokens', 9)}),
  ('batches_are_reproducible', {'batch': impure}),
  ('sequences_vary', {'batch': one_row}),
  ('sequences_vary', {'batch_key': lambda self, split, index: Echo.batch_key(self, split, 0)}),
  ('splits_are_disjoint',
   {'batch_key': lambda self, split, index: Echo.batch_key(self, 'train', index)}),
  ('loss_weights_select_predictable_targets', {'batch': stray_weight}),
  ('number_of_scored_positions_is_declared', {'num_scored_positions': 3}),
  ('metric_ignores_zero_weight_positions', {'metric_sums': unweighted}),
  ('oracle_is_perfect',
   {'oracle_outputs': lambda self, source: one_hot_logits(source[:, ::-1], 10)}),
  ('baseline_metric_equals_chance', {'chance_level': 0.2}),
  ('baseline_ignores_source_content',
   {'baseline_outputs': lambda self, source: one_hot_logits(source, 10)}),
  ('scores_are_normalized', {'solved': 0.05}),
  ('dependency_distance_is_configurable',
   {'with_dependency_distance': lambda self, distance: self}),
  ('dependency_distance_is_configurable', {'extrapolation_task': lambda self, distance: self}),
  ('dependency_distance_is_configurable',
   {'extrapolation_task': lambda self, distance: Stranger(distance)}),
  ('tasks_are_immutable_and_hashable',
   {'batch_key': lambda self, split, index: jax.random.key(index)}),
)


@pytest.mark.parametrize('law', LAWS)
def test_contract_accepts_a_task_that_keeps_the_law(law):
  assert verify_task(Echo(), [law]) == (law,)


@pytest.mark.parametrize('law, fault', BROKEN)
def test_contract_rejects_a_task_that_breaks_the_law(law, fault):
  with pytest.raises(LawViolations) as error:
    verify_task(type('Broken', (Echo,), fault)(), [law])
  assert error.value.violations[0].law_name == law
  assert 'Broken(length=8)' in str(error.value) and 'at a distance of 8' in str(error.value)


def test_every_law_was_seen_to_reject():
  assert {law for law, _ in BROKEN} == set(LAWS)
