"""Benchmark of causal attention against `jax.nn` and against PyTorch's fused kernel."""

import functools

import jax

from experiments.speed.benchmark import Alternative, Benchmark, make_benchmark
from experiments.speed.benchmarks.inputs import sample_normal_arrays
from experiments.speed.pytorch.execution import prepare_torch_implementation
from experiments.speed.pytorch.library_layers import create_fused_attention_closure
from transformer.attention import attend
from transformer.dot_product import AttentionMask


def attention_benchmark(
  seed: int, batch: int, length: int, heads: int, head_width: int
) -> Benchmark:
  """Defines a benchmark of causal attention from given queries, keys and values.

  Args:
    seed: Seed of the random inputs.
    batch: Number of sequences B.
    length: Tokens T of each sequence.
    heads: Number of heads H.
    head_width: Channels K of each head.

  Returns:
    The benchmark.

  """
  shape = (batch, heads, length, head_width)
  query, key, value = sample_normal_arrays(seed, shape, shape, shape)

  def to_heads_first(query, key, value):  # [B, H, T, K]
    return query[:, :, 0], key.swapaxes(2, 3), value.swapaxes(2, 3)

  def to_time_first(query, key, value):  # [B, T, H, K]
    return tuple(x.swapaxes(1, 2) for x in to_heads_first(query, key, value))

  return make_benchmark(
    lambda query, key, value: attend(query, key, value, AttentionMask()),
    (query[:, :, None], key.swapaxes(2, 3), value.swapaxes(2, 3)),
    (0, 0, 0, 0),
    {
      'jax.nn.dot_product_attention': Alternative(
        functools.partial(jax.nn.dot_product_attention, is_causal=True),
        to_time_first, lambda y: y[:, :, 0].swapaxes(1, 2),
      ),
      'torch fused attention': Alternative(
        create_fused_attention_closure, to_heads_first, lambda y: y[:, :, 0],
        prepare_torch_implementation,
      ),
    },
    # The causal mask halves the operations of both matrix products of attention.
    matmul_flops=2 * batch * heads * length**2 * head_width,
  )
