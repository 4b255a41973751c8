"""Files that are no sound safetensors are refused in one line, whatever their header says."""

import json
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.lab.errors import BadInput
from experiments.lab.weights import files, safetensors

library = pytest.importorskip('safetensors.numpy', reason='the extra `weights` is not installed')

LIKE = {'a': np.zeros((2, 3), np.float32)}


def raw(header, data=bytes(24), size=None):
  """A file's bytes: the header's size, the header as JSON or as it is, the data."""
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  return struct.pack('<Q', len(text) if size is None else size) + text + data


def tensor(shape=(2, 3), dtype='F32', offsets=(0, 24)):
  return {'dtype': dtype, 'shape': list(shape), 'data_offsets': list(offsets)}


def refused(path, *, of_others=True):
  """What is said of a file that is no checkpoint's, in one line."""
  with pytest.raises(BadInput) as error:
    archive = safetensors.Archive(path, of_others=of_others)
    archive.expect(['a'])
    archive.read('a', (2, 3), ('float32',))
  said = str(error.value)
  assert str(path) in said and '\n' not in said and len(said) < len(str(path)) + 400
  return said


def signed(tensors, metadata, sums=None):
  """A file with right checksums, or with other words in their place."""
  sums = {
    **{name: safetensors._checksum(a) for name, a in tensors.items()},
    safetensors.METADATA: safetensors._checksum(metadata),
  } if sums is None else sums
  text = sums if isinstance(sums, str) else json.dumps(sums)
  return library.save(tensors, {**metadata, 'sha256': text})


HEADERS = {
  'nothing': b'',
  'half a size': b'\x08\x00\x00',
  'a size of nothing': raw(b'', b''),
  'a size beyond the file': raw({'a': tensor()}, size=10**6),
  'a size of 2**63': raw({'a': tensor()}, size=2**63),
  'a size of 2**64 - 1': raw({'a': tensor()}, size=2**64 - 1),
  'no JSON': raw(b'{"a": '),
  'no object': raw(b'[1, 2]'),
  'no UTF-8': raw(b'{"\xff": 1}'),
  'a deep header': raw(b'[' * 100_000),
  'a pickle': b'\x80\x04\x95' + bytes(64),
  'overlapping tensors': raw({'a': tensor(), 'b': tensor()}),
  'a hole between tensors': raw({'a': tensor(), 'b': tensor(offsets=(30, 54))}, bytes(54)),
  'offsets beyond the file': raw({'a': tensor(offsets=(0, 48))}),
  'offsets that go back': raw({'a': tensor(offsets=(24, 0))}),
  'negative offsets': raw({'a': tensor(offsets=(-24, 0))}),
  'fewer bytes than the shape': raw({'a': tensor((20, 3))}),
  'a shape that overflows': raw({'a': tensor((2**33, 2**33))}),
  'a huge shape of nothing': raw({'a': tensor((2**62, 0), offsets=(0, 0))}, b''),
  'a negative shape': raw({'a': tensor((-2, -3))}),
  'a dtype that is none': raw({'a': tensor(dtype='F31')}),
  'a dtype of whole numbers': raw({'a': tensor(dtype='I32')}),
  'a dtype of eight bits': raw({'a': tensor((2, 12), 'F8_E4M3')}),
  'another shape': raw({'a': tensor((3, 2))}),
  'another name': raw({'b\n': tensor()}),
  'no tensors': raw({}, b''),
  'metadata that are no texts': raw({'__metadata__': {'a': 3}, 'a': tensor()}),
  'a NaN': library.save({'a': np.array([[0, 1, 2], [3, np.nan, 5]], np.float32)}),
  'an infinity': library.save({'a': np.array([[0, 1, 2], [3, 4, -np.inf]], np.float32)}),
}


@pytest.mark.parametrize('name', HEADERS)
def test_a_hostile_file_is_refused_in_one_line(name, tmp_path):
  path = tmp_path / 'x.safetensors'
  path.write_bytes(HEADERS[name])
  refused(path)


@settings(deadline=None, max_examples=100)
@given(header=st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.sampled_from(['a', 'dtype', 'shape', 'data_offsets', '__metadata__']), inner, max_size=3),
))
def test_whatever_a_header_says_the_file_is_refused_in_one_line(tmp_path_factory, header):
  path = tmp_path_factory.mktemp('header') / 'x'
  path.write_bytes(raw(header))
  refused(path)


@pytest.mark.parametrize('name', ['', 'gone', '\0', 'x' * 300])
def test_what_is_no_file_is_refused(tmp_path, name):
  refused(f'{tmp_path}/{name}')


def test_a_pipe_is_refused_before_it_is_opened(tmp_path):
  os.mkfifo(tmp_path / 'pipe')
  writer = os.open(tmp_path / 'pipe', os.O_RDWR)  # else to open it would wait for ever
  try:
    assert 'not a regular file' in refused(tmp_path / 'pipe')
  finally:
    os.close(writer)


@pytest.mark.parametrize('sums', [
  '', '{', '[]', '3', '"x"', '[' * 100_000, '{}', {'__metadata__': 3}, {'__metadata__': None},
])
def test_checksums_that_are_none_are_refused(tmp_path, sums):
  (tmp_path / 'x').write_bytes(signed(LIKE, {'model': 'a'}, sums))
  assert 'damaged' in refused(tmp_path / 'x', of_others=False)


def test_a_tensor_whose_checksum_is_left_out_or_no_text_is_refused(tmp_path):
  for more in ({}, {'a': None}, {'a': 3}, {'b': 'x'}):
    sums = {safetensors.METADATA: safetensors._checksum({}), **more}
    (tmp_path / 'x').write_bytes(signed(LIKE, {}, sums))
    assert "checksum of the tensor 'a'" in refused(tmp_path / 'x', of_others=False)


def test_right_checksums_of_wrong_contents_are_refused(tmp_path):
  """The file is as its writer left it; what the writer left is no model's."""
  good = {'a': np.ones((2, 3), np.float32)}
  (tmp_path / 'x').write_bytes(signed(good, {}))
  np.testing.assert_array_equal(files.load(tmp_path / 'x', LIKE)['a'], good['a'])
  for wrong in (np.full((2, 3), np.nan), np.ones((3, 2)), np.ones(6), np.ones((2, 3), np.int32),
                np.ones((2, 3)).astype(np.float16)):
    kind = wrong.dtype if wrong.dtype != np.float64 else np.float32
    (tmp_path / 'x').write_bytes(signed({'a': wrong.astype(kind)}, {}))
    with pytest.raises(BadInput, match="tensor 'a'"):
      files.load(tmp_path / 'x', LIKE)


def test_what_is_said_of_another_vocabulary_is_short(tmp_path):
  (tmp_path / 'x').write_bytes(signed(LIKE, {'vocabulary': 'v' * 100_000}))
  with pytest.raises(BadInput, match='written with the vocabulary') as error:
    files.load(tmp_path / 'x', LIKE, {'vocabulary': 'w'})
  assert len(str(error.value)) < 400
