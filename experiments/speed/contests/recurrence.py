"""The diagonal linear recurrence, against the loop as it is first written."""


import jax
import jax.numpy as jnp

from baselines.scans import linear_scan
from experiments.speed.contest import Contest, Rival, contest
from experiments.speed.contests.numbers import normal


def recurrence(seed: int, batch: int, length: int, width: int) -> Contest:
  """The diagonal linear recurrence, time first; as it is first written, batch first."""
  gate, drive = normal(seed, *[(length, batch, width)] * 2)

  def plain(decay, drive):
    def step(state, now):
      state = now[0] * state + now[1]
      return state, state

    by_time = decay.swapaxes(0, 1), drive.swapaxes(0, 1)
    return jax.lax.scan(step, jnp.zeros_like(drive[:, 0]), by_time)[1].swapaxes(0, 1)

  def swap(*arrays):
    return tuple(x.swapaxes(0, 1) for x in arrays)

  return contest(
    lambda decay, drive: linear_scan(decay, drive, jnp.zeros_like(drive[0]))[0],
    (jax.nn.sigmoid(gate), drive),
    (1, 1, 1),
    {
      'lax.scan, batch first': Rival(
        plain, swap, lambda y: y.swapaxes(0, 1), batch_axes=(0, 0, 0)
      ),
    },
  )
