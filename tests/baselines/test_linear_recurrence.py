"""Tests that diagonal linear recurrences match the equations of their papers, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from baselines.discretization import hippo_normal_part_eigenpairs
from baselines.linear_recurrence import (
  LRU,
  MAX_SQRT_DERIVATIVE,
  RGLRU,
  MinGRU,
  MinLSTM,
  sqrt_with_bounded_derivative,
)
from baselines.state_space import S4D, S5, Mamba
from tests.support.reference import (
  WIDTH,
  assert_close,
  causal_depthwise_convolution,
  draw_normal_inputs,
  logistic,
  silu,
  softplus,
  to_float64,
)


def gelu(x):
  """The tanh form of x Phi(x)."""
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def dense(x, part):
  return np.tensordot(x, part['kernel'], 1) + part.get('bias', 0.0)


def positive_candidate(x):
  """The function g of Feng et al., 2024."""
  return np.where(x >= 0, x + 0.5, logistic(x))


def reference_readout(y, parts, form):
  """The nonlinear readout of a state space layer."""
  if form == 'glu':
    return dense(gelu(y), parts['value']) * logistic(dense(gelu(y), parts['gate']))
  return gelu(y) * logistic(dense(gelu(y), parts['gate'])) if form == 'half_glu' else y


def scan_over_time(step, state, *inputs):
  """Scans step(state, *inputs_t) -> (state, output) over the second axis of the inputs."""
  outputs = []
  for t in range(inputs[0].shape[1]):
    state, y = step(state, *(x[:, t] for x in inputs))
    outputs.append(y)
  return np.stack(outputs, 1), state


def reference_min_gru(layer, w, x, h):
  """Feng et al., 2024, section 3.1."""
  g = positive_candidate if layer.candidate == 'g' else lambda v: v

  def step(h, v):
    z = logistic(v[:, 0])
    h = (1 - z) * h + z * g(v[:, 1])
    return h, h

  y, h = scan_over_time(step, h, dense(x, w['input']))
  return dense(y, w['output']) if layer.expand > 1 else y, h


def reference_min_lstm(layer, w, x, h):
  """Feng et al., 2024, section 3.2."""
  def step(h, v):
    f, i = logistic(v[:, 0]), logistic(v[:, 1])
    h = f / (f + i) * h + i / (f + i) * positive_candidate(v[:, 2])
    return h, h

  return scan_over_time(step, h, dense(x, w['input']))


def as_complex(parts, axis=0):
  real, imaginary = np.moveaxis(np.asarray(parts), axis, 0)
  return real + 1j * imaginary


def reference_lru(layer, w, x, h):
  """Orvieto et al., 2023, equations 4 to 7."""
  eigenvalue = np.exp(-np.exp(w['nu']) + 1j * np.exp(w['theta']))
  b, c = as_complex(w['input_kernel'], 1), as_complex(w['output_kernel'])

  def step(h, x):
    h = eigenvalue * h + np.exp(w['gamma']) * (x @ b)
    return h, (h @ c).real + w['skip'] * x

  y, h = scan_over_time(step, as_complex(h), x)
  return reference_readout(y, w['readout'], layer.readout), (h.real, h.imag)


def reference_rg_lru(layer, w, x, state):
  """De et al., 2024, equations 1 to 4, in their recurrent block."""
  past, h = state
  branch, u = gelu(dense(x, w['branch'])), dense(x, w['input'])
  inputs = np.concatenate([past, u], 1)
  u = causal_depthwise_convolution(inputs, **w['convolution'])[:, past.shape[1] :]
  blocks = np.stack(np.split(u, layer.num_heads, -1), 2)
  gates = np.einsum('BTHK,HKGJ->BTGHJ', blocks, w['gate_kernel'])
  gates = logistic(gates.reshape(*u.shape[:2], 2, -1) + w['gate_bias'])

  def step(h, gate, u):
    r, i = gate[:, 0], gate[:, 1]
    a = logistic(w['lambda']) ** (8 * r)
    h = a * h + np.sqrt(1 - a**2) * (i * u)
    return h, h

  y, h = scan_over_time(step, h, gates, u)
  return dense(branch * y, w['output']), (inputs[:, -past.shape[1] :], h)


def reference_zero_order_hold(w):
  """The decay and the input gain of a continuous-time system with constant input in each step."""
  a, step = -np.exp(w['log_real']) + 1j * w['imaginary'], np.exp(w['log_step'])
  return np.exp(step * a), (np.exp(step * a) - 1) / a


def reference_s4d(layer, w, x, h):
  """Gu et al., 2022, equation 2 and section 4.4 with B = 1."""
  (decay, gain), c = reference_zero_order_hold(w), as_complex(w['output_kernel'])

  def step(h, x):
    h = decay * h + x[:, None]
    return h, 2 * np.sum(c * gain * h, 1).real + w['skip'] * x

  y, h = scan_over_time(step, as_complex(h), x)
  return reference_readout(y, w['readout'], layer.readout), (h.real, h.imag)


def reference_s5(layer, w, x, h):
  """Smith et al., 2023, equations 2 and 6, for one state of each conjugate pair."""
  decay, gain = reference_zero_order_hold(w)
  b, c = as_complex(w['input_kernel'], 1), as_complex(w['output_kernel'])

  def step(h, x):
    h = decay * h + gain * (x @ b)
    return h, 2 * (h @ c).real + w['skip'] * x

  y, h = scan_over_time(step, as_complex(h), x)
  return reference_readout(y, w['readout'], layer.readout), (h.real, h.imag)


def reference_mamba(layer, w, x, state):
  """Gu and Dao 2023, algorithm 2 and figure 3, with the eigenvalues of Grazzi et al., 2025."""
  past, h = state
  u, gate = np.split(dense(x, w['input']), 2, -1)
  inputs = np.concatenate([past, u], 1)
  u = silu(causal_depthwise_convolution(inputs, **w['convolution'])[:, past.shape[1] :])
  rank, size = len(w['step_kernel']), layer.state_size
  low, b, c = np.split(dense(u, w['selection']), [rank, rank + size], -1)

  def step(h, u, dt, b, c):
    decay = np.exp(dt[:, None] * -np.exp(w['log_rate']))
    decay = 2 * decay - 1 if layer.eigenvalues == '[-1,1]' else decay
    h = decay * h + (dt * u)[:, None] * b[..., None]
    return h, np.einsum('BND,BN->BD', h, c) + w['skip'] * u

  y, h = scan_over_time(step, h, u, softplus(low @ w['step_kernel'] + w['step_bias']), b, c)
  return dense(y * silu(gate), w['output']), (inputs[:, -past.shape[1] :], h)


REFERENCES = {
  'min_gru': (MinGRU(), reference_min_gru),
  'min_gru, wide and linear': (MinGRU(2, candidate='linear'), reference_min_gru),
  'min_lstm': (MinLSTM(), reference_min_lstm),
  'lru': (LRU(), reference_lru),
  'lru, other size': (LRU(5, readout='none'), reference_lru),
  'rg_lru': (RGLRU(3, kernel_size=3), reference_rg_lru),
  's4d': (S4D(6), reference_s4d),
  's4d, no readout': (S4D(2, readout='none'), reference_s4d),
  's5': (S5(8, blocks=2), reference_s5),
  's5, glu readout': (S5(4, readout='glu'), reference_s5),
  'mamba': (Mamba(state_size=4), reference_mamba),
  'mamba, other sizes': (Mamba(1, 3, 2, dt_rank=2, eigenvalues='[-1,1]'), reference_mamba),
}


@pytest.mark.parametrize('name', REFERENCES)
def test_a_layer_equals_the_equations_of_its_paper(name):
  layer, reference = REFERENCES[name]
  width = 2 * layer.required_width_divisor if layer.required_width_divisor > 1 else WIDTH
  parameters, x, state = draw_normal_inputs(layer, length=10, width=width)
  y, after = jax.jit(layer.apply)(parameters, x, state)
  weights, x, state = to_float64(parameters['params'], x, state)
  expected, end = reference(layer, weights | {'readout': weights.get('readout')}, x, state)
  assert_close(y, expected)
  for actual, value in zip(jax.tree.leaves(after), jax.tree.leaves(end), strict=True):
    assert_close(actual, value)


@functools.cache
def initial_weights(layer, width=32):
  parameters = jax.jit(layer.init)(jax.random.key(0), jnp.zeros((1, 2, width)))
  return to_float64(parameters['params'])[0]


def test_the_forget_bias_sets_the_initial_decay_of_a_min_lstm():
  layer, zeros = MinLSTM(forget_bias=1.5), jnp.zeros((1, 1, 4))
  parameters = jax.jit(layer.init)(jax.random.key(0), zeros)
  f = logistic(1.5)
  _, h = jax.jit(layer.apply)(parameters, zeros, jnp.ones((1, 4)))
  np.testing.assert_allclose(h, f / (f + 0.5) + 0.5 * 0.5 / (f + 0.5), rtol=1e-6)  # g(0) = 1/2


def test_gradients_of_a_min_lstm_with_closed_gates_are_finite():
  layer, x = MinLSTM(), jnp.ones((1, 3, 4))
  parameters = jax.jit(layer.init)(jax.random.key(0), x)
  parameters['params']['input']['bias'] = -200.0 * jnp.ones((3, 4))
  gradients = jax.jit(jax.grad(lambda p: jnp.sum(layer.apply(p, x)[0])))(parameters)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_initial_eigenvalues_of_an_lru_are_uniform_in_a_ring_and_its_input_is_normalized():
  weights = initial_weights(LRU(512, r_min=0.4, r_max=0.9, max_phase=0.5))
  radius, phase = np.exp(-np.exp(weights['nu'])), np.exp(weights['theta'])
  assert 0.4 <= radius.min() < 0.45 and 0.88 < radius.max() <= 0.9
  assert phase.min() < 0.01 and 0.49 < phase.max() <= 0.5
  area = (radius**2 - 0.4**2) / (0.9**2 - 0.4**2)
  np.testing.assert_allclose(np.quantile(area, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.08)
  np.testing.assert_allclose(np.exp(weights['gamma']), np.sqrt(1 - radius**2), rtol=1e-5)


def test_initial_decays_of_an_rg_lru_are_as_published():
  decay = logistic(initial_weights(RGLRU(), 512)['lambda']) ** 8
  assert 0.9 <= decay.min() < 0.91 and 0.99 < decay.max() <= 0.999


def test_the_gradient_of_an_rg_lru_is_finite_for_a_decay_of_one():
  layer, x = RGLRU(2), jnp.ones((1, 3, 4))
  parameters = jax.jit(layer.init)(jax.random.key(0), x)
  parameters['params']['gate_bias'] = -200.0 * jnp.ones((2, 4))  # r = 0, a = 1
  gradients = jax.jit(jax.grad(lambda p: jnp.sum(layer.apply(p, x)[0])))(parameters)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_the_input_gain_of_an_rg_lru_with_a_closed_gate_is_exact():
  layer, ones = RGLRU(1), jnp.ones((1, 1000, 1))
  parameters = jax.jit(layer.init)(jax.random.key(0), ones)
  weights = jax.tree.map(jnp.zeros_like, parameters['params'])
  weights |= {'gate_bias': jnp.array([[-30.0], [30.0]]), 'lambda': parameters['params']['lambda']}
  weights['convolution'] |= {'bias': jnp.ones(1)}  # The recurrence receives ones.
  _, state = jax.jit(layer.apply)({'params': weights}, ones)
  (log_a,) = to_float64(8 * logistic(-30.0) * -np.log1p(np.exp(-np.float64(weights['lambda']))))
  expected = np.sqrt(-np.expm1(2 * log_a)) * np.sum(np.exp(log_a * np.arange(1000)[:, None]), 0)
  assert 0 < expected < 4e-4
  np.testing.assert_allclose(state.hidden[0], expected, rtol=1e-4)


def test_the_square_root_of_an_rg_lru_is_exact_with_a_bounded_derivative():
  x = np.array([0, 1e-12, 1e-6, 0.3, 1], np.float32)
  root = sqrt_with_bounded_derivative(jnp.array(x))
  np.testing.assert_allclose(root, np.sqrt(x.astype(float)), rtol=1e-6)
  derivative = jax.vmap(jax.grad(sqrt_with_bounded_derivative))(jnp.array(x))
  expected = 0.5 / np.sqrt(np.maximum(x.astype(float), 0.25 / MAX_SQRT_DERIVATIVE**2))
  np.testing.assert_allclose(derivative, expected, rtol=1e-5)


def test_initial_eigenvalues_of_an_lru_near_the_unit_circle_are_stable():
  weights = initial_weights(LRU(4096, r_min=1 - 1e-6))
  assert all(np.isfinite(weights[name]).all() for name in ('nu', 'theta', 'gamma'))
  np.testing.assert_allclose(np.exp(-np.exp(weights['nu'])), 1 - 5e-7, atol=6e-7)


def hippo_n(size):
  """HiPPO-LegS without its rank-one part (Gu et al., 2022, section 3.2)."""
  p = np.sqrt(np.arange(size) + 0.5)
  legs = np.array([
    [-2 * p[n] * p[k] if n > k else -(n + 1.0) * (n == k) for k in range(size)]
    for n in range(size)
  ])
  return legs + np.outer(p, p)


@pytest.mark.parametrize(
  ('initialisation', 'imaginary'),
  [
    ('lin', np.pi * np.arange(8)),
    ('inv', 16 / np.pi * (16 / (2 * np.arange(8) + 1) - 1)),
    ('legs', np.sort(np.linalg.eigvals(hippo_n(16)).imag)[8:]),
  ],
)
def test_initial_eigenvalues_of_s4d_match_the_named_initialization(initialisation, imaginary):
  weights = initial_weights(S4D(16, initialisation))
  np.testing.assert_allclose(weights['imaginary'], np.tile(imaginary[:, None], 32), rtol=1e-5)
  np.testing.assert_allclose(-np.exp(weights['log_real']), -0.5, rtol=1e-6)


def test_hippo_normal_eigenpairs_are_eigenpairs():
  frequency, basis = (np.asarray(a) for a in hippo_normal_part_eigenpairs(16))
  np.testing.assert_allclose(hippo_n(16) @ basis, basis * (-0.5 + 1j * frequency), atol=1e-4)
  np.testing.assert_allclose(basis.conj().T @ basis, np.eye(8), atol=1e-5)


@pytest.mark.parametrize('blocks', [1, 2])
def test_s5_starts_from_hippo_normal_with_real_matrices_in_its_eigenbasis(blocks):
  layer, size = S5(16, blocks=blocks), 16 // blocks
  weights = initial_weights(layer, 256)
  eigenvalues = np.linalg.eigvals(hippo_n(size))
  np.testing.assert_allclose(eigenvalues.real, -0.5, atol=1e-9)
  np.testing.assert_allclose(-np.exp(weights['log_real']), -0.5, rtol=1e-6)
  imaginary = np.tile(np.sort(eigenvalues.imag)[size // 2 :], blocks)
  np.testing.assert_allclose(weights['imaginary'], imaginary, rtol=1e-5)
  basis = np.kron(np.eye(blocks), hippo_normal_part_eigenpairs(size)[1])
  b, c = as_complex(weights['input_kernel'], 1), as_complex(weights['output_kernel'])
  real_b, real_c = 2 * (b @ basis.T).real, 2 * (basis.conj() @ c).real
  np.testing.assert_allclose(real_b @ basis.conj(), b, atol=1e-5)
  np.testing.assert_allclose(basis.T @ real_c, c, atol=1e-5)
  np.testing.assert_allclose([real_b.std() * 16, real_c.std() * 4], 1, atol=0.05)


@pytest.mark.parametrize(('input_variance', 'variance'), [('1/D', 1 / 256), ('1/N', 1 / 16)])
def test_the_initial_input_matrix_of_s5_has_the_requested_variance(input_variance, variance):
  weights = initial_weights(S5(16, input_variance=input_variance), 256)
  (b,) = (w for name, w in weights.items() if name.startswith('input'))
  np.testing.assert_allclose(2 * np.square(b).sum(1).mean(), 2 * variance, rtol=0.1)


@pytest.mark.parametrize(
  ('layer', 'step'),
  [
    (S4D(4, dt_min=0.01, dt_max=0.5), lambda w: np.exp(w['log_step'])),
    (S5(64, dt_min=0.01, dt_max=0.5), lambda w: np.exp(w['log_step'])),
    (Mamba(1, 2, dt_min=0.01, dt_max=0.5), lambda w: softplus(w['step_bias'])),
  ],
)
def test_initial_steps_are_log_uniform_between_their_bounds(layer, step):
  step = step(initial_weights(layer, 256))
  assert step.min() > 0.0099 and step.max() < 0.5001
  np.testing.assert_allclose(np.median(np.log(step)), np.log(0.01 * 0.5) / 2, atol=0.8)


def test_mamba_starts_with_s4d_real_decay_rates_and_a_default_step_rank():
  weights = initial_weights(Mamba(), 40)
  assert weights['step_kernel'].shape == (3, 80) and np.abs(weights['step_kernel']).max() <= 3**-0.5
  np.testing.assert_allclose(np.exp(weights['log_rate']), np.tile(np.arange(1, 17)[:, None], 80))
  assert (weights['skip'] == 1).all()


@pytest.mark.parametrize(
  ('construct', 'message'),
  [
    (lambda: MinGRU(0), 'expand >= 1, not 0'),
    (lambda: MinLSTM(candidate='h'), "candidate 'h'.*g, linear"),
    (lambda: LRU(-1), 'state_size >= 0.*not -1'),
    (lambda: LRU(r_min=0.9, r_max=0.5), 'r_min < r_max <= 1, not 0.9 and 0.5'),
    (lambda: LRU(max_phase=0.0), 'max_phase > 0, not 0.0'),
    (lambda: LRU(readout='gru'), "readout 'gru'.*glu, half_glu, none"),
    (lambda: RGLRU(num_heads=0), 'num_heads >= 1, not 0'),
    (lambda: S4D(5), 'state_size must be a positive multiple of 2, not 5'),
    (lambda: S4D(initialisation='real'), "initialisation 'real'.*lin, inv, legs"),
    (lambda: S5(6, blocks=2), 'state_size must be a positive multiple of 4, not 6'),
    (lambda: S5(dt_min=0.5, dt_max=0.1), 'dt_min < dt_max, not 0.5 and 0.1'),
    (lambda: S5(input_variance='1'), "input_variance '1'; there are 1/D, 1/N"),
    (lambda: Mamba(kernel_size=0), 'kernel_size >= 1, not 0'),
    (lambda: Mamba(dt_rank=-1), 'dt_rank >= 0.*not -1'),
    (lambda: Mamba(eigenvalues='[0,2]'), 'eigenvalues.*0,2'),
  ],
)
def test_invalid_linear_recurrence_options_raise_an_error(construct, message):
  with pytest.raises(ValueError, match=message):
    construct()
