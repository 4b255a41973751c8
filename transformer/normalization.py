"""Layer normalization and RMS normalization.

  LayerNorm   y = (x - mean(x)) / sqrt(var(x) + epsilon) * scale + bias    (Ba et al. 2016)
  RMSNorm     y = x / sqrt(mean(x^2) + epsilon) * scale                    (Zhang, Sennrich 2019)

The variance is mean((x - mean(x))^2), computed in two passes over x. Flax's default is the one-pass
form mean(x^2) - mean(x)^2, which suffers from cancellation in float32. For values of mean 1000 and
deviation 1 its result is wrong by a third. Statistics are float32 for every dtype of x.

Epsilon is Flax's 1e-6 unless a layer sets another value. PyTorch's LayerNorm, the recurrent models
of flash-linear-attention (RetNet, GLA, DeltaNet) and NX-AI's xLSTM use 1e-5. The two values give
different outputs where the variance of a head or of a token is itself near 1e-5. Mamba-2 and RWKV-7
use their authors' values.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def standardize_last_axis(x: jax.Array, epsilon: float) -> jax.Array:
  """Shifts and scales the last axis of x [..., D] to a mean of 0 and a variance of 1.

  The gradient is defined explicitly as r (g - mean(g) - y mean(g y)), where r is the inverse
  standard deviation. Automatic differentiation of the two passes needs more reductions and makes
  a training step a fifth slower.
  """
  return _standardize_forward(x, epsilon)[0]


def _standardize_forward(x, epsilon):
  x -= x.mean(-1, keepdims=True)
  inverse = jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + epsilon)
  return x * inverse, (x * inverse, inverse)


def _standardize_backward(epsilon, residuals, gradient):
  y, inverse = residuals
  mean = gradient.mean(-1, keepdims=True)
  return (inverse * (gradient - mean - y * (gradient * y).mean(-1, keepdims=True)),)


standardize_last_axis.defvjp(_standardize_forward, _standardize_backward)


class LayerNorm(nn.Module):
  """Layer normalization of the last axis, with an accurate two-pass variance.

  The fields have the names of the fields of Flax's LayerNorm.
  """

  epsilon: float = 1e-6
  dtype: Any = None  # of the result; None: the dtype of x promoted to at least float32
  use_bias: bool = True
  feature_axes: tuple[int, ...] = (-1,)  # axes of the scale and the bias, the last axes of x

  @nn.compact
  def __call__(self, x):  # [..., D]
    shape = tuple(x.shape[axis] for axis in self.feature_axes)

    def create_broadcastable_parameter(name, initializer):
      values = self.param(name, initializer, shape)
      return values.reshape((1,) * (x.ndim - len(shape)) + shape)

    y = standardize_last_axis(x.astype(jnp.promote_types(x.dtype, jnp.float32)), self.epsilon)
    y *= create_broadcastable_parameter('scale', nn.initializers.ones)
    if self.use_bias:
      y += create_broadcastable_parameter('bias', nn.initializers.zeros)
    return y.astype(self.dtype or y.dtype)


class RMSNorm(nn.RMSNorm):
  """RMS normalization as implemented in Flax.

  It needs no second pass over x, because it subtracts no mean.
  """
