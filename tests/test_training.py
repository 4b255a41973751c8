"""Training: the optimiser's equations, ensembles = members alone, how members end."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from experiments.launch.build import layer_of, model_of, task_of
from experiments.launch.cell import choose
from experiments.launch.run import Run
from experiments.tasks.adding import Adding
from experiments.tasks.recall import Recall
from experiments.tasks.task import Batch
from experiments.training.ensemble import Ensemble
from experiments.training.loop import Member, reaches, train
from experiments.training.optimizer import schedule
from experiments.training.recipe import PARALLEL, Recipe
from experiments.training.step import Training

BATCH, LENGTH = 8, 4
ASKED = []  # the (split, index) of batches that a compiled program has made
SMALL = Recipe(
  steps=6, batch_size=BATCH, validations=3, validation_batches=2, test_batches=3, clip=0.5
)
MEMBERS = [(0, 0.03), (3, 0.1), (0, 0.1), (1, 0.05), (2, 0.2)]


@dataclasses.dataclass(frozen=True)
class Line(Adding):
  """A weighted sum of two channels at every token; rows differ in how many tokens count."""

  length: int = LENGTH
  solved: float | None = None
  watched: bool = False

  def batch(self, split, index, batch_size):
    if self.watched:
      jax.debug.callback(lambda index: ASKED.append((split, int(index))), index)
    source = jax.random.normal(self.key(split, index), (batch_size, self.length, 2))
    target = source[..., :1] - 2 * source[..., 1:] + 0.5
    count = jnp.arange(batch_size)[:, None] % (self.length + 1)
    return Batch(source, target, 1.0 * (jnp.arange(self.length)[None] < count))


class Linear(nn.Module):
  """A model with one matrix and one bias."""

  dropout: float = 0.0

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):
    return nn.Dense(1)(nn.Dropout(self.dropout, deterministic=not train)(x)), ()


def ensemble_of(members=MEMBERS, devices=2, task=Line(), parallel='jit', model=Linear(), **changed):  # noqa: B008
  training = Training(model, task, dataclasses.replace(SMALL, **changed))
  return Ensemble(training, members, parallel, jax.devices()[:devices])


def trained(ensemble, calls=3):
  """What all members have after some calls: states, losses of each call, the test split's report."""
  active, losses = np.ones(len(ensemble.members), bool), []
  states = ensemble.initialise()
  for _ in range(calls):
    states, loss = ensemble.advance(states, active)
    losses.append(ensemble.gather(loss))
  return ensemble.gather((states, ensemble.examine(states, 'test', active))), losses


def finish(ensemble, timeout=math.inf):
  task, recipe = ensemble.training.task, ensemble.training.recipe
  return train(ensemble, task, recipe, timeout, progress=lambda part, words: None)


def close(actual, expected, tolerance=1e-6):
  for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('name', ['cosine', 'inverse_sqrt', 'constant'])
def test_a_schedule_rises_to_its_peak_and_then_keeps_to_its_formula(name):
  recipe = Recipe(steps=50, warmup=0.2, schedule=name)
  rate = np.array(jax.vmap(schedule(recipe))(jnp.arange(51)))
  np.testing.assert_allclose(rate[:10], np.arange(1, 11) / 10, atol=1e-6)
  assert rate.max() == rate[9] == 1
  n = np.arange(10, 51)
  expected = {
    'constant': np.ones(41),
    'cosine': (1 + np.cos(np.pi * (n - 10) / 40)) / 2,  # 0 when the steps are done
    'inverse_sqrt': np.minimum((n + 1) ** -0.5, (n + 1) * 10**-1.5) * 10**0.5,  # Vaswani's, step n+1
  }[name]
  np.testing.assert_allclose(rate[10:], expected, atol=1e-6)


