"""The source of this repository as data: what catalogues list, what imports what, and fingerprints.

A number depends on the modules that compute it: those that make its cell, the layer and the task,
and all that these import. Their fingerprints are part of what a record is stored under, so that an
edited layer makes its own cells stale and no others. A fingerprint is of the parsed source:
comments, docstrings and layout change nothing. Nothing is imported to find any of this out.

Package files (`__init__.py`) are catalogues: they only list, so that an import through one of them
leads nowhere; what a cell takes out of a catalogue is named by its specs.
"""

import ast
import functools
import hashlib
import pathlib
import re
from collections.abc import Iterable

ROOT = pathlib.Path(__file__).parents[2]
PACKAGES = ('transformer', 'baselines', 'experiments')
# What may decide a number, of the lab; of other rooms it is what is imported by these or named.
ROOMS = tuple(f'experiments.lab.{room}' for room in (
  'cells', 'tasks', 'corpora', 'training', 'measure'))
# Which cells can be, and where they are made: that changes none of their numbers.
SETTLING = tuple(f'experiments.lab.cells.{name}' for name in (
  'checks', 'environment', 'limits', 'run', 'sizes', 'spec'))
CATALOGUES = {
  'LAYERS': 'baselines', 'TRANSLATORS': 'baselines', 'POSITIONS': 'transformer.positions',
  'TASKS': 'experiments.lab.tasks', 'CONTESTS': 'experiments.speed.contests',
}
# A setting of a run whose value names entries of catalogues.
NAMED = {
  **dict.fromkeys(('layer', 'layers'), ('LAYERS', 'TRANSLATORS', 'POSITIONS')),
  'task': ('TASKS',), 'what': ('CONTESTS',),
}

OF_FLAX = ('parent', 'name')  # fields of every module


@functools.cache
def path_of(module: str) -> pathlib.Path | None:
  """The file of a module of this repository; None: it has none."""
  place = ROOT.joinpath(*module.split('.'))
  if module.split('.')[0] not in PACKAGES:
    return None
  file = place / '__init__.py' if place.is_dir() else place.with_suffix('.py')
  return file if file.exists() else None


@functools.cache
def text_of(module: str) -> bytes:
  """The source of a module as it is when it is first asked for."""
  return path_of(module).read_bytes()


def keep() -> None:
  """Reads all sources now: fingerprints are then of the code that a command is about to load.

  What is edited while cells are made is not what makes them.
  """
  for package in PACKAGES:
    for path in (ROOT / package).rglob('*.py'):
      parts = path.relative_to(ROOT).with_suffix('').parts
      text_of('.'.join(parts).removesuffix('.__init__'))


@functools.cache
def tree_of(module: str) -> ast.Module:
  """The parsed source of a module."""
  return ast.parse(text_of(module))


