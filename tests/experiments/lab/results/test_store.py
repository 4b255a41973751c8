"""The store's laws: what is read is what was written, or nothing."""

import hashlib
import json
import math
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.lab import atomic
from experiments.lab.results import kinds
from experiments.lab.results import store as store_module
from experiments.lab.results.schema import MOST
from experiments.lab.results.store import Store, StoreError, key_of

ROOT = pathlib.Path(__file__).parents[4]
keys = st.text(max_size=8).filter(lambda text: not text.startswith('$'))
reals = st.floats(allow_nan=False, allow_infinity=False)
settings_values = st.none() | st.booleans() | st.integers(-MOST, MOST) | reals | st.text(max_size=8)
settings_names = keys.filter(lambda name: name not in kinds.SHARED)  # whose values have shapes
runs = st.dictionaries(
  settings_names, settings_values | st.lists(settings_values, max_size=3), max_size=5)
results = st.dictionaries(
  keys,
  st.recursive(
    settings_values | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
  ),
  max_size=4,
)
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def record(study='test', run=None, **changes):
  return {
    'study': study,
    'run': {'layer': 'lstm', 'width': 64} if run is None else run,
    'status': 'finished',
    'reason': '',
    'result': {'accuracy': [0.5, 0.75]},
    'seconds': 1.5,
    'device': 'cpu',
    'versions': {'numpy': '2'},
    'commit': 'abc',
  } | changes


@pytest.fixture
def warnings_seen():
  return []


@pytest.fixture
def store(tmp_path, warnings_seen):
  return Store(tmp_path / 'results', warn=warnings_seen.append)


def only_file(store):
  (path,) = store.cells.glob('*.json')
  return path


def same(left, right):
  """Equality in which NaN equals NaN and types count."""
  return repr(left) == repr(right)


def shuffled(value, order):
  """Reorder every dict in a value."""
  if isinstance(value, dict):
    names = list(value)
    order.shuffle(names)
    return {name: shuffled(value[name], order) for name in names}
  return [shuffled(item, order) for item in value] if isinstance(value, list) else value


def ordered(value):
  if isinstance(value, dict):
    return {name: ordered(value[name]) for name in sorted(value)}
  return [ordered(item) for item in value] if isinstance(value, list) else value


@relaxed
@given(run=runs, result=results)
def test_what_is_written_is_read(store, run, result):
  written = store.write(record(run=run, result=result))
  found = store.read('test', run)
  assert same(found, written)
  assert same(ordered(found['result']), ordered(result))
  assert same(ordered(found['run']), ordered(run))


@given(run=runs, order=st.randoms())
def test_key_depends_on_content_and_not_on_order(run, order):
  assert key_of('test', run) == key_of('test', shuffled(run, order))
  assert key_of('test', run) != key_of('parallelism', run)
  assert key_of('test', run) != key_of('test', run | {'one more': 1})


def test_key_is_the_declared_hash():
  text = '{"run":{"a":1,"b":[2.5,"x"]},"study":"s"}'
  assert key_of('s', {'b': [2.5, 'x'], 'a': 1}) == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_files_are_strict_json_without_nan(store):
  store.write(record(result={'loss': [math.nan, math.inf, -math.inf, -0.0]}))

  def refuse(name):
    raise AssertionError(f'{name} is not JSON')

  json.loads(only_file(store).read_text(), parse_constant=refuse)
  assert same(store.records()[0]['result']['loss'], [math.nan, math.inf, -math.inf, -0.0])


def test_arrays_and_tuples_come_back_as_lists(store):
  values = {'a': np.float32([0.5, np.nan]), 'b': (1, 2), 'c': np.int32(3), 'd': np.bool_(True)}
  plain = {'a': [0.5, math.nan], 'b': [1, 2], 'c': 3, 'd': True}
  assert same(store.write(record(result=values))['result'], plain)


@pytest.mark.parametrize(
  'changes',
  [
    {'status': 'done'},
    {'study': '../elsewhere'},
    {'study': 'a-b'},
    {'result': {'$float': 'nan'}},
    {'result': {1: 2}},
    {'result': {'object': object()}},
    {'run': {'rate': math.nan}},
    {'run': {'seed': None}},
    {'code': {'module': 'no fingerprint'}},
    {'surprise': 1},
  ],
)
def test_what_cannot_be_kept_is_refused(store, changes):
  with pytest.raises(StoreError):
    store.write(record(**changes))
  assert store.records() == []


