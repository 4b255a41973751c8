"""Looking after folders: names that people can read, what is stale, what differs, what may go."""

import shutil
from unittest import mock

import pytest

from experiments import runs as package
from experiments.claims.stored import KINDS
from experiments.lab.results.store import Store
from experiments.runs import __main__ as runs
from experiments.runs import names
from tests.support import command, records

SCORES = (0.5, 0.6)


@pytest.fixture
def folder(tmp_path):
  """A folder with four cells: two layers on two tasks."""
  place = tmp_path / 'mine'
  records.stored(place, [
    records.trained(layer, family, 20, SCORES)
    for layer in ('lstm', 'attention') for family in ('recall', 'copy_memory')
  ])
  return place


def run(*words, folder):
  return command.run(runs, *words, f'--runs={folder}')


def test_a_name_says_study_layer_and_task_and_no_two_are_alike():
  made = [
    records.trained('lstm(forget_bias=3.0)', 'recall', 20, SCORES),
    records.trained('lstm(forget_bias=3.0)', 'recall', 20, SCORES, width=32),
    records.timed(0, ('attention', 'lstm'), (8, 16), lambda *_: 2.0),
    records.timed(1, ('attention', 'lstm'), (8, 16), lambda *_: 2.0),
    records.contested(),
  ]
  found = [names.of_record(record | {'code': {}}) for record in made]
  assert [name.rpartition('/')[0] for name in found] == [
    'retention/lstm-forget-bias-3-0/recall-at-20', 'retention/lstm-forget-bias-3-0/recall-at-20',
    'parallelism/attention-lstm/seed-0', 'parallelism/attention-lstm/seed-1',
    'speed/attention/seed-0-batch-16-length-512-heads-4-head-width-32',
  ]
  assert len(set(found)) == len(found)


def test_list_has_a_line_a_record(folder):
  done = run('list', folder=folder)
  lines = done.out.splitlines()
  assert done.code == 0 and len(lines) == 5
  assert all(' current ' in line and ' finished ' in line for line in lines[:-1])
  assert lines[-1] == f'4 records, 0 of them stale, in {folder}'
  below = run('list', 'retention/lstm', folder=folder).out.splitlines()
  assert len(below) == 3 and all(line.startswith('retention/lstm/') for line in below[:-1])
  assert command.run(runs, f'--runs={folder}').out == done.out, 'list is what is done without words'


def test_show_says_all_that_a_record_says(folder):
  done = run('show', 'retention/lstm/recall-at-20', folder=folder)
  (record,) = (r for r in Store(folder, KINDS).records()
               if (r['run']['layer'], r['result']['family']) == ('lstm', 'recall'))
  assert done.out.startswith(names.of_record(record))
  assert '  code: current' in done.out and '  run.layer: lstm' in done.out
  assert str(Store(folder, KINDS).path_of(record)) in done.out


def test_stale_records_are_listed_explained_and_removed(folder, monkeypatch):
  records.edited(monkeypatch, 'baselines.recurrent')
  listed = run('list', '--stale', folder=folder).out.splitlines()
  assert len(listed) == 3 and all('retention/lstm/' in line for line in listed[:-1])
  assert 'code: stale: baselines.recurrent\n' in run('show', 'retention/lstm', folder=folder).out
  done = run('rm', '--stale', folder=folder)
  assert done.out.endswith('2 records removed\n')
  assert {r['run']['layer'] for r in Store(folder, KINDS).everything()} == {'attention'}


def test_rm_removes_what_is_named_and_nothing_else(folder):
  (record,) = (r for r in Store(folder, KINDS).records()
               if (r['run']['layer'], r['result']['family']) == ('lstm', 'recall'))
  done = run('rm', names.of_record(record), folder=folder)
  assert done.code == 0 and '1 records removed' in done.out
  assert len(Store(folder, KINDS).everything()) == 3
  assert not Store(folder, KINDS).path_of(record).exists()


def test_diff_names_what_differs(folder, tmp_path, monkeypatch):
  other = tmp_path / 'other'
  records.stored(other, [
    records.trained('lstm', 'recall', 20, SCORES),
    records.trained('lstm', 'copy_memory', 20, (0.5, 0.7)),
    records.trained('gru', 'recall', 20, SCORES),
  ])
  out = command.run(runs, 'diff', str(folder), str(other)).out
  *rows, last = out.splitlines()
  assert last == 'equal in numbers and in code: 1 cells; times are not compared'
  said = dict(line.split(': ', 1) for line in rows)
  copying = said['retention/lstm/copy-memory-at-20']
  assert 'values differ, test metric 0.6 ± 0.6, then 0.6 ± 1.1' in copying
  assert said.pop('retention/gru/recall-at-20') == 'only in the second'
  assert sum(line == 'only in the first' for line in said.values()) == 2 and len(said) == 3

  records.edited(monkeypatch, 'baselines.recurrent')
  records.stored(other, [records.trained('lstm', 'recall', 20, SCORES)])
  out = command.run(runs, 'diff', str(folder), str(other)).out
  assert 'lstm/recall-at-20: the same numbers; other code: baselines.recurrent\n' in out


