"""SSD in chunks in plain PyTorch, after the listing `ssd_minimal_discrete` of Dao and Gu 2024.

Attention scores within a chunk are multiplied by the decay between their tokens. The state at the
end of each chunk is a decaying sum of the states that single chunks contribute. The listing writes
these sums as products of three and four arrays in one `einsum`. Here they are products of two
matrices each, with heads before time, which takes three quarters of the listing's time on a CPU.
"""

import math
from typing import Any

from experiments.speed.pytorch.execution import load_torch, torch_device

# The fastest chunk sizes of 16, 32, 64 and 128 on a CPU, and that of the listing elsewhere.
CHUNK_SIZES = {'cpu': 32, 'cuda': 64}


def split_into_chunks(x: Any, chunk_size: int) -> Any:
  """Splits x [B, T, H, ...] into chunks [B, H, T / C, C, ...] of C tokens."""
  return x.unflatten(1, (-1, chunk_size)).movedim(3, 1)


def join_chunks(x: Any) -> Any:
  """Joins chunks [B, H, T / C, C, ...] into [B, T, H, ...]."""
  return x.movedim(1, 3).flatten(1, 2)


def default_chunk_size(length: int) -> int:
  """Returns the largest divisor of the sequence length that divides the device's chunk size."""
  return math.gcd(length, CHUNK_SIZES[torch_device()])


def segment_sums(x: Any) -> Any:
  """Computes x_{j+1} + ... + x_i for all j <= i of the last axis, and -inf for j > i.

  The result has the shape [..., T, T] for x [..., T]. The sums are not differences of longer sums,
  which would lose precision.
  """
  torch, length = load_torch(), x.shape[-1]
  ones = torch.ones(length, length, dtype=torch.bool, device=x.device)
  repeated = x.unsqueeze(-1).expand(*x.shape, length)
  sums = repeated.masked_fill(~ones.tril(-1), 0).cumsum(-2)
  return sums.masked_fill(~ones.tril(), -math.inf)


def ssd_in_chunks(query: Any, key: Any, value: Any, log_decay: Any) -> Any:
  """Computes linear attention with a scalar decay per head, from a state of zero.

  Args:
    query: Queries [B, T, H, K]. A single head is shared by all heads.
    key: Keys [B, T, H, K]. A single head is shared by all heads.
    value: Values [B, T, H, V].
    log_decay: Logarithms of the decays [B, T, H], at most 0.

  Returns:
    The outputs [B, T, H, V].

  """
  functional, chunk_size = load_torch().nn.functional, default_chunk_size(value.shape[1])
  query, key, value, log_decay = (
    split_into_chunks(x, chunk_size) for x in (query, key, value, log_decay))
  since_start = log_decay.cumsum(-1)
  within_chunk = (segment_sums(log_decay).exp() * (query @ key.mT)) @ value
  until_end = (since_start[..., -1:] - since_start).exp()
  contributions = (key * until_end.unsqueeze(-1)).mT @ value  # [B, H, T / C, K, V]
  decay_between_chunks = segment_sums(functional.pad(since_start[..., -1], (1, 0))).exp()
  # Row c of this lower triangular matrix holds the decays that give the state before chunk c.
  decay_before_chunks = decay_between_chunks[..., :-1, 1:]
  states = (decay_before_chunks @ contributions.flatten(-2)).unflatten(-1, contributions.shape[-2:])
  from_states = since_start.exp().unsqueeze(-1) * (query @ states)
  return join_chunks(within_chunk + from_states)
