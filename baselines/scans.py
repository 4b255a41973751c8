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
  drive: jax.Array,
  initial: jax.Array,
  mask: jax.Array | None = None,
  form: str = 'auto',
) -> tuple[jax.Array, jax.Array]:
  """Computes all states of the linear recurrence h_t = a_t h_{t-1} + b_t.

  Args:
    decay: a, [T, B, ...] with as many axes as the drive. An axis may have size 1 if the decay is
      constant along it, including the time axis.
    drive: b, [T, B, ...], real or complex.
    initial: h_{-1}, [B, ...], the state before the first token.
    mask: [T, B], false where a step leaves the state unchanged. None means true everywhere.
    form: an entry of FORMS. 'auto' chooses by platform and length.

  Returns:
    The states [T, B, ...] and the last state [B, ...].

  Raises:
    ValueError: if the form is not in FORMS.

  Examples:
    >>> import jax.numpy as jnp
    >>> from baselines.scans import linear_scan
    >>> decay, drive = jnp.full((4, 1, 1), 0.5), jnp.ones((4, 1, 1))  # [T, B, D]
    >>> states, last = linear_scan(decay, drive, jnp.zeros((1, 1)))
    >>> [round(float(h), 3) for h in states[:, 0, 0]]
    [1.0, 1.5, 1.75, 1.875]
    >>> last.shape
    (1, 1)

  """
  form = _select_scan_form(form, len(drive))
  if mask is not None:
    mask = mask.reshape(mask.shape + (1,) * (drive.ndim - 2))
    decay, drive = jnp.where(mask, decay, 1), jnp.where(mask, drive, 0)
  dtype = jnp.result_type(decay, drive, initial)
  return _linear_recurrence(decay.astype(dtype), drive.astype(dtype), initial.astype(dtype), form)


def scan_without_storing_states(
  decay_and_drive: Callable, readout: Callable, inputs, initial: jax.Array, form: str = 'auto'
) -> tuple[jax.Array, jax.Array]:
  """Computes the outputs of a linear recurrence whose states are too large to store.

    a_t, b_t = decay_and_drive(inputs_t),   h_t = a_t h_{t-1} + b_t,   y_t = readout(h_t, inputs_t)

  The scan processes a chunk of tokens at a time, and the gradient recomputes the states of each
  chunk. Memory holds one state per chunk and the states of a single chunk.

  Args:
    decay_and_drive: a function from the inputs of one token to a and b, each [B, ...] or with axes
      of size 1 where they are shared.
    readout: a function from h [B, ...] and the inputs of one token to y [B, ...].
    inputs: a pytree of arrays [T, ...].
    initial: h_{-1}, [B, ...], the state before the first token.
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
  form = _select_scan_form(form, len(jax.tree.leaves(inputs)[0]))

  def process_token(h, token_inputs):
    decay, drive = decay_and_drive(token_inputs)
    h = decay * h + drive
    return h, readout(h, token_inputs)

  def process_chunk(h, chunk_inputs):
    if form == 'sequential':
      return jax.lax.scan(process_token, h, chunk_inputs)
    decay, drive = jax.vmap(decay_and_drive)(chunk_inputs)
    drive = jnp.broadcast_to(drive, (len(drive), *h.shape))
    states, last = linear_scan(decay, drive, h, form=form)
    return last, jax.vmap(readout)(states, chunk_inputs)

  return _scan_chunks(process_chunk, inputs, initial, 8 if form == 'sequential' else 64)


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


def _select_scan_form(form, length):
  """Returns the form, or the fastest form for the platform and length if the form is 'auto'."""
  if form not in FORMS:
    raise ValueError(f'unknown form {form!r} of a linear scan; the forms are {", ".join(FORMS)}')
  if not length:  # The associative form needs a first token.
    return 'sequential'
  if form != 'auto':
    return form
  # On a CPU the sequential form, with the least arithmetic, is the fastest at every length.
  # On an accelerator even a small step of a sequential loop costs a kernel launch.
  is_sequential = platform.current_platform() == 'cpu' or length < 32
  return 'sequential' if is_sequential else 'associative'


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _linear_recurrence(decay, drive, initial, form):
  if form == 'sequential':
    return _sequential_states(decay, drive, initial)
  states = _associative_states(decay, drive, initial)
  return states, states[-1]


def _linear_recurrence_forward(decay, drive, initial, form):
  states, last = _linear_recurrence(decay, drive, initial, form)
  return (states, last), (decay, initial, states)


def _linear_recurrence_backward(form, residuals, cotangents):
  decay, initial, states = residuals
  if form == 'sequential':
    adjoint, initial_gradient = _sequential_adjoint(decay, *cotangents)
  else:
    adjoint = _associative_adjoint(decay, *cotangents)
    initial_gradient = decay[0] * adjoint[0]
  is_first = (jnp.arange(len(states)) == 0).reshape(-1, *(1,) * initial.ndim)
  previous = jnp.where(is_first, initial[None], jnp.roll(states, 1, 0))
  return _sum_to_shape(decay.shape, adjoint * previous), adjoint, initial_gradient


_linear_recurrence.defvjp(_linear_recurrence_forward, _linear_recurrence_backward)


def _sum_to_shape(shape, x):
  """Sums x over the axes that have size 1 in `shape`."""
  shared = [i for i, size in enumerate(shape) if size != x.shape[i]]
  return jnp.sum(x, shared, keepdims=True)


def _sequential_states(decay, drive, initial):
  constant, decays = _constant_and_varying_decay(decay)

  def next_state(h, inputs):
    a, b = inputs
    h = (constant if a is None else a) * h + b
    return h, h

  last, states = jax.lax.scan(next_state, initial, (decays, drive))
  return states, last


def _sequential_adjoint(decay, cotangent, last_cotangent):
  """The gradients of all inputs and of the initial state, computed by a loop back in time.

  The loop carries a_t g_t, which avoids a shifted copy of the decay.
  """
  constant, decays = _constant_and_varying_decay(decay)

  def propagate_gradient(carried_gradient, inputs):
    a, dh = inputs
    g = dh + carried_gradient
    return (constant if a is None else a) * g, g

  initial_gradient, adjoint = jax.lax.scan(
    propagate_gradient, last_cotangent, (decays, cotangent), reverse=True
  )
  return adjoint, initial_gradient


def _constant_and_varying_decay(decay):
  """Returns (decay, None) if the decay is constant over time, and (None, decay) otherwise."""
  return (decay[0], None) if len(decay) == 1 else (None, decay)


def _associative_states(decay, drive, initial):
  decay = jnp.broadcast_to(decay, (len(drive), *decay.shape[1:]))
  drive = drive.at[0].add(decay[0] * initial)
  return jax.lax.associative_scan(_compose_steps, (decay, drive))[1]


def _associative_adjoint(decay, cotangent, last_cotangent):
  """Computes the gradients g_t for all inputs b_t by an associative scan in reversed time.

  The reversed scan starts from a state of zero, so the decay of its first step is arbitrary.
  """
  reverse = functools.partial(jnp.flip, axis=0)
  cotangent = cotangent.at[-1].add(last_cotangent)
  later = jnp.roll(decay, -1, 0)
  zeros = jnp.zeros_like(last_cotangent)
  return reverse(_associative_states(reverse(later), reverse(cotangent), zeros))


def _compose_steps(first, second):
  """Composes two consecutive steps of a linear recurrence into a single equivalent step."""
  (a, b), (c, d) = first, second
  return c * a, c * b + d
