"""Atomic file writes, after which a file contains either all of its old or all of its new content.

The bytes are written to a temporary file in the same folder and flushed to the disk. Only then is
the temporary file renamed to the final name, which the file system does in one step. A process that
is killed while it writes leaves at most a temporary file, which no reader opens. The function
`remove_abandoned_files` deletes such files later.
"""

import contextlib
import os
import pathlib
import uuid

TEMPORARY_SUFFIX = '.tmp'
ABANDONED_SECONDS = 3600.0  # age at which a temporary file is no longer being written


def write(path: str | os.PathLike, data: bytes) -> None:
  """Replaces the content of a file, or raises an OSError that names this file."""
  path = pathlib.Path(path)
  partial = temporary_path(path, uuid.uuid4().hex)
  try:
    # Files from the module `tempfile` are readable only by their owner, but results are shared.
    with open(partial, 'xb') as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, path)
  except BaseException as error:
    with contextlib.suppress(OSError):
      partial.unlink()
    if isinstance(error, OSError):  # its file name may be the temporary one, or missing
      raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    raise
  _flush_folder_to_disk(path.parent)


def temporary_path(path: pathlib.Path, label: str) -> pathlib.Path:
  """The path of a hidden temporary file beside `path`, whose name contains the given label."""
  return path.with_name(f'.{path.name}.{label}{TEMPORARY_SUFFIX}')


def current_time_of_file_system(path: pathlib.Path) -> float:
  """Returns the current time of the file system that contains a path, in seconds since the epoch.

  A network file system uses the clock of its server. Modification times of files must therefore be
  compared with this time and not with the local clock.
  """
  probe = temporary_path(path, uuid.uuid4().hex)
  try:
    probe.touch()
    return probe.stat().st_mtime
  finally:
    probe.unlink(missing_ok=True)


def remove_abandoned_files(folder: str | os.PathLike) -> None:
  """Deletes the temporary files that were last modified more than an hour ago."""
  for partial in pathlib.Path(folder).glob(f'.*{TEMPORARY_SUFFIX}'):
    with contextlib.suppress(OSError):  # another process may have deleted it already
      if current_time_of_file_system(partial) - partial.stat().st_mtime > ABANDONED_SECONDS:
        partial.unlink()


def _flush_folder_to_disk(folder: pathlib.Path) -> None:
  """Flushes a folder's entries to the disk, so that a new name survives a power failure."""
  # Some network file systems cannot flush a folder, but they store the file safely anyway.
  with contextlib.suppress(OSError):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
      os.fsync(descriptor)
    finally:
      os.close(descriptor)
