"""A file appears whole or not at all.

The bytes go to a temporary name in the same folder, reach the disk, and only then take the final
name in one step of the file system. A reader sees the old file or the new one, never a part. A
writer that is killed leaves at most a temporary file, which nobody reads; `clean` removes it later.
"""

import contextlib
import os
import pathlib
import uuid

TEMPORARY = '.tmp'
ABANDONED = 3600.0  # seconds after which nobody still writes a temporary file


def write(path: str | os.PathLike, data: bytes) -> None:
  """Replace the file at `path` by `data`; OSError, with this path, when that cannot be done."""
  path = pathlib.Path(path)
  partial = temporary(path, uuid.uuid4().hex)
  try:
    # Not tempfile: its files are readable by their owner alone, and results are shared.
    with open(partial, 'xb') as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, path)
  except BaseException as error:
    with contextlib.suppress(OSError):
      partial.unlink()
    if isinstance(error, OSError):  # which may name the temporary file, or none
      raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    raise
  _sync_folder(path.parent)


def temporary(path: pathlib.Path, name: str) -> pathlib.Path:
  """A hidden file beside another, of a name that says what it is for."""
  return path.with_name(f'.{path.name}.{name}{TEMPORARY}')


def clock(path: pathlib.Path) -> float:
  """The time, in seconds as in `stat`, by the clock of a file's own file system.

  It may be another machine's, so that only its times can be compared with those of files.
  """
  probe = temporary(path, uuid.uuid4().hex)
  try:
    probe.touch()
    return probe.stat().st_mtime
  finally:
    probe.unlink(missing_ok=True)


def clean(folder: str | os.PathLike) -> None:
  """Removes temporary files that writers left which were killed an hour ago or earlier."""
  for partial in pathlib.Path(folder).glob(f'.*{TEMPORARY}'):
    with contextlib.suppress(OSError):  # another process may be faster
      if clock(partial) - partial.stat().st_mtime > ABANDONED:
        partial.unlink()


def _sync_folder(folder: pathlib.Path) -> None:
  """Make the new name itself survive a power cut."""
  # Some network file systems cannot sync a folder; the file itself is safe there too.
  with contextlib.suppress(OSError):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
      os.fsync(descriptor)
    finally:
      os.close(descriptor)
