"""Files of named tensors in the safetensors format, with a checksum for each tensor.

The format consists of a header with names, dtypes, shapes, offsets and texts called metadata,
followed by the bytes of the tensors. The format has no checksums, so that a flipped bit would
change a number without an error. Files that this module writes have a checksum for each tensor, as
JSON under `sha256` in the metadata.

  {<tensor>: sha256(dtype, shape, bytes), ..., '__metadata__': sha256(all other metadata)}

A file without checksums is refused, unless the caller declares that its writer stores none. A
tensor with a NaN or an infinity is refused in any file, since a trained model has neither. An error
is one line with the names of the file and of the tensor. Files are written atomically.
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
METADATA = '__metadata__'  # reserved by the format, so that no tensor has this name
DTYPES = {
  'BOOL': 'bool', 'I8': 'int8', 'I16': 'int16', 'I32': 'int32', 'I64': 'int64', 'U8': 'uint8',
  'U16': 'uint16', 'U32': 'uint32', 'U64': 'uint64', 'F16': 'float16', 'BF16': 'bfloat16',
  'F32': 'float32', 'F64': 'float64',
}


def write_tensors(
  path: str | os.PathLike, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
  """Writes tensors and metadata with their checksums to a safetensors file.

  Args:
    path: the file, which is replaced atomically if it exists.
    tensors: arrays by name.
    metadata: texts by name.

  Raises:
    ValueError: if the metadata are not texts, or use the name of the checksums.
    BadInput: if the file cannot be written.

  """
  library = optional.import_optional('safetensors.numpy', 'safetensors files', 'weights')
  tensors = {name: np.asarray(tensors[name], order='C') for name in sorted(tensors)}
  if not all(isinstance(text, str) for text in metadata.values()) or CHECKSUMS in metadata:
    raise ValueError(f'metadata must be texts, under names other than {CHECKSUMS!r}')
  sums = {METADATA: _checksum(metadata), **{name: _checksum(a) for name, a in tensors.items()}}
  data = library.save(tensors, {**metadata, CHECKSUMS: json.dumps(sums)})
  try:
    atomic.write(path, data)
  except OSError as error:
    raise BadInput(f'cannot write {path}: {error.strerror or error}') from None


def require_safetensors() -> None:
  """Raises MissingExtra if the Python package safetensors is not installed."""
  optional.import_optional('safetensors.numpy', 'safetensors files', 'weights')


class Archive:
  """A safetensors file that is open for reading, with verified metadata."""

  def __init__(self, path: str | os.PathLike, *, has_checksums: bool = True):
    """Opens a safetensors file and verifies the checksum of its metadata.

    Args:
      path: the file.
      has_checksums: whether the file must have checksums, as files of `write_tensors` have.

    Raises:
      BadInput: if the file cannot be read or is damaged.

    """
    library = optional.import_optional('safetensors', 'safetensors files', 'weights')
    self.path = pathlib.Path(path)
    try:
      if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would block
        raise OSError(errno.EINVAL, 'not a regular file')
      self._file = library.safe_open(self.path, 'numpy')
      self.names = tuple(self._file.keys())
      self.metadata = dict(self._file.metadata() or {})
    except library.SafetensorError as error:
      raise BadInput(f'{path} is damaged: {str(error).splitlines()[0]:.200}') from None
    except (OSError, ValueError) as error:
      reason = getattr(error, 'strerror', None) or error
      raise BadInput(f'cannot read {path}: {reason}') from None
    self._sums = self._read_tensor_checksums() if has_checksums else None

  def check_tensor_names(self, names: Iterable[str]) -> None:
    """Raises BadInput unless the file has tensors of exactly the given names."""
    expected, stored = set(names), set(self.names)
    for verb, wrong in (('lacks the', expected - stored), ('has an unexpected', stored - expected)):
      if wrong:
        more = f' and {len(wrong) - 1} more' if len(wrong) > 1 else ''
        raise BadInput(f'{self.path} {verb} tensor {min(wrong)!r}{more}')

  def read_tensor(self, name: str, shape: tuple[int, ...], dtypes: Iterable[str]) -> np.ndarray:
    """Reads a tensor and verifies its shape, dtype, checksum and finiteness.

    Args:
      name: the name of the tensor.
      shape: the shape that it must have.
      dtypes: the names of the dtypes that it may have.

    Returns:
      The tensor.

    Raises:
      BadInput: if its shape, dtype or checksum is wrong, or a number is not finite.

    """
    part = self._file.get_slice(name)
    dtype = DTYPES.get(part.get_dtype(), part.get_dtype())
    stored_shape, dtypes = tuple(part.get_shape()), tuple(dtypes)
    if stored_shape != tuple(shape):
      raise BadInput(f'{self.path}: the tensor {name!r} has the shape {list(stored_shape)}, '
                     f'the model needs {list(shape)}')
    if dtype not in dtypes:
      raise BadInput(f'{self.path}: the tensor {name!r} is {dtype}, not {" or ".join(dtypes)}')
    tensor = self._file.get_tensor(name)
    if self._sums is not None and self._sums.get(name) != _checksum(tensor):
      raise BadInput(f'{self.path} is damaged: the checksum of the tensor {name!r} does not match')
    if not np.isfinite(tensor).all():
      raise BadInput(f'{self.path}: the tensor {name!r} has a NaN or an infinity')
    return tensor

  def _read_tensor_checksums(self) -> dict[str, str]:
    """Verifies the checksum of the metadata, and returns a map from tensor names to checksums."""
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
