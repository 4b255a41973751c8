"""Command that translates a sentence with the stored weights of an encoder-decoder.

  python -m experiments.translation --layers=transformer --seeds=1 --save_weights --runs=runs/mine
  python -m experiments.translate --weights=runs/mine/weights/CELL-seed0.safetensors --text='elf'

The file of weights contains the settings of its run, which determine the model and the vocabulary.
The command is refused if the vocabulary differs from that of training, if the sentence has too many
characters, or if it has more tokens than the model has positions.
"""

import importlib

from absl import flags as absl_flags

from experiments.lab.launch import flags


def define_flags() -> None:
  flags.define_path_flag(
    'weights', None, 'File of weights that a study stored with --save_weights.')
  absl_flags.DEFINE_string('text', None, 'Sentence to be translated.')
  absl_flags.DEFINE_integer(
    'beam', 4, 'Number of hypotheses of the beam search, or 1 for greedy decoding.')
  absl_flags.DEFINE_float(
    'length_penalty', 0.6, 'Exponent alpha of the length penalty of Wu et al. 2016.')


def main() -> None:
  """Prints translations of the sentence in --text, in descending order of beam-search score."""
  # The command module is imported after the flags are parsed, because it loads JAX.
  importlib.import_module('experiments.translate.command').main()


if __name__ == '__main__':
  flags.run_command_line(main, define_flags, __doc__)
