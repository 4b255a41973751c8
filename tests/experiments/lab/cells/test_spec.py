"""Tests of specs, whose canonical form is unique and which are parsed but never executed."""

import builtins
import contextlib
import dataclasses
import os
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.lab.cells import limits, spec
from experiments.lab.cells.spec import CATALOGUES
from experiments.lab.errors import BadInput

ENTRIES = [(kind, name) for kind, catalogue in CATALOGUES.items() for name in catalogue]
TEXT_VALUES = ['arjovsky', 'bai', 'auto', 'direct', 'channels_last']  # values of text options
no_deadline = settings(deadline=None)
finite_floats = st.floats(allow_nan=False, allow_infinity=False)
VALUE_STRATEGIES = {
  bool: st.booleans(),
  int: st.integers(1, 40) | st.integers(),
  float: st.floats(0.25, 1e5) | finite_floats,
  str: st.sampled_from(TEXT_VALUES),
}


def option_values(name, field):
  """A strategy for the values of an option."""
  if name in spec.PLURAL_OPTIONS:
    return st.lists(components(spec.PLURAL_OPTIONS[name]), min_size=1, max_size=2).map(tuple)
  return components(name) if name in CATALOGUES else VALUE_STRATEGIES[type(field.default)]


@st.composite
def components(draw, kind):
  """A component of a catalogue with random valid options."""
  entry = draw(st.sampled_from(sorted(CATALOGUES[kind])))
  component_class = CATALOGUES[kind][entry]
  component = component_class()
  for name, field in spec.settable_fields(component_class).items():
    if not draw(st.booleans()):
      continue
    value = draw(option_values(name, field))
    options = {
      option: getattr(component, option) for option in spec.settable_fields(component_class)}
    with contextlib.suppress(ValueError):  # keeps the previous value if the new one is invalid
      if type(value) in (int, float):
        limits.check_limit(name, value, entry, kind)
      component = component_class(**options | {name: value})
  return component


kinds_with_components = st.sampled_from(sorted(CATALOGUES)).flatmap(
  lambda kind: st.tuples(st.just(kind), components(kind))
)


def error_line(text, kind='layer'):
  """The error message for an invalid spec, which must be one line."""
  with pytest.raises(BadInput) as caught:
    spec.parse_spec(text, kind)
  line = str(caught.value)
  assert line and len(line.splitlines()) == 1
  return line


@no_deadline
@given(kinds_with_components)
def test_parsing_a_formatted_spec_restores_the_component(pair):
  kind, component = pair
  restored = spec.parse_spec(spec.component_to_spec_string(component, kind), kind)
  assert type(restored) is type(component)
  for name, field in spec.settable_fields(type(component)).items():
    assert type(getattr(restored, name)) is type(getattr(component, name))
    if name not in CATALOGUES and name not in spec.PLURAL_OPTIONS:
      assert type(field.default) is type(getattr(restored, name))
  assert restored == component and hash(restored) == hash(component)


@no_deadline
@given(kinds_with_components, st.randoms())
def test_equal_components_have_equal_canonical_specs(pair, order):
  kind, component = pair
  canonical = spec.component_to_spec_string(component, kind)
  name = canonical.partition('(')[0]
  options = list(spec.settable_fields(type(component)))
  order.shuffle(options)
  options.sort(key=lambda option: option not in spec.UNNAMED_OPTIONS)  # unnamed values come first

  def format_option(option):
    """Formats an option in a form that is not canonical, even if it has its default."""
    value = getattr(component, option)
    if option in spec.PLURAL_OPTIONS:
      part_kind = spec.PLURAL_OPTIONS[option]
      return ', '.join(spec.component_to_spec_string(part, part_kind) for part in value)
    if option in spec.UNNAMED_OPTIONS:
      return spec.component_to_spec_string(value, option)
    if option in CATALOGUES:
      return f'{option} = {spec.component_to_spec_string(value, option)}'
    return f'{option} = {value!r} '

  text = f' {name} ( {", ".join(map(format_option, options))} ) ' if options else f' {name} () '
  assert spec.component_to_spec_string(spec.parse_spec(text, kind), kind) == canonical


