"""Malformed or damaged safetensors files are refused with an error message of one line."""

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


def file_bytes(header, data=bytes(24), size=None):
  """The bytes of a file with a header, which is given as JSON values or as bytes."""
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  return struct.pack('<Q', len(text) if size is None else size) + text + data


def tensor_entry(shape=(2, 3), dtype='F32', offsets=(0, 24)):
  return {'dtype': dtype, 'shape': list(shape), 'data_offsets': list(offsets)}


def refusal_message(path, *, has_checksums=False):
  """The message with which a file is refused."""
  with pytest.raises(BadInput) as error:
    archive = safetensors.Archive(path, has_checksums=has_checksums)
    archive.check_tensor_names(['a'])
    archive.read_tensor('a', (2, 3), ('float32',))
  message = str(error.value)
  assert str(path) in message and '\n' not in message
  assert len(message) < len(str(path)) + 400
  return message


def bytes_with_checksums(tensors, metadata, sums=None):
  """The bytes of a file with correct checksums, or with `sums` in their place."""
  sums = {
    **{name: safetensors._checksum(a) for name, a in tensors.items()},
    safetensors.METADATA: safetensors._checksum(metadata),
  } if sums is None else sums
  text = sums if isinstance(sums, str) else json.dumps(sums)
  return library.save(tensors, {**metadata, 'sha256': text})


HEADERS = {
  'empty file': b'',
  'truncated header size': b'\x08\x00\x00',
  'empty header': file_bytes(b'', b''),
  'header size beyond the file': file_bytes({'a': tensor_entry()}, size=10**6),
  'header size of 2**63': file_bytes({'a': tensor_entry()}, size=2**63),
  'header size of 2**64 - 1': file_bytes({'a': tensor_entry()}, size=2**64 - 1),
  'header that is not JSON': file_bytes(b'{"a": '),
  'header that is not an object': file_bytes(b'[1, 2]'),
  'header that is not UTF-8': file_bytes(b'{"\xff": 1}'),
  'deeply nested header': file_bytes(b'[' * 100_000),
  'pickle': b'\x80\x04\x95' + bytes(64),
  'overlapping tensors': file_bytes({'a': tensor_entry(), 'b': tensor_entry()}),
  'gap between tensors': file_bytes(
    {'a': tensor_entry(), 'b': tensor_entry(offsets=(30, 54))}, bytes(54)),
  'offsets beyond the file': file_bytes({'a': tensor_entry(offsets=(0, 48))}),
  'decreasing offsets': file_bytes({'a': tensor_entry(offsets=(24, 0))}),
  'negative offsets': file_bytes({'a': tensor_entry(offsets=(-24, 0))}),
  'fewer bytes than the shape': file_bytes({'a': tensor_entry((20, 3))}),
  'overflowing shape': file_bytes({'a': tensor_entry((2**33, 2**33))}),
  'huge shape without elements': file_bytes({'a': tensor_entry((2**62, 0), offsets=(0, 0))}, b''),
  'negative shape': file_bytes({'a': tensor_entry((-2, -3))}),
  'unknown dtype': file_bytes({'a': tensor_entry(dtype='F31')}),
  'integer dtype': file_bytes({'a': tensor_entry(dtype='I32')}),
  'dtype of eight bits': file_bytes({'a': tensor_entry((2, 12), 'F8_E4M3')}),
  'wrong shape': file_bytes({'a': tensor_entry((3, 2))}),
  'wrong name': file_bytes({'b\n': tensor_entry()}),
  'no tensors': file_bytes({}, b''),
  'metadata that are not texts': file_bytes({'__metadata__': {'a': 3}, 'a': tensor_entry()}),
  'NaN': library.save({'a': np.array([[0, 1, 2], [3, np.nan, 5]], np.float32)}),
  'infinity': library.save({'a': np.array([[0, 1, 2], [3, 4, -np.inf]], np.float32)}),
}


@pytest.mark.parametrize('name', HEADERS)
def test_a_malformed_file_is_refused_in_one_line(name, tmp_path):
  path = tmp_path / 'x.safetensors'
  path.write_bytes(HEADERS[name])
  refusal_message(path)


@settings(deadline=None, max_examples=100)
@given(header=st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.sampled_from(['a', 'dtype', 'shape', 'data_offsets', '__metadata__']), inner, max_size=3),
))
def test_a_file_with_a_random_header_is_refused_in_one_line(tmp_path_factory, header):
  path = tmp_path_factory.mktemp('header') / 'x'
  path.write_bytes(file_bytes(header))
  refusal_message(path)


@pytest.mark.parametrize('name', ['', 'gone', '\0', 'x' * 300])
def test_a_path_that_is_not_a_file_is_refused(tmp_path, name):
  refusal_message(f'{tmp_path}/{name}')


def test_a_pipe_is_refused_before_it_is_opened(tmp_path):
  os.mkfifo(tmp_path / 'pipe')
  writer = os.open(tmp_path / 'pipe', os.O_RDWR)  # without a writer, opening it would block
  try:
    assert 'not a regular file' in refusal_message(tmp_path / 'pipe')
  finally:
    os.close(writer)


@pytest.mark.parametrize('sums', [
  '', '{', '[]', '3', '"x"', '[' * 100_000, '{}', {'__metadata__': 3}, {'__metadata__': None},
])
def test_malformed_checksums_are_refused(tmp_path, sums):
  (tmp_path / 'x').write_bytes(bytes_with_checksums(LIKE, {'model': 'a'}, sums))
  assert 'damaged' in refusal_message(tmp_path / 'x', has_checksums=True)


def test_a_tensor_with_a_missing_or_malformed_checksum_is_refused(tmp_path):
  for entries in ({}, {'a': None}, {'a': 3}, {'b': 'x'}):
    sums = {safetensors.METADATA: safetensors._checksum({}), **entries}
    (tmp_path / 'x').write_bytes(bytes_with_checksums(LIKE, {}, sums))
    assert "checksum of the tensor 'a'" in refusal_message(tmp_path / 'x', has_checksums=True)


def test_wrong_tensors_with_correct_checksums_are_refused(tmp_path):
  good = {'a': np.ones((2, 3), np.float32)}
  (tmp_path / 'x').write_bytes(bytes_with_checksums(good, {}))
  np.testing.assert_array_equal(files.load_parameters(tmp_path / 'x', LIKE)['a'], good['a'])
  for wrong in (np.full((2, 3), np.nan), np.ones((3, 2)), np.ones(6), np.ones((2, 3), np.int32),
                np.ones((2, 3)).astype(np.float16)):
    dtype = wrong.dtype if wrong.dtype != np.float64 else np.float32
    (tmp_path / 'x').write_bytes(bytes_with_checksums({'a': wrong.astype(dtype)}, {}))
    with pytest.raises(BadInput, match="tensor 'a'"):
      files.load_parameters(tmp_path / 'x', LIKE)


def test_the_message_about_another_vocabulary_is_short(tmp_path):
  (tmp_path / 'x').write_bytes(bytes_with_checksums(LIKE, {'vocabulary': 'v' * 100_000}))
  with pytest.raises(BadInput, match='written with the vocabulary') as error:
    files.load_parameters(tmp_path / 'x', LIKE, {'vocabulary': 'w'})
  assert len(str(error.value)) < 400
