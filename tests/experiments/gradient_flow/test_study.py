"""Tests of gradient norms against closed forms, of the fits and verdicts, and of the study."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.convolution import Convolution
from baselines.recurrent import LSTM, Elman
from experiments.gradient_flow import decay, gradient_norms
from experiments.gradient_flow import study as gradient_flow
from experiments.gradient_flow.decay import NormCurves
from experiments.lab.cells.experiment import create_experiment
from experiments.lab.cells.models import first_block_input
from experiments.lab.cells.run import Run
from experiments.lab.results.statistics import Interval
from experiments.lab.results.store import Store
from tests.support import command, records
from transformer.attention import Attention
from transformer.block import Block
from transformer.positions import Positions

LENGTH, WIDTH = 12, 4
DISTANCES = [0, 1, 2, 3, 4, 6, 8, 11]


def layer_norms(layer, change_parameters=lambda parameters: parameters, x=None):
  """Both norms of a layer's gradient by distance, with changed initial parameters."""
  x = jax.random.normal(jax.random.key(1), (2, LENGTH, WIDTH)) if x is None else x

  @jax.jit
  def compute_norms(x):
    parameters = change_parameters(layer.init(jax.random.key(0), x)['params'])
    return gradient_norms.gradient_norms_by_distance(layer, parameters, x)

  return {name: np.asarray(value, np.float64) for name, value in compute_norms(x).items()}


@given(st.integers(2, 3000))
def test_distances_are_powers_of_two_and_three_times_those_up_to_the_first_token(length):
  distances = gradient_norms.distances_to_measure(length)
  assert distances == sorted(set(distances))
  assert distances[0] == 0 and distances[-1] == length - 1
  powers = (0, *(factor * 2**i for factor in (1, 3) for i in range(12)))
  assert set(distances[:-1]) == {k for k in powers if k < length - 1}


def test_identity_has_norm_one_at_distance_zero_and_zero_elsewhere():
  def identity_kernel(parameters):
    return {'kernel': jnp.eye(WIDTH)[None], 'bias': parameters['bias']}

  for norms in layer_norms(Convolution(kernel_size=1), identity_kernel).values():
    np.testing.assert_allclose(norms, np.eye(len(DISTANCES))[0], atol=1e-6)


def test_orthogonal_recurrent_weights_preserve_the_norm_of_a_linear_network():
  zeros = jnp.zeros((2, LENGTH, WIDTH))  # the slope of tanh at 0 is 1
  norms = layer_norms(Elman(), x=zeros)['norms']
  np.testing.assert_allclose(norms, norms[0], rtol=1e-5)
  halved = layer_norms(Elman(recurrent_gain=0.5), x=zeros)['norms']
  np.testing.assert_allclose(halved, norms[0] * 0.5 ** np.array(DISTANCES), rtol=1e-5)
  identity_norms = layer_norms(Elman(), lambda _: {
    'input': {'kernel': jnp.eye(WIDTH), 'bias': jnp.zeros(WIDTH)},
    'recurrent_kernel': jnp.eye(WIDTH),
  }, zeros)
  for norms in identity_norms.values():
    np.testing.assert_allclose(norms, 1, rtol=1e-5)


@pytest.mark.parametrize('bias', [0.0, 1.0, 3.0])
def test_gradient_of_an_lstm_decays_by_sigmoid_of_its_forget_bias(bias):
  # The recurrent weights are 0, and the forget gate does not depend on the input.
  def disconnect_forget_gate(parameters):
    gates = parameters['input']
    kernel = gates['kernel'].at[:, WIDTH : 2 * WIDTH].set(0)
    return {'input': gates | {'kernel': kernel}, 'recurrent_kernel': jnp.zeros((WIDTH, 4 * WIDTH))}

  token = jax.random.normal(jax.random.key(1), (2, 1, WIDTH))
  x = jnp.broadcast_to(token, (2, LENGTH, WIDTH))
  norms = layer_norms(LSTM(forget_bias=bias), disconnect_forget_gate, x)['norms'][1:]
  forget_gate = 1 / (1 + math.exp(-bias))
  expected = forget_gate ** (np.array(DISTANCES[1:]) - 1)
  np.testing.assert_allclose(norms / norms[0], expected, rtol=1e-4)
  curves = NormCurves(np.array(DISTANCES[1:]), norms[None])
  slope = decay.fit_log_norms(curves, 'exponential').slopes
  np.testing.assert_allclose(slope, math.log(forget_gate), rtol=1e-3)


