"""Edit a layer, and its cells run again, and no others; what they said is kept."""

from unittest import mock

import pytest

from experiments.claims import __main__ as claims
from experiments.claims.stored import KINDS
from experiments.lab import source
from experiments.lab.cells import experiment, training
from experiments.lab.cells.cell import Cell, Outcome
from experiments.lab.errors import BadInput
from experiments.lab.launch import grid
from experiments.lab.results.store import Store
from experiments.report import __main__ as report
from experiments.retention import study as retention
from tests.support import command, records

WORDS = (
  '--preset=smoke', '--layers=attention(num_heads=2),lstm', '--seeds=1',
  f'--learning_rates={records.RATE}',
  '--tasks=adding,copy_memory',
)


def answered(cell, report):
  """What a cell comes to without training."""
  one = cell.experiment
  made = records.trained(one.run.layer, one.task.family, one.task.distance, (0.5,), task=one.task)
  return Outcome(made['result'] | {'budget': one.budget})


@pytest.fixture
def launch(tmp_path):
  """Launches a small study on a folder; returns the cells that it made."""
  def once(*words):
    with mock.patch.object(training, 'train_cell', lambda *_: answered):
      done = command.run(retention, *WORDS, f'--runs={tmp_path}', *words)
    assert done.code == 0, done.err
    lines = [line for line in done.err.splitlines() if ' cells stored: ' in line]
    once.notes = [line for line in done.err.splitlines() if line not in lines]
    return [line.partition(': ')[2].partition(':')[0] for line in lines]

  once.folder = tmp_path
  return once


def test_the_cells_of_an_edited_layer_run_again_and_no_others(tmp_path, monkeypatch, launch):
  store = Store(tmp_path, KINDS)
  assert len(launch()) == 4
  assert launch() == []
  before = {path.name: path.read_bytes() for path in (tmp_path / 'cells').iterdir()}

  records.edited(monkeypatch, 'baselines.recurrent')
  done = command.run(report, f'--runs={tmp_path}')
  assert '2 records of retention were made by other code than today' in done.err
  assert launch() == ['lstm on adding(length=8)', 'lstm on copy_memory(delay=4, num_symbols=2)']
  assert launch.notes == ['2 cells are stored by other code, and run again: '
                          'baselines.recurrent changed since']
  assert launch() == [] and launch.notes == []
  assert {r['run']['layer'] for r in store.records()} == {'attention(num_heads=2)', 'lstm'}
  assert len(store.records()) == 4 and len(store.everything()) == 6
  now = {path.name: path.read_bytes() for path in (tmp_path / 'cells').iterdir()}
  assert before.items() <= now.items(), 'what they said is kept'
  assert 'other code' not in command.run(report, f'--runs={tmp_path}').err

  monkeypatch.undo()
  assert launch() == [], 'the old code is that of records that are there'


def test_an_edited_task_makes_its_cells_stale(monkeypatch, launch):
  launch()
  records.edited(monkeypatch, 'experiments.lab.tasks.adding')
  assert sorted(launch()) == [
    'attention(num_heads=2) on adding(length=8)', 'lstm on adding(length=8)']


def test_tables_claims_and_flags_make_nothing_stale(monkeypatch, launch):
  launch()
  modules = source.reached_from('experiments.retention.study')
  assert {'experiments.retention.claims', 'experiments.retention.study'} <= modules
  of_the_lab = [f'experiments.lab.{name}' for name in (
    'launch.grid', 'launch.flags', 'results.store', 'results.scoreboard', 'cells.limits')]
  records.edited(monkeypatch, *modules, *of_the_lab)
  assert launch() == []


def test_another_budget_makes_matched_cells_stale(monkeypatch, launch, tmp_path):
  """The budget is the reference's, whose code is no part of another layer's."""
  launch()
  monkeypatch.setattr(experiment.Experiment, 'budget', 300)
  assert len(launch()) == 4
  assert len(list((tmp_path / 'history').iterdir())) == 4, 'what is replaced is kept'


def test_rerun_makes_what_it_names_again_and_keeps_what_it_said(tmp_path, launch):
  launch()
  assert launch('--rerun=lstm') == [
    'lstm on adding(length=8)', 'lstm on copy_memory(delay=4, num_symbols=2)']
  assert launch('--rerun=adding(length=8)') == [
    'attention(num_heads=2) on adding(length=8)', 'lstm on adding(length=8)']
  assert len(list((tmp_path / 'history').iterdir())) == 4
  done = command.run(retention, *WORDS, f'--runs={tmp_path}', '--rerun=lstmm')
  assert (done.code, done.out) == (2, '') and done.err.count('\n') == 1
  assert done.err.startswith("no cell of this study with 'lstmm'; did you mean 'lstm'?")


def test_a_study_that_nobody_lists_is_named(tmp_path, launch):
  launch()
  (record, *_) = Store(tmp_path, KINDS).records()
  Store(tmp_path, KINDS).write(record | {'study': 'forgotten', 'code': {}})
  for script in (claims, report):
    done = command.run(script, f'--runs={tmp_path}')
    assert done.code == 0
    assert '1 records are of forgotten, which is not in STUDIES' in done.err
  assert '1 records are of forgotten' in (tmp_path / 'report.html').read_text()


def test_where_all_is_stale_the_command_says_what_to_run(tmp_path, monkeypatch, launch):
  launch()
  records.edited(monkeypatch, 'experiments.lab.training.step')
  for script in (claims, report):
    done = command.run(script, f'--runs={tmp_path}')
    assert (done.code, done.out) == (2, '')
    assert done.err.startswith(f"all 4 records in {tmp_path} are of other code than today's")


def test_a_worker_that_has_loaded_other_code_makes_nothing(tmp_path, monkeypatch, launch):
  """Its numbers would be stored under the code that the launch began with."""
  launch()
  (record, *_) = Store(tmp_path, KINDS).records()
  cell = Cell('retention', record['run'], 'a cell', code=record['code'])
  records.edited(monkeypatch, 'experiments.lab.training.step')
  with pytest.raises(BadInput, match='the code was edited while this launch ran'):
    grid._make((cell, None), Store(tmp_path, KINDS), answered, None)
  assert len(Store(tmp_path, KINDS).everything()) == 4


def test_a_history_that_cannot_be_written_is_noticed_before_anything_is_made(tmp_path, launch):
  launch()
  (tmp_path / 'history').write_text('a file')
  before = {path.name: path.read_bytes() for path in (tmp_path / 'cells').iterdir()}
  with mock.patch.object(training, 'train_cell', lambda *_: mock.Mock(side_effect=AssertionError)):
    done = command.run(retention, *WORDS, f'--runs={tmp_path}', '--rerun=lstm')
  assert (done.code, done.out) == (2, '') and done.err.count('\n') == 1
  assert done.err.startswith(f'cannot use the results folder {tmp_path}/history')
  assert before == {path.name: path.read_bytes() for path in (tmp_path / 'cells').iterdir()}


def test_what_is_made_anew_goes_on_from_no_checkpoint(launch):
  launch()
  asked = []
  with mock.patch.object(training, 'train_cell', lambda *_: lambda cell, report: (
      asked.append(cell.anew), answered(cell, report))[1]):
    command.run(retention, *WORDS, f'--runs={launch.folder}', '--rerun=lstm')
  assert asked == [True, True]
