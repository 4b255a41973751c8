"""The delta rule: a memory that forgets what it is about to overwrite, in two equal forms.

  S_t = a_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T,   y_t = S_t^T q_t      S: [K, V]

What the memory answers to the key, a_t S_{t-1}^T k_t, is moved towards the value by beta_t: one
step of gradient descent on |S^T k_t - v_t|^2 / 2. Schlag et al. 2021 (a_t = 1); Yang, Kautz and
Hatamizadeh 2025, equation 10 (a_t a number for each head). RWKV-7 (Peng et al. 2025, section 4)
decays each key channel by itself, and what is removed has a key and rates of its own:

  S_t = (diag(w_t) - (rate_t * r_t) r_t^T) S_{t-1} + k_t v_t^T

  recurrent    the definition, one time after another
  chunked      time is cut into chunks of C. Given the corrections
                 c_j = beta_j (v_j - a_j S_{j-1}^T k_j)
               the memory is a sum of outer products k_j c_j^T, as in `matrix_scans`; and they solve
               a unit lower triangular system, (I + L) c = beta (v - A S^T k), where S is the memory
               before the chunk, A_i = a_1 ... a_i and L_ij = beta_i a_{j+1} ... a_i (k_i . k_j) for
               j < i (Bischof and Van Loan's WY representation: Yang et al. 2024, section 3). Only S
               goes from chunk to chunk; gradients compute a chunk again instead of keeping it.

(I + L)^{-1} is built from the inverses of its diagonal blocks, of 1, 2, 4, ... rows. Doubling the
Neumann series (I - L)(I + L^2)(I + L^4)... costs as much, but its terms are of the order of 2^C
where keys repeat and beta is near 2, and cancel: in float32 nothing would be left of the result.
"""

import jax
import jax.numpy as jnp

from baselines.matrix_scans import check_form, cut_into_chunks, join_chunks
from transformer import platform


def lower_triangle(size: int, diagonal: int = 0) -> jax.Array:
  """[C, C] true where column <= row + diagonal."""
  return jnp.tri(size, k=diagonal, dtype=bool)


