"""Table 1 from flags to tables: what is asked, what is counted, what stands beside the paper."""

import pytest

from baselines import LAYERS
from experiments.complexity import cells as complexity_cells
from experiments.complexity import counting, counts
from experiments.complexity import study as complexity
from experiments.complexity.table_1 import COUNTED, FORMS, PAPER
from experiments.lab.cells import spec
from experiments.lab.cells.cell import Cell
from experiments.lab.launch import flags
from experiments.lab.results.store import Store
from tests.support import command, records, world

SIZES = ((8, 16, 32, 64), (8, 16, 32), (4, 8, 16, 32))


def count(layer, platform='gpu', sizes=SIZES):
  """The record of a counting cell."""
  run = counting.asked(layer, platform, *sizes)
  outcome = counting.count_cell(Cell('complexity', run, ''), lambda *_: None)
  return {'study': 'complexity', 'run': run, 'status': outcome.status, 'reason': '',
          'result': outcome.result} | records.WHERE


@pytest.fixture(scope='module')
def counted():
  """Counts of four layers in both forms."""
  layers = ('attention(form=naive)', 'lstm', 'mingru', 'convolution')
  narrow = (SIZES[0], SIZES[1][:1], SIZES[2])
  return [count(layer, platform, SIZES if platform == 'gpu' else narrow)
          for layer in layers for platform in FORMS]


def cells(table):
  """A table's cells by row and column."""
  return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_what_is_counted_stands_beside_what_the_paper_says(counted):
  tables, panels = complexity.report(counted)
  first, work, chains, ways, _ = map(cells, tables)
  assert list(first) == ['attention', 'lstm', 'mingru', 'convolution']
  for layer, complexity_, sequential, path in (
    ('attention', 'O(n²d + nd²)', 'O(1)', 'O(1)'), ('lstm', 'O(nd²)', 'O(n)', 'O(n)'),
    ('convolution', 'O(nd²k)', 'O(1)', 'O(n/r)'),
  ):
    row = first[layer]
    assert (row['complexity'], row['sequential'], row['path']) == (complexity_, sequential, path)
    assert (row['published complexity'], row['published sequential'], row['published path']) == (
      PAPER[layer][1:])
  assert first['mingru']['published path'] is None
  assert work['attention']['reading n tokens'] == '4n²d + 8nd²'
  assert work['attention']['state, bytes'] == '8nd + n + 4'
  assert work['convolution']['one token more'] == '2d²k'
  assert chains['lstm']['reading n tokens, for a CPU'] == '10n + 1'
  assert chains['mingru']['reading n tokens, for a CPU'] == '2n + 4'
  assert ways['convolution']['layers'] == '⌈(n - 1)/3⌉'
  assert ways['lstm']['operations, for a CPU'] == '2n + 9'
  assert {panel.title for panel in panels} >= {'operations in sequence'}
  assert all(list(panel.series) == list(first) for panel in panels)


def test_slopes_are_between_neighbouring_lengths(counted):
  lstm = next(r for r in counted if r['run']['layer'] == 'lstm')
  assert counts.slopes(lstm, 'products') == pytest.approx([1, 1, 1])
  assert all(0.9 < slope < 1 for slope in counts.slopes(lstm, 'depth'))
  assert len(counts.slopes(lstm, 'operations')) == 3


def asked(*words):
  """The cells that a command asks for."""
  found = []

  def collect():
    preset = flags.preset(complexity.PRESETS)
    for of in (complexity_cells.counting_cells, complexity_cells.timing_cells):
      found.extend(of('complexity', preset))

  return command.run(complexity, *words, main=collect), found


def test_the_whole_catalogue_is_asked_for_the_papers_layers_first():
  done, found = asked('--preset=quick')
  assert done.code == 0, done.err
  timed = found[-1].run['layers']
  assert set(timed) == set(LAYERS) and timed[: len(PAPER)] == list(PAPER)
  counted = {(cell.run['layer'], cell.run['platform']) for cell in found[:-1]}
  assert len(counted) == len(FORMS) * len(LAYERS)
  assert {COUNTED.get(name, name) for name in LAYERS} == {name for name, _ in counted}


@pytest.mark.parametrize('words, message', [
  (('--layers=nonsense',), 'no layer'),
  (('--layers=rwkv7(num_heads=3)',), 'it takes multiples of 3'),
  (('--lengths=7',), 'no multiple of length 7'),
  (('--learning_rates=1e-3',), 'means nothing here'),
  (('--width=6', '--layers=attention'), '--width=6 does not suit'),
])
def test_bad_input_is_one_line(words, message):
  done, _ = asked('--preset=smoke', *words)
  assert done.code == 2 and message in done.err and done.err.count('\n') == 1


def test_names_of_forms_are_canonical():
  for form in COUNTED.values():
    assert spec.canonical((form,), 'layer') == [form]


@pytest.mark.slow
def test_the_study_leaves_tables_and_goes_on_where_it_was(tmp_path):
  words = ('--preset=smoke', '--layers=elman,gru', f'--runs={tmp_path}', '--cache=')
  done = command.run(complexity, *words, '--nomeasure')
  assert done.code == 0, done.err
  assert len(Store(tmp_path).records('complexity')) == 4
  assert (tmp_path / 'complexity' / 'table-1-counted.tex').read_text().startswith(r'\begin{table}')
  done = command.run(complexity, *words, '--seeds=1')
  assert done.code == 0, done.err
  assert len(Store(tmp_path).records('complexity')) == 5
  assert 'Crossovers' in done.out and (tmp_path / 'complexity' / 'figure.png').exists()


def test_a_world_of_counts_has_tables_of_both_kinds():
  pytest.importorskip('num2words', reason='the world has number words in it')
  made = [record for record in world.world() if record['study'] == 'complexity']
  tables, panels = complexity.report(made)
  assert [table.title for table in tables][:1] == ['Table 1, counted']
  assert {'Measured exponents', 'Crossovers'} <= {table.title for table in tables}
  assert len(panels) == 6


def test_settings_of_what_is_timed_are_refused_where_nothing_is(tmp_path):
  done = command.run(
    complexity, '--preset=smoke', '--nomeasure', '--width=16', f'--runs={tmp_path / "runs"}')
  assert (done.code, done.out) == (2, '')
  assert done.err == '--width changes nothing here: it is of what is timed, and --nomeasure\n'