def test_uniform_attention_has_the_same_gradient_at_every_distance():
  # If queries and keys are 0, all scores are equal.
  def zero_queries_and_keys(parameters):
    kernel = parameters['projection']['kernel']
    return parameters | {'projection': {'kernel': kernel.at[:, : 2 * 2].set(0)}}

  layer = Attention(num_heads=2, positions=Positions(parent=None))
  norms = layer_norms(layer, zero_queries_and_keys)['norms']
  np.testing.assert_allclose(norms, norms[0], rtol=1e-5)


def test_gradient_of_a_convolution_is_zero_beyond_its_field_and_a_residual_adds_the_identity():
  layer = Convolution(kernel_size=3, dilation=2)  # its receptive field has 5 tokens
  norms = layer_norms(layer)['norms']
  assert [k for k, norm in zip(DISTANCES, norms, strict=True) if norm] == [0, 2, 4]
  residual_norms = layer_norms(Block(layer, norm='none'), lambda parameters: {
    'layer': jax.tree.map(jnp.zeros_like, parameters['layer'])})['norms']
  np.testing.assert_allclose(residual_norms, np.eye(len(DISTANCES))[0], atol=1e-6)


@pytest.mark.parametrize('layer', ['attention(num_heads=2, positions=sinusoidal)', 'gru'])
def test_first_block_input_leads_to_the_outputs_of_the_model(layer):
  run = Run(layer=layer, task='adding(length=6)', width=8, depth=1, match='none')
  experiment = create_experiment(run)
  task, model = experiment.task, experiment.model

  @jax.jit
  def outputs_of_parts_and_model():
    source = task.batch('test', 0, 3).source
    variables = model.init(jax.random.key(0), source)
    params = variables['params']
    x = first_block_input(model, params, source)
    x, _ = model.stack.apply({'params': params['stack']}, x)
    x = model.normalization.apply({'params': params['last_norm']}, x)
    return model.head.apply({'params': params['head']}, x), model.apply(variables, source)[0]

  np.testing.assert_allclose(*outputs_of_parts_and_model(), atol=1e-6)


K = np.array(gradient_norms.distances_to_measure(128))
SEED_FACTORS = np.array([[0.97], [1.0], [1.02]])  # of the rates of three seeds


@settings(deadline=None, max_examples=40)
@given(st.floats(1, 500), st.floats(1e-6, 1e6), st.booleans())
def test_exponential_fit_recovers_the_half_life_of_an_exponential_decay(tau, start, noisy):
  noise = 0.01 * np.sin(np.arange(3 * len(K))).reshape(3, -1) * noisy
  curves = NormCurves(K, start * np.exp(-K / tau * SEED_FACTORS + noise))
  analysis, longest = decay.analyse_decay(curves), curves.curves_within_fit_range.distances[-1]
  assert analysis.better == 'exponential'
  np.testing.assert_allclose(
    -1 / analysis.fits['exponential'].slopes[1], tau, rtol=0.05 + tau / 2000)
  if tau * math.log(2) > longest:
    assert analysis.half_life == f'none within {longest}' or noisy
  elif tau * math.log(2) < 100:
    half_life = analysis.half_life
    assert half_life.low < half_life.estimate < half_life.high
    assert half_life.estimate == pytest.approx(tau * math.log(2), rel=0.1)
    assert analysis.verdict == 'vanishing'


@given(st.floats(0.05, 3))
def test_power_fit_is_better_for_a_power_of_the_distance(power):
  analysis = decay.analyse_decay(NormCurves(K, np.maximum(K, 1.0) ** (-power * SEED_FACTORS)))
  assert analysis.better == 'power'
  np.testing.assert_allclose(
    analysis.fits['power'].slopes, -power * SEED_FACTORS[:, 0], rtol=1e-6)
  decrease = power * math.log(127)  # in log norm, of the second seed
  if decrease > 0.8:
    assert analysis.verdict == 'vanishing'
  if decrease < 0.6:
    assert analysis.verdict == 'steady'


