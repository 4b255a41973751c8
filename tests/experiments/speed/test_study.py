"""The study of speed: rivals compute the same or are refused, times are paired, notes say why."""

import functools
import importlib
import inspect
import types

import jax
import jax.numpy as jnp
import pytest

from experiments.lab.cells.cell import Cell
from experiments.lab.launch.grid import launch
from experiments.lab.measure import memory
from experiments.lab.results.store import Store
from experiments.speed import contest, peak, pytorch, ratios
from experiments.speed import study as speed
from experiments.speed.comparison import title
from experiments.speed.contest import LeftOut, Rival
from experiments.speed.contests import CONTESTS
from tests.support import command, records

SMOKE = speed.PRESETS['smoke'].comparisons
EVERY = [(one, preset) for preset in speed.PRESETS for one in speed.PRESETS[preset].comparisons]
TRIED = {(one.what, 'steps' in one.sizes): one for one in SMOKE}  # the last of each kind
del TRIED['decoder', False]  # costs as much as its loop, which makes the same steps


def label(one):
  return title(one.what, one.sizes)


QUICK = ('lstm', 'attention', 'generation')  # the others are tried by `make slow`


@functools.cache
def tiny(what, looped):
  """The contest of a kind at the sizes of `smoke`."""
  return CONTESTS[what](seed=1, **TRIED[what, looped].sizes)


@pytest.mark.parametrize('what, looped', [
  pytest.param(*one, marks=[] if one[0] in QUICK else [pytest.mark.slow]) for one in TRIED
])
def test_rivals_compute_what_ours_does(what, looped):
  """Outputs, and gradients back in our layout; of PyTorch too, where it is installed."""
  arena = tiny(what, looped)
  ours = arena.contestants[contest.OURS]().results()
  assert any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(ours))
  for name, make in arena.contestants.items():
    if name.startswith('torch') and not pytorch.version():
      continue
    assert contest.compare(make().results(), ours) == '', name


def test_pytorch_is_compared_where_it_is_installed():
  pytest.importorskip('torch')
  assert pytorch.version() == pytorch.load().__version__


@pytest.mark.parametrize('one, preset', EVERY, ids=lambda x: x if isinstance(x, str) else label(x))
def test_presets_say_what_contests_take_and_name_rivals_that_there_are(one, preset):
  inspect.signature(CONTESTS[one.what]).bind(seed=0, **one.sizes)
  looped = next(looped for what, looped in TRIED if what == one.what)
  assert set(one.targets) <= set(tiny(one.what, looped).contestants)
  assert all(0 < goal.aim < goal.must for goal in one.targets.values())


def line(seed, length):
  """A contest of one number times a line, with rivals of every kind."""
  x = jnp.arange(length, dtype=jnp.float32) + seed

  def scale(factor, x):
    return factor * x

  def absent(*_):
    raise LeftOut('it is not installed')

  def large(*arguments):
    return contest.in_jax((None, 0, 0), *arguments)._replace(plan=memory.MemoryUse(2**60, 0, 0))

  return contest.contest(scale, (jnp.array(2.0), x), (None, 0, 0), {
    'backwards': Rival(
      lambda x, factor: factor * x, lambda f, x: (x[::-1], f), lambda y: y[::-1],
      batch_axes=(0, None, 0)),
    'twice': Rival(lambda factor, x: 2 * factor * x),
    'no gradient': Rival(lambda factor, x: factor * jax.lax.stop_gradient(x)),
    'not a number': Rival(lambda factor, x: factor * x * jnp.nan),
    'absent': Rival(scale, enter=absent),
    'large': Rival(scale, enter=large),
  }, work=1e3)


def measured(folder, contests=None, timeout=100.0, **changes):
  """The record of one cell."""
  execute = contest.time_cell(contests or {'line': line}, timeout)
  cell = Cell('speed', records.CONTEST | changes, 'line')
  return launch([cell], execute, Store(folder, {'speed': speed.STUDY.kinds}))[0]


@pytest.fixture(scope='module')
def record(tmp_path_factory):
  return measured(tmp_path_factory.mktemp('speed'))


