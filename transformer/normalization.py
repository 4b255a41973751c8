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

from flax import linen as nn


class LayerNorm(nn.LayerNorm):
  """Layer norm with the exact variance; arguments and parameters are those of Flax."""

  use_fast_variance: bool = False


class RMSNorm(nn.RMSNorm):
  """Root mean square norm; as it subtracts no mean, one pass is exact."""
