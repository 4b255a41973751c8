"""Any number in any option is a component or one line; real models are taken."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from baselines import LAYERS
from experiments.lab.cells import limits, models, sizes, spec, training
from experiments.lab.cells.checks import check
from experiments.lab.cells.experiment import resolve
from experiments.lab.cells.run import Run
from experiments.lab.cells.spec import CATALOGUES
from experiments.lab.errors import BadInput
from experiments.lab.launch import grid
from experiments.lab.measure import memory
from experiments.lab.results.store import Store
from experiments.lab.training.step import Training
from experiments.ladder import study as ladder
from experiments.retention import study as retention
from transformer.presets import TABLE_3

ENTRIES = [(kind, name) for kind, catalogue in CATALOGUES.items() for name in catalogue]
NO_NUMBERS = ('nan', 'inf', '-inf', '1e999', f'1{"0" * 400}', f'-1{"0" * 400}', '0x' + 'f' * 5000)
TEXTS = (repr('x' * 100_000), 'x' * 100_000, "''")
VALUES = ('0', '-1', '1000000000', *NO_NUMBERS, *TEXTS)
TABLES = ('corpus', 'dates', 'number_words')  # they read or make many sentences when they are used
SMALL = {'depth': 1, 'width': 8, 'batch_size': 2, 'seeds': (0,)}


def run_of(kind, text):
  """A small run with a component in it."""
  if kind == 'positions':
    kind, text = 'layer', f'attention(positions={text})'
  if kind == 'task':
    translated = spec.parse(text, 'task').answered_by == 'translator'
    return Run(task=text, layer='fixed_vector' if translated else 'elman', **SMALL)
  task = {'layer': 'parity(length=4)', 'translator': 'copy(max_length=3, alphabet_size=4)'}[kind]
  return Run(layer=text, task=task, **SMALL)


def trace(layer):
  """The shapes of a layer's answer to a few tokens."""
  x = jnp.zeros((1, 4, layer.width_multiple))
  return jax.eval_shape(lambda: layer.init_with_output(jax.random.key(0), x))[0][0].shape


@pytest.mark.parametrize(('kind', 'name'), ENTRIES)
def test_any_number_in_any_option_is_a_component_or_one_line(kind, name):
  for option, field in spec.options_of(CATALOGUES[kind][name]).items():
    if option in CATALOGUES or option in spec.PLACED:
      continue
    for value in VALUES:
      try:
        run = run_of(kind, f'{name}({option}={value})')
        if name not in TABLES:
          check(resolve(run))
      except BadInput as error:
        assert len(str(error)) <= 1000 and len(str(error).splitlines()) == 1
        continue
      assert value not in NO_NUMBERS or type(field.default) is str
      if kind in ('layer', 'positions') and (layer := resolve(run).layer).width_multiple < 1000:
        assert trace(layer) == (1, 4, layer.width_multiple)


@pytest.mark.parametrize(
  ('text', 'why'),
  [
    ('attention(num_heads=1000000000)', 'EiB at the least'),
    ('s5(state_size=1000000000)', 'takes 7,450,580,596.9 GiB'),
    ('convolution(kernel_size=100000000)', 'so many numbers take 381.5 MiB'),
    ('mamba(state_size=100000000000)', 'so many numbers take 372.5 GiB'),
    ('attention(key_width=100000000)', 'so many numbers take 381.5 MiB'),
    ('tcn(levels=100)', 'levels of tcn is at most 64, not 100'),
    ('tcn(levels=40)', 'at most 2147483647: so many numbers take 16 TiB'),
    (f'tcn(levels=1{"0" * 400})', 'not a number of 401 digits'),
    ('mingru(expand=1000000)', 'expand of mingru is at most 1024'),
    ('linear_attention(num_heads=1000000000)', 'too many'),
    ('interleave(lstm, depth=1000000000)', 'depth of interleave is at most 1024'),
    ('attention(positions=learned(max_length=1000000000000))', 'max_length of learned'),
  ],
)
def test_an_absurd_size_is_refused_with_what_it_would_take(text, why):
  task = 'recall(length=16, num_pairs=2, vocabulary_size=16)'
  with pytest.raises(BadInput) as caught:
    check(resolve(Run(
      layer=text, task=task, width=8, depth=1, batch_size=8, seeds=(0, 1))))
  assert why in str(caught.value)


@pytest.mark.parametrize(
  'settings',
  [
    {'width': 10**9}, {'depth': 10**9}, {'expansion': 1e9}, {'steps': 10**9}, {'beam': 10**9},
    {'test_batches': 10**9}, {'batch_size': 10**12}, {'test_lengths': (10**9,)},
    {'validations': 10**9}, {'width': 2**18, 'depth': 1024}, {'batch_size': 2**31 - 1, 'width': 64},
  ],
)
def test_absurd_settings_are_refused(settings):
  usual = {'feedforward': 'gelu', 'task': 'parity(length=64)', 'seeds': (0,)}
  with pytest.raises(ValueError, match=r'at most|at the least'):
    check(resolve(Run(**usual | settings)))


