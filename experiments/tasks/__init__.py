"""The catalogue of tasks. To add one, write its file and name it here: the tests then find it."""

from experiments.tasks.adding import Adding
from experiments.tasks.copy_memory import CopyMemory
from experiments.tasks.corpus import Corpus
from experiments.tasks.cycle_navigation import CycleNavigation
from experiments.tasks.dates import Dates
from experiments.tasks.even_pairs import EvenPairs
from experiments.tasks.flip_flop import FlipFlop
from experiments.tasks.induction_heads import InductionHeads
from experiments.tasks.modular_arithmetic import ModularArithmetic
from experiments.tasks.number_words import NumberWords
from experiments.tasks.parity import Parity
from experiments.tasks.pronouns import Pronouns
from experiments.tasks.recall import Recall
from experiments.tasks.selective_copying import SelectiveCopying
from experiments.tasks.sequence_copying import Copy, Reverse, Sort
from experiments.tasks.text import Text
from experiments.tasks.word_problem import WordProblem

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
