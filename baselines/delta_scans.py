"""Scans of the delta rule, which replaces the value that a matrix memory stores for a key.

  S_t = a_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T,   y_t = S_t^T q_t      S: [K, V]

The value stored under a key, a_t S_{t-1}^T k_t, moves towards the new value by beta_t. That is a
step of gradient descent on |S^T k_t - v_t|^2 / 2. Sources are Schlag et al. 2021 (a_t = 1) and
Yang, Kautz and Hatamizadeh 2025, equation 10 (a_t a scalar per head). In RWKV-7 (Peng et al. 2025,
section 4) every key channel decays separately, and the removal has a separate key and rates.

  S_t = (diag(w_t) - (rate_t * r_t) r_t^T) S_{t-1} + k_t v_t^T

Two forms give the same result up to rounding.

  recurrent    the definition, a loop over the tokens
  chunked      time is split into chunks of C tokens. Given the corrections
                 c_j = beta_j (v_j - a_j S_{j-1}^T k_j)
               the memory is a sum of outer products k_j c_j^T, as in `matrix_scans`. They solve a
               unit lower triangular system, (I + L) c = beta (v - A S^T k), where S is the memory
               before the chunk, A_i = a_1 ... a_i and, for j < i,
                 L_ij = beta_i a_{j+1} ... a_i (k_i . k_j)
               (the WY representation of Bischof and Van Loan; Yang et al. 2024, section 3). Only S
               is passed from chunk to chunk, and the gradient recomputes each chunk instead of
               storing its intermediate values.

(I + L)^{-1} is built from the inverses of its diagonal blocks of 1, 2, 4, ... rows. Doubling the
Neumann series (I - L)(I + L^2)(I + L^4)... costs the same, but its terms are of the order of 2^C
where keys repeat and beta is near 2. They cancel, and no correct digit would remain in float32.
"""

import jax
import jax.numpy as jnp

from baselines.matrix_scans import check_scan_form_and_chunk_size, join_chunks, split_into_chunks
from transformer import platform


def lower_triangular_mask(size: int, diagonal: int = 0) -> jax.Array:
  """A boolean mask [C, C] that is true where column <= row + diagonal."""
  return jnp.tri(size, k=diagonal, dtype=bool)