@pytest.mark.parametrize(('rates', 'verdict'), [
  ((-0.1, -0.2, -0.15), 'vanishing'),
  ((0.1, 0.2, 0.15), 'exploding'),
  ((0.001, -0.001, 0.0), 'steady'),
  ((-0.004, -0.0045, -0.005), 'unclear'),  # the interval contains one half
  ((0.1, -0.1, 0.05), 'unclear'),
  ((-0.1, -0.001, -0.05), 'unclear'),
  ((-0.1,), 'unclear'),  # one seed has no interval
  ((-0.1, math.nan, -0.1), 'not finite'),
])
def test_verdict_depends_on_the_interval_over_seeds(rates, verdict):
  curves = NormCurves(K, np.exp(np.outer(rates, K)))
  assert decay.analyse_decay(curves).verdict == verdict


def test_growth_to_a_norm_below_one_is_not_exploding():
  grown = np.exp(np.outer((0.1, 0.2, 0.15), K - K[-1]))
  assert decay.analyse_decay(NormCurves(K, 0.5 * grown)).verdict == 'rising'
  assert decay.analyse_decay(NormCurves(K, 2.0 * grown)).verdict == 'exploding'


@pytest.mark.parametrize(('slope', 'half_life'), [
  ((-0.1, -0.2, -0.05), Interval(math.log(2) / 0.1, math.log(2) / 0.2, math.log(2) / 0.05, 3)),
  ((-0.1, -0.3, 0.1), '2.3 or more'),
  ((-0.001, -0.002, -0.0005), 'none within 100'),
  ((0.1, 0.05, 0.2), 'none within 100'),
])
def test_interval_of_the_half_life_follows_from_that_of_the_slope(slope, half_life):
  result = decay.half_life_from_slope(Interval(*slope, 3), 100)
  assert result == half_life if isinstance(half_life, str) else result == pytest.approx(half_life)


def test_zero_and_tiny_norms_are_not_fitted_and_are_reported_as_such():
  norms = np.where(K < 16, 0.5, 0.0) * np.ones((3, 1))
  cut = NormCurves(K, norms, 16)
  assert list(cut.curves_within_fit_range.distances) == [1, 2, 3, 4, 6, 8, 12]
  assert decay.analyse_decay(cut).verdict == 'zero beyond 15'
  assert decay.analyse_decay(NormCurves(K, np.where(K < 2, norms, 0), 2)).fits is None
  within_field = NormCurves(K[:5], norms[:, :5], 16)
  assert decay.analyse_decay(within_field).verdict == 'steady'
  assert cut.mean_log10_norm_at(127) == Interval.without_confidence_bounds(-math.inf, 3)
  assert cut.mean_log10_norm_at(5) is None
  assert NormCurves(K, norms).mean_log10_norm_at(127) == 'below -30'
  assert cut.mean_log10_norm_at(8).estimate == pytest.approx(math.log10(0.5))
  assert [k for k, _ in cut.geometric_mean_norms_over_seeds(1e-6)] == [1, 2, 3, 4, 6, 8, 12]
  assert decay.largest_norms_beyond_receptive_field(cut) == [0, 0, 0]
  assert decay.largest_norms_beyond_receptive_field(NormCurves(K, norms)) == []
  assert decay.largest_norms_beyond_receptive_field(NormCurves(K, norms, 8)) == [0.5] * 3
  steep = NormCurves(K, np.exp(-np.outer((1.0, 1.1, 1.2), K)))
  assert steep.curves_within_fit_range.distances[-1] == 48
  assert steep.mean_log10_norm_at(127) == 'below -30'
  assert decay.analyse_decay(steep).verdict == 'vanishing'
  expected = [24 + math.log10(norm) for norm in steep.norms[:, 1]]
  cut_off = NormCurves(K, np.maximum(steep.norms, 1e-24))
  assert decay.log10_gradient_norm_decrease_with_distance(cut_off) == pytest.approx(expected)


def untrained_record(layer, norms, field=None, **settings):
  """The record of a model at initialisation with norms [seeds][N] at the distances K."""
  run = Run(layer=layer, seeds=tuple(range(len(norms))), width=8, match='none', **settings)
  return {
    'study': 'gradient_flow', 'run': gradient_norms.measurement_settings(run, 128),
    'status': 'finished', 'reason': '',
    'result': {'receptive_field': field, 'distances': K.tolist(), 'norms': norms,
               'spectral_norms': norms},
    **records.RUN_ENVIRONMENT,
  }


