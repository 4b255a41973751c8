"""Tests of the repository's layout, its permitted imports, and the map in WORKSPACE.md."""

import ast
import configparser
import functools
import graphlib
import pathlib
import re
import sys

import pytest

from baselines import LAYERS
from experiments import STUDIES, load_study
from experiments.lab.tasks import TASKS
from transformer.positions import POSITIONS

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ('transformer', 'baselines', 'experiments', 'tests')  # each may import earlier ones
INSTALLED = PACKAGES[:-1]
MAX_LINES = 400
FILES = sorted(path.relative_to(ROOT) for package in PACKAGES
               for path in (ROOT / package).rglob('*.py'))
# The packages of the lab, each with the other packages of the lab that it may import.
LAB_PACKAGES = {
  'measure': (),
  'corpora': (),
  'tasks': ('corpora',),
  'training': ('corpora', 'tasks'),
  'weights': (),
  'results': (),
  'evidence': ('results',),
  'cells': ('corpora', 'measure', 'results', 'tasks', 'training', 'weights'),
  'launch': ('cells', 'evidence', 'results', 'tasks', 'training'),
}
# Single modules of the lab, which all of its packages may import.
SHARED = ('errors', 'optional', 'interruption', 'atomic', 'sealed_folder', 'source')
# Commands that operate on all studies, each with the other commands that it may import.
COMMANDS = {
  'claims': (), 'catalogue': (), 'convert': (), 'translate': (),
  'report': ('claims',), 'runs': ('claims',),
}


def module_name(path):
  """The dotted module name of a file."""
  parts = path.with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {module_name(path): path for path in FILES}
INSTALLED_MODULES = [name for name in MODULES if not name.startswith('tests')]


@functools.cache
def syntax_tree(module):
  return ast.parse((ROOT / MODULES[module]).read_text())


def imported_by_nodes(nodes):
  """Yields the modules that import statements among the nodes import."""
  for node in nodes:
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'imports are absolute'
      for alias in node.names:  # `from a import b` may import the module a.b or a name in a
        qualified = f'{node.module}.{alias.name}'
        yield qualified if qualified in MODULES else node.module


@functools.cache
def imports_of_module(module):
  """All modules that a module imports, also inside its functions."""
  return frozenset(imported_by_nodes(ast.walk(syntax_tree(module))))


def nodes_inside_functions(module):
  """The nodes of a module that are executed only when one of its functions is called."""
  return [node for function in ast.walk(syntax_tree(module))
          if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
          for node in ast.walk(function)]


def loaded_with_module(module):
  """All modules that the import of a module loads, directly or indirectly."""
  visited, pending = set(), [module]
  while pending:
    current = pending.pop()
    if current in visited:
      continue
    visited.add(current)
    if current in MODULES:
      deferred = set(map(id, nodes_inside_functions(current)))
      pending += imported_by_nodes(
        node for node in ast.walk(syntax_tree(current)) if id(node) not in deferred)
      pending += ['.'.join(current.split('.')[:n]) for n in range(1, current.count('.') + 1)]
  return visited


def is_within(module, *packages):
  """Whether a module is one of these packages or modules, or is inside one of them."""
  return any(module == package or module.startswith(f'{package}.') for package in packages)


def unit_of_module(module):
  """The package, study, command or part of the lab whose imports are restricted together."""
  parts = module.split('.')
  if parts[0] != 'experiments':
    return parts[0]
  return '.'.join(parts[:3] if parts[1:2] == ['lab'] else parts[:2])


def lab_modules(*names):
  return tuple(f'experiments.lab.{name}' for name in names)


def permitted_imports(unit):
  """The packages and modules of this repository that a unit may import besides itself."""
  shared, name = lab_modules(*SHARED), unit.rpartition('.')[2]
  if unit in PACKAGES:
    return PACKAGES[:PACKAGES.index(unit)]
  if unit in lab_modules(*LAB_PACKAGES):
    models = {
      'cells': ('transformer', 'baselines'), 'training': ('transformer', 'baselines'),
      'tasks': ('transformer.laws',),  # the framework that checks laws, which imports no model
    }.get(name, ())
    return (*shared, *lab_modules(*LAB_PACKAGES[name]), *models)
  if is_within(unit, 'experiments.lab'):
    return shared
  commands = tuple(f'experiments.{command}' for command in COMMANDS.get(name, ()))
  studies = ('experiments.__init__',) if name in COMMANDS else ()  # STUDIES, loaded on request
  return ('transformer', 'baselines', 'experiments.lab', *commands, *studies)


@pytest.mark.parametrize('module', MODULES)
def test_modules_import_permitted_units_only(module):
  unit = unit_of_module(module)
  for imported in imports_of_module(module):
    if imported in MODULES and unit_of_module(imported) != unit:
      qualified = 'experiments.__init__' if imported == 'experiments' else imported
      assert is_within(qualified, *permitted_imports(unit)), imported


