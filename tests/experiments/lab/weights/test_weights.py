"""Parameters are loaded with the same bits, or the file is refused in one line with its name."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.recurrent import LSTM
from experiments.lab.errors import BadInput
from experiments.lab.weights import files
from transformer.attention import Attention
from transformer.block import Block
from transformer.model import DecoderOnly
from transformer.stack import Stack

library = pytest.importorskip('safetensors.numpy', reason='the extra `weights` is not installed')

WIDTH, VOCABULARY = 8, 11


@pytest.fixture(scope='module')
def model():
  return DecoderOnly(nn.Embed(VOCABULARY, WIDTH), Stack((Block(Attention(2)), Block(LSTM()))))


@pytest.fixture(scope='module')
def parameters(model):
  """The parameters of a model, some of them in bfloat16, and an integer."""
  tree = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 3), np.int32))
  tree['params']['embedding'] = jax.tree.map(jnp.bfloat16, tree['params']['embedding'])
  return {**tree, 'steps': jnp.int32(7)}


@pytest.fixture
def path(tmp_path, parameters):
  metadata = {'model': 'a', 'vocabulary': 'ab12'}
  files.save_parameters(tmp_path / 'ours.safetensors', parameters, metadata)
  return tmp_path / 'ours.safetensors'


def shapes_of(parameters):
  return jax.eval_shape(lambda: parameters)


def bitwise_equal(tree, expected):
  """Whether two trees have the same bits."""
  assert jax.tree.structure(tree) == jax.tree.structure(expected)
  return all(a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()
             for a, b in zip(*map(jax.tree.leaves, (tree, expected)), strict=True))


def refusal_message(function, *values):
  """The message of the BadInput that a call raises."""
  with pytest.raises(BadInput) as error:
    function(*values)
  assert '\n' not in str(error.value)
  return str(error.value)


def test_saved_parameters_are_loaded_with_the_same_bits_by_this_and_other_readers(path, parameters):
  loaded = files.load_parameters(path, shapes_of(parameters), {'vocabulary': 'ab12'})
  assert bitwise_equal(loaded, parameters)
  tensors = library.load_file(path)
  assert set(tensors) == set(files.leaves_by_name(parameters))
  name = 'params.stack.level_0.layer.projection.kernel'
  expected = parameters['params']['stack']['level_0']['layer']['projection']['kernel']
  np.testing.assert_array_equal(tensors[name], expected)
  assert tensors['params.embedding.embedding'].dtype == jnp.bfloat16


def test_a_file_without_checksums_is_refused(path, parameters):
  library.save_file(library.load_file(path), path)
  message = f'{path} has no checksums: it was not written by this repository'
  assert refusal_message(files.load_parameters, path, shapes_of(parameters)) == message


def test_a_file_is_written_completely_or_not_at_all(path, parameters, monkeypatch):
  before = path.read_bytes()

  def raise_disk_full(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr('os.fsync', raise_disk_full)
  zeros = jax.tree.map(jnp.zeros_like, parameters)
  message = refusal_message(files.save_parameters, path, zeros, {})
  assert message == f'cannot write {path}: No space left on device'
  assert path.read_bytes() == before and [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize('metadata', [{'sha256': 'x'}, {'steps': 3}])
def test_metadata_must_be_texts_and_must_not_replace_the_checksums(tmp_path, metadata):
  with pytest.raises(ValueError, match='metadata must be texts'):
    files.save_parameters(tmp_path / 'x', {}, metadata)


def test_parameter_names_must_be_unique(tmp_path):
  with pytest.raises(ValueError, match='contains a dot'):
    files.save_parameters(tmp_path / 'x', {'a': {'b': jnp.zeros(1)}, 'a.b': jnp.zeros(1)}, {})


@settings(deadline=None, max_examples=40)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused_by_its_name(tmp_path_factory, parameters, share):
  path = tmp_path_factory.mktemp('cut') / 'cut.safetensors'
  files.save_parameters(path, parameters, {})
  data = path.read_bytes()
  path.write_bytes(data[: int(share * len(data))])
  assert str(path) in refusal_message(files.load_parameters, path, shapes_of(parameters))


@settings(deadline=None, max_examples=80)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), header=st.booleans())
def test_a_flipped_bit_is_refused_or_changes_no_parameter(
    tmp_path_factory, parameters, share, bit, header):
  path = tmp_path_factory.mktemp('flip') / 'flip.safetensors'
  files.save_parameters(path, parameters, {'model': 'a'})
  data = bytearray(path.read_bytes())
  start = 8 + int.from_bytes(data[:8], 'little')
  offset = int(share * start) if header else start + int(share * (len(data) - start))
  data[offset] ^= 1 << bit
  path.write_bytes(data)
  try:
    loaded = files.load_parameters(path, shapes_of(parameters))
  except BadInput as error:
    assert str(path) in str(error) and '\n' not in str(error)
  else:
    assert header and bitwise_equal(loaded, parameters)


def test_an_error_about_damage_names_the_tensor(path, parameters):
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)
  (name, _) = max(json.loads(data[8:8 + int.from_bytes(data[:8], 'little')]).items(),
                  key=lambda item: item[1].get('data_offsets', [0])[-1])
  message = f'{path} is damaged: the checksum of the tensor {name!r} does not match'
  assert refusal_message(files.load_parameters, path, shapes_of(parameters)) == message


def test_an_error_about_damaged_metadata_says_so(path, parameters):
  path.write_bytes(path.read_bytes().replace(b'ab12', b'ab13'))
  message = f'{path} is damaged: the checksum of its metadata does not match'
  assert refusal_message(files.load_parameters, path, shapes_of(parameters)) == message


def changed_copy(tree, change):
  """A copy of a tree to which `change` was applied."""
  tree = jax.tree.map(lambda leaf: leaf, tree)
  change(tree)
  return tree


@pytest.mark.parametrize(('change', 'message'), [
  (lambda tree: tree.pop('steps'), "has an unexpected tensor 'steps'"),
  (lambda tree: tree.update(more=tree['steps']), "lacks the tensor 'more'"),
  (lambda tree: tree.update(steps=jax.ShapeDtypeStruct((), jnp.float32)),
   "the tensor 'steps' is int32, not float32"),
  (lambda tree: tree['params']['embedding'].update(
    embedding=jax.ShapeDtypeStruct((13, WIDTH), jnp.bfloat16)),
   "'params.embedding.embedding' has the shape [11, 8], the model needs [13, 8]"),
])
def test_a_file_of_another_model_is_refused(path, parameters, change, message):
  template = changed_copy(shapes_of(parameters), change)
  text = refusal_message(files.load_parameters, path, template)
  assert text.startswith(str(path)) and message in text


def test_another_vocabulary_and_a_missing_file_are_refused(path, parameters):
  shapes = shapes_of(parameters)
  message = refusal_message(files.load_parameters, path, shapes, {'vocabulary': 'cd34'})
  assert message == f"{path} was written with the vocabulary 'ab12', not 'cd34'"
  missing = path.with_name('missing')
  assert str(missing) in refusal_message(files.load_parameters, missing, shapes)
  assert str(path.parent) in refusal_message(files.load_parameters, path.parent, shapes)
