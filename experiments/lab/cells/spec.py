"""Parser of component specs such as attention(num_heads=4), which are never executed as code.

  attention    attention(num_heads=8)    attention(positions=alibi, num_heads=2)
  interleave(attention, mamba(state_size=8))    fixed_vector(lstm, reverse=True)

The name refers to an entry of a catalogue, and each option to a field of the component. A field
that contains a component has its own catalogue. The field `layer`, or `layers` for several layers,
takes the values that are given without a name. `component_to_spec_string` is the inverse of
`parse_spec`. The specs that it returns are canonical, that is, equal for equal components, and
identify the runs.
"""

import ast
import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from baselines import LAYERS, TRANSLATORS
from experiments.lab.cells import limits
from experiments.lab.errors import BadInput, unknown_name_error
from experiments.lab.tasks import TASKS
from transformer.positions import POSITIONS

CATALOGUES = {
  'layer': LAYERS, 'translator': TRANSLATORS, 'task': TASKS, 'positions': POSITIONS
}
PLURAL_OPTIONS = {'layers': 'layer'}  # fields that contain several components of a kind
UNNAMED_OPTIONS = ('layer', *PLURAL_OPTIONS)  # fields whose values are given without a name


def split_specs(text: str) -> list[str]:
  """Splits a list of specs at its commas, except at commas within parentheses."""
  parts, start, depth = [], 0, 0
  for index, character in enumerate(text):
    depth += (character == '(') - (character == ')')
    if character == ',' and depth == 0:
      parts.append(text[start:index])
      start = index + 1
  return [part.strip() for part in (*parts, text[start:])]


def parse_spec(text: str, component_kind: str) -> Any:
  """Creates the component (layer, translator, task or position encoding) that a spec describes."""
  invalid = _spec_syntax_error(text, component_kind)
  try:
    node = ast.parse(text.strip(), mode='eval').body
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    raise invalid from None
  try:
    return _build_component(node, component_kind, text.strip())
  except RecursionError:  # the nesting is valid syntax but exceeds Python's recursion limit
    raise invalid from None


def parse_spec_list(specs: str | Sequence[str], component_kind: str) -> list[Any]:
  """Creates a component (layer, task, ...) for each spec in a list or comma-separated string.

  Raises:
    BadInput: if a spec is invalid, or two specs describe the same component.

  """
  specs = split_specs(specs) if isinstance(specs, str) else specs
  components = [parse_spec(spec, component_kind) for spec in specs]
  names = collections.Counter(
    component_to_spec_string(component, component_kind) for component in components)
  for name, count in names.items():
    if count > 1:
      raise BadInput(f'the {component_kind} {name} is given {count} times')
  return components


def remove_default_options_from_specs(specs: str | Sequence[str], component_kind: str) -> list[str]:
  """Returns the canonical text of each layer or task spec in a list or comma-separated string."""
  components = parse_spec_list(specs, component_kind)
  return [component_to_spec_string(component, component_kind) for component in components]


def component_to_spec_string(component: Any, component_kind: str) -> str:
  """Returns the canonical spec of a component, which contains only its non-default options."""
  names = {component_class: name for name, component_class in CATALOGUES[component_kind].items()}
  options = []
  for field in settable_fields(type(component)).values():
    value = getattr(component, field.name)
    if value == field.default:
      continue
    if field.name in PLURAL_OPTIONS:
      options += [component_to_spec_string(part, PLURAL_OPTIONS[field.name]) for part in value]
    elif field.name in UNNAMED_OPTIONS:
      options.append(component_to_spec_string(value, field.name))
    elif field.name in CATALOGUES:
      options.append(f'{field.name}={component_to_spec_string(value, field.name)}')
    else:
      options.append(f'{field.name}={_format_literal(value)}')
  name = names[type(component)]
  return f'{name}({", ".join(options)})' if options else name


def settable_fields(component_class: type) -> dict[str, dataclasses.Field]:
  """Returns, by name, the fields of a component that a spec may set."""
  fields = (field for field in dataclasses.fields(component_class) if field.init)
  return {field.name: field for field in fields if field.name not in ('parent', 'name')}


def _spec_syntax_error(text: str, component_kind: str) -> BadInput:
  return BadInput(f'cannot parse the {component_kind} {text!r}; write name or name(option=value)')


