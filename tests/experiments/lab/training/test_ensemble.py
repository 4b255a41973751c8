"""Ensembles of equal shapes share their compiled programs."""

import functools

import jax

from tests.experiments.lab.training.test_training import train_to_end


def count_compilations(function):
  """The number of programs that are compiled while a function runs."""
  compiled = []

  def count(event, duration, **metadata):
    del duration, metadata
    if event == '/jax/core/compile/backend_compile_duration':
      compiled.append(event)

  jax.monitoring.register_event_duration_secs_listener(count)
  function()
  return len(compiled)


def test_a_second_ensemble_of_the_same_shapes_compiles_nothing():
  """Seeds, learning rates and numbers of batches are data of the compiled programs."""
  first, second = (
    functools.partial(train_to_end, members, epsilon=3e-8, test_batches=batches)
    for members, batches in (([(0, 0.1), (1, 0.1)], 1), ([(5, 0.2), (3, 0.01)], 2)))
  assert count_compilations(first) > 0
  assert count_compilations(second) == 0
