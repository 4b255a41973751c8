"""A language model of Mamba-2 layers in plain PyTorch, with SSD in chunks.

Each layer is the one of `mamba2_simple.py` in the authors' code (Dao and Gu 2024), in a residual
block with a layer norm before the layer.
"""

from typing import Any

from experiments.speed.pytorch.convolution import causal_convolution
from experiments.speed.pytorch.execution import load_torch
from experiments.speed.pytorch.normalization import make_layer_norm, make_rms_norm
from experiments.speed.pytorch.ssd import ssd_in_chunks


def build_mamba2_layer(
  width: int, heads: int, state_size: int, expand: int, kernel_size: int
) -> Any:
  """Builds a Mamba-2 layer.

  Args:
    width: Channels D of the input and of the output.
    heads: Number of heads H.
    state_size: State variables N of each channel.
    expand: Inner channels as a multiple E of the width.
    kernel_size: Taps k of the convolution.

  Returns:
    A `torch.nn.Module` that maps [B, T, D] to [B, T, D].

  """
  torch = load_torch()
  nn, inner, channels = torch.nn, expand * width, expand * width + 2 * state_size

  class Mamba2(nn.Module):
    def __init__(self):
      super().__init__()
      self.input = nn.Linear(width, inner + channels + heads, bias=False)
      self.convolution = nn.Conv1d(channels, channels, kernel_size, groups=channels)
      for name in ('step_bias', 'log_rate', 'skip'):
        self.register_parameter(name, nn.Parameter(torch.zeros(heads)))
      self.norm, self.output = make_rms_norm(inner), nn.Linear(inner, width, bias=False)

    def forward(self, x):  # [B, T, D]
      gate, convolved, step = self.input(x).split((inner, channels, heads), -1)
      convolved = causal_convolution(
        convolved.transpose(1, 2), self.convolution.weight, self.convolution.bias, groups=channels)
      convolved = nn.functional.silu(convolved.transpose(1, 2))
      value, key, query = convolved.split((inner, state_size, state_size), -1)
      value = value.unflatten(-1, (heads, -1))
      step = nn.functional.softplus(step + self.step_bias)
      y = ssd_in_chunks(
        query.unsqueeze(2), key.unsqueeze(2), value * step.unsqueeze(-1),
        -step * self.log_rate.exp())
      y = (y + self.skip.unsqueeze(-1) * value).flatten(2)
      return self.output(self.norm(y * nn.functional.silu(gate)))

  return Mamba2()


def build_mamba2_model(vocabulary: int, width: int, depth: int, **layer_sizes: int) -> Any:
  """Builds a language model of Mamba-2 layers.

  Args:
    vocabulary: Number of token ids V.
    width: Channels D of the residual stream.
    depth: Number of layers.
    **layer_sizes: Sizes of each layer, as in `build_mamba2_layer`.

  Returns:
    A `torch.nn.Module` that maps token ids [B, T] to logits [B, T, V].

  """
  nn = load_torch().nn

  class Mamba2Model(nn.Module):
    def __init__(self):
      super().__init__()
      self.embedding, self.head = nn.Embedding(vocabulary, width), nn.Linear(width, vocabulary)
      self.norms = nn.ModuleList([make_layer_norm(width) for _ in range(depth + 1)])
      self.layers = nn.ModuleList(
        [build_mamba2_layer(width, **layer_sizes) for _ in range(depth)])

    def forward(self, tokens):  # [B, T] -> [B, T, V]
      x = self.embedding(tokens)
      for norm, layer in zip(self.norms, self.layers, strict=False):
        x = x + layer(norm(x))
      return self.head(self.norms[-1](x))

  return Mamba2Model()
