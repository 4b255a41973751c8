"""Checkpoints as Hugging Face keeps them: a folder with a config.json and tensors in safetensors.

Both are read to the last entry. A field of the config is taken; or it can change no logit, since
its value switches nothing on (false, null, empty) or since `transformers` does not read it
(`IGNORED`); or it is refused by name. A tensor is taken, once and of its shape, or refused. So a
model that is returned computes what `transformers` does, or one line says what is not known here.

Dropout is a matter of training, and is not taken over. Parameters become float32, which holds all
that float16 and bfloat16 can say.
"""

import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.lab.errors import BadInput
from experiments.lab.weights.safetensors import Archive
from transformer.block import Block
from transformer.layer import SequenceLayer
from transformer.model import DecoderOnly
from transformer.options import suits
from transformer.stack import Stack

WHOLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
CONFIG, GENERATION = 'config.json', 'generation_config.json'
TOKENIZER = 'tokenizer.json'
FLOATS = ('float32', 'bfloat16', 'float16')
EMPTY = ('', [], {})
SHOWN = 100  # the most characters of a value that an error repeats
LARGEST = 2**31 - 1  # of the whole numbers: sizes are counted in int32
HIGHEST = 1e18  # of the reals: float32 has the square of it
IGNORED = frozenset((  # what transformers does not read when it computes logits
  # where the checkpoint comes from, and code of its own, which runs only if that is asked for
  '_from_model_config', '_name_or_path', 'architectures', 'auto_map', 'dtype', 'finetuned',
  'finetuning_task', 'is_llama_config', 'tokenizer_class', 'torch_dtype',
  'transformers.js_config', 'transformers_version', 'unsloth_fixed', 'unsloth_version',
  # how it is trained, and how long texts were then
  'attention_dropout', 'attn_pdrop', 'classifier_dropout', 'embd_pdrop', 'gradient_checkpointing',
  'hidden_dropout', 'initializer_range', 'max_sequence_length', 'model_max_length', 'n_ctx',
  'neftune_noise_alpha', 'pretraining_tp', 'resid_pdrop', 'seq_length',
  # which tokens mean what, and how answers are written
  'bad_words_ids', 'begin_suppress_tokens', 'bos_token_id', 'decoder_start_token_id',
  'diversity_penalty', 'do_sample', 'early_stopping', 'encoder_no_repeat_ngram_size',
  'eos_token_id', 'exponential_decay_length_penalty', 'forced_bos_token_id',
  'forced_eos_token_id', 'length_penalty', 'max_length', 'max_new_tokens', 'min_length',
  'no_repeat_ngram_size', 'num_beam_groups', 'num_beams', 'num_return_sequences', 'pad_token_id',
  'prefix', 'repetition_penalty', 'sep_token_id', 'suppress_tokens', 'task_specific_params',
  'temperature', 'top_k', 'top_p', 'typical_p',
  # what is returned
  'keys_to_ignore_at_inference', 'output_attentions', 'output_hidden_states', 'output_past',
  'output_scores', 'return_dict', 'return_dict_in_generate', 'use_cache',
  # how it is computed, to the same numbers
  '_attn_implementation', '_attn_implementation_autoset', '_attn_implementation_internal',
  '_flash_attn_2_enabled', 'chunk_size_feed_forward', 'reorder_and_upcast_attn',
  'remove_invalid_values', 'tf_legacy_loss', 'torchscript', 'use_bfloat16',
  # other heads than that of a language model, and its place in a model of two halves
  '_num_labels', 'id2label', 'is_decoder', 'label2id', 'n_special', 'num_labels',
  'predict_special_tokens', 'problem_type', 'summary_activation', 'summary_first_dropout',
  'summary_last_dropout', 'summary_proj_to_labels', 'summary_type', 'summary_use_proj',
  'tie_encoder_decoder',
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
    return self._above_0(name, int, default, LARGEST)

  def real(self, name: str, default: float | None = None) -> float:
    """A number above 0 with which float32 can compute."""
    return float(self._above_0(name, int | float, default, HIGHEST))

  def choice(self, name: str, choices: Iterable[Any], default: Any = None) -> Any:
    """One of the choices."""
    value, choices = self.take(name, default), tuple(choices)
    if not any(isinstance(value, bool) == isinstance(choice, bool) and value == choice
               for choice in choices):  # 1 is 1.0, but not true
      raise self.refused(name, value, choices)
    return value

  def only(self, **values) -> None:
    """Refuses fields with other values than these."""
    for name, value in values.items():
      self.choice(name, (value,), value)

  def inner(self, *names: str) -> 'Config':
    """The fields of the first of these fields that is not empty; each is an object or null."""
    values = {name: self.take(name, {}) for name in names}
    for name, value in values.items():
      if not isinstance(value, dict):
        raise self.refused(name, value)
    name = next((name for name, value in values.items() if value), names[0])
    return Config(values[name], f'{self.place}, {name}')

  def refused(self, name: str, value: Any, choices: Iterable[Any] = ()) -> BadInput:
    """The error for a field with a value that is not known, or is none of the choices."""
    right = f'; there is {" or ".join(map(json.dumps, choices))}' if choices else ''
    name = _shown(name)[1:-1]
    return BadInput(f'{self.place}: {name} = {_shown(value)} cannot be taken over{right}')

  def finish(self) -> None:
    """Refuses what is left, unless it can change no logit."""
    for name, value in self._fields.items():
      if name not in IGNORED and value is not None and value is not False and value not in EMPTY:
        raise self.refused(name, value)

  def _above_0(self, name: str, kind: type, default: float | None, most: float) -> Any:
    value = self.take(name, default)
    if value is default:
      return value
    if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value <= most:
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
  model = described(read_config(folder), model_of)
  tensors = Tensors(folder, prefix)
  parameters = parameters_of(tensors, model)
  tensors.finish(computed)
  return model, jax.tree.map(jnp.asarray, {'params': parameters})


def described(config: Config, model_of: Callable[[Config], DecoderOnly]) -> DecoderOnly:
  """The expression for a config of which nothing is left over; else BadInput."""
  try:
    model = model_of(config)
  except BadInput:
    raise
  except ValueError as error:  # such as a width that the heads do not share
    raise BadInput(f'{config.place}: {error}') from None
  config.finish()
  return model


def read_config(folder: pathlib.Path, name: str = CONFIG) -> Config:
  """What the folder's config.json says, or another file of its kind."""
  path = folder / name
  return Config(_read_json(path), str(path))


def ends(folder: str | os.PathLike) -> tuple[int, ...]:
  """The tokens that end an answer, as generation_config.json names them, or else config.json."""
  folder = pathlib.Path(folder)
  for name in (GENERATION, CONFIG):
    if name == CONFIG or (folder / name).exists():
      config = read_config(folder, name)
      value = config.take('eos_token_id', [])
      tokens = value if isinstance(value, list) else [value]
      if not all(type(token) is int and abs(token) <= LARGEST for token in tokens):
        raise config.refused('eos_token_id', value)
      if tokens:
        return tuple(tokens)
  return ()


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
  except OSError as error:
    raise BadInput(f'cannot read {path}: {error.strerror}') from None
  except (ValueError, RecursionError):
    raise BadInput(f'{path} is not JSON in UTF-8') from None
  if not isinstance(content, dict):
    raise BadInput(f'{path} is not a JSON object')
  return content


def _shown(value: Any) -> str:
  """A JSON value in one line, cut where it is long."""
  text = json.dumps(value)
  return text if len(text) <= SHOWN else f'{text[:SHOWN]}...'


def _archives(folder: pathlib.Path) -> list[Archive]:
  """The files that hold the tensors; where there are many, an index says which holds what."""
  if not (folder / INDEX).exists():
    if not (folder / WHOLE).exists():
      raise BadInput(f'{folder} has no {WHOLE}; other formats are not read')
    return [Archive(folder / WHOLE, of_others=True)]
  places = _read_json(folder / INDEX).get('weight_map')
  if not isinstance(places, dict) or not all(
      isinstance(file, str) and pathlib.PurePath(file).name == file for file in places.values()):
    raise BadInput(f'{folder / INDEX} has no weight_map of names to files beside it')
  archives = [Archive(folder / file, of_others=True) for file in sorted(set(places.values()))]
  for archive in archives:
    archive.expect(name for name, file in places.items() if file == archive.path.name)
  return archives
