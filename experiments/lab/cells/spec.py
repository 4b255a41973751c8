"""Call-like specs: a component with its options as one string, parsed and never evaluated.

  attention    attention(num_heads=8)    attention(positions=alibi, num_heads=2)
  interleave(attention, mamba(state_size=8))    fixed_vector(lstm, reverse=True)

A name is looked up in a catalogue, an option among the component's own fields; a field that holds
a component has a catalogue of its own, and the field `layer`, or `layers` for several, takes what
stands without a name in the parentheses. `describe` is the inverse: what it returns is canonical,
equal for equal components, and is what runs are stored under.
"""

import ast
import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from baselines import LAYERS, TRANSLATORS
from experiments.lab.cells import limits
from experiments.lab.errors import BadInput, no_such
from experiments.lab.tasks import TASKS
from transformer.positions import POSITIONS

CATALOGUES = {
  'layer': LAYERS, 'translator': TRANSLATORS, 'task': TASKS, 'positions': POSITIONS
}
PLURALS = {'layers': 'layer'}  # fields that hold several components of a kind
PLACED = ('layer', *PLURALS)  # fields whose values stand without their name


def split(text: str) -> list[str]:
  """The specs of a list that is separated by commas; those within parentheses do not count."""
  parts, start, depth = [], 0, 0
  for place, character in enumerate(text):
    depth += (character == '(') - (character == ')')
    if character == ',' and depth == 0:
      parts.append(text[start:place])
      start = place + 1
  return [part.strip() for part in (*parts, text[start:])]


def parse(text: str, kind: str) -> Any:
  """The component that a spec describes; `kind` names the catalogue: 'layer', 'task'."""
  unreadable = BadInput(f'cannot read the {kind} {text!r}; write name or name(option=value)')
  try:
    node = ast.parse(text.strip(), mode='eval').body
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    raise unreadable from None
  try:
    return _component(node, kind, text.strip())
  except RecursionError:  # nested deeper than Python walks, though not deeper than it parses
    raise unreadable from None


def parse_all(specs: str | Sequence[str], kind: str) -> list[Any]:
  """The components of a list, or of a text that separates them by commas; none comes twice."""
  specs = split(specs) if isinstance(specs, str) else specs
  found = [parse(spec, kind) for spec in specs]
  for name, count in collections.Counter(describe(one, kind) for one in found).items():
    if count > 1:
      raise BadInput(f'the {kind} {name} is given {count} times')
  return found


def canonical(specs: str | Sequence[str], kind: str) -> list[str]:
  """The canonical specs of a list, or of a text that separates them by commas; none comes twice."""
  return [describe(one, kind) for one in parse_all(specs, kind)]


def describe(component: Any, kind: str) -> str:
  """The canonical spec of a component: its name and the options that differ from their defaults."""
  names = {made: name for name, made in CATALOGUES[kind].items()}
  options = []
  for field in options_of(type(component)).values():
    value = getattr(component, field.name)
    if value == field.default:
      continue
    if field.name in PLURALS:
      options += [describe(part, PLURALS[field.name]) for part in value]
    elif field.name in PLACED:
      options.append(describe(value, field.name))
    else:
      shown = describe(value, field.name) if field.name in CATALOGUES else _literal(value)
      options.append(f'{field.name}={shown}')
  name = names[type(component)]
  return f'{name}({", ".join(options)})' if options else name


def options_of(made: type) -> dict[str, dataclasses.Field]:
  """The fields of a component that a spec may set."""
  own = (field for field in dataclasses.fields(made) if field.init)
  return {field.name: field for field in own if field.name not in ('parent', 'name')}


def _component(node: ast.expr, kind: str, text: str) -> Any:
  """A catalogue's entry, made with the options of a name or call."""
  called = node.func if isinstance(node, ast.Call) else node
  unreadable = BadInput(f'cannot read the {kind} {text!r}; write name or name(option=value)')
  if not isinstance(called, ast.Name):
    raise unreadable
  name, catalogue = called.id, CATALOGUES[kind]
  if name not in catalogue:
    raise no_such(kind, name, catalogue, _meant(kind, name))
  fields = options_of(catalogue[name])
  options = {}
  if parts := node.args if isinstance(node, ast.Call) else ():
    placed = next((field for field in fields if field in PLACED), None)
    if placed is None or (placed not in PLURALS and len(parts) > 1):
      raise unreadable
    found = tuple(_component(part, PLURALS.get(placed, placed), text) for part in parts)
    options[placed] = found if placed in PLURALS else found[0]
  for keyword in node.keywords if isinstance(node, ast.Call) else ():
    if keyword.arg not in fields or keyword.arg in PLACED:
      raise no_such(f'option of {name}', str(keyword.arg), fields.keys() - set(PLACED))
    if keyword.arg in options:
      raise BadInput(f'{keyword.arg} of {name} is given twice in {text!r}')
    options[keyword.arg] = _value(keyword.value, fields[keyword.arg], name, text)
  try:
    for option, value in options.items():
      if type(value) in (int, float):
        limits.check(option, value, name, kind)
    return catalogue[name](**options)
  except ValueError as error:
    raise BadInput(f'{text!r}: {error}') from None


def _meant(kind: str, name: str) -> str:
  """The spec that a name of another kind stands for; '' if it stands for none.

  A layer translates in the translator whose own layer it is, or else in a Transformer's place; a
  translator's layer is what it has by itself.
  """
  if kind == 'translator' and name in LAYERS:
    layers = {translator: type(made().layer) for translator, made in TRANSLATORS.items()}
    takes = (each for each, layer in layers.items()
             if layer is LAYERS[name] and 'layer' in options_of(TRANSLATORS[each]))
    return f'{next(takes, "transformer")}({name})'
  if kind == 'layer' and name in TRANSLATORS:
    return describe(TRANSLATORS[name]().layer, 'layer').partition('(')[0]
  if kind == 'layer' and name in POSITIONS:
    return f'attention(positions={name})'
  return ''


def _value(node: ast.expr, field: dataclasses.Field, owner: str, text: str) -> Any:
  """An option's value, of the type that its default has."""
  if field.name in CATALOGUES:
    return _component(node, field.name, text)
  wanted = type(field.default)
  try:
    word = wanted is str and isinstance(node, ast.Name)
    value = node.id if word else ast.literal_eval(node)
    if wanted is float and type(value) is int:
      value = float(value)
  except (ValueError, TypeError, OverflowError):
    value = None
  if type(value) is not wanted or value in (math.inf, -math.inf):  # 1e999 reads as infinity
    raise BadInput(
      f'{field.name} of {owner} takes {wanted.__name__} values such as {field.default!r},'
      f' not {ast.get_source_segment(text, node)}'
    )
  if wanted is str and len(value) > limits.WORD:
    raise BadInput(f'{field.name} of {owner} takes at most {limits.WORD} characters')
  return value


def _literal(value: Any) -> str:
  if isinstance(value, float):
    value += 0.0  # zeros of both signs are equal, and so must be their texts
  return value if isinstance(value, str) and value.isidentifier() else repr(value)
