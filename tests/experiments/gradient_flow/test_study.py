"""Gradients by distance: flows that are known exactly, the fits and their verdicts, the study."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.convolution import Convolution
from baselines.recurrent import LSTM, Elman
from experiments.gradient_flow import decay, flow
from experiments.gradient_flow import study as gradient_flow
from experiments.gradient_flow.decay import Curves
from experiments.lab.cells.experiment import resolve
from experiments.lab.cells.models import entering
from experiments.lab.cells.run import Run
from experiments.lab.results.statistics import Interval
from experiments.lab.results.store import Store
from tests.support import command, records
from transformer.attention import Attention
from transformer.block import Block
from transformer.positions import Positions

LENGTH, WIDTH = 12, 4
DISTANCES = [0, 1, 2, 3, 4, 6, 8, 11]


def followed(layer, changes=lambda parameters: parameters, x=None):
  """Norms and stretches of a layer whose parameters a test has changed."""
  x = jax.random.normal(jax.random.key(1), (2, LENGTH, WIDTH)) if x is None else x

  @jax.jit
  def norms(x):
    return flow.norms(layer, changes(layer.init(jax.random.key(0), x)['params']), x)

  return {name: np.asarray(value, np.float64) for name, value in norms(x).items()}


@given(st.integers(2, 3000))
def test_distances_double_in_two_steps_and_reach_the_first_token(length):
  found = flow.distances(length)
  assert found == sorted(set(found)) and found[0] == 0 and found[-1] == length - 1
  assert set(found[:-1]) == {k for k in (0, *(f * 2**i for f in (1, 3) for i in range(12)))
                             if k < length - 1}


def test_the_identity_has_norm_one_where_it_looks_and_none_elsewhere():
  def identity(parameters):
    return {'kernel': jnp.eye(WIDTH)[None], 'bias': parameters['bias']}

  for found in followed(Convolution(kernel_size=1), identity).values():
    np.testing.assert_allclose(found, np.eye(len(DISTANCES))[0], atol=1e-6)


def test_orthogonal_weights_carry_a_gradient_as_it_is_where_the_network_is_linear():
  nothing = jnp.zeros((2, LENGTH, WIDTH))  # tanh has slope 1 there
  found = followed(Elman(), x=nothing)['norms']
  np.testing.assert_allclose(found, found[0], rtol=1e-5)
  weaker = followed(Elman(recurrent_gain=0.5), x=nothing)['norms']
  np.testing.assert_allclose(weaker, found[0] * 0.5 ** np.array(DISTANCES), rtol=1e-5)
  identities = followed(Elman(), lambda own: {
    'input': {'kernel': jnp.eye(WIDTH), 'bias': jnp.zeros(WIDTH)},
    'recurrent_kernel': jnp.eye(WIDTH),
  }, nothing)
  for norms in identities.values():
    np.testing.assert_allclose(norms, 1, rtol=1e-5)


@pytest.mark.parametrize('bias', [0.0, 1.0, 3.0])
def test_the_sum_of_an_lstm_decays_by_sigmoid_of_its_forget_bias(bias):
  def unconnected(parameters):  # U = 0, and a forget gate that does not look at the input
    own = parameters['input']
    forget = own['kernel'].at[:, WIDTH : 2 * WIDTH].set(0)
    return {'input': own | {'kernel': forget}, 'recurrent_kernel': jnp.zeros((WIDTH, 4 * WIDTH))}

  same = jnp.broadcast_to(jax.random.normal(jax.random.key(1), (2, 1, WIDTH)), (2, LENGTH, WIDTH))
  found = followed(LSTM(forget_bias=bias), unconnected, same)['norms'][1:]
  kept = 1 / (1 + math.exp(-bias))
  np.testing.assert_allclose(found / found[0], kept ** (np.array(DISTANCES[1:]) - 1), rtol=1e-4)
  slope = decay.fit(Curves(np.array(DISTANCES[1:]), found[None]), 'exponential').slopes
  np.testing.assert_allclose(slope, math.log(kept), rtol=1e-3)


def test_attention_that_has_no_preference_sends_the_same_gradient_to_every_token():
  def alike(parameters):  # queries and keys of zero: all scores are equal
    kernel = parameters['projection']['kernel']
    values = kernel.at[:, : 2 * 2].set(0)
    return parameters | {'projection': {'kernel': values}}

  layer = Attention(num_heads=2, positions=Positions(parent=None))
  found = followed(layer, alike)['norms']
  np.testing.assert_allclose(found, found[0], rtol=1e-5)


def test_a_convolution_has_no_gradient_beyond_its_field_and_a_residual_adds_the_identity():
  layer = Convolution(kernel_size=3, dilation=2)  # it sees 5 tokens, every other one
  found = followed(layer)['norms']
  assert [k for k, norm in zip(DISTANCES, found, strict=True) if norm] == [0, 2, 4]
  inside = followed(Block(layer, norm='none'), lambda own: {
    'layer': jax.tree.map(jnp.zeros_like, own['layer'])})['norms']
  np.testing.assert_allclose(inside, np.eye(len(DISTANCES))[0], atol=1e-6)


@pytest.mark.parametrize('layer', ['attention(num_heads=2, positions=sinusoidal)', 'gru'])
def test_what_enters_the_blocks_is_what_the_model_gives_them(layer):
  run = Run(layer=layer, task='adding(length=6)', width=8, depth=1, match='none')
  one = resolve(run)
  task, model = one.task, one.model

  @jax.jit
  def answers():
    source = task.batch('test', 0, 3).source
    whole = model.init(jax.random.key(0), source)
    own = whole['params']
    x, _ = model.stack.apply({'params': own['stack']}, entering(model, own, source))
    x = model.normalization.apply({'params': own['last_norm']}, x)
    return model.head.apply({'params': own['head']}, x), model.apply(whole, source)[0]

  np.testing.assert_allclose(*answers(), atol=1e-6)


K = np.array(flow.distances(128))
SEEDS = np.array([[0.97], [1.0], [1.02]])


@settings(deadline=None, max_examples=40)
@given(st.floats(1, 500), st.floats(1e-6, 1e6), st.booleans())
def test_a_known_decay_is_found_again(tau, start, noisy):
  noise = 0.01 * np.sin(np.arange(3 * len(K))).reshape(3, -1) * noisy
  curves = Curves(K, start * np.exp(-K / tau * SEEDS + noise))
  found = decay.decay(curves)
  assert found.better == 'exponential'
  np.testing.assert_allclose(-1 / found.fits['exponential'].slopes[1], tau, rtol=0.05 + tau / 2000)
  if tau * math.log(2) > curves.fitted.distances[-1]:
    assert found.half_life == f'none within {curves.fitted.distances[-1]}' or noisy
  elif tau * math.log(2) < 100:
    life = found.half_life
    assert life.low < life.mean < life.high and life.mean == pytest.approx(
      tau * math.log(2), rel=0.1)
    assert found.verdict == 'vanishing'


@given(st.floats(0.05, 3))
def test_a_power_of_the_distance_is_told_from_an_exponential(power):
  found = decay.decay(Curves(K, np.maximum(K, 1.0) ** (-power * SEEDS)))
  assert found.better == 'power'
  np.testing.assert_allclose(found.fits['power'].slopes, -power * SEEDS[:, 0], rtol=1e-6)
  lost = power * math.log(127)  # of the middle seed, in log norm
  assert found.verdict == ('vanishing' if lost > 0.8 else 'steady' if lost < 0.6 else found.verdict)


@pytest.mark.parametrize(('rates', 'verdict'), [
  ((-0.1, -0.2, -0.15), 'vanishing'),
  ((0.1, 0.2, 0.15), 'exploding'),
  ((0.001, -0.001, 0.0), 'steady'),
  ((-0.004, -0.0045, -0.005), 'unclear'),  # about half, and the interval has half in it
  ((0.1, -0.1, 0.05), 'unclear'),
  ((-0.1, -0.001, -0.05), 'unclear'),
  ((-0.1,), 'unclear'),  # one seed has no interval
  ((-0.1, math.nan, -0.1), 'not finite'),
])
def test_a_verdict_is_the_intervals(rates, verdict):
  curves = Curves(K, np.exp(np.outer(rates, K)))
  assert decay.decay(curves).verdict == verdict


def test_what_grows_to_less_than_the_identity_does_not_explode():
  grown = np.exp(np.outer((0.1, 0.2, 0.15), K - K[-1]))
  assert decay.decay(Curves(K, 0.5 * grown)).verdict == 'rising'
  assert decay.decay(Curves(K, 2.0 * grown)).verdict == 'exploding'


@pytest.mark.parametrize(('slope', 'half_life'), [
  ((-0.1, -0.2, -0.05), Interval(math.log(2) / 0.1, math.log(2) / 0.2, math.log(2) / 0.05, 3)),
  ((-0.1, -0.3, 0.1), '2.3 or more'),
  ((-0.001, -0.002, -0.0005), 'none within 100'),
  ((0.1, 0.05, 0.2), 'none within 100'),
])
def test_a_half_life_is_as_sure_as_its_rate(slope, half_life):
  found = decay.half_life(Interval(*slope, 3), 100)
  assert found == half_life if isinstance(half_life, str) else found == pytest.approx(half_life)


def test_what_is_zero_or_too_small_ends_a_curve_and_is_said():
  norms = np.where(K < 16, 0.5, 0.0) * np.ones((3, 1))
  cut = Curves(K, norms, 16)
  assert list(cut.fitted.distances) == [1, 2, 3, 4, 6, 8, 12]
  assert decay.decay(cut).verdict == 'nothing beyond 15'
  assert decay.decay(Curves(K, np.where(K < 2, norms, 0), 2)).fits is None
  assert decay.decay(Curves(K[:5], norms[:, :5], 16)).verdict == 'steady'  # not followed so far
  assert cut.at(127) == Interval.bare(-math.inf, 3) and cut.at(5) is None
  assert Curves(K, norms).at(127) == 'below -30'
  assert cut.at(8).mean == pytest.approx(math.log10(0.5))
  assert [k for k, _ in cut.points(1e-6)] == [1, 2, 3, 4, 6, 8, 12]
  assert decay.beyond(cut) == [0, 0, 0] and decay.beyond(Curves(K, norms)) == []
  assert decay.beyond(Curves(K, norms, 8)) == [0.5] * 3
  steep = Curves(K, np.exp(-np.outer((1.0, 1.1, 1.2), K)))
  assert steep.fitted.distances[-1] == 48 and steep.at(127) == 'below -30'
  assert decay.decay(steep).verdict == 'vanishing'
  falls = (24 + math.log10(norm) for norm in steep.norms[:, 1])
  assert decay.falls(Curves(K, np.maximum(steep.norms, 1e-24))) == pytest.approx(list(falls))


def start(layer, norms, field=None, **settings):
  """A finished cell at initialisation, of norms [seeds][N] by K."""
  run = Run(layer=layer, seeds=tuple(range(len(norms))), width=8, match='none', **settings)
  return {
    'study': 'gradient_flow', 'run': flow.asked(run, 128), 'status': 'finished', 'reason': '',
    'result': {'receptive_field': field, 'distances': K.tolist(), 'norms': norms,
               'stretches': norms},
    **records.WHERE,
  }


def test_the_norms_of_the_members_at_the_chosen_rate_are_read():
  record = records.trained('gru', 'adding', 128, (0.5, 0.6), study='gradient_flow')
  others = [dict(m, learning_rate=1.0) for m in record['result']['members']]
  first, second = record['result']['members']
  record['result']['members'] = [others[0], first, others[1], second]
  faster = [np.exp(-K * rate).tolist() for rate in (9, 0.1, 9, 0.2)]
  record['result']['watched'] = [
    {'step': step, 'distances': K.tolist(), 'norms': faster} for step in (0, 5, 10)]
  looks = decay.in_training(record)
  assert list(looks) == [0, 5, 10]
  for look in looks.values():
    np.testing.assert_allclose(decay.fit(look, 'exponential').slopes, [-0.1, -0.2])
  tables, panels = gradient_flow.report([record])
  assert len(tables) == 1 and tables[0].rows[0][1] == 'gru' and len(panels) == 2


def test_layers_stand_alone_once_and_shells_beside_each_other():
  flat = np.ones((2, len(K))).tolist()
  made = [start('elman', flat, block=block, depth=depth) for block in ('pre_norm', 'plain')
          for depth in (4, 1)]
  made.append(start('convolution', (np.ones((2, 1)) * (K < 4)).tolist(), 4, block='plain'))
  (alone, blocks, fits), panels = gradient_flow.report(made)
  assert [row[:3] for row in alone.rows] == [('elman', 'plain', 1), ('convolution', 'plain', 2)]
  assert [row[-1] for row in alone.rows] == ['steady', 'nothing beyond 3']
  assert [row[:3] for row in fits.rows] == [
    ('elman', '1 to 127', Interval(0, 0, 0, 2)), ('convolution', '1 to 3', Interval(0, 0, 0, 2))]
  assert len(blocks.rows) == 4 and {row[0] for row in blocks.rows} == {'elman'}
  assert len(panels) == 2 and set(panels[1].series) == {'pre_norm', 'plain'}


@pytest.mark.slow
def test_the_study_from_flags_to_tables_and_back_from_the_store(tmp_path):
  words = ('--preset=smoke', '--clip=0.5', f'--runs={tmp_path}', '--cache=')  # own values win
  done = command.run(gradient_flow, *words)
  assert done.code == 0, done.err
  kept = Store(tmp_path).records('gradient_flow')
  assert len(kept) == 4 and {record['status'] for record in kept} == {'finished'}
  (blind,) = [r for r in kept if r['run']['layer'] == gradient_flow.CONTROL]
  field = blind['result']['receptive_field']
  assert decay.beyond(decay.at_start(blind)) == [0, 0]
  assert np.all(decay.at_start(blind).norms[:, :field] > 0)
  (trained,) = [r for r in kept if 'at' not in r['run']]
  looks = decay.in_training(trained)
  assert list(looks) == [0, 2, 4] and trained['run']['clip'] == 0.5
  assert np.any(looks[4].norms != looks[0].norms)
  again = command.run(gradient_flow, *words)
  assert again.out == done.out and len(Store(tmp_path).records()) == 4


@pytest.mark.parametrize(('words', 'said'), [
  (['--layers=elman(recurrent_init=uniform)'], "no recurrent_init 'uniform'"),
  (['--layers=attention', '--width=9'], 'multiples of'),
  (['--layers=attention(positions=learned(max_length=5))'], 'positions for 5'),
  (['--lengths=1'], 'at least 2'),
  (['--tasks=copy'], 'elman'),
])
def test_bad_input_is_said_in_one_line(words, said, tmp_path):
  done = command.run(gradient_flow, '--preset=smoke', f'--runs={tmp_path / "runs"}', *words)
  assert done.code == 2 and said in done.err and done.err.count('\n') == 1, done.err
  assert not (tmp_path / 'runs').exists()
