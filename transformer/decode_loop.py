"""The compiled loop that all decoding methods share, and sets of hypotheses for beam search."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from transformer.layer import State

Step = Callable[[jax.Array, State], tuple[jax.Array, State]]
EndTokens = int | tuple[int, ...]


def decode_loop(
  step: Step, state: State, first_tokens: jax.Array, max_length: int, initial_results: Any,
  select_next_tokens: Callable,
) -> tuple[Any, jax.Array]:
  """Generates one token of each sequence per iteration until all sequences are complete.

  Args:
    step: the model, (tokens [rows, 1], state) -> (logits [rows, 1, V], state).
    state: the state before the first tokens.
    first_tokens: [rows] the first inputs of the model.
    max_length: the maximum number of calls.
    initial_results: a pytree of arrays that `select_next_tokens` updates.
    select_next_tokens: (logits [rows, V], count, results) -> the next tokens [rows], the rows whose
      states these tokens continue (None if unchanged), the results, and an array that is true where
      a sequence is incomplete. `count` is the number of earlier calls.

  Returns:
    The final results and the number of calls.

  """
  def decode_next_token(carry):
    count, tokens, state, results, _ = carry
    logits, next_state = step(tokens[:, None], state)
    tokens, rows, results, active = select_next_tokens(logits[:, -1], count, results)
    if rows is not None:
      # Arrays that the model does not change, such as the source, do not differ between hypotheses.
      next_state = jax.tree.map(
        lambda old, new: new if new is old else select_batch_rows(new, rows), state, next_state)
    return count + 1, tokens, next_state, results, jnp.any(active)

  carry = jnp.int32(0), first_tokens, state, initial_results, jnp.array(True)
  count, _, _, results, _ = jax.lax.while_loop(
    lambda carry: (carry[0] < max_length) & carry[-1], decode_next_token, carry)
  return results, count


def has_invalid_logits(logits: jax.Array) -> jax.Array:
  """Returns whether the softmax of logits [..., V] is undefined.

  Such logits contain NaN or +inf, or all of them are -inf.
  """
  return ~jnp.isfinite(jnp.max(logits, -1))


def select_batch_rows(state: State, rows: jax.Array) -> State:
  """Selects batch rows of each array in a state, and leaves scalars unchanged."""
  return jax.tree.map(lambda leaf: leaf[rows] if jnp.ndim(leaf) else leaf, state)


def is_end_token(token: jax.Array, end_tokens: EndTokens) -> jax.Array:
  """Returns whether each token is one of the end tokens."""
  end_tokens = end_tokens if isinstance(end_tokens, tuple) else (end_tokens,)
  return functools.reduce(jnp.logical_or, (token == end_token for end_token in end_tokens))


def length_limit_per_sequence(
  start_tokens: jax.Array, max_length: int, requested_limits: jax.Array | None
) -> jax.Array:
  """Returns the maximum number of generated tokens of each sequence.

  Args:
    start_tokens: [B], which determine the number of sequences.
    max_length: the maximum for all sequences.
    requested_limits: [B] the maximum for each sequence; None for `max_length`.

  Returns:
    [B] limits of at most `max_length`.

  Raises:
    ValueError: `max_length` is less than 1.

  """
  check_lower_bound({'max_length': max_length}, 1)
  if requested_limits is None:
    return jnp.full(len(start_tokens), max_length)
  return jnp.minimum(requested_limits, max_length)


def check_lower_bound(value_by_option_name: dict[str, float], minimum: float) -> None:
  """Raises a ValueError if the value of any option is NaN or less than the minimum."""
  for name, value in value_by_option_name.items():
    if not value >= minimum:
      raise ValueError(f'{name} must be at least {minimum}, not {value}')


class HypothesisSet(NamedTuple):
  """Up to N hypotheses of beam search for each sentence.

  An entry without a hypothesis has the score -inf.
  """

  tokens: jax.Array  # [B, N, T]
  lengths: jax.Array  # [B, N]
  scores: jax.Array  # [B, N]

  @classmethod
  def empty_hypothesis_set(
    cls, start_tokens: jax.Array, num_hypotheses: int, max_length: int, pad_token: int
  ) -> 'HypothesisSet':
    """Creates an empty set of hypotheses for each sentence.

    Args:
      start_tokens: [B], which determine the number of sentences and the dtype of tokens.
      num_hypotheses: N, the maximum number of hypotheses of each sentence.
      max_length: T, the number of tokens in an entry.
      pad_token: the token that fills the entries.

    Returns:
      N entries for each sentence, all with the score -inf.

    """
    shape = len(start_tokens), num_hypotheses
    tokens = jnp.full((*shape, max_length), pad_token, start_tokens.dtype)
    return cls(tokens, jnp.zeros(shape, jnp.int32), jnp.full(shape, -jnp.inf))

  def keep_hypotheses_where(self, condition: jax.Array) -> 'HypothesisSet':
    """Discards the hypotheses for which the condition [B, N] or [B, 1] is false."""
    return self._replace(scores=jnp.where(condition, self.scores, -jnp.inf))

  def merge_hypothesis_sets(self, other_set: 'HypothesisSet') -> 'HypothesisSet':
    """Returns the N best hypotheses of two sets, in decreasing order of their scores."""
    tokens, lengths, scores = (
      jnp.concatenate(pair, 1) for pair in zip(self, other_set, strict=True))
    scores, indices = jax.lax.top_k(scores, self.scores.shape[1])
    tokens = _gather_sequences(tokens, indices)
    return HypothesisSet(tokens, jnp.take_along_axis(lengths, indices, 1), scores)

  def extend_hypotheses(
    self, logits: jax.Array, num_generated_tokens: jax.Array
  ) -> tuple['HypothesisSet', jax.Array]:
    """Extends hypotheses of `num_generated_tokens` tokens by one token and keeps the N most likely.

    The logits are [B * N, V], and scores are sums of log p. Returns the extended hypotheses, and
    the indices [B, N] of the hypotheses that they extend.
    """
    size = self.scores.shape[1]
    # Only the N most likely next tokens of a hypothesis can be among the N best extensions.
    log_p, tokens = jax.lax.top_k(logits, min(size, logits.shape[1]))
    log_p -= jax.nn.logsumexp(logits, -1, keepdims=True)
    log_p = jnp.where(has_invalid_logits(logits)[:, None], -jnp.inf, log_p)
    scores = self.scores[:, :, None] + log_p.reshape(*self.scores.shape, -1)
    scores, best = jax.lax.top_k(scores.reshape(len(scores), -1), size)
    token = jnp.take_along_axis(tokens.reshape(len(scores), -1), best, 1)
    origin = best // log_p.shape[1]
    tokens = _gather_sequences(self.tokens, origin)
    tokens = tokens.at[:, :, num_generated_tokens].set(token.astype(self.tokens.dtype))
    lengths = jnp.full_like(self.lengths, num_generated_tokens + 1)
    return HypothesisSet(tokens, lengths, scores), origin


def _gather_sequences(tokens, indices):
  """Selects the sequences at the indices [B, M] from tokens [B, N, T]."""
  return jnp.take_along_axis(tokens, indices[:, :, None], 1)
