"""The platform that programs are made for: the one that runs them, unless another is assumed.

Which form of a computation is the fastest depends on the platform. A program may be made for one
that is not here, to be compiled ahead of time or only to be counted:

  with platform.assumed('tpu'):
    program = jax.jit(function).lower(*shapes)
"""

import contextlib
import contextvars

import jax

PLATFORMS = ('cpu', 'gpu', 'tpu')
_assumed = contextvars.ContextVar('platform', default='')


def current() -> str:
  """'cpu', 'gpu' or 'tpu'."""
  return _assumed.get() or jax.default_backend()


@contextlib.contextmanager
def assumed(name: str):
  """Within it programs are made for a platform; what was traced before is forgotten, and after."""
  if name not in PLATFORMS:
    raise ValueError(f'no platform {name!r}; there are {", ".join(PLATFORMS)}')
  if name == current():
    yield
    return
  before = _assumed.set(name)
  jax.clear_caches()  # a trace is found again by its function and shapes, whatever the platform
  try:
    yield
  finally:
    _assumed.reset(before)
    jax.clear_caches()
