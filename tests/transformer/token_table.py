"""A model for tests of decoding, whose logits for each prefix are the rows of a table.

Its state is the index of the prefix, whose digits in base NUM_TOKENS are the tokens, and the number
of tokens consumed so far. The start token has no effect.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

NUM_TOKENS = 3
END_TOKEN = NUM_TOKENS - 1
MAX_LENGTH = 4
TABLE_SHAPE = 2 * NUM_TOKENS**MAX_LENGTH, NUM_TOKENS


def table_step(table):
  """The step function of the model."""
  def step(tokens, state):
    prefix_index, count = state
    prefix_index = jnp.where(count == 0, 1, prefix_index * NUM_TOKENS + tokens[:, -1])
    return table[prefix_index][:, None], (prefix_index, count + 1)

  return step


def random_table(seed):
  return np.random.default_rng(seed).normal(0, 1.5, TABLE_SHAPE).astype(np.float32)


@functools.partial(jax.jit, static_argnums=(0, 3))
def decode_table(search, table, limits, options):
  """Decodes the model of a table, one sequence for each limit, with compiled search options."""
  state = jnp.zeros(len(limits), jnp.int32), jnp.int32(0)
  start_tokens = jnp.zeros(len(limits), jnp.int32)
  return search(table_step(table), state, start_tokens, MAX_LENGTH, END_TOKEN, -1,
                length_limits=limits, **dict(options))
