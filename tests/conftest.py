"""Strict JAX for every test: four devices on one CPU, no silent rank promotion."""

import os
import signal

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import pytest

if jax.config.jax_platforms == 'cpu':
  jax.config.update('jax_num_cpu_devices', 4)
jax.config.update('jax_numpy_rank_promotion', 'raise')

# Programs are tiny and compiling them is the cost, of which XLA's newer code generator of fused
# operations takes nearly half. XLA ends a process whose flags it does not know.
jax.config.update('jax_disable_most_optimizations', True)
if jax.version.__version_info__ < (0, 11):
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_cpu_use_fusion_emitters=false'


RANKS = """Arrays of different ranks were combined, which the tests refuse: it is how a missing axis
goes unnoticed. Add the axes by hand: x + bias[None, None] for x [B, T, D] and bias [D]."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
  """Says of an error about ranks what would be right."""
  del item
  try:
    return (yield)
  except ValueError as error:
    if 'rank_promotion' in str(error):
      error.add_note(RANKS)
    raise


@pytest.fixture
def handlers():
  """Signals are handled as in a program that a user starts; a background job ignores Ctrl-C."""
  usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
  before = {number: signal.signal(number, handler) for number, handler in usual.items()}
  yield usual
  for number, handler in before.items():
    signal.signal(number, handler)
