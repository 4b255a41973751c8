"""Language models of others as ours, by their architectures.

CONVERTERS names the architectures: the `model_type` of a checkpoint's config.json -> who loads it.
"""

import os
import pathlib

from experiments.convert import gpt2, llama
from experiments.convert.checkpoint import SHOWN, ends, read_config
from experiments.lab.errors import no_such
from transformer.model import DecoderOnly

__all__ = ['CONVERTERS', 'ends', 'load']
CONVERTERS = {'gpt2': gpt2.load, **dict.fromkeys(llama.FAMILIES, llama.load)}


def load(folder: str | os.PathLike) -> tuple[DecoderOnly, dict]:
  """The model of a checkpoint and its parameters; BadInput for one that cannot be had exactly."""
  kind = read_config(pathlib.Path(folder)).take('model_type')
  if not isinstance(kind, str) or kind not in CONVERTERS:
    raise no_such('converter for the model_type', str(kind)[:SHOWN], CONVERTERS)
  return CONVERTERS[kind](folder)
