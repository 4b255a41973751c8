"""Greedy decoding, sampling and beam search for models with a recurrent state or a cache.

A model is represented by a step function and an initial state:

  logits [B, t, V], state = step(tokens [B, t], state)

A decoder-only model starts from the state after a prompt (`prefill`), an encoder-decoder from the
result of `encode`. Tokens are generated one by one in a compiled loop, which stops when all
sequences are complete. A sequence is complete once it ends with an end token or has reached its
maximum length.

  greedy       y_t = argmax p(y | y_<t)
  sampling     y_t ~ p(y | y_<t)^(1 / temperature), from the k most likely tokens (Fan et al. 2018)
               or from the smallest set of tokens with mass p (Holtzman et al. 2020)
  beam search  the next beam consists of the most likely extensions of the beam by one token;
               complete hypotheses leave the beam with the score of Wu et al. 2016 (equation 14,
               without coverage)

                 log p(y) / ((5 + |y|) / 6)^alpha

Since log p never increases, a continuation of y scores at most log p(y) / ((5 + limit) / 6)^alpha.
Once this bound for the best hypothesis in the beam does not exceed the worst of the complete
hypotheses to be returned, the search for a sentence stops without loss. A beam of one is greedy
decoding. Vaswani et al. 2017 (section 6.1) used 4 beams, alpha = 0.6 and a limit of 50 tokens more
than the source.

Logits that define no distribution (one is NaN or +inf, or all are -inf) select no token. Such a
model is broken, or the capacity of its state is exceeded. The sequence ends before these logits and
is marked as broken. In beam search the scores of its sentence are NaN.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from transformer.decode_loop import (
  EndTokens,
  HypothesisSet,
  Step,
  check_lower_bound,
  decode_loop,
  has_invalid_logits,
  is_end_token,
  length_limit_per_sequence,
  select_batch_rows,
)
from transformer.layer import State

# For temperatures outside these bounds, 1 / temperature is infinite or zero in float32.
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-37, 1e37


class GeneratedSequences(NamedTuple):
  """Results of greedy decoding or sampling, with one sequence for each batch row."""

  tokens: jax.Array  # [B, T] generated tokens, the end token included, followed by padding
  lengths: jax.Array  # [B] the number of generated tokens
  steps: jax.Array  # [] the number of calls of the model
  broken: jax.Array  # [B] whether the sequence ended because its logits define no distribution


class Hypotheses(NamedTuple):
  """Results of beam search, the N best complete hypotheses in decreasing order of their scores.

  An entry without a hypothesis has the score -inf. If the logits of a hypothesis define no
  distribution, all scores of its sentence are NaN.
  """

  tokens: jax.Array  # [B, N, T] generated tokens, the end token included, followed by padding
  lengths: jax.Array  # [B, N] the number of generated tokens
  scores: jax.Array  # [B, N]
  steps: jax.Array  # [] the number of calls of the model


def greedy_search(
  step: Step, state: State, start_tokens: jax.Array, max_length: int, end_tokens: EndTokens,
  pad_token: int, *, length_limits: jax.Array | None = None,
) -> GeneratedSequences:
  """Generates, at every step, the token with the highest probability.

  Args:
    step: the model, (tokens [B, 1], state) -> (logits [B, 1, V], state).
    state: the state before `start_tokens`, with capacity for `max_length` tokens.
    start_tokens: [B] the first inputs, which are not part of the result.
    max_length: T, the maximum number of generated tokens.
    end_tokens: the token, or a tuple of tokens, after which a sequence is complete; -1 for none.
    pad_token: the token that fills the result after the end.
    length_limits: [B] a maximum number of tokens for each sequence; None for `max_length`.

  Returns:
    The generated sequences.

  Raises:
    ValueError: `max_length` is less than 1.

  Examples:
    The model has no state and always predicts the successor of its input token.

    >>> def step(tokens, state):
    ...   return jax.nn.one_hot(tokens + 1, 6), state
    >>> sequences = greedy_search(step, (), jnp.array([0, 2]), 5, end_tokens=4, pad_token=-1)
    >>> print(sequences.tokens)
    [[ 1  2  3  4 -1]
     [ 3  4 -1 -1 -1]]
    >>> print(sequences.lengths, sequences.steps)
    [4 2] 4

  """
  def choose_most_likely_tokens(logits, _num_generated_so_far):
    return _most_likely_tokens(logits)

  return _generate_sequences(
    step, state, start_tokens, max_length, end_tokens, pad_token, length_limits,
    choose_most_likely_tokens)


def sample(
  step: Step, state: State, start_tokens: jax.Array, max_length: int, end_tokens: EndTokens,
  pad_token: int, *, key: jax.Array, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
  length_limits: jax.Array | None = None,
) -> GeneratedSequences:
  """Generates sequences by drawing each token at random from the distribution of the model.

  Sorting a large vocabulary is slow, so that `top_p` should be combined with a `top_k`.

  Args:
    step: the model, (tokens [B, 1], state) -> (logits [B, 1, V], state).
    state: the state before `start_tokens`, with capacity for `max_length` tokens.
    start_tokens: [B] the first inputs, which are not part of the result.
    max_length: T, the maximum number of generated tokens.
    end_tokens: the token, or a tuple of tokens, after which a sequence is complete; -1 for none.
    pad_token: the token that fills the result after the end.
    key: the random key of all draws.
    temperature: the divisor of the logits. 0 selects the most likely token, and infinity draws
      uniformly among the tokens with a logit above -inf.
    top_k: the number of most likely tokens to draw from; 0 for all.
    top_p: among these tokens, the mass of the smallest set to draw from.
    length_limits: [B] a maximum number of tokens for each sequence; None for `max_length`.

  Returns:
    The generated sequences.

  Raises:
    ValueError: `max_length`, `temperature`, `top_k` or `top_p` is out of range.

  Examples:
    The model has equal probabilities for the two tokens after its input token, modulo 6.

    >>> def step(tokens, state):
    ...   likely = jax.nn.one_hot((tokens + 1) % 6, 6) + jax.nn.one_hot((tokens + 2) % 6, 6)
    ...   return jnp.log(likely), state
    >>> key = jax.random.key(0)
    >>> sequences = sample(step, (), jnp.array([0, 0]), 8, end_tokens=-1, pad_token=-1, key=key)
    >>> sequences.tokens.shape
    (2, 8)
    >>> increments = jnp.diff(sequences.tokens, axis=1) % 6
    >>> sorted(set(increments.ravel().tolist()))
    [1, 2]

  """
  check_lower_bound({'temperature': temperature, 'top_k': top_k}, 0)
  # In float32, temperatures outside these bounds have the same effect as 0 or infinity.
  temperature = 0.0 if temperature < MIN_TEMPERATURE else min(temperature, MAX_TEMPERATURE)
  if not 0 < top_p <= 1:
    raise ValueError(f'top_p must be above 0 and at most 1, not {top_p}')

  def draw_tokens(logits, num_generated_so_far):
    if not temperature:
      return _most_likely_tokens(logits)
    logits = (logits - jnp.max(logits, -1, keepdims=True)) / temperature
    step_key = jax.random.fold_in(key, num_generated_so_far)
    if not top_k and top_p == 1:
      return jax.random.categorical(step_key, logits)
    logits, tokens = filter_top_k_top_p(logits, top_k, top_p)
    rank = jax.random.categorical(step_key, logits)
    return jnp.take_along_axis(tokens, rank[:, None], 1)[:, 0]

  return _generate_sequences(
    step, state, start_tokens, max_length, end_tokens, pad_token, length_limits, draw_tokens)


def filter_top_k_top_p(
  logits: jax.Array, top_k: int = 0, top_p: float = 1.0
) -> tuple[jax.Array, jax.Array]:
  """Sorts logits in decreasing order and excludes tokens by top-k and top-p filtering.

  Args:
    logits: [B, V].
    top_k: k, the number of most likely tokens; 0 for all V.
    top_p: among these tokens, the mass of the smallest set whose logits are not set to -inf.

  Returns:
    The sorted logits [B, k] and their tokens [B, k]. Equal logits are in the order of their tokens.

  Raises:
    ValueError: `top_k` is greater than V.

  """
  size = logits.shape[-1]
  if top_k > size:
    raise ValueError(f'top_k must be at most the number of tokens, {size}, not {top_k}')
  logits, tokens = jax.lax.top_k(logits, top_k or size)
  if top_p < 1:
    probabilities = jax.nn.softmax(logits)
    preceding_mass = jnp.cumsum(probabilities, -1) - probabilities
    logits = jnp.where(preceding_mass < top_p, logits, -jnp.inf)
  return logits, tokens


def beam_search(
  step: Step, state: State, start_tokens: jax.Array, max_length: int, end_tokens: EndTokens,
  pad_token: int, *, beam_size: int = 4, length_penalty: float = 0.6,
  num_return_sequences: int | None = None, length_limits: jax.Array | None = None,
) -> Hypotheses:
  """Searches for the sequences with the highest length-normalized log probability.

  Args:
    step: the model, (tokens [rows, 1], state) -> (logits [rows, 1, V], state), for any number of
      rows.
    state: the state before `start_tokens`, with capacity for `max_length` tokens.
    start_tokens: [B] the first inputs, which are not part of the result.
    max_length: T, the maximum number of generated tokens.
    end_tokens: the token, or a tuple of tokens, after which a sequence is complete; -1 for none.
    pad_token: the token that fills the result after the end.
    beam_size: the number of incomplete hypotheses of a sentence. It may exceed the vocabulary, and
      the beam is then full after a few steps.
    length_penalty: alpha, the exponent of the length penalty.
    num_return_sequences: N, the number of complete hypotheses; None for `beam_size`. The search
      for fewer hypotheses stops earlier.
    length_limits: [B] a maximum number of tokens for each sequence; None for `max_length`.

  Returns:
    The N best hypotheses of each sentence, the best first.

  Raises:
    ValueError: `max_length`, `beam_size`, `num_return_sequences` or `length_penalty` is out of
      range.

  Examples:
    The model has no state, and its best first token does not start the best sequence.

    >>> transitions = jnp.log(jnp.array([[0.0, 0.6, 0.4], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]]))
    >>> def step(tokens, state):
    ...   return transitions[tokens], state
    >>> start_tokens = jnp.array([0])
    >>> hypotheses = beam_search(step, (), start_tokens, 3, 2, -1, beam_size=2, length_penalty=0.0)
    >>> print(hypotheses.tokens[0])
    [[ 2 -1 -1]
     [ 1  2 -1]]
    >>> [round(score, 2) for score in jnp.exp(hypotheses.scores[0]).tolist()]
    [0.4, 0.3]
    >>> print(greedy_search(step, (), start_tokens, 3, 2, -1).tokens[0])
    [1 1 1]

  """
  num_returned = beam_size if num_return_sequences is None else num_return_sequences
  check_lower_bound({'beam_size': beam_size, 'num_return_sequences': num_returned}, 1)
  check_lower_bound({'length_penalty': length_penalty}, 0)
  length_limits = length_limit_per_sequence(start_tokens, max_length, length_limits)[:, None]
  first_rows = beam_size * jnp.arange(len(start_tokens))[:, None]  # of each sentence's beam

  def length_normalized_score(log_probability, length):
    return log_probability / ((5 + length) / 6) ** length_penalty

  def advance_beams(logits, num_generated_so_far, search_state):
    beam, complete, broken = search_state
    in_use = beam.scores > -jnp.inf
    invalid = has_invalid_logits(logits).reshape(beam.scores.shape)
    broken |= jnp.any(in_use & invalid, 1)
    beam, origin = beam.keep_hypotheses_where(~broken[:, None]).extend_hypotheses(
      logits, num_generated_so_far)
    token = beam.tokens[:, :, num_generated_so_far]
    ended = is_end_token(token, end_tokens) | (num_generated_so_far + 1 >= length_limits)
    candidates = beam._replace(
      scores=length_normalized_score(beam.scores, num_generated_so_far + 1))
    complete = complete.merge_hypothesis_sets(candidates.keep_hypotheses_where(ended))
    beam = beam.keep_hypotheses_where(~ended)
    bound = length_normalized_score(beam.scores.max(1, keepdims=True), length_limits)
    beam = beam.keep_hypotheses_where(bound > complete.scores[:, -1:])
    tokens, rows = token.ravel(), (first_rows + origin).ravel()
    return tokens, rows, (beam, complete, broken), beam.scores > -jnp.inf

  beam, complete = (
    HypothesisSet.empty_hypothesis_set(start_tokens, size, max_length, pad_token)
    for size in (beam_size, num_returned)
  )
  # A sentence starts with one empty hypothesis, or with none if its length limit is 0.
  initial = (jnp.arange(beam_size)[None] == 0) & (length_limits > 0)
  beam = beam._replace(scores=jnp.where(initial, 0, beam.scores))
  rows = jnp.repeat(jnp.arange(len(start_tokens)), beam_size)
  state, start_tokens = select_batch_rows((state, start_tokens), rows)
  initial_results = beam, complete, jnp.zeros(len(length_limits), bool)
  (_, complete, broken), steps = decode_loop(
    step, state, start_tokens, max_length, initial_results, advance_beams)
  scores = jnp.where(broken[:, None], jnp.nan, complete.scores)
  return Hypotheses(complete.tokens, complete.lengths, scores, steps)


def prefill(
  step: Callable[..., tuple[jax.Array, State]], state: State, prompt: jax.Array,
  prompt_lengths: jax.Array,
) -> tuple[State, jax.Array]:
  """Processes all tokens of each prompt except the last token, in one call of the model.

  Prompts of different lengths are shifted to the right, so that all of them end at the same
  position, and the padding in front is masked. A model with relative positions then processes each
  prompt as in a batch of one. Absolute positions (sinusoidal, learned) count the padding.

  Args:
    step: the model as in `greedy_search`, which also takes a `mask` [B, t] of valid tokens.
    state: the state before the prompt, with capacity for S - 1 tokens and the generated tokens.
    prompt: [B, S] tokens. The first `prompt_lengths` tokens of each row are the prompt.
    prompt_lengths: [B] the number of prompt tokens, at least 1.

  Returns:
    The state before the last prompt token, and these last tokens [B], which are the
    `start_tokens` of decoding.

  """
  size = prompt.shape[1]
  index = jnp.arange(size)[None] + (prompt_lengths - size)[:, None]
  prompt = jnp.take_along_axis(prompt, jnp.maximum(index, 0), 1)
  if size > 1:  # the last token is the first input of decoding
    _, state = step(prompt[:, :-1], state, mask=index[:, :-1] >= 0)
  return state, prompt[:, -1]


def _generate_sequences(
  step, state, start_tokens, max_length, end_tokens, pad_token, length_limits, choose_tokens
):
  """Generates sequences whose tokens are chosen by `choose_tokens` from the logits [B, V]."""
  length_limits = length_limit_per_sequence(start_tokens, max_length, length_limits)

  def append_next_tokens(logits, num_generated_so_far, partial_sequences):
    tokens, lengths, active, broken = partial_sequences
    broken |= active & has_invalid_logits(logits)
    active &= ~broken
    token = choose_tokens(logits, num_generated_so_far).astype(start_tokens.dtype)
    token = jnp.where(active, token, pad_token)
    tokens, lengths = tokens.at[:, num_generated_so_far].set(token), lengths + active
    active &= ~is_end_token(token, end_tokens) & (lengths < length_limits)
    return token, None, (tokens, lengths, active, broken), active

  tokens = jnp.full((len(start_tokens), max_length), pad_token, start_tokens.dtype)
  broken = jnp.zeros(len(start_tokens), bool)
  initial_results = tokens, jnp.zeros_like(length_limits), length_limits > 0, broken
  (tokens, lengths, _, broken), steps = decode_loop(
    step, state, start_tokens, max_length, initial_results, append_next_tokens)
  return GeneratedSequences(tokens, lengths, steps, broken)


def _most_likely_tokens(logits):  # [B, V]
  return jax.lax.top_k(logits, 1)[1][:, 0]  # on a CPU several times as fast as argmax
