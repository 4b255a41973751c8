"""Schemas of records, and records with a valid checksum but invalid content."""

import copy
import functools
import json
import math

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from experiments import STUDIES, load_study
from experiments.claims.current_records import KINDS
from experiments.claims.registry import CLAIMS, CONTROLS
from experiments.claims.rule import evaluate_claim
from experiments.complexity import crossovers
from experiments.lab.cells.cell import Cell, Outcome
from experiments.lab.launch.grid import run_grid_cells
from experiments.lab.results import kinds, schema, statistics, translation_scores
from experiments.lab.results import store as store_module
from experiments.lab.results.schema import (
  Boolean,
  Choice,
  Fields,
  Integer,
  ListOf,
  Nullable,
  Number,
  SchemaError,
)
from experiments.lab.results.store import Store, StoreError, cell_key
from experiments.report import sections
from tests.support import records, study_records

DELETED = object()
REPLACEMENTS = (  # Values that replace a value of a record.
  DELETED, None, 'text', True, -1, 0, 1, 0.5, 10**18, 10**30, 1e308, -1e30, 1e-300, math.nan,
  math.inf, '\ud800', [], {}, [[]],
)
STORE = Store('nonexistent', KINDS)  # No test writes to this store.


def encode_with_checksum(record):
  """Returns the name and the bytes of the file of a record, with a valid checksum."""
  body = store_module._convert_to_strict_json(record) | {'format': store_module.FORMAT}
  body['checksum'] = store_module._record_checksum(body)
  study, run, code = (record.get(name) for name in ('study', 'run', 'code'))
  key = cell_key(study, run, code if isinstance(code, dict) else {})
  return f'{study}-{key}.json', store_module.canonical_json(body).encode()


def with_current_code(record):
  """Returns the record with the fingerprints of the present code, if its run is readable."""
  try:
    code = STORE.code_fingerprints_of_grid_cell(record.get('study'), record.get('run'))
    return record | {'code': code}
  except TypeError:  # The layer or the task is not a text.
    return record | {'code': {}}


def check_schema(record):
  """Raises a SchemaError for a record that violates its schema."""
  kinds.RECORD.check(record, 'record')
  kinds.check_record(record, KINDS)


def as_json_values(record):
  """Returns the record as it is read back, with lists instead of tuples."""
  return store_module._decode_nonfinite_floats(store_module._convert_to_strict_json(record))


def paths_of_values(value, path=()):
  """Yields the paths of all values inside a value."""
  inner = value.items() if isinstance(value, dict) else (
    enumerate(value) if isinstance(value, list) else ())
  for name, item in inner:
    yield (*path, name)
    yield from paths_of_values(item, (*path, name))


def replace_at_path(record, path, value):
  """Returns a copy of the record with another value at a path, or without the value."""
  record = copy.deepcopy(record)
  parent = record
  for name in path[:-1]:
    parent = parent[name]
  if value is DELETED:
    del parent[path[-1]]
  else:
    parent[path[-1]] = value
  return record


def study_and_setting(record):
  """Returns the study of a record and the identifying setting of its kind."""
  settings = [kind.identifying_setting for kind in KINDS[record['study']]]
  return record['study'], *(setting for setting in settings if setting in record['run'])


KINDS_OF_STUDIES = [
  (study, kind.identifying_setting) for study, study_kinds in KINDS.items() for kind in study_kinds]


@functools.cache
def valid_records():
  """Returns valid records of every study."""
  timing = records.timing_record(0, ('lstm', 'gru'), (64, 128), lambda *_: 1.0, study='ladder')
  all_records = *study_records.records_of_all_studies(), records.benchmark_record(), timing
  return [as_json_values(record | {'code': {}}) for record in all_records]


def test_valid_records_cover_every_kind_of_every_study():
  assert {study_and_setting(record) for record in valid_records()} == set(KINDS_OF_STUDIES)
  assert set(KINDS) == set(STUDIES)
  for record in map(with_current_code, valid_records()):
    check_schema(record)
    name, content = encode_with_checksum(record)
    assert STORE.is_current(record) and STORE._parse_record(content, name)[1] == ''


