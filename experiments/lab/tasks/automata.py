"""Tasks in which a model predicts the output of a finite automaton after each input token.

The automaton is a Moore machine. It starts in state 0 and has a transition table and an output
table,

  s[t] = transition(s[t-1], x[t]),  y[t] = output(s[t]).

A token is a function from states to states, and a word is the composition of its tokens. Only
finitely many functions arise as compositions. They form the transition monoid of the automaton,
which has a finite multiplication table. The states after all prefixes of a word are therefore
prefix products, which an associative scan computes in O(log T) steps for any automaton.

Ladner and Fischer 1980, "Parallel prefix computation", for the scan; Delétang et al. 2023, "Neural
networks and the Chomsky hierarchy", for the regular tasks; Liu et al. 2023, "Transformers learn
shortcuts to automata", for the network depth that the monoid requires.
"""

import abc
import collections
import dataclasses
import functools
import itertools
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.tasks.task import LOGIT_GAP, Batch, Space, Task, one_hot_logits

ANSWERS = ('all', 'last')  # scored outputs of a sequence


class TransitionMonoid(NamedTuple):
  """The M distinct functions from states to states that arise from words of input tokens."""

  functions: np.ndarray  # [M, states] the next state of each state
  letters: np.ndarray  # [letters] index into `functions` of each letter
  product: np.ndarray  # [M, M] index of the function that applies the first factor, then the second


def compute_transition_monoid(transition: np.ndarray) -> TransitionMonoid:
  """Computes the transition monoid of an automaton from its transition table [states, letters]."""
  indices, functions, queue = {}, [], collections.deque(transition.T)
  while queue:
    word = queue.popleft()
    if word.tobytes() not in indices:
      indices[word.tobytes()] = len(functions)
      functions.append(word)
      queue.extend(transition[word].T)  # the word followed by each letter
  product = [[indices[second[first].tobytes()] for second in functions] for first in functions]
  letters = [indices[letter.tobytes()] for letter in transition.T]
  return TransitionMonoid(np.array(functions), np.array(letters), np.array(product))


@dataclasses.dataclass(frozen=True, eq=False)
class MooreMachine:
  """The transition table and the output table of a Moore machine.

  Machines are compared by identity, because arrays are not hashable.
  """

  transition: np.ndarray  # [states, letters] next state
  output: np.ndarray  # [states] output of each state

  @property
  def alphabet_size(self) -> int:
    """The number of distinct input tokens."""
    return self.transition.shape[1]

  @property
  def num_outputs(self) -> int:
    """The number of distinct outputs, which are numbered from 0."""
    return int(self.output.max()) + 1

  @functools.cached_property
  def transition_monoid(self) -> TransitionMonoid:
    return compute_transition_monoid(self.transition)

  @functools.partial(jax.jit, static_argnums=0)
  def compute_outputs(self, tokens: jax.Array) -> jax.Array:
    """The outputs [B, T] of the automaton after each token of the input sequences [B, T]."""
    functions, letters, product = map(jnp.asarray, self.transition_monoid)
    words = jax.lax.associative_scan(
      lambda first, second: product[first, second], letters[tokens], axis=1
    )
    return jnp.asarray(self.output)[functions[:, 0]][words]


