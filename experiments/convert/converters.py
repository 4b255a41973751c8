"""Conversion of other libraries' language models into models of this repository.

CONVERTERS maps the `model_type` of a checkpoint's config.json to the function that loads it.
"""

import os
import pathlib

from experiments.convert import gpt2, llama
from experiments.convert.checkpoint import MAX_SHOWN_CHARACTERS, read_config, read_end_tokens
from experiments.lab.errors import unknown_name_error
from transformer.model import DecoderOnly

__all__ = ['CONVERTERS', 'load_model', 'read_end_tokens']
CONVERTERS = {'gpt2': gpt2.load_gpt2, **dict.fromkeys(llama.FAMILIES, llama.load_llama)}


def load_model(folder: str | os.PathLike) -> tuple[DecoderOnly, dict]:
  """Loads a checkpoint as a model and its variables, or raises a BadInput if unsupported."""
  kind = read_config(pathlib.Path(folder)).pop_field('model_type')
  if not isinstance(kind, str) or kind not in CONVERTERS:
    raise unknown_name_error(
      'converter for the model_type', str(kind)[:MAX_SHOWN_CHARACTERS], CONVERTERS)
  return CONVERTERS[kind](folder)
