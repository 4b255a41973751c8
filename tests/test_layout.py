"""The house: who may import whom, what is loaded when, and the map."""

import ast
import configparser
import functools
import graphlib
import pathlib
import re
import sys

import pytest

from baselines import LAYERS
from experiments import STUDIES, load
from experiments.lab.tasks import TASKS
from transformer.positions import POSITIONS

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ('transformer', 'baselines', 'experiments', 'tests')  # each may import those before it
INSTALLED = PACKAGES[:-1]
LINES = 400
FILES = sorted(path.relative_to(ROOT) for package in PACKAGES
               for path in (ROOT / package).rglob('*.py'))
# The rooms of the lab; each may import those before it that are named. Whoever needs them uses
# `errors`, `extra`, `interruption`, `atomic`, `manifest` and `source`, which are files of the lab.
ROOMS = {
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
# What stands above the studies; each may import those that are named.
COMMANDS = {
  'claims': (), 'catalogue': (), 'convert': (), 'translate': (),
  'report': ('claims',), 'runs': ('claims',),
}


def name_of(path):
  """A file's module name."""
  parts = path.with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {name_of(path): path for path in FILES}
OURS = [name for name in MODULES if not name.startswith('tests')]


@functools.cache
def tree_of(name):
  return ast.parse((ROOT / MODULES[name]).read_text())


def imported(nodes):
  """What nodes of a tree import; `from a import b` may mean a module a.b or a name in a."""
  for node in nodes:
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'imports say where from'
      for alias in node.names:
        whole = f'{node.module}.{alias.name}'
        yield whole if whole in MODULES else node.module


@functools.cache
def imports(name):
  """All that a module imports, inside its functions too."""
  return frozenset(imported(ast.walk(tree_of(name))))


def inside_functions(name):
  """The nodes of a module that are executed when one of its functions is called."""
  return [node for function in ast.walk(tree_of(name))
          if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
          for node in ast.walk(function)]


def loaded(name):
  """All that is loaded with a module, by itself or by modules of this repository."""
  seen, waiting = set(), [name]
  while waiting:
    one = waiting.pop()
    if one in seen:
      continue
    seen.add(one)
    if one in MODULES:
      later = set(map(id, inside_functions(one)))
      waiting += imported(node for node in ast.walk(tree_of(one)) if id(node) not in later)
      waiting += ['.'.join(one.split('.')[:n]) for n in range(1, one.count('.') + 1)]
  return seen


def within(name, *places):
  """Whether a module is one of these, or inside of one."""
  return any(name == place or name.startswith(f'{place}.') for place in places)


def room_of(name):
  """A package, a study, a command, or a room or a file of the lab."""
  parts = name.split('.')
  if parts[0] != 'experiments':
    return parts[0]
  return '.'.join(parts[:3] if parts[1:2] == ['lab'] else parts[:2])


def lab(*rooms):
  return tuple(f'experiments.lab.{room}' for room in rooms)


def may_import(room):
  """The places that a room may import from besides itself and what is outside this repository."""
  shared = lab('errors', 'extra', 'interruption', 'atomic', 'manifest', 'source')
  if room in PACKAGES:
    return PACKAGES[:PACKAGES.index(room)]
  if room in lab(*ROOMS):
    own = room.rpartition('.')[2]
    below = ('transformer', 'baselines') if own in ('cells', 'training') else ()
    return (*shared, *lab(*ROOMS[own]), *below)
  if within(room, 'experiments.lab'):  # a file that is everybody's
    return shared
  own = room.rpartition('.')[2]
  others = tuple(f'experiments.{name}' for name in COMMANDS.get(own, ()))
  catalogue = ('experiments.__init__',) if own in COMMANDS else ()  # STUDIES, loaded when asked
  return ('transformer', 'baselines', 'experiments.lab', *others, *catalogue)


@pytest.mark.parametrize('name', MODULES)
def test_imports_go_one_way(name):
  room = room_of(name)
  for other in imports(name):
    if other in MODULES and room_of(other) != room:
      place = 'experiments.__init__' if other == 'experiments' else other
      assert within(place, *may_import(room)), other


def graph(of):
  """What each module, or each room, imports of the others."""
  found = {}
  for name in OURS:
    own = of(name)
    found.setdefault(own, set()).update(
      of(other) for other in imports(name) if other in MODULES and of(other) != own)
  return found


@pytest.mark.parametrize('of', [lambda name: name, room_of], ids=['modules', 'rooms'])
def test_there_is_no_circle(of):
  graphlib.TopologicalSorter(graph(of)).prepare()  # raises a CycleError


def test_a_circle_is_found():
  with pytest.raises(graphlib.CycleError):
    graphlib.TopologicalSorter(graph(room_of) | {
      'experiments.lab.results': {'experiments.retention'}}).prepare()


@pytest.mark.parametrize('name', STUDIES)
def test_a_study_is_one_value(name):
  study = load(name)
  assert study.name == name
  assert {'smoke', 'quick', 'paper'} <= study.presets.keys()
  assert {claim.study for claim in (*study.claims, *study.controls)} <= {name}
  assert study.cells in MODULES
  assert all(module in MODULES for kind in study.kinds for module in kind.cells)
  assert all(kind.cells for kind in study.kinds)


@pytest.mark.parametrize('made', [*LAYERS.values(), *TASKS.values(), *POSITIONS.values()])
def test_every_entry_of_a_catalogue_is_documented(made):
  own = vars(made)['__doc__'] or ''
  assert own.strip() and not own.startswith(f'{made.__name__}(')  # which a dataclass writes itself
  assert sys.modules[made.__module__].__doc__


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
  'tensorflow_datasets': ('experiments.lab.corpora.sets',),
  'sentencepiece': ('experiments.lab.corpora.vocabulary',),
  'num2words': ('experiments.lab.tasks.number_words',),
  'babel': ('experiments.lab.tasks.dates',),
  'sacrebleu': ('experiments.lab.results.translations',),
  'sacremoses': ('experiments.lab.results.translations',),
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
    if isinstance(called, ast.Attribute) and called.attr in ('load', 'later', 'import_module'):
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
  *(study for study in STUDIES.values()),
  *(name for name in MODULES if name.startswith('experiments.') and name.endswith('.__main__')),
  *(name for name in MODULES if within(name, *lab('results', 'evidence'))),
  *lab('launch.flags', 'launch.driver', 'launch.listing', 'cells.run', 'errors', 'source'),
  'experiments.lab.training.recipe',
])
def test_what_reads_flags_or_records_loads_no_jax(name):
  assert not [other for other in loaded(name) if within(other, 'jax', 'flax', 'optax')]


