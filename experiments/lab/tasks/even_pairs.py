"""Even pairs, in which a model predicts whether adjacent tokens differ an even number of times.

A binary sequence changes an even number of times, from 0 to 1 or from 1 to 0, exactly if its first
and its last token are equal. The task therefore requires the memory of one token, not counting.

Delétang et al. 2023, "Neural networks and the Chomsky hierarchy".
"""

import dataclasses
from typing import ClassVar

import numpy as np

from experiments.lab.tasks.automata import AutomatonTask, MooreMachine

# State 0 is the initial state. State 1 + 2 * a + b encodes the first token a and the last token b.
MACHINE = MooreMachine(
  transition=np.array([[1, 4], [1, 2], [1, 2], [3, 4], [3, 4]]), output=np.array([0, 0, 1, 1, 0])
)


@dataclasses.dataclass(frozen=True)
class EvenPairs(AutomatonTask):
  """The target is the parity of the number of adjacent tokens that differ (0 even, 1 odd).

  A single token has no pairs, so that the first output is always 0 and chance exceeds one half. Two
  examples (`.` has no weight):

    even_pairs(length=14)
      source  1 1 0 0 0 1 1 0 1 0 0 0 1 0
      target  0 0 1 1 1 0 0 1 0 1 1 1 0 1

    even_pairs(length=16, shortest=13, answers='last')
      source  0 1 0 0 1 1 1 0 0 1 0 1 1 0 1 1
      target  . . . . . . . . . . . . 1 . . .

  Published: answers='last' at lengths 1 to 40, tested at 41 to 500, batches of 128, Adam at 1e-4 to
  5e-4 for 1,000,000 steps, gradients clipped at norm 1; the output is scored after one additional
  empty step.
  """

  family: ClassVar[str] = 'even_pairs'

  def __post_init__(self):
    super().__post_init__()
    if self.length < 2:
      raise ValueError(f'length={self.length}: even_pairs needs at least 2 tokens')

  @property
  def automaton(self) -> MooreMachine:
    """The automaton whose state encodes the first and the most recent input token."""
    return MACHINE
