"""The fused kernels that come with JAX: cuDNN's on a GPU, Pallas' on a TPU.

They do whole sequences without padding, which is what training reads, and nothing exotic.
"""

import jax
import jax.numpy as jnp

from transformer import platform
from transformer.dot_product import AttentionMask
from transformer.positions import Relative

TPU_BLOCK = 128


def unsupported_reason(
  query, key, value, attention_mask: AttentionMask, relative: Relative, soft_cap: float
) -> str | None:
  """Why the fused kernel of this platform cannot do this (shapes as in `fused`); None: it can."""
  backend, width = platform.current(), query.shape[-1]
  whole = isinstance(attention_mask.offset, int) and attention_mask.offset == 0
  if backend not in ('gpu', 'tpu'):
    return f'there is none on {backend}'
  if soft_cap or jax.tree.leaves(relative):
    return 'it has no soft cap and no relative scores'
  if not whole or attention_mask.valid is not None or query.shape[3] != key.shape[3]:
    return 'it reads whole sequences, without state and mask'
  if value.shape[2] != width:
    return f'keys of {width} channels have values of {value.shape[2]}'
  if backend == 'gpu' and query.dtype not in (jnp.float16, jnp.bfloat16):
    return f'cuDNN computes in float16 and bfloat16, not {query.dtype}'
  if backend == 'gpu' and (width % 8 or width > 128):
    return f'cuDNN takes heads of a multiple of 8 up to 128 channels, not {width}'
  shared = query.shape[2] > 1
  if backend == 'tpu' and (attention_mask.window or shared or query.shape[3] % TPU_BLOCK):
    return f"Pallas' takes no window, no shared keys, and lengths in multiples of {TPU_BLOCK}"
  return None


def fused(query, key, value, attention_mask: AttentionMask):
  """As `dot_product.naive`, to rounding, where there is no `hindrance`."""
  key, value = key.swapaxes(2, 3), value.swapaxes(2, 3)  # [B, H, S, K]
  width = query.shape[-1]
  if platform.current() == 'tpu':
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
