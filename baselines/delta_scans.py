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
               is passed from chunk to chunk. `delta_chunks` has the loops and the gradient.

(I + L)^{-1} is built from the inverses of its diagonal blocks of 1, 2, 4, ... rows. Doubling the
Neumann series (I - L)(I + L^2)(I + L^4)... costs the same, but its terms are of the order of 2^C
where keys repeat and beta is near 2. They cancel, and no correct digit would remain in float32.
"""

import jax
import jax.numpy as jnp

from baselines.delta_chunks import (
  ChunkRule,
  gradients_after_chunks,
  lower_triangular_mask,
  memories_after_chunks,
  memories_before_chunks,
  scan_chunks,
  sum_within_chunk,
  transpose,
  unit_triangular_inverse,
)
from baselines.matrix_scans import check_scan_form_and_chunk_size
from transformer import platform
from transformer.broadcasting import sum_of_products


def _delta_rule_step(memory, inputs):
  query, key, value, beta, *log_decay = inputs
  if log_decay:
    memory = jnp.exp(log_decay[0])[..., None, None] * memory
  correction = beta[..., None] * (value - jnp.einsum('BHK,BHKV->BHV', key, memory))
  memory += key[..., None] * correction[..., None, :]
  return memory, jnp.einsum('BHK,BHKV->BHV', query, memory)


def _decays_within_chunk(log_decay, size):
  """Computes the decays between tokens, since the start and until the end of a chunk.

  Args:
    log_decay: log a, [N, C], or None for a = 1.
    size: C.

  Returns:
    The decay a_{j+1} ... a_i for j <= i, and 0 above the diagonal, [N, C, C], and the
    products a_1 ... a_i and a_{i+1} ... a_C, [N, C, 1]. The first axes are 1 for a = 1.

  """
  causal = lower_triangular_mask(size)[None]
  if log_decay is None:
    return causal.astype(jnp.float32), jnp.ones((1, 1, 1)), jnp.ones((1, 1, 1))
  # A difference of cumulative sums would lose precision, so the log decays are summed directly.
  later = lower_triangular_mask(size, -1).astype(log_decay.dtype)  # [m, j], true for m > j
  until_row = jnp.where(causal, log_decay[:, None], 0)  # [N, i, m]
  decay = causal * jnp.exp(jnp.matmul(until_row, later, precision='highest'))
  since_start = jnp.exp(sum_within_chunk(log_decay[..., None]))
  return decay, *jax.lax.optimization_barrier((since_start, decay[:, -1, :, None]))


def _delta_rule_forward(memory, query, key, value, beta, log_decay=None):
  size, beta = beta.shape[-1], beta[..., None]
  decay, since_start, until_end = _decays_within_chunk(log_decay, size)
  strict = lower_triangular_mask(size, -1)[None]
  inverse = unit_triangular_inverse(beta * (strict * decay) * (key @ key.mT))
  score = decay * (query @ key.mT)
  written, read = inverse @ (beta * value), inverse @ (beta * since_start * key)
  reader = since_start * query - score @ read
  keys, identity = transpose(until_end * key), jnp.eye(key.shape[-1], dtype=key.dtype)[None]
  transition = since_start[:, -1:] * identity - keys @ read
  before, memory = memories_before_chunks(transition, keys @ written, memory)
  y = score @ written + reader @ before
  return memory, y, (inverse, reader, transition, before, written - read @ before)


def _delta_rule_backward(gradient, memory, y_gradient, residuals, *arrays):
  query, key, value, beta, *log_decay = arrays
  inverse, reader, transition, before, correction = residuals
  size, beta = beta.shape[-1], beta[..., None]
  decay, since_start, until_end = _decays_within_chunk(*(log_decay or [None]), size)
  strict = lower_triangular_mask(size, -1)[None]
  transposed = transpose(y_gradient)
  after, gradient = gradients_after_chunks(transition, transposed @ reader, gradient)
  transposed = transposed @ (decay * (query @ key.mT)) + after @ (until_end * key).mT
  solution = transpose(transposed @ inverse)  # the gradient of beta (v - A S^T k)
  score_gradient = decay * (y_gradient @ correction.mT)
  lower_gradient = strict * decay * (solution @ correction.mT)
  query_gradient = since_start * (y_gradient @ before.mT) + score_gradient @ key
  # A key is read, multiplied by beta, and written. Both gradients are computed separately.
  read_gradient = -since_start * (solution @ before.mT) - lower_gradient @ key
  key_gradient = until_end * (correction @ after) + transpose(score_gradient) @ query
  key_gradient -= transpose(beta * lower_gradient) @ key
  read_sum = sum_of_products(key, read_gradient)[..., 0]
  gradients = (
    query_gradient, key_gradient + beta * read_gradient, beta * solution,
    sum_of_products(value, solution)[..., 0] + read_sum,
  )
  if not log_decay:
    return gradient, gradients
  terms = jnp.sum(query * query_gradient - key * key_gradient, -1) + beta[..., 0] * read_sum
  whole_chunk = jnp.sum(after.mT * memories_after_chunks(before, memory), (-1, -2))
  log_gradient = sum_within_chunk(terms[..., None], reverse=True)[..., 0] + whole_chunk[:, None]
  return gradient, (*gradients, log_gradient)


DELTA_RULE = ChunkRule(_delta_rule_forward, _delta_rule_backward)


def _generalised_delta_rule_step(memory, inputs):
  query, key, value, removal_key, removal_rate, log_decay = inputs
  removed = jnp.einsum('BHK,BHKV->BHV', removal_key, memory)
  memory = jnp.exp(log_decay)[..., None] * memory
  memory -= (removal_rate * removal_key)[..., None] * removed[..., None, :]
  memory += key[..., None] * value[..., None, :]
  return memory, jnp.einsum('BHK,BHKV->BHV', query, memory)


def _decayed_queries_and_keys(query, key, value, removal_key, removal_rate, log_decay):
  """Computes factors of the decayed scores of a chunk.

  At token t the removed value is computed from memory S_{t-1}, and the output from memory S_t. The
  decay between tokens j and i is exp(d_i) exp(-d_j), where d is the summed log decay.

  Returns:
    The queries [N, 2 C, K] of removed values and of outputs, the keys [N, 2 C, K] of removed values
    and of values, their masked products [N, 2 C, 2 C], and exp(d) [N, C, K].

  """
  del value
  decay = jax.lax.optimization_barrier(jnp.exp(sum_within_chunk(log_decay)))
  before = jnp.concatenate([jnp.ones_like(decay[:, :1]), decay[:, :-1]], -2)
  queries = jnp.concatenate([before * removal_key, decay * query], -2)
  keys = jnp.concatenate([-removal_rate * removal_key / decay, key / decay], -2)
  mask = _causal_mask_of_removal_and_output(query.shape[-2])
  return queries, keys, mask * (queries @ keys.mT), decay


def _causal_mask_of_removal_and_output(size):
  causal, strict = (lower_triangular_mask(size, diagonal) for diagonal in (0, -1))
  return jnp.concatenate([jnp.tile(strict, (1, 2)), jnp.tile(causal, (1, 2))])[None]


def _generalised_delta_rule_forward(memory, *arrays):
  _, key, value, *_ = arrays
  size = key.shape[-2]
  queries, keys, score, decay = _decayed_queries_and_keys(*arrays)
  end = decay[:, -1, :, None]
  inverse = unit_triangular_inverse(-score[:, :size, :size])
  value_score = score[:, :, size:] @ value
  written, read = inverse @ value_score[:, :size], inverse @ queries[:, :size]
  reader = queries[:, size:] + score[:, size:, :size] @ read
  transposed = transpose(keys)
  removal = transposed[..., :size]
  transition = end * (jnp.eye(key.shape[-1], dtype=key.dtype)[None] + removal @ read)
  addition = end * (removal @ written + transposed[..., size:] @ value)
  before, memory = memories_before_chunks(transition, addition, memory)
  y = value_score[:, size:] + score[:, size:, :size] @ written + reader @ before
  return memory, y, (inverse, reader, transition, before, written + read @ before)


def _generalised_delta_rule_backward(gradient, memory, y_gradient, residuals, *arrays):
  _, _, value, removal_key, removal_rate, _ = arrays
  inverse, reader, transition, before, removed = residuals
  size = value.shape[-2]
  queries, keys, score, decay = _decayed_queries_and_keys(*arrays)
  transposed = transpose(y_gradient)
  after, gradient = gradients_after_chunks(transition, transposed @ reader, gradient)
  log_gradient = jnp.sum(after.mT * memories_after_chunks(before, memory), -1)  # of exp(d_C)
  after = decay[:, -1:] * after
  transposed = transposed @ score[:, size:, :size] + after @ keys[:, :size].mT
  # The gradients of (I - L) times the removed values, and of the outputs
  outputs = jnp.concatenate([transpose(transposed @ inverse), y_gradient], -2)
  values = jnp.concatenate([removed, value], -2)
  score_gradient = _causal_mask_of_removal_and_output(size) * (outputs @ values.mT)
  value_gradient = transpose(score[:, :, size:]) @ outputs + keys[:, size:] @ after.mT
  queries_gradient = outputs @ before.mT + score_gradient @ keys
  keys_gradient = values @ after + transpose(score_gradient) @ queries

  terms = queries * queries_gradient - keys * keys_gradient
  removal_terms = (queries * queries_gradient)[:, :size]
  terms = sum_within_chunk(terms[:, :size] + terms[:, size:], reverse=True) - removal_terms
  removal_gradient = keys_gradient[:, :size] / decay
  before_decay = jnp.concatenate([jnp.ones_like(decay[:, :1]), decay[:, :-1]], -2)
  return gradient, (
    decay * queries_gradient[:, size:], keys_gradient[:, size:] / decay, value_gradient,
    before_decay * queries_gradient[:, :size] - removal_rate * removal_gradient,
    -removal_key * removal_gradient, terms + log_gradient[:, None],
  )


GENERALISED_DELTA_RULE = ChunkRule(
  _generalised_delta_rule_forward, _generalised_delta_rule_backward
)


def _recurrent_or_chunked_scan(token_step, rule, arrays, memory, scan_form, chunk_size):
  """Scans over single tokens (form 'recurrent') or over chunks of tokens (form 'chunked')."""
  check_scan_form_and_chunk_size(scan_form, chunk_size)
  length = arrays[0].shape[1]
  chunk_size = chunk_size or (16 if platform.current_platform() == 'cpu' else 64)
  if scan_form == 'auto':
    scan_form = 'chunked' if length >= chunk_size else 'recurrent'
  arrays = tuple(x.astype(jnp.float32) for x in arrays)
  if scan_form == 'chunked':
    return scan_chunks(rule, chunk_size, arrays, memory)
  memory, y = jax.lax.scan(token_step, memory, tuple(x.swapaxes(0, 1) for x in arrays))
  return y.swapaxes(0, 1), memory


def delta_scan(query, key, value, beta, log_decay, initial_memory, form='auto', chunk_size=0):
  """Computes the gated delta rule in float32, starting from a given memory.

  Args:
    query: q, [B, T, H, K].
    key: k, [B, T, H, K], with norm 1 or 0 so that the memory is stable.
    value: v, [B, T, H, V].
    beta: [B, T, H], the fraction from 0 to 2 of the value stored under the key that is replaced.
    log_decay: log a, [B, T, H], at most 0, or None for a = 1.
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
  arrays = query, key, value, beta, *(() if log_decay is None else (log_decay,))
  return _recurrent_or_chunked_scan(
    _delta_rule_step, DELTA_RULE, arrays, initial_memory, form, chunk_size
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
    _generalised_delta_rule_step, GENERALISED_DELTA_RULE, arrays, initial_memory, form, chunk_size
  )
