"""The catalogue of tasks. To add one, write its file and name it here: the tests then find it."""

from experiments.tasks.adding import Adding
from experiments.tasks.copy_memory import CopyMemory
from experiments.tasks.recall import Recall
from experiments.tasks.text import Text

TASKS = {
  'adding': Adding,
  'copy_memory': CopyMemory,
  'recall': Recall,
  'text': Text,
}
