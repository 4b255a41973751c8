"""Benchmark of the chunked against the step-by-step algorithm of the gated delta rule."""


import jax
import jax.numpy as jnp

from baselines.delta_scans import delta_scan
from experiments.speed.benchmark import Alternative, Benchmark, make_benchmark
from experiments.speed.benchmarks.inputs import GATE_BIAS, draw_normal_arrays


def gated_delta_rule_benchmark(
  seed: int, batch: int, length: int, heads: int, head_width: int
) -> Benchmark:
  """Defines a benchmark of the chunked against the step-by-step gated delta rule.

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
  query, key, value, beta, gate = draw_normal_arrays(seed, *[shape] * 3, *[shape[:3]] * 2)
  key /= jnp.linalg.norm(key, axis=-1, keepdims=True)

  def gated_delta_rule_function(implementation_form):
    def delta_scan_from_zero_state(query, *arrays):
      state = jnp.zeros((len(query), heads, head_width, head_width))
      return delta_scan(query, *arrays, state, form=implementation_form)[0]

    return delta_scan_from_zero_state

  return make_benchmark(
    gated_delta_rule_function('auto'),
    (query, key, value, jax.nn.sigmoid(beta), jax.nn.log_sigmoid(gate + GATE_BIAS)),
    (0,) * 6,
    {'recurrent form': Alternative(gated_delta_rule_function('recurrent'))},
  )
