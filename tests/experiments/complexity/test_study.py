"""The study of complexity from flags to tables."""

import pytest

from baselines import LAYERS
from experiments.complexity import cells as complexity_cells
from experiments.complexity import count_tables, layer_counts
from experiments.complexity import study as complexity
from experiments.complexity.table_1 import COUNTED, IMPLEMENTATIONS, PAPER
from experiments.lab.cells import spec
from experiments.lab.cells.cell import Cell
from experiments.lab.launch import flags
from experiments.lab.results.store import Store
from tests.support import command, records, study_records

SIZES = ((8, 16, 32, 64), (8, 16, 32), (4, 8, 16, 32))


def count_record(layer, platform='gpu', sizes=SIZES):
  """The record of a counting cell."""
  run = layer_counts.operation_count_settings(layer, platform, *sizes)
  outcome = layer_counts.count_layer_operations_at_all_sizes(
    Cell('complexity', run, ''), lambda *_: None)
  return {'study': 'complexity', 'run': run, 'status': outcome.status, 'reason': '',
          'result': outcome.result} | records.RUN_ENVIRONMENT


@pytest.fixture(scope='module')
def counted():
  """Records of counts of four layers in both forms."""
  layers = ('attention(form=naive)', 'lstm', 'mingru', 'convolution')
  narrow = (SIZES[0], SIZES[1][:1], SIZES[2])
  return [count_record(layer, platform, SIZES if platform == 'gpu' else narrow)
          for layer in layers for platform in IMPLEMENTATIONS]


def cells_by_row(table):
  """The cells of a table by the first cell of their row and by column."""
  return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_counted_orders_are_shown_beside_published_orders(counted):
  tables, panels = complexity.report(counted)
  comparison, work, depths, paths, _ = map(cells_by_row, tables)
  assert list(comparison) == ['attention', 'lstm', 'mingru', 'convolution']
  for layer, complexity_, sequential, path in (
    ('attention', 'O(n²d + nd²)', 'O(1)', 'O(1)'), ('lstm', 'O(nd²)', 'O(n)', 'O(n)'),
    ('convolution', 'O(nd²k)', 'O(1)', 'O(n/r)'),
  ):
    row = comparison[layer]
    columns = 'complexity', 'sequential operations', 'path length'
    assert tuple(row[name] for name in columns) == (complexity_, sequential, path)
    assert tuple(row[f'{name} (paper)'] for name in columns) == PAPER[layer][1:]
  assert comparison['mingru']['path length (paper)'] is None
  assert work['attention']['processing n tokens'] == '4n²d + 8nd²'
  assert work['attention']['state size in bytes'] == '8nd + n + 4'
  assert work['convolution']['generating one token'] == '2d²k'
  assert depths['lstm']['processing n tokens, for a CPU'] == '10n + 1'
  assert depths['mingru']['processing n tokens, for a CPU'] == '2n + 4'
  assert paths['convolution']['layers'] == '⌈(n - 1)/3⌉'
  assert paths['lstm']['operations, for a CPU'] == '2n + 9'
  assert {panel.title for panel in panels} >= {'sequential operations'}
  assert all(list(panel.series) == list(comparison) for panel in panels)


def test_log_log_slopes_are_between_adjacent_lengths(counted):
  lstm = next(r for r in counted if r['run']['layer'] == 'lstm')
  assert count_tables.log_log_slopes_over_length(lstm, 'products') == pytest.approx([1, 1, 1])
  assert all(0.9 < slope < 1 for slope in count_tables.log_log_slopes_over_length(lstm, 'depth'))
  assert len(count_tables.log_log_slopes_over_length(lstm, 'operations')) == 3


def requested_cells(*arguments):
  """The result of a command line, and the cells that it requests."""
  cells = []

  def collect():
    preset = flags.requested_preset(complexity.PRESETS)
    for create_cells in (
      complexity_cells.create_operation_count_grid_cells,
      complexity_cells.create_timing_grid_cells,
    ):
      cells.extend(create_cells('complexity', preset))

  return command.run_command(complexity, *arguments, main=collect), cells


def test_all_layers_are_requested_with_those_of_the_paper_first():
  done, cells = requested_cells('--preset=quick')
  assert done.code == 0, done.err
  timed = cells[-1].run['layers']
  assert set(timed) == set(LAYERS) and timed[: len(PAPER)] == list(PAPER)
  counted = {(cell.run['layer'], cell.run['platform']) for cell in cells[:-1]}
  assert len(counted) == len(IMPLEMENTATIONS) * len(LAYERS)
  assert {COUNTED.get(name, name) for name in LAYERS} == {name for name, _ in counted}


@pytest.mark.parametrize('arguments, message', [
  (('--layers=nonsense',), 'no layer'),
  (('--layers=rwkv7(num_heads=3)',), 'not a multiple of 3'),
  (('--lengths=7',), 'not a multiple of length 7'),
  (('--learning_rates=1e-3',), 'has no effect here'),
  (('--width=6', '--layers=attention'), '--width=6 is invalid for'),
])
def test_invalid_arguments_are_refused_in_one_line(arguments, message):
  done, _ = requested_cells('--preset=smoke', *arguments)
  assert done.code == 2 and message in done.err and done.err.count('\n') == 1


def test_specs_of_counted_forms_are_canonical():
  for form in COUNTED.values():
    assert spec.remove_default_options_from_specs((form,), 'layer') == [form]


@pytest.mark.slow
def test_the_study_writes_tables_and_resumes(tmp_path):
  arguments = ('--preset=smoke', '--layers=elman,gru', f'--runs={tmp_path}', '--cache=')
  done = command.run_command(complexity, *arguments, '--nomeasure')
  assert done.code == 0, done.err
  assert len(Store(tmp_path).records('complexity')) == 4
  table = tmp_path / 'complexity' / 'counted-and-published-complexity-of-layers.tex'
  assert table.read_text().startswith(r'\begin{table}')
  done = command.run_command(complexity, *arguments, '--seeds=1')
  assert done.code == 0, done.err
  assert len(Store(tmp_path).records('complexity')) == 5
  assert 'Crossover lengths' in done.out and (tmp_path / 'complexity' / 'figure.png').exists()


def test_records_of_counts_and_times_give_tables_of_both_kinds():
  pytest.importorskip('num2words', reason='the records contain a task of number words')
  every_record = study_records.records_of_all_studies()
  study = [record for record in every_record if record['study'] == 'complexity']
  tables, panels = complexity.report(study)
  titles = [table.title for table in tables]
  assert titles[0] == 'Counted and published complexity of layers'
  assert 'Measured exponents of growth with length' in titles
  assert 'Crossover lengths between layers' in titles
  assert len(panels) == 6


def test_settings_of_timed_cells_are_refused_without_timed_cells(tmp_path):
  done = command.run_command(
    complexity, '--preset=smoke', '--nomeasure', '--width=16', f'--runs={tmp_path / "runs"}')
  assert (done.code, done.out) == (2, '')
  assert done.err == '--width has no effect with --nomeasure, since it applies to timed cells\n'
