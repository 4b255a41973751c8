"""Static analysis of the source code, which lists layers, tasks and imports, and hashes modules.

The numbers of an experiment cell depend on the modules that execute the cell, on its layer and
task, and on all modules that these import. Their fingerprints are a part of the key under which a
record is stored. An edited layer therefore invalidates its own cells and no others. A fingerprint
is computed from the syntax tree, so that comments, docstrings and layout do not affect it. The
analysis imports no module.

Package files (`__init__.py`) are catalogues that only list entries. An import of a catalogue
therefore counts as a dependence on none of its entries. The entries that a cell uses are named by
the specs in its settings.
"""

import ast
import functools
import hashlib
import pathlib
import re
from collections.abc import Iterable

ROOT = pathlib.Path(__file__).parents[2]
PACKAGES = ('transformer', 'baselines', 'experiments')
# In experiments/lab, only modules of these packages can affect the results of a grid cell.
# All modules outside experiments/lab can affect the results of the grid cells that import them.
# The modules that define a grid cell's layer, task or benchmark can also affect its results.
RELEVANT_PACKAGES = tuple(f'experiments.lab.{package}' for package in (
  'cells', 'tasks', 'corpora', 'training', 'measure'))
# These modules validate settings or identify the machine, and do not affect numerical results.
IRRELEVANT_MODULES = tuple(f'experiments.lab.cells.{name}' for name in (
  'checks', 'environment', 'limits', 'run', 'sizes', 'spec'))
CATALOGUES = {
  'LAYERS': 'baselines', 'TRANSLATORS': 'baselines', 'POSITIONS': 'transformer.positions',
  'TASKS': 'experiments.lab.tasks', 'BENCHMARKS': 'experiments.speed.benchmarks',
}
# Maps each run setting whose value contains names to the catalogues that define those names.
# The value of such a setting is a spec string, such as attention(num_heads=4), or a list of them.
SPEC_SETTINGS = {
  **dict.fromkeys(('layer', 'layers'), ('LAYERS', 'TRANSLATORS', 'POSITIONS')),
  'task': ('TASKS',), 'benchmark': ('BENCHMARKS',),
}

FLAX_FIELDS = ('parent', 'name')  # fields that Flax adds to every module


@functools.cache
def source_path(module: str) -> pathlib.Path | None:
  """The source file of a module, or None for a module outside this repository."""
  path = ROOT.joinpath(*module.split('.'))
  if module.split('.')[0] not in PACKAGES:
    return None
  file = path / '__init__.py' if path.is_dir() else path.with_suffix('.py')
  return file if file.exists() else None


@functools.cache
def source_bytes(module: str) -> bytes:
  """The cached content of a module's source file."""
  return source_path(module).read_bytes()


def cache_source_files() -> None:
  """Caches all source files, so that later edits do not change the code fingerprints.

  Files that are edited while the command computes its cells do not change these fingerprints.
  """
  for package in PACKAGES:
    for path in (ROOT / package).rglob('*.py'):
      parts = path.relative_to(ROOT).with_suffix('').parts
      source_bytes('.'.join(parts).removesuffix('.__init__'))


@functools.cache
def syntax_tree(module: str) -> ast.Module:
  """The syntax tree of a module."""
  return ast.parse(source_bytes(module))


