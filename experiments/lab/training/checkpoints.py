"""What a training is at some step, kept so that a run that is killed goes on as if it was not.

A checkpoint is a folder `<folder>/<step>` of a tree's arrays by their names, notes, and the SHA-256
of all its files, written last (`manifest`). What is not whole, or has changed by a bit, is passed
over for the newest that is. What is whole but of something else (of a vocabulary, a width, a dtype
that are not the run's) is an error: nothing is cast, cut or guessed.

Vaswani et al. 2017, section 6.1, test the mean of the last checkpoints: `average`.
"""

import json
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from experiments.lab import sealed_folder

NOTES, ARRAYS = 'notes.json', 'arrays'


class CheckpointError(sealed_folder.DataError):
  """Checkpoints that are not this run's; the message is one line, for users."""


class Checkpoint(NamedTuple):
  """What was saved."""

  step: int
  state: Any
  notes: Any


class Checkpoints:
  """The checkpoints of one run, the newest `keep` of them. Making one touches nothing."""

  def __init__(self, folder: str | pathlib.Path, identity: Mapping[str, Any], keep: int = 5):
    """`identity`, JSON values by name, says whose they are; those of another are refused."""
    if keep < 1:
      raise ValueError(f'keep={keep}: at least one checkpoint is kept')
    self.folder = pathlib.Path(folder)
    self.identity = json.loads(json.dumps(identity))
    self.keep = keep

  def save(self, step: int, state: Any, notes: Any = None) -> None:
    """Keeps a tree of arrays, and JSON values beside it, as the checkpoint of a step."""
    place = self.folder / str(step)
    if not _wrong(place):
      return
    try:
      _remove(place)
      place.mkdir(parents=True)
    except OSError as error:
      raise CheckpointError(f'no checkpoint can be made in {self.folder}: {error}') from None
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as orbax:  # waits for it, then closes
      orbax.save(place.absolute() / ARRAYS, args=ocp.args.PyTreeSave(_named(state)))
    (place / NOTES).write_text(json.dumps({'identity': self.identity, 'notes': notes}))
    sealed_folder.seal(place)
    # What lies beyond this step was passed over, or it would have been gone on from.
    for old in [other for other in self._places() if int(other.name) <= step][self.keep:]:
      _remove(old)

  def restore(self, like: Any) -> Checkpoint | None:
    """The newest checkpoint that is whole, as NumPy arrays in a tree `like` this; None: none."""
    return next(self._whole(like), None)

  def average(self, like: Any, last: int = 5) -> Checkpoint | None:
    """The newest checkpoint, with the mean `parameters` of the `last` ones for its own."""
    newest, count, total = None, 0, None
    for checkpoint in self._whole(like):
      newest, count = newest or checkpoint, count + 1
      own = jax.tree.map(lambda x: np.asarray(x, np.float64), checkpoint.state.parameters)
      total = own if total is None else jax.tree.map(np.add, total, own)
      if count == last:
        break
    if newest is None:
      return None
    mean = jax.tree.map(lambda x, p: (x / count).astype(p.dtype), total, newest.state.parameters)
    return newest._replace(state=newest.state._replace(parameters=mean))

  def _places(self) -> list[pathlib.Path]:
    """Folders of steps, the newest first."""
    found = self.folder.glob('[0-9]*') if self.folder.is_dir() else ()
    return sorted((place for place in found if place.name.isdecimal()),
                  key=lambda place: -int(place.name))

  def _whole(self, like: Any) -> Iterator[Checkpoint]:
    """The checkpoints that can be read, the newest first."""
    for place in self._places():
      if wrong := _wrong(place):
        logging.warning('checkpoint %s %s: passed over', place, wrong)
        continue
      said = json.loads((place / NOTES).read_text())
      self._check_identity(said['identity'])
      with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as orbax:
        arrays = orbax.restore(place.absolute() / ARRAYS)
      yield Checkpoint(int(place.name), _shaped(arrays, like, place), said['notes'])

  def _check_identity(self, saved: dict[str, Any]) -> None:
    for name in sorted({*saved, *self.identity}):
      if saved.get(name) != self.identity.get(name):
        raise CheckpointError(
          f'the checkpoints in {self.folder} are of {name}={saved.get(name)!r}, not'
          f' {self.identity.get(name)!r}: take another folder, or delete them'
        )


def _wrong(place: pathlib.Path) -> str:
  """Why a folder is no checkpoint, in a few words; '' if it is one."""
  return 'is a link' if place.is_symlink() else sealed_folder.damage(place)


def _named(tree: Any) -> dict[str, np.ndarray]:
  """A tree's leaves by their paths, on the host."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def _shaped(arrays: Mapping[str, np.ndarray], like: Any, place: pathlib.Path) -> Any:
  """Arrays by their paths as a tree; CheckpointError where a name, shape or dtype differs."""
  leaves, structure = jax.tree_util.tree_flatten_with_path(like)
  wanted = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
  for name in sorted({*wanted, *arrays}):
    here, there = (_kind(tree.get(name)) for tree in (wanted, arrays))
    if here != there:
      raise CheckpointError(f'checkpoint {place} has {there} at {name}, the model {here}')
  return jax.tree.unflatten(structure, [arrays[name] for name in wanted])


def _kind(array: Any) -> str:
  if array is None:
    return 'nothing'
  return f'{np.dtype(array.dtype).name}{list(array.shape)}'


def _remove(place: pathlib.Path) -> None:
  """A folder, or the link in its place."""
  if place.is_symlink():
    place.unlink()
  elif place.exists():
    shutil.rmtree(place)
