"""Today's language models in this house: a checkpoint in, its architecture and its answers out.

  python -m experiments.convert --checkpoint=FOLDER --out=gpt2.safetensors
  python -m experiments.convert --checkpoint=FOLDER --prompt='The Transformer' --generate=20
  python -m experiments.convert --check

FOLDER is as Hugging Face keeps it: config.json beside model.safetensors, or beside its parts and
their index. GPT-2, Llama, Mistral, Qwen2 and Qwen3 are taken over exactly, and what would not be is
refused by name. The expression that is printed is the architecture. Tokens are written greedily,
through the same state as that of every other layer here, up to one that the checkpoint names as
the end (eos_token_id of generation_config.json, or else of config.json). `--check` draws small
models of all these kinds and prints how far their logits are from those of `transformers`.
"""

import importlib

from absl import flags as absl_flags

from experiments.lab.launch import flags


def define() -> None:
  """The script's flags."""
  flags.define_path('checkpoint', None, 'Folder of a checkpoint.')
  flags.define_path('out', None, 'File for its parameters, in safetensors.')
  absl_flags.DEFINE_string(
    'prompt', None, 'Text to go on from; the checkpoint has a tokenizer.json.')
  absl_flags.DEFINE_string('prompt_ids', None, 'Tokens to go on from, separated by commas.')
  absl_flags.DEFINE_integer('generate', 20, 'How many tokens to write after a prompt, at most.')
  absl_flags.DEFINE_boolean('check', False, 'Compare with transformers; needs no checkpoint.')


def main() -> None:
  """Converts, or compares."""
  importlib.import_module('experiments.convert.command').main()  # which loads JAX


if __name__ == '__main__':
  flags.main(main, define, __doc__)
