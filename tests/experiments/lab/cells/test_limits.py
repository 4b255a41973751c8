"""Tests of limits, which reject absurd sizes in one line and accept all published models."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from baselines import LAYERS
from experiments.lab.cells import limits, models, sizes, spec, training
from experiments.lab.cells.checks import check_experiment
from experiments.lab.cells.experiment import create_experiment
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
DATA_TASKS = ('corpus', 'dates', 'number_words')  # their use reads or creates many sentences
SMALL = {'depth': 1, 'width': 8, 'batch_size': 2, 'seeds': (0,)}


def small_run(kind, text):
  """A small run that contains the component of a spec."""
  if kind == 'positions':
    kind, text = 'layer', f'attention(positions={text})'
  if kind == 'task':
    is_translation = spec.parse_spec(text, 'task').model_kind == 'translator'
    return Run(task=text, layer='fixed_vector' if is_translation else 'elman', **SMALL)
  task = {'layer': 'parity(length=4)', 'translator': 'copy(max_length=3, alphabet_size=4)'}[kind]
  return Run(layer=text, task=task, **SMALL)


def output_shape(layer):
  """The shape of a layer's output for four tokens."""
  x = jnp.zeros((1, 4, layer.required_width_divisor))
  return jax.eval_shape(lambda: layer.init_with_output(jax.random.key(0), x))[0][0].shape


@pytest.mark.parametrize(('kind', 'name'), ENTRIES)
def test_any_value_of_any_option_is_valid_or_rejected_in_one_line(kind, name):
  for option, field in spec.settable_fields(CATALOGUES[kind][name]).items():
    if option in CATALOGUES or option in spec.UNNAMED_OPTIONS:
      continue
    for value in VALUES:
      try:
        run = small_run(kind, f'{name}({option}={value})')
        if name not in DATA_TASKS:
          check_experiment(create_experiment(run))
      except BadInput as error:
        assert len(str(error)) <= 1000 and len(str(error).splitlines()) == 1
        continue
      assert value not in NO_NUMBERS or type(field.default) is str
      if kind not in ('layer', 'positions'):
        continue
      layer = create_experiment(run).layer
      if layer.required_width_divisor < 1000:
        assert output_shape(layer) == (1, 4, layer.required_width_divisor)


@pytest.mark.parametrize(
  ('text', 'reason'),
  [
    ('attention(num_heads=1000000000)', 'EiB, but the limit is'),
    ('s5(state_size=1000000000)', 'takes 7,450,580,596.9 GiB'),
    ('convolution(kernel_size=100000000)', 'an axis of this length takes 381.5 MiB'),
    ('mamba(state_size=100000000000)', 'an axis of this length takes 372.5 GiB'),
    ('attention(key_width=100000000)', 'an axis of this length takes 381.5 MiB'),
    ('tcn(levels=100)', 'levels of tcn is at most 64, not 100'),
    ('tcn(levels=40)', 'the limit is 2147483647: an axis of this length takes 16 TiB'),
    (f'tcn(levels=1{"0" * 400})', 'not a number of 401 digits'),
    ('mingru(expand=1000000)', 'expand of mingru is at most 1024'),
    ('linear_attention(num_heads=1000000000)', 'too many'),
    ('interleave(lstm, depth=1000000000)', 'depth of interleave is at most 1024'),
    ('attention(positions=learned(max_length=1000000000000))', 'max_length of learned'),
  ],
)
def test_an_absurd_size_is_rejected_with_its_memory(text, reason):
  task = 'recall(length=16, num_pairs=2, vocabulary_size=16)'
  with pytest.raises(BadInput) as caught:
    check_experiment(create_experiment(Run(
      layer=text, task=task, width=8, depth=1, batch_size=8, seeds=(0, 1))))
  assert reason in str(caught.value)


@pytest.mark.parametrize(
  'settings',
  [
    {'width': 10**9}, {'depth': 10**9}, {'expansion': 1e9}, {'steps': 10**9}, {'beam': 10**9},
    {'test_batches': 10**9}, {'batch_size': 10**12}, {'test_lengths': (10**9,)},
    {'validations': 10**9}, {'width': 2**18, 'depth': 1024}, {'batch_size': 2**31 - 1, 'width': 64},
  ],
)
def test_absurd_settings_are_rejected(settings):
  defaults = {'feedforward': 'gelu', 'task': 'parity(length=64)', 'seeds': (0,)}
  with pytest.raises(ValueError, match=r'at most|at least'):
    check_experiment(create_experiment(Run(**defaults | settings)))


GPT2_XL = {'layer': 'attention(num_heads=25, positions=learned(max_length=1024))', 'width': 1600,
           'depth': 48, 'feedforward': 'gelu', 'expansion': 4.0, 'batch_size': 512}