def imported_names(nodes: Iterable[ast.AST]) -> dict[str, tuple[str, str]]:
  """Maps each imported name to its module of origin and its name in that module.

  The second name is '' if the imported object is itself a module.
  """
  names = {}
  for node in nodes:
    if isinstance(node, ast.Import):
      names |= {alias.asname or alias.name: (alias.name, '') for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        qualified = f'{node.module}.{alias.name}'
        origin = (qualified, '') if source_path(qualified) else (node.module, alias.name)
        names[alias.asname or alias.name] = origin
  return names


@functools.cache
def top_level_imports(module: str) -> dict[str, tuple[str, str]]:
  """Maps each name imported at the top level of a module to its origin module and original name."""
  return imported_names(syntax_tree(module).body)


@functools.cache
def imported_modules(module: str) -> frozenset[str]:
  """The modules of this repository that a module imports, including imports inside functions."""
  # Two import statements may bind the same name, so each statement is analysed separately.
  statements = ([node] for node in ast.walk(syntax_tree(module)))
  return frozenset(
    name for statement in statements
    for name, _ in imported_names(statement).values() if source_path(name))


@functools.cache
def registered_components(catalogue_name: str) -> dict[str, tuple[str, str]]:
  """Maps each name in a catalogue such as LAYERS to the module and class that it refers to.

  A benchmark is a function instead of a class.
  """
  module = CATALOGUES[catalogue_name]
  entries = module_constants(module)[catalogue_name]
  return {
    key.value: top_level_imports(module).get(value.id, (module, value.id))
    for key, value in zip(entries.keys, entries.values, strict=True)
  }


@functools.cache
def class_definition(module: str, name: str) -> ast.ClassDef | None:
  """The definition of a class in a module, or None if the module defines no such class."""
  return next((node for node in syntax_tree(module).body
               if isinstance(node, ast.ClassDef) and node.name == name), None)


def constructor_options(module: str, class_name: str) -> dict[str, str]:
  """Maps each constructor option of a layer or task to its default as written in a spec string."""
  fields = dataclass_fields(module, class_name).items()
  return {option: text for option, text in fields if text and option not in FLAX_FIELDS}


@functools.cache
def dataclass_fields(module: str, class_name: str) -> dict[str, str]:
  """Maps each field of a dataclass to the text of its default value, inherited fields first.

  The text is '' for a field without a default.
  """
  if source_path(module) is None or (definition := class_definition(module, class_name)) is None:
    return {}
  fields = {}
  for base in reversed(definition.bases):
    if isinstance(base, ast.Name):
      fields |= dataclass_fields(*top_level_imports(module).get(base.id, (module, base.id)))
  for node in definition.body:
    if isinstance(node, ast.AnnAssign) and 'ClassVar' not in ast.unparse(node.annotation):
      fields[node.target.id] = format_option_default(module, node.value) if node.value else ''
  return fields


@functools.cache
def module_constants(module: str) -> dict[str, ast.expr]:
  """Maps each name that a module assigns at its top level to the assigned expression."""
  constants = {}
  for node in syntax_tree(module).body:
    if isinstance(node, ast.Assign):
      (target,) = node.targets
      pairs = (zip(target.elts, node.value.elts, strict=True)
               if isinstance(target, ast.Tuple) else [(target, node.value)])
      constants |= {name.id: value for name, value in pairs if isinstance(name, ast.Name)}
  return constants


def format_option_default(defining_module: str, default: ast.expr) -> str:
  """Formats the default value of an option in spec notation, such as attention(num_heads=4)."""
  if isinstance(default, ast.Tuple):
    return ', '.join(format_option_default(defining_module, element) for element in default.elts)
  if isinstance(default, ast.Name):  # a constant of the module
    return format_option_default(defining_module, module_constants(defining_module)[default.id])
  if isinstance(default, ast.Call) and isinstance(default.func, ast.Name):
    class_name = default.func.id
    origin = top_level_imports(defining_module).get(class_name, (defining_module, class_name))
    names = (name for catalogue in CATALOGUES
             for name, entry in registered_components(catalogue).items() if entry == origin)
    options = [f'{keyword.arg}={format_option_default(defining_module, keyword.value)}'
               for keyword in default.keywords if keyword.arg not in FLAX_FIELDS]
    name = next(names, class_name)
    return f'{name}({", ".join(options)})' if options else name
  text = ast.literal_eval(default) if isinstance(default, ast.Constant) else ast.unparse(default)
  return text if isinstance(text, str) and text.isidentifier() else ast.unparse(default)


def docstring_summary(module: str, class_name: str) -> str:
  """The first line of the docstring of a class."""
  return (ast.get_docstring(class_definition(module, class_name)) or '').partition('\n')[0]


def python_modules_defining_run_components(run: dict) -> set[str]:
  """Returns the modules that define the layers, tasks and benchmarks in the settings of a run."""
  modules = set()
  for setting, catalogues in SPEC_SETTINGS.items():
    value = run.get(setting, ())
    for text in (value,) if isinstance(value, str) else value:
      words = set(re.findall(r'\w+', text))
      for entries in map(registered_components, catalogues):
        modules |= {entries[word][0] for word in words & entries.keys()}
  return modules


def can_affect_results(module: str) -> bool:
  """Whether the given imported module of this repository may affect the results of a grid cell."""
  if source_path(module).name == '__init__.py' or module in IRRELEVANT_MODULES:
    return False
  in_lab = module.startswith('experiments.lab.')
  return not in_lab or module.rpartition('.')[0] in RELEVANT_PACKAGES


@functools.cache
def imports_that_affect_results(module: str) -> frozenset[str]:
  """Returns the module itself and all its direct and indirect imports that may affect results."""
  visited, pending = set(), [module]
  while pending:
    current = pending.pop()
    if current not in visited:
      visited.add(current)
      pending += filter(can_affect_results, imported_modules(current))
  return frozenset(visited)


def code_fingerprints(grid_cell_modules: Iterable[str], run: dict) -> dict[str, str]:
  """Maps each module that may affect the results of a run to the fingerprint of its code.

  Args:
    grid_cell_modules: names of the modules that execute the run's grid cell.
    run: the settings of the run, as JSON values by name.

  """
  components = python_modules_defining_run_components(run)
  modules = set().union(*map(imports_that_affect_results, {*grid_cell_modules, *components}))
  return {module: module_fingerprint(module) for module in sorted(modules)}


@functools.cache
def module_fingerprint(module: str) -> str:
  """Returns twelve hex digits that identify a module's code independently of the Python version."""
  return syntax_tree_digest(syntax_tree(module))


def syntax_tree_digest(tree: ast.Module) -> str:
  """Returns a hash of a syntax tree without its docstrings, as twelve hexadecimal digits."""
  return hashlib.sha256(_serialize_tree(tree).encode()).hexdigest()[:12]


def _serialize_tree(node) -> str:
  """Serializes a syntax tree as text, without empty fields and without docstrings."""
  if isinstance(node, list):
    return f'[{",".join(map(_serialize_tree, node))}]'
  if not isinstance(node, ast.AST):
    return repr(node)
  parts = []
  for name, value in ast.iter_fields(node):
    if name == 'body' and _starts_with_docstring(value):
      value = value[1:]
    if value is not None and value != [] and name not in ('ctx', 'kind', 'type_comment'):
      parts.append(f'{name}={_serialize_tree(value)}')
  return f'{type(node).__name__}({",".join(parts)})'


def _starts_with_docstring(body) -> bool:
  """Whether the first statement of a function, class or module body is a docstring."""
  first = body[0] if isinstance(body, list) and body else None
  return (
    isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    and isinstance(first.value.value, str))
