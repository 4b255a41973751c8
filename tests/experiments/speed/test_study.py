"""Tests of the speed study, its checks of equality, paired times, targets, and notes."""

import functools
import importlib
import inspect
import types

import jax
import jax.numpy as jnp
import pytest

from experiments.lab.cells.cell import Cell
from experiments.lab.launch.grid import run_grid_cells
from experiments.lab.measure import memory
from experiments.lab.results.store import Store
from experiments.speed import benchmark, peak, ratios
from experiments.speed import study as speed
from experiments.speed.benchmark import Alternative, Unavailable
from experiments.speed.benchmarks import BENCHMARKS
from experiments.speed.comparison import COMPUTATIONS, TITLES, comparison_title
from experiments.speed.pytorch import execution
from tests.support import command, records

SMOKE = speed.PRESETS['smoke'].comparisons
ALL_COMPARISONS = [
  (comparison, preset)
  for preset in speed.PRESETS for comparison in speed.PRESETS[preset].comparisons]
# The last comparison of each benchmark in `smoke`, separately with and without a loop of steps.
SMALL = {
  (comparison.benchmark, 'steps' in comparison.sizes): comparison for comparison in SMOKE}
del SMALL['decoder', False]  # takes as long as the decoder's loop, which makes the same steps
FAST = ('lstm', 'attention', 'generation')  # the other benchmarks are tested by `make slow`


def comparison_label(comparison):
  return comparison_title(comparison.benchmark, comparison.sizes)


@functools.cache
def small_benchmark(name, looped):
  """Defines a benchmark at its sizes in the preset `smoke`."""
  return BENCHMARKS[name](seed=1, **SMALL[name, looped].sizes)


@pytest.mark.parametrize('name, looped', [
  pytest.param(*key, marks=[] if key[0] in FAST else [pytest.mark.slow]) for key in SMALL
])
def test_all_implementations_compute_the_same(name, looped):
  """Compares outputs, and gradients in our layout, also with PyTorch if it is installed."""
  implementations = small_benchmark(name, looped).implementations
  ours = implementations[benchmark.OURS]().results()
  assert any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(ours))
  for other_name, prepare in implementations.items():
    if other_name.startswith('torch') and not execution.installed_torch_version():
      continue
    assert benchmark.describe_result_mismatch(prepare().results(), ours) == '', other_name


def test_installed_pytorch_is_loaded_in_the_stated_version():
  pytest.importorskip('torch')
  assert execution.installed_torch_version() == execution.load_torch().__version__


@pytest.mark.parametrize(
  'comparison, preset', ALL_COMPARISONS,
  ids=lambda x: x if isinstance(x, str) else comparison_label(x))
def test_presets_name_valid_sizes_and_existing_implementations(comparison, preset):
  inspect.signature(BENCHMARKS[comparison.benchmark]).bind(seed=0, **comparison.sizes)
  looped = next(looped for name, looped in SMALL if name == comparison.benchmark)
  assert set(comparison.targets) <= set(
    small_benchmark(comparison.benchmark, looped).implementations)
  assert all(0 < target.desired < target.required for target in comparison.targets.values())


def line_benchmark(seed, length):
  """Multiplies a vector by a number, with implementations that succeed, differ, or fail."""
  x = jnp.arange(length, dtype=jnp.float32) + seed

  def scale(factor, x):
    return factor * x

  def raise_unavailable(*_):
    raise Unavailable('it is not installed')

  def exceed_memory(*arguments):
    implementation = benchmark.compile_jax_implementation((None, 0, 0), *arguments)
    return implementation._replace(memory_plan=memory.MemoryUse(2**60, 0, 0))

  return benchmark.make_benchmark(scale, (jnp.array(2.0), x), (None, 0, 0), {
    'backwards': Alternative(
      lambda x, factor: factor * x, lambda f, x: (x[::-1], f), lambda y: y[::-1],
      batch_axes=(0, None, 0)),
    'twice': Alternative(lambda factor, x: 2 * factor * x),
    'no gradient': Alternative(lambda factor, x: factor * jax.lax.stop_gradient(x)),
    'not a number': Alternative(lambda factor, x: factor * x * jnp.nan),
    'absent': Alternative(scale, prepare=raise_unavailable),
    'large': Alternative(scale, prepare=exceed_memory),
  }, matmul_flops=1e3)


