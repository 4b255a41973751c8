"""Where a model looks: the weights of its attention layers, as they leave them when asked."""

import jax


def weights(model, parameters, *arguments, **named) -> dict[str, jax.Array]:
  """The weights [B, H, T, S] of every layer that attends, by the layer's place in the model."""
  _, left = model.apply(parameters, *arguments, **named, mutable='intermediates')
  found = jax.tree_util.tree_leaves_with_path(left.get('intermediates', {}))
  return {place(path): leaf for path, leaf in found}


def place(path) -> str:
  """The modules on the way to a leaf, such as decoder.level_1.layer."""
  names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
  return '.'.join(name for name in names if name not in ('intermediates', 'weights'))
