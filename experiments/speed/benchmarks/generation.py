"""Benchmark of greedy decoding with a cached state against recomputation of the prefix.

Both forms are compiled loops that append the most likely token of one small decoder, and both must
generate the same tokens. The prompt is processed within the timed call. It fills nearly the
capacity, and the cost per token does not depend on the position. The cached form attends over the
full capacity for every token, and the other form recomputes the full sequence.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.lab.measure import memory
from experiments.speed.benchmark import OURS, Benchmark, Implementation, shard_function_over_batch
from transformer import decoding
from transformer.attention import Attention
from transformer.block import Block
from transformer.feedforward import FeedForward
from transformer.model import DecoderOnly
from transformer.stack import Stack

VOCABULARY = 256


def generation_benchmark(
  seed: int, batch: int, length: int, width: int, depth: int, heads: int,
  num_generated_tokens: int,
) -> Benchmark:
  """Defines a benchmark of greedy decoding after a prompt, with and without a cached state.

  Args:
    seed: Seed of the random parameters and prompts.
    batch: Number of sequences B.
    length: Tokens T of a sequence, prompt and generated tokens together.
    width: Channels D of the decoder.
    depth: Number of blocks, each with attention and a feed-forward network.
    heads: Number of attention heads.
    num_generated_tokens: Tokens generated per sequence, fewer than `length`.

  Returns:
    The benchmark.

  """
  stack = Stack((Block(Attention(heads)), Block(FeedForward())), depth)
  model = DecoderOnly(nn.Embed(VOCABULARY, width), stack, nn.Dense(VOCABULARY))
  prompt_key, parameter_key = jax.random.split(jax.random.key(seed))
  prompt = jax.random.randint(prompt_key, (batch, length - num_generated_tokens), 0, VOCABULARY)
  arguments = jax.jit(model.init)(parameter_key, prompt), prompt
  forms = {
    OURS: generate_with_cache, 'no cache, recomputes the prefix': generate_without_cache}
  return Benchmark(
    {
      name: functools.partial(
        _compile_generation, functools.partial(generate, model, length), arguments)
      for name, generate in forms.items()
    },
    matmul_flops={},
  )


def generate_with_cache(
  model: DecoderOnly, length: int, parameters, prompt: jax.Array
) -> jax.Array:
  """Decodes greedily from the cached state of the previous tokens.

  Args:
    model: Decoder.
    length: Tokens T of a finished sequence.
    parameters: Variables of the decoder.
    prompt: Token ids [B, S].

  Returns:
    The generated token ids [B, T - S].

  """
  step, (batch, prompt_length) = functools.partial(model.apply, parameters), prompt.shape
  state = model.initial_state(batch, length, model.embedding.features)
  _, state = step(prompt[:, :-1], state)
  return decoding.greedy_search(
    step, state, prompt[:, -1], length - prompt_length, end_tokens=-1, pad_token=0).tokens


def generate_without_cache(
  model: DecoderOnly, length: int, parameters, prompt: jax.Array
) -> jax.Array:
  """Decodes greedily, and recomputes the full padded sequence for each token.

  Padding does not change the result, because the model is causal.

  Args:
    model: Decoder.
    length: Tokens T of a finished sequence.
    parameters: Variables of the decoder.
    prompt: Token ids [B, S].

  Returns:
    The generated token ids [B, T - S].

  """
  prompt_length = prompt.shape[1]

  def append_most_likely_token(position, tokens):
    logits, _ = model.apply(parameters, tokens)
    last = jax.lax.dynamic_index_in_dim(logits, position - 1, 1, keepdims=False)
    return tokens.at[:, position].set(jnp.argmax(last, -1))

  tokens = jnp.pad(prompt, ((0, 0), (0, length - prompt_length)))
  tokens = jax.lax.fori_loop(prompt_length, length, append_most_likely_token, tokens)
  return tokens[:, prompt_length:]


def _compile_generation(generate_tokens, arguments: tuple) -> Implementation:
  """Compiles a function that generates tokens, with the batch of prompts sharded over devices."""
  generate_tokens, arguments, _ = shard_function_over_batch(
    generate_tokens, (None, 0, 0), arguments, arguments[1])
  program = jax.jit(generate_tokens).lower(*arguments).compile()
  call = functools.partial(program, *arguments)

  def generated_tokens_as_one_hot_vectors():
    # Outputs are compared as one-hot vectors, so that every wrong token has an equal error.
    return {'output': jax.nn.one_hot(call(), VOCABULARY)}

  plan = memory.program_memory(program)
  return Implementation({'forward': call}, generated_tokens_as_one_hot_vectors, plan)
