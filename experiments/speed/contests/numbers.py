"""What contests draw: arrays, and a layer with its parameters."""

import jax

OPEN = 4.0  # added to a gate, so that what it lets through lasts for some fifty steps


def normal(seed: int, *shapes: tuple[int, ...]) -> tuple[jax.Array, ...]:
  """Arrays of these shapes, all from one seed."""
  def draw(key):
    keys = jax.random.split(key, len(shapes))
    return tuple(jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))

  return jax.jit(draw)(jax.random.key(seed))


def of_layer(layer, seed: int, shape: tuple[int, ...]):
  """A layer as a function of its parameters and x, and both."""
  (x,) = normal(seed, shape)
  parameters = jax.jit(layer.init)(jax.random.key(seed), x)['params']
  return lambda parameters, x: layer.apply({'params': parameters}, x)[0], (parameters, x)
