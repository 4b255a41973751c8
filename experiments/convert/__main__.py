"""Converts checkpoints of published language models, prints their architecture, and runs them.

  python -m experiments.convert --checkpoint=FOLDER --out=gpt2.safetensors
  python -m experiments.convert --checkpoint=FOLDER --prompt='The Transformer' --generate=20
  python -m experiments.convert --check

FOLDER has the format of Hugging Face, config.json with model.safetensors, or with several files of
tensors and their index. GPT-2, Llama, Mistral, Qwen2 and Qwen3 are converted exactly. A checkpoint
that cannot be converted exactly is refused with the name of the unsupported setting. The printed
expression is the architecture. Tokens are generated greedily with a cached state, as with every
other layer of this repository, until a token that ends the text (eos_token_id of
generation_config.json, or else of config.json). `--check` compares the logits of small random
models of all these kinds with those of `transformers`.
"""

import importlib

from absl import flags as absl_flags

from experiments.lab.launch import flags


def define_flags() -> None:
  flags.define_path_flag('checkpoint', None, 'Folder of a checkpoint.')
  flags.define_path_flag('out', None, 'File to write the parameters to, in safetensors format.')
  absl_flags.DEFINE_string(
    'prompt', None, 'Text to continue; the checkpoint needs a tokenizer.json.')
  absl_flags.DEFINE_string('prompt_ids', None, 'Token ids to continue, separated by commas.')
  absl_flags.DEFINE_integer('generate', 20, 'Largest number of tokens to generate after a prompt.')
  absl_flags.DEFINE_boolean(
    'check', False,
    'Compare the logits of small random models with those of transformers, without a checkpoint.')


def main() -> None:
  """Converts a checkpoint, generates text, or compares logits with `transformers`."""
  importlib.import_module('experiments.convert.command').main()  # this import loads JAX


if __name__ == '__main__':
  flags.run_command_line(main, define_flags, __doc__)
