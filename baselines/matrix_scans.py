"""Linear recurrences whose state is a matrix, a sum of outer products, in two equal forms.

  S_t = a_t S_{t-1} + k_t v_t^T,   y_t = S_t^T q_t        S: [K, V], a memory that keys address

a_t is 1 (linear attention), a number for each head (RetNet; Mamba-2's SSD), or a number for each
head and key channel (GLA), S_t = diag(a_t) S_{t-1} + k_t v_t^T.

  recurrent    the definition, one time after another
  chunked      time in chunks of C. With L_ij = log a_{j+1} + ... + log a_i, i and j counting from 1
               in a chunk, and S the state before it,
                 y_i = sum_{j <= i} exp(L_ij) (q_i . k_j) v_j + exp(L_i0) S^T q_i
                 S'  = exp(L_C0) S + sum_j exp(L_Cj) k_j v_j^T
               are matrix products, of all chunks at once; only S' goes from chunk to chunk.
               (Sun et al. 2023, equation 7; Dao and Gu 2024, section 6)

No exponent is above 0, so that nothing overflows, and each is a sum of numbers of one sign, never
a difference of longer sums, so that nothing cancels: the forms agree to rounding for any decay.

A decay for each channel stays inside the product q_i . k_j, so that it is factored through a cut
between j and i (Yang et al. 2024, section 4.3): q_i decayed since the cut meets k_j decayed until
the cut. Here a chunk is cut in the middle, and then its halves are, down to single tokens: each
pair meets at the one cut that parts it, in log2(C) products. A CPU makes them of blocks that grow,
with no product too many. Accelerators make all of whole chunks, at once: in their memory tokens of
small blocks take the room of whole tiles (a step of GLA held 252 MiB of a TPU, and holds 6).
"""

import jax
import jax.numpy as jnp

from transformer import platform

FORMS = ('auto', 'recurrent', 'chunked')
SMALLEST_DIVISOR = 2.0**-60  # whose square is far from rounding to 0


def check_form(form: str, chunk_size: int) -> None:
  """Raises a ValueError unless the form is one of FORMS and the chunk size 0 or a power of two."""
  if form not in FORMS:
    raise ValueError(f'no form {form!r} of a matrix scan; there are {", ".join(FORMS)}')
  if chunk_size < 0 or chunk_size & (chunk_size - 1):
    raise ValueError(f'chunk_size is a power of two, or 0 for the fastest, not {chunk_size}')


def cut_into_chunks(x: jax.Array, chunk_size: int) -> jax.Array:
  """Cuts x [B, T, H, ...] into n chunks of C, the last one filled up with zeros.

  [n, B, H, C, ...]: heads before time, so that products are batches of contiguous matrices.
  """
  batch_size, length = x.shape[:2]
  chunks = -(-length // chunk_size)
  x = jnp.pad(x, ((0, 0), (0, chunks * chunk_size - length)) + ((0, 0),) * (x.ndim - 2))
  x = x.reshape(batch_size, chunks, chunk_size, *x.shape[2:])
  return jnp.moveaxis(x, (1, 3), (0, 2))


def join_chunks(x: jax.Array, length: int) -> jax.Array:
  """Joins chunks [n, B, H, C, ...] to [B, T, H, ...], the reverse of `cut_into_chunks`."""
  x = jnp.moveaxis(x, (0, 2), (1, 3))
  return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]


def normalised(reading: jax.Array, divisor: jax.Array) -> jax.Array:
  """Readings [..., V] divided by [..., 1], which may vanish where they do: 0 there, not 0 / 0.

  The divisor, which is 0 or positive, is kept above `SMALLEST_DIVISOR`. As a product with its
  inverse the quotient has a finite gradient: in that of a division the square of the inverse meets
  the gradient before it meets the reading, and overflows.
  """
  return reading * (1 / jnp.maximum(divisor, SMALLEST_DIVISOR))


def outer_product_scan(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  log_decay: jax.Array | None,
  initial: jax.Array,
  *,
  negative: jax.Array | None = None,
  form: str = 'auto',
  chunk_size: int = 0,
) -> tuple[jax.Array, jax.Array]:
  """All readings of S_t = a_t S_{t-1} + k_t v_t^T, y_t = S_t^T q_t, and the last state, in float32.

  Args:
    query: q, [B, T, H, K]; one head, [B, T, 1, K], is shared by all.
    key: k, likewise.
    value: v, [B, T, H, V].
    log_decay: log |a| <= 0, [H], [B, T, H] or [B, T, H, K]; None: a = 1.
    initial: S before the first token, [B, H, K, V].
    negative: where a < 0, of the shape of log_decay [B, T, ...]; None: nowhere.
    form: one of FORMS; 'auto' picks by length.
    chunk_size: C, a power of two; 0 picks by platform.

  Returns:
    y [B, T, H, V] and S after the last token, [B, H, K, V].

  """
  check_form(form, chunk_size)
  query, key, value = (x.astype(jnp.float32) for x in (query, key, value))
  length = value.shape[1]
  if not length:
    return value, initial
  log_decay = jnp.zeros((1,)) if log_decay is None else log_decay
  if log_decay.ndim == 1:
    log_decay = jnp.broadcast_to(log_decay[None, None], (1, length, log_decay.size))
  log_decay = jnp.maximum(log_decay, -128.0)  # exp(-128) is 0 already, and 0 times infinity NaN
  if negative is not None:  # S_t times the sign of all of a_1 ... a_t has the decays |a|
    sign = jnp.where(jnp.cumsum(negative, 1) % 2 == 1, -1.0, 1.0)
    channels = sign if sign.ndim == 4 else sign[..., None]
    query, key = query * channels, key * channels
  if form == 'recurrent' or (form == 'auto' and length == 1):
    y, state = _recurrent(query, key, value, log_decay, initial)
  else:
    chunk_size = chunk_size or (32 if platform.current() == 'cpu' else 64)
    chunk_size = min(chunk_size, 1 << (length - 1).bit_length())  # no longer than it takes
    y, state = _chunked(query, key, value, log_decay, initial, chunk_size)
  return y, (state if negative is None else state * channels[:, -1, :, :, None])