def import_graph(group_of_module):
  """Maps each group of modules to the other groups that it imports."""
  graph = {}
  for module in INSTALLED_MODULES:
    group = group_of_module(module)
    graph.setdefault(group, set()).update(
      group_of_module(imported) for imported in imports_of_module(module)
      if imported in MODULES and group_of_module(imported) != group)
  return graph


@pytest.mark.parametrize(
  'group_of_module', [lambda module: module, unit_of_module], ids=['modules', 'units'])
def test_imports_have_no_cycle(group_of_module):
  graphlib.TopologicalSorter(import_graph(group_of_module)).prepare()  # raises a CycleError


def test_a_cycle_of_imports_is_detected():
  with pytest.raises(graphlib.CycleError):
    graphlib.TopologicalSorter(import_graph(unit_of_module) | {
      'experiments.lab.results': {'experiments.retention'}}).prepare()


@pytest.mark.parametrize('name', STUDIES)
def test_a_study_defines_presets_claims_cells_and_record_kinds(name):
  study = load_study(name)
  assert study.name == name
  assert {'smoke', 'quick', 'paper'} <= study.presets.keys()
  assert {claim.study for claim in (*study.claims, *study.controls)} <= {name}
  assert study.cells in MODULES
  assert all(module in MODULES for kind in study.kinds for module in kind.modules)
  assert all(kind.modules for kind in study.kinds)


@pytest.mark.parametrize('entry', [*LAYERS.values(), *TASKS.values(), *POSITIONS.values()])
def test_every_entry_of_a_catalogue_has_a_docstring(entry):
  text = vars(entry)['__doc__'] or ''
  # A dataclass without a docstring gets its signature as one.
  assert text.strip() and not text.startswith(f'{entry.__name__}(')
  assert sys.modules[entry.__module__].__doc__


# Libraries that only the listed modules or packages may import.
OWNERS = {
  'optax': ('experiments.lab.training',),
  'absl.flags': ('experiments.lab.launch.flags', *(
    f'experiments.{study}.study' for study in ('complexity', 'compile_tpu', 'parallelism', 'speed')
  ), *(f'experiments.{name}.__main__' for name in COMMANDS)),
  'matplotlib': ('experiments.lab.results',),
  'jinja2': ('experiments.report',),
  'markupsafe': ('experiments.report',),
  'tabulate': ('experiments.lab.results',),
  'tqdm': ('experiments.lab.launch',),
  'torch': ('experiments.speed.pytorch', 'experiments.convert.interop'),
  'transformers': ('experiments.convert.interop',),
  'safetensors': ('experiments.lab.weights.safetensors',),
  'tokenizers': ('experiments.convert',),
  'libtpu': ('experiments.compile_tpu.devices',),
  'orbax': ('experiments.lab.training.checkpoints',),
  'tensorflow_datasets': ('experiments.lab.corpora.datasets',),
  'sentencepiece': ('experiments.lab.corpora.vocabulary',),
  'num2words': ('experiments.lab.tasks.number_words',),
  'babel': ('experiments.lab.tasks.dates',),
  'sacrebleu': ('experiments.lab.results.translation_scores',),
  'sacremoses': ('experiments.lab.results.translation_scores',),
}


@functools.cache
def import_and_call_nodes(module):
  """The nodes of a module that may import another module, by a statement or by a call."""
  kinds = ast.Import, ast.ImportFrom, ast.Call
  return [node for node in ast.walk(syntax_tree(module)) if isinstance(node, kinds)]


def imports_library(module, library):
  """Whether a module imports a library by a statement, or by its name in an import function."""
  parts = library.split('.')
  for node in import_and_call_nodes(module):
    if isinstance(node, ast.Import) and any(is_within(a.name, library) for a in node.names):
      return True
    if isinstance(node, ast.ImportFrom) and any(
        is_within(f'{node.module}.{a.name}', library) or is_within(node.module, library)
        for a in node.names):
      return True
    function = node.func if isinstance(node, ast.Call) else None
    if isinstance(function, ast.Attribute) and function.attr in (
        'import_optional', 'lazy_module', 'import_module'):
      name = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else ''
      if isinstance(name, str) and name.split('.')[: len(parts)] == parts:
        return True
  return False


@pytest.mark.parametrize('library', OWNERS)
def test_a_library_is_imported_by_its_owners_only(library):
  users = [module for module in MODULES
           if imports_library(module, library) and not is_within(module, 'tests')]
  assert users
  assert [module for module in users if not is_within(module, *OWNERS[library])] == []