def measure_cell(folder, benchmarks=None, timeout=100.0, **changes):
  """Runs one cell and returns its record."""
  run_cell = benchmark.benchmark_runner(benchmarks or {'line': line_benchmark}, timeout)
  cell = Cell('speed', records.BENCHMARK_RUN | changes, 'line')
  return run_grid_cells([cell], run_cell, Store(folder, {'speed': speed.STUDY.kinds}))[0]


@pytest.fixture(scope='module')
def line_record(tmp_path_factory):
  return measure_cell(tmp_path_factory.mktemp('speed'))


def test_different_computations_fail_and_equal_ones_are_timed(line_record):
  entries = {entry['name']: entry for entry in line_record['result']['implementations']}
  assert {name: entry['status'] for name, entry in entries.items()} == {
    'ours': 'finished', 'backwards': 'finished', 'twice': 'failed', 'no gradient': 'failed',
    'not a number': 'failed', 'absent': 'left out', 'large': 'out of memory',
  }
  assert 'its output' in entries['twice']['reason'] and '1.0e+00' in entries['twice']['reason']
  assert 'its gradient[1]' in entries['no gradient']['reason']
  assert (line_record['status'], line_record['reason']) == (
    'failed', f'twice: {entries["twice"]["reason"]}')
  for name, entry in entries.items():
    rounds = {quantity: len(seconds) for quantity, seconds in entry['seconds'].items()}
    assert rounds == (dict.fromkeys(('forward', 'gradient'), 3)
                      if name in ('ours', 'backwards') else {})
  assert [len(product['seconds']) for product in line_record['result']['peak']] == [3, 3]
  assert line_record['result']['matmul_flops'] == {'forward': 1e3, 'gradient': 3e3}


def test_untimed_comparisons_are_compiled_for_their_memory(tmp_path):
  untimed = measure_cell(tmp_path, timed=False)
  ours, *_ = untimed['result']['implementations']
  assert untimed['status'] == 'finished' and untimed['result']['peak'] == []
  assert ours['bytes'] is not None and ours['seconds'] == {}


def test_a_timeout_stores_no_times(tmp_path):
  expired = measure_cell(tmp_path, timeout=0.0, benchmarks={
    'line': lambda **_: benchmark.make_benchmark(jnp.sin, (jnp.ones(3),), (0, 0), {})})
  assert (expired['status'], expired['reason']) == ('timeout', 'ours: no round was timed')


def test_gradient_descent_steps_change_all_arguments():
  start = jnp.full(3, 2.0), jnp.arange(3.0)
  implementation = benchmark.compile_jax_implementation(
    (0, 0, 0), jnp.multiply, start, jnp.ones(3), steps=4)
  factor, x = start
  for _ in range(4):
    factor, x = factor - benchmark.STEP_SIZE * x, x - benchmark.STEP_SIZE * factor
  assert list(implementation.calls) == ['steps']
  for actual, expected in zip(implementation.results()['gradient'], (factor, x), strict=True):
    assert jnp.allclose(actual, expected, rtol=1e-6) and not jnp.allclose(actual, start[0])


def uninstall_pytorch(monkeypatch):
  """Makes the import of PyTorch fail."""
  import_module = importlib.import_module

  def import_all_but_torch(name, *arguments):
    if name == 'torch':
      raise ModuleNotFoundError('No module named torch', name='torch')
    return import_module(name, *arguments)

  monkeypatch.setattr(execution, 'installed_torch_version', lambda: '')
  monkeypatch.setattr(execution, 'load_torch', execution.load_torch.__wrapped__)
  monkeypatch.setattr(importlib, 'import_module', import_all_but_torch)


