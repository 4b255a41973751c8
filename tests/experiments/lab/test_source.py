"""Tests of the static analysis of the source code, which yields catalogues and fingerprints."""

import ast
import importlib
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.claims.current_records import KINDS, load_records_of_current_code
from experiments.claims.registry import LOADED_STUDIES
from experiments.lab import source
from experiments.lab.cells import spec
from experiments.lab.results.store import Store
from experiments.retention import study as retention
from tests.support import command, records

CATALOGUES = {
  'LAYERS': 'layer', 'TRANSLATORS': 'translator', 'POSITIONS': 'positions', 'TASKS': 'task',
}
ENTRIES = [
  (catalogue, name) for catalogue in CATALOGUES for name in source.registered_components(catalogue)]


@pytest.mark.parametrize(('catalogue', 'name'), ENTRIES)
def test_the_analysis_of_a_component_agrees_with_its_class(catalogue, name):
  kind = CATALOGUES[catalogue]
  component_class = spec.CATALOGUES[kind][name]
  module, class_name = source.registered_components(catalogue)[name]
  assert (module, class_name) == (component_class.__module__, component_class.__name__)
  options = source.constructor_options(module, class_name)
  assert list(options) == list(spec.settable_fields(component_class))
  unnamed = [text for option, text in options.items() if option in spec.UNNAMED_OPTIONS]
  named = [
    f'{option}={text}' for option, text in options.items() if option not in spec.UNNAMED_OPTIONS]
  text = f'{name}({", ".join(unnamed + named)})' if options else name
  assert spec.parse_spec(text, kind) == component_class()
  assert component_class.__doc__.startswith(source.docstring_summary(module, class_name))


def test_the_analysis_finds_all_entries_of_every_catalogue():
  for catalogue, kind in CATALOGUES.items():
    assert list(source.registered_components(catalogue)) == list(spec.CATALOGUES[kind])


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
  return source.syntax_tree_digest(ast.parse(text))


@pytest.mark.parametrize('change', [
  lambda text: text.replace('"""Reads."""', '"""Reads x, at a rate."""'),
  lambda text: text.replace('    """Reads."""\n', ''),
  lambda text: text.replace('"""A module."""', ''),
  lambda text: text.replace('RATE = 0.5', 'RATE = 0.5  # half\n\n\n'),
  lambda text: text.replace('RATE * x + self.size', '(RATE * x) + (self.size)'),
  lambda text: text.replace('0.5', '5e-1'),
])
def test_comments_docstrings_and_layout_do_not_affect_a_fingerprint(change):
  assert change(PROGRAM) != PROGRAM
  assert digest(change(PROGRAM)) == digest(PROGRAM)


@pytest.mark.parametrize('change', [
  lambda text: text.replace('0.5', '0.25'),
  lambda text: text.replace('RATE * x +', 'RATE * x -'),
  lambda text: text.replace('size: int = 4', 'size: int = 5'),
  lambda text: text.replace('def read(self, x)', 'def read(self, x=1)'),
  lambda text: text.replace('RATE * x + self.size', 'RATE * (x + self.size)'),
])
def test_code_affects_a_fingerprint(change):
  assert change(PROGRAM) != PROGRAM
  assert digest(change(PROGRAM)) != digest(PROGRAM)


@given(st.integers(), st.integers())
def test_different_numbers_have_different_fingerprints(first, second):
  assert (digest(f'x = {first}') == digest(f'x = {second}')) == (first == second)


def fingerprints(study, **run):
  return Store('nowhere', KINDS).code_fingerprints_of_grid_cell(study, run)


def test_the_code_of_a_cell_includes_its_own_layer_and_task_only():
  lstm = fingerprints('retention', layer='lstm', task='recall(length=16)')
  attention = fingerprints(
    'retention', layer='attention(positions=alibi)', task='recall(length=16)')
  assert {'baselines.recurrent', 'experiments.lab.tasks.recall', 'transformer.layer'} <= lstm.keys()
  assert 'experiments.lab.training.step' in lstm
  assert {'transformer.attention', 'transformer.positions'} <= attention.keys() - lstm.keys()
  assert 'baselines.recurrent' not in attention
  assert 'experiments.lab.tasks.parity' not in lstm
  hybrid = fingerprints(
    'retention', layer='interleave(attention, mamba(state_size=8))', task='parity')
  assert {'baselines.state_space', 'baselines.hybrid', 'transformer.attention'} <= hybrid.keys()


