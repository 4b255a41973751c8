"""A trained translator at work: a sentence in, its answer out.

  python -m experiments.translation --layers=transformer --seeds=1 --save_weights --runs=runs/mine
  python -m experiments.translate --weights=runs/mine/weights/CELL-seed0.safetensors --text='elf'

The file says which run it is of, so that the model and the vocabulary are those that it was trained
with. Nothing is answered if the vocabulary here is another one, or if the sentence is longer than a
sentence is, or has more tokens than the model has places for.
"""

import importlib

from absl import flags as absl_flags

from experiments.lab.launch import flags


def define() -> None:
  """The script's flags."""
  flags.define_path('weights', None, 'A file that a study kept with --save_weights.')
  absl_flags.DEFINE_string('text', None, 'What to translate.')
  absl_flags.DEFINE_integer('beam', 4, 'Hypotheses that are kept; 1: greedy.')
  absl_flags.DEFINE_float('length_penalty', 0.6, 'Alpha of Wu et al. 2016.')


def main() -> None:
  """Prints the answers, the best first, each with its score."""
  importlib.import_module('experiments.translate.command').main()  # which loads JAX


if __name__ == '__main__':
  flags.main(main, define, __doc__)