LLAMA_3 = 'attention(num_heads={}, num_key_value_heads=8, positions=rotary(base=500000))'
PUBLISHED_MODELS = {
  'GPT-2 XL': GPT2_XL,
  'Llama 3 8B': {'layer': LLAMA_3.format(32), 'width': 4096, 'depth': 32, 'expansion': 3.5},
  'Llama 3 405B': {'layer': LLAMA_3.format(128), 'width': 16384, 'depth': 126, 'expansion': 3.25},
  'Mamba 2.8B': {'layer': 'mamba', 'width': 2560, 'depth': 64, 'feedforward': 'none'},
  'Hyena, a million tokens': {'layer': 'hyena(max_length=1048576)', 'width': 256, 'depth': 8},
}


@pytest.mark.parametrize('name', PUBLISHED_MODELS)
def test_published_models_are_within_the_limits(name):
  shared = {'match': 'none', 'seeds': (0,), 'batch_size': 16, 'feedforward': 'swiglu',
            'dtype': 'bfloat16', 'task': 'induction_heads(length=8192, vocabulary_size=128256)'}
  task = {'task': 'induction_heads(length=1024, vocabulary_size=50257)'} if 'GPT' in name else {}
  check_experiment(create_experiment(Run(**shared | PUBLISHED_MODELS[name] | task)))


def test_the_transformers_of_vaswani_2017_are_within_the_limits():
  task = 'copy(max_length=127, min_length=127, alphabet_size=36997)'
  for row in TABLE_3.values():
    layer = f'transformer(attention(num_heads={row.heads}))'
    check_experiment(create_experiment(Run(
      layer=layer, task=task, width=row.width, depth=row.depth, steps=row.steps,
      feedforward='relu', expansion=row.inner / row.width, batch_size=192)))


@pytest.mark.slow
@pytest.mark.parametrize('study', [retention, ladder])
def test_the_presets_of_studies_are_within_the_limits(study):
  preset = study.PRESETS['paper']
  for task_grid in preset.task_grids:
    task = spec.parse_spec(task_grid.task, 'task')
    for distance in task_grid.distances:
      text = spec.component_to_spec_string(task.with_dependency_distance(distance), 'task')
      for layer in preset.layers:
        settings = preset.settings | task_grid.settings | {'layer': layer, 'task': text}
        check_experiment(create_experiment(Run(**settings)))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['dates', 'number_words'])
def test_a_vocabulary_larger_than_the_text_is_rejected_in_one_line(name):
  run = small_run('task', f'{name}(vocabulary_size=1000000000)')
  with pytest.raises(BadInput, match='does not suit the text'):
    check_experiment(create_experiment(run))


@pytest.mark.parametrize('name', LAYERS)
def test_the_estimated_parameters_are_most_of_the_models_parameters(name):
  run = Run(layer=name, task='parity(length=4)', depth=2, feedforward='gelu')
  experiment = create_experiment(run)
  width = 8 * experiment.layer.required_width_divisor
  estimated = sizes.model_sizes(run, experiment.layer, experiment.task, width).parameters
  actual = models.count_parameters(experiment.model_at_width(width=width), experiment.task)
  assert 0.8 * actual < estimated <= actual


def test_a_training_step_takes_more_memory_than_the_lower_bound():
  run = Run(task='parity(length=64)', layer='lstm', width=32, batch_size=64, seeds=(0,))
  experiment = create_experiment(run)
  task, matched = experiment.task, experiment.model_width_and_parameter_counts
  step = Training(experiment.model, task, run)
  state = jax.eval_shape(step.initialise, *map(jnp.asarray, (0, 1e-3)))
  batch = jax.eval_shape(lambda: task.batch('train', 0, 64))
  memory_use = memory.program_memory(jax.jit(step.train_step).lower(state, batch).compile())

  def lower_bound(run):
    return sizes.training_memory_bytes(
      run, task, models.batch_shapes(task), matched['parameters'], matched['width'])

  actual = memory_use.temporary + memory_use.arguments
  assert lower_bound(run) < actual < 40 * lower_bound(run)
  doubled = dataclasses.replace(run, seeds=(0, 1), batch_size=128)
  assert lower_bound(doubled) > 1.5 * lower_bound(run)


def test_a_run_too_large_for_this_machine_has_a_record(tmp_path, monkeypatch):
  monkeypatch.setattr(memory, 'available_bytes', lambda: 1000)
  run = Run(task='parity(length=4)', **SMALL)
  cells = [training.create_training_grid_cell('retention', create_experiment(run))]
  execute = training.training_executor('jit', np.inf, str(tmp_path))
  (record,) = grid.run_grid_cells(cells, execute, Store(tmp_path))
  assert record['status'] == 'out of memory'
  assert 'but this machine has 1000 bytes' in record['reason']


@pytest.mark.parametrize(
  ('count', 'text'),
  [(0, '0 bytes'), (1023, '1023 bytes'), (1024, '1 KiB'), (3 * 2**39, '1.5 TiB'),
   (10**400, 'more than 1024 EiB')],
)
def test_bytes_are_formatted_in_the_largest_suitable_unit(count, text):
  assert limits.format_bytes(count) == text
