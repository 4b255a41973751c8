"""Checkpoints in the Hugging Face format, which consist of config.json and safetensors files.

All fields of the config and all tensors are accounted for. A field of the config is either used, or
it cannot change a logit, or it is refused by name. It cannot change a logit if its value enables
nothing (false, null, empty), or if `transformers` does not read it (`IGNORED_FIELDS`). A tensor is
either used once with its expected shape, or refused. A returned model therefore computes the same
function as in `transformers`, and otherwise an error of one line names what is not supported.

Dropout affects only training and is not converted. Parameters become float32, which represents all
values of float16 and bfloat16 exactly.
"""

import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from transformer.options import check_width
from transformer.stack import Stack

SINGLE_FILE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
CONFIG, GENERATION_CONFIG = 'config.json', 'generation_config.json'
TOKENIZER = 'tokenizer.json'
FLOATS = ('float32', 'bfloat16', 'float16')
EMPTY_VALUES = ('', [], {})
MAX_SHOWN_CHARACTERS = 100  # of a value that an error message repeats
MAX_INTEGER = 2**31 - 1  # sizes are counted in int32
MAX_FLOAT = 1e18  # float32 can represent the square of this number
# Config fields that do not affect the logits in the `transformers` library, grouped by purpose.
IGNORED_FIELDS = frozenset((
  # The conversion ignores these fields, which describe the origin of the checkpoint.
  '_from_model_config', '_name_or_path', 'architectures', 'dtype', 'finetuned',
  'finetuning_task', 'is_llama_config', 'tokenizer_class', 'torch_dtype',
  'transformers.js_config', 'transformers_version', 'unsloth_fixed', 'unsloth_version',
  'auto_map',  # names custom code, which is not executed by default
  # The conversion ignores these fields, which are settings of training such as dropout rates.
  'attention_dropout', 'attn_pdrop', 'classifier_dropout', 'embd_pdrop', 'gradient_checkpointing',
  'hidden_dropout', 'initializer_range', 'max_sequence_length', 'model_max_length', 'n_ctx',
  'neftune_noise_alpha', 'pretraining_tp', 'resid_pdrop', 'seq_length',
  # The conversion ignores these fields, which define special tokens and settings of generation.
  'bad_words_ids', 'begin_suppress_tokens', 'bos_token_id', 'decoder_start_token_id',
  'diversity_penalty', 'do_sample', 'early_stopping', 'encoder_no_repeat_ngram_size',
  'eos_token_id', 'exponential_decay_length_penalty', 'forced_bos_token_id',
  'forced_eos_token_id', 'length_penalty', 'max_length', 'max_new_tokens', 'min_length',
  'no_repeat_ngram_size', 'num_beam_groups', 'num_beams', 'num_return_sequences', 'pad_token_id',
  'prefix', 'repetition_penalty', 'sep_token_id', 'suppress_tokens', 'task_specific_params',
  'temperature', 'top_k', 'top_p', 'typical_p',
  # The conversion ignores these fields, which select the values that a forward pass returns.
  'keys_to_ignore_at_inference', 'output_attentions', 'output_hidden_states', 'output_past',
  'output_scores', 'return_dict', 'return_dict_in_generate', 'use_cache',
  # The conversion ignores these fields, which choose among equivalent implementations.
  '_attn_implementation', '_attn_implementation_autoset', '_attn_implementation_internal',
  '_flash_attn_2_enabled', 'chunk_size_feed_forward', 'reorder_and_upcast_attn',
  'remove_invalid_values', 'tf_legacy_loss', 'torchscript', 'use_bfloat16',
  # The conversion ignores these fields of classification heads and encoder-decoder models.
  '_num_labels', 'id2label', 'is_decoder', 'label2id', 'n_special', 'num_labels',
  'predict_special_tokens', 'problem_type', 'summary_activation', 'summary_first_dropout',
  'summary_last_dropout', 'summary_proj_to_labels', 'summary_type', 'summary_use_proj',
  'tie_encoder_decoder',
))


