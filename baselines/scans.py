"""Linear recurrences, element by element: the loop of every layer whose state is a decaying sum.

  h_t = a_t h_{t-1} + b_t,   t = 0 .. T - 1

real or complex, in three forms that are equal but for rounding:

  sequential    one step after another: the least work, in T steps
  associative   (a, b) followed by (c, d) is (c a, c b + d), so that a tree of pairs has every
                prefix, in log T steps                    (Blelloch 1990; Martin and Cundy 2018)
  chunked       chunks of about sqrt(T) tokens side by side, each step by step from nothing; then
                from chunk to chunk, and what came before, decayed, to every token: 2 sqrt(T) steps

The gradient is the recurrence in reverse, in the same form (Martin and Cundy 2018):

  g_t = dh_t + a_{t+1} g_{t+1},   db_t = g_t,   da_t = g_t h_{t-1}

for complex numbers too, of which JAX carries the conjugate gradient. Time is the first axis, here
alone: a step then reads and writes whole blocks of memory, which is most of its cost on a CPU.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from transformer import platform

EIGENVALUES = ('[0,1]', '[-1,1]')  # of the matrix that a step multiplies the state by
FORMS = ('auto', 'sequential', 'associative', 'chunked')


def linear_scan(
  decay: jax.Array,
  drive: jax.Array,
  initial: jax.Array,
  mask: jax.Array | None = None,
  form: str = 'auto',
) -> tuple[jax.Array, jax.Array]:
  """All states of h_t = a_t h_{t-1} + b_t, and the last one.

  Args:
    decay: a, [T, B, ...] with as many axes as the drive; an axis along which the decay is the same
      may be 1, the first one too.
    drive: b, [T, B, ...]; real or complex.
    initial: h_{-1}, [B, ...], the state before the first token.
    mask: [T, B]; where it is false a step leaves the state as it is. None: true everywhere.
    form: one of FORMS; 'auto' picks by platform and length.

  Returns:
    states [T, B, ...] and the last state [B, ...].

  """
  form = _form(form, len(drive))
  if mask is not None:
    mask = mask.reshape(mask.shape + (1,) * (drive.ndim - 2))
    decay, drive = jnp.where(mask, decay, 1), jnp.where(mask, drive, 0)
  dtype = jnp.result_type(decay, drive, initial)
  return _recurrence(decay.astype(dtype), drive.astype(dtype), initial.astype(dtype), form)


def expanded_scan(
  expand: Callable, read: Callable, inputs, initial: jax.Array, form: str = 'auto'
) -> tuple[jax.Array, jax.Array]:
  """What is read from states that are too large to be kept for all times, and the last of them.

    a_t, b_t = expand(inputs_t),   h_t = a_t h_{t-1} + b_t,   y_t = read(h_t, inputs_t)

  A chunk of tokens at a time; the gradient computes its states again. What lives at once is one
  state a chunk, and those of one chunk.

  Args:
    expand: the inputs of one token -> a and b, [B, ...], an axis of 1 where they are shared.
    read: h [B, ...] and the inputs of one token -> y [B, ...].
    inputs: a pytree of arrays [T, ...].
    initial: h_{-1}, [B, ...].
    form: one of FORMS, in which a chunk is computed.

  Returns:
    y [T, B, ...] and the last state [B, ...].

  """
  form = _form(form, len(jax.tree.leaves(inputs)[0]))

  def token(h, now):
    decay, drive = expand(now)
    h = decay * h + drive
    return h, read(h, now)

  def chunk(h, chunk):
    if form == 'sequential':
      return jax.lax.scan(token, h, chunk)
    decay, drive = jax.vmap(expand)(chunk)
    drive = jnp.broadcast_to(drive, (len(drive), *h.shape))
    states, last = linear_scan(decay, drive, h, form=form)
    return last, jax.vmap(read)(states, chunk)

  return _in_chunks(chunk, inputs, initial, 8 if form == 'sequential' else 64)


def _in_chunks(step, inputs, state, size):
  """Scans step(state, inputs [size, ...]) -> (state, outputs); the last chunk may be shorter.

  The gradient computes again what happens within a chunk, other than that last one.
  """
  length = len(jax.tree.leaves(inputs)[0])
  whole, outputs = length - length % size, []
  if whole:
    cut = jax.tree.map(lambda x: x[:whole].reshape(-1, size, *x.shape[1:]), inputs)
    state, y = jax.lax.scan(jax.checkpoint(step), state, cut)
    outputs.append(y.reshape(whole, *y.shape[2:]))
  if whole < length or not length:
    state, y = step(state, jax.tree.map(lambda x: x[whole:], inputs))
    outputs.append(y)
  return jnp.concatenate(outputs), state


def _form(form, length):
  """The form that is meant."""
  if form not in FORMS:
    raise ValueError(f'no form {form!r} of a linear scan; there are {", ".join(FORMS)}')
  if not length:  # the only form that needs no first step
    return 'sequential'
  if form != 'auto':
    return form
  # On a CPU the least work wins at every length; elsewhere a step costs a launch, however small.
  return 'sequential' if platform.current() == 'cpu' or length < 32 else 'associative'


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _recurrence(decay, drive, initial, form):
  if form == 'sequential':
    return _sequential(decay, drive, initial)
  states = _parallel(decay, drive, initial, form)
  return states, states[-1]


def _recurrence_forward(decay, drive, initial, form):
  states, last = _recurrence(decay, drive, initial, form)
  return (states, last), (decay, initial, states)


def _recurrence_backward(form, kept, cotangents):
  decay, initial, states = kept
  if form == 'sequential':
    adjoint, first = _sequential_adjoint(decay, *cotangents)
  else:
    adjoint = _parallel_adjoint(decay, *cotangents, form)
    first = decay[0] * adjoint[0]
  is_first = (jnp.arange(len(states)) == 0).reshape(-1, *(1,) * initial.ndim)
  before = jnp.where(is_first, initial[None], jnp.roll(states, 1, 0))
  return _summed_to(decay.shape, adjoint * before), adjoint, first


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)


def _summed_to(shape, x):
  """The sum of x over the axes that are 1 in the shape."""
  shared = [i for i, size in enumerate(shape) if size != x.shape[i]]
  return jnp.sum(x, shared, keepdims=True)


def _sequential(decay, drive, initial):
  constant, decays = _constant(decay)

  def step(h, now):
    a, b = now
    h = (constant if a is None else a) * h + b
    return h, h

  last, states = jax.lax.scan(step, initial, (decays, drive))
  return states, last


def _sequential_adjoint(decay, cotangent, last):
  """g, and a_0 g_0; from step to step goes a_t g_t, so that no copy of the decay is shifted."""
  constant, decays = _constant(decay)

  def step(later, now):
    a, dh = now
    g = dh + later
    return (constant if a is None else a) * g, g

  first, adjoint = jax.lax.scan(step, last, (decays, cotangent), reverse=True)
  return adjoint, first


def _constant(decay):
  """What stays the same at all steps, and what the loop has to read; one of them is None."""
  return (decay[0], None) if len(decay) == 1 else (None, decay)


def _parallel(decay, drive, initial, form):
  decay = jnp.broadcast_to(decay, (len(drive), *decay.shape[1:]))
  if form == 'chunked':
    return _chunked(decay, drive, initial)
  drive = drive.at[0].add(decay[0] * initial)
  return jax.lax.associative_scan(_followed, (decay, drive))[1]


def _parallel_adjoint(decay, cotangent, last, form):
  """The same form, read from the end; its first step, from nothing, may decay by anything."""
  reverse = functools.partial(jnp.flip, axis=0)
  cotangent = cotangent.at[-1].add(last)
  later = jnp.roll(decay, -1, 0)
  return reverse(_parallel(reverse(later), reverse(cotangent), jnp.zeros_like(last), form))


def _followed(one, other):
  """The step that does what two steps in a row do."""
  (a, b), (c, d) = one, other
  return c * a, c * b + d


def _chunked(decay, drive, initial):
  length = len(drive)
  size = math.isqrt(length - 1) + 1  # of a chunk
  count = -(-length // size)

  def cut(x):  # [T, ...] -> [token in its chunk, chunk, ...]
    rest = jnp.zeros((count * size - length, *x.shape[1:]), x.dtype)  # read by nothing
    return jnp.concatenate([x, rest]).reshape(count, size, *x.shape[1:]).swapaxes(0, 1)

  def within(before, now):
    after = _followed(before, now)
    return after, after

  def across(h, chunk):
    return chunk[0] * h + chunk[1], h

  decay, drive = cut(decay), cut(drive)
  nothing = jnp.ones_like(decay[0]), jnp.zeros_like(drive[0])
  chunk, (decay, drive) = jax.lax.scan(within, nothing, (decay, drive))
  _, entering = jax.lax.scan(across, initial, chunk)  # the state before each chunk
  states = decay * entering[None] + drive
  return states.swapaxes(0, 1).reshape(-1, *drive.shape[2:])[:length]