@pytest.fixture
def few_resamples(monkeypatch):
  """Reduces the number of bootstrap resamples, since no test here depends on the bounds."""
  monkeypatch.setattr(translation_scores, 'RESAMPLES', 20)
  for module in (crossovers, statistics):
    monkeypatch.setattr(module, '_RESAMPLES', 49)


@pytest.mark.parametrize('kind', KINDS_OF_STUDIES, ids='-'.join)
@settings(deadline=None, max_examples=25, suppress_health_check=[
  HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much])
@given(data=st.data())
def test_a_corrupted_record_is_rejected_or_harmless(few_resamples, kind, data):
  records_of_kind = [valid for valid in valid_records() if study_and_setting(valid) == kind]
  record = data.draw(st.sampled_from(records_of_kind))
  for _ in range(data.draw(st.integers(1, 2))):
    path = data.draw(st.sampled_from(list(paths_of_values(record))))
    record = replace_at_path(record, path, data.draw(st.sampled_from(REPLACEMENTS)))
  if record.get('code') == {}:
    record = with_current_code(record)
  try:
    name, content = encode_with_checksum(record)
  except StoreError:  # A run with NaN has no key and therefore no file.
    assume(False)
  read, fault = STORE._parse_record(content, name)
  if read is None:
    assert fault and '\n' not in fault
    return
  if read['study'] not in STUDIES or not STORE.is_current(read):
    return
  others = [
    valid for valid in valid_records()
    if valid['study'] == read['study'] and valid['run'] != read['run']]
  further = data.draw(st.lists(st.sampled_from(others or [read]), max_size=3))
  render_tables_and_evaluate_claims([read, *further])


def render_tables_and_evaluate_claims(study_records):
  """Renders all tables of a study and evaluates all claims on some of its records.

  Of several records with the same run, the last is used.
  """
  distinct = list({json.dumps(record['run']): record for record in study_records}.values())
  for table in load_study(distinct[0]['study']).report(distinct)[0]:
    assert table.text() and table.markdown() and table.latex() and table.csv()
  for claim in (*CLAIMS, *CONTROLS):
    assert evaluate_claim(claim, distinct).error == ''
  assert sections.collect_provenance(distinct) and sections.sorted_layers(distinct) is not None


def change_members(**values):
  """Returns a function that changes fields of all members of a record."""
  def change(record):
    for member in record['result']['members']:
      member.update(values)

  return change


def remove_path_lengths(record):
  for path in record['result']['paths']:
    path['operations'] = None


# For each description of an unusual record its kind, and a function that changes a valid record.
UNUSUAL_RECORDS = {
  'without a setting of later versions': (
    ('retention', 'task'), lambda record: record['run'].pop('dropout')),
  'a loss whose exponential overflows': (('variations', 'task'), change_members(test_loss=1000.0)),
  'a member that diverged': (
    ('retention', 'task'), change_members(test=math.nan, extrapolation=[])),
  'no translations': (
    ('variations', 'task'), lambda record: record['result'].pop('written')),
  'zero spread': (('receptive_field', 'sequences'), lambda record: record['result'].update(
    spread=[0.0] * 3)),
  'a single distance': (('gradient_flow', 'at'), lambda record: record['result'].update(
    distances=[0], norms=[[1.0]] * 3, spectral_norms=[[1.0]] * 3)),
  'zero spread before training': (
    ('receptive_field', 'task'), lambda record: record['result']['watched'][0].update(
      spread=[0.0] * 3)),
  'gradient norms of zero and NaN': (
    ('gradient_flow', 'at'), lambda record: record['result']['norms'].__setitem__(
      slice(2), [[0.0] * 5, [math.nan] * 5])),
  'a width beyond all limits': (
    ('variations', 'task'), lambda record: record['run'].update(width=10**18)),
  'a state of zero bytes': (
    ('bottleneck', 'task'), lambda record: record['result'].update(state_bytes=0)),
  'no temporary memory': (('parallelism', 'tokens'), lambda record: [
    point.update(bytes=0) for point in record['result']['points']]),
  'no path between positions': (('complexity', 'platform'), remove_path_lengths),
  'an unknown benchmark': (('speed', 'benchmark'), lambda record: record['run'].update(
    benchmark='unknown', sizes={'depth': 2})),
}