def test_without_pytorch_the_table_has_dashes_and_one_note(tmp_path, monkeypatch):
  uninstall_pytorch(monkeypatch)
  arguments = '--preset=smoke', '--compare=lstm,recurrence', f'--runs={tmp_path}'
  done = command.run_command(speed, *arguments)
  assert done.code == 0 and 'cells stored' in done.err.splitlines()[-1]
  (table,), _ = speed.STUDY.report(Store(tmp_path).records())
  assert table.caption.count(execution.INSTALL) == 1 and table.title in done.out
  rows = {row[:3]: row[3:] for row in table.rows}
  for computation in ('forward', 'forward and backward'):
    assert set(rows['LSTM B2 T6 D4', speed.TORCH_LSTM, computation][:4]) == {None}
    ratio, *targets, met = rows['LSTM B2 T6 D4', speed.FLAX_LSTM, computation][:4]
    assert ratio.count == 2 and targets == [1.0, 0.7]
    assert met in ('desired', 'required', 'missed')
  assert rows['LSTM B2 T6 D4 x2', speed.FLAX_LSTM, 'training steps'][0].count == 2

  stamps = [cell.stat().st_mtime_ns for cell in (tmp_path / 'cells').iterdir()]
  assert command.run_command(speed, *arguments) == (0, done.out, '')
  assert stamps == [cell.stat().st_mtime_ns for cell in (tmp_path / 'cells').iterdir()]


def test_pytorch_without_support_for_the_gpu_of_jax_is_left_out(monkeypatch):
  cpu_only = types.SimpleNamespace(cuda=types.SimpleNamespace(is_available=lambda: False))
  monkeypatch.setattr(importlib, 'import_module', lambda name: cpu_only)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  with pytest.raises(Unavailable, match='gpu'):
    execution.load_torch.__wrapped__()


@pytest.mark.parametrize('arguments, message', [
  (('--compare=lstm,hyena',), "'hyena'"),
  (('--layers=lstm',), '--layers'),
  (('--lengths=8',), '--lengths'),
  (('--width=8',), '--width'),
  (('--learning_rates=1e-3',), '--learning_rates'),
  (('--steps=0',), 'steps'),
  (('--preset=large',), "'large'"),
])
def test_bad_input_gives_one_line_and_writes_no_files(tmp_path, arguments, message):
  preset = () if arguments[0].startswith('--preset') else ('--preset=smoke',)
  done = command.run_command(speed, *preset, f'--runs={tmp_path / "runs"}', *arguments)
  assert (done.code, done.out, len(done.err.splitlines())) == (2, '', 1) and message in done.err
  assert not any(tmp_path.iterdir())


def test_ratios_use_medians_and_shares_use_the_fastest_product():
  repetitions = [records.benchmark_record(), records.benchmark_record(seed=1, ours=(3.0, 3.0))]
  ratio = ratios.median_time_ratio(repetitions, speed.TORCH_ATTENTION, 'gradient')
  assert (ratio.estimate, ratio.count) == (3 / 4, 4)
  percent = ratios.percent_of_peak_rate(repetitions, 'gradient')
  assert percent.estimate == pytest.approx(100 * 90 / 3 / 100)
  assert ratios.percent_of_peak_rate(repetitions, 'forward') is None
  assert ratios.median_time_ratio(repetitions, 'unknown', 'forward') is None
  assert ratios.temporary_memory_bytes(repetitions, ratios.OURS) == 2**20
  timing = ratios.timing_of_fastest_matrix_product(repetitions[0])
  assert ratios.operations_per_second(timing) == 100


@pytest.mark.parametrize(
  'their_seconds, status', [(4.0, 'desired'), (3.0, 'required'), (2.0, 'missed')])