@dataclasses.dataclass(frozen=True)
class AutomatonTask(Task):
  """The base class of tasks whose targets are the outputs of a Moore machine on random tokens.

  A sequence has `length` tokens. With answers='all', the outputs after tokens number `shortest` to
  `length` are scored. With answers='last', one of these outputs is scored in each sequence, chosen
  uniformly at random. The tokens after it do not affect the prediction of a causal model.
  """

  length: int = 40
  shortest: int = 1
  answers: str = 'all'

  axis: ClassVar[str] = 'length'
  solved: ClassVar[float] = 0.999  # a model with more errors fails at greater lengths

  def __post_init__(self):
    if self.answers not in ANSWERS:
      raise ValueError(
        f'answers={self.answers!r}: {self.family} supports the values {", ".join(ANSWERS)}'
      )
    if self.length < 1:
      raise ValueError(f'length={self.length}: {self.family} needs at least 1 token')
    if not 1 <= self.shortest <= self.length:
      raise ValueError(
        f'shortest={self.shortest}: for length {self.length}, {self.family} allows 1 to'
        f' {self.length}'
      )
    if not self.scored_positions:
      raise ValueError(
        f'shortest={self.shortest}: {self.family} has no scored output after {self.shortest} to'
        f' {self.length} tokens; decrease `shortest` or increase `length`'
      )

  @property
  @abc.abstractmethod
  def automaton(self) -> MooreMachine:
    """The automaton that computes the targets.

    Equal tasks return the same object, so that they share one compiled function.
    """

  @property
  def token_id_ranges(self) -> tuple[range, ...]:
    """The allowed input tokens at positions 0 to P - 1, repeated periodically at later positions.

    Outputs are defined after the first position of each period of P positions.
    """
    return (range(self.automaton.alphabet_size),)

  @property
  def scored_positions(self) -> range:
    """The positions at which outputs can be scored.

    With answers='all', all of them are scored. With answers='last', a batch draws one position
    for each sequence.
    """
    period = len(self.token_id_ranges)
    return range(-(-(self.shortest - 1) // period) * period, self.length, period)

  @property
  def num_scored_positions(self) -> int | None:
    """One with answers='last', otherwise the number of `scored_positions`."""
    return 1 if self.answers == 'last' else len(self.scored_positions)

  @property
  def title(self) -> str:
    """The task name, with a note if only one output of each sequence is scored."""
    return super().title + (' (one scored output)' if self.answers == 'last' else '')

  @property
  def input_space(self) -> Space:
    return Space('tokens', self.automaton.alphabet_size)

  @property
  def output_space(self) -> Space:
    return Space('tokens', self.automaton.num_outputs)

  @property
  def dependency_distance(self) -> int:
    """The sequence length, because the last output can depend on the first token."""
    return self.length

  @property
  def chance_level(self) -> float:
    """The probability of the most likely output, averaged over the scored positions."""
    return float(output_distributions(self)[list(self.scored_positions)].max(-1).mean())

  def with_dependency_distance(self, distance: int) -> 'AutomatonTask':
    return dataclasses.replace(self, length=distance)

  def extrapolation_task(self, dependency_distance: int) -> 'AutomatonTask':
    """A copy of this task with longer sequences, scored only beyond the original length."""
    return dataclasses.replace(self, length=dependency_distance, shortest=self.length + 1)

  def batch(self, split: str, index, batch_size: int) -> Batch:
    """Uniform random input tokens, and the outputs of the automaton as targets."""
    token_key, position_key = jax.random.split(self.batch_key(split, index))
    ranges = itertools.islice(itertools.cycle(self.token_id_ranges), self.length)
    low, high = np.array([(letters.start, letters.stop) for letters in ranges]).T
    shape = batch_size, self.length
    source = jax.random.randint(token_key, shape, low[None, :], high[None, :])
    if self.answers == 'last':
      positions = jax.random.choice(position_key, np.array(self.scored_positions), (batch_size,))
      weight = jax.nn.one_hot(positions, self.length)
    else:
      weight = jnp.zeros(shape).at[:, np.array(self.scored_positions)].set(1.0)
    return Batch(source, self.automaton.compute_outputs(source), weight)

  def oracle_outputs(self, source: jax.Array) -> jax.Array:
    return one_hot_logits(self.automaton.compute_outputs(source), self.output_space.size)

  def baseline_outputs(self, source: jax.Array) -> jax.Array:
    """Logits equal to the marginal log-probability of each output at each position.

    The probabilities are those for random input sequences.
    """
    logits = np.maximum(np.log(np.maximum(output_distributions(self), 1e-300)), -LOGIT_GAP)
    logits = jnp.asarray(logits, jnp.float32)
    return jnp.broadcast_to(logits, (*source.shape, self.output_space.size))


@functools.cache
def output_distributions(task: AutomatonTask) -> np.ndarray:
  """The probability of each output at each position, averaged over all input sequences.

  The result has shape [T, outputs].
  """
  automaton, ranges = task.automaton, task.token_id_ranges
  one_hot = np.eye(len(automaton.transition))
  transition_matrices = [
    one_hot[automaton.transition[:, list(letters)]].mean(1) for letters in ranges
  ]
  state_probabilities, output_probabilities = one_hot[0], []
  for position in range(task.length):
    state_probabilities = state_probabilities @ transition_matrices[position % len(ranges)]
    output_probabilities.append(
      state_probabilities @ np.eye(automaton.num_outputs)[automaton.output]
    )
  return np.stack(output_probabilities)
