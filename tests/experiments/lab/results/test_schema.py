"""The schema of records: what has a right checksum and wrong contents is set aside by name."""

import copy
import functools
import json
import math

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from experiments import STUDIES, load
from experiments.claims.rule import judge
from experiments.claims.stated import CLAIMS, CONTROLS
from experiments.claims.stored import KINDS
from experiments.complexity import crossovers
from experiments.lab.cells.cell import Cell, Outcome
from experiments.lab.launch.grid import launch
from experiments.lab.results import kinds, schema, statistics, translations
from experiments.lab.results import store as store_module
from experiments.lab.results.schema import (
  Choice,
  Fields,
  Flag,
  List,
  Maybe,
  Misfit,
  Number,
  Whole,
)
from experiments.lab.results.store import Store, StoreError, key_of
from experiments.report import sections
from tests.support import records, world

DELETED = object()
SPOILT = (  # what a value is replaced by
  DELETED, None, 'text', True, -1, 0, 1, 0.5, 10**18, 10**30, 1e308, -1e30, 1e-300, math.nan,
  math.inf, '\ud800', [], {}, [[]],
)
STORE = Store('nowhere', KINDS)  # nothing is written to it


def sealed(record):
  """The name and the bytes of a record's file, with a checksum that is right."""
  body = store_module._encode(record) | {'format': store_module.FORMAT}
  body['checksum'] = store_module._checksum(body)
  study, run, code = (record.get(name) for name in ('study', 'run', 'code'))
  key = key_of(study, run, code if isinstance(code, dict) else {})
  return f'{study}-{key}.json', store_module.canonical(body).encode()


def today(record):
  """A record that says that today's code has made it, as far as that can be known of its run."""
  try:
    return record | {'code': STORE.code(record.get('study'), record.get('run'))}
  except TypeError:  # a layer or a task that is no text
    return record | {'code': {}}


def check(record):
  """Raises a Misfit for what is no record, or none of its kind."""
  kinds.RECORD.check(record, 'record')
  kinds.check(record, KINDS)


def plain(record):
  """A record as it is read: its tuples are lists."""
  return store_module._decode(store_module._encode(record))


def places(value, at=()):
  """Where all values within a value stand."""
  inner = value.items() if isinstance(value, dict) else (
    enumerate(value) if isinstance(value, list) else ())
  for name, item in inner:
    yield (*at, name)
    yield from places(item, (*at, name))


def spoil(record, at, value):
  """The record with another value at a place, or none."""
  record = copy.deepcopy(record)
  inside = record
  for name in at[:-1]:
    inside = inside[name]
  if value is DELETED:
    del inside[at[-1]]
  else:
    inside[at[-1]] = value
  return record


def kind_of(record):
  """The study of a record, and the mark of its kind."""
  marks = [kind.mark for kind in KINDS[record['study']] if kind.mark in record['run']]
  return record['study'], *marks


MARKS = [(study, kind.mark) for study, some in KINDS.items() for kind in some]


@functools.cache
def made():
  """Good records of every study."""
  clock = records.timed(0, ('lstm', 'gru'), (64, 128), lambda *_: 1.0, study='ladder')
  return [plain(record | {'code': {}}) for record in (*world.world(), records.contested(), clock)]


def test_there_is_a_good_record_of_every_kind_of_every_study():
  assert {kind_of(record) for record in made()} == set(MARKS)
  assert set(KINDS) == set(STUDIES)
  for record in map(today, made()):
    check(record)
    name, content = sealed(record)
    assert STORE.is_current(record) and STORE._parse(content, name)[1] == ''


@pytest.fixture
def few_resamples(monkeypatch):
  """Bootstraps of few resamples: they are slow, and no number is looked at here."""
  monkeypatch.setattr(translations, 'RESAMPLES', 20)
  for module in (crossovers, statistics):
    monkeypatch.setattr(module, '_RESAMPLES', 49)


@pytest.mark.parametrize('kind', MARKS, ids='-'.join)
@settings(deadline=None, max_examples=25, suppress_health_check=[
  HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much])
@given(data=st.data())
def test_what_is_spoilt_is_set_aside_or_can_be_shown_and_judged(few_resamples, kind, data):
  record = data.draw(st.sampled_from([one for one in made() if kind_of(one) == kind]))
  for _ in range(data.draw(st.integers(1, 2))):
    at = data.draw(st.sampled_from(list(places(record))))
    record = spoil(record, at, data.draw(st.sampled_from(SPOILT)))
  try:
    name, content = sealed(record if record.get('code') != {} else today(record))
  except StoreError:  # a run with NaN has no key, so that no file has its name
    assume(False)
  read, fault = STORE._parse(content, name)
  if read is None:
    assert fault and '\n' not in fault
    return
  if read['study'] not in STUDIES or not STORE.is_current(read):
    return
  others = [one for one in made() if one['study'] == read['study'] and one['run'] != read['run']]
  show_and_judge([read, *data.draw(st.lists(st.sampled_from(others or [read]), max_size=3))])


