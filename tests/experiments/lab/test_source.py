"""The source as data: catalogues, imports, and fingerprints of the code that numbers depend on."""

import ast
import importlib
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.claims.stated import LOADED
from experiments.claims.stored import KINDS, stored
from experiments.lab import source
from experiments.lab.cells import spec
from experiments.lab.results.store import Store
from experiments.retention import study as retention
from tests.support import command, records

CATALOGUES = {
  'LAYERS': 'layer', 'TRANSLATORS': 'translator', 'POSITIONS': 'positions', 'TASKS': 'task',
}
ENTRIES = [(catalogue, name) for catalogue in CATALOGUES for name in source.catalogue(catalogue)]


@pytest.mark.parametrize(('catalogue', 'name'), ENTRIES)
def test_what_is_read_of_a_component_is_what_python_makes_of_it(catalogue, name):
  kind = CATALOGUES[catalogue]
  made = spec.CATALOGUES[kind][name]
  module, own = source.catalogue(catalogue)[name]
  assert (module, own) == (made.__module__, made.__name__)
  options = source.options_of(module, own)
  assert list(options) == list(spec.options_of(made))
  placed = [text for option, text in options.items() if option in spec.PLACED]
  rest = [f'{option}={text}' for option, text in options.items() if option not in spec.PLACED]
  written = f'{name}({", ".join(placed + rest)})' if options else name
  assert spec.parse(written, kind) == made()
  assert made.__doc__.startswith(source.summary(module, own))


def test_every_catalogue_is_read_whole():
  for catalogue, kind in CATALOGUES.items():
    assert list(source.catalogue(catalogue)) == list(spec.CATALOGUES[kind])


PROGRAM = '''
"""A module."""
RATE = 0.5

class Layer:
  """A layer."""
  size: int = 4

  def read(self, x):
    """Reads."""
    return RATE * x + self.size
'''


def digest(text):
  return source.digest(ast.parse(text))


@pytest.mark.parametrize('change', [
  lambda text: text.replace('"""Reads."""', '"""Reads x, at a rate."""'),
  lambda text: text.replace('    """Reads."""\n', ''),
  lambda text: text.replace('"""A module."""', ''),
  lambda text: text.replace('RATE = 0.5', 'RATE = 0.5  # half\n\n\n'),
  lambda text: text.replace('RATE * x + self.size', '(RATE * x) + (self.size)'),
  lambda text: text.replace('0.5', '5e-1'),
])
def test_comments_docstrings_and_layout_change_no_fingerprint(change):
  assert change(PROGRAM) != PROGRAM
  assert digest(change(PROGRAM)) == digest(PROGRAM)


@pytest.mark.parametrize('change', [
  lambda text: text.replace('0.5', '0.25'),
  lambda text: text.replace('RATE * x +', 'RATE * x -'),
  lambda text: text.replace('size: int = 4', 'size: int = 5'),
  lambda text: text.replace('def read(self, x)', 'def read(self, x=1)'),
  lambda text: text.replace('RATE * x + self.size', 'RATE * (x + self.size)'),
])
def test_code_changes_the_fingerprint(change):
  assert change(PROGRAM) != PROGRAM
  assert digest(change(PROGRAM)) != digest(PROGRAM)


@given(st.integers(), st.integers())
def test_numbers_are_told_apart(one, other):
  assert (digest(f'x = {one}') == digest(f'x = {other}')) == (one == other)


def code(study, **run):
  return Store('nowhere', KINDS).code(study, run)


def test_a_cells_code_is_that_of_its_layer_and_task_and_of_nothing_else():
  lstm = code('retention', layer='lstm', task='recall(length=16)')
  attention = code('retention', layer='attention(positions=alibi)', task='recall(length=16)')
  assert {'baselines.recurrent', 'experiments.lab.tasks.recall', 'transformer.layer'} <= lstm.keys()
  assert 'experiments.lab.training.step' in lstm
  assert {'transformer.attention', 'transformer.positions'} <= attention.keys() - lstm.keys()
  assert 'baselines.recurrent' not in attention
  assert 'experiments.lab.tasks.parity' not in lstm
  hybrid = code('retention', layer='interleave(attention, mamba(state_size=8))', task='parity')
  assert {'baselines.state_space', 'baselines.hybrid', 'transformer.attention'} <= hybrid.keys()


