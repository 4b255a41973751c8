"""Random inputs of benchmarks, and layers with initial parameters."""

import jax

GATE_BIAS = 4.0  # added to gate logits so that memory lasts for about fifty steps


def sample_normal_arrays(seed: int, *shapes: tuple[int, ...]) -> tuple[jax.Array, ...]:
  """Draws an array with standard normal entries for each of the given shapes."""
  def sample_arrays(key):
    keys = jax.random.split(key, len(shapes))
    return tuple(jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))

  return jax.jit(sample_arrays)(jax.random.key(seed))


def layer_function_and_arguments(layer, seed: int, shape: tuple[int, ...]):
  """Returns a function that applies a layer, and a tuple of its parameters and a random input.

  Args:
    layer: Sequence layer.
    seed: Seed of the initial parameters and of the input.
    shape: Shape of the input, [B, T, D].

  Returns:
    The function (parameters, x) -> y, and the tuple (parameters, x).

  """
  (x,) = sample_normal_arrays(seed, shape)
  parameters = jax.jit(layer.init)(jax.random.key(seed), x)['params']
  return lambda parameters, x: layer.apply({'params': parameters}, x)[0], (parameters, x)
