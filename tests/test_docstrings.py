"""Tests that examples in docstrings run, and that docstrings describe three or more parameters."""

import ast
import doctest
import importlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ('transformer', 'baselines', 'experiments')
FILES = sorted(path.relative_to(ROOT) for package in PACKAGES
               for path in (ROOT / package).rglob('*.py'))
# Operations that are useful without the rest of the repository have an example.
WITH_EXAMPLES = {
  'transformer/attention.py': ('attend', 'Attention'),
  'transformer/decoding.py': ('greedy_search', 'sample', 'beam_search'),
  'transformer/layer_laws.py': ('verify_layer',),
  'baselines/scans.py': ('linear_scan', 'scan_without_storing_states'),
  'baselines/selective_scan.py': ('selective_scan',),
  'baselines/matrix_scans.py': ('outer_product_scan',),
  'baselines/delta_scans.py': ('delta_scan', 'generalised_delta_scan'),
  'baselines/long_convolution.py': ('long_convolution',),
  'experiments/lab/tasks/laws.py': ('verify_task',),
}
SEVERAL = 3  # the number of parameters from which Args and Returns are required


def module_of(path):
  return '.'.join(path.with_suffix('').parts).removesuffix('.__init__')


def public_functions(path):
  """Yields the name and the syntax tree of public functions and of methods of public classes."""
  tree = ast.parse((ROOT / path).read_text())
  for node in tree.body:
    if isinstance(node, ast.FunctionDef) and not node.name.startswith('_'):
      yield node.name, node
    elif isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
      for method in node.body:
        if isinstance(method, ast.FunctionDef) and not method.name.startswith('_'):
          yield f'{node.name}.{method.name}', method


def parameters_of(function):
  arguments = function.args
  every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
  return [a.arg for a in every if a.arg not in ('self', 'cls')]


def is_documented_by_a_base_class(module, name):
  """Whether a method overrides a method whose docstring has Args."""
  class_name, _, method = name.partition('.')
  if not method:
    return False
  owner = getattr(importlib.import_module(module), class_name)
  return any('Args:' in (getattr(base.__dict__.get(method), '__doc__', None) or '')
             for base in owner.__mro__[1:])


def has_example(path):
  return '>>> ' in (ROOT / path).read_text()


@pytest.mark.parametrize('path', [p for p in FILES if has_example(p)], ids=str)
def test_examples_in_docstrings_run(path):
  module = importlib.import_module(module_of(path))
  options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
  result = doctest.testmod(module, optionflags=options)
  assert result.attempted and not result.failed


@pytest.mark.parametrize('path', WITH_EXAMPLES)
def test_public_operations_have_an_example(path):
  module = importlib.import_module(module_of(pathlib.Path(path)))
  for name in WITH_EXAMPLES[path]:
    assert '>>> ' in getattr(module, name).__doc__, f'{name} has no example'


@pytest.mark.parametrize('path', FILES, ids=str)
def test_docstrings_describe_three_or_more_parameters(path):
  missing = []
  for name, node in public_functions(path):
    parameters, text = parameters_of(node), ast.get_docstring(node) or ''
    if len(parameters) < SEVERAL or is_documented_by_a_base_class(module_of(path), name):
      continue
    described = text.partition('Args:')[2]
    missing += [f'{name}: {p}' for p in parameters if f'{p}:' not in described]
    returns = any(isinstance(n, ast.Return) and n.value is not None for n in ast.walk(node))
    if returns and 'Returns:' not in text:
      missing.append(f'{name}: Returns')
  assert not missing
