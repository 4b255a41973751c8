"""Writing after a prompt: with what was read as a state, or by reading it all again for each token.

Both are one compiled loop that takes the likeliest token each time, of one small decoder. They must
write the same tokens. The prompt is read in the time of both, and nearly as long as all that there
is room for: what a token costs does not depend on its place, for with a state attention looks over
all the room that there is, and without one all of it is read.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.lab.measure import memory
from experiments.speed.contest import OURS, Contest, Contestant, shared_out
from transformer import decoding
from transformer.attention import Attention
from transformer.block import Block
from transformer.feedforward import FeedForward
from transformer.model import DecoderOnly
from transformer.stack import Stack

VOCABULARY = 256


def generation(
  seed: int, batch: int, length: int, width: int, depth: int, heads: int, written: int
) -> Contest:
  """The last `written` tokens of so many sequences of this length."""
  stack = Stack((Block(Attention(heads)), Block(FeedForward())), depth)
  model = DecoderOnly(nn.Embed(VOCABULARY, width), stack, nn.Dense(VOCABULARY))
  key, other = jax.random.split(jax.random.key(seed))
  prompt = jax.random.randint(key, (batch, length - written), 0, VOCABULARY)
  arguments = jax.jit(model.init)(other, prompt), prompt
  forms = {OURS: with_a_state, 'the whole prefix again': again}
  return Contest(
    {
      name: functools.partial(_contestant, functools.partial(form, model, length), arguments)
      for name, form in forms.items()
    },
    work={},
  )


def with_a_state(model: DecoderOnly, length: int, parameters, prompt: jax.Array) -> jax.Array:
  """The tokens that follow prompts [B, S] up to a length, each from the state before it."""
  step, (batch, read) = functools.partial(model.apply, parameters), prompt.shape
  state = model.initial_state(batch, length, model.embedding.features)
  _, state = step(prompt[:, :-1], state)
  return decoding.greedy(step, state, prompt[:, -1], length - read, end=-1, pad=0).tokens


def again(model: DecoderOnly, length: int, parameters, prompt: jax.Array) -> jax.Array:
  """The same, each from all that is before it; what comes after a token changes nothing."""
  read = prompt.shape[1]

  def write(place, text):
    logits, _ = model.apply(parameters, text)
    before = jax.lax.dynamic_index_in_dim(logits, place - 1, 1, keepdims=False)
    return text.at[:, place].set(jnp.argmax(before, -1))

  text = jnp.pad(prompt, ((0, 0), (0, length - read)))
  return jax.lax.fori_loop(read, length, write, text)[:, read:]


def _contestant(write, arguments: tuple) -> Contestant:
  """One that writes after its share of the prompts on each device."""
  write, arguments, _ = shared_out(write, (None, 0, 0), arguments, arguments[1])
  program = jax.jit(write).lower(*arguments).compile()
  call = functools.partial(program, *arguments)

  def results():
    return {'output': jax.nn.one_hot(call(), VOCABULARY)}  # one token is as far from all others

  return Contestant({'forward': call}, results, memory.of_program(program))
