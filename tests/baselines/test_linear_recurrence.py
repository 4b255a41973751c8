"""Diagonal linear recurrences against their papers' equations, one step at a time in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from baselines.discretization import hippo_normal
from baselines.linear_recurrence import LARGEST_SLOPE, LRU, RGLRU, MinGRU, MinLSTM, bounded_root
from baselines.state_space import S4D, S5, Mamba
from tests.support.reference import (
  WIDTH,
  causal_depthwise,
  close,
  drawn,
  in_float64,
  logistic,
  silu,
  softplus,
)


def gelu(x):
  """The tanh form of x Phi(x)."""
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def dense(x, part):
  return np.tensordot(x, part['kernel'], 1) + part.get('bias', 0.0)


def positive(x):
  """The function g of Feng et al. 2024."""
  return np.where(x >= 0, x + 0.5, logistic(x))


def mixed(y, parts, how):
  """What follows a state space in its layer."""
  if how == 'glu':
    return dense(gelu(y), parts['value']) * logistic(dense(gelu(y), parts['gate']))
  return gelu(y) * logistic(dense(gelu(y), parts['gate'])) if how == 'half_glu' else y


def over_time(step, state, *inputs):
  """Scans step(state, *inputs_t) -> (state, output) over the second axis of the inputs."""
  outputs = []
  for t in range(inputs[0].shape[1]):
    state, y = step(state, *(x[:, t] for x in inputs))
    outputs.append(y)
  return np.stack(outputs, 1), state


def min_gru(layer, w, x, h):
  """Feng et al. 2024, section 3.1."""
  g = positive if layer.candidate == 'g' else lambda v: v

  def step(h, v):
    z = logistic(v[:, 0])
    h = (1 - z) * h + z * g(v[:, 1])
    return h, h

  y, h = over_time(step, h, dense(x, w['input']))
  return dense(y, w['output']) if layer.expand > 1 else y, h


def min_lstm(layer, w, x, h):
  """Feng et al. 2024, section 3.2."""
  def step(h, v):
    f, i = logistic(v[:, 0]), logistic(v[:, 1])
    h = f / (f + i) * h + i / (f + i) * positive(v[:, 2])
    return h, h

  return over_time(step, h, dense(x, w['input']))


def as_complex(parts, axis=0):
  real, imaginary = np.moveaxis(np.asarray(parts), axis, 0)
  return real + 1j * imaginary


def lru(layer, w, x, h):
  """Orvieto et al. 2023, equations 4 to 7."""
  eigenvalue = np.exp(-np.exp(w['nu']) + 1j * np.exp(w['theta']))
  b, c = as_complex(w['input_kernel'], 1), as_complex(w['output_kernel'])

  def step(h, x):
    h = eigenvalue * h + np.exp(w['gamma']) * (x @ b)
    return h, (h @ c).real + w['skip'] * x

  y, h = over_time(step, as_complex(h), x)
  return mixed(y, w['readout'], layer.readout), (h.real, h.imag)


def rg_lru(layer, w, x, state):
  """De et al. 2024, equations 1 to 4, in their recurrent block."""
  past, h = state
  branch, u = gelu(dense(x, w['branch'])), dense(x, w['input'])
  read = np.concatenate([past, u], 1)
  u = causal_depthwise(read, **w['convolution'])[:, past.shape[1] :]
  blocks = np.stack(np.split(u, layer.num_heads, -1), 2)
  gates = np.einsum('BTHK,HKGJ->BTGHJ', blocks, w['gate_kernel'])
  gates = logistic(gates.reshape(*u.shape[:2], 2, -1) + w['gate_bias'])

  def step(h, gate, u):
    r, i = gate[:, 0], gate[:, 1]
    a = logistic(w['lambda']) ** (8 * r)
    h = a * h + np.sqrt(1 - a**2) * (i * u)
    return h, h

  y, h = over_time(step, h, gates, u)
  return dense(branch * y, w['output']), (read[:, -past.shape[1] :], h)


def held(w):
  """A system in continuous time, its input held over steps."""
  a, step = -np.exp(w['log_real']) + 1j * w['imaginary'], np.exp(w['log_step'])
  return np.exp(step * a), (np.exp(step * a) - 1) / a


def s4d(layer, w, x, h):
  """Gu et al. 2022, equation 2 and section 4.4 with B = 1."""
  (decay, gain), c = held(w), as_complex(w['output_kernel'])

  def step(h, x):
    h = decay * h + x[:, None]
    return h, 2 * np.sum(c * gain * h, 1).real + w['skip'] * x

  y, h = over_time(step, as_complex(h), x)
  return mixed(y, w['readout'], layer.readout), (h.real, h.imag)


def s5(layer, w, x, h):
  """Smith et al. 2023, equations 2 and 6, of each conjugate pair one."""
  (decay, gain), b, c = held(w), as_complex(w['input_kernel'], 1), as_complex(w['output_kernel'])

  def step(h, x):
    h = decay * h + gain * (x @ b)
    return h, 2 * (h @ c).real + w['skip'] * x

  y, h = over_time(step, as_complex(h), x)
  return mixed(y, w['readout'], layer.readout), (h.real, h.imag)


def mamba(layer, w, x, state):
  """Gu and Dao 2023, algorithm 2 and figure 3; Grazzi et al. 2025 for the eigenvalues."""
  past, h = state
  u, gate = np.split(dense(x, w['input']), 2, -1)
  read = np.concatenate([past, u], 1)
  u = silu(causal_depthwise(read, **w['convolution'])[:, past.shape[1] :])
  rank, size = len(w['step_kernel']), layer.state_size
  low, b, c = np.split(dense(u, w['selection']), [rank, rank + size], -1)

  def step(h, u, dt, b, c):
    decay = np.exp(dt[:, None] * -np.exp(w['log_rate']))
    decay = 2 * decay - 1 if layer.eigenvalues == '[-1,1]' else decay
    h = decay * h + (dt * u)[:, None] * b[..., None]
    return h, np.einsum('BND,BN->BD', h, c) + w['skip'] * u

  y, h = over_time(step, h, u, softplus(low @ w['step_kernel'] + w['step_bias']), b, c)
  return dense(y * silu(gate), w['output']), (read[:, -past.shape[1] :], h)


REFERENCES = {
  'min_gru': (MinGRU(), min_gru),
  'min_gru, wide and linear': (MinGRU(2, candidate='linear'), min_gru),
  'min_lstm': (MinLSTM(), min_lstm),
  'lru': (LRU(), lru),
  'lru, of another size': (LRU(5, readout='none'), lru),
  'rg_lru': (RGLRU(3, kernel_size=3), rg_lru),
  's4d': (S4D(6), s4d),
  's4d, alone': (S4D(2, readout='none'), s4d),
  's5': (S5(8, blocks=2), s5),
  's5, fully mixed': (S5(4, readout='glu'), s5),
  'mamba': (Mamba(state_size=4), mamba),
  'mamba, of other sizes': (Mamba(1, 3, 2, dt_rank=2, eigenvalues='[-1,1]'), mamba),
}


@pytest.mark.parametrize('name', REFERENCES)
def test_a_layer_is_its_equation_step_by_step(name):
  layer, reference = REFERENCES[name]
  width = 2 * layer.width_multiple if layer.width_multiple > 1 else WIDTH
  parameters, x, state = drawn(layer, length=10, width=width)
  y, after = jax.jit(layer.apply)(parameters, x, state)
  weights, x, state = in_float64(parameters['params'], x, state)
  expected, end = reference(layer, weights | {'readout': weights.get('readout')}, x, state)
  close(y, expected)
  for found, value in zip(jax.tree.leaves(after), jax.tree.leaves(end), strict=True):
    close(found, value)


@functools.cache
def initialised(layer, width=32):
  parameters = jax.jit(layer.init)(jax.random.key(0), jnp.zeros((1, 2, width)))
  return in_float64(parameters['params'])[0]


def test_a_min_lstm_starts_by_keeping_as_much_as_its_forget_bias_says():
  layer, nothing = MinLSTM(forget_bias=1.5), jnp.zeros((1, 1, 4))
  parameters = jax.jit(layer.init)(jax.random.key(0), nothing)
  f = logistic(1.5)
  _, h = jax.jit(layer.apply)(parameters, nothing, jnp.ones((1, 4)))
  np.testing.assert_allclose(h, f / (f + 0.5) + 0.5 * 0.5 / (f + 0.5), rtol=1e-6)  # g(0) = 1/2


def test_a_min_lstm_whose_gates_are_both_shut_is_finite():
  layer, x = MinLSTM(), jnp.ones((1, 3, 4))
  parameters = jax.jit(layer.init)(jax.random.key(0), x)
  parameters['params']['input']['bias'] = -200.0 * jnp.ones((3, 4))
  gradients = jax.jit(jax.grad(lambda p: jnp.sum(layer.apply(p, x)[0])))(parameters)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_eigenvalues_of_an_lru_start_uniform_in_a_ring_and_its_input_normalised():
  weights = initialised(LRU(512, r_min=0.4, r_max=0.9, max_phase=0.5))
  radius, phase = np.exp(-np.exp(weights['nu'])), np.exp(weights['theta'])
  assert 0.4 <= radius.min() < 0.45 and 0.88 < radius.max() <= 0.9
  assert phase.min() < 0.01 and 0.49 < phase.max() <= 0.5
  area = (radius**2 - 0.4**2) / (0.9**2 - 0.4**2)
  np.testing.assert_allclose(np.quantile(area, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.08)
  np.testing.assert_allclose(np.exp(weights['gamma']), np.sqrt(1 - radius**2), rtol=1e-5)


def test_decays_of_an_rg_lru_start_where_griffin_says():
  kept = logistic(initialised(RGLRU(), 512)['lambda']) ** 8
  assert 0.9 <= kept.min() < 0.91 and 0.99 < kept.max() <= 0.999


def test_the_gradient_of_an_rg_lru_is_finite_where_it_keeps_all():
  layer, x = RGLRU(2), jnp.ones((1, 3, 4))
  parameters = jax.jit(layer.init)(jax.random.key(0), x)
  parameters['params']['gate_bias'] = -200.0 * jnp.ones((2, 4))  # r = 0, a = 1
  gradients = jax.jit(jax.grad(lambda p: jnp.sum(layer.apply(p, x)[0])))(parameters)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_an_rg_lru_whose_gate_is_shut_takes_in_as_little_as_its_equation_says():
  layer, ones = RGLRU(1), jnp.ones((1, 1000, 1))
  parameters = jax.jit(layer.init)(jax.random.key(0), ones)
  weights = jax.tree.map(jnp.zeros_like, parameters['params'])
  weights |= {'gate_bias': jnp.array([[-30.0], [30.0]]), 'lambda': parameters['params']['lambda']}
  weights['convolution'] |= {'bias': jnp.ones(1)}  # what comes in is 1
  _, state = jax.jit(layer.apply)({'params': weights}, ones)
  (log_a,) = in_float64(8 * logistic(-30.0) * -np.log1p(np.exp(-np.float64(weights['lambda']))))
  expected = np.sqrt(-np.expm1(2 * log_a)) * np.sum(np.exp(log_a * np.arange(1000)[:, None]), 0)
  assert 0 < expected < 4e-4
  np.testing.assert_allclose(state.hidden[0], expected, rtol=1e-4)


def test_the_root_of_an_rg_lru_is_exact_and_its_slope_bounded():
  x = np.array([0, 1e-12, 1e-6, 0.3, 1], np.float32)
  np.testing.assert_allclose(bounded_root(jnp.array(x)), np.sqrt(x.astype(float)), rtol=1e-6)
  slope = jax.vmap(jax.grad(bounded_root))(jnp.array(x))
  expected = 0.5 / np.sqrt(np.maximum(x.astype(float), 0.25 / LARGEST_SLOPE**2))
  np.testing.assert_allclose(slope, expected, rtol=1e-5)


def test_eigenvalues_of_an_lru_next_to_the_unit_circle_start_within_it():
  weights = initialised(LRU(4096, r_min=1 - 1e-6))
  assert all(np.isfinite(weights[name]).all() for name in ('nu', 'theta', 'gamma'))
  np.testing.assert_allclose(np.exp(-np.exp(weights['nu'])), 1 - 5e-7, atol=6e-7)


def hippo_n(size):
  """HiPPO-LegS with its part of rank one taken away (Gu et al. 2022, section 3.2)."""
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
def test_s4d_starts_with_the_eigenvalues_that_its_name_says(initialisation, imaginary):
  weights = initialised(S4D(16, initialisation))
  np.testing.assert_allclose(weights['imaginary'], np.tile(imaginary[:, None], 32), rtol=1e-5)
  np.testing.assert_allclose(-np.exp(weights['log_real']), -0.5, rtol=1e-6)


def test_the_columns_of_hippo_normal_are_its_eigenvectors():
  frequency, basis = (np.asarray(a) for a in hippo_normal(16))
  np.testing.assert_allclose(hippo_n(16) @ basis, basis * (-0.5 + 1j * frequency), atol=1e-4)
  np.testing.assert_allclose(basis.conj().T @ basis, np.eye(8), atol=1e-5)


@pytest.mark.parametrize('blocks', [1, 2])
def test_s5_starts_as_hippo_normal_with_real_matrices_seen_in_its_eigenvectors(blocks):
  layer, size = S5(16, blocks=blocks), 16 // blocks
  weights = initialised(layer, 256)
  eigenvalues = np.linalg.eigvals(hippo_n(size))
  np.testing.assert_allclose(eigenvalues.real, -0.5, atol=1e-9)
  np.testing.assert_allclose(-np.exp(weights['log_real']), -0.5, rtol=1e-6)
  imaginary = np.tile(np.sort(eigenvalues.imag)[size // 2 :], blocks)
  np.testing.assert_allclose(weights['imaginary'], imaginary, rtol=1e-5)
  basis = np.kron(np.eye(blocks), hippo_normal(size)[1])
  b, c = as_complex(weights['input_kernel'], 1), as_complex(weights['output_kernel'])
  real_b, real_c = 2 * (b @ basis.T).real, 2 * (basis.conj() @ c).real
  np.testing.assert_allclose(real_b @ basis.conj(), b, atol=1e-5)
  np.testing.assert_allclose(basis.T @ real_c, c, atol=1e-5)
  np.testing.assert_allclose([real_b.std() * 16, real_c.std() * 4], 1, atol=0.05)


@pytest.mark.parametrize(('input_variance', 'variance'), [('1/D', 1 / 256), ('1/N', 1 / 16)])
def test_the_input_matrix_of_s5_starts_at_the_variance_that_is_named(input_variance, variance):
  weights = initialised(S5(16, input_variance=input_variance), 256)
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
def test_steps_start_log_uniform_between_their_bounds(layer, step):
  step = step(initialised(layer, 256))
  assert step.min() > 0.0099 and step.max() < 0.5001
  np.testing.assert_allclose(np.median(np.log(step)), np.log(0.01 * 0.5) / 2, atol=0.8)


def test_mamba_starts_with_the_decays_of_s4d_real_and_a_rank_of_a_sixteenth():
  weights = initialised(Mamba(), 40)
  assert weights['step_kernel'].shape == (3, 80) and np.abs(weights['step_kernel']).max() <= 3**-0.5
  np.testing.assert_allclose(np.exp(weights['log_rate']), np.tile(np.arange(1, 17)[:, None], 80))
  assert (weights['skip'] == 1).all()


@pytest.mark.parametrize(
  ('make', 'named'),
  [
    (lambda: MinGRU(0), 'expand >= 1, not 0'),
    (lambda: MinLSTM(candidate='h'), "candidate 'h'.*g, linear"),
    (lambda: LRU(-1), 'state_size >= 0.*not -1'),
    (lambda: LRU(r_min=0.9, r_max=0.5), 'r_min < r_max <= 1, not 0.9 and 0.5'),
    (lambda: LRU(max_phase=0.0), 'max_phase > 0, not 0.0'),
    (lambda: LRU(readout='gru'), "readout 'gru'.*glu, half_glu, none"),
    (lambda: RGLRU(num_heads=0), 'num_heads >= 1, not 0'),
    (lambda: S4D(5), 'state_size of 5.*multiples of 2'),
    (lambda: S4D(initialisation='real'), "initialisation 'real'.*lin, inv, legs"),
    (lambda: S5(6, blocks=2), 'state_size of 6.*multiples of 4'),
    (lambda: S5(dt_min=0.5, dt_max=0.1), 'dt_min < dt_max, not 0.5 and 0.1'),
    (lambda: S5(input_variance='1'), "input_variance '1'; there are 1/D, 1/N"),
    (lambda: Mamba(kernel_size=0), 'kernel_size >= 1, not 0'),
    (lambda: Mamba(dt_rank=-1), 'dt_rank >= 0.*not -1'),
    (lambda: Mamba(eigenvalues='[0,2]'), 'eigenvalues.*0,2'),
  ],
)
def test_what_is_no_linear_recurrence_is_refused_by_name(make, named):
  with pytest.raises(ValueError, match=named):
    make()
