"""Benchmark of SSD, linear attention with a scalar decay per head, in its chunked form.

It is compared with the form that processes one token at a time, and with a chunked PyTorch form.
"""

import functools

import jax
import jax.numpy as jnp

from baselines.matrix_scans import outer_product_scan
from experiments.lab.measure import work
from experiments.speed.benchmark import Alternative, Benchmark, make_benchmark
from experiments.speed.benchmarks.inputs import GATE_BIAS, sample_normal_arrays
from experiments.speed.pytorch.execution import prepare_torch_implementation
from experiments.speed.pytorch.ssd import ssd_in_chunks


def ssd_benchmark(seed: int, batch: int, length: int, heads: int, head_width: int) -> Benchmark:
  """Defines a benchmark of SSD from given queries, keys, values and decays.

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

  ours = make_ssd_function('auto')
  arguments = query, key, value, jax.nn.log_sigmoid(gate + GATE_BIAS)
  return make_benchmark(
    ours, arguments, (0,) * 5,
    {
      'recurrent form': Alternative(make_ssd_function('recurrent')),
      'torch chunked form': Alternative(
        lambda *tensors: functools.partial(ssd_in_chunks, *tensors),
        prepare=prepare_torch_implementation),
    },
    matmul_flops=work.flops(ours, *arguments),
  )