@pytest.mark.parametrize('module', [
  *(study for study in STUDIES.values()),
  *(name for name in MODULES if name.startswith('experiments.') and name.endswith('.__main__')),
  *(name for name in MODULES if is_within(name, *lab_modules('results', 'evidence'))),
  *lab_modules(
    'launch.flags', 'launch.driver', 'launch.listing', 'cells.run', 'errors', 'source'),
  'experiments.lab.training.recipe',
])
def test_flags_and_records_are_read_without_jax(module):
  loaded = loaded_with_module(module)
  assert not [name for name in loaded if is_within(name, 'jax', 'flax', 'optax')]


# Modules that may import the listed modules inside a function.
DEFERRED_IMPORTS = {
  'experiments.variations.study': {'experiments.variations'},  # its tables count parameters
  'transformer.fused_attention': {'jax.experimental.pallas.ops.tpu.flash_attention'},
}


@pytest.mark.parametrize('module', INSTALLED_MODULES)
def test_imports_are_at_the_top_of_a_module(module):
  deferred = {name.removesuffix('.tables')
              for name in imported_by_nodes(nodes_inside_functions(module))}
  assert deferred <= DEFERRED_IMPORTS.get(module, set())


@pytest.mark.parametrize(
  'module', [name for name in MODULES if is_within(name, 'transformer', 'baselines')])
def test_layers_import_jax_flax_and_numpy_only(module):
  for name in imports_of_module(module):
    assert is_within(name, 'jax', 'flax', 'numpy', 'transformer', 'baselines') or (
      name.split('.')[0] in sys.stdlib_module_names), name


@pytest.mark.parametrize('module', MODULES)
def test_nothing_is_evaluated_or_unpickled(module):
  unsafe = 'pickle', 'dill', 'cloudpickle', 'marshal'
  assert not [name for name in imports_of_module(module) if is_within(name, *unsafe)]
  for node in ast.walk(syntax_tree(module)):
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
      assert node.func.id not in ('eval', 'exec', 'compile'), node.lineno
    if isinstance(node, ast.keyword) and node.arg == 'allow_pickle':
      assert getattr(node.value, 'value', True) is False


@pytest.mark.parametrize('module', MODULES)
def test_files_are_short_and_have_docstrings(module):
  text = (ROOT / MODULES[module]).read_text()
  assert len(text.splitlines()) <= MAX_LINES
  assert ast.get_docstring(syntax_tree(module))
  assert not re.search('TO' 'DO|FIX' 'ME', text)


def test_every_package_and_every_data_file_is_installed():
  settings = configparser.ConfigParser()
  settings.read(ROOT / 'setup.cfg')
  data = settings['options.package_data']
  for package in INSTALLED:
    for path in (ROOT / package).rglob('*'):
      if path.suffix in ('.html', '.json'):
        owner = '.'.join(path.parent.relative_to(ROOT).parts)
        assert f'*{path.suffix}' in data.get(owner, '').split(', '), path
  assert not [path for path in FILES if path.parts[0] in INSTALLED
              and not (ROOT / path.parent / '__init__.py').exists()]


def parse_map(text):
  """Maps each path in the tree of a text's first fenced block to its description."""
  (block, *_) = re.findall(r'^```\n(.*?)^```', text, re.MULTILINE | re.DOTALL)
  descriptions, folders = {}, []
  for line in filter(str.strip, block.splitlines()):
    indent, name, description = re.fullmatch(r'( *)(\S+)(?: +(\S.*))?', line).groups()
    assert len(indent) % 2 == 0 and len(indent) // 2 <= len(folders), line
    del folders[len(indent) // 2:]
    assert None not in folders, f'{name} is inside a file'
    path = '/'.join([*folders, name.rstrip('/')])
    assert path not in descriptions, f'{path} is listed twice'
    descriptions[path] = description or ''
    folders.append(name.rstrip('/') if name.endswith('/') else None)
  return descriptions


def test_every_path_in_the_map_exists_and_is_described():
  """Files may be missing in the map, since `make map` generates it from their first lines."""
  descriptions = parse_map((ROOT / 'WORKSPACE.md').read_text())
  assert [path for path in descriptions if not (ROOT / path).exists()] == []
  assert [path for path, description in descriptions.items() if not description] == []


@pytest.mark.parametrize('change', [
  lambda text: text.replace('  layer.py ', '  layers.py ', 1),  # a file that does not exist
  lambda text: re.sub(r'^(      recall\.py) .*$', r'\1', text, flags=re.M),  # no description
  lambda text: text.replace('      store.py ', '    store.py ', 1),  # in another folder
])
def test_errors_in_the_map_are_detected(change, monkeypatch):
  text = (ROOT / 'WORKSPACE.md').read_text()
  assert change(text) != text
  monkeypatch.setattr(pathlib.Path, 'read_text', lambda *_: change(text))
  with pytest.raises(AssertionError):
    test_every_path_in_the_map_exists_and_is_described()
