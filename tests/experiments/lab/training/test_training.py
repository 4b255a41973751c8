"""Training: the optimiser's equations, ensembles = members alone, how members end."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from baselines.convolution import Convolution
from experiments.lab.cells.models import model_of
from experiments.lab.cells.run import Run
from experiments.lab.tasks.adding import Adding
from experiments.lab.tasks.recall import Recall
from experiments.lab.tasks.task import SPLITS, Batch
from experiments.lab.training.ensemble import Ensemble
from experiments.lab.training.loop import reaches, train
from experiments.lab.training.optimizer import schedule
from experiments.lab.training.recipe import PARALLEL, Recipe
from experiments.lab.training.step import Training
from transformer.attention import Attention

ASKED = []  # the (split, index) of batches that a compiled program has made
SMALL = Recipe(steps=6, batch_size=8, validations=3, validation_batches=2, test_batches=3)
MEMBERS = [(0, 0.03), (3, 0.1), (0, 0.1), (1, 0.05), (2, 0.2)]


@dataclasses.dataclass(frozen=True)
class Line(Adding):
  """A weighted sum of two channels at every token; rows differ in how many tokens count."""

  length: int = 4
  solved: float | None = None
  watched: bool = False

  def batch(self, split, index, batch_size):
    if self.watched:
      jax.debug.callback(lambda index: ASKED.append((split, int(index))), index)
    source = jax.random.normal(self.key(split, index), (batch_size, self.length, 2))
    target = source[..., :1] - 2 * source[..., 1:] + 0.5
    count = jnp.arange(batch_size)[:, None] % (self.length + 1)
    return Batch(source, target, 1.0 * (jnp.arange(self.length)[None] < count))

  def measure(self, outputs, batch):  # as finite as an accuracy, whatever the outputs
    error = self.loss(outputs, batch)
    return jnp.sum(batch.weight * jnp.where(error < 100, error, 100)), jnp.sum(batch.weight)


class Linear(nn.Module):
  """A model with one matrix and one bias."""

  dropout: float = 0.0

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):
    return nn.Dense(1)(nn.Dropout(self.dropout, deterministic=not train)(x)), ()


def training_of(task=None, dropout=0.0, **changed):
  return Training(Linear(dropout), task or Line(), dataclasses.replace(SMALL, **changed))


def ensemble_of(members=MEMBERS, devices=2, parallel='jit', **changed):
  return Ensemble(training_of(**changed), members, parallel, jax.devices()[:devices])


def finish(members, devices=2, timeout=math.inf, **changed):
  """What becomes of members that are trained to their end."""
  training = training_of(**changed)
  ensemble = Ensemble(training, members, devices=jax.devices()[:devices])
  return train(ensemble, training.task, training.recipe, timeout, progress=lambda *_: None)


def trained(ensemble, calls=3):
  """All members after some calls: states, reports on the test split, losses of the calls."""
  active, losses = np.ones(len(ensemble.members), bool), [0] * calls
  steps, states = ensemble.training.recipe.steps_per_call, ensemble.initialise()
  for call in range(calls):
    states, losses[call], _ = ensemble.advance(states, active, steps)
  return *ensemble.gather((states, ensemble.examine(states, 'test', active))), losses


def advanced(training, state):
  """A member after the steps of one call, and the sum of their losses."""
  return jax.jit(training.advance)(state, 0.0, training.recipe.steps_per_call)


def examined(training, state, test):
  """What a member scores on a split."""
  recipe, none = training.recipe, ((0.0, 0.0), (0.0, 0.0))
  count = recipe.test_batches if test else recipe.validation_batches
  return training.examination(jax.jit(training.examine)(state, none, test, 0, count))


def close(actual, expected, tolerance=1e-6):
  for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('name', ['cosine', 'inverse_sqrt', 'constant'])
def test_a_schedule_rises_to_its_peak_and_then_keeps_to_its_formula(name):
  rate = jax.vmap(schedule(Recipe(steps=50, warmup=0.2, schedule=name)))(np.arange(51))
  np.testing.assert_allclose(rate[:10], np.arange(1, 11) / 10, atol=1e-6)
  assert rate.max() == rate[9] == 1
  n = np.arange(10, 51)
  expected = {
    'constant': np.ones(41),
    'cosine': (1 + np.cos(np.pi * (n - 10) / 40)) / 2,  # 0 when the steps are done
    # Vaswani's equation 3, which counts steps from 1, but for a constant.
    'inverse_sqrt': np.minimum((n + 1) ** -0.5, (n + 1) * 10**-1.5) * 10**0.5,
  }[name]
  np.testing.assert_allclose(rate[10:], expected, atol=1e-6)


def reference_step(p, moments, x, y, weight, step, recipe, peak):
  """Adam with decoupled decay in float64, for parameters p = (bias [1], kernel [2, 1])."""
  error = 2 * (x @ p[1] + p[0] - y)[..., 0] * weight / weight.sum()
  gradient = [np.sum(error)[None], np.einsum('BTC,BT->C', x, error)[:, None]]
  norm = np.sqrt(sum(np.sum(g**2) for g in gradient))
  shrink = min(1, recipe.clip / norm) if recipe.clip else 1
  after, t = [], step + 1  # the paper's t
  rate = peak * min(t / round(recipe.warmup * recipe.steps), 1)
  for i, g in enumerate(shrink * g for g in gradient):
    one, two = recipe.beta1, recipe.beta2
    m, v = moments[i] = (
      one * moments[i][0] + (1 - one) * g, two * moments[i][1] + (1 - two) * g**2
    )
    update = (m / (1 - one**t)) / (np.sqrt(v / (1 - two**t)) + recipe.epsilon)
    if recipe.optimizer == 'adamw' and i == 1:  # the kernel
      update = update + recipe.weight_decay * p[i]
    after.append(p[i] - rate * update)
  return after


@pytest.mark.parametrize(
  ('optimizer', 'settings'),
  [
    ('adam', {'clip': 0.0}),
    ('adam', {'clip': 0.0, 'beta1': 0.7, 'beta2': 0.98, 'epsilon': 1e-2}),
    ('adamw', {'clip': 0.0}),
    ('adamw', {'clip': 0.5}),
  ],
)
def test_a_training_step_is_adam_by_its_equations_and_decays_the_matrix_alone(optimizer, settings):
  recipe = Recipe(10, 8, optimizer, 'constant', warmup=0.2, weight_decay=0.3, **settings)
  training = Training(Linear(), Line(), recipe)
  state, step = jax.jit(training.initialise)(1, 0.1), jax.jit(training.train_step)
  p = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(state.parameters)]
  moments = [(0, 0), (0, 0)]
  for index in range(4):
    batch = training.task.batch('train', index, 8)
    x, y, weight = (np.asarray(a, np.float64) for a in batch)
    error = np.sum(weight * (x @ p[1] + p[0] - y)[..., 0] ** 2) / weight.sum()
    p = reference_step(p, moments, x, y, weight, index, recipe, 0.1)
    state, loss = step(state, batch)
    np.testing.assert_allclose(loss, error, rtol=1e-5)
  close(state.parameters, p, 1e-5)


@functools.cache
def alone():
  """What `trained` returns, from each member by itself, one step a call."""
  training, found = training_of(dropout=0.3), []
  step = jax.jit(lambda s, i: training.train_step(s, training.task.batch('train', i, 8)))
  for seed, rate in MEMBERS:
    state, losses = jax.jit(training.initialise)(seed, rate), [0] * 6
    for i in range(6):
      state, losses[i] = step(state, 6 * seed + i)
    found.append((state, examined(training, state, True), list(np.reshape(losses, (3, 2)).mean(1))))
  return jax.tree.map(lambda *leaves: np.stack(leaves), *found)


@pytest.mark.parametrize('devices', [2, pytest.param(1, marks=pytest.mark.slow),
                                     pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize('parallel', PARALLEL)
def test_members_of_an_ensemble_are_the_members_alone_in_their_order(parallel, devices):
  close(trained(ensemble_of(MEMBERS, devices, parallel, dropout=0.3)), alone())


@pytest.mark.slow
def test_a_single_member_whose_batches_four_devices_share_is_the_member_on_one():
  """The devices' parts count 1, 5, 4 and 3 tokens, so that a mean of their means is wrong."""
  member = [(1, 0.1)]
  on_one = trained(ensemble_of(member, 1))
  for parallel in PARALLEL:
    ensemble = ensemble_of(member, 4, parallel)
    assert len(ensemble.devices) == 4
    close(trained(ensemble), on_one, 1e-5)
    states, *_ = ensemble.advance(ensemble.initialise(), [True], 2)
    for leaf in jax.tree.leaves(states):  # the devices keep the same copy
      np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
  assert len(ensemble_of(member, 3).devices) == 1  # a batch of 8 has no three equal parts


