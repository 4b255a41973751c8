"""The equations of the optimiser, ensembles compared with single members, and final statuses."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from baselines.convolution import Convolution
from experiments.lab.cells.models import build_model
from experiments.lab.cells.run import Run
from experiments.lab.tasks.adding import Adding
from experiments.lab.tasks.recall import Recall
from experiments.lab.tasks.task import SPLITS, Batch
from experiments.lab.training.ensemble import Ensemble
from experiments.lab.training.loop import is_solved, train
from experiments.lab.training.optimizer import learning_rate_schedule
from experiments.lab.training.recipe import PARALLEL, Recipe
from experiments.lab.training.step import Training
from tests.support.split_models import SplitModel
from transformer.attention import Attention

REQUESTED = []  # the (split, index) of batches that compiled programs requested
SMALL = Recipe(steps=6, batch_size=8, validations=3, validation_batches=2, test_batches=3)
MEMBERS = [(0, 0.03), (3, 0.1), (0, 0.1), (1, 0.05), (2, 0.2)]


@dataclasses.dataclass(frozen=True)
class Line(Adding):
  """A weighted sum of two channels per token; rows differ in their number of scored tokens."""

  length: int = 4
  solved: float | None = None
  watched: bool = False

  def batch(self, split, index, batch_size):
    if self.watched:
      jax.debug.callback(lambda index: REQUESTED.append((split, int(index))), index)
    source = jax.random.normal(self.batch_key(split, index), (batch_size, self.length, 2))
    target = source[..., :1] - 2 * source[..., 1:] + 0.5
    count = jnp.arange(batch_size)[:, None] % (self.length + 1)
    return Batch(source, target, 1.0 * (jnp.arange(self.length)[None] < count))

  @property
  def num_scored_positions(self):
    return None

  def metric_values(self, outputs, batch):  # finite like an accuracy, for any outputs
    error = self.loss(outputs, batch)
    return jnp.where(error < 100, error, 100)


class Linear(SplitModel):
  """A model with one matrix and one bias."""

  dropout: float = 0.0

  def setup(self):
    self.drop, self.dense = nn.Dropout(self.dropout), nn.Dense(1)

  def features(self, source, state=None, *, mask=None, train=False):
    return self.drop(source, deterministic=not train), ()

  def outputs(self, features):
    return self.dense(features)


def training_of(task=None, dropout=0.0, **changed):
  return Training(Linear(dropout), task or Line(), dataclasses.replace(SMALL, **changed))


def ensemble_of(members=MEMBERS, devices=2, parallel='jit', **changed):
  return Ensemble(training_of(**changed), members, parallel, jax.devices()[:devices])


def train_to_end(members, devices=2, timeout=math.inf, **changed):
  """The results of members that are trained to their end."""
  training = training_of(**changed)
  ensemble = Ensemble(training, members, devices=jax.devices()[:devices])
  return train(ensemble, training.task, training.recipe, timeout, progress=lambda *_: None)


def train_and_test(ensemble, calls=3):
  """States, test results, and losses of all members after some calls."""
  active, losses = np.ones(len(ensemble.members), bool), [0] * calls
  steps, states = ensemble.training.recipe.validation_interval, ensemble.initialise()
  for call in range(calls):
    states, losses[call], _ = ensemble.train_for_steps(states, active, steps)
  return *ensemble.gather_from_devices((states, ensemble.evaluate(states, 'test', active))), losses


def advance_one_call(training, state):
  """A member after the steps of one call, and the sum of their losses."""
  return jax.jit(training.train_for_steps)(state, 0.0, training.recipe.validation_interval)


def evaluate_member(training, state, test):
  """The results of a member on the test or the validation split."""
  recipe, zeros = training.recipe, ((0.0, 0.0), (0.0, 0.0))
  count = recipe.test_batches if test else recipe.validation_batches
  sums = jax.jit(training.accumulate_evaluation)(state, zeros, test, 0, count)
  return training.metric_and_loss_from_sums(sums)


def assert_trees_close(actual, expected, tolerance=1e-6):
  for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('name', ['cosine', 'inverse_sqrt', 'constant'])
def test_a_schedule_rises_to_its_peak_and_then_follows_its_formula(name):
  schedule = learning_rate_schedule(Recipe(steps=50, warmup=0.2, schedule=name))
  rate = jax.vmap(schedule)(np.arange(51))
  np.testing.assert_allclose(rate[:10], np.arange(1, 11) / 10, atol=1e-6)
  assert rate.max() == rate[9] == 1
  n = np.arange(10, 51)
  expected = {
    'constant': np.ones(41),
    'cosine': (1 + np.cos(np.pi * (n - 10) / 40)) / 2,  # 0 after the last step
    # Equation 3 of Vaswani et al. 2017, which counts steps from 1, up to a constant.
    'inverse_sqrt': np.minimum((n + 1) ** -0.5, (n + 1) * 10**-1.5) * 10**0.5,
  }[name]
  np.testing.assert_allclose(rate[10:], expected, atol=1e-6)


def reference_adamw_step(p, moments, x, y, weight, step, recipe, peak):
  """Adam with decoupled decay in float64, for parameters p = (bias [1], kernel [2, 1])."""
  error = 2 * (x @ p[1] + p[0] - y)[..., 0] * weight / weight.sum()
  gradient = [np.sum(error)[None], np.einsum('BTC,BT->C', x, error)[:, None]]
  norm = np.sqrt(sum(np.sum(g**2) for g in gradient))
  shrink = min(1, recipe.clip / norm) if recipe.clip else 1
  updated, t = [], step + 1  # t as in the paper
  rate = peak * min(t / round(recipe.warmup * recipe.steps), 1)
  for i, g in enumerate(shrink * g for g in gradient):
    beta1, beta2 = recipe.beta1, recipe.beta2
    m, v = moments[i] = (
      beta1 * moments[i][0] + (1 - beta1) * g, beta2 * moments[i][1] + (1 - beta2) * g**2
    )
    update = (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + recipe.epsilon)
    if recipe.optimizer == 'adamw' and i == 1:  # the kernel
      update = update + recipe.weight_decay * p[i]
    updated.append(p[i] - rate * update)
  return updated


@pytest.mark.parametrize(
  ('optimizer', 'settings'),
  [
    ('adam', {'clip': 0.0}),
    ('adam', {'clip': 0.0, 'beta1': 0.7, 'beta2': 0.98, 'epsilon': 1e-2}),
    ('adamw', {'clip': 0.0}),
    ('adamw', {'clip': 0.5}),
  ],
)
def test_a_training_step_follows_adams_equations_and_decays_only_the_matrix(optimizer, settings):
  recipe = Recipe(10, 8, optimizer, 'constant', warmup=0.2, weight_decay=0.3, **settings)
  training = Training(Linear(), Line(), recipe)
  state, step = jax.jit(training.initialise)(1, 0.1), jax.jit(training.train_step)
  p = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(state.parameters)]
  moments = [(0, 0), (0, 0)]
  for index in range(4):
    batch = training.task.batch('train', index, 8)
    x, y, weight = (np.asarray(a, np.float64) for a in batch)
    error = np.sum(weight * (x @ p[1] + p[0] - y)[..., 0] ** 2) / weight.sum()
    p = reference_adamw_step(p, moments, x, y, weight, index, recipe, 0.1)
    state, loss = step(state, batch)
    np.testing.assert_allclose(loss, error, rtol=1e-5)
  assert_trees_close(state.parameters, p, 1e-5)


@functools.cache
def train_members_separately():
  """The result of `train_and_test` from each member by itself, with one step per call."""
  training, results = training_of(dropout=0.3), []
  step = jax.jit(lambda s, i: training.train_step(s, training.task.batch('train', i, 8)))
  for seed, rate in MEMBERS:
    state, losses = jax.jit(training.initialise)(seed, rate), [0] * 6
    for i in range(6):
      state, losses[i] = step(state, 6 * seed + i)
    mean_losses = list(np.reshape(losses, (3, 2)).mean(1))
    results.append((state, evaluate_member(training, state, True), mean_losses))
  return jax.tree.map(lambda *leaves: np.stack(leaves), *results)


@pytest.mark.parametrize('devices', [2, pytest.param(1, marks=pytest.mark.slow),
                                     pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize('parallel', PARALLEL)
def test_members_of_an_ensemble_equal_the_separate_members_in_their_order(parallel, devices):
  ensemble = ensemble_of(MEMBERS, devices, parallel, dropout=0.3)
  assert_trees_close(train_and_test(ensemble), train_members_separately())


@pytest.mark.slow
def test_a_single_member_with_batches_divided_over_four_devices_equals_it_on_one_device():
  """The devices score 1, 5, 4 and 3 tokens, so that a mean of their means is wrong."""
  member = [(1, 0.1)]
  on_one = train_and_test(ensemble_of(member, 1))
  for parallel in PARALLEL:
    ensemble = ensemble_of(member, 4, parallel)
    assert len(ensemble.devices) == 4
    assert_trees_close(train_and_test(ensemble), on_one, 1e-5)
    states, *_ = ensemble.train_for_steps(ensemble.initialise(), [True], 2)
    for leaf in jax.tree.leaves(states):  # all devices have the same copy
      np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
  assert len(ensemble_of(member, 3).devices) == 1  # 8 is not divisible by 3


@pytest.mark.parametrize(('steps', 'validations'), [(10, 4), (3, 5), (7, 1)])
def test_calls_add_up_to_the_requested_steps_on_the_expected_batches(steps, validations):
  REQUESTED.clear()
  changed = {'steps': steps, 'validations': validations, 'stop_when_solved': False}
  (member,) = train_to_end([(1, 0.1)], 1, task=Line(solved=math.inf, watched=True), **changed)
  jax.effects_barrier()
  train_, validation, test = ([i for name, i in REQUESTED if name == split] for split in SPLITS)
  assert sorted(train_) == [0, *range(steps, 2 * steps)]  # 0 for the shapes of the parameters
  assert sorted(validation) == sorted([0, 1] * len(member.curve))
  assert sorted(test) == [0, 1, 2]
  assert (member.status, member.steps) == ('finished', steps)
  interval = math.ceil(steps / validations)
  assert [step for step, _, _ in member.curve] == [*range(interval, steps, interval), steps]


def requested_batches(program, *arguments):
  """The batches that a compiled program requests."""
  jax.effects_barrier()  # waits for the requests of earlier calls
  REQUESTED.clear()
  jax.block_until_ready(program(*arguments))
  jax.effects_barrier()
  return set(REQUESTED)


def test_seeds_differ_in_initial_parameters_and_batches_and_rates_share_both():
  training = training_of(Line(watched=True), validations=1)
  states = [jax.jit(training.initialise)(*member) for member in [(0, 0.1), (1, 0.1), (1, 0.2)]]
  first, second, third = (str(state.parameters) for state in states)
  assert first != second == third
  first, second, third = (
    requested_batches(advance_one_call, training, state) for state in states)
  assert second == third and not first & second
  assert {split for split, _ in first | second} == {'train'}
  assert len(first) == len(second) == SMALL.steps


@pytest.mark.parametrize('parallel', PARALLEL)
def test_nothing_is_compiled_after_the_first_call(parallel, caplog):
  ensemble, compilations, all_active = ensemble_of(parallel=parallel), [], [True] * len(MEMBERS)
  states = ensemble.initialise()
  for call in range(3):
    caplog.clear()
    with jax.log_compiles():
      states, *_ = ensemble.train_for_steps(states, np.arange(len(MEMBERS)) != call, 2 + call)
      ensemble.gather_from_devices(ensemble.evaluate(states, 'validation', all_active))
    compilations.append(sum('ompil' in record.getMessage() for record in caplog.records))
  assert compilations[0] > 0 and compilations[1:] == [0, 0]


def test_inactive_members_do_not_change_and_old_states_are_donated():
  ensemble, active = ensemble_of(), np.array([True, False, True, False, False])
  states = ensemble.initialise()
  before = ensemble.gather_from_devices(states)
  new, losses, _ = ensemble.train_for_steps(states, active, 2)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(states))
  after = ensemble.gather_from_devices(new)
  for b, a in zip(*map(jax.tree.leaves, (before.parameters, after.parameters)), strict=True):
    np.testing.assert_array_equal((a != b).reshape(len(a), -1).any(1), active)
  np.testing.assert_array_equal(losses != 0, active)
  np.testing.assert_array_equal(after.step, 2 * active)


def test_a_member_that_diverges_does_not_affect_the_others():
  first, diverged, last = train_to_end([(0, 0.1), (1, 1e25), (2, 0.1)])
  assert [m.status for m in (first, diverged, last)] == ['finished', 'diverged', 'finished']
  assert diverged.steps < SMALL.steps and math.isnan(diverged.test)
  assert [first, last] == train_to_end([(0, 0.1), (2, 0.1)])


def test_a_member_whose_last_step_makes_the_loss_infinite_has_diverged():
  """The training losses and the metric are finite, and the loss after training is not."""
  (member,) = train_to_end([(0, 1e38)], devices=1, steps=1, validations=1, warmup=0.0)
  assert (member.status, math.isnan(member.test)) == ('diverged', True)
  assert all(map(math.isfinite, member.curve[0])) and not math.isfinite(member.validation_loss)


@dataclasses.dataclass(frozen=True)
class OverflowingTest(Line):
  """The task with inputs that overflow on the test split alone."""

  def batch(self, split, index, batch_size):
    batch = super().batch(split, index, batch_size)
    return batch._replace(source=batch.source * (1e30 if split == 'test' else 1.0))


def test_a_member_whose_test_loss_is_not_finite_has_no_score():
  (member,) = train_to_end([(0, 0.1)], devices=1, task=OverflowingTest())
  assert (member.status, math.isnan(member.test)) == ('diverged', True)
  ensemble, overflowing = (
    ensemble_of([(0, 0.1)], 1, task=task) for task in (Line(), OverflowingTest()))
  (member,) = train(
    ensemble, Line(), SMALL, progress=lambda *_: None,
    extrapolation_ensembles=[overflowing])
  assert math.isfinite(member.test) and math.isnan(member.extrapolation[0])


def test_a_member_that_has_solved_its_task_stops():
  """Its score is that of the parameters at its last step."""
  members = [(0, 0.3), (0, 1e-4)]
  changed = {'task': Line(solved=0.5), 'steps': 60, 'validations': 10, 'schedule': 'constant'}
  fast, slow = train_to_end(members, **changed)
  assert (fast.status, slow.status) == ('solved', 'finished')
  assert fast.steps == fast.curve[-1][0] < slow.steps == 60
  assert fast.curve[-1][2] <= 0.5 < fast.curve[-2][2]
  _, results, _ = train_and_test(ensemble_of(members, **changed), fast.steps // 6)
  np.testing.assert_allclose(fast.test, results.metric[0], rtol=1e-5)


def test_the_solved_threshold_follows_the_direction_of_the_metric():
  low, high = Line(solved=0.1), Recall()
  assert [is_solved(low, m) for m in (0.05, 0.1, 0.2, math.nan)] == [True, True, False, False]
  assert [is_solved(high, m) for m in (1.0, 0.99, 0.98, math.nan)] == [True, True, False, False]
  assert not is_solved(Line(), 0.0)


def test_members_that_time_out_have_scores():
  late, other = train_to_end([(0, 0.1), (1, 0.1)], timeout=0)
  assert late.status == other.status == 'timeout'
  assert late.steps == 1 < SMALL.validation_interval  # before the first regular validation
  assert late.curve[0][0] == 1 and late.validation < 100 and late.test < 100


@pytest.mark.slow
def test_attention_learns_recall_and_a_layer_that_reads_one_token_does_not():
  task = Recall(length=12, num_pairs=3, vocabulary_size=10)
  run = Run(width=16, steps=300, batch_size=32, validations=15)

  def train_layer(layer):
    training = Training(build_model(run, layer, task, run.width), task, run)
    ensemble = Ensemble(training, [(0, 1e-2)], devices=jax.devices()[:1])
    return train(ensemble, task, run, progress=lambda *_: None)[0]

  attention, convolution = train_layer(Attention(2)), train_layer(Convolution(1))
  assert (attention.status, convolution.status) == ('solved', 'finished')
  assert attention.test > 0.97 and attention.curve[-1][1] < 0.3 * attention.curve[0][1]
  assert abs(convolution.test - task.chance_level) < 0.1


def test_label_smoothing_mixes_the_target_with_a_uniform_distribution():
  task = Recall(length=16, num_pairs=2, vocabulary_size=16)
  batch = task.batch('test', 0, 2)
  outputs = np.random.default_rng(0).normal(size=(*batch.target.shape, 16)).astype(np.float32)
  log_p = np.log(np.exp(outputs) / np.exp(outputs).sum(-1, keepdims=True))
  target = 0.3 / 16 + 0.7 * np.eye(16)[np.asarray(batch.target)]
  np.testing.assert_allclose(task.loss(outputs, batch, 0.3), -(target * log_p).sum(-1), atol=1e-5)
  recipe = dataclasses.replace(SMALL, label_smoothing=0.3)
  training = Training(table_model(16), task, recipe)
  state = jax.jit(training.initialise)(0, 0.1)
  smooth = jnp.sum(batch.weight * task.loss(training.model.apply(state.parameters, batch.source)[0],
                                            batch, 0.3)) / batch.weight.sum()
  np.testing.assert_allclose(jax.jit(training.train_step)(state, batch)[1], smooth, rtol=1e-5)
  plain = evaluate_member(training, state, True).loss  # the test loss is never smoothed
  unsmoothed = Training(table_model(16), task, SMALL)
  np.testing.assert_allclose(evaluate_member(unsmoothed, state, True).loss, plain, rtol=1e-6)


def table_model(size):
  """A model whose outputs for a token are a row of a table."""
  class Table(SplitModel):
    @nn.compact
    def features(self, source, state=None, *, mask=None, train=False):
      return nn.Embed(size, size, name='table')(source), ()

  return Table()


@pytest.mark.slow
def test_the_test_uses_the_mean_of_the_parameters_at_the_last_validations():
  last = []
  for average in (0, 2):
    training = training_of(average=average)
    state, history = jax.jit(training.initialise)(1, 0.1), []
    for _ in range(SMALL.validations):
      state, _ = advance_one_call(training, state)
      history.append(state.parameters)
    last.append(history[-1])
    mean = jax.tree.map(lambda *p: np.mean(p, 0), *history[-average or -1:])
    assert_trees_close(training.parameters_for_test(state), jax.tree.leaves(mean), 1e-6)
    averaged = evaluate_member(training, state._replace(parameters=mean), False)
    tested, validated = (evaluate_member(training, state, test) for test in (True, False))
    other = evaluate_member(training_of(), state._replace(parameters=mean, average=()), True)
    np.testing.assert_allclose(tested.loss, other.loss, rtol=1e-5)
    if average:
      assert abs(averaged.loss - validated.loss) > 1e-6  # validation uses the last parameters
  jax.tree.map(np.testing.assert_array_equal, *last[:2])  # averaging does not change training
  training = training_of(average=1)
  early, _ = advance_one_call(training, training.initialise(1, 0.1))
  assert_trees_close(training.parameters_for_test(early), jax.tree.leaves(early.parameters), 0)