@pytest.mark.parametrize('name', LOADED_STUDIES)
def test_the_code_of_a_cell_includes_no_tables_claims_or_flags(name):
  """Modules that affect no number must not make records stale."""
  run = {'layer': 'lstm', 'task': 'recall', 'benchmark': 'lstm'}
  for kind in LOADED_STUDIES[name].kinds:
    modules = source.code_fingerprints(kind.modules, run)
    assert kind.modules[0] in modules
    for module in modules:
      assert not module.startswith(tuple(f'experiments.lab.{package}.' for package in (
        'results', 'launch', 'evidence', 'weights')))
      assert module.rpartition('.')[2] not in ('study', 'claims', 'tables', '__main__', '__init__')


def test_the_imports_of_a_cell_are_followed_recursively():
  """Only catalogues and modules that affect no number may be left out."""
  relevant = source.imports_that_affect_results('experiments.complexity.layer_counts')
  for module in relevant:
    left_out = source.imported_modules(module) - relevant
    assert not [imported for imported in left_out if source.can_affect_results(imported)]
  assert {'experiments.complexity.path_length', 'experiments.lab.measure.primitives'} <= relevant


def test_records_of_different_code_are_kept_but_are_not_current(tmp_path, monkeypatch):
  store = Store(tmp_path, KINDS)
  lstm_and_attention = [
    records.training_record(layer, 'recall', 20, (0.5, 0.6)) for layer in ('lstm', 'attention')]
  lstm, attention = map(store.write, lstm_and_attention)
  records.simulate_edits(monkeypatch, 'baselines.recurrent')
  assert store.read('retention', lstm['run']) is None
  assert store.records() == [attention]
  assert store.all_records() == sorted(
    [lstm, attention], key=lambda record: record['run']['layer'])
  edited_lstm = store.write(lstm_and_attention[0])
  assert edited_lstm['code'] != lstm['code']
  assert len(store.all_records()) == 3 and len(store.records()) == 2
  monkeypatch.undo()
  assert store.read('retention', lstm['run']) == lstm, 'the record is current again with its code'


def test_imports_are_found_at_the_top_and_inside_functions(monkeypatch):
  tree = ast.parse('''
from baselines.recurrent import LSTM as layer
import experiments.lab.atomic

def function():
  from baselines.mamba2 import Mamba2 as layer
  from transformer import attention
  return layer, attention
''')
  monkeypatch.setattr(source, 'syntax_tree', lambda module: tree)
  source.imported_modules.cache_clear()
  assert source.imported_modules('a module') == {
    'baselines.recurrent', 'baselines.mamba2', 'experiments.lab.atomic', 'transformer.attention'}
  source.imported_modules.cache_clear()


def test_edits_after_the_first_read_do_not_change_the_source(tmp_path, monkeypatch):
  file = tmp_path / 'module.py'
  file.write_text('RATE = 0.5')
  monkeypatch.setattr(source, 'source_path', lambda module: file)
  source.source_bytes.cache_clear()
  before = source.source_bytes('module')
  file.write_text('RATE = 0.25')
  assert source.source_bytes('module') == before
  source.source_bytes.cache_clear()
  assert source.source_bytes('module') != before
  source.source_bytes.cache_clear()


def test_a_command_caches_the_sources_before_it_imports_code_that_computes_numbers():
  with (
    mock.patch.object(source, 'cache_source_files', side_effect=SystemExit(7)),
    mock.patch.object(importlib, 'import_module') as import_module,
  ):
    assert command.run_command(retention, '--preset=smoke').code == 7
  import_module.assert_not_called()


@pytest.mark.parametrize('name', source.registered_components('BENCHMARKS'))
def test_a_benchmark_depends_on_the_modules_that_it_imports(name):
  """A benchmark must not parse a spec, since its code would not include the named modules."""
  module, _ = source.registered_components('BENCHMARKS')[name]
  assert 'experiments.lab.cells.spec' not in source.imported_modules(module)
  for node in ast.walk(source.syntax_tree(module)):
    if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'create_experiment':
      assert len(node.args) == 3, 'the layer and the task must be given'


def test_records_that_were_matched_to_different_budgets_are_reported(tmp_path):
  made = [
    records.training_record(layer, 'recall', 20, (0.5, 0.6)) for layer in ('lstm', 'attention')]
  records.store_records(tmp_path, made)
  assert load_records_of_current_code(tmp_path)[1] == []
  made[1]['result']['budget'] += 1
  records.store_records(tmp_path, made)
  (note,) = load_records_of_current_code(tmp_path)[1]
  assert 'different parameter budgets 1000 and 1001' in note.text