def show_and_judge(some):
  """All tables of a study, and all claims, for some of its records; the last one of each run."""
  some = list({json.dumps(one['run']): one for one in some}.values())
  for table in load(some[0]['study']).report(some)[0]:
    assert table.text() and table.markdown() and table.latex() and table.csv()
  for claim in (*CLAIMS, *CONTROLS):
    assert judge(claim, some).error == ''
  assert sections.provenance(some) and sections.layers_of(some) is not None


def members(**values):
  """What makes all members of a record have these values."""
  def change(record):
    for member in record['result']['members']:
      member.update(values)

  return change


def paths(record):
  for path in record['result']['paths']:
    path['operations'] = None


ODD = {  # what a good record may be as well -> its kind, and how it becomes so
  'without a setting that came later': (
    ('retention', 'task'), lambda record: record['run'].pop('dropout')),
  'a loss whose exponential overflows': (('variations', 'task'), members(test_loss=1000.0)),
  'a member that diverged': (('retention', 'task'), members(test=math.nan, extrapolation=[])),
  'nothing was written': (
    ('variations', 'task'), lambda record: record['result'].pop('written')),
  'no spread at all': (('receptive_field', 'sequences'), lambda record: record['result'].update(
    spread=[0.0] * 3)),
  'one distance': (('gradient_flow', 'at'), lambda record: record['result'].update(
    distances=[0], norms=[[1.0]] * 3, stretches=[[1.0]] * 3)),
  'no spread before training': (
    ('receptive_field', 'task'), lambda record: record['result']['watched'][0].update(
      spread=[0.0] * 3)),
  'gradients that are no numbers, and some of nothing': (
    ('gradient_flow', 'at'), lambda record: record['result']['norms'].__setitem__(
      slice(2), [[0.0] * 5, [math.nan] * 5])),
  'a width that no row can have': (
    ('variations', 'task'), lambda record: record['run'].update(width=10**18)),
  'no state': (('bottleneck', 'task'), lambda record: record['result'].update(state_bytes=0)),
  'no memory but the arguments': (('parallelism', 'tokens'), lambda record: [
    point.update(bytes=0) for point in record['result']['points']]),
  'no way between positions': (('complexity', 'platform'), paths),
  'a contest of later times': (('speed', 'what'), lambda record: record['run'].update(
    what='a new one', sizes={'depth': 2})),
}


@pytest.mark.parametrize('name', ODD)
def test_what_is_odd_but_allowed_can_be_shown_and_judged(few_resamples, name):
  kind, change = ODD[name]
  same = [one for one in made() if one['study'] == kind[0]]
  odd = copy.deepcopy(next(one for one in same if kind_of(one) == kind))
  change(odd)
  check(odd)
  for others in ([], same):
    show_and_judge([*others, odd])  # of two with the same run it is the last one


def changed(record, **changes):
  """The record with changes of its first member."""
  record = copy.deepcopy(record)
  record['result']['members'][0].update(changes)
  return record


@functools.cache
def good():
  """A good record of a cell that trained."""
  return plain(today(records.trained('lstm', 'recall', records.NEAR, records.REMEMBERS)))


BAD = {  # what is wrong -> how a good record becomes so, and what is said of it
  'a list for the result': (
    lambda good: good | {'result': []}, 'record.result: [] is not an object'),
  'no result': (lambda good: good | {'result': None}, 'record.result: None is not an object'),
  'an empty result': (lambda good: good | {'result': {}}, 'result.family: missing'),
  'no members': (
    lambda good: spoil(good, ('result', 'members'), []), 'result.members: 0 values'),
  'one member too few': (
    lambda good: spoil(good, ('result', 'members', 0), DELETED), 'one member for each seed'),
  'no versions': (
    lambda good: spoil(good, ('versions',), DELETED), 'record.versions: missing'),
  'empty versions': (lambda good: good | {'versions': {}}, 'record.versions: 0 values'),
  'text for a number': (
    lambda good: changed(good, test='1'), "members[0].test: '1' is not a number"),
  'too large': (
    lambda good: changed(good, test_loss=1e308), 'members[0].test_loss: 1e+308 is not between'),
  'a list for an object': (
    lambda good: good | {'run': []}, 'record.run: [] is not an object'),
  'code that is no fingerprint': (
    lambda good: good | {'code': {'baselines': 'new'}}, "record.code.baselines: 'new' is not"),
  'a list for the code': (lambda good: good | {'code': []}, 'record.code: [] is not an object'),
  'no device': (lambda good: good | {'device': None}, 'record.device: None is not text'),
  'a status': (
    lambda good: good | {'status': 'done'}, "record.status: 'done' is none of finished"),
  'no scale of scores': (
    lambda good: spoil(good, ('result', 'chance'), good['result']['perfect']),
    'score differently'),
  'seeds of programs, which have none': (
    lambda good: spoil(good | plain(world.compiled('s4d', False)), ('run', 'seeds'), None),
    'record.run.seeds: None is not a list'),
  'another kind': (
    lambda good: good | plain(
      records.timed(0, ['lstm'], (64, 256), lambda *_: 1.0, study='retention')),
    'has one of the settings task'),
}


