"""Specs: what is written is what is meant, equal components have equal texts, nothing is run."""

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
WORDS = ['arjovsky', 'bai', 'auto', 'direct', 'channels_last']  # values of options that are words
relaxed = settings(deadline=None)
finite = st.floats(allow_nan=False, allow_infinity=False)
NUMBERS = {
  bool: st.booleans(),
  int: st.integers(1, 40) | st.integers(),
  float: st.floats(0.25, 1e5) | finite,
  str: st.sampled_from(WORDS),
}


def values(name, field):
  """What an option may be set to."""
  if name in spec.PLURALS:
    return st.lists(components(spec.PLURALS[name]), min_size=1, max_size=2).map(tuple)
  return components(name) if name in CATALOGUES else NUMBERS[type(field.default)]


@st.composite
def components(draw, kind):
  """A component of a catalogue, with whatever random options it accepts."""
  entry = draw(st.sampled_from(sorted(CATALOGUES[kind])))
  made = CATALOGUES[kind][entry]
  component = made()
  for name, field in spec.options_of(made).items():
    if not draw(st.booleans()):
      continue
    value = draw(values(name, field))
    options = {other: getattr(component, other) for other in spec.options_of(made)}
    with contextlib.suppress(ValueError):  # what does not suit the others stays as it was
      if type(value) in (int, float):
        limits.check(name, value, entry, kind)
      component = made(**options | {name: value})
  return component


pairs = st.sampled_from(sorted(CATALOGUES)).flatmap(
  lambda kind: st.tuples(st.just(kind), components(kind))
)


def refused(text, kind='layer'):
  """The one line that a spec is refused with."""
  with pytest.raises(BadInput) as caught:
    spec.parse(text, kind)
  line = str(caught.value)
  assert line and len(line.splitlines()) == 1
  return line


@relaxed
@given(pairs)
def test_what_is_described_is_parsed_to_the_same(pair):
  kind, component = pair
  found = spec.parse(spec.describe(component, kind), kind)
  assert type(found) is type(component)
  for name, field in spec.options_of(type(component)).items():
    assert type(getattr(found, name)) is type(getattr(component, name))
    if name not in CATALOGUES and name not in spec.PLURALS:
      assert type(field.default) is type(getattr(found, name))
  assert found == component and hash(found) == hash(component)


@relaxed
@given(pairs, st.randoms())
def test_equal_components_have_equal_texts_however_they_were_written(pair, order):
  kind, component = pair
  canonical = spec.describe(component, kind)
  name = canonical.partition('(')[0]
  options = list(spec.options_of(type(component)))
  order.shuffle(options)
  options.sort(key=lambda option: option not in spec.PLACED)  # parts without a name come first

  def written(option):  # defaults too, numbers with blanks around, words as words or quoted
    value = getattr(component, option)
    if option in spec.PLURALS:
      return ', '.join(spec.describe(part, spec.PLURALS[option]) for part in value)
    if option in spec.PLACED:
      return spec.describe(value, option)
    if option in CATALOGUES:
      return f'{option} = {spec.describe(value, option)}'
    return f'{option} = {value!r} '

  text = f' {name} ( {", ".join(map(written, options))} ) ' if options else f' {name} () '
  assert spec.describe(spec.parse(text, kind), kind) == canonical


@relaxed
@given(pairs, pairs)
def test_different_components_have_different_texts(left, right):
  (kind, one), (other_kind, other) = left, right
  if kind == other_kind:
    assert (one == other) == (spec.describe(one, kind) == spec.describe(other, kind))


@pytest.mark.parametrize(('kind', 'name'), ENTRIES)
def test_defaults_are_described_by_the_name_alone(kind, name):
  component = spec.parse(name, kind)
  assert type(component) is CATALOGUES[kind][name]
  assert spec.describe(component, kind) == name
  assert spec.describe(spec.parse(f'{name}()', kind), kind) == name


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
def test_one_layer_has_one_text(left, right):
  texts = {spec.describe(spec.parse(text, 'layer'), 'layer') for text in (left, right)}
  assert len(texts) == 1


@pytest.mark.parametrize(('kind', 'name'), ENTRIES)
def test_every_option_is_a_plain_value_or_a_component(kind, name):
  for option, field in spec.options_of(CATALOGUES[kind][name]).items():
    named = option in CATALOGUES or option in spec.PLURALS
    assert named or type(field.default) in NUMBERS
    assert field.default is not dataclasses.MISSING


@relaxed
@given(st.lists(pairs, min_size=1, max_size=4), st.sampled_from([',', ', ', ' , ']))
def test_lists_are_split_at_commas_outside_parentheses(chosen, comma):
  texts = [spec.describe(component, kind) for kind, component in chosen]
  assert spec.split(comma.join(texts)) == texts


def test_a_long_spec_is_split_in_a_time_that_is_linear_in_its_length():
  def seconds(count):
    text = f'interleave({"lstm," * count}lstm)'
    start = time.process_time()
    assert spec.split(text) == [text]
    return time.process_time() - start

  assert seconds(60_000) < 40 * max(seconds(6000), 1e-3)


