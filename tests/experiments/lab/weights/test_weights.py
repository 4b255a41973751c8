"""What is saved is loaded in the last bit, or refused in one line with its name."""

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
  """Of a model, one tensor of them in bfloat16, and a number."""
  tree = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 3), np.int32))
  tree['params']['embedding'] = jax.tree.map(jnp.bfloat16, tree['params']['embedding'])
  return {**tree, 'steps': jnp.int32(7)}


@pytest.fixture
def path(tmp_path, parameters):
  files.save(tmp_path / 'ours.safetensors', parameters, {'model': 'a', 'vocabulary': 'ab12'})
  return tmp_path / 'ours.safetensors'


def like(parameters):
  return jax.eval_shape(lambda: parameters)


def same(tree, other):
  """Whether two trees are the same, in the last bit."""
  assert jax.tree.structure(tree) == jax.tree.structure(other)
  return all(a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()
             for a, b in zip(*map(jax.tree.leaves, (tree, other)), strict=True))


def refused(function, *values):
  """What is said of it, in one line."""
  with pytest.raises(BadInput) as error:
    function(*values)
  assert '\n' not in str(error.value)
  return str(error.value)


def test_what_is_saved_is_loaded_in_the_last_bit_and_others_can_read_it(path, parameters):
  assert same(files.load(path, like(parameters), {'vocabulary': 'ab12'}), parameters)
  theirs = library.load_file(path)
  assert set(theirs) == set(files.named(parameters))
  name = 'params.stack.level_0.layer.projection.kernel'
  expected = parameters['params']['stack']['level_0']['layer']['projection']['kernel']
  np.testing.assert_array_equal(theirs[name], expected)
  assert theirs['params.embedding.embedding'].dtype == jnp.bfloat16


def test_a_file_without_checksums_is_refused(path, parameters):
  library.save_file(library.load_file(path), path)
  said = f'{path} has no checksums: it was not written by this repository'
  assert refused(files.load, path, like(parameters)) == said


def test_a_file_is_written_whole_or_not_at_all(path, parameters, monkeypatch):
  before = path.read_bytes()

  def full(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr('os.fsync', full)
  said = refused(files.save, path, jax.tree.map(jnp.zeros_like, parameters), {})
  assert said == f'cannot write {path}: No space left on device'
  assert path.read_bytes() == before and [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize('metadata', [{'sha256': 'x'}, {'steps': 3}])
def test_metadata_are_texts_and_no_checksums(tmp_path, metadata):
  with pytest.raises(ValueError, match='metadata are texts'):
    files.save(tmp_path / 'x', {}, metadata)


def test_names_are_unique(tmp_path):
  with pytest.raises(ValueError, match='a dot'):
    files.save(tmp_path / 'x', {'a': {'b': jnp.zeros(1)}, 'a.b': jnp.zeros(1)}, {})


@settings(deadline=None, max_examples=40)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_named_and_refused(tmp_path_factory, parameters, share):
  path = tmp_path_factory.mktemp('cut') / 'cut.safetensors'
  files.save(path, parameters, {})
  data = path.read_bytes()
  path.write_bytes(data[: int(share * len(data))])
  assert str(path) in refused(files.load, path, like(parameters))


@settings(deadline=None, max_examples=80)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), header=st.booleans())
def test_a_flipped_bit_is_refused_or_changes_no_parameter(
    tmp_path_factory, parameters, share, bit, header):
  path = tmp_path_factory.mktemp('flip') / 'flip.safetensors'
  files.save(path, parameters, {'model': 'a'})
  data = bytearray(path.read_bytes())
  start = 8 + int.from_bytes(data[:8], 'little')
  place = int(share * start) if header else start + int(share * (len(data) - start))
  data[place] ^= 1 << bit
  path.write_bytes(data)
  try:
    found = files.load(path, like(parameters))
  except BadInput as error:
    assert str(path) in str(error) and '\n' not in str(error)
  else:
    assert header and same(found, parameters)


def test_damage_names_its_tensor(path, parameters):
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)
  (name, _) = max(json.loads(data[8:8 + int.from_bytes(data[:8], 'little')]).items(),
                  key=lambda item: item[1].get('data_offsets', [0])[-1])
  said = f'{path} is damaged: the checksum of the tensor {name!r} does not match'
  assert refused(files.load, path, like(parameters)) == said


def test_damage_of_what_a_file_says_of_itself_is_named(path, parameters):
  path.write_bytes(path.read_bytes().replace(b'ab12', b'ab13'))
  said = f'{path} is damaged: the checksum of its metadata does not match'
  assert refused(files.load, path, like(parameters)) == said


def changed(tree, change):
  """A copy of the tree `like` in which one thing is another."""
  tree = jax.tree.map(lambda leaf: leaf, tree)
  change(tree)
  return tree


@pytest.mark.parametrize(('change', 'says'), [
  (lambda tree: tree.pop('steps'), "has an unexpected tensor 'steps'"),
  (lambda tree: tree.update(more=tree['steps']), "lacks the tensor 'more'"),
  (lambda tree: tree.update(steps=jax.ShapeDtypeStruct((), jnp.float32)),
   "the tensor 'steps' is int32, not float32"),
  (lambda tree: tree['params']['embedding'].update(
    embedding=jax.ShapeDtypeStruct((13, WIDTH), jnp.bfloat16)),
   "'params.embedding.embedding' has the shape [11, 8], the model needs [13, 8]"),
])
def test_another_models_file_is_refused(path, parameters, change, says):
  said = refused(files.load, path, changed(like(parameters), change))
  assert said.startswith(str(path)) and says in said


def test_another_vocabulary_and_no_file_are_refused(path, parameters):
  said = refused(files.load, path, like(parameters), {'vocabulary': 'cd34'})
  assert said == f"{path} was written with the vocabulary 'ab12', not 'cd34'"
  gone = path.with_name('gone')
  assert str(gone) in refused(files.load, gone, like(parameters))
  assert str(path.parent) in refused(files.load, path.parent, like(parameters))
