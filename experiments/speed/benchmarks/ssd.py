"""Benchmark of the chunked algorithm of SSD against the step-by-step algorithm.

SSD is linear attention with scalar decay.
"""

import jax
import jax.numpy as jnp

from baselines.matrix_scans import outer_product_scan
from experiments.speed.benchmark import Alternative, Benchmark, make_benchmark
from experiments.speed.benchmarks.inputs import GATE_BIAS, sample_normal_arrays


def ssd_benchmark(seed: int, batch: int, length: int, heads: int, head_width: int) -> Benchmark:
  """Defines a benchmark that compares the chunked algorithm of SSD with the step-by-step one.

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
  query, key, value, gate = sample_normal_arrays(seed, *[shape] * 3, shape[:3])

  def make_ssd_function(algorithm):
    def ssd_outputs_from_zero_state(query, key, value, log_decay):
      state = jnp.zeros((len(query), heads, head_width, head_width))
      return outer_product_scan(query, key, value, log_decay, state, form=algorithm)[0]

    return ssd_outputs_from_zero_state

  return make_benchmark(
    make_ssd_function('auto'),
    (query, key, value, jax.nn.log_sigmoid(gate + GATE_BIAS)),
    (0,) * 5,
    {'recurrent form': Alternative(make_ssd_function('recurrent'))},
  )