@jax.custom_vjp
def unit_triangular_inverse(lower: jax.Array) -> jax.Array:
  """(I + L)^{-1} for strictly lower triangular L [..., C, C].

  Two neighbouring blocks of the diagonal, inverted as X and Y, and what of L is below X and left of
  Y make up the inverse of one block, [[X, 0], [-Y L X, Y]].
  """
  size = lower.shape[-1]
  row, column = (jax.lax.broadcasted_iota(int, lower.shape, lower.ndim - i) for i in (2, 1))
  inverse, block = (row == column).astype(lower.dtype), 1
  while block < size:
    same_pair = row // (2 * block) == column // (2 * block)
    between = jnp.where(same_pair & (row // block > column // block), lower, 0)
    inverse -= between if block == 1 else inverse @ between @ inverse
    block *= 2
  return inverse


def _inverse_forward(lower):
  inverse = unit_triangular_inverse(lower)
  return inverse, inverse


def _inverse_backward(inverse, gradient):
  return (-(inverse.mT @ gradient @ inverse.mT),)


unit_triangular_inverse.defvjp(_inverse_forward, _inverse_backward)


def _delta_step(memory, now):
  query, key, value, beta, log_decay = now
  memory = jnp.exp(log_decay)[..., None, None] * memory
  correction = beta[..., None] * (value - jnp.einsum('BHK,BHKV->BHV', key, memory))
  memory += key[..., None] * correction[..., None, :]
  return memory, jnp.einsum('BHK,BHKV->BHV', query, memory)


def _delta_chunk(memory, now):
  query, key, value, beta, log_decay = now
  past, strict = (lower_triangle(beta.shape[-1], diagonal)[None, None] for diagonal in (0, -1))
  # From j to i, as a sum over j < t <= i: a difference of sums from the start would cancel.
  steps = jnp.where(strict, log_decay[..., None], 0)  # [B, H, C, C]
  steps = jnp.matmul(lower_triangle(beta.shape[-1]).astype(steps.dtype), steps, precision='highest')
  decay = jnp.where(past, jnp.exp(steps), 0)
  since_start = jnp.exp(jnp.cumsum(log_decay, -1))[..., None]  # [B, H, C, 1]
  until_end = decay[..., -1, :, None]

  lower = jnp.where(strict, beta[..., None] * decay * (key @ key.mT), 0)
  correction = beta[..., None] * (value - since_start * (key @ memory))
  correction = unit_triangular_inverse(lower) @ correction
  y = since_start * (query @ memory) + (decay * (query @ key.mT)) @ correction
  return since_start[..., -1:, :] * memory + (until_end * key).mT @ correction, y


def _generalised_step(memory, now):
  query, key, value, removal, rate, log_decay = now
  removed = jnp.einsum('BHK,BHKV->BHV', removal, memory)
  memory = jnp.exp(log_decay)[..., None] * memory
  memory -= (rate * removal)[..., None] * removed[..., None, :]
  memory += key[..., None] * value[..., None, :]
  return memory, jnp.einsum('BHK,BHKV->BHV', query, memory)


def _generalised_chunk(memory, now):
  query, key, value, removal, rate, log_decay = now
  size = query.shape[-2]
  past, strict = (lower_triangle(size, diagonal) for diagonal in (0, -1))
  decay = jnp.cumsum(log_decay, -2)  # [B, H, C, K] since the start of the chunk
  end = jnp.exp(decay[..., -1, :, None])
  # What reads the memory (removals before a step, queries after it) meets what is written to it;
  # the decay between the two is the product of a factor for each.
  reads = jnp.concatenate([jnp.exp(decay - log_decay) * removal, jnp.exp(decay) * query], -2)
  writes = jnp.exp(-decay)
  writes = jnp.concatenate([-writes * rate * removal, writes * key], -2)
  seen = jnp.concatenate([jnp.tile(strict, (1, 2)), jnp.tile(past, (1, 2))])[None, None]
  score = jnp.where(seen, reads @ writes.mT, 0)  # [B, H, 2 C, 2 C]
  answer = reads @ memory + score[..., size:] @ value
  removed = unit_triangular_inverse(-score[..., :size, :size]) @ answer[..., :size, :]
  y = answer[..., size:, :] + score[..., size:, :size] @ removed
  memory += writes.mT @ jnp.concatenate([removed, value], -2)
  return end * memory, y


def _scan(step, chunk, arrays, initial, form, chunk_size):
  check_form(form, chunk_size)
  length = arrays[0].shape[1]
  chunk_size = chunk_size or (16 if platform.current() == 'cpu' else 64)
  if form == 'auto':
    form = 'chunked' if length >= chunk_size else 'recurrent'
  arrays = tuple(x.astype(jnp.float32) for x in arrays)
  if form == 'recurrent':
    memory, y = jax.lax.scan(step, initial, tuple(x.swapaxes(0, 1) for x in arrays))
    return y.swapaxes(0, 1), memory
  chunks = tuple(cut_into_chunks(x, chunk_size) for x in arrays)
  memory, y = jax.lax.scan(jax.checkpoint(chunk), initial, chunks)
  return join_chunks(y, length), memory


def delta_scan(query, key, value, beta, log_decay, initial, form='auto', chunk_size=0):
  """The gated delta rule after the memory `initial`, in float32.

  Args:
    query: [B, T, H, K].
    key: [B, T, H, K]; of length 1 or 0, for the memory to be stable.
    value: [B, T, H, V].
    beta: [B, T, H] how much of what the memory answers to the key is replaced, 0 to 2.
    log_decay: [B, T, H] at most 0.
    initial: [B, H, K, V].
    form: one of `matrix_scans.FORMS`; 'auto' is 'chunked' where there is a chunk's worth of tokens.
    chunk_size: C, a power of two; 0: 16 on a CPU, 64 elsewhere.

  Returns:
    [B, T, H, V] and the memory after the last time.

  """
  arrays = query, key, value, beta, log_decay
  return _scan(_delta_step, _delta_chunk, arrays, initial, form, chunk_size)


def generalised_delta_scan(
  query, key, value, removal, rate, log_decay, initial, form='auto', chunk_size=0
):
  """The delta rule of RWKV-7, as `delta_scan` but for what follows.

  Args:
    query: [B, T, H, K].
    key: [B, T, H, K] what the value is written to.
    value: [B, T, H, V].
    removal: [B, T, H, K] what is read and removed, of length 1 or 0.
    rate: [B, T, H, K] how much of it, for each channel, 0 to 1.
    log_decay: [B, T, H, K] at most 0, and with C of them in a row adding up to no less than -80:
      exp of both signs of such sums must be a number in float32.
    initial: [B, H, K, V].
    form: one of `matrix_scans.FORMS`.
    chunk_size: C, a power of two; 0: 16 on a CPU, 64 elsewhere.

  Returns:
    [B, T, H, V] and the memory after the last time.

  """
  arrays = query, key, value, removal, rate, log_decay
  return _scan(_generalised_step, _generalised_chunk, arrays, initial, form, chunk_size)
