"""Benchmark of the chunked against the step-by-step algorithm of SSD.

SSD is linear attention with scalar decay.
"""


import jax
import jax.numpy as jnp

from baselines.matrix_scans import outer_product_scan
from experiments.speed.benchmark import Alternative, Benchmark, make_benchmark
from experiments.speed.benchmarks.inputs import GATE_BIAS, draw_normal_arrays


def ssd_benchmark(seed: int, batch: int, length: int, heads: int, head_width: int) -> Benchmark:
  """Defines a benchmark of the chunked against the step-by-step algorithm of SSD.

  Args:
    seed: Seed of the random inputs.
    batch: Number of sequences B.
    length: Tokens T of each sequence.
    heads: Number of heads H.
    head_width: Channels K of each head's keys and values.

  Returns:
    The benchmark.

  """
  shape = (batch, length, heads, head_width)
  query, key, value, gate = draw_normal_arrays(seed, *[shape] * 3, shape[:3])

  def decayed_attention_function(implementation_form):
    def attention_scan_from_zero_state(query, *arrays):
      state = jnp.zeros((len(query), heads, head_width, head_width))
      return outer_product_scan(query, *arrays, state, form=implementation_form)[0]

    return attention_scan_from_zero_state

  return make_benchmark(
    decayed_attention_function('auto'),
    (query, key, value, jax.nn.log_sigmoid(gate + GATE_BIAS)),
    (0,) * 5,
    {'recurrent form': Alternative(decayed_attention_function('recurrent'))},
  )
