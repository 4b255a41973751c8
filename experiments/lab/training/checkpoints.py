"""Checkpoints of a training run, each verified by checksums before it is restored.

A checkpoint is a folder `<folder>/<step>` that holds the arrays of a tree by their names, the notes
of the run, and a manifest with the SHA-256 of every file, which is written last. A checkpoint that
is incomplete or differs in a single bit is skipped, and the newest intact checkpoint is restored
instead. An intact checkpoint of another run (with another vocabulary, width or dtype) is an error.
No array is cast or truncated to make it fit.

Orbax reads and writes the arrays, but `orbax.checkpoint.CheckpointManager` does not decide which
checkpoints are kept, because it cannot guarantee that an intact checkpoint remains (verified with
Orbax 0.11.20 and 0.12.8). Its `save` renames the new folder to its final name and deletes older
steps before it returns. A manifest of all files can only be written after that rename, because the
rename still adds and changes files in the folder, also after the only hook before it
(`post_finalization_callback`). A process that is killed in between would leave only an unverified
checkpoint. Moreover, `max_to_keep` counts damaged checkpoints, so that the last intact checkpoint
may be deleted if a folder of a later step is damaged. Here older steps are deleted only after the
manifest has been written. Since a folder without a manifest does not count as a checkpoint, saving
is atomic without a rename.

Vaswani et al. 2017, section 6.1, evaluate the mean of the last checkpoints
(`restore_with_averaged_parameters`).
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
  """Error for a checkpoint that cannot be written, or that belongs to another run or model."""


class Checkpoint(NamedTuple):
  """The step, the training state and the JSON metadata of a restored checkpoint."""

  step: int
  state: Any
  notes: Any


class Checkpoints:
  """Saves and restores the newest checkpoints of one run in a folder."""

  def __init__(self, folder: str | pathlib.Path, identity: Mapping[str, Any], keep: int = 5):
    """Sets the folder of the checkpoints, without any access to the file system.

    Args:
      folder: the folder that holds one folder per checkpoint; the first save creates it.
      identity: JSON values by name that identify the run, such as its vocabulary's digest.
        Checkpoints with another identity are refused.
      keep: the number of newest checkpoints that `save` retains, at least 1.

    Raises:
      ValueError: if `keep` is below 1.

    """
    if keep < 1:
      raise ValueError(f'keep={keep}: at least one checkpoint must be kept')
    self.folder = pathlib.Path(folder)
    self.identity = json.loads(json.dumps(identity))
    self.keep = keep

  def save(self, step: int, state: Any, notes: Any = None) -> None:
    """Writes a checkpoint and deletes all but the newest `keep` checkpoints.

    If an intact checkpoint of this step exists, nothing is done.

    Args:
      step: the number of training steps done.
      state: a tree of arrays.
      notes: JSON values that are stored beside the arrays.

    Raises:
      CheckpointError: if the folder cannot be created.

    """
    folder = self.folder / str(step)
    if not _describe_checkpoint_damage(folder):
      return
    try:
      _remove_folder_or_link(folder)
      folder.mkdir(parents=True)
    except OSError as error:
      raise CheckpointError(f'cannot create a checkpoint in {self.folder}: {error}') from None
    # Leaving the `with` block waits until Orbax has written all files.
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as orbax:
      orbax.save(folder.absolute() / ARRAYS, args=ocp.args.PyTreeSave(_leaves_by_path(state)))
    (folder / NOTES).write_text(json.dumps({'identity': self.identity, 'notes': notes}))
    sealed_folder.write_manifest(folder)
    # The run resumed from its latest intact checkpoint, so any later checkpoint is damaged.
    not_later = [other for other in self._step_folders() if int(other.name) <= step]
    for old in not_later[self.keep:]:
      _remove_folder_or_link(old)

  def restore(self, template: Any) -> Checkpoint | None:
    """Restores the newest intact checkpoint as a tree like `template`, or returns None."""
    return next(self._intact_checkpoints(template), None)

  def restore_with_averaged_parameters(
    self, template: Any, num_checkpoints: int = 5
  ) -> Checkpoint | None:
    """Restores the newest checkpoint, with parameters averaged over several checkpoints.

    The mean is that of the newest `num_checkpoints` intact checkpoints, or of all if there are
    fewer. The result is None if there is no intact checkpoint.
    """
    newest, count, total = None, 0, None
    for checkpoint in self._intact_checkpoints(template):
      newest, count = newest or checkpoint, count + 1
      parameters = jax.tree.map(lambda x: np.asarray(x, np.float64), checkpoint.state.parameters)
      total = parameters if total is None else jax.tree.map(np.add, total, parameters)
      if count == num_checkpoints:
        break
    if newest is None:
      return None
    mean = jax.tree.map(lambda x, p: (x / count).astype(p.dtype), total, newest.state.parameters)
    return newest._replace(state=newest.state._replace(parameters=mean))

  def _step_folders(self) -> list[pathlib.Path]:
    """The checkpoint folders, which are named by their step, in descending order of the step."""
    candidates = self.folder.glob('[0-9]*') if self.folder.is_dir() else ()
    return sorted((folder for folder in candidates if folder.name.isdecimal()),
                  key=lambda folder: -int(folder.name))

  def _intact_checkpoints(self, template: Any) -> Iterator[Checkpoint]:
    """Yields the checkpoints whose checksums match, from the newest to the oldest."""
    for folder in self._step_folders():
      if damage := _describe_checkpoint_damage(folder):
        logging.warning('checkpoint %s is skipped, because it %s', folder, damage)
        continue
      stored = json.loads((folder / NOTES).read_text())
      self._check_run_identity(stored['identity'])
      with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as orbax:
        arrays = orbax.restore(folder.absolute() / ARRAYS)
      state = _unflatten_like(arrays, template, folder)
      yield Checkpoint(int(folder.name), state, stored['notes'])

  def _check_run_identity(self, saved_identity: dict[str, Any]) -> None:
    for name in sorted({*saved_identity, *self.identity}):
      if saved_identity.get(name) != self.identity.get(name):
        raise CheckpointError(
          f'the checkpoints in {self.folder} belong to a run with {name}='
          f'{saved_identity.get(name)!r}, not'
          f' {self.identity.get(name)!r}: choose another folder or delete them'
        )


def _describe_checkpoint_damage(folder: pathlib.Path) -> str:
  """Describes the damage of a checkpoint folder, or returns '' if the checkpoint is intact."""
  if folder.is_symlink():
    return 'is a link'
  return sealed_folder.describe_difference_from_manifest(folder)


def _leaves_by_path(tree: Any) -> dict[str, np.ndarray]:
  """Maps the path of each leaf of a tree to a NumPy array of the leaf's values."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def _unflatten_like(
  arrays: Mapping[str, np.ndarray], template: Any, checkpoint_folder: pathlib.Path
) -> Any:
  """Converts a dictionary of arrays by path to a tree with the structure of `template`.

  Raises CheckpointError if a name, shape or dtype differs from that in the template. The error
  message names the checkpoint folder.
  """
  leaves, structure = jax.tree_util.tree_flatten_with_path(template)
  expected = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
  for name in sorted({*expected, *arrays}):
    needed, stored = (_dtype_and_shape(tree.get(name)) for tree in (expected, arrays))
    if needed != stored:
      raise CheckpointError(
        f'checkpoint {checkpoint_folder} has {stored} at {name}, but the model has {needed}')
  return jax.tree.unflatten(structure, [arrays[name] for name in expected])


def _dtype_and_shape(array: Any) -> str:
  """Formats the dtype and the shape of an array, such as float32[3, 2]."""
  if array is None:
    return 'nothing'
  return f'{np.dtype(array.dtype).name}{list(array.shape)}'


def _remove_folder_or_link(path: pathlib.Path) -> None:
  if path.is_symlink():
    path.unlink()
  elif path.exists():
    shutil.rmtree(path)
