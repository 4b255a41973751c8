"""The required properties (laws) of a task, which `verify_task` checks for any task.

  from experiments.lab.tasks.laws import verify_task
  verify_task(MyTask())

A task that breaks laws raises one error, which names each broken law, the sizes, the observation
and the part of the task to correct. `LAWS` maps the name of each law to its check.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.tasks.task import SPLITS, Batch, Task
from transformer.laws import expect, expect_close, select_laws, verify_laws

BATCH_SIZE, NUM_BATCHES = 256, 4
# Tokens must be equal. Real numbers may differ by ROUNDING, because compilation reorders sums.
ROUNDING = 1e-6


@functools.cache
def sample_batches(task: Task, split: str) -> Batch:
  """Samples NUM_BATCHES batches of a split, stacked along a new first axis."""
  batches = [task.batch(split, index, BATCH_SIZE) for index in range(NUM_BATCHES)]
  return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)


def merge_batches(batches: Batch) -> Batch:
  """Merges stacked batches [NUM_BATCHES, B, ...] into one batch of NUM_BATCHES * B sequences."""
  return jax.tree.map(lambda leaf: jnp.asarray(leaf.reshape(-1, *leaf.shape[2:])), batches)


def metric_per_sequence(task: Task, predict: Any, split: str = 'test') -> np.ndarray:
  """The metric of a predictor, such as `task.oracle_outputs`, on each sampled sequence of a split.

  Args:
    task: the task to sample from.
    predict: a function from sources [B, T] to outputs [B, T, output_space.size].
    split: 'train', 'validation' or 'test'.

  Returns:
    Values of the metric, float64 [NUM_BATCHES * BATCH_SIZE].

  """
  batch = merge_batches(sample_batches(task, split))
  single = jax.tree.map(lambda leaf: leaf[:, None], (predict(batch.source), batch))
  total, count = jax.vmap(task.metric_sums)(*single)
  return np.asarray(total, np.float64) / np.asarray(count)


def distinct_source_sequences(batches: Batch) -> set[bytes]:
  """The distinct source sequences of stacked batches, as byte strings."""
  return {row.tobytes() for row in np.asarray(merge_batches(batches).source)}


def check_arrays_match_declared_spaces(task: Task) -> None:
  """Sources, targets, weights and outputs match the task's declared shapes, dtypes and ranges."""
  for split in SPLITS:
    batch = merge_batches(sample_batches(task, split))
    for name, values, space in (
      ('source', batch.source, task.input_space), ('target', batch.target, task.output_space)
    ):
      tokens = space.kind == 'tokens'
      dtype, channels = (jnp.int32, ()) if tokens else (jnp.float32, (space.size,))
      hint = f'`batch`, which has to return a {name} of the declared space {space}'
      expect(values.dtype == dtype, f'the {name} is {values.dtype}, not {dtype.__name__}', hint)
      expect(
        values.shape[2:] == channels,
        f'the {name} has the shape {values.shape}, with {values.shape[2:]} instead of {channels} '
        'for each position', hint,
      )
      expect(
        not tokens or (values.min() >= 0 and values.max() < space.size),
        f'the {name} has tokens from {values.min()} to {values.max()}, but the vocabulary size is '
        f'{space.size}', hint,
      )
    weights = f'the weight is {batch.weight.dtype}{list(batch.weight.shape)}'
    expect(
      batch.weight.dtype == jnp.float32 and batch.weight.shape == batch.target.shape[:2],
      f'{weights}, not float32{list(batch.target.shape[:2])}', 'the weight that `batch` returns',
    )
    for name, predict in (('oracle', task.oracle_outputs), ('baseline', task.baseline_outputs)):
      outputs = predict(batch.source)
      shape = (*batch.weight.shape, task.output_space.size)
      expect(
        outputs.shape == shape, f'`{name}` returns {outputs.shape}, not {shape}',
        f'`{name}`: logits over the tokens, or the reals, at every position of the target',
      )
      loss = task.loss(outputs, batch)
      expect(
        loss.shape == batch.weight.shape,
        f'the loss of `{name}` has the shape {loss.shape}, not {batch.weight.shape}', '`loss`',
      )