@pytest.mark.parametrize(('steps', 'validations'), [(10, 4), (3, 5), (7, 1)])
def test_the_steps_of_all_calls_add_up_exactly_and_only_they_train(steps, validations):
  ASKED.clear()
  changed = {'steps': steps, 'validations': validations, 'stop_when_solved': False}
  (member,) = finish([(1, 0.1)], 1, task=Line(solved=math.inf, watched=True), **changed)
  jax.effects_barrier()
  read, looked, tested = ([i for of, i in ASKED if of == split] for split in SPLITS)
  assert sorted(read) == [0, *range(steps, 2 * steps)]  # 0 for the shapes of the parameters
  assert sorted(looked) == sorted([0, 1] * len(member.curve)) and sorted(tested) == [0, 1, 2]
  assert (member.status, member.steps) == ('finished', steps)
  each = math.ceil(steps / validations)
  assert [step for step, _, _ in member.curve] == [*range(each, steps, each), steps]


def asked(program, *arguments):
  """The batches that a compiled program asks for."""
  jax.effects_barrier()  # what was called before has asked
  ASKED.clear()
  jax.block_until_ready(program(*arguments))
  jax.effects_barrier()
  return set(ASKED)


def test_seeds_share_neither_start_nor_batches_and_rates_share_both():
  training = training_of(Line(watched=True), validations=1)
  states = [jax.jit(training.initialise)(*member) for member in [(0, 0.1), (1, 0.1), (1, 0.2)]]
  start, other, equal = (str(state.parameters) for state in states)
  assert start != other == equal
  first, second, same = (asked(advanced, training, state) for state in states)
  assert second == same and not first & second
  assert {split for split, _ in first | second} == {'train'}
  assert len(first) == len(second) == SMALL.steps


