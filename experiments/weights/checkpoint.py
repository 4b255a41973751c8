"""Checkpoints as Hugging Face keeps them: a folder with a config.json and tensors in safetensors.

Both are read to the last entry. A field of the config is taken, or known to change no logit, or
refused by name; a tensor is taken, once and of its shape, or refused. So a model that is returned
computes what the checkpoint's own code does, or one line says what is not known here.

Dropout is a matter of training, and is not taken over. Parameters become float32, which holds all
that float16 and bfloat16 can say.
"""

import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.launch.errors import BadInput
from experiments.weights.safetensors import Archive
from transformer.block import Block
from transformer.layer import SequenceLayer
from transformer.model import DecoderOnly
from transformer.options import suits
from transformer.stack import Stack

WHOLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
FLOATS = ('float32', 'bfloat16', 'float16')
NEUTRAL = frozenset((  # what they say changes no logit of a model that is not being trained
  # where the checkpoint comes from
  '_name_or_path', 'architectures', 'dtype', 'is_llama_config', 'torch_dtype',
  'transformers.js_config', 'transformers_version',
  # how it is trained
  'attention_dropout', 'attn_pdrop', 'embd_pdrop', 'gradient_checkpointing', 'initializer_range',
  'pretraining_tp', 'resid_pdrop',
  # what is returned, and how answers are written
  'bos_token_id', 'do_sample', 'eos_token_id', 'max_length', 'n_ctx', 'output_attentions',
  'output_hidden_states', 'pad_token_id', 'return_dict', 'task_specific_params', 'use_cache',
  # how it is computed, to the same numbers
  '_attn_implementation', '_attn_implementation_autoset', 'chunk_size_feed_forward',
  'reorder_and_upcast_attn',
  # other heads than that of a language model
  '_num_labels', 'id2label', 'label2id', 'n_special', 'predict_special_tokens', 'problem_type',
  'summary_activation', 'summary_first_dropout', 'summary_proj_to_labels', 'summary_type',
  'summary_use_proj',
))


class Config:
  """Fields that are to be taken one by one; `finish` refuses those that nobody knew."""

  def __init__(self, fields: dict[str, Any], place: str):
    self.place = place
    self._fields = dict(fields)

  def assume(self, defaults: Mapping[str, Any]) -> None:
    """What holds where a field is left out; one that is null is not."""
    self._fields = {**defaults, **self._fields}

  def take(self, name: str, default: Any = None) -> Any:
    """A field as it is; `default` where it is null or left out, an error where that is None."""
    value = self._fields.pop(name, None)
    if value is None and default is None:
      raise BadInput(f'{self.place} lacks {name}')
    return default if value is None else value

  def whole(self, name: str, default: int | None = None) -> int:
    """A whole number above 0."""
    return self._above_0(name, int, default)

  def real(self, name: str, default: float | None = None) -> float:
    """A number above 0."""
    return float(self._above_0(name, int | float, default))

  def choice(self, name: str, choices: Iterable[Any], default: Any = None) -> Any:
    """One of the choices."""
    value, choices = self.take(name, default), tuple(choices)
    if not any(type(value) is type(choice) and value == choice for choice in choices):
      raise self.refused(name, value, choices)
    return value

  def only(self, **values) -> None:
    """Refuses fields with other values than these."""
    for name, value in values.items():
      self.choice(name, (value,), value)

  def inner(self, *names: str) -> 'Config':
    """The fields of these fields, each an object or null, as one."""
    fields = {}
    for name in names:
      value = self.take(name, {})
      if not isinstance(value, dict):
        raise self.refused(name, value)
      fields |= value
    return Config(fields, f'{self.place}, {names[0]}')

  def refused(self, name: str, value: Any, choices: Iterable[Any] = ()) -> BadInput:
    """The error for a field with a value that is not known, or is none of the choices."""
    right = f'; there is {" or ".join(map(json.dumps, choices))}' if choices else ''
    return BadInput(f'{self.place}: {name} = {json.dumps(value)} cannot be taken over{right}')

  def finish(self) -> None:
    """Refuses what is left, unless it says nothing."""
    for name, value in self._fields.items():
      if name not in NEUTRAL and value is not None:
        raise self.refused(name, value)

  def _above_0(self, name: str, kind: type, default: float | None) -> Any:
    value = self.take(name, default)
    if value is default:
      return value
    if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value < math.inf:
      raise self.refused(name, value)
    return value


