"""Storage of experiment records, with one JSON file for each grid cell.

A grid cell is identified by its settings and by the code that computes its numbers, and not by the
time or the machine of its run:

  code = the fingerprint of each module that its numbers depend on (`source.code_fingerprints`)
  key  = sha256(canonical JSON of {study, run, code}), first 16 hex digits
  file = <folder>/cells/<study>-<key>.json

A launch therefore skips stored grid cells, and the folders of two machines are merged by copying. A
record that other code has produced is stale. It remains stored as history, and is current again
with that code. A record that --retry or --rerun replaces is kept as
<folder>/history/<study>-<key>.json.

Each record has the checksum of its content and satisfies the schema of its kind (`kinds`). A file
that violates either, or that is unreadable, is reported in one warning with the reason and renamed
to `<file>.damaged`. Its grid cell counts as missing and runs again.

Records are strict JSON, which has no NaN. A float that is not finite is written as {"$float": "nan"
| "inf" | "-inf"} and read back as that float. Keys that start with `$` are rejected, so that the
mapping is lossless. Tuples and arrays are read back as lists.
"""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from absl import logging

from experiments.lab import atomic, source
from experiments.lab.results import kinds
from experiments.lab.results.schema import RecordKind, SchemaError

FORMAT = 2
WITHOUT_CODE = 1  # The earlier format of records without fingerprints of their code.
FIELDS = tuple(kinds.RECORD.required)

_FLOAT = '$float'
_SUFFIX = '.json'


class StoreError(ValueError):
  """An error for an invalid record or an unusable folder, with a one-line message."""


def canonical_json(value: Any) -> str:
  """Serializes a value as ASCII JSON with sorted keys and without spaces, and rejects NaN."""
  try:
    return json.dumps(value, sort_keys=True, separators=(',', ':'), allow_nan=False)
  except (TypeError, ValueError) as error:
    raise StoreError(f'not a JSON value: {error}') from None


def cell_key(
  study: str, run: dict, code_fingerprints: Mapping[str, str] = MappingProxyType({})
) -> str:
  """Returns the key of a grid cell, which is a hash of its study, run settings and code.

  Args:
    study: The name of the study.
    run: The settings of the grid cell.
    code_fingerprints: The fingerprint of each module that the numbers depend on.

  Returns:
    16 hex digits.
  """
  code = {'code': dict(code_fingerprints)} if code_fingerprints else {}
  text = canonical_json({'study': study, 'run': run} | code)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


