"""Data folders with a manifest that contains the SHA-256 checksum of every file.

The manifest is written last, so that a folder whose writer was killed has no manifest. A file that
is lost, added or altered by a single bit no longer agrees with the manifest. Code that loads such a
folder first calls `describe_difference_from_manifest`.
"""

import hashlib
import json
import os
import pathlib

from experiments.lab import atomic

NAME = 'manifest.json'


class DataError(OSError):
  """The error for unusable data on a disk or a network, shown to the user in one line."""


def write_manifest(folder: pathlib.Path) -> None:
  """Creates the manifest of a folder, which contains the checksums of all its files."""
  text = json.dumps(_file_checksums(folder), indent=1, sort_keys=True)
  atomic.write(folder / NAME, text.encode())


def describe_difference_from_manifest(folder: pathlib.Path) -> str:
  """Describes the first difference between a folder and its manifest, or returns ''."""
  try:
    sealed = json.loads((folder / NAME).read_bytes())
    current = _file_checksums(folder)
  except FileNotFoundError:
    return 'was not finished'
  except (OSError, ValueError) as error:
    return f'cannot be read ({type(error).__name__})'
  if not isinstance(sealed, dict):
    return f'has a damaged {NAME}'
  differing = sorted(name for name in {*sealed, *current} if sealed.get(name) != current.get(name))
  return f'has a damaged {differing[0]}' if differing else ''


def folder_digest(folder: pathlib.Path) -> str:
  """The first twelve hex digits of the hash of a manifest, which identify a folder's content."""
  return hashlib.sha256((folder / NAME).read_bytes()).hexdigest()[:12]


def _file_checksums(folder: pathlib.Path) -> dict[str, str]:
  """Maps each file in a folder tree to its SHA-256 checksum, and each symbolic link to 'link'."""
  checksums = {}
  for parent, folders, names in os.walk(folder):
    for name in (*names, *folders):
      path = pathlib.Path(parent, name)
      key = path.relative_to(folder).as_posix()
      if path.is_symlink():
        checksums[key] = 'link'
      elif name in names and key != NAME and not key.startswith('.'):
        with open(path, 'rb') as file:
          checksums[key] = hashlib.file_digest(file, 'sha256').hexdigest()
  return checksums