def test_the_estimate_decides_which_target_is_met(their_seconds, status):
  (table,), _ = speed.STUDY.report(
    [records.benchmark_record(ours=(3.0, 3.0), theirs=(their_seconds, their_seconds))])
  assert [row[2:3] + row[4:7] for row in table.rows] == [
    ('forward', 1.0, 0.8, status), ('forward and backward', 1.0, 0.8, status)]
  assert table.columns[2:7] == ('computation', 'ratio', 'required', 'desired', 'target met')


def test_every_computation_has_a_row_and_its_own_ratio():
  record = records.benchmark_record(ours=(3.0, 3.0))
  ours, theirs = (entry['seconds'] for entry in record['result']['implementations'])
  ours['forward'], theirs['forward'] = [6.0, 6.0], [5.0, 5.0]
  (table,), _ = speed.STUDY.report([record])
  forward, gradient = table.rows
  assert (forward[3].estimate, forward[6]) == (6 / 5, 'missed')
  assert (gradient[3].estimate, gradient[6]) == (3 / 4, 'desired')
  # The planned memory is that of the largest program, and only the gradient's FLOPs are known.
  assert forward[7:] == (None, None, None) and gradient[7].count == 2 and gradient[8] == 1
  assert ratios.timed_computations([record]) == ['forward', 'gradient']


def test_targets_apply_to_the_named_computations_only():
  sizes = {'batch': 8, 'length': 128, 'width': 128}
  record = records.benchmark_record('lstm', sizes=sizes)
  record['result']['implementations'][1]['name'] = speed.FLAX_LSTM
  (table,), _ = speed.STUDY.report([record])
  assert [row[4:6] for row in table.rows] == [(None, None), (0.7, 0.4)]


def test_a_ratio_to_pytorch_must_not_exceed_one():
  quick = speed.PRESETS['quick'].comparisons
  limits = [
    target for comparison in quick for name, target in comparison.targets.items()
    if name.startswith('torch')]
  assert {target.required for target in limits} == {1.0}
  assert {target.computations for target in limits} == {tuple(COMPUTATIONS)}
  compared = {c.benchmark for c in quick if any(n.startswith('torch') for n in c.targets)}
  assert compared == {*TITLES} - {'recurrence', 'generation'}  # which PyTorch does not have


def test_rows_are_ordered_and_each_grid_has_its_table():
  long = records.benchmark_record(
    sizes={'batch': 4, 'length': 2048, 'heads': 4, 'head_width': 32})
  lstm = records.benchmark_record('lstm', sizes={'batch': 8, 'length': 128, 'width': 128})
  (table,), panels = speed.STUDY.report([long, lstm, records.benchmark_record()])
  assert list(dict.fromkeys(row[0] for row in table.rows)) == [
    'LSTM B8 T128 D128', 'causal attention B16 T512 H4 K32', 'causal attention B4 T2048 H4 K32']
  assert [panel.title for panel in panels] == ['causal attention']
  assert [x for x, _ in panels[0].series[speed.TORCH_ATTENTION]] == [512, 2048]

  changes = ({}, {'device': 'another'}, {'large_pages': False})
  tables, _ = speed.STUDY.report([records.benchmark_record(**change) for change in changes])
  assert len({table.title for table in tables}) == 3
  assert ['GLIBC_TUNABLES' in table.caption for table in tables].count(True) == 1
  assert speed.STUDY.report([]) == ([], [])


def test_a_failed_cell_is_a_row_of_dashes_with_its_reason():
  failed = records.benchmark_record() | {
    'status': 'out of memory', 'reason': 'too large', 'result': {}}
  (table,), panels = speed.STUDY.report([failed])
  assert table.rows == (('causal attention B16 T512 H4 K32', *[None] * 9),) and panels == []
  assert 'out of memory, too large' in table.caption


def test_matrix_products_have_the_stated_sizes_and_operations():
  assert peak.matrix_product_flops(2) == 16
  products = peak.compile_matrix_products((4, 8))
  left, right = jax.random.normal(jax.random.key(4), (2, 4, 4))
  assert list(products) == [4, 8] and jnp.allclose(products[4](), left @ right, atol=1e-5)