class UnusedConfigFields:
  """The fields of a config.json that the conversion has not used yet."""

  def __init__(self, fields: dict[str, Any], location: str):
    self.location = location
    self._fields = dict(fields)

  def set_defaults(self, defaults: Mapping[str, Any]) -> None:
    """Sets the values of fields that the config omits, and leaves null fields unchanged."""
    self._fields = {**defaults, **self._fields}

  def pop_field(self, name: str, default: Any = None) -> Any:
    """Marks a config field as used, and returns its value.

    A field that is null or omitted has the default. Without a default, it is a BadInput.
    """
    value = self._fields.pop(name, None)
    if value is None and default is None:
      raise BadInput(f'{self.location} lacks the field {name}')
    return default if value is None else value

  def pop_positive_integer(self, name: str, default: int | None = None) -> int:
    """Marks a config field as used, and returns its value if it is a positive integer."""
    return self._pop_positive_number(name, int, default, MAX_INTEGER)

  def pop_positive_float(self, name: str, default: float | None = None) -> float:
    """Marks a config field as used, and returns its value if it is a positive float32 number."""
    return float(self._pop_positive_number(name, int | float, default, MAX_FLOAT))

  def pop_field_with_choices(self, name: str, choices: Iterable[Any], default: Any = None) -> Any:
    """Marks a config field as used, and returns its value if the value is supported.

    Args:
      name: Name of the field.
      choices: Supported values.
      default: Value of an omitted field, or None if the field is required.

    Returns:
      The value.

    Raises:
      BadInput: The value is not among the choices.

    """
    value, choices = self.pop_field(name, default), tuple(choices)
    if not any(isinstance(value, bool) == isinstance(choice, bool) and value == choice
               for choice in choices):  # 1 equals 1.0, but does not stand for true
      raise self.unsupported_value_error(name, value, choices)
    return value

  def require_field_values(self, required_values: Mapping[str, Any]) -> None:
    """Marks config fields as used, and raises a BadInput if a value is not the required one."""
    for name, value in required_values.items():
      self.pop_field_with_choices(name, (value,), value)

  def pop_first_nonempty_field(self, field_names: Sequence[str]) -> 'UnusedConfigFields':
    """Marks the given fields as used, and returns the first nonempty JSON object among them."""
    values = {name: self.pop_field(name, {}) for name in field_names}
    for name, value in values.items():
      if not isinstance(value, dict):
        raise self.unsupported_value_error(name, value)
    name = next((name for name, value in values.items() if value), field_names[0])
    return UnusedConfigFields(values[name], f'{self.location}, {name}')

  def unsupported_value_error(self, name: str, value: Any, choices: Iterable[Any] = ()) -> BadInput:
    """Creates the BadInput for a config field whose value is not supported.

    Args:
      name: Name of the field.
      value: Its value.
      choices: Supported values, if they can be listed.

    Returns:
      The error, to be raised by the caller.

    """
    supported = f' (supported: {" or ".join(map(json.dumps, choices))})' if choices else ''
    name = _abbreviated_json(name)[1:-1]
    return BadInput(
      f'{self.location}: {name} = {_abbreviated_json(value)} is not supported{supported}')

  def reject_unused_fields(self) -> None:
    """Raises a BadInput if a field that the conversion did not use could affect the logits."""
    for name, value in self._fields.items():
      enables_nothing = value is None or value is False or value in EMPTY_VALUES
      if name not in IGNORED_FIELDS and not enables_nothing:
        raise self.unsupported_value_error(name, value)

  def _pop_positive_number(
    self, name: str, number_type: type, default: float | None, maximum: float
  ) -> Any:
    value = self.pop_field(name, default)
    if value is default:
      return value
    if isinstance(value, bool) or not isinstance(value, number_type) or not 0 < value <= maximum:
      raise self.unsupported_value_error(name, value)
    return value


class UnusedTensors:
  """The tensors of a checkpoint that the conversion has not used yet."""

  def __init__(self, folder: pathlib.Path, prefix: str):
    self.folder = folder
    self._archives = {}  # name without the prefix -> archive and name with the prefix
    for archive in _open_weight_files(folder):
      for name in archive.names:
        if (short := name.removeprefix(prefix)) in self._archives:
          raise BadInput(f'{folder} has two tensors with the name {short!r}')
        self._archives[short] = archive, name

  def __contains__(self, name: str) -> bool:
    return name in self._archives

  def pop_tensor(self, name: str, *shape: int) -> np.ndarray:
    """Marks a tensor of the given shape as used, and returns it as float32."""
    if name not in self._archives:
      raise BadInput(f'{self.folder} lacks the tensor {name!r}')
    archive, stored_name = self._archives.pop(name)
    return archive.read_tensor(stored_name, shape, FLOATS).astype(np.float32)

  def reject_unused_tensors(self, ignored_pattern: str) -> None:
    """Raises a BadInput for an unused tensor unless its name has the pattern of ignored tensors."""
    for name, (archive, stored_name) in sorted(self._archives.items()):
      if not re.fullmatch(ignored_pattern, name):
        raise BadInput(f'{archive.path} has an unexpected tensor {stored_name!r}')


def build_decoder(
  vocabulary: int, width: int, depth: int, attention: SequenceLayer, feedforward: SequenceLayer,
  normalization: nn.Module, tied: bool,
) -> DecoderOnly:
  """Builds a pre-norm, decoder-only language model from its layers and sizes.

  Args:
    vocabulary: Number of token ids V.
    width: Channels D of the residual stream.
    depth: Number of pairs of an attention block and a feed-forward block.
    attention: Attention layer.
    feedforward: Feed-forward layer.
    normalization: Norm before each layer and before the head.
    tied: Whether the head uses the transposed embedding.

  Returns:
    The model.

  Raises:
    ValueError: The width is not a multiple of what the attention layer requires.

  """
  check_width(attention, width)
  return DecoderOnly(
    embedding=nn.Embed(vocabulary, width),
    stack=Stack(
      tuple(Block(layer, normalization=normalization) for layer in (attention, feedforward)), depth
    ),
    head=None if tied else nn.Dense(vocabulary, use_bias=False),
    normalization=normalization,
  )