def reference_step(p, moments, x, y, weight, step, recipe, peak):
  """Adam with decoupled decay in float64, for parameters p = (kernel [2, 1], bias [1])."""
  error = (x @ p[0] + p[1] - y)[..., 0] * weight
  gradient = [2 * np.einsum('BTC,BT->C', x, error)[:, None], 2 * np.sum(error)[None]]
  gradient = [g / weight.sum() for g in gradient]
  norm = np.sqrt(sum(np.sum(g**2) for g in gradient))
  if recipe.clip and norm > recipe.clip:
    gradient = [g / norm * recipe.clip for g in gradient]
  after, t = [], step + 1
  warmup = max(1, round(recipe.warmup * recipe.steps))
  rate = peak * min(t / warmup, 1)
  for i, g in enumerate(gradient):
    m, v = moments[i]
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    moments[i] = m, v
    update = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    if recipe.optimizer == 'adamw' and p[i].ndim > 1:
      update = update + recipe.weight_decay * p[i]
    after.append(p[i] - rate * update)
  return after


@pytest.mark.parametrize(('optimizer', 'clip'), [('adam', 0.0), ('adamw', 0.0), ('adamw', 0.5)])
def test_a_training_step_is_adam_by_its_equations(optimizer, clip):
  recipe = Recipe(
    steps=10, warmup=0.2, schedule='constant', optimizer=optimizer, clip=clip, weight_decay=0.3
  )
  task = Line()
  training = Training(Linear(), task, recipe)
  state, step = jax.jit(training.initialise)(1, 0.1), jax.jit(training.train_step)
  dense = state.parameters['params']['Dense_0']
  p = [np.asarray(dense[name], np.float64) for name in ('kernel', 'bias')]
  moments = [(0, 0), (0, 0)]
  for index in range(4):
    batch = task.batch('train', index, BATCH)
    x, y, weight = (np.asarray(a, np.float64) for a in batch)
    error = np.sum(weight * (x @ p[0] + p[1] - y)[..., 0] ** 2) / weight.sum()
    p = reference_step(p, moments, x, y, weight, index, recipe, 0.1)
    state, loss = step(state, batch)
    np.testing.assert_allclose(loss, error, rtol=1e-5)
  dense = state.parameters['params']['Dense_0']
  close([dense['kernel'], dense['bias']], p, 1e-5)
  assert int(state.step) == 4


def test_weight_decay_shrinks_matrices_and_leaves_biases():
  training = Training(Linear(), Line(), Recipe(weight_decay=0.5, warmup=0, schedule='constant'))
  state = training.initialise(0, 0.1)
  ones = state._replace(parameters=jax.tree.map(jnp.ones_like, state.parameters))
  batch = training.task.batch('train', 0, 1)  # a batch in which nothing counts
  after, loss = training.train_step(ones, batch)
  dense = after.parameters['params']['Dense_0']
  assert loss == 0
  np.testing.assert_allclose(dense['kernel'], 1 - 0.1 * 0.5, atol=1e-6)
  np.testing.assert_array_equal(dense['bias'], 1)


@functools.cache
def alone():
  """States, losses and reports of each member, trained by itself with no ensemble."""
  training, out = ensemble_of(model=Linear(dropout=0.3)).training, []
  initialise, advance, examine = (
    jax.jit(f) for f in (
      training.initialise, training.advance, functools.partial(training.examine, split='test')
    )
  )
  for seed, rate in MEMBERS:
    state, losses = initialise(np.int32(seed), np.float32(rate)), []
    for _ in range(3):
      state, loss = advance(state)
      losses.append(loss)
    out.append((state, examine(state), losses))
  return out


@pytest.mark.parametrize(
  ('parallel', 'devices'), [('jit', 1), ('jit', 2), ('jit', 4), ('pmap', 2), ('pmap', 4)]
)
def test_members_of_an_ensemble_are_the_members_alone_in_their_order(parallel, devices):
  (states, report), losses = trained(
    ensemble_of(parallel=parallel, devices=devices, model=Linear(dropout=0.3))
  )
  for i, (state, own_report, own_losses) in enumerate(alone()):
    close(jax.tree.map(lambda x: x[i], (states, report)), (state, own_report))  # noqa: B023
    close([loss[i] for loss in losses], own_losses)
    assert (states.seed[i], states.learning_rate[i]) == (MEMBERS[i][0], np.float32(MEMBERS[i][1]))


@pytest.mark.parametrize('parallel', PARALLEL)
def test_a_single_member_whose_batches_four_devices_share_is_the_member_on_one(parallel):
  """The devices' parts count 1, 5, 4 and 3 tokens, so that a mean of their means is wrong."""
  ensemble = ensemble_of([(1, 0.1)], 4, parallel=parallel)
  assert len(ensemble.devices) == 4
  close(trained(ensemble), trained_on_one(), 1e-5)
  states = ensemble.initialise()
  states, _ = ensemble.advance(states, [True])
  for leaf in jax.tree.leaves(states):
    leaf = np.asarray(leaf)
    np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))