@pytest.mark.parametrize('name', BAD)
def test_wrong_contents_are_set_aside_by_name_and_the_cell_runs_again(tmp_path, name):
  spoiling, fault = BAD[name]
  record, said = spoiling(good()), []
  if record['code'] == good()['code']:  # of a run that may be another one
    record = today(record)
  store = Store(tmp_path, KINDS, warn=said.append).prepare()
  file, content = sealed(record)
  (store.cells / file).write_bytes(content)
  assert store.records() == []
  (line,) = said
  assert file in line and fault in line and 'set aside' in line and '\n' not in line
  assert (store.cells / f'{file}.damaged').read_bytes() == content
  asked = []
  cell = Cell('retention', good()['run'], 'lstm', code=good()['code'])
  launch([cell], lambda cell, report: asked.append(cell) or Outcome(good()['result']), store)
  assert asked == [cell] and store.read('retention', good()['run'])['result'] == good()['result']


def test_what_could_not_be_read_is_not_written(tmp_path):
  store = Store(tmp_path, KINDS)
  with pytest.raises(StoreError, match=r'members.* is not a number'):
    store.write(changed(good(), test='1'))
  assert store.records() == []


@pytest.mark.parametrize('status', ['diverged', 'timeout', 'out of memory', 'failed'])
def test_a_cell_that_did_not_finish_may_have_no_result(tmp_path, status):
  store = Store(tmp_path, KINDS)
  assert store.write(good() | {'status': status, 'result': {}}) == store.read(
    'retention', good()['run'])


def test_a_member_that_diverged_has_no_finite_metric_and_fields_may_be_added():
  check(changed(good(), test=math.nan, test_loss=math.inf, status='diverged', later=[1]))
  check(good() | {'run': good()['run'] | {'later': 'x'}})
  check(good() | {'study': 'another', 'run': {}, 'result': {'anything': 1}})


@pytest.mark.parametrize(('shape', 'good', 'bad'), [
  (Number(), [0, -1.5, schema.LARGEST], [True, '1', None, math.nan, math.inf, 1e39, 10**400]),
  (Number(0, finite=False), [0, math.nan, math.inf, -math.inf], [-1, 1e308]),
  (Whole(1), [1, 2**62], [0, 1.0, True, 2**62 + 1, '1']),
  (Flag(), [True, False], [0, 1, None]),
  (schema.Text(), ['', 'é'], [1, None, '\ud800']),
  (schema.Text(r'v\d'), ['v1'], ['v', 'v12', 'xv1']),
  (Choice(('a', 'b')), ['a'], ['c', '', None, ['a']]),
  (Maybe(Whole()), [None, 0], [-1, 'x']),
  (List(Whole(), 1, 2), [[1], [1, 2]], [[], [1, 2, 3], [-1], {}, 'a', None]),
  (List(Whole(), distinct=True), [[], [1, 2]], [[1, 1]]),
  (schema.Table(Whole(), 1), [{'a': 1}], [{}, {'a': -1}, {'\ud800': 1}, []]),
  (schema.Anything(), [None, 1.5, [{'a': ['x']}]], [10**30, ['\ud800'], {'a': {'\ud800': 1}}]),
  (Fields({'a': Whole()}, {'b': Flag()}), [{'a': 1}, {'a': 1, 'b': True, 'c': []}],
   [{}, {'b': True}, {'a': 1, 'b': 2}, {'a': -1}, [], None]),
])
def test_shapes(shape, good, bad):
  for value in good:
    shape.check(value, 'it')
  for value in bad:
    with pytest.raises(Misfit, match=r'^it.*: .+') as caught:
      shape.check(value, 'it')
    assert len(str(caught.value)) < 160
