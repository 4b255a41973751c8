"""Configs of published checkpoints are taken, and what they may not say is refused in one line."""

import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.convert import checkpoint, gpt2, llama
from experiments.convert import converters as weights
from experiments.lab.errors import BadInput
from tests.experiments.convert.other_models import CHECKPOINTS, GPT2, LLAMA
from tests.experiments.convert.real_configs import REAL
from transformer.stretched_rotary import YarnRotary


def model_of(fields):
  """The model that a config describes; BadInput where it is not known."""
  read = gpt2.model_of if fields['model_type'] == 'gpt2' else llama.model_of
  return checkpoint.described(checkpoint.Config(fields, 'config.json'), read)


def count(model, depth):
  """Parameters of the model at another depth."""
  model = model.copy(stack=model.stack.copy(depth=depth))
  shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 1), np.int32))
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize('name', REAL)
def test_a_published_config_is_taken_and_has_the_published_number_of_parameters(name):
  fields, published = REAL[name]
  model = model_of(json.loads(json.dumps(fields)))
  one, two = (count(model, depth) for depth in (1, 2))
  assert one + (model.stack.depth - 1) * (two - one) == published


def test_yarn_of_a_published_config_is_the_papers():
  positions = model_of(REAL['Yarn-Llama-2-7b-64k'][0]).stack.layers[0].layer.positions
  assert isinstance(positions, YarnRotary) and positions.magnitude == pytest.approx(1.2772588722)
  assert (positions.stretch, positions.trained_length, positions.many_turns) == (16.0, 4096, 32.0)


@pytest.mark.parametrize('config', [GPT2, LLAMA])
@pytest.mark.parametrize('value', [None, False, '', [], {}])
def test_a_field_that_switches_nothing_on_is_taken(config, value):
  assert model_of({**config, 'logit_scale': value}) == model_of(config)


@pytest.mark.parametrize('config', [GPT2, LLAMA])
@pytest.mark.parametrize('value', [True, 0, 1, 0.5, 'on', [0], {'on': False}])
def test_a_field_that_could_switch_something_on_is_refused_by_name(config, value):
  with pytest.raises(BadInput, match=r'logit_scale = .* cannot be taken over'):
    model_of({**config, 'logit_scale': value})


@pytest.mark.parametrize('config', [GPT2, LLAMA])
def test_a_field_whose_false_would_switch_something_off_is_refused(config):
  with pytest.raises(BadInput, match='is_causal = false'):
    model_of({**config, 'is_causal': False})


def test_a_refusal_is_one_short_line():
  for fields in ({'a\nb': 1}, {'a': 'x' * 100_000}, {'b' * 100_000: 1}, {'hidden_size': 'x' * 9999},
                 {'rope_scaling': {'type': 'y' * 9999}}):
    with pytest.raises(BadInput) as error:
      model_of({**LLAMA, **fields})
    assert '\n' not in str(error.value) and len(str(error.value)) < 400


FIELDS = sorted({(name, field) for name, config in CHECKPOINTS.items() for field in config
                 if field != 'model_type'})
HOSTILE = st.one_of(
  st.sampled_from([None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, -0.0, 1e-320, 1e308,
                   float('nan'), float('inf'), '', 'x', '\ud800', [], [None], [[1]], {}, {'a': 1}]),
  st.integers(), st.floats(), st.text(max_size=3),
)


@settings(deadline=None, max_examples=300)
@given(place=st.sampled_from(FIELDS), value=HOSTILE)
def test_whatever_a_field_says_it_is_taken_or_refused_in_one_line(place, value):
  name, field = place
  fields = {**CHECKPOINTS[name], field: value}
  try:
    model_of(fields)
  except BadInput as error:
    assert '\n' not in str(error) and len(str(error)) < 600


ROPE = ('llama, linear', 'llama, waves', 'llama, yarn', 'llama, yarn, slopes', 'llama, dynamic')
ROPE_FIELDS = sorted({
  (name, field) for name in ROPE for field in
  (*CHECKPOINTS[name]['rope_parameters'], 'attention_factor', 'type', 'partial_rotary_factor')})


@settings(deadline=None, max_examples=200)
@given(place=st.sampled_from(ROPE_FIELDS), value=HOSTILE)
def test_whatever_rotary_positions_say_turns_are_finite_or_refused(place, value):
  name, field = place
  config = CHECKPOINTS[name]
  try:
    model = model_of({**config, 'rope_parameters': {**config['rope_parameters'], field: value}})
  except BadInput as error:
    assert '\n' not in str(error)
  else:
    positions = model.stack.layers[0].layer.positions
    assert np.isfinite(positions.rotate(np.ones((1, 1, 4, 8), np.float32), np.arange(4))).all()


@pytest.mark.parametrize('kind', [['gpt2'], {'a': 1}, 3, 'x' * 9999, '\ud800', True])
def test_a_model_type_that_is_none_is_refused(tmp_path, kind):
  (tmp_path / 'config.json').write_text(json.dumps({'model_type': kind}))
  with pytest.raises(BadInput, match='no converter for the model_type') as error:
    weights.load(tmp_path)
  assert len(str(error.value)) < 400


@pytest.mark.parametrize(('config', 'generation', 'expected'), [
  ({}, None, ()),
  ({'eos_token_id': 3}, None, (3,)),
  ({'eos_token_id': [3, 4]}, None, (3, 4)),
  ({'eos_token_id': None}, None, ()),
  ({'eos_token_id': 3}, {'eos_token_id': [5, 6]}, (5, 6)),
  ({'eos_token_id': 3}, {'do_sample': True}, (3,)),
])
def test_what_ends_an_answer_is_what_the_checkpoint_says(tmp_path, config, generation, expected):
  (tmp_path / 'config.json').write_text(json.dumps(config))
  if generation is not None:
    (tmp_path / 'generation_config.json').write_text(json.dumps(generation))
  assert weights.ends(tmp_path) == expected


@pytest.mark.parametrize('value', ['2', True, 1.5, [[2]], [None], {'a': 2}, 10**30])
def test_an_end_that_is_no_token_is_refused(tmp_path, value):
  (tmp_path / 'config.json').write_text(json.dumps({'eos_token_id': value}))
  with pytest.raises(BadInput, match=r'eos_token_id = .* cannot be taken over'):
    weights.ends(tmp_path)


@pytest.mark.parametrize('content', [b'{', b'[]', b'\xff\xfe{\x00}\x00', b'[' * 100_000, b'\x00'])
@pytest.mark.parametrize('name', ['config.json', 'generation_config.json'])
def test_a_file_that_is_no_json_object_is_refused(tmp_path, name, content):
  (tmp_path / 'config.json').write_text('{}')
  (tmp_path / name).write_bytes(content)
  with pytest.raises(BadInput, match=name):
    weights.ends(tmp_path)