def check_batches_are_reproducible(task: Task) -> None:
  """Calls with equal split and index give equal batches, with and without compilation.

  The index may be an int or a traced integer scalar.
  """
  fourth = jax.tree.map(lambda leaf: leaf[3], sample_batches(task, 'test'))
  compiled = jax.jit(lambda index: task.batch('test', index, BATCH_SIZE))
  hint = '`batch`: draw from `self.batch_key(split, index)` alone, and do not branch on tracers'
  expect_close(
    compiled(jnp.int32(3)), fourth, 'a compiled call returns another batch', hint, ROUNDING
  )
  expect_close(
    task.batch('test', jnp.int32(3), BATCH_SIZE), fourth,
    'an index that is a JAX array gives another batch', hint, ROUNDING,
  )


def check_sequences_vary(task: Task) -> None:
  """Batches with different indices differ, and each batch has at least two distinct sequences."""
  source = sample_batches(task, 'train').source
  different = len({batch.tobytes() for batch in source})
  expect(
    different == NUM_BATCHES, f'{NUM_BATCHES} batches have only {different} different sources',
    '`batch` and `batch_key`: the index has to enter the random key',
  )
  for batch in source:
    expect(
      len({row.tobytes() for row in batch}) > 1, 'all sequences of a batch are equal',
      '`batch`: draw every sequence of the batch independently',
    )


def check_splits_are_disjoint(task: Task) -> None:
  """Two splits share no more sequences than independent random samples would share."""
  sequences = {split: distinct_source_sequences(sample_batches(task, split)) for split in SPLITS}
  halves = [
    distinct_source_sequences(
      jax.tree.map(lambda leaf, i=i: leaf[i::2], sample_batches(task, 'train'))
    )
    for i in range(2)
  ]
  coincidences = 4 * len(halves[0] & halves[1])  # expected of two splits, each twice a half
  allowed = coincidences + 10 * np.sqrt(coincidences + 1)
  expect(
    allowed < len(sequences['train']),
    f'the training split has only {len(sequences["train"])} different sequences, too few to '
    'distinguish an overlap of splits from coincidence', 'the settings: verify a longer sequence',
  )
  for first, second in itertools.combinations(SPLITS, 2):
    shared = len(sequences[first] & sequences[second])
    expect(
      shared <= allowed,
      f'{first} and {second} share {shared} sequences; by coincidence at most {allowed:.0f} would '
      'be equal', '`batch_key`: the split has to enter the random key',
    )


def check_loss_weights_select_predictable_targets(task: Task) -> None:
  """Loss weights are 0 or 1, and the oracle predicts every target that has weight 1.

  Every sequence has such a position.
  """
  for split in SPLITS:
    batch = merge_batches(sample_batches(task, split))
    values = set(np.unique(batch.weight).tolist())
    expect(values <= {0.0, 1.0}, f'the weights are {sorted(values)}', 'the weight of `batch`')
    expect(
      np.all(np.sum(batch.weight, 1) > 0), 'a sequence has no position of weight 1',
      'the weight of `batch`',
    )
    loss = np.max(batch.weight * task.loss(task.oracle_outputs(batch.source), batch))
    expect(
      loss < 1e-5, f'the oracle has a loss of {loss:.3g} where the weight is 1',
      'the weight of `batch`: a position whose target the source does not determine has weight 0',
    )