def test_who_computes_something_else_is_refused_and_the_others_are_timed(record):
  found = {one['name']: one for one in record['result']['contestants']}
  assert {name: one['status'] for name, one in found.items()} == {
    'ours': 'finished', 'backwards': 'finished', 'twice': 'failed', 'no gradient': 'failed',
    'not a number': 'failed', 'absent': 'left out', 'large': 'out of memory',
  }
  assert 'its output' in found['twice']['reason'] and '1.0e+00' in found['twice']['reason']
  assert 'its gradient[1]' in found['no gradient']['reason']
  assert (record['status'], record['reason']) == ('failed', f'twice: {found["twice"]["reason"]}')
  for name, one in found.items():
    timed = {quantity: len(seconds) for quantity, seconds in one['seconds'].items()}
    assert timed == (dict.fromkeys(('forward', 'gradient'), 3)
                     if name in ('ours', 'backwards') else {})
  assert [len(product['seconds']) for product in record['result']['peak']] == [3, 3]
  assert record['result']['work'] == {'gradient': 3e3}


def test_what_is_not_timed_is_compiled_for_its_memory(tmp_path):
  found = measured(tmp_path, timed=False)
  ours, *_ = found['result']['contestants']
  assert found['status'] == 'finished' and found['result']['peak'] == []
  assert ours['bytes'] is not None and ours['seconds'] == {}


def test_a_timeout_has_no_times(tmp_path):
  found = measured(tmp_path, timeout=0.0, contests={
    'line': lambda **_: contest.contest(jnp.sin, (jnp.ones(3),), (0, 0), {})})
  assert (found['status'], found['reason']) == ('timeout', 'ours: no times')


def test_steps_down_a_gradient_move_what_they_start_from():
  start = jnp.full(3, 2.0), jnp.arange(3.0)
  made = contest.in_jax((0, 0, 0), jnp.multiply, start, jnp.ones(3), steps=4)
  factor, x = start
  for _ in range(4):
    factor, x = factor - contest.RATE * x, x - contest.RATE * factor
  assert list(made.calls) == ['gradient']
  for got, want in zip(made.results()['gradient'], (factor, x), strict=True):
    assert jnp.allclose(got, want, rtol=1e-6) and not jnp.allclose(got, start[0])


def missing(monkeypatch):
  """A Python without PyTorch."""
  found = importlib.import_module

  def load(name, *words):
    if name == 'torch':
      raise ModuleNotFoundError('No module named torch', name='torch')
    return found(name, *words)

  monkeypatch.setattr(pytorch, 'version', lambda: '')
  monkeypatch.setattr(pytorch, 'load', pytorch.load.__wrapped__)
  monkeypatch.setattr(importlib, 'import_module', load)


def test_without_pytorch_there_are_dashes_and_one_note(tmp_path, monkeypatch):
  missing(monkeypatch)
  words = '--preset=smoke', '--compare=lstm,recurrence', f'--runs={tmp_path}'
  done = command.run(speed, *words)
  assert done.code == 0 and 'cells stored' in done.err.splitlines()[-1]
  (table,), _ = speed.STUDY.report(Store(tmp_path).records())
  assert table.caption.count(pytorch.INSTALL) == 1 and table.title in done.out
  rows = {row[:2]: row[2:] for row in table.rows}
  assert set(rows['LSTM B2 T6 D4', speed.TORCH_LSTM][:5]) == {None}
  theirs = rows['LSTM B2 T6 D4', speed.FLAX_LSTM]
  assert theirs[1].count == 2 and theirs[2:4] == (1.0, 0.7) and theirs[4] in (
    'aim', 'must', 'missed')

  stamps = [cell.stat().st_mtime_ns for cell in (tmp_path / 'cells').iterdir()]
  assert command.run(speed, *words) == (0, done.out, '')
  assert stamps == [cell.stat().st_mtime_ns for cell in (tmp_path / 'cells').iterdir()]


def test_pytorch_without_the_gpu_that_jax_runs_on_is_left_out(monkeypatch):
  cpu_only = types.SimpleNamespace(cuda=types.SimpleNamespace(is_available=lambda: False))
  monkeypatch.setattr(importlib, 'import_module', lambda name: cpu_only)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  with pytest.raises(LeftOut, match='gpu'):
    pytorch.load.__wrapped__()