@pytest.mark.parametrize('name', UNUSUAL_RECORDS)
def test_unusual_valid_records_can_be_evaluated(few_resamples, name):
  kind, change = UNUSUAL_RECORDS[name]
  same_study = [valid for valid in valid_records() if valid['study'] == kind[0]]
  unusual = copy.deepcopy(
    next(valid for valid in same_study if study_and_setting(valid) == kind))
  change(unusual)
  check_schema(unusual)
  for others in ([], same_study):
    render_tables_and_evaluate_claims([*others, unusual])


def change_first_member(record, **changes):
  """Returns a copy of the record with changes of its first member."""
  record = copy.deepcopy(record)
  record['result']['members'][0].update(changes)
  return record


@functools.cache
def valid_training_record():
  """Returns a valid record of a trained cell."""
  return as_json_values(with_current_code(records.training_record(
    'lstm', 'recall', records.SHORT_DISTANCE, records.PERFECT_SCORES)))


# For each fault a function that introduces it into a valid record, and the expected message.
INVALID_RECORDS = {
  'a list for the result': (
    lambda valid: valid | {'result': []}, 'record.result: [] is not an object'),
  'no result': (lambda valid: valid | {'result': None}, 'record.result: None is not an object'),
  'an empty result': (lambda valid: valid | {'result': {}}, 'result.family: missing'),
  'no members': (
    lambda valid: replace_at_path(valid, ('result', 'members'), []),
    'result.members: 0 values instead of at least 1'),
  'one member too few': (
    lambda valid: replace_at_path(valid, ('result', 'members', 0), DELETED),
    'one member for each seed'),
  'no versions': (
    lambda valid: replace_at_path(valid, ('versions',), DELETED), 'record.versions: missing'),
  'empty versions': (
    lambda valid: valid | {'versions': {}}, 'record.versions: 0 values instead of at least 1'),
  'text for a number': (
    lambda valid: change_first_member(valid, test='1'), "members[0].test: '1' is not a number"),
  'too large': (
    lambda valid: change_first_member(valid, test_loss=1e308),
    'members[0].test_loss: 1e+308 is not between'),
  'a list for an object': (
    lambda valid: valid | {'run': []}, 'record.run: [] is not an object'),
  'an invalid fingerprint': (
    lambda valid: valid | {'code': {'baselines': 'new'}}, "record.code.baselines: 'new' is not"),
  'a list for the code': (lambda valid: valid | {'code': []}, 'record.code: [] is not an object'),
  'no device': (lambda valid: valid | {'device': None}, 'record.device: None is not text'),
  'an unknown status': (
    lambda valid: valid | {'status': 'done'}, "record.status: 'done' is not one of finished"),
  'chance equal to the oracle': (
    lambda valid: replace_at_path(valid, ('result', 'chance'), valid['result']['perfect']),
    'metric of the oracle differs from chance'),
  'seeds of null': (
    lambda valid: replace_at_path(
      valid | as_json_values(study_records.compilation_record('s4d', False)),
      ('run', 'seeds'), None),
    'record.run.seeds: None is not a list'),
  'another kind': (
    lambda valid: valid | as_json_values(
      records.timing_record(0, ['lstm'], (64, 256), lambda *_: 1.0, study='retention')),
    'must have exactly one of the settings task'),
}


