"""The word problem of a finite group, in which a model predicts the product of group elements.

A token is a permutation x[t] of a small set, and the state is the composition of tokens 0..t,

  s[t] = s[t-1] x[t],  which applies first s[t-1] and then x[t].

For a group that is not solvable, such as A5 and S5, the problem is complete for NC1 (Barrington
1989). Networks of constant depth, such as attention and diagonal linear recurrences, are believed
unable to solve it at all lengths, whereas a recurrent network solves it in one layer. Three groups
have 60 elements each, so that they differ only in structure: Z60 is commutative, A4 x Z5 is
solvable but not commutative, and A5 is not solvable.

Liu et al. 2023, "Transformers learn shortcuts to automata"; Merrill, Petty and Sabharwal 2024, "The
illusion of state in state-space models"; Grazzi et al. 2025, "Unlocking state-tracking in linear
RNNs through negative eigenvalues".
"""

import dataclasses
import functools
from typing import ClassVar

import numpy as np

from experiments.lab.tasks.automata import AutomatonTask, MooreMachine, compute_transition_monoid

GENERATORS = {  # a permutation is the tuple of the images of 0, 1, ...
  's5': ((1, 0, 2, 3, 4), (1, 2, 3, 4, 0)),
  'a5': ((1, 2, 0, 3, 4), (1, 2, 3, 4, 0)),
  'a4xz5': ((1, 2, 0, 3, 4, 5, 6, 7, 8), (0, 2, 3, 1, 4, 5, 6, 7, 8), (0, 1, 2, 3, 5, 6, 7, 8, 4)),
  'z60': ((1, 2, 0, 3, 4, 5, 6, 7, 8, 9, 10, 11), (0, 1, 2, 4, 5, 6, 3, 7, 8, 9, 10, 11),
          (0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 7)),
}
ALPHABETS = ('elements', 'generators')


@functools.cache
def group_product_automaton(group: str, alphabet: str) -> MooreMachine:
  """The automaton whose state is the index of the product of all input group elements.

  Elements are indexed in lexicographic order, so that element 0 is the identity.
  """
  elements, generators, product = compute_transition_monoid(np.array(GENERATORS[group]).T)
  order = np.lexsort(elements.T[::-1])
  tokens = generators if alphabet == 'generators' else order
  transition = np.argsort(order)[product[order][:, tokens]]
  return MooreMachine(transition, np.arange(len(order)))


@dataclasses.dataclass(frozen=True)
class WordProblem(AutomatonTask):
  """The target at position t is the product of tokens 0..t in the group s5, a5, a4xz5 or z60.

  Group elements are indexed in lexicographic order. With alphabet='elements' every group element is
  a token. With alphabet='generators' the tokens are two or three elements that generate the group.
  For s5 and a5, token 0 is a cycle of the first two or three items and token 1 is a cycle of all
  five. Two examples (`.` has no weight):

    word_problem(length=12, group='s5', alphabet='generators')
      source   0 0  1  1  1  1 1  0  1  0  0  1
      target  24 0 33 64 90 96 0 24 57 51 57 88

    word_problem(length=6, group='a5', answers='last', shortest=3)
      source  1 2 59 12 4 4
      target  . .  . 47 . .

  Published: answers='all', alphabet='elements'. Merrill et al.: all lengths from 2 to 25 or so,
  AdamW at 1e-4 with weight decay 0.01. Grazzi et al.: s5, length 32, tested at 500, batches of 512,
  AdamW at 1e-4 with weight decay 0.01, gradients clipped at norm 1, 1.6 million sequences for 100
  epochs.
  """

  length: int = 32
  group: str = 's5'
  alphabet: str = 'elements'

  family: ClassVar[str] = 'word_problem'

  def __post_init__(self):
    if self.group not in GENERATORS:
      raise ValueError(
        f'group={self.group!r}: the groups of word_problem are {", ".join(GENERATORS)}'
      )
    if self.alphabet not in ALPHABETS:
      raise ValueError(
        f'alphabet={self.alphabet!r}: the alphabets of word_problem are {", ".join(ALPHABETS)}'
      )
    super().__post_init__()

  @property
  def title(self) -> str:
    return super().title.replace('word problem', f'word problem of {self.group.upper()}')

  @property
  def automaton(self) -> MooreMachine:
    return group_product_automaton(self.group, self.alphabet)