@functools.cache
def trained_on_one():
  return trained(ensemble_of([(1, 0.1)], 1))


def test_a_batch_that_devices_cannot_share_equally_stays_on_one():
  ensemble = ensemble_of([(1, 0.1)], 3)
  assert len(ensemble.devices) == 1


@pytest.mark.parametrize(('steps', 'validations'), [(10, 4), (7, 7), (3, 5), (10, 1)])
def test_the_steps_of_all_calls_add_up_exactly(steps, validations):
  ASKED.clear()
  ensemble = ensemble_of([(1, 0.1)], 1, Line(watched=True), steps=steps, validations=validations)
  (member,) = finish(ensemble)
  jax.effects_barrier()
  read = sorted(index for split, index in ASKED if split == 'train')
  assert read[:2] == [0, steps]  # 0 for the shapes of the parameters
  assert read[1:] == list(range(steps, 2 * steps))
  assert (member.status, member.steps) == ('finished', steps)
  looked = [step for step, _, _ in member.curve]
  each = math.ceil(steps / validations)
  assert looked == [*range(each, steps, each), steps]


def batches_read(seed, rate):
  """The training batches of one member, in turn, and what else it asks for."""
  ASKED.clear()
  training = Training(Linear(), Line(watched=True), SMALL)
  state = jax.jit(training.initialise)(seed, rate)
  jax.effects_barrier()
  ASKED.clear()
  advance = jax.jit(training.advance)
  for _ in range(SMALL.validations):
    state, _ = advance(state)
    jax.block_until_ready(state)
  jax.effects_barrier()
  trained_on = list(ASKED)
  ASKED.clear()
  for split in ('validation', 'test'):
    jax.jit(functools.partial(training.examine, split=split))(state)
  jax.effects_barrier()
  return trained_on, set(ASKED)


def test_seeds_share_no_batches_rates_share_all_and_no_split_is_trained_on():
  seen = {member: batches_read(*member) for member in [(0, 0.1), (1, 0.1), (1, 0.2)]}
  trained_on, looked_at = zip(*seen.values(), strict=True)
  assert trained_on[1] == trained_on[2]
  assert len(set(trained_on[0])) == SMALL.steps
  assert not set(trained_on[0]) & set(trained_on[1])
  assert {split for split, _ in itertools.chain(*trained_on)} == {'train'}
  expected = {('validation', i) for i in range(2)} | {('test', i) for i in range(3)}
  assert looked_at == (expected,) * 3


@pytest.mark.parametrize('parallel', PARALLEL)
def test_nothing_is_compiled_after_the_first_call(parallel, caplog):
  ensemble = ensemble_of(parallel=parallel)
  states, counts = ensemble.initialise(), []
  for call in range(3):
    caplog.clear()
    with jax.log_compiles():
      states, losses = ensemble.advance(states, np.arange(len(MEMBERS)) != call)
      ensemble.gather((losses, ensemble.examine(states, 'validation', [True] * len(MEMBERS))))
    counts.append(sum('ompil' in record.getMessage() for record in caplog.records))
  assert counts[0] > 0
  assert counts[1:] == [0, 0]


def test_old_states_are_given_up_for_the_new():
  ensemble = ensemble_of()
  states = ensemble.initialise()
  ensemble.advance(states, [True] * len(MEMBERS))
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(states))


def test_who_is_not_active_does_not_move():
  ensemble, active = ensemble_of(), np.array([True, False, True, False, False])
  states = ensemble.initialise()
  before = ensemble.gather(states)
  states, losses = ensemble.advance(states, active)
  after, losses = ensemble.gather((states, losses))
  moved = np.any(before.parameters['params']['Dense_0']['kernel'] != after.parameters['params']['Dense_0']['kernel'], (1, 2))
  np.testing.assert_array_equal(moved, active)
  np.testing.assert_array_equal(losses != 0, active)
  np.testing.assert_array_equal(after.step, 2 * active)


