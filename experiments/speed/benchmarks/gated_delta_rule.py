"""Benchmark of the gated delta rule in its chunked form.

It is compared with the form that processes one token at a time, and with a chunked PyTorch form.
"""

import functools

import jax
import jax.numpy as jnp

from baselines.delta_scans import delta_scan
from experiments.lab.measure import work
from experiments.speed.benchmark import Alternative, Benchmark, make_benchmark
from experiments.speed.benchmarks.inputs import GATE_BIAS, sample_normal_arrays
from experiments.speed.pytorch.execution import prepare_torch_implementation
from experiments.speed.pytorch.gated_delta_rule import gated_delta_rule_in_chunks


def gated_delta_rule_benchmark(
  seed: int, batch: int, length: int, heads: int, head_width: int
) -> Benchmark:
  """Defines a benchmark of the gated delta rule from given queries, keys, values and gates.

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
  query, key, value, beta, gate = sample_normal_arrays(seed, *[shape] * 3, *[shape[:3]] * 2)
  key /= jnp.linalg.norm(key, axis=-1, keepdims=True)

  def make_gated_delta_rule_function(algorithm):
    def delta_scan_from_zero_state(query, key, value, beta, log_decay):
      state = jnp.zeros((len(query), heads, head_width, head_width))
      return delta_scan(query, key, value, beta, log_decay, state, form=algorithm)[0]

    return delta_scan_from_zero_state

  ours = make_gated_delta_rule_function('auto')
  arguments = query, key, value, jax.nn.sigmoid(beta), jax.nn.log_sigmoid(gate + GATE_BIAS)
  return make_benchmark(
    ours, arguments, (0,) * 6,
    {
      'recurrent form': Alternative(make_gated_delta_rule_function('recurrent')),
      'torch chunked form': Alternative(
        lambda *tensors: functools.partial(gated_delta_rule_in_chunks, *tensors),
        prepare=prepare_torch_implementation),
    },
    matmul_flops=work.flops(ours, *arguments),
  )
