"""Tests of the command that lists, shows, removes, compares and merges records."""

import shutil
from unittest import mock

import pytest

from experiments import runs as package
from experiments.claims.current_records import KINDS
from experiments.lab.results.store import Store
from experiments.runs import __main__ as runs
from experiments.runs import names
from tests.support import command, records

SCORES = (0.5, 0.6)


@pytest.fixture
def folder(tmp_path):
  """A folder with the records of two layers on two tasks."""
  path = tmp_path / 'mine'
  records.store_records(path, [
    records.training_record(layer, family, 20, SCORES)
    for layer in ('lstm', 'attention') for family in ('recall', 'copy_memory')
  ])
  return path


def run_action(*arguments, folder):
  return command.run_command(runs, *arguments, f'--runs={folder}')


def test_names_contain_study_layer_and_task_and_are_unique():
  made = [
    records.training_record('lstm(forget_bias=3.0)', 'recall', 20, SCORES),
    records.training_record('lstm(forget_bias=3.0)', 'recall', 20, SCORES, width=32),
    records.timing_record(0, ('attention', 'lstm'), (8, 16), lambda *_: 2.0),
    records.timing_record(1, ('attention', 'lstm'), (8, 16), lambda *_: 2.0),
    records.benchmark_record(),
  ]
  record_names = [names.record_name(record | {'code': {}}) for record in made]
  assert [name.rpartition('/')[0] for name in record_names] == [
    'retention/lstm-forget-bias-3-0/recall-at-20', 'retention/lstm-forget-bias-3-0/recall-at-20',
    'parallelism/attention-lstm/seed-0', 'parallelism/attention-lstm/seed-1',
    'speed/attention/seed-0-batch-16-length-512-heads-4-head-width-32',
  ]
  assert len(set(record_names)) == len(record_names)


def test_list_prints_one_line_per_record(folder):
  done = run_action('list', folder=folder)
  lines = done.out.splitlines()
  assert done.code == 0 and len(lines) == 5
  assert all(' current ' in line and ' finished ' in line for line in lines[:-1])
  assert lines[-1] == f'4 records, 0 of them stale, in {folder}'
  lstm_lines = run_action('list', 'retention/lstm', folder=folder).out.splitlines()
  assert len(lstm_lines) == 3
  assert all(line.startswith('retention/lstm/') for line in lstm_lines[:-1])
  assert command.run_command(runs, f'--runs={folder}').out == done.out, 'list is the default action'


def test_show_prints_all_fields_of_a_record(folder):
  done = run_action('show', 'retention/lstm/recall-at-20', folder=folder)
  (record,) = (r for r in Store(folder, KINDS).records()
               if (r['run']['layer'], r['result']['family']) == ('lstm', 'recall'))
  assert done.out.startswith(names.record_name(record))
  assert '  code: current' in done.out and '  run.layer: lstm' in done.out
  assert str(Store(folder, KINDS).record_path(record)) in done.out


def test_stale_records_are_listed_explained_and_removed(folder, monkeypatch):
  records.simulate_edits(monkeypatch, 'baselines.recurrent')
  listed = run_action('list', '--stale', folder=folder).out.splitlines()
  assert len(listed) == 3 and all('retention/lstm/' in line for line in listed[:-1])
  shown = run_action('show', 'retention/lstm', folder=folder).out
  assert 'code: stale: baselines.recurrent\n' in shown
  done = run_action('rm', '--stale', folder=folder)
  assert done.out.endswith('2 records removed\n')
  assert {r['run']['layer'] for r in Store(folder, KINDS).all_records()} == {'attention'}


def test_rm_removes_only_the_named_records(folder):
  (record,) = (r for r in Store(folder, KINDS).records()
               if (r['run']['layer'], r['result']['family']) == ('lstm', 'recall'))
  done = run_action('rm', names.record_name(record), folder=folder)
  assert done.code == 0 and '1 records removed' in done.out
  assert len(Store(folder, KINDS).all_records()) == 3
  assert not Store(folder, KINDS).record_path(record).exists()


def test_diff_prints_missing_cells_and_differing_values_and_code(folder, tmp_path, monkeypatch):
  other = tmp_path / 'other'
  records.store_records(other, [
    records.training_record('lstm', 'recall', 20, SCORES),
    records.training_record('lstm', 'copy_memory', 20, (0.5, 0.7)),
    records.training_record('gru', 'recall', 20, SCORES),
  ])
  out = command.run_command(runs, 'diff', str(folder), str(other)).out
  *rows, last = out.splitlines()
  assert last == 'equal in numbers and in code: 1 cells; durations are not compared'
  differences = dict(line.split(': ', 1) for line in rows)
  copying = differences['retention/lstm/copy-memory-at-20']
  assert 'values differ, test metric 0.6 ± 0.6, then 0.6 ± 1.1' in copying
  assert differences.pop('retention/gru/recall-at-20') == 'only in the second'
  assert len(differences) == 3
  assert sum(line == 'only in the first' for line in differences.values()) == 2

  records.simulate_edits(monkeypatch, 'baselines.recurrent')
  records.store_records(other, [records.training_record('lstm', 'recall', 20, SCORES)])
  out = command.run_command(runs, 'diff', str(folder), str(other)).out
  assert 'lstm/recall-at-20: the same numbers; different code: baselines.recurrent\n' in out