def test_merge_copies_what_is_lacking_and_replaces_nothing(folder, tmp_path):
  other = tmp_path / 'other'
  mine = records.trained('lstm', 'recall', 20, SCORES)
  records.stored(other, [
    mine | {'seconds': 7.0}, records.trained('gru', 'recall', 20, SCORES)])
  before = {path.name: path.read_bytes() for path in (folder / 'cells').iterdir()}
  for kept in (1, 1):  # twice is once
    done = run('merge', str(other), folder=folder)
    assert done.code == 0
    after = {path.name: path.read_bytes() for path in (folder / 'cells').iterdir()}
    assert before.items() <= after.items() and len(after) == 5
    assert len(list((folder / 'history').iterdir())) == kept
  assert '0 copied, 1 already there, 1 kept as history' in done.out


@pytest.mark.parametrize(('words', 'said'), [
  (('foo',), "no action 'foo'; there is list, show, rm, diff, merge"),
  (('show',), 'show takes the name of a record'),
  (('rm',), 'rm takes the name of a record'),
  (('list', 'retention/lstmm'), "no record 'retention/lstmm'; did you mean 'retention/lstm'?"),
  (('diff', 'one'), 'diff takes two folders, not 1'),
  (('diff', 'one', 'other'), 'no folder one'),
  (('merge',), 'merge takes the folders'),
  (('merge', 'nowhere'), 'no folder nowhere'),
  (('show', 'retention', '--stale'), '--stale means nothing to show: it is of list and rm'),
  (('diff', 'a', 'b', '--runs=c'), '--runs means nothing to diff: it takes two folders'),
])
def test_what_cannot_be_done_is_said_in_one_line(folder, words, said):
  done = command.run(runs, *words) if words[0] == 'diff' else run(*words, folder=folder)
  assert (done.code, done.out) == (2, '')
  assert done.err.startswith(said) and done.err.count('\n') == 1


def test_an_empty_place_has_no_records(tmp_path):
  assert run('list', folder=tmp_path / 'none').err == f'no folder {tmp_path / "none"}\n'
  assert run('list', folder=tmp_path).out == f'0 records, 0 of them stale, in {tmp_path}\n'
  assert package.__doc__


def test_a_sound_record_takes_the_place_of_a_damaged_one(folder, tmp_path):
  other = tmp_path / 'other'
  shutil.copytree(folder, other)
  damaged = sorted((folder / 'cells').iterdir())[0]
  damaged.write_bytes(damaged.read_bytes().replace(b'0.5', b'0.7'))
  with mock.patch('absl.logging.warning'):
    done = run('merge', str(other), folder=folder)
  assert '1 copied, 3 already there, 0 kept as history' in done.out
  assert damaged.read_bytes() == (other / 'cells' / damaged.name).read_bytes()


@pytest.mark.parametrize(('run_has', 'result'), [
  ({'what': 3}, {}), ({'task': 3}, {}), ({'at': [1]}, {}), ({'sizes': [1]}, {}),
  ({'sizes': None}, {}), ({'layer': 'lstm'}, {'members': 5}),
  ({'layer': 'lstm'}, {'members': [{}], 'learning_rate': 1}), ({'layers': []}, {'members': {}}),
])
@pytest.mark.parametrize('study', ['forgotten', 'retention'])
def test_a_record_of_any_form_is_named_shown_and_removed(folder, study, run_has, result):
  """Of a study that is not listed, or of older code, whose results had another form."""
  Store(folder).write({
    'study': study, 'run': run_has, 'result': result, 'status': 'finished', 'reason': '',
    'code': {'old': 'f00'} if study == 'retention' else {}, **records.WHERE})
  listed = run('list', study, folder=folder)
  assert listed.code == 0
  (name, *_) = (line.split()[0] for line in listed.out.splitlines()
                if study == 'forgotten' or ' stale ' in line)
  assert run('show', name, folder=folder).code == 0
  assert command.run(runs, 'diff', str(folder), str(folder)).code == 0
  assert run('rm', name, folder=folder).out == f'removed {name}\n1 records removed\n'
  assert len(Store(folder).everything()) == 4