class Tensors:
  """Tensors of one file or of many, by name without a prefix, each to be taken once."""

  def __init__(self, folder: pathlib.Path, prefix: str):
    self.folder = folder
    self._archives = {}  # name without the prefix -> where it is, and its name there
    for archive in _archives(folder):
      for name in archive.names:
        if (short := name.removeprefix(prefix)) in self._archives:
          raise BadInput(f'{folder} has two tensors {short!r}')
        self._archives[short] = archive, name

  def __contains__(self, name: str) -> bool:
    return name in self._archives

  def take(self, name: str, *shape: int) -> np.ndarray:
    """A tensor of this shape, as float32."""
    if name not in self._archives:
      raise BadInput(f'{self.folder} lacks the tensor {name!r}')
    archive, full = self._archives.pop(name)
    return archive.read(full, shape, FLOATS).astype(np.float32)

  def finish(self, computed: str) -> None:
    """Refuses what is left, unless its name matches the pattern."""
    for name, (archive, full) in sorted(self._archives.items()):
      if not re.fullmatch(computed, name):
        raise BadInput(f'{archive.path} has an unexpected tensor {full!r}')


def decoder(
  vocabulary: int, width: int, depth: int, attention: SequenceLayer, feedforward: SequenceLayer,
  normalization: nn.Module, tied: bool,
) -> DecoderOnly:
  """The expression of a pre-norm language model; a ValueError where its parts do not suit."""
  suits(attention, width)
  return DecoderOnly(
    embedding=nn.Embed(vocabulary, width),
    stack=Stack(
      tuple(Block(layer, normalization=normalization) for layer in (attention, feedforward)), depth
    ),
    head=None if tied else nn.Dense(vocabulary, use_bias=False),
    normalization=normalization,
  )


def head(tensors: Tensors, model: DecoderOnly, embedding: np.ndarray) -> dict[str, Any]:
  """The parameters of the head, under its name; a head that is tied has none."""
  name = 'lm_head.weight'
  if model.head is not None:
    return {'head': {'kernel': tensors.take(name, *embedding.shape).T}}
  if name in tensors and not np.array_equal(tensors.take(name, *embedding.shape), embedding):
    raise BadInput(f'{tensors.folder}: {name!r} is to be tied to the embedding, but it differs')
  return {}


def load(
  folder: str | os.PathLike, model_of: Callable[[Config], DecoderOnly],
  parameters_of: Callable[[Tensors, DecoderOnly], dict], prefix: str, computed: str,
) -> tuple[DecoderOnly, dict]:
  """A model's expression and its parameters, when all of both was checked; else BadInput.

  Args:
    folder: where config.json and the tensors are.
    model_of: the expression for a config.
    parameters_of: its parameters, by the names of its parts.
    prefix: what the names of tensors may start with.
    computed: a pattern of the tensors that are not learnt, and are left alone.

  """
  folder = pathlib.Path(folder)
  config = read_config(folder)
  try:
    model = model_of(config)
  except BadInput:
    raise
  except ValueError as error:  # such as a width that the heads do not share
    raise BadInput(f'{config.place}: {error}') from None
  config.finish()
  tensors = Tensors(folder, prefix)
  parameters = parameters_of(tensors, model)
  tensors.finish(computed)
  return model, jax.tree.map(jnp.asarray, {'params': parameters})


def read_config(folder: pathlib.Path) -> Config:
  """What the folder's config.json says."""
  path = folder / 'config.json'
  return Config(_read_json(path), str(path))


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    found = json.loads(path.read_bytes())
  except OSError as error:
    raise BadInput(f'cannot read {path}: {error.strerror}') from None
  except (ValueError, RecursionError):
    raise BadInput(f'{path} is not JSON') from None
  if not isinstance(found, dict):
    raise BadInput(f'{path} is not a JSON object')
  return found


def _archives(folder: pathlib.Path) -> list[Archive]:
  """The files that hold the tensors; where there are many, an index says which holds what."""
  if not (folder / INDEX).exists():
    if not (folder / WHOLE).exists():
      raise BadInput(f'{folder} has no {WHOLE}; other formats are not read')
    return [Archive(folder / WHOLE)]
  places = _read_json(folder / INDEX).get('weight_map')
  if not isinstance(places, dict) or not all(
      isinstance(file, str) and pathlib.PurePath(file).name == file for file in places.values()):
    raise BadInput(f'{folder / INDEX} has no weight_map of names to files beside it')
  archives = [Archive(folder / file) for file in sorted(set(places.values()))]
  for archive in archives:
    archive.expect(name for name, file in places.items() if file == archive.path.name)
  return archives