def check_number_of_scored_positions_is_declared(task: Task) -> None:
  """Each sequence has as many positions of weight 1 as the task declares, if it declares a number.

  A model's head is applied to that many positions, and further ones would be ignored.
  """
  declared = task.num_scored_positions
  if declared is None:
    return
  for split in SPLITS:
    counts = np.unique(np.sum(merge_batches(sample_batches(task, split)).weight > 0, 1)).tolist()
    expect(
      counts == [declared],
      f'sequences of {split} have {counts} positions of weight 1; `num_scored_positions` is '
      f'{declared}', '`num_scored_positions`: None unless the number is the same in all sequences',
    )


def check_metric_ignores_zero_weight_positions(task: Task) -> None:
  """Targets and outputs at positions of weight 0 do not affect the metric."""
  batch = merge_batches(sample_batches(task, 'test'))
  weight = batch.weight[..., None] if task.output_space.kind == 'reals' else batch.weight
  other_target = jnp.where(weight > 0, batch.target, jnp.roll(batch.target, 1, 1))
  outputs = task.baseline_outputs(batch.source)
  corrupt = jnp.where(batch.weight[..., None] > 0, outputs, jnp.flip(outputs, -1) + 1)
  hint = '`sum_metric`: multiply by the weight, and return the sum of the weights second'
  expect_close(
    task.metric_sums(corrupt, batch._replace(target=other_target)),
    task.metric_sums(outputs, batch),
    'the metric depends on positions of weight 0', hint, ROUNDING,
  )
  expect_close(
    task.metric_sums(outputs, batch._replace(weight=jnp.zeros_like(batch.weight))),
    (jnp.zeros(()), jnp.zeros(())), 'the metric sums are not (0, 0) if all weights are 0', hint,
    ROUNDING,
  )


def check_oracle_is_perfect(task: Task) -> None:
  """The oracle attains the perfect metric value on every sequence of every split."""
  for split in SPLITS:
    values = metric_per_sequence(task, task.oracle_outputs, split)
    worst = values[np.abs(values - task.metric.perfect).argmax()]
    expect(
      abs(worst - task.metric.perfect) <= 1e-6,
      f'the oracle scores {worst:.6g} on a sequence of {split}; perfect is {task.metric.perfect}',
      '`oracle_outputs`, which may use the source alone, and `batch`',
    )


def check_baseline_metric_equals_chance(task: Task) -> None:
  """The mean metric of the baseline equals the chance level within five standard errors."""
  values = metric_per_sequence(task, task.baseline_outputs)
  error = values.std(ddof=1) / np.sqrt(values.size)
  expect(
    abs(values.mean() - task.chance_level) <= 5 * error + 1e-6,
    f'the baseline scores {values.mean():.4g} +- {error:.2g}; '
    f'`chance_level` is {task.chance_level:.4g}',
    '`chance_level`: the expected metric of `baseline_outputs`, in closed form',
  )
  expect(
    5 * error < abs(task.metric.perfect - task.chance_level) / 2,
    f'the standard error {error:.2g} is too large to distinguish `chance_level` from '
    '`metric.perfect`',
    'the settings: verify sequences with more scored positions',
  )


def check_baseline_ignores_source_content(task: Task) -> None:
  """The baseline predictor of a task gives equal outputs for all sources of equal shape."""
  source = merge_batches(sample_batches(task, 'test')).source
  expect_close(
    task.baseline_outputs(source), task.baseline_outputs(source[::-1]),
    'the baseline changes when the sequences of a batch are reordered',
    '`baseline_outputs`, which may use the shape of the source alone', ROUNDING,
  )


def check_scores_are_normalized(task: Task) -> None:
  """The normalised score is 0 for the baseline and 1 for a perfect model.

  The metric `solved` has a score of more than 0.9 and at most 1.
  """
  baseline = task.normalize_metric(task.chance_level)
  expect(baseline == 0, f'the score of `chance_level` is {baseline}, not 0', '`normalize_metric`')
  perfect = task.normalize_metric(task.metric.perfect)
  expect(
    perfect == 1, f'the score of `metric.perfect` is {perfect}, not 1',
    '`normalize_metric` and `metric.perfect`',
  )
  expect(
    task.solved is None or 0.9 < task.normalize_metric(task.solved) <= 1,
    f'the metric `solved` = {task.solved} has a score outside of 0.9 to 1', '`solved`',
  )


