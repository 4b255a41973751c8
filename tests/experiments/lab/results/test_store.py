"""The store of records, which returns each record as it was written or not at all."""

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
from experiments.lab.results.schema import LARGEST_INTEGER
from experiments.lab.results.store import Store, StoreError, cell_key

ROOT = pathlib.Path(__file__).parents[4]
keys = st.text(max_size=8).filter(lambda text: not text.startswith('$'))
reals = st.floats(allow_nan=False, allow_infinity=False)
integers = st.integers(-LARGEST_INTEGER, LARGEST_INTEGER)
settings_values = st.none() | st.booleans() | integers | reals | st.text(max_size=8)
# The values of shared settings must satisfy their schemas.
settings_names = keys.filter(lambda name: name not in kinds.SHARED_SETTINGS)
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


def example_record(study='test', run=None, **changes):
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
def reported_warnings():
  return []


@pytest.fixture
def store(tmp_path, reported_warnings):
  return Store(tmp_path / 'results', warn=reported_warnings.append)


def only_record_file(store):
  (path,) = store.cells.glob('*.json')
  return path


def identical(left, right):
  """Whether two values have equal representations, in which NaN equals NaN and types count."""
  return repr(left) == repr(right)


def shuffle_keys(value, order):
  """Shuffles the keys of all dictionaries inside a value."""
  if isinstance(value, dict):
    names = list(value)
    order.shuffle(names)
    return {name: shuffle_keys(value[name], order) for name in names}
  return [shuffle_keys(item, order) for item in value] if isinstance(value, list) else value


def sort_keys(value):
  if isinstance(value, dict):
    return {name: sort_keys(value[name]) for name in sorted(value)}
  return [sort_keys(item) for item in value] if isinstance(value, list) else value


@relaxed
@given(run=runs, result=results)
def test_a_written_record_is_read_back(store, run, result):
  written = store.write(example_record(run=run, result=result))
  read = store.read('test', run)
  assert identical(read, written)
  assert identical(sort_keys(read['result']), sort_keys(result))
  assert identical(sort_keys(read['run']), sort_keys(run))


@given(run=runs, order=st.randoms())
def test_the_key_depends_on_content_and_not_on_order(run, order):
  assert cell_key('test', run) == cell_key('test', shuffle_keys(run, order))
  assert cell_key('test', run) != cell_key('parallelism', run)
  assert cell_key('test', run) != cell_key('test', run | {'one more': 1})


def test_the_key_is_the_documented_hash():
  text = '{"run":{"a":1,"b":[2.5,"x"]},"study":"s"}'
  assert cell_key('s', {'b': [2.5, 'x'], 'a': 1}) == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_files_are_strict_json_without_nan(store):
  store.write(example_record(result={'loss': [math.nan, math.inf, -math.inf, -0.0]}))

  def reject_constant(name):
    raise AssertionError(f'{name} is not JSON')

  json.loads(only_record_file(store).read_text(), parse_constant=reject_constant)
  assert identical(store.records()[0]['result']['loss'], [math.nan, math.inf, -math.inf, -0.0])


def test_arrays_and_tuples_are_read_back_as_lists(store):
  values = {'a': np.float32([0.5, np.nan]), 'b': (1, 2), 'c': np.int32(3), 'd': np.bool_(True)}
  plain = {'a': [0.5, math.nan], 'b': [1, 2], 'c': 3, 'd': True}
  assert identical(store.write(example_record(result=values))['result'], plain)


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
    {'unknown field': 1},
  ],
)
def test_an_invalid_record_is_rejected(store, changes):
  with pytest.raises(StoreError):
    store.write(example_record(**changes))
  assert store.records() == []


def test_an_incomplete_record_is_rejected(store):
  incomplete = example_record()
  del incomplete['commit']
  with pytest.raises(StoreError, match='commit'):
    store.write(incomplete)


