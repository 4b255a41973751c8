"""The house: who may import whom, and the map that shows all of it."""

import ast
import functools
import pathlib
import re
import sys

import pytest

from baselines import LAYERS
from experiments.tasks import TASKS
from transformer.positions import POSITIONS

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ('transformer', 'baselines', 'experiments', 'tests')  # each may import those before it
ROOMS = (
  'corpora', 'tasks', 'measure', 'results', 'training', 'launch', 'contests', 'weights', 'ledger',
)
LEDGER = ('claims', 'ledger', 'report')  # they read what studies store
SHARED = ('extra', 'interruption', 'manifest')  # whoever needs it may use it
LINES = 400
FILES = sorted(path.relative_to(ROOT) for package in PACKAGES
               for path in (ROOT / package).rglob('*.py'))


def name_of(path):
  """A file's module name."""
  parts = path.with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {name_of(path): path for path in FILES}
SCRIPTS = [name for name, path in MODULES.items()
           if re.search(r"__name__ == '__main__'", (ROOT / path).read_text())
           and path.parts[0] == 'experiments']
STUDIES = [name for name in MODULES if re.fullmatch(r'experiments\.\w+', name)
           and name.split('.')[1] not in (*ROOMS, *LEDGER, *SHARED)]


@functools.cache
def tree_of(name):
  return ast.parse((ROOT / MODULES[name]).read_text())


def imported(tree):
  """What the nodes of a tree import; `from a import b` may mean a module a.b or a name in a."""
  for node in tree:
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'imports say where from'
      for alias in node.names:
        whole = f'{node.module}.{alias.name}'
        yield whole if whole in MODULES else node.module


def imports(name):
  """All that a module imports, inside its functions too."""
  return set(imported(ast.walk(tree_of(name))))


def loaded(name):
  """All that is loaded with a module, by itself or by modules of this repository."""
  seen, waiting = set(), [name]
  while waiting:
    one = waiting.pop()
    if one in seen:
      continue
    seen.add(one)
    if one in MODULES:
      tree = tree_of(one)
      inside = {id(node) for function in ast.walk(tree)
                if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
                for node in ast.walk(function)}
      waiting += imported(node for node in ast.walk(tree) if id(node) not in inside)
      waiting += ['.'.join(one.split('.')[:n]) for n in range(1, one.count('.') + 1)]
  return seen


def within(name, *places):
  """Whether a module is one of these, or inside of one."""
  return any(name == place or name.startswith(f'{place}.') for place in places)


def room(name):
  return f'experiments.{name}'


@pytest.mark.parametrize('name', MODULES)
def test_imports_go_one_way(name):
  package = name.split('.')[0]
  later = PACKAGES[PACKAGES.index(package) + 1:]
  assert not [other for other in imports(name) if within(other, *later)]


@pytest.mark.parametrize('name', MODULES)
def test_rooms_know_only_the_rooms_that_they_may(name):
  may = {
    'corpora': (), 'tasks': ('corpora',), 'measure': (),
    'results': (), 'launch': (*ROOMS[:-3], 'weights'),
    'training': ('tasks.task', 'corpora.reserved'),
    'contests': ROOMS[:-2], 'weights': ('launch.errors', 'results.atomic', 'results.table'),
  }
  may['ledger'] = 'results', *(study.split('.')[1] for study in STUDIES)
  own = name.split('.')[1] if within(name, *map(room, ROOMS)) else None
  if own is None:
    return
  for other in imports(name):
    if within(other, 'experiments') and not within(other, room(own), *map(room, SHARED)):
      assert within(other, *map(room, may[own])), other


def test_only_the_ledger_and_the_report_import_scripts():
  scripts = {*STUDIES, *SCRIPTS, *map(room, LEDGER)}
  for name in MODULES:
    if not within(name, 'tests', *map(room, LEDGER)):
      assert not imports(name) & (scripts - {name}), name


@pytest.mark.parametrize('made', [*LAYERS.values(), *TASKS.values(), *POSITIONS.values()])
def test_every_entry_of_a_catalogue_is_documented(made):
  own = vars(made)['__doc__'] or ''
  assert own.strip() and not own.startswith(f'{made.__name__}(')  # which a dataclass writes itself
  assert sys.modules[made.__module__].__doc__


OWNERS = {
  'optax': ('experiments.training',),
  'absl.flags': ('experiments.launch.flags', *SCRIPTS),
  'matplotlib': ('experiments.results',),
  'jinja2': ('experiments.results',),
  'markupsafe': ('experiments.results',),
  'tabulate': ('experiments.results',),
  'tqdm': ('experiments.launch',),
  'torch': ('experiments.contests.pytorch', 'experiments.weights.interop'),
  'transformers': ('experiments.weights.interop',),
  'safetensors': ('experiments.weights.safetensors',),
  'tokenizers': ('experiments.convert',),
  'libtpu': ('experiments.launch.topologies',),
  'orbax': ('experiments.training.checkpoints',),
  'tensorflow_datasets': ('experiments.corpora.sets',),
  'sentencepiece': ('experiments.corpora.vocabulary',),
  'num2words': ('experiments.tasks.number_words',),
  'babel': ('experiments.tasks.dates',),
  'sacrebleu': ('experiments.results.translations',),
  'sacremoses': ('experiments.results.translations',),
}


