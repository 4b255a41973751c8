"""One JSON file a cell: the only memory between a launch and its report.

A cell is named by what was asked and by the code that answers it, never by when or where it ran:

  code = the fingerprint of each module that its numbers depend on (`source.code`)
  key  = sha256(canonical JSON of {study, run, code}), first 16 hex digits
  file = <folder>/cells/<study>-<key>.json

So a launch skips what is there, and the folders of two machines merge by copying. A record that
other code made is stale: it stays, but counts as history, and is current again with that code. One
that is replaced, by --retry or --rerun, is kept as <folder>/history/<study>-<key>.json. Each record
carries the checksum of its own content, and has what its kind of cell needs (`kinds`). A file that
fails either, or that fails in any other way, is named in one warning that says what is wrong, set
aside as `<file>.damaged`, and counts as absent: its cell runs again.

Records are strict JSON, which has no NaN. A float that is not finite is written as
{"$float": "nan" | "inf" | "-inf"} and read back as that float; keys that start with `$` are
refused, so the mapping loses nothing. Tuples and arrays come back as lists.
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
from experiments.lab.results.schema import Kind, Misfit

FORMAT = 2
WITHOUT_CODE = 1  # the format of records that do not know their code
FIELDS = tuple(kinds.RECORD.required)

_FLOAT = '$float'
_SUFFIX = '.json'


class StoreError(ValueError):
  """A record or a folder that the store cannot take; the message is one line."""


def canonical(value: Any) -> str:
  """Canonical JSON text of a value: keys sorted, no spaces, ASCII, no NaN."""
  try:
    return json.dumps(value, sort_keys=True, separators=(',', ':'), allow_nan=False)
  except (TypeError, ValueError) as error:
    raise StoreError(f'not a JSON value: {error}') from None


def key_of(study: str, run: dict, code: Mapping[str, str] = MappingProxyType({})) -> str:
  """Name of a cell: 16 hex digits that depend on the study, the run and its code alone."""
  text = canonical({'study': study, 'run': run} | ({'code': dict(code)} if code else {}))
  return hashlib.sha256(text.encode()).hexdigest()[:16]


class Store:
  """The records in a folder. Making one touches nothing; see `prepare`."""

  def __init__(
    self, folder: str | os.PathLike, kinds: Mapping[str, Sequence[Kind]] = MappingProxyType({}),
    warn: Callable[[str], None] = logging.warning,
  ):
    """Names a folder, and of which kinds the cells of each study are."""
    self.cells = pathlib.Path(folder) / 'cells'
    self.history = pathlib.Path(folder) / 'history'
    self._kinds = dict(kinds)
    self._warn = warn

  def prepare(self, replacing: bool = False) -> 'Store':
    """Make the folder and prove it writable, so that a launch fails before it trains.

    With `replacing` the history, too.
    """
    for folder in (self.cells, *([self.history] if replacing else ())):
      probe = folder / '.probe'
      self._write_bytes(probe, b'')
      with contextlib.suppress(OSError):
        probe.unlink()
      atomic.clean(folder)
    return self

  def write(self, record: dict) -> dict:
    """Store a record, that of today's code unless it names another; return it as it will be read.

    A record that stands in its place is kept in the history.
    """
    record = {'code': self.code(record.get('study'), record.get('run'))} | record
    missing = [name for name in FIELDS if name not in record]
    unknown = sorted(set(record) - set(FIELDS) - {'format', 'checksum'})
    if missing or unknown:
      raise StoreError(f'a record needs exactly {FIELDS}: missing {missing}, unknown {unknown}')
    path = self._path(record['study'], record['run'], record['code'])
    body = _encode({name: record[name] for name in FIELDS} | {'format': FORMAT})
    body['checksum'] = _checksum(body)
    text = canonical(body)
    written = _decode(json.loads(text))
    try:
      kinds.RECORD.check(written, 'record')
      if self.is_current(written):
        kinds.check(written, self._kinds)  # what is written can be read again
    except Misfit as misfit:
      raise StoreError(f'{path.name} would not be a record: {misfit}') from None
    if path.exists():
      self.keep_history(path.name, self._bytes_of(path))
    self._write_bytes(path, (text + '\n').encode())
    return written

  def code(self, study: str, run: dict) -> dict[str, str]:
    """The fingerprints of the code that a cell's numbers depend on today; empty: not known."""
    try:
      kind = kinds.kind_of(study, run, self._kinds)
      return source.code(kind.cells, run) if kind else {}
    except (Misfit, TypeError):  # such a run is refused where it is checked
      return {}

  def read(self, study: str, run: dict) -> dict | None:
    """Record of a cell by today's code, or None where there is none that can be trusted."""
    return self._read(self._path(study, run, self.code(study, run)))

  def records(self, study: str | None = None) -> list[dict]:
    """The current records, or those of one study, in an order that depends on content alone."""
    return [record for record in self.everything(study) if self.is_current(record)]

  def everything(self, study: str | None = None) -> list[dict]:
    """The same with those that other code has made."""
    names = [name for name in self._names() if study in (None, name.rpartition('-')[0])]
    found = [record for name in names if (record := self._read(self.cells / name)) is not None]
    return sorted(found, key=lambda record: (
      record['study'], canonical(record['run']), canonical(record['code'])))

  def is_current(self, record: dict) -> bool:
    """Whether today's code would make a record's numbers again; where it is not known, it may."""
    known = record['study'] in self._kinds
    return not known or record['code'] == self.code(record['study'], record['run'])

  def changed(self, record: dict) -> list[str]:
    """The modules of today's code, or of a record's, that are not the same in both."""
    now, then = self.code(record['study'], record['run']), record['code']
    return sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))

  def path_of(self, record: dict) -> pathlib.Path:
    """The file of a record."""
    return self._path(record['study'], record['run'], record['code'])

  def __contains__(self, study: str) -> bool:
    return bool(self.records(study))

  def _names(self) -> list[str]:
    try:
      names = os.listdir(self.cells)
    except FileNotFoundError:
      return []
    except OSError as error:
      raise _unusable(self.cells, error) from None
    # Temporary files start with a dot, and what was set aside no longer ends in .json.
    return sorted(name for name in names if name.endswith(_SUFFIX) and name[0] != '.')

  def _path(self, study: str, run: dict, code: Mapping[str, str]) -> pathlib.Path:
    if not (isinstance(study, str) and re.fullmatch(r'[A-Za-z0-9_]+', study)):
      raise StoreError(f'a study is named by letters, digits and underscores, not {study!r}')
    return self.cells / f'{study}-{key_of(study, run, code)}{_SUFFIX}'

  def _read(self, path: pathlib.Path) -> dict | None:
    try:
      data = path.read_bytes()
    except FileNotFoundError:
      return None
    except OSError as error:
      raise _unusable(path, error) from None
    record, fault = self._parse(data, path.name)
    if not fault:
      return record
    with contextlib.suppress(OSError):
      if path.read_bytes() != data:  # another process has just written it anew
        return self._read(path)
    self._set_aside(path, fault)
    return None

  def _parse(self, data: bytes, file: str) -> tuple[dict | None, str]:
    """Record in a file of this name, or what is wrong with it."""
    try:
      body = json.loads(data)
      if not isinstance(body, dict):
        return None, 'not a record'
      if body.get('format') not in (FORMAT, WITHOUT_CODE):
        return None, f'format {body.get("format")!r}, not {FORMAT}'
      if body.get('checksum') != _checksum(body):
        return None, 'its checksum does not match'
      record = _decode(body)
      if not isinstance(record, dict):  # a number that is written as an object
        return None, 'not a record'
      study, run, code = (record.setdefault(name, {}) for name in ('study', 'run', 'code'))
      if file != f'{study}-{key_of(study, run, code)}{_SUFFIX}':
        return None, 'its name is not the key of its content'
      kinds.RECORD.check(record, 'record')
      if self.is_current(record):  # what other code has made may be of other kinds
        kinds.check(record, self._kinds)
      return record, ''
    except Misfit as misfit:
      return None, str(misfit)
    # Bad UTF-8 is a ValueError, too large a number an OverflowError.
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
      return None, 'not valid JSON'

  def _set_aside(self, path: pathlib.Path, fault: str) -> None:
    """Rename a damaged file. Nothing is deleted, and no earlier one is overwritten."""
    try:
      place = _reserve(path.with_name(f'{path.name}.damaged'))
      try:
        os.replace(path, place)
      except OSError:
        place.unlink()
        raise
    except FileNotFoundError:  # another reader was faster and has said so
      return
    except OSError as error:
      self._warn(f'{path}: {fault}; treated as absent (not set aside: {error.strerror})')
    else:
      self._warn(f'{path}: {fault}; set aside as {place.name}, its cell counts as not run')

  def keep_history(self, name: str, data: bytes) -> None:
    """Keep a record's file in the history, unless it is there already."""
    try:
      self.history.mkdir(exist_ok=True)
      same = (place.read_bytes() == data for place in self.history.glob(f'{name}*'))
      if not any(same):
        atomic.write(_reserve(self.history / name), data)
    except OSError as error:
      raise _unusable(self.history, error) from None

  def _bytes_of(self, path: pathlib.Path) -> bytes:
    try:
      return path.read_bytes()
    except OSError as error:
      raise _unusable(path, error) from None

  def _write_bytes(self, path: pathlib.Path, data: bytes) -> None:
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      atomic.write(path, data)
    except OSError as error:
      raise _unusable(path.parent, error) from None