def test_training_curves_are_those_of_the_members_at_the_selected_learning_rate():
  record = records.training_record('gru', 'adding', 128, (0.5, 0.6), study='gradient_flow')
  unselected = [dict(m, learning_rate=1.0) for m in record['result']['members']]
  first, second = record['result']['members']
  record['result']['members'] = [unselected[0], first, unselected[1], second]
  norms = [np.exp(-K * rate).tolist() for rate in (9, 0.1, 9, 0.2)]
  record['result']['watched'] = [
    {'step': step, 'distances': K.tolist(), 'norms': norms} for step in (0, 5, 10)]
  by_step = decay.gradient_norm_curves_by_training_step(record)
  assert list(by_step) == [0, 5, 10]
  for curves in by_step.values():
    np.testing.assert_allclose(decay.fit_log_norms(curves, 'exponential').slopes, [-0.1, -0.2])
  tables, panels = gradient_flow.report([record])
  assert len(tables) == 1 and tables[0].rows[0][1] == 'gru' and len(panels) == 2


def test_first_table_has_one_row_per_layer_and_second_compares_residual_blocks():
  constant = np.ones((2, len(K))).tolist()
  made = [untrained_record('elman', constant, block=block, depth=depth)
          for block in ('pre_norm', 'plain') for depth in (4, 1)]
  cut = (np.ones((2, 1)) * (K < 4)).tolist()
  made.append(untrained_record('convolution', cut, 4, block='plain'))
  (single_layers, blocks, fits), panels = gradient_flow.report(made)
  assert [row[:3] for row in single_layers.rows] == [
    ('elman', 'plain', 1), ('convolution', 'plain', 2)]
  assert [row[-1] for row in single_layers.rows] == ['steady', 'zero beyond 3']
  assert [row[:3] for row in fits.rows] == [
    ('elman', '1 to 127', Interval(0, 0, 0, 2)), ('convolution', '1 to 3', Interval(0, 0, 0, 2))]
  assert len(blocks.rows) == 4 and {row[0] for row in blocks.rows} == {'elman'}
  assert len(panels) == 2 and set(panels[1].series) == {'pre_norm', 'plain'}


@pytest.mark.slow
def test_second_run_of_the_study_prints_the_stored_results(tmp_path):
  words = ('--preset=smoke', '--clip=0.5', f'--runs={tmp_path}', '--cache=')
  done = command.run_command(gradient_flow, *words)
  assert done.code == 0, done.err
  stored = Store(tmp_path).records('gradient_flow')
  assert len(stored) == 4 and {record['status'] for record in stored} == {'finished'}
  (control,) = [r for r in stored if r['run']['layer'] == gradient_flow.CONTROL]
  field = control['result']['receptive_field']
  curves = decay.gradient_norm_curves_at_initialisation(control)
  assert decay.largest_norms_beyond_receptive_field(curves) == [0, 0]
  assert np.all(curves.norms[:, :field] > 0)
  (trained,) = [r for r in stored if 'at' not in r['run']]
  by_step = decay.gradient_norm_curves_by_training_step(trained)
  # The flag --clip overrides the clipping norms of the preset.
  assert list(by_step) == [0, 2, 4] and trained['run']['clip'] == 0.5
  assert np.any(by_step[4].norms != by_step[0].norms)
  again = command.run_command(gradient_flow, *words)
  assert again.out == done.out and len(Store(tmp_path).records()) == 4


@pytest.mark.parametrize(('words', 'message'), [
  (['--layers=elman(recurrent_init=uniform)'], "no recurrent_init 'uniform'"),
  (['--layers=attention', '--width=9'], 'a multiple of'),
  (['--layers=attention(positions=learned(max_length=5))'], 'supports at most 5'),
  (['--lengths=1'], 'at least 2'),
  (['--tasks=copy'], 'elman'),
])
def test_bad_flags_are_refused_in_one_line(words, message, tmp_path):
  done = command.run_command(gradient_flow, '--preset=smoke', f'--runs={tmp_path / "runs"}', *words)
  assert done.code == 2 and message in done.err and done.err.count('\n') == 1, done.err
  assert not (tmp_path / 'runs').exists()
