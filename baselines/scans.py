"""Scans that compute elementwise linear recurrences, sequentially or in parallel over time.

  h_t = a_t h_{t-1} + b_t,   t = 0 .. T - 1

The numbers are real or complex. Two forms give the same result up to rounding.

  sequential    a loop over the tokens, with the least arithmetic, in T steps
  associative   the step (a, b) followed by the step (c, d) is the step (c a, c b + d). The
                composition is associative, so a tree of pairs computes every prefix in log T
                steps                                     (Blelloch 1990; Martin and Cundy 2018)

The gradient is the reversed recurrence, computed in the same form (Martin and Cundy 2018):

  g_t = dh_t + a_{t+1} g_{t+1},   db_t = g_t,   da_t = g_t h_{t-1}

It holds for complex numbers too, because JAX propagates the conjugate gradient. In this module
alone, time is the first axis. Each step then transfers contiguous blocks of memory, and such
transfers are most of the cost of a step on a CPU.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from transformer import platform

EIGENVALUES = ('[0,1]', '[-1,1]')  # ranges of the eigenvalues of a state transition
FORMS = ('auto', 'sequential', 'associative')


def linear_scan(
  decay: jax.Array,
  input_term: jax.Array,
  initial_state: jax.Array,
  mask: jax.Array | None = None,
  form: str = 'auto',
) -> tuple[jax.Array, jax.Array]:
  """Computes all states of the linear recurrence h_t = a_t h_{t-1} + b_t.

  Args:
    decay: a, [T, B, ...] with as many axes as the input term. An axis, including the time axis, may
      have size 1 if the decay is constant along it.
    input_term: b, [T, B, ...], real or complex.
    initial_state: h_{-1}, [B, ...], the state before the first token.
    mask: [T, B], false where a step leaves the state unchanged. None means true everywhere.
    form: an entry of FORMS. 'auto' chooses by platform and length.

  Returns:
    The states [T, B, ...] and the last state [B, ...].

  Raises:
    ValueError: if the form is not in FORMS.

  Examples:
    >>> import jax.numpy as jnp
    >>> from baselines.scans import linear_scan
    >>> decay, input_term = jnp.full((4, 1, 1), 0.5), jnp.ones((4, 1, 1))  # [T, B, D]
    >>> states, last = linear_scan(decay, input_term, jnp.zeros((1, 1)))
    >>> [round(float(h), 3) for h in states[:, 0, 0]]
    [1.0, 1.5, 1.75, 1.875]
    >>> last.shape
    (1, 1)

  """
  form = select_scan_form(form, len(input_term))
  if mask is not None:
    mask = mask.reshape(mask.shape + (1,) * (input_term.ndim - 2))
    decay, input_term = jnp.where(mask, decay, 1), jnp.where(mask, input_term, 0)
  dtype = jnp.result_type(decay, input_term, initial_state)
  return _linear_recurrence(
    decay.astype(dtype), input_term.astype(dtype), initial_state.astype(dtype), form
  )


def scan_without_storing_states(
  compute_decay_and_input_term: Callable,
  readout: Callable,
  inputs,
  initial_state: jax.Array,
  form: str = 'auto',
) -> tuple[jax.Array, jax.Array]:
  """Computes the outputs of a linear recurrence whose states are too large to store.

    a_t, b_t = compute_decay_and_input_term(inputs_t),   h_t = a_t h_{t-1} + b_t
    y_t = readout(h_t, inputs_t)

  The scan processes a chunk of tokens at a time, and the gradient recomputes the states of each
  chunk. Memory holds one state per chunk and the states of a single chunk.

  Args:
    compute_decay_and_input_term: a function from the inputs of one token to a and b, each [B, ...]
      or with axes of size 1 where they are shared.
    readout: a function from h [B, ...] and the inputs of one token to y [B, ...].
    inputs: a pytree of arrays [T, ...].
    initial_state: h_{-1}, [B, ...], the state before the first token.
    form: the entry of FORMS that computes each chunk.

  Returns:
    The outputs y [T, B, ...] and the last state [B, ...].

  Raises:
    ValueError: if the form is not in FORMS.

  Examples:
    A cumulative sum of outer products u_t v_t^T, of which only the row sums are returned:

    >>> import jax.numpy as jnp
    >>> from baselines.scans import scan_without_storing_states
    >>> u, v = jnp.ones((5, 1, 2)), jnp.ones((5, 1, 3))  # [T, B, N], [T, B, D]
    >>> y, last = scan_without_storing_states(
    ...   lambda now: (jnp.ones((1, 1, 1)), now[0][:, :, None] * now[1][:, None]),
    ...   lambda state, now: state.sum(-1),
    ...   (u, v), jnp.zeros((1, 2, 3)))
    >>> y.shape, last.shape
    ((5, 1, 2), (1, 2, 3))
    >>> [float(value) for value in y[:, 0, 0]]
    [3.0, 6.0, 9.0, 12.0, 15.0]

  """
  form = select_scan_form(form, len(jax.tree.leaves(inputs)[0]))

  def process_token(h, token_inputs):
    decay, input_term = compute_decay_and_input_term(token_inputs)
    h = decay * h + input_term
    return h, readout(h, token_inputs)

  def process_chunk(h, chunk_inputs):
    if form == 'sequential':
      return jax.lax.scan(process_token, h, chunk_inputs)
    decay, input_term = jax.vmap(compute_decay_and_input_term)(chunk_inputs)
    input_term = jnp.broadcast_to(input_term, (len(input_term), *h.shape))
    states, last = linear_scan(decay, input_term, h, form=form)
    return last, jax.vmap(readout)(states, chunk_inputs)

  return _scan_chunks(process_chunk, inputs, initial_state, 8 if form == 'sequential' else 64)


def _scan_chunks(step, inputs, state, chunk_size):
  """Scans a step function over chunks of `chunk_size` tokens, the last of which may be shorter.

  The step maps the state and inputs [chunk_size, ...] to the next state and outputs. The gradient
  recomputes the intermediate values of every chunk except a shorter last chunk.
  """
  length = len(jax.tree.leaves(inputs)[0])
  full_length, outputs = length - length % chunk_size, []
  if full_length:
    chunks = jax.tree.map(lambda x: x[:full_length].reshape(-1, chunk_size, *x.shape[1:]), inputs)
    state, y = jax.lax.scan(jax.checkpoint(step), state, chunks)
    outputs.append(y.reshape(full_length, *y.shape[2:]))
  if full_length < length or not length:
    state, y = step(state, jax.tree.map(lambda x: x[full_length:], inputs))
    outputs.append(y)
  return jnp.concatenate(outputs), state


def select_scan_form(form: str, length: int) -> str:
  """Returns the given form, or for 'auto' the fastest for the platform and the length."""
  if form not in FORMS:
    raise ValueError(f'unknown form {form!r} of a linear scan; the forms are '
                     f'{", ".join(FORMS)}')
  if not length:  # The associative form needs a first token.
    return 'sequential'
  if form != 'auto':
    return form
  # On a CPU the sequential form, with the least arithmetic, is the fastest at every length.
  # On an accelerator even a small step of a sequential loop costs a kernel launch.
  is_sequential = platform.current_platform() == 'cpu' or length < 32
  return 'sequential' if is_sequential else 'associative'


def largest_divisor(number: int, most: int) -> int:
  """The largest divisor of a number that is at most `most`, or 1, to split a batch into groups."""
  return next(n for n in range(max(1, min(number, most)), 0, -1) if number % n == 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _linear_recurrence(decay, input_term, initial_state, scan_form):
  if scan_form == 'sequential':
    return _states_by_sequential_scan(decay, input_term, initial_state)
  states = _states_by_associative_scan(decay, input_term, initial_state)
  return states, states[-1]


def _linear_recurrence_forward(decay, input_term, initial_state, scan_form):
  states, last = _linear_recurrence(decay, input_term, initial_state, scan_form)
  return (states, last), (decay, initial_state, states)


def _linear_recurrence_backward(scan_form, residuals, cotangents):
  decay, initial_state, states = residuals
  if scan_form == 'sequential':
    adjoint, initial_gradient = _state_gradients_by_sequential_scan(decay, *cotangents)
  else:
    adjoint = _state_gradients_by_associative_scan(decay, *cotangents)
    initial_gradient = decay[0] * adjoint[0]
  is_first = (jnp.arange(len(states)) == 0).reshape(-1, *(1,) * initial_state.ndim)
  previous = jnp.where(is_first, initial_state[None], jnp.roll(states, 1, 0))
  return _sum_to_shape(decay.shape, adjoint * previous), adjoint, initial_gradient


_linear_recurrence.defvjp(_linear_recurrence_forward, _linear_recurrence_backward)


def _sum_to_shape(shape, x):
  """Sums x over the axes that have size 1 in `shape`."""
  shared = [i for i, size in enumerate(shape) if size != x.shape[i]]
  return jnp.sum(x, shared, keepdims=True)


def _states_by_sequential_scan(decay, input_term, initial_state):
  constant, decays = _constant_and_per_token_decay(decay)

  def next_state(h, inputs):
    a, b = inputs
    h = (constant if a is None else a) * h + b
    return h, h

  last, states = jax.lax.scan(next_state, initial_state, (decays, input_term))
  return states, last


def _state_gradients_by_sequential_scan(decay, cotangent, last_cotangent):
  """Computes the gradients g_t of all states and of the initial state by a loop back in time.

  The loop carries a_t g_t, which avoids a shifted copy of the decay.
  """
  constant, decays = _constant_and_per_token_decay(decay)

  def propagate_gradient(carried_gradient, inputs):
    a, dh = inputs
    g = dh + carried_gradient
    return (constant if a is None else a) * g, g

  initial_gradient, adjoint = jax.lax.scan(
    propagate_gradient, last_cotangent, (decays, cotangent), reverse=True
  )
  return adjoint, initial_gradient


def _constant_and_per_token_decay(decay):
  """Returns (decay, None) if the decay is constant over time, and (None, decay) otherwise."""
  return (decay[0], None) if len(decay) == 1 else (None, decay)


def _states_by_associative_scan(decay, input_term, initial_state):
  decay = jnp.broadcast_to(decay, (len(input_term), *decay.shape[1:]))
  input_term = input_term.at[0].add(decay[0] * initial_state)
  return jax.lax.associative_scan(_compose_steps, (decay, input_term))[1]


def _state_gradients_by_associative_scan(decay, cotangent, last_cotangent):
  """Computes the gradients g_t of all states by an associative scan in reversed time.

  The reversed scan starts from a state of zero, so the decay of its first step is arbitrary.
  """
  reverse = functools.partial(jnp.flip, axis=0)
  cotangent = cotangent.at[-1].add(last_cotangent)
  later = jnp.roll(decay, -1, 0)
  zeros = jnp.zeros_like(last_cotangent)
  return reverse(_states_by_associative_scan(reverse(later), reverse(cotangent), zeros))


def _compose_steps(first, second):
  """Composes two consecutive steps of a linear recurrence into a single equivalent step."""
  (a, b), (c, d) = first, second
  return c * a, c * b + d
