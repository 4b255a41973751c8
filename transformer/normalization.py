"""Normalisation, at one place for all layers and models.

  LayerNorm   y = (x - mean(x)) / sqrt(var(x) + epsilon) * scale + bias    (Ba et al. 2016)
  RMSNorm     y = x / sqrt(mean(x^2) + epsilon) * scale                    (Zhang, Sennrich 2019)

The variance is mean((x - mean(x))^2), in two passes over x. Flax's default is the one-pass form
mean(x^2) - mean(x)^2: in float32 it cancels, and values of mean 1000 and deviation 1 come out wrong
by a third. Statistics are float32, whatever the dtype of x.

Epsilon is Flax's 1e-6 unless a layer says otherwise. PyTorch's LayerNorm, the recurrent models of
flash-linear-attention (RetNet, GLA, DeltaNet) and NX-AI's xLSTM have 1e-5; the two differ where the
variance of a head or of a token is itself near 1e-5. Mamba-2 and RWKV-7 have their authors' values.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def standardised(x: jax.Array, epsilon: float) -> jax.Array:
  """The last axis of x [..., D] at mean 0 and variance 1.

  Its gradient is written out, r (g - mean(g) - y mean(g y)) with r the inverse deviation: what
  autodiff makes of the two passes reduces more often, and a training step takes a fifth longer.
  """
  return _standardise(x, epsilon)[0]


def _standardise(x, epsilon):
  x -= x.mean(-1, keepdims=True)
  inverse = jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + epsilon)
  return x * inverse, (x * inverse, inverse)


def _gradient(epsilon, read, gradient):
  y, inverse = read
  mean = gradient.mean(-1, keepdims=True)
  return (inverse * (gradient - mean - y * (gradient * y).mean(-1, keepdims=True)),)


standardised.defvjp(_standardise, _gradient)


class LayerNorm(nn.Module):
  """Mean 0 and variance 1 of the last axis, scaled and shifted; fields are named as Flax's are."""

  epsilon: float = 1e-6
  dtype: Any = None  # of the result; None: that of x and float32 together
  use_bias: bool = True
  feature_axes: tuple[int, ...] = (-1,)  # of the scale and the bias: the last ones of x

  @nn.compact
  def __call__(self, x):  # [..., D]
    shape = tuple(x.shape[axis] for axis in self.feature_axes)

    def parameter(name, start):
      values = self.param(name, start, shape)
      return values.reshape((1,) * (x.ndim - len(shape)) + shape)

    y = standardised(x.astype(jnp.promote_types(x.dtype, jnp.float32)), self.epsilon)
    y *= parameter('scale', nn.initializers.ones)
    if self.use_bias:
      y += parameter('bias', nn.initializers.zeros)
    return y.astype(self.dtype or y.dtype)


class RMSNorm(nn.RMSNorm):
  """Root mean square norm; as it subtracts no mean, one pass is exact."""
