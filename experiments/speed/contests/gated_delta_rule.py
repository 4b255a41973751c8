"""The gated delta rule, in chunks against step by step."""


import jax
import jax.numpy as jnp

from baselines.delta_scans import delta_scan
from experiments.speed.contest import Contest, Rival, contest
from experiments.speed.contests.numbers import OPEN, normal


def gated_delta_rule(seed: int, batch: int, length: int, heads: int, head_width: int) -> Contest:
  """The gated delta rule: in chunks, and step by step."""
  shape = (batch, length, heads, head_width)
  query, key, value, beta, gate = normal(seed, *[shape] * 3, *[shape[:3]] * 2)
  key /= jnp.linalg.norm(key, axis=-1, keepdims=True)

  def rule(form):
    def call(query, *arrays):
      memory = jnp.zeros((len(query), heads, head_width, head_width))
      return delta_scan(query, *arrays, memory, form=form)[0]

    return call

  return contest(
    rule('auto'),
    (query, key, value, jax.nn.sigmoid(beta), jax.nn.log_sigmoid(gate + OPEN)),
    (0,) * 6,
    {'the recurrent form': Rival(rule('recurrent'))},
  )
