"""Attention weights of a model, which its layers sow into Flax's collection `intermediates`."""

import jax


def attention_weights(model, parameters, *arguments, **named) -> dict[str, jax.Array]:
  """Maps the path of each attention layer in the model to its weights [B, H, T, S].

  Args:
    model: a Flax module.
    parameters: the parameters of the model.
    *arguments: the positional arguments of the model, such as the source tokens.
    **named: the keyword arguments of the model.

  Returns:
    Weights by path, such as decoder.level_1.layer.

  """
  _, variables = model.apply(parameters, *arguments, **named, mutable='intermediates')
  leaves = jax.tree_util.tree_leaves_with_path(variables.get('intermediates', {}))
  return {_dotted_module_path(path): leaf for path, leaf in leaves}


def _dotted_module_path(key_path) -> str:
  """The dotted path of the module that sowed an array, such as decoder.level_1.layer."""
  names = [key.key for key in key_path if isinstance(key, jax.tree_util.DictKey)]
  return '.'.join(name for name in names if name not in ('intermediates', 'weights'))
