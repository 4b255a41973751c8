"""Lease files, which ensure that only one process at a time executes a grid cell.

A lease is a file beside the cell's record. It is created in one step that fails if the file exists
(O_EXCL). It identifies its holder, which updates the file's modification time as long as it
executes the cell. A lease has expired if its holder ran on this machine and has ended, or if the
file was not updated for some minutes according to the file system's own clock.

The guarantee requires a file system that creates and renames files in one step for all its clients,
as local file systems and NFS do. Two processes then execute the same cell only if the holder of its
lease could not update the file for minutes (a suspended machine, an unreachable network). Even then
no data is damaged. Records are written atomically, and the last one is kept.
"""

import contextlib
import functools
import json
import os
import pathlib
import platform
import threading
import uuid
from collections.abc import Iterator

from experiments.lab import atomic

TOUCH_SECONDS = 30.0  # between two updates of the modification time
EXPIRY_SECONDS = 300.0  # without an update, after which a lease has expired
SUFFIX = '.lease'


@contextlib.contextmanager
def hold_lease(path: pathlib.Path) -> Iterator[bool]:
  """Tries to acquire a lease for a `with` block, and yields whether the attempt succeeded."""
  process = os.getpid()
  content = json.dumps({
    'lease': uuid.uuid4().hex, 'machine': _machine_identity(), 'process': process,
    'start': _process_start_time(process),
  }).encode()
  if not (_create_new_file(path, content) or _replace_expired_lease(path, content)):
    yield False
    return
  done = threading.Event()
  updater = threading.Thread(
    target=_touch_until_released, args=(path, done), name='lease', daemon=True)
  updater.start()
  try:
    yield True
  finally:
    done.set()
    updater.join()
    if _read_lease(path) == content:
      path.unlink(missing_ok=True)


def is_free(path: pathlib.Path) -> bool:
  """Whether no process holds a valid lease at a path."""
  content = _read_lease(path)
  return content is None or _lease_has_expired(path, content)


def _create_new_file(path: pathlib.Path, content: bytes) -> bool:
  """Creates a file, and returns False if it already exists."""
  try:
    with open(path, 'xb') as file:
      file.write(content)
  except FileExistsError:
    return False
  return True


def _replace_expired_lease(path: pathlib.Path, content: bytes) -> bool:
  """Replaces a lease file that has expired, and returns whether this process replaced it.

  Several processes may detect the expiry. Only the process that creates a claim, a file named after
  the expired lease, replaces it. A process that creates the claim later finds that the lease at the
  path is no longer the expired one.
  """
  expired = _read_lease(path)
  if expired is None or not _lease_has_expired(path, expired):
    return False
  claim = atomic.temporary_path(path, f'{_parse_lease(expired).get("lease", "")}.claim')
  if not _create_new_file(claim, b''):
    if _seconds_since_touch(claim) > EXPIRY_SECONDS:  # the process that created it was killed
      claim.unlink(missing_ok=True)
    return False
  try:
    if _read_lease(path) != expired:
      return False
    atomic.write(path, content)
    return True
  finally:
    claim.unlink(missing_ok=True)


def _lease_has_expired(path: pathlib.Path, content: bytes) -> bool:
  """Whether the holder of a lease has ended or has not updated the lease for EXPIRY_SECONDS."""
  holder = _parse_lease(content)
  process = holder.get('process')
  on_this_machine = holder.get('machine') == _machine_identity()
  if on_this_machine and holder.get('start') != _process_start_time(process):
    return True
  return _seconds_since_touch(path) > EXPIRY_SECONDS


def _seconds_since_touch(path: pathlib.Path) -> float:
  """The number of seconds since a file was modified, or 0 if it does not exist."""
  with contextlib.suppress(FileNotFoundError):
    return atomic.current_time_of_file_system(path) - path.stat().st_mtime
  return 0.0


def _parse_lease(content: bytes) -> dict:
  """Parses the JSON fields of a lease, or returns {} if its file is still being written."""
  try:
    return json.loads(content)
  except ValueError:
    return {}


def _read_lease(path: pathlib.Path) -> bytes | None:
  """The content of a lease file, or None if it does not exist."""
  try:
    return path.read_bytes()
  except FileNotFoundError:
    return None


def _touch_until_released(path: pathlib.Path, done: threading.Event) -> None:
  """Updates the modification time of a lease file until the lease is released."""
  while not done.wait(TOUCH_SECONDS):
    with contextlib.suppress(OSError):
      os.utime(path)


@functools.cache
def _machine_identity() -> list[str]:
  """Returns the host name, boot identifier and process namespace of this machine.

  A container has its own process numbers and therefore counts as a separate machine.
  """
  boot = namespace = ''
  with contextlib.suppress(OSError):
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
    namespace = os.readlink('/proc/self/ns/pid')
  return [platform.node(), boot, namespace]


def _process_start_time(process: int) -> str | None:
  """The start time of a process in clock ticks, None if the process ended, or '' if unknown.

  It distinguishes a process from a later one with the same number.
  """
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return None
  except OSError:  # the process belongs to another user
    pass
  with contextlib.suppress(OSError):  # the name before ')' may contain spaces and parentheses
    return pathlib.Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[19]
  return ''
