"""Tests that an edit invalidates the cells of the edited code only, and keeps their records."""

from unittest import mock

import pytest

from experiments.claims import __main__ as claims
from experiments.claims.current_records import KINDS
from experiments.lab import source
from experiments.lab.cells import experiment, training
from experiments.lab.cells.cell import Cell, Outcome
from experiments.lab.errors import BadInput
from experiments.lab.launch import grid
from experiments.lab.results.store import Store
from experiments.report import __main__ as report
from experiments.retention import study as retention
from tests.support import command, records

ARGUMENTS = (
  '--preset=smoke', '--layers=attention(num_heads=2),lstm', '--seeds=1',
  f'--learning_rates={records.RATE}',
  '--tasks=adding,copy_memory',
)
LSTM_CELLS = ['lstm on adding(length=8)', 'lstm on copy_memory(delay=4, num_symbols=2)']


def outcome_without_training(cell, report_progress):
  resolved = cell.experiment
  task = resolved.task
  record = records.training_record(
    resolved.run.layer, task.family, task.dependency_distance, (0.5,), task=task)
  return Outcome(record['result'] | {'budget': resolved.parameter_budget})


@pytest.fixture
def launch(tmp_path):
  """A function that runs a small study and returns the labels of the executed cells."""
  def run_study(*arguments):
    with mock.patch.object(training, 'training_executor', lambda *_: outcome_without_training):
      done = command.run_command(retention, *ARGUMENTS, f'--runs={tmp_path}', *arguments)
    assert done.code == 0, done.err
    lines = [line for line in done.err.splitlines() if ' cells stored: ' in line]
    run_study.notes = [line for line in done.err.splitlines() if line not in lines]
    return [line.partition(': ')[2].partition(':')[0] for line in lines]

  run_study.folder = tmp_path
  return run_study


@pytest.mark.slow
def test_only_the_cells_of_an_edited_layer_are_executed_again(tmp_path, monkeypatch, launch):
  store = Store(tmp_path, KINDS)
  assert len(launch()) == 4
  assert launch() == []
  before = {path.name: path.read_bytes() for path in (tmp_path / 'cells').iterdir()}

  records.simulate_edits(monkeypatch, 'baselines.recurrent')
  done = command.run_command(report, f'--runs={tmp_path}')
  assert '2 records of retention were produced by other code' in done.err
  assert launch() == LSTM_CELLS
  assert launch.notes == ['2 cells stored by different code are executed again; '
                          'changed modules: baselines.recurrent']
  assert launch() == [] and launch.notes == []
  assert {r['run']['layer'] for r in store.records()} == {'attention(num_heads=2)', 'lstm'}
  assert len(store.records()) == 4 and len(store.all_records()) == 6
  after = {path.name: path.read_bytes() for path in (tmp_path / 'cells').iterdir()}
  assert before.items() <= after.items(), 'the previous records are kept'
  assert 'other code' not in command.run_command(report, f'--runs={tmp_path}').err

  monkeypatch.undo()
  assert launch() == [], 'the records of the original code are current again'


def test_an_edited_task_makes_its_cells_stale(monkeypatch, launch):
  launch()
  records.simulate_edits(monkeypatch, 'experiments.lab.tasks.adding')
  assert sorted(launch()) == [
    'attention(num_heads=2) on adding(length=8)', 'lstm on adding(length=8)']


def test_edited_tables_claims_and_flags_make_no_cell_stale(monkeypatch, launch):
  launch()
  modules = source.imports_that_affect_results('experiments.retention.study')
  assert {'experiments.retention.claims', 'experiments.retention.study'} <= modules
  modules_of_the_lab = [f'experiments.lab.{name}' for name in (
    'launch.grid', 'launch.flags', 'results.store', 'results.scoreboard', 'cells.limits')]
  records.simulate_edits(monkeypatch, *modules, *modules_of_the_lab)
  assert launch() == []


