"""Tests of both forms of the delta rule, and of its layers against their papers' equations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from baselines.delta_rule import DeltaNet, GatedDeltaNet, l2_normalize
from baselines.delta_scans import delta_scan, generalised_delta_scan
from baselines.rwkv import RWKV7
from tests.support.reference import (
  assert_close,
  causal_depthwise_convolution,
  draw_normal_inputs,
  logistic,
  rms_norm,
  silu,
  softplus,
  to_float64,
)

BATCH, HEADS, KEY, VALUE = 2, 2, 3, 4
DECAYS = {  # log_decay as a function of a uniform number in [0, 1]
  'none': lambda draw: 0 * draw,
  'slow': lambda draw: -1e-4 * draw,
  'mixed': lambda draw: -np.exp(12 * draw - 8),
  'sudden': lambda draw: np.where(draw > 0.8, -1e4, -1e-2 * draw),
}
MIN_LOG_DECAY = -np.exp(-0.5)  # of RWKV-7


def normalize(x):
  return x / np.sqrt(np.sum(x**2, -1, keepdims=True))


def delta_arguments(
  length, seed, decay='mixed', largest_beta=2.0, memory=1.0, repeated=False
):
  """Random arguments of `delta_scan` in float32, with equal keys and betas if repeated."""
  generator = np.random.default_rng(seed)
  time = BATCH, length, HEADS
  query, value = generator.normal(size=(*time, KEY)), generator.normal(size=(*time, VALUE))
  key = normalize(generator.normal(size=(BATCH, 1 if repeated else length, HEADS, KEY)))
  beta = largest_beta * (np.ones(time) if repeated else generator.uniform(size=time))
  log_decay = DECAYS[decay](generator.uniform(size=time))
  initial = memory * generator.normal(size=(BATCH, HEADS, KEY, VALUE))
  arrays = query, np.broadcast_to(key, query.shape), value, beta, log_decay, initial
  return tuple(np.asarray(a, np.float32) for a in arrays)


def generalised_arguments(length, seed, log_decay=None):
  """Random arguments of `generalised_delta_scan` in float32."""
  generator = np.random.default_rng(seed)
  query, key, removal_key = generator.normal(size=(3, BATCH, length, HEADS, KEY))
  rate, draw = generator.uniform(size=(2, *query.shape))
  value = generator.normal(size=(BATCH, length, HEADS, VALUE))
  log_decay = MIN_LOG_DECAY * draw if log_decay is None else np.full(query.shape, log_decay)
  initial = generator.normal(size=(BATCH, HEADS, KEY, VALUE))
  arrays = query, key, value, normalize(removal_key), rate, log_decay, initial
  return tuple(np.asarray(a, np.float32) for a in arrays)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def outputs_and_gradients(scan, arrays, form, chunk_size):
  def loss(*arrays):
    y, memory = scan(*arrays, form, chunk_size)
    return sum(jnp.vdot(jnp.sin(jnp.arange(1.0, 1 + z.size)), z) for z in (y, memory)), (y, memory)

  return jax.grad(loss, tuple(range(len(arrays))), has_aux=True)(*arrays)


def assert_forms_agree(scan, arrays, chunk_size, tolerance=1e-5):
  expected = outputs_and_gradients(scan, arrays, 'recurrent', 0)
  actual = outputs_and_gradients(scan, arrays, 'chunked', chunk_size)
  for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    assert_close(a, np.asarray(e), tolerance)


@settings(deadline=None, max_examples=8)
@given(
  shape=st.sampled_from([(6, 8), (33, 16)]),
  seed=st.integers(0, 99),
  decay=st.sampled_from(sorted(DECAYS)),
  largest_beta=st.sampled_from([0.0, 1e-3, 1.0, 2.0]),
  memory=st.sampled_from([0.0, 1.0, 100.0]),
)
@example(shape=(33, 16), seed=0, decay='sudden', largest_beta=2.0, memory=100.0)
@example(shape=(33, 16), seed=0, decay='none', largest_beta=2.0, memory=1.0)
def test_both_forms_are_equal_in_value_and_gradient(shape, seed, decay, largest_beta, memory):
  length, chunk_size = shape
  arrays = delta_arguments(length, seed, decay, largest_beta, memory)
  assert_forms_agree(delta_scan, arrays, chunk_size)


@settings(deadline=None, max_examples=6)
@given(shape=st.sampled_from([(3, 1), (33, 16)]), seed=st.integers(0, 99))
def test_both_forms_of_the_generalised_rule_are_equal_in_value_and_gradient(shape, seed):
  length, chunk_size = shape
  assert_forms_agree(generalised_delta_scan, generalised_arguments(length, seed), chunk_size)


def test_the_generalised_rule_is_exact_in_its_longest_chunks_at_its_fastest_decay():
  assert_forms_agree(generalised_delta_scan, generalised_arguments(70, 0, MIN_LOG_DECAY), 64)


def test_the_chunked_form_is_accurate_for_repeated_reflections():
  """A Neumann series would sum terms of the order of 2^C, which cancel."""
  assert_forms_agree(delta_scan, delta_arguments(33, 0, 'none', repeated=True), 16, tolerance=5e-5)


def test_both_forms_equal_the_matrix_recurrence():
  """S_t = a (I - beta k k^T) S_{t-1} + beta k v^T and y = S^T q, in float64."""
  arrays = delta_arguments(6, 1)
  for form in ('recurrent', 'chunked'):
    y, memory = delta_scan(*arrays, form, 4)
    query, key, value, beta, log_decay, states = to_float64(*arrays)
    for b, h in np.ndindex(BATCH, HEADS):
      state = states[b, h]
      for t in range(6):
        k, rate = key[b, t, h], beta[b, t, h]
        transition = np.exp(log_decay[b, t, h]) * (np.eye(KEY) - rate * np.outer(k, k))
        state = transition @ state + rate * np.outer(k, value[b, t, h])
        assert_close(y[b, t, h], state.T @ query[b, t, h])
      assert_close(memory[b, h], state)


def test_the_delta_rule_is_a_special_case_of_the_generalised_delta_rule():
  query, key, value, beta, log_decay, initial = delta_arguments(9, 2, 'slow', largest_beta=1.0)
  rate = np.broadcast_to((np.exp(log_decay) * beta)[..., None], key.shape)
  decay = np.broadcast_to(log_decay[..., None], key.shape)
  for form in ('recurrent', 'chunked'):
    expected = delta_scan(query, key, value, beta, log_decay, initial, form, 4)
    actual = generalised_delta_scan(
      query, beta[..., None] * key, value, key, rate, decay, initial, form, 4
    )
    for a, e in zip(actual, expected, strict=True):
      assert_close(a, np.asarray(e))


@pytest.mark.parametrize('form', ['recurrent', 'chunked'])
def test_reflections_compute_parity(form):
  """A beta of 2 for bit 1 and of 0 for bit 0 flips the sign of the memory exactly at each bit 1."""
  bits = np.random.default_rng(0).integers(0, 2, 40)
  key = np.zeros((1, 40, 1, KEY), np.float32)
  key[..., 0] = 1
  beta = 2.0 * bits[None, :, None].astype(np.float32)
  initial = np.full((1, 1, KEY, 1), 0.3, np.float32)
  y, _ = delta_scan(key, key, np.zeros((1, 40, 1, 1), np.float32), beta, 0 * beta, initial, form)
  np.testing.assert_array_equal(y[0, :, 0, 0], initial[0, 0, 0, 0] * (-1.0) ** np.cumsum(bits))


@pytest.mark.parametrize(('largest_beta', 'smallest_eigenvalue'), [(1.0, 0.0), (2.0, -1.0)])
def test_the_eigenvalues_of_a_step_are_in_the_stated_range(largest_beta, smallest_eigenvalue):
  """A step that starts from the identity and stores zeros returns its transition matrix."""
  arrays = delta_arguments(1, 3, 'slow', largest_beta)
  identity = np.broadcast_to(np.eye(KEY, dtype=np.float32), (BATCH, HEADS, KEY, KEY))
  beta = np.full_like(arrays[3], largest_beta)
  zeros = np.zeros((BATCH, 1, HEADS, KEY), np.float32)
  _, step = delta_scan(arrays[0], arrays[1], zeros, beta, arrays[4], identity)
  eigenvalues = np.linalg.eigvalsh(np.asarray(step, np.float64))
  np.testing.assert_allclose(eigenvalues.min(-1), smallest_eigenvalue, atol=1e-3)
  assert eigenvalues.max() <= 1 + 1e-6


def test_l2_normalize_keeps_zeros_with_a_finite_gradient():
  x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
  np.testing.assert_allclose(l2_normalize(x), [[0, 0], [0.6, 0.8]], atol=1e-6)
  assert np.isfinite(jax.grad(lambda x: jnp.sum(jnp.sin(l2_normalize(x))))(x)).all()


def split_heads(z, num_heads):
  return z.reshape(*z.shape[:-1], num_heads, -1)


def normalize_with_epsilon(x):  # the epsilon of the layers
  return x / np.sqrt(np.sum(x**2, -1, keepdims=True) + 1e-6)


def reference_delta_net(layer, part, x, state):
  """Yang et al., 2024, section 3.1, and Yang, Kautz and Hatamizadeh 2025, equation 10."""
  latest, memory = state
  projected = np.concatenate([latest, x @ part['projection']['kernel']], 1)
  convolved = causal_depthwise_convolution(projected, part['convolution']['kernel'])
  convolved = silu(convolved[:, latest.shape[1] :])
  query, key, value = (split_heads(z, layer.num_heads) for z in np.split(convolved, 3, -1))
  query, key = normalize_with_epsilon(query), normalize_with_epsilon(key)
  beta = logistic(x @ part['beta']['kernel']) * (2 if layer.eigenvalues == '[-1,1]' else 1)
  decay = np.ones_like(beta)
  if 'step' in part:
    step = softplus(x @ part['step']['kernel'] + part['step']['bias'])
    decay = np.exp(-np.exp(part['log_rate']) * step)
  y = np.zeros_like(value)
  for b, t, h in np.ndindex(beta.shape):
    k, v = key[b, t, h], value[b, t, h]
    transition = decay[b, t, h] * (np.eye(k.size) - beta[b, t, h] * np.outer(k, k))
    memory[b, h] = transition @ memory[b, h] + beta[b, t, h] * np.outer(k, v)
    y[b, t, h] = memory[b, h].T @ query[b, t, h]
  y = rms_norm(y, part['norm']['scale'])
  if 'gate' in part:
    y = y * silu(np.einsum('BTD,DHK->BTHK', x, part['gate']['kernel']))
  return np.einsum('BTHK,HKD->BTD', y, part['output']['kernel']), (projected[:, -3:], memory)


def low_rank_map(x, part, name, activation):
  out = part[name + '_out']
  return activation(x @ part[name + '_in']['kernel']) @ out['kernel'] + out.get('bias', 0)


def reference_rwkv7(layer, part, x, state):
  """Peng et al., 2025, section 4, with the transpose of the state of the paper."""
  latest, memory = state
  before = np.concatenate([latest, x[:, :-1]], 1)
  x_r, x_w, x_k, x_v, x_a, x_g = (x + mu * (before - x) for mu in part['shift'])
  r, k, v = (
    z @ part[name]['kernel'] for z, name in ((x_r, 'receptance'), (x_k, 'key'), (x_v, 'value'))
  )
  w = np.exp(-np.exp(-0.5) * logistic(low_rank_map(x_w, part, 'decay', np.tanh)))
  a = logistic(low_rank_map(x_a, part, 'rate', lambda z: z))
  g = low_rank_map(x_g, part, 'gate', logistic)
  r, k, v, w, a, g = (split_heads(z, layer.num_heads) for z in (r, k, v, w, a, g))
  removal_key = normalize_with_epsilon(k * part['removal'])
  k = k * (1 + part['replacement'] * (a - 1))
  y = np.zeros_like(v)
  for b, t, h in np.ndindex(y.shape[:3]):
    kappa, state = removal_key[b, t, h], memory[b, h].T  # [K], [V, K]
    state = state @ (np.diag(w[b, t, h]) - np.outer(kappa, a[b, t, h] * kappa))
    state = state + np.outer(v[b, t, h], k[b, t, h])
    memory[b, h] = state.T
    y[b, t, h] = state @ r[b, t, h]
  centred = y - y.mean(-1, keepdims=True)
  y = rms_norm(centred, part['norm']['scale'], 1e-5 * y.shape[-1]) + part['norm']['bias']
  y = y + np.sum(r * part['bonus'] * k, -1, keepdims=True) * v
  return (y * g).reshape(x.shape) @ part['output']['kernel'], (x[:, -1:], memory)


LAYERS = {
  'delta_net': (DeltaNet(num_heads=2), reference_delta_net),
  'delta_net_in_chunks': (
    DeltaNet(num_heads=2, eigenvalues='[-1,1]', chunk_size=4), reference_delta_net),
  'gated_delta_net': (GatedDeltaNet(num_heads=2, eigenvalues='[-1,1]'), reference_delta_net),
  'gated_delta_net_in_chunks': (GatedDeltaNet(num_heads=2, chunk_size=4), reference_delta_net),
  'rwkv7': (RWKV7(num_heads=2, rank=3), reference_rwkv7),
  'rwkv7_in_chunks': (RWKV7(num_heads=2, rank=3, chunk_size=4), reference_rwkv7),
}


@pytest.mark.parametrize('name', LAYERS)
def test_a_layer_equals_the_equations_of_its_paper(name):
  layer, reference = LAYERS[name]
  # The scale is small enough for the epsilon of the norms to matter.
  parameters, x, state = draw_normal_inputs(layer, width=8, scale=0.3)
  y, after = jax.jit(layer.apply)(parameters, x, state)
  part, x, state = to_float64(parameters['params'], x, state)
  expected, (latest, memory) = reference(layer, part, x, state)
  assert_close(y, expected)
  assert_close(after.latest, latest)
  assert_close(after.memory, memory)


def test_a_gated_delta_net_starts_with_the_published_decays():
  """The decay rates are 1 to 16 and the steps 0.001 to 0.1, as in Mamba-2."""
  layer = GatedDeltaNet(num_heads=64)
  part = jax.jit(layer.init)(jax.random.key(0), jnp.zeros((1, 1, 64)))['params']
  rate, step = np.exp(part['log_rate']), softplus(np.asarray(part['step']['bias'], np.float64))
  assert 1 <= rate.min() < 3 < 13 < rate.max() <= 16
  assert 1e-3 * 0.999 <= step.min() < 2e-3 < 5e-2 < step.max() <= 0.1 * 1.001


@pytest.mark.parametrize(
  ('construct', 'message'),
  [
    (lambda: DeltaNet(num_heads=0), 'DeltaNet needs num_heads >= 1, not 0'),
    (lambda: DeltaNet(kernel_size=0), 'kernel_size >= 1, not 0'),
    (lambda: GatedDeltaNet(eigenvalues='[0,2]'), r'\[0,2\].*\[0,1\], \[-1,1\]'),
    (lambda: GatedDeltaNet(chunk_size=-1), 'chunk_size .* -1'),
    (lambda: RWKV7(num_heads=-2), 'RWKV7 needs num_heads >= 1, not -2'),
    (lambda: RWKV7(rank=0), 'rank >= 1, not 0'),
    (lambda: RWKV7(chunk_size=128), 'chunk_size <= 64 for exact results, not 128'),
    (lambda: RWKV7().initial_state(1, 1, 6), 'width of 6 .* RWKV7 with 4 heads.* multiples of 4'),
    (lambda: delta_scan(*delta_arguments(2, 0), 'looped'), "'looped'.*auto, recurrent, chunked"),
  ],
)
def test_invalid_delta_rule_options_raise_an_error(construct, message):
  with pytest.raises(ValueError, match=message):
    construct()
