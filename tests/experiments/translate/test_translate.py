"""Tests of the command that translates, above all of its refusal of invalid texts and files."""

import functools
import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.lab.cells.experiment import create_experiment
from experiments.lab.cells.models import batch_shapes
from experiments.lab.cells.run import Run, create_run_from_json
from experiments.lab.weights import files
from experiments.translate import __main__ as translate
from tests.support import command

pytest.importorskip('safetensors', reason='the extra `weights` is not installed')

RUN = Run(layer='transformer', task='copy(max_length=3, alphabet_size=3)', width=8, depth=1,
          match='none', feedforward='relu', seeds=(0,))


@pytest.fixture(scope='module')
def weights_path(tmp_path_factory):
  """A file of weights as a study stores it, of an untrained model."""
  path = tmp_path_factory.mktemp('weights') / 'cell-seed0.safetensors'
  save_weights(path, json.dumps(RUN.to_json_values()))
  return path


@functools.cache
def random_parameters_and_digest():
  """Random parameters of the model of RUN, and the digest of its vocabulary."""
  experiment = create_experiment(RUN)
  task = experiment.task
  arguments, named = jax.eval_shape(task.model_arguments, batch_shapes(task))
  shapes = jax.eval_shape(experiment.model.init, jax.random.key(0), *arguments, **named)
  generator = np.random.default_rng(0)
  draw_array = lambda like: generator.normal(0, 0.5, like.shape).astype(np.float32)  # noqa: E731
  return jax.tree.map(draw_array, shapes), task.digest


def save_weights(path, run, change_parameters=lambda parameters: parameters):
  """Saves weights of the model of RUN, with a text as the settings of the run."""
  parameters, digest = random_parameters_and_digest()
  metadata = {'run': run, 'vocabulary': digest, 'model': 'a'}
  files.save_parameters(path, change_parameters(parameters), metadata)


def refusal_message(path, text='1 2', *words):
  """The error message of a refused command, which has one line."""
  done = command.run_command(translate, f'--weights={path}', f'--text={text}', *words)
  assert done.code == 2 and done.out == '' and done.err.count('\n') == 1, done
  assert len(done.err) < len(str(path)) + 400
  return done.err


@pytest.mark.parametrize('text', ['1 2', ''])
def test_translations_are_printed_in_descending_order_of_their_scores(weights_path, text):
  done = command.run_command(translate, f'--weights={weights_path}', f'--text={text}', '--beam=2')
  scores = [float(line.split()[0]) for line in done.out.splitlines()]
  assert done.code == 0 and len(scores) == 2 and scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(('text', 'message'), [
  ('\udcff', 'not UTF-8'),
  ('1 \udcff', 'not UTF-8'),
  ('\ud800', 'not UTF-8'),
  ('1 ' * 50_000, '--text has 100000 characters, and a sentence has at most 2000'),
  ('x' * 2000, 'numbers from 0 to 2'),
  ('9' * 1999, 'numbers from 0 to 2'),
  ('1\n7', 'numbers from 0 to 2'),
])
def test_an_invalid_text_is_refused(weights_path, text, message):
  assert message in refusal_message(weights_path, text)


@pytest.mark.parametrize('run', [
  '', '{', '[]', 'null', '3', '"x"', '[' * 100_000, '{}', '{"layer": 3}',
  *(json.dumps({**RUN.to_json_values(), **change}) for change in (
    {'layer': None}, {'layer': 'x' * 100}, {'task': []}, {'task': 'recall'}, {'width': '8'},
    {'width': 8.0}, {'width': -8}, {'width': 16}, {'depth': True}, {'depth': None}, {'seeds': 0},
    {'seeds': ['0']}, {'seeds': [[0]]}, {'learning_rates': [None]}, {'dropout': 10**400},
    {'expansion': '2'}, {'expansion': float('nan')}, {'more': 1}, {'test_lengths': {'a': 1}},
    {'task': '\ud800'}, {'dtype': 3})),
])
def test_weights_with_invalid_settings_of_a_run_are_refused(tmp_path, run):
  save_weights(tmp_path / 'x', run)
  assert refusal_message(tmp_path / 'x').startswith(str(tmp_path / 'x'))


@pytest.mark.parametrize('word', [
  '--beam=0', '--beam=-1', '--beam=257', '--beam=1000000000', '--length_penalty=-1',
  '--length_penalty=100'])
def test_invalid_flags_of_the_beam_search_are_refused(weights_path, word):
  assert '--beam must be from 1' in refusal_message(weights_path, '1 2', word)


@pytest.mark.parametrize('penalty', ['nan', 'inf'])
def test_an_infinite_length_penalty_is_refused(weights_path, penalty):
  assert '--length_penalty must be a finite number' in refusal_message(
    weights_path, '1 2', f'--length_penalty={penalty}')


FIELDS = sorted(RUN.to_json_values())
VALUES = st.one_of(
  st.none(), st.booleans(), st.integers(-2, 2), st.floats(), st.text(max_size=4),
  st.sampled_from([[], {}, [None], ['x'], [1.5], 1e308, 2**63, 10**400, '\ud800']),
)


@settings(deadline=None, max_examples=300)
@given(name=st.sampled_from(FIELDS), value=VALUES)
def test_a_run_is_parsed_from_values_of_the_types_of_its_fields_alone(name, value):
  values = {**RUN.to_json_values(), name: value}
  try:
    run = create_run_from_json(values)
  except ValueError as error:
    assert '\n' not in str(error)
  else:
    assert type(getattr(run, name)) in (type(getattr(RUN, name)), int)
    assert create_run_from_json(json.loads(json.dumps(run.to_json_values()))) == run


def test_weights_that_do_not_fit_the_model_are_refused(tmp_path):
  run = json.dumps(RUN.to_json_values())
  for message, change_parameters in {
    'has an unexpected tensor': lambda tree: {**tree, 'more': np.zeros(1)},
    'lacks the tensor': lambda tree: {},
    'is float16, not float32': lambda tree: jax.tree.map(np.float16, tree),
    'has a NaN or an infinity': lambda tree: jax.tree.map(lambda a: a * np.nan, tree),
  }.items():
    save_weights(tmp_path / 'x', run, change_parameters)
    assert message in refusal_message(tmp_path / 'x')


def test_weights_of_another_vocabulary_or_without_settings_are_refused(tmp_path):
  files.save_parameters(tmp_path / 'x', {'a': np.zeros(2)}, {})
  assert 'it was not stored by a study' in refusal_message(tmp_path / 'x')
  metadata = {'run': json.dumps(RUN.to_json_values()), 'vocabulary': 'other'}
  files.save_parameters(tmp_path / 'x', {}, metadata)
  assert "with the vocabulary 'other'" in refusal_message(tmp_path / 'x')