@pytest.mark.parametrize('name', INVALID_RECORDS)
def test_an_invalid_record_is_set_aside_and_its_cell_runs_again(tmp_path, name):
  introduce_fault, message = INVALID_RECORDS[name]
  valid, warnings = valid_training_record(), []
  record = introduce_fault(valid)
  if record['code'] == valid['code']:  # The run may have changed and needs other code.
    record = with_current_code(record)
  store = Store(tmp_path, KINDS, warn=warnings.append).create_writable_folders()
  file, content = encode_with_checksum(record)
  (store.cells / file).write_bytes(content)
  assert store.records() == []
  (line,) = warnings
  assert file in line and message in line and 'renamed to' in line and '\n' not in line
  assert (store.cells / f'{file}.damaged').read_bytes() == content
  executed = []
  cell = Cell('retention', valid['run'], 'lstm', code=valid['code'])
  run_grid_cells(
    [cell], lambda cell, report: executed.append(cell) or Outcome(valid['result']), store)
  assert executed == [cell]
  assert store.read('retention', valid['run'])['result'] == valid['result']


def test_an_invalid_record_is_not_written(tmp_path):
  store = Store(tmp_path, KINDS)
  with pytest.raises(StoreError, match=r'members.* is not a number'):
    store.write(change_first_member(valid_training_record(), test='1'))
  assert store.records() == []


@pytest.mark.parametrize('status', ['diverged', 'timeout', 'out of memory', 'failed'])
def test_an_unfinished_cell_may_have_an_empty_result(tmp_path, status):
  store = Store(tmp_path, KINDS)
  assert store.write(valid_training_record() | {'status': status, 'result': {}}) == store.read(
    'retention', valid_training_record()['run'])


def test_metrics_of_diverged_members_and_unknown_fields_are_valid():
  valid = valid_training_record()
  check_schema(change_first_member(
    valid, test=math.nan, test_loss=math.inf, status='diverged', unknown=[1]))
  check_schema(valid | {'run': valid['run'] | {'unknown': 'x'}})
  check_schema(valid | {'study': 'another', 'run': {}, 'result': {'unknown': 1}})


@pytest.mark.parametrize(('value_schema', 'valid', 'invalid'), [
  (Number(), [0, -1.5, schema.LARGEST_NUMBER],
   [True, '1', None, math.nan, math.inf, 1e39, 10**400]),
  (Number(0, finite=False), [0, math.nan, math.inf, -math.inf], [-1, 1e308]),
  (Integer(1), [1, 2**62], [0, 1.0, True, 2**62 + 1, '1']),
  (Boolean(), [True, False], [0, 1, None]),
  (schema.Text(), ['', 'é'], [1, None, '\ud800']),
  (schema.Text(r'v\d'), ['v1'], ['v', 'v12', 'xv1']),
  (Choice(('a', 'b')), ['a'], ['c', '', None, ['a']]),
  (Nullable(Integer()), [None, 0], [-1, 'x']),
  (ListOf(Integer(), 1, 2), [[1], [1, 2]], [[], [1, 2, 3], [-1], {}, 'a', None]),
  (ListOf(Integer(), distinct=True), [[], [1, 2]], [[1, 1]]),
  (schema.MapOf(Integer(), 1), [{'a': 1}], [{}, {'a': -1}, {'\ud800': 1}, []]),
  (schema.Anything(), [None, 1.5, [{'a': ['x']}]], [10**30, ['\ud800'], {'a': {'\ud800': 1}}]),
  (Fields({'a': Integer()}, {'b': Boolean()}), [{'a': 1}, {'a': 1, 'b': True, 'c': []}],
   [{}, {'b': True}, {'a': 1, 'b': 2}, {'a': -1}, [], None]),
])
def test_schemas_accept_valid_and_reject_invalid_values(value_schema, valid, invalid):
  for value in valid:
    value_schema.check(value, 'path')
  for value in invalid:
    with pytest.raises(SchemaError, match=r'^path.*: .+') as caught:
      value_schema.check(value, 'path')
    assert len(str(caught.value)) < 160
