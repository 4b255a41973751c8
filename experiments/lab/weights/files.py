"""Model parameters as safetensors files, in which tensors are named by their path in the tree.

  {'params': {'embedding': {'embedding': ...}}}    params.embedding.embedding

A file is loaded only if it has exactly the expected names, shapes and dtypes.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.errors import BadInput
from experiments.lab.weights import safetensors


def save_parameters(
  path: str | os.PathLike, parameters: Any, metadata: Mapping[str, str]
) -> None:
  """Writes the parameters of a model to a safetensors file.

  Args:
    path: the file, which is replaced atomically if it exists.
    parameters: the tree.
    metadata: texts by name, such as the model's expression and the digest of its vocabulary.

  Raises:
    ValueError: if two leaves have the same name, or the metadata are not texts.
    BadInput: if the file cannot be written.

  """
  tensors = {name: np.asarray(leaf) for name, leaf in leaves_by_name(parameters).items()}
  safetensors.write_tensors(path, tensors, metadata)


def load_parameters(
  path: str | os.PathLike, template: Any, required_metadata: Mapping[str, str] | None = None
) -> Any:
  """Reads the parameters of a model from a safetensors file.

  Args:
    path: the file.
    template: a tree of arrays, or of their shapes and dtypes as jax.eval_shape returns them.
    required_metadata: the metadata that the file must have, such as the digest of its vocabulary.

  Returns:
    The arrays in a tree like `template`.

  Raises:
    BadInput: if the file is damaged or has other tensors or other metadata.

  """
  archive = safetensors.Archive(path)
  for name, text in (required_metadata or {}).items():
    if (stored := archive.metadata.get(name)) != text:
      raise BadInput(f'{path} was written with the {name} {stored!r:.100}, not {text!r:.100}')
  leaves = leaves_by_name(template)
  archive.check_tensor_names(leaves)
  arrays = [
    archive.read_tensor(name, leaf.shape, (leaf.dtype.name,)) for name, leaf in leaves.items()
  ]
  return jax.tree.unflatten(jax.tree.structure(template), map(jnp.asarray, arrays))


def leaves_by_name(tree: Any) -> dict[str, Any]:
  """Maps tensor names, such as params.embedding.embedding, to the leaves of a parameter tree."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  named = {jax.tree_util.keystr(path, simple=True, separator='.'): leaf for path, leaf in leaves}
  if len(named) < len(leaves):
    raise ValueError('two parameters have the same name, because a key of the tree contains a dot')
  return named
