"""A Transformer decoder in PyTorch, with pre-norm blocks of fused attention and a GELU MLP."""

from typing import Any

from experiments.speed.pytorch.execution import load_torch
from experiments.speed.pytorch.normalization import make_layer_norm


def build_decoder(vocabulary: int, width: int, depth: int, heads: int) -> Any:
  """Builds the decoder.

  Args:
    vocabulary: Number of token ids V.
    width: Channels D of the residual stream.
    depth: Number of blocks.
    heads: Number of attention heads H.

  Returns:
    A `torch.nn.Module` that maps token ids [B, T] to logits [B, T, V].

  """
  nn = load_torch().nn

  class Block(nn.Module):
    def __init__(self):
      super().__init__()
      self.norms = nn.ModuleList([make_layer_norm(width), make_layer_norm(width)])
      self.project = nn.Linear(width, 3 * width, bias=False)
      self.output = nn.Linear(width, width, bias=False)
      self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):  # [B, T, D]
      projected = self.project(self.norms[0](x)).unflatten(-1, (3, heads, -1))
      query, key, value = projected.permute(2, 0, 3, 1, 4)  # each [B, H, T, K]
      y = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
      x = x + self.output(y.transpose(1, 2).flatten(2))
      y = nn.functional.gelu(self.expand(self.norms[1](x)), approximate='tanh')
      return x + self.contract(y)

  class Decoder(nn.Module):
    def __init__(self):
      super().__init__()
      self.embedding = nn.Embedding(vocabulary, width)
      self.blocks = nn.ModuleList([Block() for _ in range(depth)])
      self.last_norm, self.head = make_layer_norm(width), nn.Linear(width, vocabulary)

    def forward(self, tokens):  # [B, T] -> [B, T, V]
      x = self.embedding(tokens)
      for block in self.blocks:
        x = block(x)
      return self.head(self.last_norm(x))

  return Decoder()
