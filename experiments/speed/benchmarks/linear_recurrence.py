"""Benchmark of the diagonal linear recurrence against a `lax.scan` on batch-first arrays."""

import jax
import jax.numpy as jnp

from baselines.scans import linear_scan
from experiments.speed.benchmark import Alternative, Benchmark, make_benchmark
from experiments.speed.benchmarks.inputs import sample_normal_arrays


def linear_recurrence_benchmark(seed: int, batch: int, length: int, width: int) -> Benchmark:
  """Defines a benchmark of the diagonal linear recurrence in the layout [T, B, D].

  Args:
    seed: Seed of the random decays and inputs.
    batch: Number of sequences B.
    length: Tokens T of each sequence.
    width: Channels D.

  Returns:
    The benchmark, whose other implementation has the layout [B, T, D].

  """
  gate, input_term = sample_normal_arrays(seed, *[(length, batch, width)] * 2)

  def batch_first_linear_scan(decay, input_term):
    def recurrence_step(state, inputs):
      state = inputs[0] * state + inputs[1]
      return state, state

    by_time = decay.swapaxes(0, 1), input_term.swapaxes(0, 1)
    _, states = jax.lax.scan(recurrence_step, jnp.zeros_like(input_term[:, 0]), by_time)
    return states.swapaxes(0, 1)

  def swap_batch_and_time_axes(decay, input_term):
    return decay.swapaxes(0, 1), input_term.swapaxes(0, 1)

  return make_benchmark(
    lambda decay, input_term: linear_scan(decay, input_term, jnp.zeros_like(input_term[0]))[0],
    (jax.nn.sigmoid(gate), input_term),
    (1, 1, 1),
    {
      'lax.scan, batch first': Alternative(
        batch_first_linear_scan, swap_batch_and_time_axes, lambda y: y.swapaxes(0, 1),
        batch_axes=(0, 0, 0),
      ),
    },
  )
