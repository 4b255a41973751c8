"""Writing: greedily, by chance, and by beam search, with any model that has a state.

A model is known here by what it makes of the tokens that come next, and by the state to start from:

  logits [B, t, V], state = step(tokens [B, t], state)

A decoder-only model starts from the state after a prompt (`read_prompt`), an encoder-decoder from
what `encode` returns. Token after token is written, in one compiled loop that stops when no
sequence goes on. An answer is what ends with the token `end`, or has as many tokens as its limit.

  greedy       y_t = argmax p(y | y_<t)
  sampling     y_t ~ p(y | y_<t)^(1 / temperature), from the k likeliest tokens (Fan et al. 2018)
               or from the fewest whose mass reaches p (Holtzman et al. 2020)
  beam search  of all that is one token longer than the beam, the likeliest are the next beam; what
               is an answer leaves it, and waits with the score of Wu et al. 2016 (equation 14,
               without coverage)

                 log p(y) / ((5 + |y|) / 6)^alpha

As log p only falls, what goes on from y scores at most log p(y) / ((5 + limit) / 6)^alpha. Once by
that the best of the beam cannot pass the last of the answers that wait, a sentence is done, and
nothing is lost. A beam of one is greedy. Vaswani et al. 2017 (section 6.1) had 4 beams, alpha = 0.6
and a limit of 50 tokens more than the source.

Logits that are no distribution (one is NaN or +inf, or all are -inf) choose no token: such a model
is broken, or its state has no room left. The sequence ends before them and is marked as broken; in
beam search the scores of its sentence are NaN.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from transformer.layer import State

Step = Callable[[jax.Array, State], tuple[jax.Array, State]]
End = int | tuple[int, ...]
COLDEST, HOTTEST = 1e-37, 1e37  # temperatures that have an inverse in float32


class Written(NamedTuple):
  """One answer a sequence."""

  tokens: jax.Array  # [B, T] those written, the end among them, then `pad`
  lengths: jax.Array  # [B] how many were written
  steps: jax.Array  # [] how often the model was asked
  broken: jax.Array  # [B] whether it ended because the logits were no distribution


class Hypotheses(NamedTuple):
  """Answers to choose from, the best first; those that score -inf are none.

  Where the logits of a hypothesis were no distribution, all scores of its sentence are NaN.
  """

  tokens: jax.Array  # [B, answers, T] those written, the end among them, then `pad`
  lengths: jax.Array  # [B, answers] how many were written
  scores: jax.Array  # [B, answers]
  steps: jax.Array  # [] how often the model was asked


def greedy(
  step: Step, state: State, start: jax.Array, length: int, end: End, pad: int,
  *, limit: jax.Array | None = None,
) -> Written:
  """The likeliest token, every time.

  Args:
    step: the model; it is asked about one token of each sequence at a time.
    state: what came before, with room for `length` tokens more.
    start: [B] the tokens that are read first, and not written.
    length: T, the most tokens of an answer.
    end: the token that ends an answer, or several of which each does; where there is none, a number
      that is no token, such as -1.
    pad: what stands behind the end.
    limit: [B] the most tokens of each answer; None: `length`.

  """
  return _write(step, state, start, length, end, pad, limit, lambda logits, _: _likeliest(logits))


def sample(
  step: Step, state: State, start: jax.Array, length: int, end: End, pad: int,
  *, key: jax.Array, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
  limit: jax.Array | None = None,
) -> Written:
  """A token drawn by chance, every time; the other arguments are those of `greedy`.

  Logits are divided by `temperature`. At 0 the likeliest token is taken, at infinity all tokens
  with a logit above -inf are drawn alike. Of the `top_k` likeliest tokens (0: of all), the fewest
  that have `top_p` of their mass can be drawn. All of a large vocabulary is slow to sort: with
  `top_p` give a `top_k` too.
  """
  _at_least(0, temperature=temperature, top_k=top_k)
  # Beyond these float32 has no quotient; the limits are reached long before.
  temperature = 0.0 if temperature < COLDEST else min(temperature, HOTTEST)
  if not 0 < top_p <= 1:
    raise ValueError(f'top_p is above 0 and at most 1, not {top_p}')

  def choose(logits, count):
    if not temperature:
      return _likeliest(logits)
    logits = (logits - jnp.max(logits, -1, keepdims=True)) / temperature
    draw = jax.random.fold_in(key, count)
    if not top_k and top_p == 1:
      return jax.random.categorical(draw, logits)
    logits, tokens = narrowed(logits, top_k, top_p)
    place = jax.random.categorical(draw, logits)
    return jnp.take_along_axis(tokens, place[:, None], 1)[:, 0]

  return _write(step, state, start, length, end, pad, limit, choose)


def narrowed(logits: jax.Array, top_k: int = 0, top_p: float = 1.0) -> tuple[jax.Array, jax.Array]:
  """Of logits [B, V] those that can be drawn, the likeliest first, and their tokens.

  Both are [B, top_k], or [B, V] without a `top_k`. Behind the fewest tokens that have `top_p` of
  the mass the logits are -inf. Of equal ones, the lower token is the likelier.
  """
  size = logits.shape[-1]
  if top_k > size:
    raise ValueError(f'top_k is at most the number of tokens, {size}, not {top_k}')
  logits, tokens = jax.lax.top_k(logits, top_k or size)
  if top_p < 1:
    mass = jax.nn.softmax(logits)
    before = jnp.cumsum(mass, -1) - mass  # that of the likelier ones
    logits = jnp.where(before < top_p, logits, -jnp.inf)
  return logits, tokens


def beam_search(
  step: Step, state: State, start: jax.Array, length: int, end: End, pad: int,
  *, beam_size: int = 4, length_penalty: float = 0.6, answers: int | None = None,
  limit: jax.Array | None = None,
) -> Hypotheses:
  """The best of the answers that a beam finds; the other arguments are those of `greedy`.

  `length_penalty` is alpha. `answers` is how many are wanted (None: `beam_size`): for fewer, a
  sentence is done sooner. A beam may be wider than the vocabulary; it fills in a few steps.
  """
  answers = beam_size if answers is None else answers
  _at_least(1, beam_size=beam_size, answers=answers)
  _at_least(0, length_penalty=length_penalty)
  limit = _limits(start, length, limit)[:, None]
  first = beam_size * jnp.arange(len(start))[:, None]  # of the rows of each sentence

  def score(mass, count):
    return mass / ((5 + count) / 6) ** length_penalty

  def advance(logits, count, found):
    beam, waiting, broken = found
    broken |= jnp.any((beam.scores > -jnp.inf) & unusable(logits).reshape(beam.scores.shape), 1)
    beam, origin = beam.only(~broken[:, None]).extended(logits, count)
    token = beam.tokens[:, :, count]
    over = _is_end(token, end) | (count + 1 >= limit)
    answer = beam._replace(scores=score(beam.scores, count + 1))
    waiting = waiting.best_with(answer.only(over))
    beam = beam.only(~over)
    beam = beam.only(score(beam.scores.max(1, keepdims=True), limit) > waiting.scores[:, -1:])
    return token.ravel(), (first + origin).ravel(), (beam, waiting, broken), beam.scores > -jnp.inf

  beam, waiting = (Pool.empty(start, count, length, pad) for count in (beam_size, answers))
  alone = (jnp.arange(beam_size)[None] == 0) & (limit > 0)  # what nothing is written of yet
  beam = beam._replace(scores=jnp.where(alone, 0, beam.scores))
  state, start = reorder((state, start), jnp.repeat(jnp.arange(len(start)), beam_size))
  found = beam, waiting, jnp.zeros(len(limit), bool)
  (_, waiting, broken), steps = _loop(step, state, start, length, found, advance)
  scores = jnp.where(broken[:, None], jnp.nan, waiting.scores)
  return Hypotheses(waiting.tokens, waiting.lengths, scores, steps)


class Pool(NamedTuple):
  """N sequences for each sentence, of which those that score -inf are none."""

  tokens: jax.Array  # [B, N, T]
  lengths: jax.Array  # [B, N]
  scores: jax.Array  # [B, N]

  @classmethod
  def empty(cls, start: jax.Array, count: int, length: int, pad: int) -> 'Pool':
    """Room for so many sequences of this length behind each start [B]."""
    shape = len(start), count
    tokens = jnp.full((*shape, length), pad, start.dtype)
    return cls(tokens, jnp.zeros(shape, jnp.int32), jnp.full(shape, -jnp.inf))

  def only(self, kept: jax.Array) -> 'Pool':  # [B, N], or [B, 1] for all of a sentence
    """Those that are kept."""
    return self._replace(scores=jnp.where(kept, self.scores, -jnp.inf))

  def best_with(self, new: 'Pool') -> 'Pool':
    """The N best of these and the new ones, the best first."""
    tokens, lengths, scores = (jnp.concatenate(pair, 1) for pair in zip(self, new, strict=True))
    scores, places = jax.lax.top_k(scores, self.scores.shape[1])
    return Pool(_at(tokens, places), jnp.take_along_axis(lengths, places, 1), scores)

  def extended(self, logits: jax.Array, count: jax.Array) -> tuple['Pool', jax.Array]:
    """The N likeliest that are one token longer, and the places [B, N] of what they extend.

    logits [B * N, V] are of token number `count`; the scores are sums of log p.
    """
    size = self.scores.shape[1]
    likely, tokens = jax.lax.top_k(logits, min(size, logits.shape[1]))  # no other can be among them
    likely -= jax.nn.logsumexp(logits, -1, keepdims=True)
    likely = jnp.where(unusable(logits)[:, None], -jnp.inf, likely)
    scores = self.scores[:, :, None] + likely.reshape(*self.scores.shape, -1)
    scores, best = jax.lax.top_k(scores.reshape(len(scores), -1), size)
    token = jnp.take_along_axis(tokens.reshape(len(scores), -1), best, 1)
    origin = best // likely.shape[1]
    tokens = _at(self.tokens, origin).at[:, :, count].set(token.astype(self.tokens.dtype))
    return Pool(tokens, jnp.full_like(self.lengths, count + 1), scores), origin


def read_prompt(
  step: Callable[..., tuple[jax.Array, State]], state: State, prompt: jax.Array, lengths: jax.Array
) -> tuple[State, jax.Array]:
  """The state and the `start` [B] from which what follows prompts is written.

  Prompts of different lengths are moved to the right, so that all of them end together, and what
  fills up in front is hidden. A model that knows relative positions alone reads each as if it were
  by itself; absolute positions (sinusoidal, learned) count what fills up.

  Args:
    step: as in `greedy`; it takes a `mask` [B, t] too, true where there is a token to read.
    state: what came before, with room for S - 1 tokens and for those that will be written.
    prompt: [B, S] tokens, of which the first `lengths` of each row are the prompt.
    lengths: [B] at least 1.

  """
  size = prompt.shape[1]
  place = jnp.arange(size)[None] + (lengths - size)[:, None]
  prompt = jnp.take_along_axis(prompt, jnp.maximum(place, 0), 1)
  if size > 1:  # the last token is what the writing reads first
    _, state = step(prompt[:, :-1], state, mask=place[:, :-1] >= 0)
  return state, prompt[:, -1]


def unusable(logits: jax.Array) -> jax.Array:
  """Where logits [..., V] are no distribution: one is NaN or +inf, or all of them are -inf."""
  return ~jnp.isfinite(jnp.max(logits, -1))


def reorder(state: State, rows: jax.Array) -> State:
  """The state of these sequences among those of a state; what all of them share stays."""
  return jax.tree.map(lambda leaf: leaf[rows] if jnp.ndim(leaf) else leaf, state)


def _write(step, state, start, length, end, pad, limit, choose) -> Written:
  """Writes what `choose(logits [B, V], count) -> [B]` says, row by row until it is over."""
  limit = _limits(start, length, limit)

  def advance(logits, count, found):
    tokens, lengths, going, broken = found
    broken |= going & unusable(logits)
    going &= ~broken
    token = jnp.where(going, choose(logits, count).astype(start.dtype), pad)
    tokens, lengths = tokens.at[:, count].set(token), lengths + going
    going &= ~_is_end(token, end) & (lengths < limit)
    return token, None, (tokens, lengths, going, broken), going

  tokens, nothing = jnp.full((len(start), length), pad, start.dtype), jnp.zeros_like(limit)
  found = tokens, nothing, limit > 0, jnp.zeros(len(start), bool)
  (tokens, lengths, _, broken), steps = _loop(step, state, start, length, found, advance)
  return Written(tokens, lengths, steps, broken)


def _loop(step, state, token, length, found, advance):
  """Asks the model until nothing goes on: what was found then, and how often it was asked.

  advance(logits [rows, V], count, found) -> the tokens [rows] to read next, the rows that they go
  on from (None: their own), what is found now, and what goes on
  """
  def body(carry):
    count, token, before, found, _ = carry
    logits, state = step(token[:, None], before)
    token, rows, found, going = advance(logits[:, -1], count, found)
    if rows is not None:
      # What a step hands back untouched, such as the source, is the same for a sentence's beam.
      state = jax.tree.map(lambda b, a: a if a is b else reorder(a, rows), before, state)
    return count + 1, token, state, found, jnp.any(going)

  carry = jnp.int32(0), token, state, found, jnp.array(True)
  count, _, _, found, _ = jax.lax.while_loop(lambda c: (c[0] < length) & c[-1], body, carry)
  return found, count


def _likeliest(logits):  # [B, V]
  return jax.lax.top_k(logits, 1)[1][:, 0]  # on a CPU several times as fast as argmax


def _is_end(token, end):
  """Whether each token is one that ends an answer."""
  ends = end if isinstance(end, tuple) else (end,)
  return functools.reduce(jnp.logical_or, (token == each for each in ends))


def _at(tokens, places):  # [B, N, T], [B, M]
  """Those sequences [B, M, T]."""
  return jnp.take_along_axis(tokens, places[:, :, None], 1)


def _limits(start, length, limit):
  """The most tokens [B] of each answer."""
  _at_least(1, length=length)
  return jnp.full(len(start), length) if limit is None else jnp.minimum(limit, length)


def _at_least(least: float, **options: float) -> None:
  """Raises a ValueError if an option is less."""
  for name, value in options.items():
    if not value >= least:
      raise ValueError(f'{name} is at least {least}, not {value}')