def test_a_member_that_diverges_ends_alone():
  members = finish(ensemble_of([(0, 0.1), (1, 1e30), (2, 0.1)]))
  others = finish(ensemble_of([(0, 0.1), (2, 0.1)]))
  assert [m.status for m in members] == ['finished', 'diverged', 'finished']
  assert members[1].steps < SMALL.steps
  assert math.isnan(members[1].test)
  assert [members[0], members[2]] == others


def test_a_member_that_has_solved_its_task_stops_there():
  """Its curve is the one without stopping, cut off; its score is that of the steps it made."""
  members, changed = [(0, 0.3), (0, 1e-4)], {'steps': 60, 'validations': 10, 'schedule': 'constant'}
  quick, slow = finish(ensemble_of(members, task=Line(solved=0.5), **changed))
  assert (quick.status, slow.status) == ('solved', 'finished')
  assert quick.steps == quick.curve[-1][0] < slow.steps == 60
  assert quick.curve[-1][2] <= 0.5 < quick.curve[-2][2]

  states, losses = trained(ensemble_of(members, **changed), quick.steps // 6)
  np.testing.assert_allclose(quick.test, states[1].metric[0], rtol=1e-5)
  on, _ = finish(ensemble_of(members, task=Line(solved=0.5), stop_when_solved=False, **changed))
  assert (on.status, on.steps) == ('finished', 60)
  np.testing.assert_allclose(np.array(on.curve)[: len(quick.curve)], quick.curve, rtol=1e-5)


def test_solved_is_on_the_metrics_own_side():
  low, high = Line(solved=0.1), Recall()
  assert [reaches(low, m) for m in (0.05, 0.1, 0.2, math.nan)] == [True, True, False, False]
  assert [reaches(high, m) for m in (1.0, 0.99, 0.98, math.nan)] == [True, True, False, False]
  assert not reaches(Line(), 0.0)


def test_a_timeout_keeps_the_scores_so_far():
  members = finish(ensemble_of([(0, 0.1), (1, 1e30)]), timeout=0)
  assert members[0].status == 'timeout'
  assert members[0].steps == SMALL.steps_per_call < SMALL.steps
  assert math.isfinite(members[0].test) and math.isfinite(members[0].validation)


@pytest.mark.parametrize(
  ('layer', 'solves'), [('attention(num_heads=2)', True), ('convolution(kernel_size=1)', False)]
)
def test_attention_learns_to_recall_and_what_sees_one_token_does_not(layer, solves):
  run = Run(
    layer=layer, task='recall(length=12, num_pairs=3, vocabulary_size=10)', width=16, match='none',
    steps=400, batch_size=32, validations=20, validation_batches=2, test_batches=4,
    learning_rates=(1e-2,),
  )
  task = task_of(run)
  model = model_of(run, layer_of(run), task, run.width)
  ensemble = Ensemble(Training(model, task, run), [(0, 1e-2)], devices=jax.devices()[:1])
  (member,) = train(ensemble, task, run, progress=lambda part, words: None)
  if solves:
    assert member.status == 'solved'
    assert member.test > 0.97
    assert member.curve[-1][1] < 0.3 * member.curve[0][1]
  else:
    assert member.status == 'finished'
    assert abs(member.test - task.chance) < 0.1


def test_the_rate_is_chosen_by_mean_validation_and_never_by_test():
  def members(**validation):
    return [
      Member(seed, {'low': 0.1, 'mid': 0.2, 'high': 0.3}[name], validation=v, test=1 - v)
      for name, values in validation.items() for seed, v in enumerate(values)
    ]

  high, low = Recall(), Line()
  assert choose(high, members(low=[0.5, 0.5], mid=[0.9, 0.3], high=[0.99, 0.0])) == 0.2
  assert choose(low, members(low=[0.5, 0.5], mid=[0.9, 0.3], high=[0.9, 0.0])) == 0.3
  for bad in (math.nan, math.inf, -math.inf):
    assert choose(high, members(mid=[1.0, bad], low=[0.1, 0.1])) == 0.1
    assert choose(low, members(mid=[0.0, bad], low=[0.1, 0.1])) == 0.1
  assert choose(high, members(high=[0.7], low=[0.7])) == 0.1  # of equals, the lower
  assert choose(high, members(high=[math.nan], low=[math.nan])) == 0.1
