"""Fused attention kernels included in JAX, from cuDNN on a GPU and from Pallas on a TPU.

They compute complete sequences without padding, as in training, and support neither soft caps nor
relative positions.
"""

import jax
import jax.numpy as jnp

from transformer import platform
from transformer.dot_product import AttentionMask
from transformer.positions import RelativePositionTerms

TPU_BLOCK = 128


def unsupported_reason(
  query, key, value, attention_mask: AttentionMask, relative_position_terms: RelativePositionTerms,
  soft_cap: float,
) -> str | None:
  """Returns why the fused kernel of the platform does not support these inputs, or None.

  Args:
    query: [B, H, R, T, K].
    key: [B, H, K, S].
    value: [B, H, V, S].
    attention_mask: the keys that each query may attend to.
    relative_position_terms: terms of the scores, keys and values that depend on the distance.
    soft_cap: the bound c of the scores; 0 for no bound.

  Returns:
    The reason as a clause, or None if the kernel supports the inputs.

  """
  backend, width = platform.current_platform(), query.shape[-1]
  from_start = isinstance(attention_mask.offset, int) and attention_mask.offset == 0
  if backend not in ('gpu', 'tpu'):
    return f'there is no fused kernel on {backend}'
  if soft_cap or jax.tree.leaves(relative_position_terms):
    return 'the kernel supports no soft cap and no relative position terms'
  if not from_start or attention_mask.valid is not None or query.shape[3] != key.shape[3]:
    return 'the kernel requires complete sequences without a state and without a mask'
  if value.shape[2] != width:
    return f'keys have {width} channels, but values have {value.shape[2]}'
  if backend == 'gpu' and query.dtype not in (jnp.float16, jnp.bfloat16):
    return f'cuDNN supports float16 and bfloat16, not {query.dtype}'
  if backend == 'gpu' and (width % 8 or width > 128):
    return f'cuDNN supports head widths that are multiples of 8 up to 128, not {width}'
  shared = query.shape[2] > 1
  if backend == 'tpu' and (attention_mask.window or shared or query.shape[3] % TPU_BLOCK):
    return f"Pallas' kernel requires a multiple of {TPU_BLOCK} tokens, no window and no shared keys"
  return None


def fused_attention(query, key, value, attention_mask: AttentionMask):
  """Computes the result of `dense_attention`, up to rounding errors, with the fused kernel.

  Args:
    query: [B, H, R, T, K].
    key: [B, H, K, S].
    value: [B, H, V, S].
    attention_mask: causality and the window. `unsupported_reason` must be None for this mask.

  Returns:
    [B, H, R, T, V].

  """
  key, value = key.swapaxes(2, 3), value.swapaxes(2, 3)  # [B, H, S, K]
  width = query.shape[-1]
  if platform.current_platform() == 'tpu':
    from jax.experimental.pallas.ops.tpu.flash_attention import flash_attention

    causal = attention_mask.causal
    y = flash_attention(query[:, :, 0], key, value, causal=causal, sm_scale=width**-0.5)
    return y[:, :, None]
  flat = query.reshape(query.shape[0], -1, *query.shape[3:])
  y = jax.nn.dot_product_attention(
    *(a.swapaxes(1, 2) for a in (flat, key, value)),
    is_causal=attention_mask.causal,
    local_window_size=(attention_mask.window - 1, 0) if attention_mask.window else None,
    implementation='cudnn',
  )
  return y.swapaxes(1, 2).reshape(query.shape)