@relaxed
@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_bit_flip_never_yields_another_record(store, position, bit):
  written = store.write(example_record())
  path = only_record_file(store)
  data = bytearray(path.read_bytes())
  data[position % len(data)] ^= 1 << bit
  path.write_bytes(data)
  assert store.read('test', example_record()['run']) in (None, written)


@pytest.mark.parametrize(
  ('fault', 'corrupt'),
  [
    ('not valid JSON', lambda data: data[: len(data) // 2]),
    ('not valid JSON', lambda data: b''),
    ('not valid JSON', lambda data: b'\xff' + data),
    ('not a record', lambda data: b'[]'),
    ('checksum', lambda data: data.replace(b'0.75', b'0.85')),
    ('format 3', lambda data: data.replace(b'"format":2', b'"format":3')),
  ],
)
def test_a_damaged_file_is_reported_once_and_set_aside(store, reported_warnings, fault, corrupt):
  store.write(example_record())
  path = only_record_file(store)
  damaged = corrupt(path.read_bytes())
  path.write_bytes(damaged)
  assert store.read('test', example_record()['run']) is None
  (line,) = reported_warnings
  assert fault in line and path.name in line and '\n' not in line
  assert not path.exists()
  assert path.with_name(f'{path.name}.damaged').read_bytes() == damaged
  assert store.records() == [] and len(reported_warnings) == 1
  assert store.write(example_record()) == store.read('test', example_record()['run'])


def test_a_file_with_a_wrong_name_is_damaged(store, reported_warnings):
  store.write(example_record())
  only_record_file(store).rename(store.cells / 'test-0123456789abcdef.json')
  assert store.records() == []
  assert 'file name does not match' in reported_warnings[0]


def test_damaged_files_are_never_overwritten(store):
  contents = [f'damage {count}'.encode() for count in range(3)]
  for content in contents:
    store.write(example_record())
    only_record_file(store).write_bytes(content)
    assert store.records() == []
  assert sorted(path.read_bytes() for path in store.cells.iterdir()) == contents


def test_warnings_are_printed_to_stderr_by_default(tmp_path):
  store = Store(tmp_path)
  store.write(example_record())
  only_record_file(store).write_text('')
  code = 'import sys; from experiments.lab.results.store import Store; Store(sys.argv[1]).records()'
  process = subprocess.run(
    [sys.executable, '-c', code, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True
  )
  assert process.stdout == ''
  (line,) = process.stderr.splitlines()
  assert 'renamed to' in line


def test_temporary_files_are_ignored(store, reported_warnings):
  store.write(example_record())
  (store.cells / '.test-0123456789abcdef.json.1234.tmp').write_text('{"half')
  assert len(store.records()) == 1 and reported_warnings == []


def test_records_have_a_fixed_order_and_folders_can_be_merged_by_copying(tmp_path):
  records = [example_record(study, {'n': n}) for study in ('b', 'a') for n in range(4)]
  whole, left, right = (Store(tmp_path / name) for name in ('whole', 'left', 'right'))
  for index, item in enumerate(records):
    whole.write(item)
    (left if index % 3 else right).write(item)
  for path in right.cells.iterdir():
    (left.cells / path.name).write_bytes(path.read_bytes())
  assert left.records() == whole.records()
  order = [(item['study'], item['run']['n']) for item in whole.records()]
  assert order == [(study, n) for study in 'ab' for n in range(4)]
  assert whole.records('a') == whole.records()[:4]
  assert 'a' in whole and 'c' not in whole


def test_a_replaced_record_moves_to_the_history(store):
  store.write(example_record(status='timeout', reason='600 s'))
  path = only_record_file(store)
  first = path.read_bytes()
  last = store.write(example_record())
  assert store.records() == [last]
  assert [path.read_bytes() for path in store.history.iterdir()] == [first]


def test_a_record_of_the_earlier_format_has_no_code(store, reported_warnings):
  earlier = example_record() | {'format': store_module.WITHOUT_CODE}
  earlier['checksum'] = store_module._record_checksum(earlier)
  store.create_writable_folders()
  name = f'test-{cell_key("test", earlier["run"])}.json'
  (store.cells / name).write_text(json.dumps(earlier))
  (read,) = store.records()
  assert read['code'] == {} and read['result'] == earlier['result'] and reported_warnings == []


def test_reading_creates_no_folder(store):
  assert store.records() == [] and store.read('test', {}) is None
  assert not store.cells.exists()


@pytest.mark.parametrize(
  'use',
  [
    lambda store: store.create_writable_folders(),
    lambda store: store.write(example_record()),
    lambda store: store.records(),
    lambda store: store.read('test', {}),
  ],
)
def test_a_folder_below_a_file_is_a_one_line_error(tmp_path, use):
  (tmp_path / 'file').write_text('')
  with pytest.raises(StoreError, match='cannot use the results folder') as caught:
    use(Store(tmp_path / 'file' / 'results'))
  assert '\n' not in str(caught.value)


def test_create_writable_folders_creates_an_empty_folder(store):
  assert store.create_writable_folders() is store
  assert list(store.cells.iterdir()) == []


def test_create_writable_folders_removes_temporary_files_older_than_an_hour(store):
  store.create_writable_folders()
  old, fresh, other = (store.cells / name for name in ('.a.json.1.tmp', '.b.json.2.tmp', 'c.tmp'))
  for path in (old, fresh, other):
    path.touch()
  for path in (old, other):
    os.utime(path, (time.time() - atomic.ABANDONED_SECONDS - 60,) * 2)
  store.create_writable_folders()
  # Another process may still write the fresh file.
  assert sorted(store.cells.iterdir()) == [fresh, other]


def test_the_error_of_a_failed_write_has_the_target_path(tmp_path):
  (tmp_path / 'folder').mkdir()
  with pytest.raises(IsADirectoryError) as caught:
    atomic.write(tmp_path / 'folder', b'')
  assert caught.value.filename == str(tmp_path / 'folder')
  assert list(tmp_path.iterdir()) == [tmp_path / 'folder']


def test_a_failed_write_changes_no_file(store, monkeypatch):
  old = store.write(example_record())

  def raise_disk_full(descriptor):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', raise_disk_full)
  with pytest.raises(StoreError, match='No space left'):
    store.write(example_record(seconds=9.0))
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


def test_killed_writers_leave_no_partial_record(store, reported_warnings):
  generator = random.Random(0)
  for _ in range(4):
    writers = [
      subprocess.Popen([sys.executable, '-c', WRITER, store.cells.parent], cwd=ROOT)
      for _ in range(2)
    ]
    deadline = time.monotonic() + 20
    while 'kill' not in store and time.monotonic() < deadline:
      time.sleep(0.01)
    end = time.monotonic() + generator.uniform(0.2, 0.6)
    while time.monotonic() < end:
      store.records()
    for process in writers:
      process.send_signal(signal.SIGKILL)
      process.wait()
    records = store.records('kill')
    assert records and all(len(item['result']['filler']) == 5000 for item in records)
  assert reported_warnings == []
  assert not list(store.cells.glob('*.damaged*'))


def test_a_file_replaced_during_reading_is_read_again(store, monkeypatch):
  store.write(example_record())
  path = only_record_file(store)
  valid = path.read_bytes()
  path.write_bytes(b'damaged')
  parse = Store._parse_record

  def parse_then_rewrite(self, data, name):
    path.write_bytes(valid)
    return parse(self, data, name)

  monkeypatch.setattr(Store, '_parse_record', parse_then_rewrite)
  assert store.read('test', example_record()['run']) is not None
  assert path.read_bytes() == valid


def test_imports_do_not_load_heavy_libraries():
  code = (
    'import sys\n'
    'from experiments.lab.results import figures, published, statistics, store, table\n'
    'from experiments.report import page\n'
    'heavy = {"jax", "scipy", "matplotlib", "jinja2", "tabulate"} & set(sys.modules)\n'
    'sys.exit(", ".join(heavy) or 0)'
  )
  subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)