@jax.custom_vjp
def unit_triangular_inverse(lower: jax.Array) -> jax.Array:
  """Computes (I + L)^{-1} for strictly lower triangular matrices L [..., C, C].

  Adjacent diagonal blocks with the inverses X and Y are merged. With L restricted to the rows of Y
  and the columns of X, the inverse of the merged block is [[X, 0], [-Y L X, Y]].
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


def _unit_triangular_inverse_forward(lower):
  inverse = unit_triangular_inverse(lower)
  return inverse, inverse


def _unit_triangular_inverse_backward(inverse, gradient):
  return (-(inverse.mT @ gradient @ inverse.mT),)


unit_triangular_inverse.defvjp(_unit_triangular_inverse_forward, _unit_triangular_inverse_backward)


def _delta_rule_step(memory, inputs):
  query, key, value, beta, log_decay = inputs
  memory = jnp.exp(log_decay)[..., None, None] * memory
  correction = beta[..., None] * (value - jnp.einsum('BHK,BHKV->BHV', key, memory))
  memory += key[..., None] * correction[..., None, :]
  return memory, jnp.einsum('BHK,BHKV->BHV', query, memory)


def _delta_rule_chunk(memory, inputs):
  query, key, value, beta, log_decay = inputs
  causal, strict = (
    lower_triangular_mask(beta.shape[-1], diagonal)[None, None] for diagonal in (0, -1)
  )
  # A difference of cumulative sums would lose precision, so the log decays are summed directly.
  steps = jnp.where(strict, log_decay[..., None], 0)  # [B, H, C, C]
  summation = lower_triangular_mask(beta.shape[-1]).astype(steps.dtype)
  steps = jnp.matmul(summation, steps, precision='highest')
  decay = jnp.where(causal, jnp.exp(steps), 0)
  since_start = jnp.exp(jnp.cumsum(log_decay, -1))[..., None]  # [B, H, C, 1]
  until_end = decay[..., -1, :, None]

  lower = jnp.where(strict, beta[..., None] * decay * (key @ key.mT), 0)
  correction = beta[..., None] * (value - since_start * (key @ memory))
  correction = unit_triangular_inverse(lower) @ correction
  y = since_start * (query @ memory) + (decay * (query @ key.mT)) @ correction
  return since_start[..., -1:, :] * memory + (until_end * key).mT @ correction, y


def _generalised_delta_rule_step(memory, inputs):
  query, key, value, removal_key, removal_rate, log_decay = inputs
  removed = jnp.einsum('BHK,BHKV->BHV', removal_key, memory)
  memory = jnp.exp(log_decay)[..., None] * memory
  memory -= (removal_rate * removal_key)[..., None] * removed[..., None, :]
  memory += key[..., None] * value[..., None, :]
  return memory, jnp.einsum('BHK,BHKV->BHV', query, memory)


def _generalised_delta_rule_chunk(memory, inputs):
  query, key, value, removal_key, removal_rate, log_decay = inputs
  size = query.shape[-2]
  causal, strict = (lower_triangular_mask(size, diagonal) for diagonal in (0, -1))
  decay = jnp.cumsum(log_decay, -2)  # [B, H, C, K], since the start of the chunk
  end = jnp.exp(decay[..., -1, :, None])
  # At token t the removed value is computed from memory S_{t-1}, and the output from memory S_t.
  # The decay between tokens j and i is exp(d_i) exp(-d_j), where d is the summed log decay.
  queries = jnp.concatenate([jnp.exp(decay - log_decay) * removal_key, jnp.exp(decay) * query], -2)
  keys = jnp.exp(-decay)
  keys = jnp.concatenate([-keys * removal_rate * removal_key, keys * key], -2)
  mask = jnp.concatenate([jnp.tile(strict, (1, 2)), jnp.tile(causal, (1, 2))])[None, None]
  score = jnp.where(mask, queries @ keys.mT, 0)  # [B, H, 2 C, 2 C]
  outputs = queries @ memory + score[..., size:] @ value
  removed = unit_triangular_inverse(-score[..., :size, :size]) @ outputs[..., :size, :]
  y = outputs[..., size:, :] + score[..., size:, :size] @ removed
  memory += keys.mT @ jnp.concatenate([removed, value], -2)
  return end * memory, y


def _recurrent_or_chunked_scan(
  token_step, chunk_step, arrays, initial_memory, scan_form, chunk_size
):
  """Scans over single tokens (form 'recurrent') or over chunks of tokens (form 'chunked')."""
  check_scan_form_and_chunk_size(scan_form, chunk_size)
  length = arrays[0].shape[1]
  chunk_size = chunk_size or (16 if platform.current_platform() == 'cpu' else 64)
  if scan_form == 'auto':
    scan_form = 'chunked' if length >= chunk_size else 'recurrent'
  arrays = tuple(x.astype(jnp.float32) for x in arrays)
  if scan_form == 'recurrent':
    memory, y = jax.lax.scan(token_step, initial_memory, tuple(x.swapaxes(0, 1) for x in arrays))
    return y.swapaxes(0, 1), memory
  chunks = tuple(split_into_chunks(x, chunk_size) for x in arrays)
  memory, y = jax.lax.scan(jax.checkpoint(chunk_step), initial_memory, chunks)
  return join_chunks(y, length), memory


def delta_scan(query, key, value, beta, log_decay, initial_memory, form='auto', chunk_size=0):
  """Computes the gated delta rule in float32, starting from a given memory.

  Args:
    query: q, [B, T, H, K].
    key: k, [B, T, H, K], with norm 1 or 0 so that the memory is stable.
    value: v, [B, T, H, V].
    beta: [B, T, H], the fraction from 0 to 2 of the value stored under the key that is replaced.
    log_decay: log a, [B, T, H], at most 0.
    initial_memory: the memory S before the first token, [B, H, K, V].
    form: an entry of `matrix_scans.FORMS`. 'auto' is 'chunked' for sequences of at least a chunk.
    chunk_size: C, a power of two. 0 means 16 on a CPU and 64 elsewhere.

  Returns:
    The outputs y [B, T, H, V] and the memory after the last token, [B, H, K, V].

  Raises:
    ValueError: if the form is unknown or the chunk size is not a power of two.

  Examples:
    The second token replaces the value 1 under the same key by the value 3, instead of adding it:

    >>> import jax.numpy as jnp
    >>> from baselines.delta_scans import delta_scan
    >>> key = jnp.ones((1, 2, 1, 1))  # [B, T, H, K]
    >>> value = jnp.array([1.0, 3.0]).reshape(1, 2, 1, 1)  # [B, T, H, V]
    >>> beta, log_decay = jnp.ones((1, 2, 1)), jnp.zeros((1, 2, 1))  # [B, T, H]
    >>> y, memory = delta_scan(key, key, value, beta, log_decay, jnp.zeros((1, 1, 1, 1)))
    >>> y.shape, memory.shape
    ((1, 2, 1, 1), (1, 1, 1, 1))
    >>> [round(float(output), 3) for output in y.ravel()]
    [1.0, 3.0]

  """
  arrays = query, key, value, beta, log_decay
  return _recurrent_or_chunked_scan(
    _delta_rule_step, _delta_rule_chunk, arrays, initial_memory, form, chunk_size
  )


def generalised_delta_scan(
  query, key, value, removal_key, removal_rate, log_decay, initial_memory, form='auto', chunk_size=0
):
  """Computes the delta rule of RWKV-7 in float32, starting from a given memory.

  Args:
    query: q, [B, T, H, K].
    key: k, [B, T, H, K], under which the value is stored.
    value: v, [B, T, H, V].
    removal_key: r, [B, T, H, K], the key of the removed value, with norm 1 or 0.
    removal_rate: [B, T, H, K], the fraction from 0 to 1 that is removed from each key channel.
    log_decay: log w, [B, T, H, K], at most 0. Sums over C consecutive tokens are at least -80,
      because exp of the sum and of its negative must be finite in float32.
    initial_memory: the memory S before the first token, [B, H, K, V].
    form: an entry of `matrix_scans.FORMS`. 'auto' is 'chunked' for sequences of at least a chunk.
    chunk_size: C, a power of two. 0 means 16 on a CPU and 64 elsewhere.

  Returns:
    The outputs y [B, T, H, V] and the memory after the last token, [B, H, K, V].

  Raises:
    ValueError: if the form is unknown or the chunk size is not a power of two.

  Examples:
    >>> import jax.numpy as jnp
    >>> from baselines.delta_scans import generalised_delta_scan
    >>> key = jnp.ones((1, 2, 1, 1))  # [B, T, H, K]
    >>> value = jnp.array([1.0, 3.0]).reshape(1, 2, 1, 1)  # [B, T, H, V]
    >>> removal_rate, log_decay = 0.5 * key, 0 * key  # half of the stored value is removed
    >>> y, memory = generalised_delta_scan(
    ...   key, key, value, key, removal_rate, log_decay, jnp.zeros((1, 1, 1, 1)))
    >>> y.shape, memory.shape
    ((1, 2, 1, 1), (1, 1, 1, 1))
    >>> [round(float(output), 3) for output in y.ravel()]
    [1.0, 3.5]

  """
  arrays = query, key, value, removal_key, removal_rate, log_decay
  return _recurrent_or_chunked_scan(
    _generalised_delta_rule_step, _generalised_delta_rule_chunk, arrays, initial_memory, form,
    chunk_size,
  )
