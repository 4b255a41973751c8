"""Benchmark of the chunked algorithm of the gated delta rule against the step-by-step algorithm."""

import jax
import jax.numpy as jnp

from baselines.delta_scans import delta_scan
from experiments.speed.benchmark import Alternative, Benchmark, make_benchmark
from experiments.speed.benchmarks.inputs import GATE_BIAS, sample_normal_arrays


def gated_delta_rule_benchmark(
  seed: int, batch: int, length: int, heads: int, head_width: int
) -> Benchmark:
  """Defines a benchmark that compares two algorithms of the gated delta rule.

  The chunked algorithm is compared with the step-by-step algorithm.

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

  return make_benchmark(
    make_gated_delta_rule_function('auto'),
    (query, key, value, jax.nn.sigmoid(beta), jax.nn.log_sigmoid(gate + GATE_BIAS)),
    (0,) * 6,
    {'recurrent form': Alternative(make_gated_delta_rule_function('recurrent'))},
  )