def test_incomplete_record_is_refused(store):
  incomplete = record()
  del incomplete['commit']
  with pytest.raises(StoreError, match='commit'):
    store.write(incomplete)


@relaxed
@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_no_bit_flip_is_read_as_something_else(store, position, bit):
  written = store.write(record())
  path = only_file(store)
  data = bytearray(path.read_bytes())
  data[position % len(data)] ^= 1 << bit
  path.write_bytes(data)
  assert store.read('test', record()['run']) in (None, written)


@pytest.mark.parametrize(
  ('fault', 'spoil'),
  [
    ('not valid JSON', lambda data: data[: len(data) // 2]),
    ('not valid JSON', lambda data: b''),
    ('not valid JSON', lambda data: b'\xff' + data),
    ('not a record', lambda data: b'[]'),
    ('checksum', lambda data: data.replace(b'0.75', b'0.85')),
    ('format 3', lambda data: data.replace(b'"format":2', b'"format":3')),
  ],
)
def test_damage_is_named_once_and_set_aside(store, warnings_seen, fault, spoil):
  store.write(record())
  path = only_file(store)
  damaged = spoil(path.read_bytes())
  path.write_bytes(damaged)
  assert store.read('test', record()['run']) is None
  (line,) = warnings_seen
  assert fault in line and path.name in line and '\n' not in line
  assert not path.exists()
  assert path.with_name(f'{path.name}.damaged').read_bytes() == damaged
  assert store.records() == [] and len(warnings_seen) == 1
  assert store.write(record()) == store.read('test', record()['run'])


def test_wrong_name_is_damage(store, warnings_seen):
  store.write(record())
  only_file(store).rename(store.cells / 'test-0123456789abcdef.json')
  assert store.records() == []
  assert 'not the key' in warnings_seen[0]


def test_nothing_set_aside_is_overwritten(store):
  contents = [f'damage {count}'.encode() for count in range(3)]
  for content in contents:
    store.write(record())
    only_file(store).write_bytes(content)
    assert store.records() == []
  assert sorted(path.read_bytes() for path in store.cells.iterdir()) == contents


def test_default_warning_goes_to_stderr(tmp_path):
  store = Store(tmp_path)
  store.write(record())
  only_file(store).write_text('')
  code = 'import sys; from experiments.lab.results.store import Store; Store(sys.argv[1]).records()'
  done = subprocess.run(
    [sys.executable, '-c', code, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True
  )
  assert done.stdout == ''
  (line,) = done.stderr.splitlines()
  assert 'set aside' in line


def test_temporary_files_are_ignored(store, warnings_seen):
  store.write(record())
  (store.cells / '.test-0123456789abcdef.json.1234.tmp').write_text('{"half')
  assert len(store.records()) == 1 and warnings_seen == []


def test_order_does_not_depend_on_history_and_folders_merge_by_copying(tmp_path):
  made = [record(study, {'n': n}) for study in ('b', 'a') for n in range(4)]
  whole, left, right = (Store(tmp_path / name) for name in ('whole', 'left', 'right'))
  for place, item in enumerate(made):
    whole.write(item)
    (left if place % 3 else right).write(item)
  for path in right.cells.iterdir():
    (left.cells / path.name).write_bytes(path.read_bytes())
  assert left.records() == whole.records()
  order = [(found['study'], found['run']['n']) for found in whole.records()]
  assert order == [(study, n) for study in 'ab' for n in range(4)]
  assert whole.records('a') == whole.records()[:4]
  assert 'a' in whole and 'c' not in whole


def test_rewriting_replaces_and_keeps_what_was_there(store):
  store.write(record(status='timeout', reason='600 s'))
  path = only_file(store)
  first = path.read_bytes()
  last = store.write(record())
  assert store.records() == [last]
  assert [kept.read_bytes() for kept in store.history.iterdir()] == [first]


def test_a_record_of_the_format_before_has_no_code(store, warnings_seen):
  kept = record() | {'format': store_module.WITHOUT_CODE}
  kept['checksum'] = store_module._checksum(kept)
  store.prepare()
  name = f'test-{key_of("test", kept["run"])}.json'
  (store.cells / name).write_text(json.dumps(kept))
  (found,) = store.records()
  assert found['code'] == {} and found['result'] == kept['result'] and warnings_seen == []


def test_reading_makes_nothing(store):
  assert store.records() == [] and store.read('test', {}) is None
  assert not store.cells.exists()


@pytest.mark.parametrize(
  'act',
  [
    lambda store: store.prepare(),
    lambda store: store.write(record()),
    lambda store: store.records(),
    lambda store: store.read('test', {}),
  ],
)
def test_folder_below_a_file_is_one_clear_line(tmp_path, act):
  (tmp_path / 'file').write_text('')
  with pytest.raises(StoreError, match='cannot use the results folder') as caught:
    act(Store(tmp_path / 'file' / 'results'))
  assert '\n' not in str(caught.value)


def test_prepare_leaves_an_empty_folder(store):
  assert store.prepare() is store
  assert list(store.cells.iterdir()) == []


def test_prepare_removes_what_killed_writers_left_an_hour_ago(store):
  store.prepare()
  left, fresh, other = (store.cells / name for name in ('.a.json.1.tmp', '.b.json.2.tmp', 'c.tmp'))
  for path in (left, fresh, other):
    path.touch()
  for path in (left, other):
    os.utime(path, (time.time() - atomic.ABANDONED - 60,) * 2)
  store.prepare()
  assert sorted(store.cells.iterdir()) == [fresh, other]  # one may be being written


def test_a_failed_write_names_the_file_that_was_to_be_written(tmp_path):
  (tmp_path / 'folder').mkdir()
  with pytest.raises(IsADirectoryError) as caught:
    atomic.write(tmp_path / 'folder', b'')
  assert caught.value.filename == str(tmp_path / 'folder')
  assert list(tmp_path.iterdir()) == [tmp_path / 'folder']


def test_failed_write_leaves_the_old_record_and_no_litter(store, monkeypatch):
  old = store.write(record())

  def full(descriptor):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(StoreError, match='No space left'):
    store.write(record(seconds=9.0))
  assert store.records() == [old]
  assert len(list(store.cells.iterdir())) == 1


WRITER = """
import sys
from experiments.lab.results.store import Store
store, count = Store(sys.argv[1]), 0
while True:
  run = {'n': count % 3}
  store.write({
    'study': 'kill', 'run': run, 'status': 'finished', 'reason': '',
    'result': {'count': count, 'filler': list(range(5000))}, 'seconds': 0.0, 'device': 'cpu',
    'versions': {'numpy': '2'}, 'commit': '',
  })
  count += 1
"""


def test_killed_writers_leave_nothing_half_written(store, warnings_seen):
  moments = random.Random(0)
  for _ in range(4):
    pair = [
      subprocess.Popen([sys.executable, '-c', WRITER, store.cells.parent], cwd=ROOT)
      for _ in range(2)
    ]
    deadline = time.monotonic() + 20
    while 'kill' not in store and time.monotonic() < deadline:
      time.sleep(0.01)
    end = time.monotonic() + moments.uniform(0.2, 0.6)
    while time.monotonic() < end:
      store.records()
    for process in pair:
      process.send_signal(signal.SIGKILL)
      process.wait()
    found = store.records('kill')
    assert found and all(len(item['result']['filler']) == 5000 for item in found)
  assert warnings_seen == []
  assert not list(store.cells.glob('*.damaged*'))


def test_reading_a_file_that_is_replaced_meanwhile_keeps_the_new_one(store, monkeypatch):
  store.write(record())
  path = only_file(store)
  good = path.read_bytes()
  path.write_bytes(b'damaged')
  parse = Store._parse

  def parse_then_rewrite(self, data, name):
    path.write_bytes(good)
    return parse(self, data, name)

  monkeypatch.setattr(Store, '_parse', parse_then_rewrite)
  assert store.read('test', record()['run']) is not None
  assert path.read_bytes() == good


def test_import_is_light():
  code = (
    'import sys\n'
    'from experiments.lab.results import figures, published, statistics, store, table\n'
    'from experiments.report import page\n'
    'heavy = {"jax", "scipy", "matplotlib", "jinja2", "tabulate"} & set(sys.modules)\n'
    'sys.exit(", ".join(heavy) or 0)'
  )
  subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)