def convert_output_head_parameters(
  tensors: UnusedTensors, model: DecoderOnly, embedding: np.ndarray
) -> dict[str, Any]:
  """Converts the output projection of a checkpoint, or checks that it equals the embedding.

  Args:
    tensors: Tensors of the checkpoint.
    model: Model that the config describes.
    embedding: Embedding [V, D].

  Returns:
    The parameters under the name of the head, or nothing if the head is tied.

  Raises:
    BadInput: The head is tied, but the checkpoint has a head that differs from the embedding.

  """
  name = 'lm_head.weight'
  if model.head is not None:
    return {'head': {'kernel': tensors.pop_tensor(name, *embedding.shape).T}}
  if name in tensors and not np.array_equal(
      tensors.pop_tensor(name, *embedding.shape), embedding):
    raise BadInput(
      f'{tensors.folder}: {name!r} differs from the embedding, although the config ties the two')
  return {}


def load_checkpoint(
  folder: str | os.PathLike, build_model: Callable[[UnusedConfigFields], DecoderOnly],
  convert_parameters: Callable[[UnusedTensors, DecoderOnly], dict], prefix: str,
  ignored_pattern: str,
) -> tuple[DecoderOnly, dict]:
  """Loads a model and its parameters, or raises a BadInput for unused fields or tensors.

  Args:
    folder: Folder of config.json and the tensors.
    build_model: Builds the model from its config.
    convert_parameters: Converts the tensors into the parameters of the model.
    prefix: Prefix that the names of tensors may have.
    ignored_pattern: Regular expression for names of tensors that are not parameters.

  Returns:
    The model, and its variables {'params': ...}.

  Raises:
    BadInput: A field or a tensor is not supported, missing or damaged.

  """
  folder = pathlib.Path(folder)
  model = model_from_config(read_config(folder), build_model)
  tensors = UnusedTensors(folder, prefix)
  parameters = convert_parameters(tensors, model)
  tensors.reject_unused_tensors(ignored_pattern)
  return model, jax.tree.map(jnp.asarray, {'params': parameters})


def model_from_config(
  config: UnusedConfigFields, build_model: Callable[[UnusedConfigFields], DecoderOnly]
) -> DecoderOnly:
  """Builds a model from a config, and raises a BadInput for an invalid or unused field."""
  try:
    model = build_model(config)
  except BadInput:
    raise
  except ValueError as error:  # such as a width that is not a multiple of the number of heads
    raise BadInput(f'{config.location}: {error}') from None
  config.reject_unused_fields()
  return model


def read_config(folder: pathlib.Path, name: str = CONFIG) -> UnusedConfigFields:
  """Reads the fields of a JSON file in a folder, by default of config.json.

  All fields are marked as not yet used by the conversion.
  """
  path = folder / name
  return UnusedConfigFields(_read_json_object(path), str(path))


def read_end_tokens(folder: str | os.PathLike) -> tuple[int, ...]:
  """Returns the ids of the tokens after which generation stops.

  They are the eos_token_id of generation_config.json or, if it has none, of config.json.
  """
  folder = pathlib.Path(folder)
  for name in (GENERATION_CONFIG, CONFIG):
    if name == CONFIG or (folder / name).exists():
      config = read_config(folder, name)
      value = config.pop_field('eos_token_id', [])
      tokens = value if isinstance(value, list) else [value]
      if not all(type(token) is int and abs(token) <= MAX_INTEGER for token in tokens):
        raise config.unsupported_value_error('eos_token_id', value)
      if tokens:
        return tuple(tokens)
  return ()


def _read_json_object(path: pathlib.Path) -> dict[str, Any]:
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
  except OSError as error:
    raise BadInput(f'cannot read {path}: {error.strerror}') from None
  except (ValueError, RecursionError):
    raise BadInput(f'{path} is not a JSON file in UTF-8') from None
  if not isinstance(content, dict):
    raise BadInput(f'{path} does not contain a JSON object')
  return content


def _abbreviated_json(value: Any) -> str:
  """Returns a value as JSON text, truncated if it is long."""
  text = json.dumps(value)
  return text if len(text) <= MAX_SHOWN_CHARACTERS else f'{text[:MAX_SHOWN_CHARACTERS]}...'


def _open_weight_files(folder: pathlib.Path) -> list[Archive]:
  """Opens model.safetensors, or the files that model.safetensors.index.json lists."""
  if not (folder / INDEX).exists():
    if not (folder / SINGLE_FILE).exists():
      raise BadInput(f'{folder} has no {SINGLE_FILE}, and other formats are not supported')
    return [Archive(folder / SINGLE_FILE, has_checksums=False)]
  files = _read_json_object(folder / INDEX).get('weight_map')
  if not isinstance(files, dict) or not all(
      isinstance(file, str) and pathlib.PurePath(file).name == file for file in files.values()):
    raise BadInput(
      f'{folder / INDEX} has no weight_map from tensor names to files in the same folder')
  archives = [Archive(folder / file, has_checksums=False) for file in sorted(set(files.values()))]
  for archive in archives:
    archive.check_tensor_names(name for name, file in files.items() if file == archive.path.name)
  return archives
