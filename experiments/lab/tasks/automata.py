"""Finite automata as tasks: every token moves a state, and the question is where it stands now.

An automaton starts in state 0, moves by one table and answers by another:

  s[t] = step(s[t-1], x[t]),  y[t] = answer(s[t]).

A token is a function from states to states, and a word is the composition of its tokens. Only
finitely many functions arise in this way: they are the automaton's transition monoid, and it has a
multiplication table. So the states after all prefixes of a word are prefix products, which an
associative scan computes in O(log T) steps, on any device and for any automaton.

Ladner and Fischer 1980, "Parallel prefix computation", for the scan; Delétang et al. 2023, "Neural
networks and the Chomsky hierarchy", for the regular tasks; Liu et al. 2023, "Transformers learn
shortcuts to automata", for what the monoid says of the depth that a network needs.
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

from experiments.lab.tasks.task import SURE, Batch, Space, Task, certain

ANSWERS = ('all', 'last')


class Monoid(NamedTuple):
  """The functions from states to states that words are, by number."""

  functions: np.ndarray  # [M, states]
  letters: np.ndarray  # [letters] the number of each letter's function
  product: np.ndarray  # [M, M] the number of one word followed by another


def transition_monoid(step: np.ndarray) -> Monoid:
  """All that words of the letters in a table [states, letters] do to the states."""
  numbers, functions, found = {}, [], collections.deque(step.T)
  while found:
    word = found.popleft()
    if word.tobytes() not in numbers:
      numbers[word.tobytes()] = len(functions)
      functions.append(word)
      found.extend(step[word].T)  # the word, and then each letter
  product = [[numbers[then[word].tobytes()] for then in functions] for word in functions]
  letters = [numbers[letter.tobytes()] for letter in step.T]
  return Monoid(np.array(functions), np.array(letters), np.array(product))


@dataclasses.dataclass(frozen=True, eq=False)
class Machine:
  """An automaton's tables. A machine equals itself alone: arrays do not hash."""

  step: np.ndarray  # [states, letters] the next state
  answer: np.ndarray  # [states]

  @property
  def num_letters(self) -> int:
    """Different tokens that it reads."""
    return self.step.shape[1]

  @property
  def num_answers(self) -> int:
    """Different answers that it may give: 0 and up."""
    return int(self.answer.max()) + 1

  @functools.cached_property
  def monoid(self) -> Monoid:
    """What its words do."""
    return transition_monoid(self.step)

  @functools.partial(jax.jit, static_argnums=0)
  def run(self, tokens: jax.Array) -> jax.Array:  # [B, T] -> [B, T]
    """The answer after each token."""
    functions, letters, product = map(jnp.asarray, self.monoid)
    words = jax.lax.associative_scan(
      lambda before, after: product[before, after], letters[tokens], axis=1
    )
    return jnp.asarray(self.answer)[functions[:, 0]][words]


@dataclasses.dataclass(frozen=True)
class Automaton(Task):
  """The answers of an automaton that reads tokens drawn at random, at lengths up to `length`.

  With answers='all', a sequence asks for the answer after every token from number `shortest` on.
  With answers='last', it asks once, at a length drawn uniformly from those; the tokens after it are
  there, but a causal model answers without having seen them.
  """

  length: int = 40
  shortest: int = 1
  answers: str = 'all'

  axis: ClassVar[str] = 'length'
  solved: ClassVar[float] = 0.999  # what is almost learnt fails at greater lengths

  def __post_init__(self):
    if self.answers not in ANSWERS:
      raise ValueError(f'answers={self.answers!r}: {self.family} knows {", ".join(ANSWERS)}')
    if self.length < 1:
      raise ValueError(f'length={self.length}: {self.family} needs at least 1 token')
    if not 1 <= self.shortest <= self.length:
      raise ValueError(
        f'shortest={self.shortest}: {self.family} of length {self.length} takes 1 to {self.length}'
      )
    if not self.asked:
      raise ValueError(
        f'shortest={self.shortest}: {self.family} has no answer at {self.shortest} to'
        f' {self.length} tokens; make it shorter, or the length greater'
      )

  @property
  @abc.abstractmethod
  def machine(self) -> Machine:
    """The automaton, the same object for equal tasks."""

  @property
  def turns(self) -> tuple[range, ...]:
    """The tokens to draw from at each position, over and over; an answer is due after the first."""
    return (range(self.machine.num_letters),)

  @property
  def asked(self) -> range:
    """The positions whose answers may be asked for."""
    period = len(self.turns)
    return range(-(-(self.shortest - 1) // period) * period, self.length, period)

  @property
  def title(self) -> str:
    """Says so if there is one answer a sequence, which is harder to learn from."""
    return super().title + (' (one answer)' if self.answers == 'last' else '')

  @property
  def inputs(self) -> Space:
    """The automaton's letters."""
    return Space('tokens', self.machine.num_letters)

  @property
  def outputs(self) -> Space:
    """The automaton's answers."""
    return Space('tokens', self.machine.num_answers)

  @property
  def distance(self) -> int:
    """The length: the first token bears on the last answer."""
    return self.length

  @property
  def chance(self) -> float:
    """The probability of the likeliest answer, averaged over the positions asked."""
    return float(distributions(self)[list(self.asked)].max(-1).mean())

  def at(self, distance: int) -> 'Automaton':
    """Another length."""
    return dataclasses.replace(self, length=distance)

  def beyond(self, distance: int) -> 'Automaton':
    """Another length, asking at none that this task asks at."""
    return dataclasses.replace(self, length=distance, shortest=self.length + 1)

  def batch(self, split: str, index, batch_size: int) -> Batch:
    """Tokens drawn uniformly from what may stand there, and where the automaton then is."""
    token_key, place_key = jax.random.split(self.key(split, index))
    turns = itertools.islice(itertools.cycle(self.turns), self.length)
    low, high = np.array([(letters.start, letters.stop) for letters in turns]).T
    shape = batch_size, self.length
    source = jax.random.randint(token_key, shape, low[None, :], high[None, :])
    if self.answers == 'last':
      places = jax.random.choice(place_key, np.array(self.asked), (batch_size,))
      weight = jax.nn.one_hot(places, self.length)
    else:
      weight = jnp.zeros(shape).at[:, np.array(self.asked)].set(1.0)
    return Batch(source, self.machine.run(source), weight)

  def oracle(self, source: jax.Array) -> jax.Array:
    """Reads the source as the automaton does."""
    return certain(self.machine.run(source), self.outputs.size)

  def baseline(self, source: jax.Array) -> jax.Array:
    """The answers' probabilities at each position, over all sequences."""
    logits = np.maximum(np.log(np.maximum(distributions(self), 1e-300)), -SURE)
    return jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (*source.shape, self.outputs.size))


@functools.cache
def distributions(task: Automaton) -> np.ndarray:  # [T, answers]
  """The probability of each answer after each token, over the sequences that the task draws."""
  machine, turns = task.machine, task.turns
  states = np.eye(len(machine.step))
  moves = [states[machine.step[:, list(letters)]].mean(1) for letters in turns]
  now, seen = states[0], []
  for position in range(task.length):
    now = now @ moves[position % len(turns)]
    seen.append(now @ np.eye(machine.num_answers)[machine.answer])
  return np.stack(seen)