@no_deadline
@given(kinds_with_components, kinds_with_components)
def test_different_components_have_different_canonical_specs(left, right):
  (kind, left_component), (right_kind, right_component) = left, right
  if kind == right_kind:
    left_spec = spec.component_to_spec_string(left_component, kind)
    right_spec = spec.component_to_spec_string(right_component, kind)
    assert (left_component == right_component) == (left_spec == right_spec)


@pytest.mark.parametrize(('kind', 'name'), ENTRIES)
def test_the_canonical_spec_of_defaults_is_the_name_alone(kind, name):
  component = spec.parse_spec(name, kind)
  assert type(component) is CATALOGUES[kind][name]
  assert spec.component_to_spec_string(component, kind) == name
  assert spec.component_to_spec_string(spec.parse_spec(f'{name}()', kind), kind) == name


@pytest.mark.parametrize(
  ('left', 'right'),
  [
    ('lstm(forget_bias=0)', 'lstm(forget_bias=-0.0)'),
    ('lstm(forget_bias=1e0)', 'lstm'),
    ('tcn(levels=0x2)', 'tcn(levels=2, kernel_size=3)'),
    ('convolution(form="direct")', 'convolution(form=direct)'),
    ('attention(positions=rotary())', 'attention(num_heads=4)'),
    ('interleave(lstm(), attention(num_heads=4))', 'interleave(lstm, attention, depth=1)'),
  ],
)
def test_equivalent_specs_have_one_canonical_form(left, right):
  components = [spec.parse_spec(text, 'layer') for text in (left, right)]
  texts = {spec.component_to_spec_string(component, 'layer') for component in components}
  assert len(texts) == 1


@pytest.mark.parametrize(('kind', 'name'), ENTRIES)
def test_every_option_is_a_plain_value_or_a_component(kind, name):
  for option, field in spec.settable_fields(CATALOGUES[kind][name]).items():
    named = option in CATALOGUES or option in spec.PLURAL_OPTIONS
    assert named or type(field.default) in VALUE_STRATEGIES
    assert field.default is not dataclasses.MISSING


@no_deadline
@given(st.lists(kinds_with_components, min_size=1, max_size=4), st.sampled_from([',', ', ', ' , ']))
def test_lists_are_split_at_commas_outside_of_parentheses(drawn, comma):
  texts = [spec.component_to_spec_string(component, kind) for kind, component in drawn]
  assert spec.split_specs(comma.join(texts)) == texts


def test_splitting_takes_time_linear_in_the_length():
  def seconds_to_split(count):
    text = f'interleave({"lstm," * count}lstm)'
    start = time.process_time()
    assert spec.split_specs(text) == [text]
    return time.process_time() - start

  assert seconds_to_split(60_000) < 40 * max(seconds_to_split(6000), 1e-3)


@pytest.mark.parametrize(
  'text',
  ['x' * 100_000, f'lstm(forget_bias={"9" * 100_000})', '(' * 100_000, 'x,' * 50_000,
   f'copy_memory(variant="{"x" * 100_000}")'],
)
def test_an_error_message_is_short_for_a_long_spec(text):
  for kind in ('layer', 'task'):
    assert len(error_line(text, kind)) <= 1000


def test_every_suggestion_is_a_valid_spec_of_the_requested_kind():
  kinds = [('translator', 'layer'), ('layer', 'translator'), ('layer', 'positions')]
  for kind, other_kind in kinds:
    for name in CATALOGUES[other_kind].keys() - CATALOGUES[kind]:
      suggested = re.search(r"did you mean '([^']*)'", error_line(name, kind)).group(1)
      assert spec.parse_spec(suggested, kind)