def _reserve(path: pathlib.Path) -> pathlib.Path:
  """Create the first free name among <file>, <file>.2, <file>.3, ... as an empty file."""
  count = 1
  while True:
    place = path.with_name(f'{path.name}.{count}') if count > 1 else path
    try:
      place.open('x').close()  # taken in one step: two readers never choose the same name
      return place
    except FileExistsError:
      count += 1


def _checksum(body: dict) -> str:
  rest = {name: value for name, value in body.items() if name != 'checksum'}
  return hashlib.sha256(canonical(rest).encode()).hexdigest()


def _encode(value: Any) -> Any:
  """Plain JSON values: arrays as lists, floats that are not finite by their names."""
  if isinstance(value, dict):
    for key in value:
      if not isinstance(key, str) or key.startswith('$'):
        raise StoreError(f'a record has text keys that do not start with $, not {key!r}')
    return {key: _encode(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_encode(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return {_FLOAT: str(float(value))}
  if not isinstance(value, float) and hasattr(value, 'tolist'):  # a numpy or device array
    return _encode(value.tolist())
  return value


def _decode(value: Any) -> Any:
  """Inverse of `_encode` on what it returns."""
  if isinstance(value, dict):
    if _FLOAT in value:
      return float(value[_FLOAT])
    return {key: _decode(item) for key, item in value.items()}
  if isinstance(value, list):
    return [_decode(item) for item in value]
  return value


def _unusable(path: pathlib.Path, error: OSError) -> StoreError:
  reason = broken_link(path) or error.strerror or error
  return StoreError(f'cannot use the results folder {path}: {reason}')


def broken_link(path: pathlib.Path) -> str:
  """Which part of a path is a link to a place that is not there, in words; '': none is."""
  for part in (path, *path.parents):
    if part.is_symlink() and not part.exists():
      return f'{part} is a link to {os.readlink(part)}, which is not there'
  return ''
