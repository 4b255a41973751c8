"""The platform for which programs are compiled, which is the local platform by default.

The fastest algorithm for a computation depends on the platform. `override_platform` selects a
platform that this machine lacks, in order to compile a program ahead of time or to count its
operations:

  with platform.override_platform('tpu'):
    program = jax.jit(function).lower(*shapes)
"""

import contextlib
import contextvars

import jax

PLATFORMS = ('cpu', 'gpu', 'tpu')
_override = contextvars.ContextVar('platform', default='')


def current_platform() -> str:
  """Returns the platform that `override_platform` selects, or else JAX's default backend."""
  return _override.get() or jax.default_backend()


@contextlib.contextmanager
def override_platform(name: str):
  """Context manager that selects the platform for which programs are traced.

  All cached traces are cleared on entry and on exit. Names other than
  'cpu', 'gpu' and 'tpu' raise a ValueError.
  """
  if name not in PLATFORMS:
    raise ValueError(f'no platform {name!r}; there are {", ".join(PLATFORMS)}')
  if name == current_platform():
    yield
    return
  token = _override.set(name)
  jax.clear_caches()  # JAX caches a trace by function and shapes, regardless of the platform
  try:
    yield
  finally:
    _override.reset(token)
    jax.clear_caches()