def check_dependency_distance_is_configurable(task: Task) -> None:
  """Changing a task's dependency distance preserves its Python class, input and output spaces."""
  hint = (
    '`with_dependency_distance` and `extrapolation_task`: return the same class with its length or '
    'delay changed'
  )
  distance = task.dependency_distance
  expect(
    task.with_dependency_distance(distance) == task, 'the same distance gives another task', hint
  )
  for name in ('with_dependency_distance', 'extrapolation_task'):
    longer = getattr(task, name)(2 * distance)
    expect(
      type(longer) is type(task) and longer.dependency_distance == 2 * distance,
      f'`{name}({2 * distance})` is {longer!r}, at a distance of {longer.dependency_distance}',
      hint,
    )
    expect(
      (longer.input_space, longer.output_space) == (task.input_space, task.output_space),
      f'`{name}` changes the spaces of inputs or outputs', hint,
    )
    batch = jax.eval_shape(functools.partial(longer.batch, 'train', 0, 2))
    expect(batch.weight.shape[0] == 2, f'`{name}` changes the batch size', hint)


def check_tasks_are_immutable_and_hashable(task: Task) -> None:
  """Tasks with equal settings are equal, and tasks are hashable and immutable.

  An unknown split raises an error.
  """
  hint = 'the class: @dataclasses.dataclass(frozen=True) with hashable fields'
  copy = dataclasses.replace(task)
  expect(copy == task and hash(copy) == hash(task), 'a copy is not equal to the task', hint)
  try:
    task.family = 'other'
  except dataclasses.FrozenInstanceError:
    pass
  else:
    expect(False, 'a field of the task can be assigned', hint)
  try:
    task.batch('holdout', 0, 2)
  except ValueError as error:
    expect(
      'train, validation, test' in str(error), f'an unknown split raises {error}',
      '`batch`: take its random key from `self.batch_key(split, index)`',
    )
  else:
    expect(False, "the split 'holdout' is accepted", '`batch`: call `self.batch_key(split, index)`')


LAWS = {
  check.__name__.removeprefix('check_'): check
  for check in (
    check_arrays_match_declared_spaces, check_batches_are_reproducible, check_sequences_vary,
    check_splits_are_disjoint, check_loss_weights_select_predictable_targets,
    check_number_of_scored_positions_is_declared, check_metric_ignores_zero_weight_positions,
    check_oracle_is_perfect, check_baseline_metric_equals_chance,
    check_baseline_ignores_source_content, check_scores_are_normalized,
    check_dependency_distance_is_configurable, check_tasks_are_immutable_and_hashable,
  )
}


def verify_task(task: Task, laws: Iterable[str] = tuple(LAWS)) -> tuple[str, ...]:
  """Checks that a task satisfies the laws of the task interface.

  Args:
    task: an instance of Task with the settings to verify. A task that streams from a
      disk (`task.streams`) has no oracle and cannot be verified.
    laws: names of the laws to check, from `LAWS`; all of them by default.

  Returns:
    The names of the laws that were checked, all of which hold.

  Raises:
    LawViolations: the task breaks laws; the message has one paragraph for each.
    ValueError: a name is not in `LAWS`.

  Examples:
    >>> from experiments.lab.tasks.parity import Parity
    >>> verify_task(Parity(length=8), laws=['oracle_is_perfect'])
    ('oracle_is_perfect',)

  """
  sizes = (
    f'{NUM_BATCHES} batches of {BATCH_SIZE} sequences at a distance of '
    f'{task.dependency_distance}'
  )
  return verify_laws(select_laws(LAWS, laws), task, repr(task), sizes)
