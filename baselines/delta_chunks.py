"""Scans of the delta rule over chunks of tokens, with a gradient that is written by hand.

With S the memory before a chunk, both rules of `delta_scans` have the form

  c = X - W S,   y = Y + Q S + P c,   S' = e S + F^T (c, further values)

where c are the corrections of the tokens of a chunk. Everything that does not contain S is computed
for all chunks of a block at once, as batches of products (Yang et al. 2024, section 3). With c
inserted, S' = M S + N is a single product, and only that is computed from chunk to chunk. The
gradient passes through the chunks in reverse by Z = M^T Z' + H^T dy, with H = Q - P W, and all
further gradients are batches of products again. Of every token are stored c, a row of H and of
(I + L)^{-1}, and of every chunk M and S.

A block has at most `MATRICES_PER_BLOCK` chunks over all sequences and heads. This bounds the memory
of the intermediate values. On a CPU, XLA takes four times as long for a batch of products of 16 by
16 matrices whose left factor is transposed as for plain factors (1.1 and 0.27 microseconds a
matrix). Such factors are therefore transposed first, behind a barrier.

The gradient of a log decay is a reversed sum, within a chunk, of the differences between the
gradients with respect to decayed queries and keys, multiplied by these queries and keys.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from transformer import platform

MATRICES_PER_BLOCK = {'cpu': 1024, 'gpu': 512, 'tpu': 512}
BLOCK_SIZE_OF_DOUBLING = 8  # of larger matrices, a CPU inverts halves


class ChunkRule(NamedTuple):
  """The computations of a rule on a block of chunks, whose arrays are [chunks * B * H, C, ...].

  The memory of the rule is [B * H, K, V], and the transpose of its gradient is [B * H, V, K].
  """

  forward: Callable  # (memory, *arrays) -> memory after the block, y, residuals
  backward: Callable  # (gradient^T, memory after, dy, residuals, *arrays) -> gradient^T, gradients


def transpose(x: jax.Array) -> jax.Array:
  """The transposed matrices of x, which XLA does not merge with the products that use them."""
  if platform.current_platform() != 'cpu':
    return x.mT
  return jax.lax.optimization_barrier(jax.lax.optimization_barrier(x).mT)


def lower_triangular_mask(size: int, diagonal: int = 0) -> jax.Array:
  """A boolean mask [C, C] that is true where column <= row + diagonal."""
  return jnp.tri(size, k=diagonal, dtype=bool)


def unit_triangular_inverse(lower: jax.Array) -> jax.Array:
  """Computes (I + L)^{-1} for strictly lower triangular matrices L [..., C, C].

  With diagonal blocks X and Y of the inverse, and L restricted to the rows of Y and the columns of
  X, the inverse of the merged block is [[X, 0], [-Y L X, Y]]. On a CPU, large matrices are divided
  into halves (1.3 instead of 2.8 microseconds for C = 16). Elsewhere, and for small matrices, the
  blocks of all sizes are multiplied as whole matrices.
  """
  size = lower.shape[-1]
  if platform.current_platform() != 'cpu' or size <= BLOCK_SIZE_OF_DOUBLING:
    return _inverse_by_doubling(lower)
  half = size // 2
  diagonal = jnp.stack([lower[..., :half, :half], lower[..., half:, half:]])
  first, second = unit_triangular_inverse(diagonal)
  between = -(second @ lower[..., half:, :half] @ first)
  upper = jnp.concatenate([first, jnp.zeros_like(between)], -1)
  return jnp.concatenate([upper, jnp.concatenate([between, second], -1)], -2)


def _inverse_by_doubling(lower):
  size = lower.shape[-1]
  row, column = (jax.lax.broadcasted_iota(int, lower.shape, lower.ndim - i) for i in (2, 1))
  inverse, block = (row == column).astype(lower.dtype), 1
  while block < size:
    same_pair = row // (2 * block) == column // (2 * block)
    between = jnp.where(same_pair & (row // block > column // block), lower, 0)
    inverse -= between if block == 1 else inverse @ between @ inverse
    block *= 2
  return inverse


def memories_before_chunks(transition, addition, memory):
  """Applies S' = M S + N from chunk to chunk.

  Args:
    transition: M, [chunks * B * H, K, K].
    addition: N, [chunks * B * H, K, V].
    memory: S before the first chunk, [B * H, K, V].

  Returns:
    S before every chunk, [chunks * B * H, K, V], and S after the last chunk, [B * H, K, V].

  """

  def process_chunk(memory, inputs):
    transition, addition = inputs
    return transition @ memory + addition, memory

  matrices = tuple(x.reshape(-1, len(memory), *x.shape[1:]) for x in (transition, addition))
  memory, before = jax.lax.scan(process_chunk, memory, matrices)
  return before.reshape(addition.shape), memory


def gradients_after_chunks(transition, addition, gradient):
  """Applies Z^T = Z'^T M + N^T from chunk to chunk in reverse, like `memories_before_chunks`.

  Args:
    transition: M of every chunk, [chunks * B * H, K, K].
    addition: N^T of every chunk, [chunks * B * H, V, K].
    gradient: Z^T of the memory after the last chunk, [B * H, V, K].

  Returns:
    Z'^T of the memory after every chunk, [chunks * B * H, V, K], and Z^T of the memory before the
    first chunk, [B * H, V, K].

  """

  def process_chunk(gradient, inputs):
    transition, addition = inputs
    return gradient @ transition + addition, gradient

  matrices = tuple(x.reshape(-1, len(gradient), *x.shape[1:]) for x in (transition, addition))
  gradient, after = jax.lax.scan(process_chunk, gradient, matrices, reverse=True)
  return after.reshape(addition.shape), gradient


def memories_after_chunks(before: jax.Array, last: jax.Array) -> jax.Array:
  """The memories after all chunks, from those before all chunks and that after the last one."""
  return jnp.concatenate([before[len(last) :], last])


def sum_within_chunk(x: jax.Array, reverse: bool = False) -> jax.Array:
  """Sums x [..., C, K] cumulatively over the tokens, as products with triangles of ones."""
  triangle = jnp.tri(x.shape[-2], dtype=x.dtype)
  triangle = jnp.broadcast_to(triangle.T if reverse else triangle, (*x.shape[:-2], *triangle.shape))
  return jnp.matmul(triangle, x, precision='highest')


class _Blocks(NamedTuple):
  """The division of time into blocks, and of blocks into chunks."""

  count: int
  tokens: int  # of a block
  chunk_size: int

  def pad(self, x):
    padding = self.count * self.tokens - x.shape[1]
    return jnp.pad(x, ((0, 0), (0, padding)) + ((0, 0),) * (x.ndim - 2)) if padding else x

  def take(self, x, index):  # [B, T, H, ...] -> [chunks * B * H, C, ...]
    x = jax.lax.dynamic_slice_in_dim(x, index * self.tokens, self.tokens, 1)
    x = x.reshape(x.shape[0], -1, self.chunk_size, *x.shape[2:])
    x = jnp.moveaxis(x, (1, 3), (0, 2))
    return x.reshape(-1, *x.shape[3:])

  def put(self, whole, x, index):
    batch_size, _, num_heads = whole.shape[:3]
    x = x.reshape(-1, batch_size, num_heads, *x.shape[1:])
    x = jnp.moveaxis(x, (0, 2), (1, 3)).reshape(batch_size, self.tokens, *whole.shape[2:])
    return jax.lax.dynamic_update_slice_in_dim(whole, x, index * self.tokens, 1)


def _divide_into_blocks(arrays, chunk_size):
  batch_size, length, num_heads = arrays[0].shape[:3]
  chunks = -(-length // chunk_size)
  limit = MATRICES_PER_BLOCK[platform.current_platform()] // (batch_size * num_heads)
  count = -(-chunks // max(1, limit))
  return _Blocks(count, -(-chunks // count) * chunk_size, chunk_size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def scan_chunks(rule: ChunkRule, chunk_size: int, arrays: tuple, memory: jax.Array):
  """Scans over chunks of tokens.

  Args:
    rule: the computations on a block of chunks.
    chunk_size: C.
    arrays: the inputs of the rule, [B, T, H, ...]. The third one has the shape of y.
    memory: the memory before the first token, [B, H, K, V].

  Returns:
    The outputs y [B, T, H, V] and the memory after the last token, [B, H, K, V].

  """
  return _scan_chunks_forward(rule, chunk_size, arrays, memory)[0]


def _scan_chunks_forward(rule, chunk_size, arrays, memory):
  blocks = _divide_into_blocks(arrays, chunk_size)
  padded = tuple(blocks.pad(x) for x in arrays)

  def process_block(carry, index):
    memory, y = carry
    inputs = (blocks.take(x, index) for x in padded)
    memory, block_y, residuals = rule.forward(memory, *inputs)
    return (memory, blocks.put(y, block_y, index)), (memory, residuals)

  flat = memory.reshape(-1, *memory.shape[2:])
  carry = flat, jnp.zeros_like(padded[2])
  (flat, y), residuals = jax.lax.scan(process_block, carry, jnp.arange(blocks.count))
  return (y[:, : arrays[0].shape[1]], flat.reshape(memory.shape)), (arrays, residuals)


def _scan_chunks_backward(rule, chunk_size, residuals, gradients):
  arrays, residuals = residuals
  y_gradient, memory_gradient = gradients
  blocks = _divide_into_blocks(arrays, chunk_size)
  padded = tuple(blocks.pad(x) for x in arrays)
  y_gradient = blocks.pad(y_gradient)

  def process_block(carry, inputs):
    gradient, array_gradients = carry
    index, (memory, residuals) = inputs
    block_arrays = (blocks.take(x, index) for x in padded)
    gradient, parts = rule.backward(
      gradient, memory, blocks.take(y_gradient, index), residuals, *block_arrays
    )
    put = (blocks.put(x, part, index) for x, part in zip(array_gradients, parts, strict=True))
    return (gradient, tuple(put)), None

  flat = memory_gradient.reshape(-1, *memory_gradient.shape[2:]).mT
  carry = flat, tuple(jnp.zeros_like(x) for x in padded)
  inputs = jnp.arange(blocks.count), residuals
  (flat, array_gradients), _ = jax.lax.scan(process_block, carry, inputs, reverse=True)
  length = arrays[0].shape[1]
  return tuple(x[:, :length] for x in array_gradients), flat.mT.reshape(memory_gradient.shape)


scan_chunks.defvjp(_scan_chunks_forward, _scan_chunks_backward)