def bound(nodes: Iterable[ast.AST]) -> dict[str, tuple[str, str]]:
  """What the import statements among some nodes bind: name -> its module, and its name there.

  A name that is a module itself has '' for the latter.
  """
  names = {}
  for node in nodes:
    if isinstance(node, ast.Import):
      names |= {alias.asname or alias.name: (alias.name, '') for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        whole = f'{node.module}.{alias.name}'
        place = (whole, '') if path_of(whole) else (node.module, alias.name)
        names[alias.asname or alias.name] = place
  return names


@functools.cache
def names_of(module: str) -> dict[str, tuple[str, str]]:
  """What a module imports at its top: name -> the module that it is from, and its name there."""
  return bound(tree_of(module).body)


@functools.cache
def imports_of(module: str) -> frozenset[str]:
  """The modules of this repository that a module imports, inside its functions too."""
  statements = ([node] for node in ast.walk(tree_of(module)))  # two may bind the same name
  return frozenset(
    name for each in statements for name, _ in bound(each).values() if path_of(name))


@functools.cache
def catalogue(name: str) -> dict[str, tuple[str, str]]:
  """The entries of a catalogue: name -> the module that defines the entry, and its name there."""
  module = CATALOGUES[name]
  entries = constants_of(module)[name]
  return {
    key.value: names_of(module).get(value.id, (module, value.id))
    for key, value in zip(entries.keys, entries.values, strict=True)
  }


@functools.cache
def class_of(module: str, name: str) -> ast.ClassDef | None:
  """The definition of a class; None for what is no class of this module, such as a function."""
  return next((node for node in tree_of(module).body
               if isinstance(node, ast.ClassDef) and node.name == name), None)


def options_of(module: str, name: str) -> dict[str, str]:
  """The options of a component: name -> its default as a spec has it."""
  fields = fields_of(module, name).items()
  return {option: text for option, text in fields if text and option not in OF_FLAX}


@functools.cache
def fields_of(module: str, name: str) -> dict[str, str]:
  """The fields of a dataclass, those of its bases first; '' for one without a default."""
  if path_of(module) is None or (made := class_of(module, name)) is None:
    return {}
  fields = {}
  for base in reversed(made.bases):
    if isinstance(base, ast.Name):
      fields |= fields_of(*names_of(module).get(base.id, (module, base.id)))
  for node in made.body:
    if isinstance(node, ast.AnnAssign) and 'ClassVar' not in ast.unparse(node.annotation):
      fields[node.target.id] = written(module, node.value) if node.value else ''
  return fields


@functools.cache
def constants_of(module: str) -> dict[str, ast.expr]:
  """What a module assigns to names: name -> the expression."""
  constants = {}
  for node in tree_of(module).body:
    if isinstance(node, ast.Assign):
      (to,) = node.targets
      pairs = zip(to.elts, node.value.elts, strict=True) if isinstance(to, ast.Tuple) else (
        [(to, node.value)])
      constants |= {each.id: value for each, value in pairs if isinstance(each, ast.Name)}
  return constants


def written(module: str, value: ast.expr) -> str:
  """The default of an option as a spec has it: components by their names in the catalogues."""
  if isinstance(value, ast.Tuple):
    return ', '.join(written(module, each) for each in value.elts)
  if isinstance(value, ast.Name):  # a constant of the module
    return written(module, constants_of(module)[value.id])
  if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
    made = names_of(module).get(value.func.id, (module, value.func.id))
    names = (name for each in CATALOGUES for name, place in catalogue(each).items()
             if place == made)
    options = [f'{each.arg}={written(module, each.value)}'
               for each in value.keywords if each.arg not in OF_FLAX]
    name = next(names, value.func.id)
    return f'{name}({", ".join(options)})' if options else name
  text = ast.literal_eval(value) if isinstance(value, ast.Constant) else ast.unparse(value)
  return text if isinstance(text, str) and text.isidentifier() else ast.unparse(value)


def summary(module: str, name: str) -> str:
  """The first line of what a component says of itself."""
  return (ast.get_docstring(class_of(module, name)) or '').partition('\n')[0]


def named_by(run: dict) -> set[str]:
  """The modules of the layers, tasks and contests that the settings of a run name."""
  modules = set()
  for setting, catalogues in NAMED.items():
    value = run.get(setting, ())
    for text in (value,) if isinstance(value, str) else value:
      words = set(re.findall(r'\w+', text))
      modules |= {
        catalogue(each)[word][0] for each in catalogues for word in words & catalogue(each).keys()}
  return modules


def decides(module: str) -> bool:
  """Whether a number may depend on a module that is imported on its way."""
  if path_of(module).name == '__init__.py' or module in SETTLING:
    return False
  return not module.startswith('experiments.lab.') or module.rpartition('.')[0] in ROOMS


@functools.cache
def reached_from(module: str) -> frozenset[str]:
  """The module, and all that it imports on which a number may depend."""
  seen, waiting = set(), [module]
  while waiting:
    one = waiting.pop()
    if one not in seen:
      seen.add(one)
      waiting += filter(decides, imports_of(one))
  return frozenset(seen)


def code(cells: Iterable[str], run: dict) -> dict[str, str]:
  """The fingerprint of each module that the numbers of a run depend on.

  Args:
    cells: the modules that make its cell.
    run: its settings.

  """
  modules = set().union(*map(reached_from, {*cells, *named_by(run)}))
  return {module: fingerprint(module) for module in sorted(modules)}


@functools.cache
def fingerprint(module: str) -> str:
  """Twelve hex digits of a module's parsed source without docstrings, the same in every Python."""
  return digest(tree_of(module))


def digest(tree: ast.Module) -> str:
  """Twelve hex digits of a syntax tree without docstrings."""
  return hashlib.sha256(_written(tree).encode()).hexdigest()[:12]


def _written(node) -> str:
  """A syntax tree as text: node types and what they hold, but for what is empty or no code."""
  if isinstance(node, list):
    return f'[{",".join(map(_written, node))}]'
  if not isinstance(node, ast.AST):
    return repr(node)
  parts = []
  for name, value in ast.iter_fields(node):
    if name == 'body' and _is_docstring(value):
      value = value[1:]
    if value is not None and value != [] and name not in ('ctx', 'kind', 'type_comment'):
      parts.append(f'{name}={_written(value)}')
  return f'{type(node).__name__}({",".join(parts)})'


def _is_docstring(body) -> bool:
  first = body[0] if isinstance(body, list) and body else None
  return (
    isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    and isinstance(first.value.value, str))
