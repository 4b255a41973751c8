"""A context in which JAX computes in float64, for all supported versions of JAX."""

import contextlib

import jax


@contextlib.contextmanager
def float64_enabled():
  """Enables float64, and disables it at the end of the context."""
  jax.config.update('jax_enable_x64', True)
  try:
    yield
  finally:
    jax.config.update('jax_enable_x64', False)
