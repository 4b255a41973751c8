"""Benchmark of the diagonal linear recurrence against a batch-first `lax.scan`."""


import jax
import jax.numpy as jnp

from baselines.scans import linear_scan
from experiments.speed.benchmark import Alternative, Benchmark, make_benchmark
from experiments.speed.benchmarks.inputs import draw_normal_arrays


def linear_recurrence_benchmark(seed: int, batch: int, length: int, width: int) -> Benchmark:
  """Defines a benchmark of the diagonal linear recurrence in the layout [T, B, D].

  Args:
    seed: Seed of the random decays and inputs.
    batch: Number of sequences B.
    length: Tokens T of each sequence.
    width: Channels D.

  Returns:
    The benchmark, whose alternative has the layout [B, T, D].

  """
  gate, drive = draw_normal_arrays(seed, *[(length, batch, width)] * 2)

  def batch_first_linear_scan(decay, drive):
    def recurrence_step(state, inputs):
      state = inputs[0] * state + inputs[1]
      return state, state

    by_time = decay.swapaxes(0, 1), drive.swapaxes(0, 1)
    return jax.lax.scan(recurrence_step, jnp.zeros_like(drive[:, 0]), by_time)[1].swapaxes(0, 1)

  def swap_batch_and_time(*arrays):
    return tuple(x.swapaxes(0, 1) for x in arrays)

  return make_benchmark(
    lambda decay, drive: linear_scan(decay, drive, jnp.zeros_like(drive[0]))[0],
    (jax.nn.sigmoid(gate), drive),
    (1, 1, 1),
    {
      'lax.scan, batch first': Alternative(
        batch_first_linear_scan, swap_batch_and_time, lambda y: y.swapaxes(0, 1),
        batch_axes=(0, 0, 0),
      ),
    },
  )