@no_deadline
@given(st.lists(components('layer'), min_size=1, max_size=3))
def test_a_list_with_equal_components_is_rejected(layers):
  texts = [spec.component_to_spec_string(layer, 'layer') for layer in layers]
  if len(set(texts)) == len(texts):
    assert spec.remove_default_options_from_specs(', '.join(texts), 'layer') == texts
    assert spec.remove_default_options_from_specs(texts, 'layer') == texts
  with pytest.raises(BadInput, match='2 times'):
    spec.remove_default_options_from_specs([*dict.fromkeys(texts), f' {texts[0]} '], 'layer')


@pytest.mark.parametrize(
  ('text', 'kind', 'suggestion', 'listed'),
  [
    ('atention', 'layer', 'attention', CATALOGUES['layer']),
    ('zzz', 'layer', None, CATALOGUES['layer']),
    ('copymemory', 'task', 'copy_memory', CATALOGUES['task']),
    ('attention(positions=rotery)', 'layer', 'rotary', CATALOGUES['positions']),
    ('attention(num_head=2)', 'layer', 'num_heads', ['num_heads', 'positions']),
    ('attention(zzz=2)', 'layer', None, ['num_heads', 'positions']),
    ('attention(parent=2)', 'layer', None, ['num_heads', 'positions']),
    ('recall(family=x)', 'task', None, ['length', 'num_pairs', 'vocabulary_size']),
    ('gru(gates=2)', 'layer', None, ['recurrent_init', 'recurrent_gain']),
    ('attention(**{1: 2})', 'layer', None, ['num_heads', 'positions']),
  ],
)
def test_the_error_for_an_unknown_name_lists_valid_names(text, kind, suggestion, listed):
  line = error_line(text, kind)
  assert (f'did you mean {suggestion!r}?' in line) if suggestion else ('did you mean' not in line)
  for name in listed:
    assert re.search(rf'\b{name}\b', line)


@pytest.mark.parametrize(
  ('text', 'kind', 'message'),
  [
    ('attention(num_heads=2.5)', 'layer', 'num_heads of attention takes int values such as 4'),
    ("attention(num_heads='2')", 'layer', 'takes int'),
    ('attention(num_heads=True)', 'layer', 'takes int'),
    ('attention(num_heads=four)', 'layer', 'not four'),
    ('attention(num_heads=[2])', 'layer', 'takes int'),
    ('attention(positions=3)', 'layer', 'cannot parse the positions'),
    ('attention(positions="alibi")', 'layer', 'cannot parse the positions'),
    ('lstm(forget_bias=True)', 'layer', 'takes float'),
    ('lstm(forget_bias=1j)', 'layer', 'takes float'),
    ('lstm(forget_bias=1e999)', 'layer', 'takes float'),
    ('lstm(forget_bias=-1e999)', 'layer', 'takes float'),
    (f'lstm(forget_bias=1{"0" * 400})', 'layer', 'takes float'),
    ('recall(random_non_queries=1)', 'task', 'takes bool'),
    ('recall(random_non_queries=true)', 'task', 'takes bool'),
    ('copy_memory(variant=2)', 'task', 'takes str'),
    ('copy_memory(variant=b"bai")', 'task', 'takes str'),
    ('copy_memory(variant=bi)', 'task', 'the variants of copy_memory are arjovsky, bai'),
    ('attention(num_heads=0)', 'layer', 'num_heads >= 1, not 0'),
    ('attention(\nnum_heads=0)', 'layer', 'num_heads >= 1, not 0'),
    ('recall(length=7)', 'task', 'even length'),
  ],
)
def test_values_of_another_type_or_out_of_range_are_rejected(text, kind, message):
  assert message in error_line(text, kind)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('attention(num_heads=2, num_heads=2)', ''),
    ('attention(num_heads=2, positions=none, num_heads=4)', ''),
    ('attention(positions=t5_bias(num_buckets=2, num_buckets=4))', ''),
    ('attention(2)', 'write name or name(option=value)'),
    ('attention(*[2])', 'write name or name(option=value)'),
    ('attention(positions=rotary(2))', 'write name or name(option=value)'),
    ('', 'write name or name(option=value)'),
    ('   ', 'write name or name(option=value)'),
    ('attention(', 'write name or name(option=value)'),
    ('attention)', 'write name or name(option=value)'),
    ('attention num_heads=2', 'write name or name(option=value)'),
    ('attention\nlstm', 'write name or name(option=value)'),
    ('attention, lstm', 'write name or name(option=value)'),
    ('attention; lstm', 'write name or name(option=value)'),
    ('at\0tention', 'write name or name(option=value)'),
    ('8', 'write name or name(option=value)'),
  ],
)
def test_duplicate_and_positional_options_and_invalid_syntax_are_rejected(text, message):
  assert message in error_line(text)