def test_merge_copies_missing_records_and_replaces_none(folder, tmp_path):
  other = tmp_path / 'other'
  mine = records.training_record('lstm', 'recall', 20, SCORES)
  records.store_records(other, [
    mine | {'seconds': 7.0}, records.training_record('gru', 'recall', 20, SCORES)])
  before = {path.name: path.read_bytes() for path in (folder / 'cells').iterdir()}
  for num_kept in (1, 1):  # a second merge has no effect
    done = run_action('merge', str(other), folder=folder)
    assert done.code == 0
    after = {path.name: path.read_bytes() for path in (folder / 'cells').iterdir()}
    assert before.items() <= after.items() and len(after) == 5
    assert len(list((folder / 'history').iterdir())) == num_kept
  assert '0 copied, 1 already stored, 1 added to history' in done.out


@pytest.mark.parametrize(('arguments', 'message'), [
  (('foo',), "no action 'foo'; valid names are list, show, rm, diff, merge"),
  (('show',), 'show takes the name of a record'),
  (('rm',), 'rm takes the name of a record'),
  (('list', 'retention/lstmm'), "no record 'retention/lstmm'; did you mean 'retention/lstm'?"),
  (('diff', 'one'), 'diff takes two folders, not 1'),
  (('diff', 'one', 'other'), 'the folder one does not exist'),
  (('merge',), 'merge takes the folders'),
  (('merge', 'nowhere'), 'the folder nowhere does not exist'),
  (('show', 'retention', '--stale'), '--stale applies to list and rm, not to show'),
  (('diff', 'a', 'b', '--runs=c'), '--runs does not apply to diff, which takes two folders'),
])
def test_invalid_actions_are_rejected_in_one_line(folder, arguments, message):
  if arguments[0] == 'diff':  # which does not accept --runs
    done = command.run_command(runs, *arguments)
  else:
    done = run_action(*arguments, folder=folder)
  assert (done.code, done.out) == (2, '')
  assert done.err.startswith(message) and done.err.count('\n') == 1


def test_an_empty_folder_has_no_records(tmp_path):
  missing = tmp_path / 'none'
  assert run_action('list', folder=missing).err == f'the folder {missing} does not exist\n'
  assert run_action('list', folder=tmp_path).out == f'0 records, 0 of them stale, in {tmp_path}\n'
  assert package.__doc__


def test_merge_replaces_a_damaged_record_by_an_intact_copy(folder, tmp_path):
  other = tmp_path / 'other'
  shutil.copytree(folder, other)
  damaged = sorted((folder / 'cells').iterdir())[0]
  damaged.write_bytes(damaged.read_bytes().replace(b'0.5', b'0.7'))
  with mock.patch('absl.logging.warning'):
    done = run_action('merge', str(other), folder=folder)
  assert '1 copied, 3 already stored, 0 added to history' in done.out
  assert damaged.read_bytes() == (other / 'cells' / damaged.name).read_bytes()


@pytest.mark.parametrize(('run', 'result'), [
  ({'benchmark': 3}, {}), ({'task': 3}, {}), ({'at': [1]}, {}), ({'sizes': [1]}, {}),
  ({'sizes': None}, {}), ({'layer': 'lstm'}, {'members': 5}),
  ({'layer': 'lstm'}, {'members': [{}], 'learning_rate': 1}), ({'layers': []}, {'members': {}}),
])
@pytest.mark.parametrize('study', ['forgotten', 'retention'])
def test_a_record_of_any_form_can_be_listed_shown_and_removed(folder, study, run, result):
  """Records of unlisted studies, or of earlier code, may have results of another form."""
  Store(folder).write({
    'study': study, 'run': run, 'result': result, 'status': 'finished', 'reason': '',
    'code': {'old': 'f00'} if study == 'retention' else {}, **records.RUN_ENVIRONMENT})
  listed = run_action('list', study, folder=folder)
  assert listed.code == 0
  (name, *_) = (line.split()[0] for line in listed.out.splitlines()
                if study == 'forgotten' or ' stale ' in line)
  assert run_action('show', name, folder=folder).code == 0
  assert command.run_command(runs, 'diff', str(folder), str(folder)).code == 0
  assert run_action('rm', name, folder=folder).out == f'removed {name}\n1 records removed\n'
  assert len(Store(folder).all_records()) == 4