@pytest.mark.parametrize('words, said', [
  (('--compare=lstm,mamba',), "'mamba'"),
  (('--layers=lstm',), '--layers'),
  (('--lengths=8',), '--lengths'),
  (('--width=8',), '--width'),
  (('--learning_rates=1e-3',), '--learning_rates'),
  (('--steps=0',), 'steps'),
  (('--preset=large',), "'large'"),
])
def test_bad_input_is_one_line_and_touches_nothing(tmp_path, words, said):
  preset = () if words[0].startswith('--preset') else ('--preset=smoke',)
  done = command.run(speed, *preset, f'--runs={tmp_path / "runs"}', *words)
  assert (done.code, done.out, len(done.err.splitlines())) == (2, '', 1) and said in done.err
  assert not any(tmp_path.iterdir())


def test_ratios_are_of_medians_and_shares_of_the_best_product():
  made = [records.contested(), records.contested(seed=1, ours=(3.0, 3.0))]
  found = ratios.ratio(made, speed.TORCH_ATTENTION, 'gradient')
  assert (found.mean, found.count) == (3 / 4, 4)
  assert ratios.share(made, 'gradient').mean == pytest.approx(100 * 90 / 3 / 100)
  assert ratios.share(made, 'forward') is ratios.ratio(made, 'nobody', 'forward') is None
  assert ratios.temporaries(made, ratios.OURS) == 2**20
  assert ratios.speed(ratios.peak(made[0])) == 100


@pytest.mark.parametrize('theirs, kept', [(4.0, 'aim'), (3.0, 'must'), (2.0, 'missed')])
def test_a_target_is_kept_or_missed_by_the_estimate(theirs, kept):
  (table,), _ = speed.STUDY.report([records.contested(ours=(3.0, 3.0), theirs=(theirs, theirs))])
  (row,) = table.rows
  assert row[4:7] == (1.1, 0.8, kept) and table.columns[4:7] == ('must', 'aim', 'kept')


def test_where_there_is_no_gradient_a_target_is_of_forward():
  record = records.contested(ours=(3.0, 3.0))
  for one in record['result']['contestants']:
    del one['seconds']['gradient']
  (table,), _ = speed.STUDY.report([record])
  (row,) = table.rows
  assert (row[2].mean, *row[3:7]) == (3 / 4, None, 1.1, 0.8, 'aim')


def test_rows_stand_in_order_and_grids_apart():
  long = records.contested(sizes={'batch': 4, 'length': 2048, 'heads': 4, 'head_width': 32})
  other = records.contested('lstm', sizes={'batch': 8, 'length': 128, 'width': 128})
  (table,), panels = speed.STUDY.report([long, other, records.contested()])
  assert [row[0] for row in table.rows] == [
    'LSTM B8 T128 D128', 'causal attention B16 T512 H4 K32', 'causal attention B4 T2048 H4 K32']
  assert [panel.title for panel in panels] == ['causal attention']
  assert [x for x, _ in panels[0].series[speed.TORCH_ATTENTION]] == [512, 2048]

  changes = ({}, {'device': 'another'}, {'large_pages': False})
  tables, _ = speed.STUDY.report([records.contested(**change) for change in changes])
  assert len({table.title for table in tables}) == 3
  assert ['GLIBC_TUNABLES' in table.caption for table in tables].count(True) == 1
  assert speed.STUDY.report([]) == ([], [])


def test_a_cell_that_failed_whole_is_a_row_of_dashes_with_its_reason():
  failed = records.contested() | {'status': 'out of memory', 'reason': 'too large', 'result': {}}
  (table,), panels = speed.STUDY.report([failed])
  assert table.rows == (('causal attention B16 T512 H4 K32', *[None] * 9),) and panels == []
  assert 'out of memory, too large' in table.caption


def test_the_peak_is_the_size_that_does_the_most_work_a_second():
  assert peak.work(2) == 16
  products = peak.products((4, 8))
  left, right = jax.random.normal(jax.random.key(4), (2, 4, 4))
  assert list(products) == [4, 8] and jnp.allclose(products[4](), left @ right, atol=1e-5)