class Store:
  """A folder of experiment records, created by `create_writable_folders` or the first `write`."""

  def __init__(
    self,
    folder: str | os.PathLike,
    kinds: Mapping[str, Sequence[RecordKind]] = MappingProxyType({}),
    warn: Callable[[str], None] = logging.warning,
  ):
    self.cells = pathlib.Path(folder) / 'cells'
    self.history = pathlib.Path(folder) / 'history'
    self._kinds = dict(kinds)
    self._warn = warn

  def create_writable_folders(self, include_record_history: bool = False) -> 'Store':
    """Creates the folder of records and checks, before any training, that it is writable.

    If `include_record_history` is true, the folder of replaced records is created and checked, too.
    """
    for folder in (self.cells, *([self.history] if include_record_history else ())):
      probe = folder / '.probe'
      self._write_bytes(probe, b'')
      with contextlib.suppress(OSError):
        probe.unlink()
      atomic.remove_abandoned_files(folder)
    return self

  def write(self, record: dict) -> dict:
    """Stores a record and returns the stored value, which equals the result of `read`.

    A record without code has the fingerprints of the present code. A replaced record moves to the
    history.

    Raises:
      StoreError: The record is invalid or cannot be written.
    """
    code = self.code_fingerprints_of_grid_cell(record.get('study'), record.get('run'))
    record = {'code': code} | record
    missing = [name for name in FIELDS if name not in record]
    unknown = sorted(set(record) - set(FIELDS) - {'format', 'checksum'})
    if missing or unknown:
      raise StoreError(
        f'a record needs exactly the fields {FIELDS}; missing: {missing}, unknown: {unknown}')
    path = self._record_file_path(record['study'], record['run'], record['code'])
    body = _convert_to_strict_json({name: record[name] for name in FIELDS} | {'format': FORMAT})
    body['checksum'] = _record_checksum(body)
    text = canonical_json(body)
    written = _decode_nonfinite_floats(json.loads(text))
    try:
      kinds.RECORD.check(written, 'record')
      if self.is_current(written):
        kinds.check_record(written, self._kinds)  # Reading checks the same schema.
    except SchemaError as error:
      raise StoreError(f'the record {path.name} is invalid: {error}') from None
    if path.exists():
      self.copy_record_to_history_folder(path.name, self._read_bytes(path))
    self._write_bytes(path, (text + '\n').encode())
    return written

  def code_fingerprints_of_grid_cell(self, study: str, run: dict) -> dict[str, str]:
    """Maps each module on which a grid cell depends to the fingerprint of its code.

    The mapping is empty if the kind of record is unknown.
    """
    try:
      kind = kinds.find_record_kind(study, run, self._kinds)
      return source.code_fingerprints(kind.modules, run) if kind else {}
    except (SchemaError, TypeError):  # The check of the record reports the invalid run.
      return {}

  def read(self, study: str, run: dict) -> dict | None:
    """Returns a grid cell's record that the current code produced, or None if there is none."""
    code = self.code_fingerprints_of_grid_cell(study, run)
    return self._read_record_file(self._record_file_path(study, run, code))

  def records(self, study: str | None = None) -> list[dict]:
    """Returns the sorted records of one or all studies, without those of earlier code versions."""
    return [record for record in self.all_records(study) if self.is_current(record)]

  def all_records(self, study: str | None = None) -> list[dict]:
    """Returns the sorted records of one or all studies, including those of older code versions."""
    names = [name for name in self._record_file_names() if study in (None, name.rpartition('-')[0])]
    files = (self._read_record_file(self.cells / name) for name in names)
    records = [record for record in files if record is not None]
    return sorted(records, key=lambda record: (
      record['study'], canonical_json(record['run']), canonical_json(record['code'])))

  def is_current(self, record: dict) -> bool:
    """Whether the current code produced the record. True for every record of an unknown study."""
    if record['study'] not in self._kinds:
      return True
    return record['code'] == self.code_fingerprints_of_grid_cell(record['study'], record['run'])

  def changed_modules(self, record: dict) -> list[str]:
    """Returns the names of the modules that have changed since the record was produced."""
    now, then = self.code_fingerprints_of_grid_cell(record['study'], record['run']), record['code']
    return sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))

  def record_path(self, record: dict) -> pathlib.Path:
    return self._record_file_path(record['study'], record['run'], record['code'])

  def __contains__(self, study: str) -> bool:
    return bool(self.records(study))

  def _record_file_names(self) -> list[str]:
    try:
      names = os.listdir(self.cells)
    except FileNotFoundError:
      return []
    except OSError as error:
      raise _folder_error(self.cells, error) from None
    # Names of temporary files start with a dot, and names of damaged files do not end in .json.
    return sorted(name for name in names if name.endswith(_SUFFIX) and name[0] != '.')

  def _record_file_path(
    self, study: str, run: dict, code_fingerprints: Mapping[str, str]
  ) -> pathlib.Path:
    if not (isinstance(study, str) and re.fullmatch(r'[A-Za-z0-9_]+', study)):
      raise StoreError(
        f'the name of a study consists of letters, digits and underscores, unlike {study!r}')
    return self.cells / f'{study}-{cell_key(study, run, code_fingerprints)}{_SUFFIX}'

  def _read_record_file(self, path: pathlib.Path) -> dict | None:
    try:
      data = path.read_bytes()
    except FileNotFoundError:
      return None
    except OSError as error:
      raise _folder_error(path, error) from None
    record, fault = self._parse_record(data, path.name)
    if not fault:
      return record
    with contextlib.suppress(OSError):
      if path.read_bytes() != data:  # Another process has just replaced the file.
        return self._read_record_file(path)
    self._rename_damaged_file(path, fault)
    return None

  def _parse_record(self, data: bytes, file_name: str) -> tuple[dict | None, str]:
    """Decodes a record file and returns (record, ''), or (None, fault) if the file is invalid."""
    try:
      body = json.loads(data)
      if not isinstance(body, dict):
        return None, 'not a record'
      if body.get('format') not in (FORMAT, WITHOUT_CODE):
        return None, f'format {body.get("format")!r}, not {FORMAT}'
      if body.get('checksum') != _record_checksum(body):
        return None, 'the checksum does not match the content'
      record = _decode_nonfinite_floats(body)
      if not isinstance(record, dict):  # The file has an encoded float instead.
        return None, 'not a record'
      study, run, code = (record.setdefault(name, {}) for name in ('study', 'run', 'code'))
      if file_name != f'{study}-{cell_key(study, run, code)}{_SUFFIX}':
        return None, 'the file name does not match the content'
      kinds.RECORD.check(record, 'record')
      if self.is_current(record):  # A stale record may satisfy an earlier schema.
        kinds.check_record(record, self._kinds)
      return record, ''
    except SchemaError as error:
      return None, str(error)
    # Invalid UTF-8 raises a ValueError, and a too large number raises an OverflowError.
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
      return None, 'not valid JSON'

  def _rename_damaged_file(self, path: pathlib.Path, fault: str) -> None:
    """Renames a damaged file to the unused name `<file>.damaged*` and logs the fault."""
    try:
      target = _reserve_free_path(path.with_name(f'{path.name}.damaged'))
      try:
        os.replace(path, target)
      except OSError:
        target.unlink()
        raise
    except FileNotFoundError:  # Another process has already renamed and reported the file.
      return
    except OSError as error:
      self._warn(f'{path}: {fault}; ignored, but not renamed: {error.strerror}')
    else:
      self._warn(f'{path}: {fault}; renamed to {target.name}, so that its cell counts as not run')

  def copy_record_to_history_folder(self, file_name: str, data: bytes) -> None:
    """Copies a superseded record file to the history folder, unless the folder contains a copy."""
    try:
      self.history.mkdir(exist_ok=True)
      if not any(file.read_bytes() == data for file in self.history.glob(f'{file_name}*')):
        atomic.write(_reserve_free_path(self.history / file_name), data)
    except OSError as error:
      raise _folder_error(self.history, error) from None

  def _read_bytes(self, path: pathlib.Path) -> bytes:
    try:
      return path.read_bytes()
    except OSError as error:
      raise _folder_error(path, error) from None

  def _write_bytes(self, path: pathlib.Path, data: bytes) -> None:
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      atomic.write(path, data)
    except OSError as error:
      raise _folder_error(path.parent, error) from None


