"""Strict JAX for every test: four devices on one CPU, no silent rank promotion."""

import os
import signal

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import pytest

if jax.config.jax_platforms == 'cpu':
  jax.config.update('jax_num_cpu_devices', 4)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_disable_most_optimizations', True)  # tiny programs: compiling is the cost


@pytest.fixture
def handlers():
  """Signals are handled as in a program that a user starts; a background job ignores Ctrl-C."""
  usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
  before = {number: signal.signal(number, handler) for number, handler in usual.items()}
  yield usual
  for number, handler in before.items():
    signal.signal(number, handler)