@pytest.mark.parametrize(
  'text',
  ['x' * 100_000, f'lstm(forget_bias={"9" * 100_000})', '(' * 100_000, 'x,' * 50_000,
   f'copy_memory(variant="{"x" * 100_000}")'],
)
def test_a_refusal_repeats_no_long_text(text):
  for kind in ('layer', 'task'):
    assert len(refused(text, kind)) <= 1000


def test_every_suggestion_is_a_spec_of_its_kind():
  for kind, other in [('translator', 'layer'), ('layer', 'translator'), ('layer', 'positions')]:
    for name in CATALOGUES[other].keys() - CATALOGUES[kind]:
      suggested = re.search(r"did you mean '([^']*)'", refused(name, kind)).group(1)
      assert spec.parse(suggested, kind)


@relaxed
@given(st.lists(components('layer'), min_size=1, max_size=3))
def test_a_layer_is_listed_once_whatever_its_spelling(chosen):
  texts = [spec.describe(layer, 'layer') for layer in chosen]
  if len(set(texts)) == len(texts):
    assert spec.canonical(', '.join(texts), 'layer') == spec.canonical(texts, 'layer') == texts
  with pytest.raises(BadInput, match='2 times'):
    spec.canonical([*dict.fromkeys(texts), f' {texts[0]} '], 'layer')


@pytest.mark.parametrize(
  ('text', 'kind', 'near', 'listed'),
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
def test_unknown_names_get_the_nearest_and_the_list(text, kind, near, listed):
  line = refused(text, kind)
  assert (f'did you mean {near!r}?' in line) if near else ('did you mean' not in line)
  for name in listed:
    assert re.search(rf'\b{name}\b', line)


@pytest.mark.parametrize(
  ('text', 'kind', 'why'),
  [
    ('attention(num_heads=2.5)', 'layer', 'num_heads of attention takes int values such as 4'),
    ("attention(num_heads='2')", 'layer', 'takes int'),
    ('attention(num_heads=True)', 'layer', 'takes int'),
    ('attention(num_heads=four)', 'layer', 'not four'),
    ('attention(num_heads=[2])', 'layer', 'takes int'),
    ('attention(positions=3)', 'layer', 'cannot read the positions'),
    ('attention(positions="alibi")', 'layer', 'cannot read the positions'),
    ('lstm(forget_bias=True)', 'layer', 'takes float'),
    ('lstm(forget_bias=1j)', 'layer', 'takes float'),
    ('lstm(forget_bias=1e999)', 'layer', 'takes float'),
    ('lstm(forget_bias=-1e999)', 'layer', 'takes float'),
    (f'lstm(forget_bias=1{"0" * 400})', 'layer', 'takes float'),
    ('recall(random_non_queries=1)', 'task', 'takes bool'),
    ('recall(random_non_queries=true)', 'task', 'takes bool'),
    ('copy_memory(variant=2)', 'task', 'takes str'),
    ('copy_memory(variant=b"bai")', 'task', 'takes str'),
    ('copy_memory(variant=bi)', 'task', 'copy_memory knows arjovsky, bai'),
    ('attention(num_heads=0)', 'layer', 'num_heads >= 1, not 0'),
    ('attention(\nnum_heads=0)', 'layer', 'num_heads >= 1, not 0'),
    ('recall(length=7)', 'task', 'even length'),
  ],
)
def test_values_of_another_type_or_out_of_range_are_refused(text, kind, why):
  assert why in refused(text, kind)


@pytest.mark.parametrize(
  ('text', 'why'),
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
def test_duplicates_positional_arguments_and_what_is_no_call_are_refused(text, why):
  assert why in refused(text)


CODE = [
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


@pytest.mark.parametrize('text', CODE)
@pytest.mark.parametrize('kind', ['layer', 'task'])
def test_code_is_refused_and_never_run(text, kind, monkeypatch):
  def run(*_, **__):
    raise AssertionError('a spec was run')

  with monkeypatch.context() as patch:
    for name in ('exit', 'print', 'eval', 'exec'):
      patch.setattr(builtins, name, run)
    patch.setattr(os, 'getpid', run)
    patch.setattr(os, 'system', run)
    refused(text, kind)


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
def test_no_nesting_is_too_deep_to_be_refused(before, middle, after, depth):
  nested = before * depth + middle + after * depth
  for text in (nested, f'attention(num_heads={nested})', f'attention(positions={nested})'):
    try:
      assert spec.describe(spec.parse(text, 'layer'), 'layer') == 'attention'
    except BadInput as error:
      assert '\n' not in str(error)


QUOTES = '\'"\n\\{}fFrRbB() '
texts = (
  st.text(max_size=20)
  | st.text(f'attenio(num_heds=2,)[]*. -1e{QUOTES}', max_size=30)
  | st.text(f'0123456789.e-+_jx{QUOTES}', max_size=12).map('lstm(forget_bias={})'.format)
  | st.text(f'ai:,={QUOTES}', max_size=12).map('copy_memory(variant={})'.format)
)


@relaxed
@given(texts, st.sampled_from(['layer', 'task']))
def test_any_text_is_a_component_or_one_line(text, kind):
  try:
    component = spec.parse(text, kind)
  except BadInput as error:
    assert len(str(error).splitlines()) == 1
  else:
    assert spec.parse(spec.describe(component, kind), kind) == component
