"""The catalogue of tasks, which lists every task class by name.

A new task is one file with a subclass of `Task` and one entry of TASKS. The tests then include it.
"""

from experiments.lab.tasks.adding import Adding
from experiments.lab.tasks.copy_memory import CopyMemory
from experiments.lab.tasks.corpus import Corpus
from experiments.lab.tasks.cycle_navigation import CycleNavigation
from experiments.lab.tasks.dates import Dates
from experiments.lab.tasks.even_pairs import EvenPairs
from experiments.lab.tasks.flip_flop import FlipFlop
from experiments.lab.tasks.induction_heads import InductionHeads
from experiments.lab.tasks.modular_arithmetic import ModularArithmetic
from experiments.lab.tasks.number_words import NumberWords
from experiments.lab.tasks.parity import Parity
from experiments.lab.tasks.pronouns import Pronouns
from experiments.lab.tasks.recall import Recall
from experiments.lab.tasks.selective_copying import SelectiveCopying
from experiments.lab.tasks.sequence_copying import Copy, Reverse, Sort
from experiments.lab.tasks.text import Text
from experiments.lab.tasks.word_problem import WordProblem

TASKS = {
  'adding': Adding,
  'copy_memory': CopyMemory,
  'recall': Recall,
  'text': Text,
  'selective_copying': SelectiveCopying,
  'induction_heads': InductionHeads,
  'flip_flop': FlipFlop,
  'parity': Parity,
  'even_pairs': EvenPairs,
  'cycle_navigation': CycleNavigation,
  'modular_arithmetic': ModularArithmetic,
  'word_problem': WordProblem,
  'pronouns': Pronouns,
  'copy': Copy,
  'reverse': Reverse,
  'sort': Sort,
  'number_words': NumberWords,
  'dates': Dates,
  'corpus': Corpus,
}
