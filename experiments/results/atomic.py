"""A file appears whole or not at all.

The bytes go to a temporary name in the same folder, reach the disk, and only then take the final
name in one step of the file system. A reader sees the old file or the new one, never a part, and a
writer that is killed leaves at most a temporary file, which nobody reads.
"""

import contextlib
import os
import pathlib
import uuid

TEMPORARY = '.tmp'


def write(path: str | os.PathLike, data: bytes) -> None:
  """Replace the file at `path` by `data`; OSError when that cannot be done."""
  path = pathlib.Path(path)
  temporary = path.with_name(f'.{path.name}.{uuid.uuid4().hex}{TEMPORARY}')
  try:
    # Not tempfile: its files are readable by their owner alone, and results are shared.
    with open(temporary, 'xb') as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException:
    with contextlib.suppress(OSError):
      temporary.unlink()
    raise
  _sync_folder(path.parent)


def _sync_folder(folder: pathlib.Path) -> None:
  """Make the new name itself survive a power cut."""
  # Some network file systems cannot sync a folder; the file itself is safe there too.
  with contextlib.suppress(OSError):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
      os.fsync(descriptor)
    finally:
      os.close(descriptor)