def _reserve_free_path(path: pathlib.Path) -> pathlib.Path:
  """Creates an empty file at the first unused path of <path>, <path>.2, <path>.3, and so on."""
  count = 1
  while True:
    candidate = path.with_name(f'{path.name}.{count}') if count > 1 else path
    try:
      candidate.open('x').close()  # Creation is atomic, so that no two processes get one path.
      return candidate
    except FileExistsError:
      count += 1


def _record_checksum(body: dict) -> str:
  content = {name: value for name, value in body.items() if name != 'checksum'}
  return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def _convert_to_strict_json(value: Any) -> Any:
  """Converts a value to strict JSON. Arrays become lists, and NaN and infinity become objects."""
  if isinstance(value, dict):
    for key in value:
      if not isinstance(key, str) or key.startswith('$'):
        raise StoreError(f'keys of a record are texts that do not start with $, unlike {key!r}')
    return {key: _convert_to_strict_json(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_convert_to_strict_json(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return {_FLOAT: str(float(value))}
  if not isinstance(value, float) and hasattr(value, 'tolist'):  # An array of NumPy or JAX.
    return _convert_to_strict_json(value.tolist())
  return value


def _decode_nonfinite_floats(value: Any) -> Any:
  """Restores the NaN and infinite floats that `_convert_to_strict_json` encoded."""
  if isinstance(value, dict):
    if _FLOAT in value:
      return float(value[_FLOAT])
    return {key: _decode_nonfinite_floats(item) for key, item in value.items()}
  if isinstance(value, list):
    return [_decode_nonfinite_floats(item) for item in value]
  return value


def _folder_error(path: pathlib.Path, error: OSError) -> StoreError:
  reason = describe_broken_link(path) or error.strerror or error
  return StoreError(f'cannot use the results folder {path}: {reason}')


def describe_broken_link(path: pathlib.Path) -> str:
  """Describes the first broken symbolic link among a path and its parents, if there is one."""
  for part in (path, *path.parents):
    if part.is_symlink() and not part.exists():
      return f'{part} is a link to {os.readlink(part)}, which does not exist'
  return ''
