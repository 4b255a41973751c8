"""Cycle navigation: the place on a circle of five to which steps back and on have led.

  s[t] = (s[t-1] + x[t] - 1) mod 5,  x[t] = 0: back, 1: stay, 2: on.

Delétang et al. 2023, "Neural networks and the Chomsky hierarchy". Counting modulo 5 needs complex
eigenvalues, or a transition that is not triangular: Grazzi et al. 2025, "Unlocking state-tracking
in linear RNNs through negative eigenvalues".
"""

import dataclasses
from typing import ClassVar

import numpy as np

from experiments.lab.tasks.automata import Automaton, Machine

NUM_PLACES = 5
PLACES = np.arange(NUM_PLACES)
MACHINE = Machine(step=(PLACES[:, None] + [-1, 0, 1]) % NUM_PLACES, answer=PLACES)


@dataclasses.dataclass(frozen=True)
class CycleNavigation(Automaton):
  """The place on a circle of five after steps back (0), none (1) and on (2), from place 0.

  Two examples (`.` has no weight):

    cycle_navigation(length=12)
      source  2 2 1 0 2 2 2 2 1 0 0 2
      target  1 2 2 1 2 3 4 0 0 4 3 4

    cycle_navigation(length=12, shortest=9, answers='last')
      source  0 0 1 0 2 2 0 1 0 0 2 2
      target  . . . . . . . . 2 . . .

  Published: answers='last' at lengths 1 to 40, tested at 41 to 500, batches of 128, Adam at 1e-4 to
  5e-4 for 1,000,000 steps, gradients clipped at norm 1; the answer is read one empty step later.
  """

  family: ClassVar[str] = 'cycle_navigation'

  @property
  def machine(self) -> Machine:
    """The state is the place."""
    return MACHINE