CODE_TEXTS = [
  "__import__('os').system('false')",
  "attention(num_heads=__import__('os').getpid())",
  "lstm(forget_bias=float('1'))",
  "copy_memory.__init__(variant='bai')",
  'attention.num_heads',
  'attention(num_heads=().__class__)',
  'attention(num_heads=[i for i in (1,)][0])',
  'attention(num_heads=(lambda: 2)())',
  'attention(num_heads=2 if 1 else 3)',
  'attention(num_heads=(n := 2))',
  'attention(num_heads=1 + 1)',
  'attention(num_heads=2 ** 9 ** 9)',
  "copy_memory(variant=f'{1}\\nbai')",
  "copy_memory(variant=f'''{exit()}\nbai''')",
  "copy_memory(variant='b' 'a'.join('i'))",
  '[attention for attention in (1,)]',
  'attention()()',
  'attention(num_heads=print(1))',
  'attention(positions=exit())',
  'exit()',
]


@pytest.mark.parametrize('text', CODE_TEXTS)
@pytest.mark.parametrize('kind', ['layer', 'task'])
def test_code_is_rejected_and_never_executed(text, kind, monkeypatch):
  def fail_if_executed(*_, **__):
    raise AssertionError('a spec was run')

  with monkeypatch.context() as patch:
    for name in ('exit', 'print', 'eval', 'exec'):
      patch.setattr(builtins, name, fail_if_executed)
    patch.setattr(os, 'getpid', fail_if_executed)
    patch.setattr(os, 'system', fail_if_executed)
    error_line(text, kind)


@pytest.mark.parametrize('depth', [50, 99, 150, 300, 1000, 20_000, 200_000])
@pytest.mark.parametrize(
  ('before', 'middle', 'after'),
  [
    ('(', 'attention', ')'),
    ('attention(positions=', 'none', ')'),
    ('attention(num_heads=', '2', ')'),
    ('[', '1', ']'),
    ('-', '1', ''),
    ('', 'attention', '.x'),
    ('', 'attention', '()'),
    ('not ', '1', ''),
    ('1 + ', '1', ''),
  ],
)
def test_any_depth_of_nesting_is_parsed_or_rejected_in_one_line(before, middle, after, depth):
  nested = before * depth + middle + after * depth
  for text in (nested, f'attention(num_heads={nested})', f'attention(positions={nested})'):
    try:
      assert spec.component_to_spec_string(spec.parse_spec(text, 'layer'), 'layer') == 'attention'
    except BadInput as error:
      assert '\n' not in str(error)


QUOTES = '\'"\n\\{}fFrRbB() '
random_texts = (
  st.text(max_size=20)
  | st.text(f'attenio(num_heds=2,)[]*. -1e{QUOTES}', max_size=30)
  | st.text(f'0123456789.e-+_jx{QUOTES}', max_size=12).map('lstm(forget_bias={})'.format)
  | st.text(f'ai:,={QUOTES}', max_size=12).map('copy_memory(variant={})'.format)
)


@no_deadline
@given(random_texts, st.sampled_from(['layer', 'task']))
def test_any_text_is_a_valid_spec_or_is_rejected_in_one_line(text, kind):
  try:
    component = spec.parse_spec(text, kind)
  except BadInput as error:
    assert len(str(error).splitlines()) == 1
  else:
    assert spec.parse_spec(spec.component_to_spec_string(component, kind), kind) == component
