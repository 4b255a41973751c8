"""A folder of data that is whole or does not count: the SHA-256 of each of its files, written last.

A writer that is killed leaves a folder without its manifest. A file that is lost, added or changed
in a single bit later on no longer agrees with it. Whoever reads asks `damage` first.
"""

import hashlib
import json
import os
import pathlib

from experiments.lab import atomic

NAME = 'manifest.json'


class DataError(OSError):
  """Data on a disk or beyond a network that cannot be used; the message is one line, for users."""


def seal(folder: pathlib.Path) -> None:
  """Declares a folder whole as it is now."""
  atomic.write(folder / NAME, json.dumps(_checksums(folder), indent=1, sort_keys=True).encode())


def damage(folder: pathlib.Path) -> str:
  """What makes a folder unfit to be read, in a few words; '' if it is as it was sealed."""
  try:
    sealed = json.loads((folder / NAME).read_bytes())
    found = _checksums(folder)
  except FileNotFoundError:
    return 'was not finished'
  except (OSError, ValueError) as error:
    return f'cannot be read ({type(error).__name__})'
  if not isinstance(sealed, dict):
    return f'has a damaged {NAME}'
  wrong = sorted(name for name in {*sealed, *found} if sealed.get(name) != found.get(name))
  return f'has a damaged {wrong[0]}' if wrong else ''


def digest(folder: pathlib.Path) -> str:
  """Names all that a sealed folder holds."""
  return hashlib.sha256((folder / NAME).read_bytes()).hexdigest()[:12]


def _checksums(folder: pathlib.Path) -> dict[str, str]:
  """Name -> SHA-256 of all files in a folder and below; links count as what they are not."""
  found = {}
  for parent, folders, names in os.walk(folder):
    for name in (*names, *folders):
      path = pathlib.Path(parent, name)
      key = path.relative_to(folder).as_posix()
      if path.is_symlink():
        found[key] = 'link'
      elif name in names and key != NAME and not key.startswith('.'):
        with open(path, 'rb') as file:
          found[key] = hashlib.file_digest(file, 'sha256').hexdigest()
  return found
