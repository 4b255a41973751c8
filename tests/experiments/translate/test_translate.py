"""The command that translates: texts and files that cannot be are refused in one line."""

import functools
import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.lab.cells.experiment import resolve
from experiments.lab.cells.models import shapes_of
from experiments.lab.cells.run import Run, run_from
from experiments.lab.weights import files
from experiments.translate import __main__ as translate
from tests.support import command

pytest.importorskip('safetensors', reason='the extra `weights` is not installed')

RUN = Run(layer='transformer', task='copy(max_length=3, alphabet_size=3)', width=8, depth=1,
          match='none', feedforward='relu', seeds=(0,))


@pytest.fixture(scope='module')
def kept(tmp_path_factory):
  """A file as a study keeps it, of a model that was not trained."""
  path = tmp_path_factory.mktemp('kept') / 'cell-seed0.safetensors'
  keep(path, json.dumps(RUN.identity()))
  return path


@functools.cache
def written():
  """What RUN's model has: its parameters, drawn without training, its vocabulary's digest."""
  one = resolve(RUN)
  task = one.task
  arguments, named = jax.eval_shape(task.arguments, shapes_of(task))
  shapes = jax.eval_shape(one.model.init, jax.random.key(0), *arguments, **named)
  generator = np.random.default_rng(0)
  draw = lambda like: generator.normal(0, 0.5, like.shape).astype(np.float32)  # noqa: E731
  return jax.tree.map(draw, shapes), task.digest


def keep(path, run, change=lambda tree: tree):
  """Writes weights of RUN's model with this text for its run."""
  parameters, digest = written()
  files.save(path, change(parameters), {'run': run, 'vocabulary': digest, 'model': 'a'})


def said(path, text='1 2', *words):
  """What is said of a command that is refused, in one line."""
  done = command.run(translate, f'--weights={path}', f'--text={text}', *words)
  assert done.code == 2 and done.out == '' and done.err.count('\n') == 1, done
  assert len(done.err) < len(str(path)) + 400
  return done.err


@pytest.mark.parametrize('text', ['1 2', ''])
def test_a_sentence_is_answered_the_best_first(kept, text):
  done = command.run(translate, f'--weights={kept}', f'--text={text}', '--beam=2')
  scores = [float(line.split()[0]) for line in done.out.splitlines()]
  assert done.code == 0 and len(scores) == 2 and scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(('text', 'says'), [
  ('\udcff', 'not UTF-8'),
  ('1 \udcff', 'not UTF-8'),
  ('\ud800', 'not UTF-8'),
  ('1 ' * 50_000, '--text has 100000 characters; a sentence has at most 2000'),
  ('x' * 2000, 'numbers from 0 to 2'),
  ('9' * 1999, 'numbers from 0 to 2'),
  ('1\n7', 'numbers from 0 to 2'),
])
def test_a_text_that_is_no_sentence_is_refused(kept, text, says):
  assert says in said(kept, text)


@pytest.mark.parametrize('run', [
  '', '{', '[]', 'null', '3', '"x"', '[' * 100_000, '{}', '{"layer": 3}',
  *(json.dumps({**RUN.identity(), **change}) for change in (
    {'layer': None}, {'layer': 'x' * 100}, {'task': []}, {'task': 'recall'}, {'width': '8'},
    {'width': 8.0}, {'width': -8}, {'width': 16}, {'depth': True}, {'depth': None}, {'seeds': 0},
    {'seeds': ['0']}, {'seeds': [[0]]}, {'learning_rates': [None]}, {'dropout': 10**400},
    {'expansion': '2'}, {'expansion': float('nan')}, {'more': 1}, {'test_lengths': {'a': 1}},
    {'task': '\ud800'}, {'dtype': 3})),
])
def test_weights_with_right_checksums_of_a_run_that_cannot_be_are_refused(tmp_path, run):
  keep(tmp_path / 'x', run)
  assert said(tmp_path / 'x').startswith(str(tmp_path / 'x'))


@pytest.mark.parametrize('word', [
  '--beam=0', '--beam=-1', '--beam=257', '--beam=1000000000', '--length_penalty=-1',
  '--length_penalty=100'])
def test_searches_that_cannot_be_are_refused(kept, word):
  assert '--beam is 1 or more' in said(kept, '1 2', word)


@pytest.mark.parametrize('penalty', ['nan', 'inf'])
def test_a_length_penalty_is_a_finite_number(kept, penalty):
  assert '--length_penalty is a finite number' in said(kept, '1 2', f'--length_penalty={penalty}')


FIELDS = sorted(RUN.identity())
VALUES = st.one_of(
  st.none(), st.booleans(), st.integers(-2, 2), st.floats(), st.text(max_size=4),
  st.sampled_from([[], {}, [None], ['x'], [1.5], 1e308, 2**63, 10**400, '\ud800']),
)


@settings(deadline=None, max_examples=300)
@given(name=st.sampled_from(FIELDS), value=VALUES)
def test_a_run_is_read_from_values_of_its_types_alone(name, value):
  values = {**RUN.identity(), name: value}
  try:
    run = run_from(values)
  except ValueError as error:
    assert '\n' not in str(error)
  else:
    assert type(getattr(run, name)) in (type(getattr(RUN, name)), int)
    assert run_from(json.loads(json.dumps(run.identity()))) == run


def test_weights_that_are_not_the_models_are_refused(tmp_path):
  run = json.dumps(RUN.identity())
  for says, change in {
    'has an unexpected tensor': lambda tree: {**tree, 'more': np.zeros(1)},
    'lacks the tensor': lambda tree: {},
    'is float16, not float32': lambda tree: jax.tree.map(np.float16, tree),
    'has a NaN or an infinity': lambda tree: jax.tree.map(lambda a: a * np.nan, tree),
  }.items():
    keep(tmp_path / 'x', run, change)
    assert says in said(tmp_path / 'x')


def test_weights_of_another_vocabulary_or_of_no_study_are_refused(tmp_path):
  files.save(tmp_path / 'x', {'a': np.zeros(2)}, {})
  assert 'it was not kept by a study' in said(tmp_path / 'x')
  files.save(tmp_path / 'x', {}, {'run': json.dumps(RUN.identity()), 'vocabulary': 'other'})
  assert "with the vocabulary 'other'" in said(tmp_path / 'x')
