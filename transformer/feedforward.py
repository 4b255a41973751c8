"""The position-wise feed-forward network, which transforms every token independently.

relu        W2 max(0, W1 x + b1) + b2          (Vaswani et al. 2017, equation 2)
gelu        W2 gelu(W1 x + b1) + b2            (Hendrycks and Gimpel 2016), in the tanh form
gelu_exact  the same network with the exact GELU
swiglu      W2 (silu(W1 x) * W3 x), no biases  (Shazeer 2020)

The GELU of its paper is x Phi(x), where Phi(x) = (1 + erf(x / sqrt 2)) / 2 is the distribution
function of the standard normal. The paper's approximation

  x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2

differs from it by less than 5e-4. GPT-2 was trained with the tanh form, which is also the default
of `jax.nn.gelu`. PyTorch's default is the exact form, and Cerebras-GPT, for example, was trained
with it. In this repository, GELU without a qualifier means the tanh form.
"""

import functools
from typing import ClassVar

import jax
from flax import linen as nn

from transformer.dense import Dense
from transformer.layer import SequenceLayer, apply_mask
from transformer.options import require_one_of, require_option_values_greater_than

ACTIVATIONS = {
  'relu': jax.nn.relu,
  'gelu': functools.partial(jax.nn.gelu, approximate=True),
  'gelu_exact': functools.partial(jax.nn.gelu, approximate=False),
  'swiglu': jax.nn.silu,
}


class FeedForward(SequenceLayer):
  """Two dense layers with an activation between them and a hidden width of expansion * D."""

  activation: str = 'gelu'
  expansion: float = 4.0

  receptive_field: ClassVar[int] = 1

  def __post_init__(self):
    super().__post_init__()
    require_one_of(self, 'activation', ACTIVATIONS)
    require_option_values_greater_than(self, 0, 'expansion')

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    x, width = apply_mask(x, mask), x.shape[-1]
    hidden_width = max(1, round(self.expansion * width))
    gated = self.activation == 'swiglu'

    def dense_layer(features, name):
      return Dense(features, use_bias=not gated, dtype=x.dtype, name=name)

    hidden = ACTIVATIONS[self.activation](dense_layer(hidden_width, 'expand')(x))
    if gated:
      hidden *= dense_layer(hidden_width, 'gate')(x)
    return dense_layer(width, 'contract')(hidden), ()