@pytest.mark.parametrize('parallel', PARALLEL)
def test_nothing_is_compiled_after_the_first_call(parallel, caplog):
  ensemble, counts, everyone = ensemble_of(parallel=parallel), [], [True] * len(MEMBERS)
  states = ensemble.initialise()
  for call in range(3):
    caplog.clear()
    with jax.log_compiles():
      states, *_ = ensemble.advance(states, np.arange(len(MEMBERS)) != call, 2 + call)
      ensemble.gather(ensemble.examine(states, 'validation', everyone))
    counts.append(sum('ompil' in record.getMessage() for record in caplog.records))
  assert counts[0] > 0 and counts[1:] == [0, 0]


def test_who_is_not_active_does_not_move_and_old_states_are_given_up():
  ensemble, active = ensemble_of(), np.array([True, False, True, False, False])
  states = ensemble.initialise()
  before = ensemble.gather(states)
  new, losses, _ = ensemble.advance(states, active, 2)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(states))
  after = ensemble.gather(new)
  for b, a in zip(*map(jax.tree.leaves, (before.parameters, after.parameters)), strict=True):
    np.testing.assert_array_equal((a != b).reshape(len(a), -1).any(1), active)
  np.testing.assert_array_equal(losses != 0, active)
  np.testing.assert_array_equal(after.step, 2 * active)


def test_a_member_that_diverges_ends_alone():
  first, diverged, last = finish([(0, 0.1), (1, 1e25), (2, 0.1)])
  assert [m.status for m in (first, diverged, last)] == ['finished', 'diverged', 'finished']
  assert diverged.steps < SMALL.steps and math.isnan(diverged.test)
  assert [first, last] == finish([(0, 0.1), (2, 0.1)])


def test_a_model_that_its_last_step_breaks_has_diverged():
  """Its losses in training are numbers, and so is its metric; the loss afterwards is none."""
  (member,) = finish([(0, 1e38)], devices=1, steps=1, validations=1, warmup=0.0)
  assert (member.status, math.isnan(member.test)) == ('diverged', True)
  assert all(map(math.isfinite, member.curve[0])) and not math.isfinite(member.validation_loss)


@dataclasses.dataclass(frozen=True)
class HugeTest(Line):  # what overflows on the test split alone
  def batch(self, split, index, batch_size):
    batch = super().batch(split, index, batch_size)
    return batch._replace(source=batch.source * (1e30 if split == 'test' else 1.0))


def test_where_the_loss_is_no_number_there_is_no_score():
  (member,) = finish([(0, 0.1)], devices=1, task=HugeTest())
  assert (member.status, math.isnan(member.test)) == ('diverged', True)
  here, there = (ensemble_of([(0, 0.1)], 1, task=task) for task in (Line(), HugeTest()))
  (member,) = train(here, Line(), SMALL, progress=lambda *_: None, extrapolation=[there])
  assert math.isfinite(member.test) and math.isnan(member.extrapolation[0])


