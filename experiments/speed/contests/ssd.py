"""Linear attention under a decay, in chunks against step by step."""


import jax
import jax.numpy as jnp

from baselines.matrix_scans import outer_product_scan
from experiments.speed.contest import Contest, Rival, contest
from experiments.speed.contests.numbers import OPEN, normal


def ssd(seed: int, batch: int, length: int, heads: int, head_width: int) -> Contest:
  """Linear attention that decays by a number for each head: in chunks, and step by step."""
  shape = (batch, length, heads, head_width)
  query, key, value, gate = normal(seed, *[shape] * 3, shape[:3])

  def scan(form):
    def call(query, *arrays):
      memory = jnp.zeros((len(query), heads, head_width, head_width))
      return outer_product_scan(query, *arrays, memory, form=form)[0]

    return call

  return contest(
    scan('auto'),
    (query, key, value, jax.nn.log_sigmoid(gate + OPEN)),
    (0,) * 5,
    {'the recurrent form': Rival(scan('recurrent'))},
  )
