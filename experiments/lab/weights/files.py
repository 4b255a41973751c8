"""Parameters of any model as a safetensors file, and back; a tree's paths are the tensors' names.

  {'params': {'embedding': {'embedding': ...}}}    params.embedding.embedding

What is read has to fit exactly: the same names, shapes and dtypes, or nothing is read at all.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.errors import BadInput
from experiments.lab.weights import safetensors


def save(path: str | os.PathLike, parameters: Any, metadata: Mapping[str, str]) -> None:
  """Writes a tree of arrays.

  Args:
    path: the file; one that is there is replaced, in one step.
    parameters: the tree.
    metadata: what else is to be known, such as the model's expression and its vocabulary's digest.

  """
  tensors = {name: np.asarray(leaf) for name, leaf in named(parameters).items()}
  safetensors.write(path, tensors, metadata)


def load(path: str | os.PathLike, like: Any, metadata: Mapping[str, str] | None = None) -> Any:
  """Reads a tree of arrays that `save` wrote; BadInput, in one line, for any other file.

  Args:
    path: the file.
    like: a tree of arrays, or of their shapes and dtypes: jax.eval_shape(model.init, key, source).
    metadata: what the file has to say of itself, such as its vocabulary's digest.

  """
  archive = safetensors.Archive(path)
  for name, text in (metadata or {}).items():
    if (written := archive.metadata.get(name)) != text:
      raise BadInput(f'{path} was written with the {name} {written!r:.100}, not {text!r:.100}')
  leaves = named(like)
  archive.expect(leaves)
  read = [archive.read(name, leaf.shape, (leaf.dtype.name,)) for name, leaf in leaves.items()]
  return jax.tree.unflatten(jax.tree.structure(like), map(jnp.asarray, read))


def named(tree: Any) -> dict[str, Any]:
  """The leaves by the names of their paths."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  found = {jax.tree_util.keystr(path, simple=True, separator='.'): leaf for path, leaf in leaves}
  if len(found) < len(leaves):
    raise ValueError('two parameters have one name: a key of the tree has a dot in it')
  return found