@pytest.mark.parametrize('name', LOADED)
def test_no_table_no_claim_and_no_flag_is_code_of_a_cell(name):
  """What decides no number makes no record stale."""
  for kind in LOADED[name].kinds:
    modules = source.code(kind.cells, {'layer': 'lstm', 'task': 'recall', 'what': 'lstm'})
    assert kind.cells[0] in modules
    for module in modules:
      assert not module.startswith(tuple(f'experiments.lab.{room}.' for room in (
        'results', 'launch', 'evidence', 'weights')))
      assert module.rpartition('.')[2] not in ('study', 'claims', 'tables', '__main__', '__init__')


def test_what_a_cell_imports_is_followed_to_the_end():
  """But for catalogues, and for what decides no number."""
  reached = source.reached_from('experiments.complexity.counting')
  for module in reached:
    left_out = source.imports_of(module) - reached
    assert not [other for other in left_out if source.decides(other)]
  assert {'experiments.complexity.paths', 'experiments.lab.measure.primitives'} <= reached


def test_records_of_other_code_are_kept_but_not_current(tmp_path, monkeypatch):
  store = Store(tmp_path, KINDS)
  both = [records.trained(layer, 'recall', 20, (0.5, 0.6)) for layer in ('lstm', 'attention')]
  first, other = map(store.write, both)
  records.edited(monkeypatch, 'baselines.recurrent')
  assert store.read('retention', first['run']) is None
  assert store.records() == [other]
  assert store.everything() == sorted([first, other], key=lambda record: record['run']['layer'])
  second = store.write(both[0])
  assert second['code'] != first['code']
  assert len(store.everything()) == 3 and len(store.records()) == 2
  monkeypatch.undo()
  assert store.read('retention', first['run']) == first, 'with its code a record is current again'


def test_what_is_imported_is_found_wherever_it_stands(monkeypatch):
  tree = ast.parse('''
from baselines.recurrent import LSTM as made
import experiments.lab.atomic

def later():
  from baselines.mamba2 import Mamba2 as made
  from transformer import attention
  return made, attention
''')
  monkeypatch.setattr(source, 'tree_of', lambda module: tree)
  source.imports_of.cache_clear()
  assert source.imports_of('made up') == {
    'baselines.recurrent', 'baselines.mamba2', 'experiments.lab.atomic', 'transformer.attention'}
  source.imports_of.cache_clear()


def test_what_is_edited_after_a_command_began_is_not_its_code(tmp_path, monkeypatch):
  file = tmp_path / 'made.py'
  file.write_text('RATE = 0.5')
  monkeypatch.setattr(source, 'path_of', lambda module: file)
  source.text_of.cache_clear()
  before = source.text_of('made')
  file.write_text('RATE = 0.25')
  assert source.text_of('made') == before
  source.text_of.cache_clear()
  assert source.text_of('made') != before
  source.text_of.cache_clear()


def test_a_command_keeps_the_sources_before_it_loads_what_makes_numbers():
  with (
    mock.patch.object(source, 'keep', side_effect=SystemExit(7)),
    mock.patch.object(importlib, 'import_module') as loaded,
  ):
    assert command.run(retention, '--preset=smoke').code == 7
  loaded.assert_not_called()


@pytest.mark.parametrize('name', source.catalogue('CONTESTS'))
def test_a_contest_is_made_of_what_it_imports(name):
  """Its run has no spec; one that it parsed would name modules that are not in its code."""
  module, _ = source.catalogue('CONTESTS')[name]
  assert 'experiments.lab.cells.spec' not in source.imports_of(module)
  for node in ast.walk(source.tree_of(module)):
    if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'resolve':
      assert len(node.args) == 3, 'its layer and its task are given'


def test_records_that_were_matched_to_different_budgets_are_named(tmp_path):
  made = [records.trained(layer, 'recall', 20, (0.5, 0.6)) for layer in ('lstm', 'attention')]
  records.stored(tmp_path, made)
  assert stored(tmp_path)[1] == []
  made[1]['result']['budget'] += 1
  records.stored(tmp_path, made)
  (note,) = stored(tmp_path)[1]
  assert 'different budgets of parameters, 1000 and 1001' in note.text