def test_a_member_that_has_solved_its_task_stops_there():
  """Its score is that of the parameters after the steps that it made."""
  members = [(0, 0.3), (0, 1e-4)]
  changed = {'task': Line(solved=0.5), 'steps': 60, 'validations': 10, 'schedule': 'constant'}
  quick, slow = finish(members, **changed)
  assert (quick.status, slow.status) == ('solved', 'finished')
  assert quick.steps == quick.curve[-1][0] < slow.steps == 60
  assert quick.curve[-1][2] <= 0.5 < quick.curve[-2][2]
  _, report, _ = trained(ensemble_of(members, **changed), quick.steps // 6)
  np.testing.assert_allclose(quick.test, report.metric[0], rtol=1e-5)


def test_solved_is_on_the_metrics_own_side():
  low, high = Line(solved=0.1), Recall()
  assert [reaches(low, m) for m in (0.05, 0.1, 0.2, math.nan)] == [True, True, False, False]
  assert [reaches(high, m) for m in (1.0, 0.99, 0.98, math.nan)] == [True, True, False, False]
  assert not reaches(Line(), 0.0)


def test_a_timeout_keeps_the_scores_so_far():
  late, other = finish([(0, 0.1), (1, 0.1)], timeout=0)
  assert late.status == other.status == 'timeout'
  assert late.steps == 1 < SMALL.steps_per_call  # it need not wait for the look at validation
  assert late.curve[0][0] == 1 and late.validation < 100 and late.test < 100


@pytest.mark.slow
def test_attention_learns_to_recall_and_what_sees_one_token_does_not():
  task = Recall(length=12, num_pairs=3, vocabulary_size=10)
  run = Run(width=16, steps=300, batch_size=32, validations=15)

  def learned(layer):
    training = Training(model_of(run, layer, task, run.width), task, run)
    ensemble = Ensemble(training, [(0, 1e-2)], devices=jax.devices()[:1])
    return train(ensemble, task, run, progress=lambda *_: None)[0]

  solver, guesser = learned(Attention(2)), learned(Convolution(1))
  assert (solver.status, guesser.status) == ('solved', 'finished')
  assert solver.test > 0.97 and solver.curve[-1][1] < 0.3 * solver.curve[0][1]
  assert abs(guesser.test - task.chance) < 0.1


def test_smoothed_labels_are_a_mixture_with_all_tokens_alike():
  task = Recall(length=16, num_pairs=2, vocabulary_size=16)
  batch = task.batch('test', 0, 2)
  outputs = np.random.default_rng(0).normal(size=(*batch.target.shape, 16)).astype(np.float32)
  log_p = np.log(np.exp(outputs) / np.exp(outputs).sum(-1, keepdims=True))
  wanted = 0.3 / 16 + 0.7 * np.eye(16)[np.asarray(batch.target)]
  np.testing.assert_allclose(task.loss(outputs, batch, 0.3), -(wanted * log_p).sum(-1), atol=1e-5)
  recipe = dataclasses.replace(SMALL, label_smoothing=0.3)
  training = Training(nn_head(16), task, recipe)
  state = jax.jit(training.initialise)(0, 0.1)
  smooth = jnp.sum(batch.weight * task.loss(training.model.apply(state.parameters, batch.source)[0],
                                            batch, 0.3)) / batch.weight.sum()
  np.testing.assert_allclose(jax.jit(training.train_step)(state, batch)[1], smooth, rtol=1e-5)
  plain = examined(training, state, True).loss  # a test is never smoothed
  unsmoothed = Training(nn_head(16), task, SMALL)
  np.testing.assert_allclose(examined(unsmoothed, state, True).loss, plain, rtol=1e-6)


def nn_head(size):
  """A model that answers each token by a row of a table."""
  class Table(nn.Module):
    @nn.compact
    def __call__(self, source, state=None, *, mask=None, train=False):
      return nn.Embed(size, size, name='table')(source), ()

  return Table()


@pytest.mark.slow
def test_the_average_is_the_mean_of_the_last_looks_and_is_what_is_tested():
  last = []
  for average in (0, 2):
    training = training_of(average=average)
    state, seen = jax.jit(training.initialise)(1, 0.1), []
    for _ in range(SMALL.validations):
      state, _ = advanced(training, state)
      seen.append(state.parameters)
    last.append(seen[-1])
    mean = jax.tree.map(lambda *p: np.mean(p, 0), *seen[-average or -1:])
    close(training.tested(state), jax.tree.leaves(mean), 1e-6)
    averaged = examined(training, state._replace(parameters=mean), False)
    tested, validated = (examined(training, state, test) for test in (True, False))
    other = examined(training_of(), state._replace(parameters=mean, average=()), True)
    np.testing.assert_allclose(tested.loss, other.loss, rtol=1e-5)
    if average:
      assert abs(averaged.loss - validated.loss) > 1e-6  # which is of the last parameters
  jax.tree.map(np.testing.assert_array_equal, *last[:2])  # averaging changes no training
  early, _ = advanced(training_of(average=1), training_of(average=1).initialise(1, 0.1))
  close(training_of(average=1).tested(early), jax.tree.leaves(early.parameters), 0)
