"""A lease of a cell: while one launch makes it, others that share the folder pass it by.

A lease is a file beside the cell's record. It is created in one step that fails where the file is
there (O_EXCL), says who holds it, and is touched again and again for as long as the cell is made.
It has expired if its holder is on this machine and no longer runs, or if it was not touched for
some minutes by the file system's own clock.

What is promised: on a file system that creates and renames files in one step for all its clients,
as local ones and NFS do, two launches make the same cell only if the holder of its lease could not
touch it for minutes (a machine asleep, a network that is gone). Even then nothing is damaged:
records are whole, and the last one counts.
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

BEAT = 30.0  # seconds between two touches
EXPIRY = 300.0  # seconds without one after which a lease no longer counts
SUFFIX = '.lease'


@contextlib.contextmanager
def held(path: pathlib.Path) -> Iterator[bool]:
  """Holds the lease at a path as long as the block lasts; gives whether it could be had."""
  process = os.getpid()
  mine = json.dumps({
    'lease': uuid.uuid4().hex, 'machine': _machine(), 'process': process, 'start': _start(process),
  }).encode()
  if not (_create(path, mine) or _take_over(path, mine)):
    yield False
    return
  done = threading.Event()
  heart = threading.Thread(target=_beat, args=(path, done), name='lease', daemon=True)
  heart.start()
  try:
    yield True
  finally:
    done.set()
    heart.join()
    if _read(path) == mine:
      path.unlink(missing_ok=True)


def is_free(path: pathlib.Path) -> bool:
  """Whether nobody holds the lease at a path."""
  said = _read(path)
  return said is None or _has_expired(path, said)


def _create(path: pathlib.Path, content: bytes) -> bool:
  """Creates a file; false if it is there."""
  try:
    with open(path, 'xb') as file:
      file.write(content)
  except FileExistsError:
    return False
  return True


def _take_over(path: pathlib.Path, mine: bytes) -> bool:
  """Replaces a lease that has expired.

  Several launches may see that it has. The one that creates a file named after the expired lease
  replaces it; a launch that creates this file later finds another lease in its place.
  """
  said = _read(path)
  if said is None or not _has_expired(path, said):
    return False
  claim = atomic.temporary(path, f'{_parsed(said).get("lease", "")}.claim')
  if not _create(claim, b''):
    if _age(claim) > EXPIRY:  # its creator was killed
      claim.unlink(missing_ok=True)
    return False
  try:
    if _read(path) != said:
      return False
    atomic.write(path, mine)
    return True
  finally:
    claim.unlink(missing_ok=True)


def _has_expired(path: pathlib.Path, said: bytes) -> bool:
  holder = _parsed(said)
  process = holder.get('process')
  if holder.get('machine') == _machine() and holder.get('start') != _start(process):
    return True
  return _age(path) > EXPIRY


def _age(path: pathlib.Path) -> float:
  """Seconds since a file was touched; 0 if it is gone."""
  with contextlib.suppress(FileNotFoundError):
    return atomic.clock(path) - path.stat().st_mtime
  return 0.0


def _parsed(said: bytes) -> dict:
  """What a lease says; nothing while it is being written."""
  try:
    return json.loads(said)
  except ValueError:
    return {}


def _read(path: pathlib.Path) -> bytes | None:
  try:
    return path.read_bytes()
  except FileNotFoundError:
    return None


def _beat(path: pathlib.Path, done: threading.Event) -> None:
  """Touches a lease until it is given back."""
  while not done.wait(BEAT):
    with contextlib.suppress(OSError):
      os.utime(path)


@functools.cache
def _machine() -> list[str]:
  """What tells this machine from all others, and from itself before it was started anew.

  Containers have numbers of processes of their own, so that each counts as a machine.
  """
  boot = namespace = ''
  with contextlib.suppress(OSError):
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
    namespace = os.readlink('/proc/self/ns/pid')
  return [platform.node(), boot, namespace]


def _start(process: int) -> str | None:
  """When a process was started, by its system's own clock; '' if unknown, None if it is not there.

  It tells a process from a later one of the same number.
  """
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return None
  except OSError:  # another user's
    pass
  with contextlib.suppress(OSError):  # the name may hold spaces and brackets
    return pathlib.Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[19]
  return ''