@functools.cache
def loads_of(name):
  """All nodes of a module that may load another one."""
  kinds = ast.Import, ast.ImportFrom, ast.Call
  return [node for node in ast.walk(tree_of(name)) if isinstance(node, kinds)]


def mentions(name, library):
  """Whether a module imports a library, by a statement or by its name in `extra.load`."""
  parts = library.split('.')
  for node in loads_of(name):
    if isinstance(node, ast.Import) and any(within(a.name, library) for a in node.names):
      return True
    if isinstance(node, ast.ImportFrom) and any(
        within(f'{node.module}.{a.name}', library) or within(node.module, library)
        for a in node.names):
      return True
    called = node.func if isinstance(node, ast.Call) else None
    if isinstance(called, ast.Attribute) and called.attr in ('load', 'import_module'):
      said = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else ''
      if isinstance(said, str) and said.split('.')[: len(parts)] == parts:
        return True
  return False


@pytest.mark.parametrize('library', OWNERS)
def test_a_library_is_used_by_its_owners_only(library):
  users = [name for name in MODULES if mentions(name, library) and not within(name, 'tests')]
  assert users
  assert [name for name in users if not within(name, *OWNERS[library])] == []


@pytest.mark.parametrize('name', [
  *SCRIPTS, *(f'experiments.launch.{name}' for name in ('flags', 'run', 'errors')),
  'experiments.training.recipe',
  *(name for name in MODULES if within(name, 'experiments.results')),
])
def test_what_reads_flags_or_records_loads_no_jax(name):
  assert not [other for other in loaded(name) if within(other, 'jax', 'flax', 'optax')]


@pytest.mark.parametrize('name', [n for n in MODULES if within(n, 'transformer', 'baselines')])
def test_the_subject_and_its_rivals_know_jax_and_flax_and_nothing_else(name):
  for other in imports(name):
    assert within(other, 'jax', 'flax', 'transformer', 'baselines') or (
      other.split('.')[0] in sys.stdlib_module_names), other


@pytest.mark.parametrize('name', MODULES)
def test_nothing_is_evaluated_or_unpickled(name):
  assert not [o for o in imports(name) if within(o, 'pickle', 'dill', 'cloudpickle', 'marshal')]
  for node in ast.walk(tree_of(name)):
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
      assert node.func.id not in ('eval', 'exec', 'compile'), node.lineno
    if isinstance(node, ast.keyword) and node.arg == 'allow_pickle':
      assert getattr(node.value, 'value', True) is False


@pytest.mark.parametrize('name', MODULES)
def test_files_are_short_and_say_what_they_are(name):
  text = (ROOT / MODULES[name]).read_text()
  assert len(text.splitlines()) <= LINES
  assert ast.get_docstring(tree_of(name))
  assert not re.search('TO' 'DO|FIX' 'ME', text)


def drawn(text):
  """The tree of a map, its first fenced block: path -> clause."""
  (block, *_) = re.findall(r'^```\n(.*?)^```', text, re.MULTILINE | re.DOTALL)
  found, folders = {}, []
  for line in filter(str.strip, block.splitlines()):
    indent, name, clause = re.fullmatch(r'( *)(\S+)(?: +(\S.*))?', line).groups()
    assert len(indent) % 2 == 0 and len(indent) // 2 <= len(folders), line
    del folders[len(indent) // 2:]
    assert None not in folders, f'{name} stands in a file'
    path = '/'.join([*folders, name.rstrip('/')])
    assert path not in found, f'{path} is drawn twice'
    found[path] = clause or ''
    folders.append(name.rstrip('/') if name.endswith('/') else None)
  return found


def test_the_map_shows_every_file_once_with_a_clause_and_nothing_else():
  found = drawn((ROOT / 'WORKSPACE.md').read_text())
  assert [path for path, clause in found.items() if not clause] == []
  assert [path for path in found if not (ROOT / path).exists()] == []
  assert {str(path) for path in FILES} - set(found) == set()
  data = {str(path.relative_to(ROOT)) for package in PACKAGES
          for path in (ROOT / package).rglob('*') if path.suffix in ('.json', '.html', '.md')}
  assert data - set(found) == set()


@pytest.mark.parametrize('change', [
  lambda text: text.replace('  layer.py ', '  layers.py ', 1),  # a file that is not there
  lambda text: re.sub(r'^  block\.py .*\n', '', text, count=1, flags=re.MULTILINE),  # one left out
  lambda text: re.sub(r'^(    recall\.py) .*$', r'\1', text, flags=re.MULTILINE),  # no clause
  lambda text: text.replace('    store.py ', '  store.py ', 1),  # in another folder
])
def test_the_map_is_checked(change, monkeypatch):
  text = (ROOT / 'WORKSPACE.md').read_text()
  assert change(text) != text
  monkeypatch.setattr(pathlib.Path, 'read_text', lambda *_: change(text))
  with pytest.raises(AssertionError):
    test_the_map_shows_every_file_once_with_a_clause_and_nothing_else()