LATER = {  # modules that import something only when it is used, and what
  'experiments.variations.study': {'experiments.variations'},  # its tables count with the model
  'transformer.fused_attention': {'jax.experimental.pallas.ops.tpu.flash_attention'},
}


@pytest.mark.parametrize('name', OURS)
def test_imports_stand_at_the_top(name):
  later = {other.removesuffix('.tables') for other in imported(inside_functions(name))}
  assert later <= LATER.get(name, set())


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


def test_every_package_and_every_file_of_data_is_installed():
  settings = configparser.ConfigParser()
  settings.read(ROOT / 'setup.cfg')
  data = settings['options.package_data']
  for package in INSTALLED:
    for path in (ROOT / package).rglob('*'):
      if path.suffix in ('.html', '.json'):
        place = '.'.join(path.parent.relative_to(ROOT).parts)
        assert f'*{path.suffix}' in data.get(place, '').split(', '), path
  assert not [path for path in FILES if path.parts[0] in INSTALLED
              and not (ROOT / path.parent / '__init__.py').exists()]


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


def test_the_map_shows_what_is_there():
  """A file that it lacks is no fault: `make map` writes the tree from the files' first lines."""
  found = drawn((ROOT / 'WORKSPACE.md').read_text())
  assert [path for path in found if not (ROOT / path).exists()] == []
  assert [path for path, clause in found.items() if not clause] == []


@pytest.mark.parametrize('change', [
  lambda text: text.replace('  layer.py ', '  layers.py ', 1),  # a file that is not there
  lambda text: re.sub(r'^(      recall\.py) .*$', r'\1', text, flags=re.MULTILINE),  # no clause
  lambda text: text.replace('      store.py ', '    store.py ', 1),  # in another folder
])
def test_the_map_is_checked(change, monkeypatch):
  text = (ROOT / 'WORKSPACE.md').read_text()
  assert change(text) != text
  monkeypatch.setattr(pathlib.Path, 'read_text', lambda *_: change(text))
  with pytest.raises(AssertionError):
    test_the_map_shows_what_is_there()
