"""The gated delta rule in chunks in plain PyTorch, with the WY form of the corrections.

Within a chunk of C tokens, the memory S before the chunk and the decays g_i since its start give
the corrections U - W S, where (I + L) [U, W] = [beta v, beta g k] and
L_ij = beta_i (g_i / g_j) (k_i . k_j) for j < i  (Yang, Kautz and Hatamizadeh 2025, section 3.3).
The triangular systems of all chunks are solved at once by `torch.linalg.solve_triangular`. A loop
passes the memory from chunk to chunk.
"""

from typing import Any

from experiments.speed.pytorch.execution import load_torch
from experiments.speed.pytorch.ssd import (
  default_chunk_size,
  join_chunks,
  segment_sums,
  split_into_chunks,
)


def gated_delta_rule_in_chunks(
  query: Any, key: Any, value: Any, beta: Any, log_decay: Any
) -> Any:
  """Computes the gated delta rule from a memory of zero.

  Args:
    query: Queries [B, T, H, K].
    key: Keys [B, T, H, K], with norm 1.
    value: Values [B, T, H, V].
    beta: Fractions [B, T, H] of the stored values that are replaced.
    log_decay: Logarithms of the decays [B, T, H], at most 0.

  Returns:
    The outputs [B, T, H, V].

  """
  torch, chunk_size = load_torch(), default_chunk_size(value.shape[1])
  query, key, value, beta, log_decay = (
    split_into_chunks(x, chunk_size) for x in (query, key, value, beta, log_decay))
  cumulative = log_decay.cumsum(-1)
  since_start = cumulative.exp().unsqueeze(-1)  # [B, H, T / C, C, 1]
  until_end = (cumulative[..., -1:] - cumulative).exp().unsqueeze(-1)
  decay = segment_sums(log_decay).exp()  # [B, H, T / C, C, C]
  weighted_key = beta.unsqueeze(-1) * key
  lower = (decay * (weighted_key @ key.mT)).tril(-1)
  right_side = torch.cat([beta.unsqueeze(-1) * value, since_start * weighted_key], -1)
  solution = torch.linalg.solve_triangular(lower, right_side, upper=False, unitriangular=True)
  new_values, memory_keys = solution.split((value.shape[-1], key.shape[-1]), -1)
  chunks = (
    since_start * query, until_end * key, decay * (query @ key.mT), new_values, memory_keys,
    since_start[..., -1:, :])

  memory, outputs = torch.zeros_like(key[:, :, 0].mT @ value[:, :, 0]), []
  for query, key, score, new_value, memory_key, end in zip(
    *(x.unbind(2) for x in chunks), strict=True
  ):
    correction = new_value - memory_key @ memory
    outputs.append(query @ memory + score @ correction)
    memory = end * memory + key.mT @ correction
  return join_chunks(torch.stack(outputs, 2))
