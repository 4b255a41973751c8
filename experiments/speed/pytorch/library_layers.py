"""LSTM, GRU and fused attention of the PyTorch library, called as their users call them."""

from collections.abc import Callable
from typing import Any

from experiments.speed.pytorch.execution import load_torch, torch_device


def create_recurrent_layer_closure(class_name: str, weights: dict, x: Any) -> Callable[[], Any]:
  """Returns a function that applies PyTorch's LSTM or GRU layer to the given input.

  Args:
    class_name: 'LSTM' or 'GRU', the name of the class in `torch.nn`.
    weights: Weights by attribute name of the PyTorch layer, except the second bias, which is zero
      and gets no gradient.
    x: Input [B, T, D].

  Returns:
    A function without arguments that computes the output [B, T, D].

  """
  width = x.shape[-1]
  layer_class = getattr(load_torch().nn, class_name)
  layer = layer_class(width, width, batch_first=True, device=torch_device())
  layer.bias_hh_l0.requires_grad_(False).zero_()
  for name, weight in weights.items():
    setattr(layer, name, weight)
  return lambda: layer(x)[0]


def create_fused_attention_closure(query: Any, key: Any, value: Any) -> Callable[[], Any]:
  """Returns a function that applies PyTorch's fused causal attention to the given tensors.

  Args:
    query: Queries [B, H, T, K].
    key: Keys [B, H, T, K].
    value: Values [B, H, T, K].

  Returns:
    A function without arguments that computes the output [B, H, T, K].

  """
  attend = load_torch().nn.functional.scaled_dot_product_attention
  return lambda: attend(query, key, value, is_causal=True)
