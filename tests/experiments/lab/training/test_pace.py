"""A compiled call takes about a second, and how steps are split over calls changes nothing."""

import os
import signal

import jax
import pytest

from experiments.lab import interruption
from experiments.lab.interruption import Interrupted
from experiments.lab.training import pace
from experiments.lab.training.loop import train
from experiments.lab.training.recipe import PARALLEL
from tests.experiments.lab.training.test_training import MEMBERS, ensemble_of


@pytest.mark.parametrize('parallel', PARALLEL)
def test_how_steps_are_split_over_calls_changes_no_number_and_compiles_nothing(
    parallel, monkeypatch, caplog):
  changed = {'steps': 40, 'dropout': 0.3, 'average': 2, 'test_batches': 7}
  ensemble, found, calls = ensemble_of(parallel=parallel, **changed), [], []
  training = ensemble.training
  for seconds in (1e9, 1e-9):  # a call: all steps but for the first, or one
    monkeypatch.setattr(pace, 'SECONDS', seconds)
    caplog.clear()
    with jax.log_compiles():
      found.append(train(ensemble, training.task, training.recipe, progress=lambda *_: None))
    calls.append(sum('ompil' in record.getMessage() for record in caplog.records))
  assert found[0] == found[1] and len(found[0][0].curve) == 3
  assert calls[0] > 0 == calls[1]


def test_a_call_takes_a_second_whatever_a_step_takes(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(pace.time, 'perf_counter', lambda: now[0])
  parts, paces = [], pace.Pace()
  for call, (start, count) in enumerate(paces.parts(100)):
    parts.append((start, count))
    now[0] += 7.0 * (call == 0) + 0.03 * count  # the first call compiles
  assert parts == [(0, 1), (1, 1), (2, 33), (35, 33), (68, 32)]
  assert next(paces.parts(10**6)) == (0, 33)


def test_training_stops_between_two_calls_where_a_signal_asks_for_it(monkeypatch, handlers):
  monkeypatch.setattr(pace, 'SECONDS', 1e-9)
  ensemble, made = ensemble_of(steps=50, validations=1), []
  advance = ensemble._advance

  def interrupt(*arguments):
    made.append(os.kill(os.getpid(), signal.SIGTERM))
    return advance(*arguments)

  monkeypatch.setattr(ensemble, '_advance', interrupt)
  with pytest.raises(Interrupted), interruption.noticed():
    ensemble.advance(ensemble.initialise(), [True] * len(MEMBERS), 50)
  assert len(made) == 1
