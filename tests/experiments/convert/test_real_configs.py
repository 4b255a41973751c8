"""Tests of configs of published checkpoints, and of invalid configs."""

import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.convert import checkpoint, converters, gpt2, llama
from experiments.lab.errors import BadInput
from tests.experiments.convert.other_models import CHECKPOINTS, GPT2, LLAMA
from tests.experiments.convert.real_configs import REAL
from transformer.stretched_rotary import YarnRotary


def model_of_fields(fields):
  """Builds the model that a config describes."""
  build_model = gpt2.build_gpt2 if fields['model_type'] == 'gpt2' else llama.build_llama
  config = checkpoint.UnusedConfigFields(fields, 'config.json')
  return checkpoint.model_from_config(config, build_model)


def parameter_count(model, depth):
  """Counts the parameters of the model at another depth."""
  model = model.copy(stack=model.stack.copy(depth=depth))
  shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 1), np.int32))
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize('name', REAL)
def test_a_published_config_gives_the_published_number_of_parameters(name):
  fields, published = REAL[name]
  model = model_of_fields(json.loads(json.dumps(fields)))
  one_layer, two_layers = (parameter_count(model, depth) for depth in (1, 2))
  assert one_layer + (model.stack.depth - 1) * (two_layers - one_layer) == published


def test_yarn_of_a_published_config_has_the_factor_of_the_paper():
  positions = model_of_fields(REAL['Yarn-Llama-2-7b-64k'][0]).stack.layers[0].layer.positions
  assert isinstance(positions, YarnRotary)
  assert positions.query_key_scale == pytest.approx(1.2772588722)
  assert (positions.stretch, positions.trained_length) == (16.0, 4096)
  assert positions.max_rotations == 32.0


@pytest.mark.parametrize('config', [GPT2, LLAMA])
@pytest.mark.parametrize('value', [None, False, '', [], {}])
def test_an_unknown_field_that_enables_nothing_is_accepted(config, value):
  assert model_of_fields({**config, 'logit_scale': value}) == model_of_fields(config)


@pytest.mark.parametrize('config', [GPT2, LLAMA])
@pytest.mark.parametrize('value', [True, 0, 1, 0.5, 'on', [0], {'on': False}])
def test_an_unknown_field_that_enables_something_is_refused_by_name(config, value):
  with pytest.raises(BadInput, match=r'logit_scale = .* is not supported'):
    model_of_fields({**config, 'logit_scale': value})


@pytest.mark.parametrize('config', [GPT2, LLAMA])
def test_a_false_field_that_disables_causality_is_refused(config):
  with pytest.raises(BadInput, match='is_causal = false'):
    model_of_fields({**config, 'is_causal': False})


def test_an_error_message_is_one_short_line():
  for fields in ({'a\nb': 1}, {'a': 'x' * 100_000}, {'b' * 100_000: 1}, {'hidden_size': 'x' * 9999},
                 {'rope_scaling': {'type': 'y' * 9999}}):
    with pytest.raises(BadInput) as error:
      model_of_fields({**LLAMA, **fields})
    assert '\n' not in str(error.value) and len(str(error.value)) < 400


CHECKPOINT_FIELDS = sorted({
  (name, field) for name, config in CHECKPOINTS.items() for field in config
  if field != 'model_type'})
ANY_JSON_VALUE = st.one_of(
  st.sampled_from([None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, -0.0, 1e-320, 1e308,
                   float('nan'), float('inf'), '', 'x', '\ud800', [], [None], [[1]], {}, {'a': 1}]),
  st.integers(), st.floats(), st.text(max_size=3),
)


@settings(deadline=None, max_examples=300)
@given(field_of_checkpoint=st.sampled_from(CHECKPOINT_FIELDS), value=ANY_JSON_VALUE)
def test_any_value_of_a_field_is_accepted_or_refused_in_one_line(field_of_checkpoint, value):
  name, field = field_of_checkpoint
  fields = {**CHECKPOINTS[name], field: value}
  try:
    model_of_fields(fields)
  except BadInput as error:
    assert '\n' not in str(error) and len(str(error)) < 600


ROTARY_CHECKPOINTS = (
  'llama, linear', 'llama 3.1', 'llama, yarn', 'llama, yarn, slopes', 'llama, dynamic')
ROTARY_FIELDS = sorted({
  (name, field) for name in ROTARY_CHECKPOINTS for field in
  (*CHECKPOINTS[name]['rope_parameters'], 'attention_factor', 'type', 'partial_rotary_factor')})


@settings(deadline=None, max_examples=200)
@given(field_of_checkpoint=st.sampled_from(ROTARY_FIELDS), value=ANY_JSON_VALUE)
def test_any_rotary_field_gives_finite_rotations_or_is_refused(field_of_checkpoint, value):
  name, field = field_of_checkpoint
  config = CHECKPOINTS[name]
  rotary_fields = {**config['rope_parameters'], field: value}
  try:
    model = model_of_fields({**config, 'rope_parameters': rotary_fields})
  except BadInput as error:
    assert '\n' not in str(error)
  else:
    positions = model.stack.layers[0].layer.positions
    assert np.isfinite(positions.rotate(np.ones((1, 1, 4, 8), np.float32), np.arange(4))).all()


@pytest.mark.parametrize('kind', [['gpt2'], {'a': 1}, 3, 'x' * 9999, '\ud800', True])
def test_an_invalid_model_type_is_refused(tmp_path, kind):
  (tmp_path / 'config.json').write_text(json.dumps({'model_type': kind}))
  with pytest.raises(BadInput, match='no converter for the model_type') as error:
    converters.load_model(tmp_path)
  assert len(str(error.value)) < 400


@pytest.mark.parametrize(('config', 'generation', 'expected'), [
  ({}, None, ()),
  ({'eos_token_id': 3}, None, (3,)),
  ({'eos_token_id': [3, 4]}, None, (3, 4)),
  ({'eos_token_id': None}, None, ()),
  ({'eos_token_id': 3}, {'eos_token_id': [5, 6]}, (5, 6)),
  ({'eos_token_id': 3}, {'do_sample': True}, (3,)),
])
def test_end_tokens_are_those_of_the_checkpoint(tmp_path, config, generation, expected):
  (tmp_path / 'config.json').write_text(json.dumps(config))
  if generation is not None:
    (tmp_path / 'generation_config.json').write_text(json.dumps(generation))
  assert converters.read_end_tokens(tmp_path) == expected


@pytest.mark.parametrize('value', ['2', True, 1.5, [[2]], [None], {'a': 2}, 10**30])
def test_an_invalid_end_token_is_refused(tmp_path, value):
  (tmp_path / 'config.json').write_text(json.dumps({'eos_token_id': value}))
  with pytest.raises(BadInput, match=r'eos_token_id = .* is not supported'):
    converters.read_end_tokens(tmp_path)


@pytest.mark.parametrize('content', [b'{', b'[]', b'\xff\xfe{\x00}\x00', b'[' * 100_000, b'\x00'])
@pytest.mark.parametrize('name', ['config.json', 'generation_config.json'])
def test_a_file_without_a_json_object_is_refused(tmp_path, name, content):
  (tmp_path / 'config.json').write_text('{}')
  (tmp_path / name).write_bytes(content)
  with pytest.raises(BadInput, match=name):
    converters.read_end_tokens(tmp_path)
