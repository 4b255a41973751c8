"""Even pairs: whether the number of places where the token changes is even.

A binary sequence changes an even number of times, from 0 to 1 or from 1 to 0, exactly if its first
and its last token are equal: what sounds like counting is remembering one token.

Delétang et al. 2023, "Neural networks and the Chomsky hierarchy".
"""

import dataclasses
from typing import ClassVar

import numpy as np

from experiments.lab.tasks.automata import Automaton, Machine

# 0: nothing read; 1 + 2 first + last: the first token and the last.
MACHINE = Machine(
  step=np.array([[1, 4], [1, 2], [1, 2], [3, 4], [3, 4]]), answer=np.array([0, 0, 1, 1, 0])
)


@dataclasses.dataclass(frozen=True)
class EvenPairs(Automaton):
  """Whether the pairs 01 and 10 of neighbours are even (0) or odd (1) in number.

  A single token has no pairs: its answer is always 0, and chance is that much above one half. Two
  examples (`.` has no weight):

    even_pairs(length=14)
      source  1 1 0 0 0 1 1 0 1 0 0 0 1 0
      target  0 0 1 1 1 0 0 1 0 1 1 1 0 1

    even_pairs(length=16, shortest=13, answers='last')
      source  0 1 0 0 1 1 1 0 0 1 0 1 1 0 1 1
      target  . . . . . . . . . . . . 1 . . .

  Published: answers='last' at lengths 1 to 40, tested at 41 to 500, batches of 128, Adam at 1e-4 to
  5e-4 for 1,000,000 steps, gradients clipped at norm 1; the answer is read one empty step later.
  """

  family: ClassVar[str] = 'even_pairs'

  def __post_init__(self):
    super().__post_init__()
    if self.length < 2:
      raise ValueError(f'length={self.length}: even_pairs needs at least 2 tokens to pair')

  @property
  def machine(self) -> Machine:
    """The state is the first token and the last."""
    return MACHINE
