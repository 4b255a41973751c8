"""safetensors files: named tensors and words about them, read where they are sound, or not at all.

The format is a header (names, dtypes, shapes, places, and texts that are called metadata), then the
tensors' bytes. It has no checksum, so that a flipped bit would be a wrong number. What is written
here has one for each tensor, as JSON under `sha256` in the metadata:

  {<tensor>: sha256(dtype, shape, bytes), ..., '__metadata__': sha256(all other metadata)}

A file without them is refused, unless it is said to be of others, who write none. A tensor with a
NaN or an infinity is refused in any file: no model that was trained has one. What is wrong with a
file is one line that names it and its tensor. A file is written whole or not at all.
"""

import errno
import hashlib
import json
import os
import pathlib
import stat
from collections.abc import Iterable, Mapping

import numpy as np

from experiments.lab import atomic, optional
from experiments.lab.errors import BadInput

CHECKSUMS = 'sha256'
METADATA = '__metadata__'  # the one name that the format gives to no tensor
DTYPES = {
  'BOOL': 'bool', 'I8': 'int8', 'I16': 'int16', 'I32': 'int32', 'I64': 'int64', 'U8': 'uint8',
  'U16': 'uint16', 'U32': 'uint32', 'U64': 'uint64', 'F16': 'float16', 'BF16': 'bfloat16',
  'F32': 'float32', 'F64': 'float64',
}


def write(
  path: str | os.PathLike, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
  """Writes tensors and what is said of them, with checksums; BadInput where no file can be."""
  library = optional.load('safetensors.numpy', 'safetensors files', 'weights')
  tensors = {name: np.asarray(tensors[name], order='C') for name in sorted(tensors)}
  if not all(isinstance(text, str) for text in metadata.values()) or CHECKSUMS in metadata:
    raise ValueError(f'metadata are texts, under other names than {CHECKSUMS!r}')
  sums = {METADATA: _checksum(metadata), **{name: _checksum(a) for name, a in tensors.items()}}
  data = library.save(tensors, {**metadata, CHECKSUMS: json.dumps(sums)})
  try:
    atomic.write(path, data)
  except OSError as error:
    raise BadInput(f'cannot write {path}: {error.strerror or error}') from None


def ready() -> None:
  """MissingExtra if the library is not there, before there is anything to lose."""
  optional.load('safetensors.numpy', 'safetensors files', 'weights')


class Archive:
  """A file that is open for reading; BadInput where it cannot be, or not be trusted."""

  def __init__(self, path: str | os.PathLike, *, of_others: bool = False):
    library = optional.load('safetensors', 'safetensors files', 'weights')
    self.path = pathlib.Path(path)
    try:
      if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would wait for its writer
        raise OSError(errno.EINVAL, 'not a regular file')
      self._file = library.safe_open(self.path, 'numpy')
      self.names = tuple(self._file.keys())
      self.metadata = dict(self._file.metadata() or {})
    except library.SafetensorError as error:
      raise BadInput(f'{path} is damaged: {str(error).splitlines()[0]:.200}') from None
    except (OSError, ValueError) as error:
      reason = getattr(error, 'strerror', None) or error
      raise BadInput(f'cannot read {path}: {reason}') from None
    self._sums = None if of_others else self._checksums()

  def expect(self, names: Iterable[str]) -> None:
    """BadInput unless the file has these tensors, and no other."""
    expected, found = set(names), set(self.names)
    for says, wrong in (('lacks the', expected - found), ('has an unexpected', found - expected)):
      if wrong:
        more = f' and {len(wrong) - 1} more' if len(wrong) > 1 else ''
        raise BadInput(f'{self.path} {says} tensor {min(wrong)!r}{more}')

  def read(self, name: str, shape: tuple[int, ...], dtypes: Iterable[str]) -> np.ndarray:
    """The tensor of that name, which has to have this shape and one of these dtypes."""
    part = self._file.get_slice(name)
    dtype = DTYPES.get(part.get_dtype(), part.get_dtype())
    found, dtypes = tuple(part.get_shape()), tuple(dtypes)
    if found != tuple(shape):
      raise BadInput(f'{self.path}: the tensor {name!r} has the shape {list(found)}, '
                     f'the model needs {list(shape)}')
    if dtype not in dtypes:
      raise BadInput(f'{self.path}: the tensor {name!r} is {dtype}, not {" or ".join(dtypes)}')
    tensor = self._file.get_tensor(name)
    if self._sums is not None and self._sums.get(name) != _checksum(tensor):
      raise BadInput(f'{self.path} is damaged: the checksum of the tensor {name!r} does not match')
    if not np.isfinite(tensor).all():
      raise BadInput(f'{self.path}: the tensor {name!r} has a NaN or an infinity')
    return tensor

  def _checksums(self) -> dict[str, str]:
    """The checksums of the tensors, after that of the metadata was found right."""
    text = self.metadata.pop(CHECKSUMS, None)
    if text is None:
      raise BadInput(f'{self.path} has no checksums: it was not written by this repository')
    try:
      sums = json.loads(text)
    except (ValueError, RecursionError):
      sums = None
    if not isinstance(sums, dict):
      raise BadInput(f'{self.path} is damaged: its checksums are not a JSON object')
    if sums.get(METADATA) != _checksum(self.metadata):
      raise BadInput(f'{self.path} is damaged: the checksum of its metadata does not match')
    return sums


def _checksum(content: Mapping[str, str] | np.ndarray) -> str:
  if isinstance(content, Mapping):
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
  digest = hashlib.sha256(f'{content.dtype.name}{content.shape}'.encode())
  digest.update(np.ascontiguousarray(content).view(np.uint8).data)
  return digest.hexdigest()
