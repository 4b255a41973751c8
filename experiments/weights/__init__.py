"""Weights in and out: ours as safetensors files, and language models of others as ours.

CONVERTERS names the architectures: the `model_type` of a checkpoint's config.json -> who loads it.
"""

import os
import pathlib

from experiments.launch.errors import no_such
from experiments.weights import gpt2, llama
from experiments.weights.checkpoint import SHOWN, ends, read_config
from transformer.model import DecoderOnly

__all__ = ['CONVERTERS', 'ends', 'load']
CONVERTERS = {'gpt2': gpt2.load, **dict.fromkeys(llama.FAMILIES, llama.load)}


def load(folder: str | os.PathLike) -> tuple[DecoderOnly, dict]:
  """The model of a checkpoint and its parameters; BadInput for one that cannot be had exactly."""
  kind = read_config(pathlib.Path(folder)).take('model_type')
  if not isinstance(kind, str) or kind not in CONVERTERS:
    raise no_such('converter for the model_type', str(kind)[:SHOWN], CONVERTERS)
  return CONVERTERS[kind](folder)