def test_a_different_budget_makes_matched_cells_stale(monkeypatch, launch, tmp_path):
  """The reference layer sets the budget, but its code is not a part of another layer's code."""
  launch()
  monkeypatch.setattr(experiment.Experiment, 'parameter_budget', 300)
  assert len(launch()) == 4
  assert len(list((tmp_path / 'history').iterdir())) == 4, 'replaced records are kept'


def test_rerun_executes_the_named_cells_again_and_keeps_their_records(tmp_path, launch):
  launch()
  assert launch('--rerun=lstm') == LSTM_CELLS
  assert launch('--rerun=adding(length=8)') == [
    'attention(num_heads=2) on adding(length=8)', 'lstm on adding(length=8)']
  assert len(list((tmp_path / 'history').iterdir())) == 4
  done = command.run_command(retention, *ARGUMENTS, f'--runs={tmp_path}', '--rerun=lstmm')
  assert (done.code, done.out) == (2, '') and done.err.count('\n') == 1
  assert done.err.startswith(
    "no layer, task or benchmark of this study named 'lstmm'; did you mean 'lstm'?")


def test_records_of_an_unlisted_study_are_reported(tmp_path, launch):
  launch()
  (record, *_) = Store(tmp_path, KINDS).records()
  Store(tmp_path, KINDS).write(record | {'study': 'forgotten', 'code': {}})
  for script in (claims, report):
    done = command.run_command(script, f'--runs={tmp_path}')
    assert done.code == 0
    assert '1 records belong to forgotten, which is not in STUDIES' in done.err
  assert '1 records belong to forgotten' in (tmp_path / 'report.html').read_text()


def test_a_folder_with_only_stale_records_is_an_error_that_names_the_command(
    tmp_path, monkeypatch, launch):
  launch()
  records.simulate_edits(monkeypatch, 'experiments.lab.training.step')
  for script in (claims, report):
    done = command.run_command(script, f'--runs={tmp_path}')
    assert (done.code, done.out) == (2, '')
    assert done.err.startswith(f'all 4 records in {tmp_path} were produced by other code')


def test_a_worker_that_imported_edited_code_executes_no_cell(tmp_path, monkeypatch, launch):
  """The numbers would be stored under the fingerprints of the code before the edit."""
  launch()
  (record, *_) = Store(tmp_path, KINDS).records()
  cell = Cell('retention', record['run'], 'a cell', code=record['code'])
  records.simulate_edits(monkeypatch, 'experiments.lab.training.step')
  with pytest.raises(BadInput, match='the code was edited while this command ran'):
    grid._run_grid_cell((cell, None), Store(tmp_path, KINDS), outcome_without_training, None)
  assert len(Store(tmp_path, KINDS).all_records()) == 4


def test_a_history_folder_that_cannot_be_written_is_reported_before_any_execution(
    tmp_path, launch):
  launch()
  (tmp_path / 'history').write_text('a file')
  before = {path.name: path.read_bytes() for path in (tmp_path / 'cells').iterdir()}
  fail = mock.Mock(side_effect=AssertionError)
  with mock.patch.object(training, 'training_executor', lambda *_: fail):
    done = command.run_command(retention, *ARGUMENTS, f'--runs={tmp_path}', '--rerun=lstm')
  assert (done.code, done.out) == (2, '') and done.err.count('\n') == 1
  assert done.err.startswith(f'cannot use the results folder {tmp_path}/history')
  assert before == {path.name: path.read_bytes() for path in (tmp_path / 'cells').iterdir()}


def test_cells_of_rerun_ignore_their_checkpoints(launch):
  launch()
  rerun_flags = []

  def execute(cell, report_progress):
    rerun_flags.append(cell.rerun)
    return outcome_without_training(cell, report_progress)

  with mock.patch.object(training, 'training_executor', lambda *_: execute):
    command.run_command(retention, *ARGUMENTS, f'--runs={launch.folder}', '--rerun=lstm')
  assert rerun_flags == [True, True]