def _recurrent(query, key, value, log_decay, state):
  decay = jnp.exp(log_decay if log_decay.ndim == 4 else log_decay[..., None])

  def step(state, now):
    query, key, value, decay = now
    state = decay[..., None] * state + key[..., None] * value[..., None, :]
    return state, (query[..., None, :] @ state)[..., 0, :]

  times_first = jax.tree.map(lambda x: x.swapaxes(0, 1), (query, key, value, decay))
  state, y = jax.lax.scan(step, state, times_first)
  return y.swapaxes(0, 1), state


def _chunked(query, key, value, log_decay, state, chunk_size):
  by_channel = _meet_in_blocks if platform.current() == 'cpu' else _meet_at_cuts
  length, meet = value.shape[1], _meet_by_head if log_decay.ndim == 3 else by_channel
  query, key, value, log_decay = (
    cut_into_chunks(x, chunk_size) for x in (query, key, value, log_decay)
  )
  weight, since_start, until_end = meet(query, key, log_decay)

  def step(state, now):
    update, decay = now
    return decay * state + update, state

  update = (key * until_end).mT @ value
  state, before = jax.lax.scan(step, state, (update, since_start[..., -1, :, None]))
  y = weight @ value + (query * since_start) @ before
  return join_chunks(y, length), state


def _meet_by_head(query, key, log_decay):
  """exp(L_ij) q_i . k_j of [.., C, C], exp(L_i0) and exp(L_Cj) of [.., C, 1] for a decay a head."""
  size = log_decay.shape[-1]
  lower = jnp.tri(size, dtype=bool)
  after = jnp.where(jnp.tri(size, k=-1, dtype=bool), log_decay[..., :, None], 0.0)
  between = jnp.matmul(lower.astype(jnp.float32), after, precision='highest')
  decay = jnp.exp(jnp.where(lower, between, -jnp.inf))
  since_start = jnp.exp(jnp.cumsum(log_decay, -1))
  return query @ key.mT * decay, since_start[..., None], decay[..., -1, :, None]


def _meet_at_cuts(query, key, log_decay):
  """The same for a decay a channel, [.., C, K]: whole chunks at all cuts, one product a size."""
  size = log_decay.shape[-2]
  reach, meet = _cuts(size)
  decay = jnp.exp(jnp.matmul(reach, log_decay[..., None, :, :], precision='highest'))
  to_cut, since_start, until_end = jnp.split(decay, (len(meet), len(meet) + 1), -3)
  across = (query[..., None, :, :] * to_cut) @ (key[..., None, :, :] * to_cut).mT
  own = jnp.where(jnp.eye(size, dtype=bool), jnp.sum(query * key, -1)[..., None], 0.0)
  weight = own + jnp.sum(jnp.where(meet, across, 0.0), -3)
  return weight, since_start[..., 0, :, :], until_end[..., 0, :, :]


def _cuts(size):
  """Which tokens decay each token to its cuts, and which pairs meet at them: [log2(C), C, C].

  Cuts of one size halve blocks of 2, 4, ... C tokens. Before a cut a token decays from the next
  one on, behind it since the cut and with itself. The last two of the first array, [log2(C) + 2,
  C, C], are for the cuts before the first token and behind the last one.
  """
  token, other = jnp.arange(size)[None, :, None], jnp.arange(size)[None, None]
  level = jnp.arange(size.bit_length() - 1)[:, None, None]
  half, others = token >> level, other >> level  # halves of 1, 2, ... C / 2 tokens, in their order
  behind, since, until = half & 1 == 1, other <= token, other > token
  to_cut = (half == others) & jnp.where(behind, since, until)
  reach = jnp.concatenate([to_cut, since, until]).astype(jnp.float32)
  return reach, behind & (others == half - 1)


def _meet_in_blocks(query, key, log_decay):
  """The same as `_meet_at_cuts`: blocks of one token, then of two, then of four."""
  query = jnp.broadcast_to(query, log_decay.shape)
  weight = jnp.sum(query * key, -1)[..., None, None]
  since, until = log_decay[..., None, :], jnp.zeros_like(log_decay)[..., None, :]
  query, key = query[..., None, :], key[..., None, :]  # [.., blocks, tokens of a block, K]
  while weight.shape[-3] > 1:
    pairs = (x[..., half::2, :, :] for x in (query, key, since, until, weight) for half in (0, 1))
    query_1, query_2, key_1, key_2, since_1, since_2, until_1, until_2, weight_1, weight_2 = pairs
    across = (query_2 * jnp.exp(since_2)) @ (key_1 * jnp.exp(until_1)).mT
    weight = _stack(
      jnp.concatenate([weight_1, jnp.zeros_like(across)], -1),
      jnp.concatenate([across, weight_2], -1),
    )
    since = _stack(since_1, since_1[..., -1:, :] + since_2)
    until = _stack(until_1 + since_2[..., -1:, :], until_2)
    query, key = _stack(query_1, query_2), _stack(key_1, key_2)
  return weight[..., 0, :, :], jnp.exp(since[..., 0, :, :]), jnp.exp(until[..., 0, :, :])


def _stack(first, second):
  return jnp.concatenate([first, second], -2)