def _build_component(node: ast.expr, component_kind: str, text: str) -> Any:
  """Creates a component from a syntax tree, which must consist of a name or a call."""
  function = node.func if isinstance(node, ast.Call) else node
  if not isinstance(function, ast.Name):
    raise _spec_syntax_error(text, component_kind)
  name, catalogue = function.id, CATALOGUES[component_kind]
  if name not in catalogue:
    suggestion = _suggest_spec_of_required_kind(component_kind, name)
    raise unknown_name_error(component_kind, name, catalogue, suggestion)
  fields = settable_fields(catalogue[name])
  options = {}
  if unnamed := node.args if isinstance(node, ast.Call) else ():
    option = next((field for field in fields if field in UNNAMED_OPTIONS), None)
    if option is None or (option not in PLURAL_OPTIONS and len(unnamed) > 1):
      raise _spec_syntax_error(text, component_kind)
    part_kind = PLURAL_OPTIONS.get(option, option)
    parts = tuple(_build_component(part, part_kind, text) for part in unnamed)
    options[option] = parts if option in PLURAL_OPTIONS else parts[0]
  for keyword in node.keywords if isinstance(node, ast.Call) else ():
    if keyword.arg not in fields or keyword.arg in UNNAMED_OPTIONS:
      known = fields.keys() - set(UNNAMED_OPTIONS)
      raise unknown_name_error(f'option of {name}', str(keyword.arg), known)
    if keyword.arg in options:
      raise BadInput(f'{keyword.arg} of {name} is given twice in {text!r}')
    options[keyword.arg] = _parse_option(keyword.value, fields[keyword.arg], name, text)
  try:
    for option, value in options.items():
      if type(value) in (int, float):
        limits.check_limit(option, value, name, component_kind)
    return catalogue[name](**options)
  except ValueError as error:
    raise BadInput(f'{text!r}: {error}') from None


def _suggest_spec_of_required_kind(required_kind: str, component_name: str) -> str:
  """Suggests a spec if, for example, a layer is named where an encoder-decoder is required.

  For a layer in place of a translator, the suggestion is the translator whose default layer it is,
  or else a Transformer with this layer. For a translator in place of a layer, the suggestion is the
  translator's default layer. The result is '' if no spec can be suggested.
  """
  if required_kind == 'translator' and component_name in LAYERS:
    defaults = {
      translator: type(component_class().layer)
      for translator, component_class in TRANSLATORS.items()}
    matching = (
      translator for translator, layer in defaults.items() if layer is LAYERS[component_name]
      and 'layer' in settable_fields(TRANSLATORS[translator]))
    return f'{next(matching, "transformer")}({component_name})'
  if required_kind == 'layer' and component_name in TRANSLATORS:
    return component_to_spec_string(TRANSLATORS[component_name]().layer, 'layer').partition('(')[0]
  if required_kind == 'layer' and component_name in POSITIONS:
    return f'attention(positions={component_name})'
  return ''


def _parse_option(node: ast.expr, field: dataclasses.Field, owner: str, text: str) -> Any:
  """Parses the value of an option, which must have the type of the option's default."""
  if field.name in CATALOGUES:
    return _build_component(node, field.name, text)
  expected = type(field.default)
  try:
    unquoted = expected is str and isinstance(node, ast.Name)
    value = node.id if unquoted else ast.literal_eval(node)
    if expected is float and type(value) is int:
      value = float(value)
  except (ValueError, TypeError, OverflowError):
    value = None
  if type(value) is not expected or value in (math.inf, -math.inf):  # 1e999 is parsed as infinity
    raise BadInput(
      f'{field.name} of {owner} takes {expected.__name__} values such as {field.default!r},'
      f' not {ast.get_source_segment(text, node)}'
    )
  if expected is str and len(value) > limits.MAX_TEXT_CHARACTERS:
    raise BadInput(
      f'{field.name} of {owner} takes at most {limits.MAX_TEXT_CHARACTERS} characters')
  return value


def _format_literal(value: Any) -> str:
  if isinstance(value, float):
    value += 0.0  # turns -0.0 into 0.0, so that these equal values have equal texts
  return value if isinstance(value, str) and value.isidentifier() else repr(value)
