"""The Mamba layer in plain PyTorch, with a loop over time for the selective scan.

  h_t = exp(s_t A) h_{t-1} + s_t B_t u_t,   y_t = C_t . h_t + D u_t        h: [B, D, N]

The loop is that of `selective_scan_ref` in the authors' code (Gu and Dao 2023), which computes the
decays and the input terms of all tokens before the loop. Two changes make it faster. The arrays are
split into tokens by `unbind`, because the gradient of indexing one token fills an array of all
tokens with zeros (100 instead of 3800 ms on one CPU core for B8 T256 D128 N16). The outputs are
computed from all states after the loop.
"""

from collections.abc import Callable, Mapping
from typing import Any

from experiments.speed.pytorch.convolution import causal_convolution
from experiments.speed.pytorch.execution import load_torch


def selective_scan(u: Any, step: Any, a: Any, b: Any, c: Any) -> Any:
  """Computes the selective scan from a state of zero, without the skip connection D u.

  Args:
    u: Inputs [B, T, D].
    step: Step lengths s [B, T, D].
    a: Diagonal state matrices A [D, N].
    b: Input vectors B [B, T, N].
    c: Output vectors C [B, T, N].

  Returns:
    The outputs [B, T, D].

  """
  torch = load_torch()
  decays = torch.exp(step.unsqueeze(-1) * a)  # [B, T, D, N]
  input_terms = (step * u).unsqueeze(-1) * b.unsqueeze(2)
  state, states = torch.zeros_like(decays[:, 0]), []
  for decay, input_term in zip(decays.unbind(1), input_terms.unbind(1), strict=True):
    state = torch.addcmul(input_term, decay, state)
    states.append(state)
  return (torch.stack(states, 1) @ c.unsqueeze(-1)).squeeze(-1)


def create_mamba_layer_closure(weights: Mapping[str, Any], x: Any) -> Callable[[], Any]:
  """Returns a function that applies a Mamba layer of inner width E D to the given input.

  Args:
    weights: Weights in PyTorch's layout, the kernels 'input' [2 E D, D], 'convolution' [E D, 1, k],
      'selection' [R + 2 N, E D], 'step' [E D, R] and 'output' [D, E D], the biases
      'convolution_bias' and 'step_bias' [E D], 'log_rate' [E D, N], and 'skip' [E D].
    x: Input [B, T, D].

  Returns:
    A function without arguments that computes the output [B, T, D].

  """
  functional = load_torch().nn.functional
  rank, size = weights['step'].shape[1], weights['log_rate'].shape[1]

  def apply_mamba_layer():
    u, gate = functional.linear(x, weights['input']).chunk(2, -1)
    u = causal_convolution(
      u.transpose(1, 2), weights['convolution'], weights['convolution_bias'], groups=u.shape[-1])
    u = functional.silu(u.transpose(1, 2))
    low, b, c = functional.linear(u, weights['selection']).split((rank, size, size), -1)
    step = functional.softplus(functional.linear(low, weights['step'], weights['step_bias']))
    y = selective_scan(u, step, -weights['log_rate'].exp(), b, c) + weights['skip'] * u
    return functional.linear(y * functional.silu(gate), weights['output'])

  return apply_mamba_layer
