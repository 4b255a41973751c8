"""A compiled call takes about one second, and splitting steps over calls changes no result."""

import os
import signal

import jax
import pytest

from experiments.lab import interruption
from experiments.lab.interruption import Interrupted
from experiments.lab.training import chunk_size
from experiments.lab.training.loop import train
from experiments.lab.training.recipe import PARALLEL
from tests.experiments.lab.training.test_training import MEMBERS, ensemble_of


@pytest.mark.parametrize('parallel', PARALLEL)
def test_splitting_steps_over_calls_changes_no_number_and_compiles_nothing(
    parallel, monkeypatch, caplog):
  changed = {'steps': 40, 'dropout': 0.3, 'average': 2, 'test_batches': 7}
  ensemble, results, compilations = ensemble_of(parallel=parallel, **changed), [], []
  training = ensemble.training
  for seconds in (1e9, 1e-9):  # per call: all steps after the first call, or one step
    monkeypatch.setattr(chunk_size, 'TARGET_SECONDS', seconds)
    caplog.clear()
    with jax.log_compiles():
      results.append(train(ensemble, training.task, training.recipe, progress=lambda *_: None))
    compilations.append(sum('ompil' in record.getMessage() for record in caplog.records))
  assert results[0] == results[1] and len(results[0][0].curve) == 3
  assert compilations[0] > 0 == compilations[1]


def test_a_call_takes_one_second_for_any_time_per_step(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(chunk_size.time, 'perf_counter', lambda: now[0])
  chunks, chunker = [], chunk_size.ChunkSize()
  for call, (start, count) in enumerate(chunker.split_steps(100)):
    chunks.append((start, count))
    now[0] += 7.0 * (call == 0) + 0.03 * count  # the first call compiles
  assert chunks == [(0, 1), (1, 1), (2, 33), (35, 33), (68, 32)]
  assert next(chunker.split_steps(10**6)) == (0, 33)


def test_a_signal_stops_training_between_two_calls(monkeypatch, default_signal_handlers):
  monkeypatch.setattr(chunk_size, 'TARGET_SECONDS', 1e-9)
  ensemble, signals = ensemble_of(steps=50, validations=1), []
  advance = ensemble._programs.train_for_steps

  def interrupt(*arguments):
    signals.append(os.kill(os.getpid(), signal.SIGTERM))
    return advance(*arguments)

  monkeypatch.setattr(
    ensemble, '_programs', ensemble._programs._replace(train_for_steps=interrupt))
  with pytest.raises(Interrupted), interruption.deferred_signals():
    ensemble.train_for_steps(ensemble.initialise(), [True] * len(MEMBERS), 50)
  assert len(signals) == 1
