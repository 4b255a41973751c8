"""The position-wise network: what a token does with what it has gathered, at every place alike.

relu        W2 max(0, W1 x + b1) + b2          (Vaswani et al. 2017, equation 2)
gelu        W2 gelu(W1 x + b1) + b2            (Hendrycks and Gimpel 2016), in the tanh form
gelu_exact  the same in the exact form
swiglu      W2 (silu(W1 x) * W3 x), no biases  (Shazeer 2020)

The GELU of its paper is x Phi(x), where Phi(x) = (1 + erf(x / sqrt 2)) / 2 is the distribution
function of the standard normal. The paper's approximation

  x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2

differs from it by less than 5e-4. GPT-2 was trained with the tanh form, which is also what
`jax.nn.gelu` computes unless told otherwise; PyTorch computes the exact form unless told otherwise,
and Cerebras-GPT, for example, was trained with it. Where this repository says GELU and no more, it
is the tanh form.
"""

import functools
from typing import ClassVar

import jax
from flax import linen as nn

from transformer.layer import SequenceLayer, masked
from transformer.options import above, one_of

ACTIVATIONS = {
  'relu': jax.nn.relu,
  'gelu': functools.partial(jax.nn.gelu, approximate=True),
  'gelu_exact': functools.partial(jax.nn.gelu, approximate=False),
  'swiglu': jax.nn.silu,
}


class FeedForward(SequenceLayer):
  """Two dense layers around an activation, `expansion` times as wide between them."""

  activation: str = 'gelu'
  expansion: float = 4.0

  receptive_field: ClassVar[int] = 1

  def __post_init__(self):
    super().__post_init__()
    one_of(self, 'activation', ACTIVATIONS)
    above(self, 0, 'expansion')

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    x, width = masked(x, mask), x.shape[-1]
    inner = max(1, round(self.expansion * width))
    gated = self.activation == 'swiglu'

    def dense(features, name):
      return nn.Dense(features, use_bias=not gated, dtype=x.dtype, name=name)

    hidden = ACTIVATIONS[self.activation](dense(inner, 'expand')(x))
    if gated:
      hidden *= dense(inner, 'gate')(x)
    return dense(width, 'contract')(hidden), ()