GPT2_XL = {'layer': 'attention(num_heads=25, positions=learned(max_length=1024))', 'width': 1600,
           'depth': 48, 'feedforward': 'gelu', 'expansion': 4.0, 'batch_size': 512}
LLAMA_3 = 'attention(num_heads={}, num_key_value_heads=8, positions=rotary(base=500000))'
REAL = {
  'GPT-2 XL': GPT2_XL,
  'Llama 3 8B': {'layer': LLAMA_3.format(32), 'width': 4096, 'depth': 32, 'expansion': 3.5},
  'Llama 3 405B': {'layer': LLAMA_3.format(128), 'width': 16384, 'depth': 126, 'expansion': 3.25},
  'Mamba 2.8B': {'layer': 'mamba', 'width': 2560, 'depth': 64, 'feedforward': 'none'},
  'Hyena, a million tokens': {'layer': 'hyena(max_length=1048576)', 'width': 256, 'depth': 8},
}


@pytest.mark.parametrize('name', REAL)
def test_real_models_are_within_the_bounds(name):
  shared = {'match': 'none', 'seeds': (0,), 'batch_size': 16, 'feedforward': 'swiglu',
            'dtype': 'bfloat16', 'task': 'induction_heads(length=8192, vocabulary_size=128256)'}
  task = {'task': 'induction_heads(length=1024, vocabulary_size=50257)'} if 'GPT' in name else {}
  check(resolve(Run(**shared | REAL[name] | task)))


def test_the_models_of_2017_are_within_the_bounds():
  task = 'copy(max_length=127, min_length=127, alphabet_size=36997)'
  for row in TABLE_3.values():
    layer = f'transformer(attention(num_heads={row.heads}))'
    check(resolve(Run(
      layer=layer, task=task, width=row.width, depth=row.depth, steps=row.steps,
      feedforward='relu', expansion=row.inner / row.width, batch_size=192)))


@pytest.mark.slow
@pytest.mark.parametrize('study', [retention, ladder])
def test_what_studies_ask_is_within_the_bounds(study):
  preset = study.PRESETS['paper']
  for question in preset.task_grids:
    task = spec.parse(question.task, 'task')
    for distance in question.distances:
      text = spec.describe(task.at(distance), 'task')
      for layer in preset.layers:
        settings = preset.settings | question.settings | {'layer': layer, 'task': text}
        check(resolve(Run(**settings)))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['dates', 'number_words'])
def test_a_vocabulary_that_no_text_fills_is_one_line(name):
  run = run_of('task', f'{name}(vocabulary_size=1000000000)')
  with pytest.raises(BadInput, match='does not suit the text'):
    check(resolve(run))


@pytest.mark.parametrize('name', LAYERS)
def test_what_is_counted_is_part_of_the_model(name):
  run = Run(layer=name, task='parity(length=4)', depth=2, feedforward='gelu')
  one = resolve(run)
  width = 8 * one.layer.width_multiple
  counted = sizes.of_model(run, one.layer, one.task, width).parameters
  whole = models.count_parameters(one.unmatched(width=width), one.task)
  assert 0.8 * whole < counted <= whole


def test_a_training_step_takes_more_than_is_counted():
  run = Run(task='parity(length=64)', layer='lstm', width=32, batch_size=64, seeds=(0,))
  one = resolve(run)
  task, match = one.task, one.match
  made = Training(one.model, task, run)
  state = jax.eval_shape(made.initialise, *map(jnp.asarray, (0, 1e-3)))
  batch = jax.eval_shape(lambda: task.batch('train', 0, 64))
  plan = memory.of_program(jax.jit(made.train_step).lower(state, batch).compile())
  shape = models.shapes_of(task)
  counted = sizes.of_training(run, task, shape, match['parameters'], match['width'])
  assert counted < plan.temporary + plan.arguments < 40 * counted
  twice = dataclasses.replace(run, seeds=(0, 1), batch_size=128)
  assert sizes.of_training(twice, task, shape, match['parameters'], match['width']) > 1.5 * counted


def test_a_run_too_large_for_this_machine_is_a_result(tmp_path, monkeypatch):
  monkeypatch.setattr(memory, 'available', lambda: 1000)
  run = Run(task='parity(length=4)', **SMALL)
  cells = [training.cell_of('retention', resolve(run))]
  execute = training.train_cell('jit', np.inf, str(tmp_path))
  (record,) = grid.launch(cells, execute, Store(tmp_path))
  assert record['status'] == 'out of memory'
  assert 'at the least, and 1000 bytes are here' in record['reason']


@pytest.mark.parametrize(
  ('count', 'text'),
  [(0, '0 bytes'), (1023, '1023 bytes'), (1024, '1 KiB'), (3 * 2**39, '1.5 TiB'),
   (10**400, 'more than 1024 EiB')],
)
def test_bytes_are_written_in_the_unit_in_which_they_are_short(count, text):
  assert limits.in_bytes(count) == text
