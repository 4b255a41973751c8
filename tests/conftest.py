"""JAX settings of all tests, which use four CPU devices and forbid implicit rank promotion."""

import os
import signal

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import pytest

if jax.config.jax_platforms == 'cpu':
  jax.config.update('jax_num_cpu_devices', 4)
jax.config.update('jax_numpy_rank_promotion', 'raise')

# The programs of the tests are tiny, so that compilation dominates their time.
# XLA's newer code generator for fused operations takes nearly half of it and is disabled.
# Newer versions of XLA abort the process if they get this flag.
jax.config.update('jax_disable_most_optimizations', True)
if jax.version.__version_info__ < (0, 11):
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_cpu_use_fusion_emitters=false'


RANK_NOTE = """The tests do not allow arrays of different ranks to be combined, because this can
hide a missing axis. Add the axes explicitly: x + bias[None, None] for x [B, T, D] and bias [D]."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
  """Adds an explanation to errors of rank promotion."""
  del item
  try:
    return (yield)
  except ValueError as error:
    if 'rank_promotion' in str(error):
      error.add_note(RANK_NOTE)
    raise


@pytest.fixture
def default_signal_handlers():
  """Installs the signal handlers of a foreground process, and yields them by signal number."""
  defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
  previous = {number: signal.signal(number, handler) for number, handler in defaults.items()}
  yield defaults
  for number, handler in previous.items():
    signal.signal(number, handler)
