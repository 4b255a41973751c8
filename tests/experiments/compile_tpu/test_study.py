"""Tests of programs compiled for TPU topologies, of their selection, results and tables."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from baselines import LAYERS
from experiments.compile_tpu import cells, collectives, devices, topologies
from experiments.compile_tpu import programs as aot
from experiments.compile_tpu import study as compile_tpu
from experiments.lab import optional
from experiments.lab.cells.cell import Cell
from experiments.lab.cells.run import Run
from experiments.lab.errors import BadInput
from experiments.lab.launch import flags
from experiments.lab.launch.grid import run_grid_cells
from experiments.lab.results.store import Store
from experiments.lab.training.ensemble import AXIS, compile_over_devices
from tests.support import command

ROOT = pathlib.Path(__file__).parents[3]
SMALL = {
  'task': 'text(length=16)', 'width': 8, 'depth': 1, 'batch_size': 8, 'steps': 2, 'match': 'none',
}
KERNEL_TASK = 'text(length=128)'  # a length that a Pallas kernel supports
TPU_HLO = """
  %all-reduce.1 = (f32[1,2,64]{2,1,0:T(2,128)S(1)}, /*index=1*/bf16[3]{0:T(128)}) all-reduce(%a, %b)
  ROOT %all-gather-done.2 = u8[8,16]{1,0:T(8,128)} all-gather-done(%all-gather-start.2)
  %all-gather-start.2 = (u8[2,16]{1,0}, u8[8,16]{1,0}) all-gather-start(%c), dimensions={0}
  %all-reduce.3 = pred[] all-reduce(%d), to_apply=%region
  %fusion.4 = f32[7]{0} fusion(%all-reduce.3), metadata={op_name="jit(f)/all-reduce"}
"""


def compile_on_four_devices(function, *shape):
  """Compiles a function for four devices, each with its own array."""
  return compile_over_devices(jax.devices()[:4], 'jit', function).lower(
    jax.ShapeDtypeStruct((4, *shape), jnp.float32)).compile()


@pytest.mark.parametrize(
  ('function', 'kind', 'size'),
  [
    (lambda x: lax.psum(x, AXIS), 'all-reduce', 60),
    (lambda x: lax.all_gather(x, AXIS), 'all-gather', 240),
    (lambda x: lax.ppermute(x, AXIS, [(0, 1), (1, 0)]), 'collective-permute', 60),
  ],
)
def test_bytes_of_collective_operations_are_exact(function, kind, size):
  program = compile_on_four_devices(function, 3, 5)
  assert collectives.program_collectives(program) == {kind: (1, size)}


def test_a_local_function_has_no_collective_operation():
  assert collectives.program_collectives(compile_on_four_devices(lambda x: x @ x, 5, 5)) == {}


def test_tpu_layouts_and_asynchronous_operations_are_parsed():
  assert collectives.hlo_collectives(TPU_HLO) == {
    'all-reduce': (2, 4 * 128 + 2 * 3 + 1), 'all-gather': (1, 128),
  }


def test_the_chip_count_is_the_product_of_the_sides():
  for kind, generation in topologies.GENERATIONS.items():
    for size in generation.sizes:
      assert topologies.tpu_generation(f'{kind}:{size}') is generation
  assert [topologies.chip_count(name) for name in ('v5e:1x1', 'v5e:4x4', 'v4:2x2x4')] == [1, 16, 16]
  assert topologies.chip_memory_in_bytes('v6e:2x2') == 32 * 2**30


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('v9z:4x4', "no TPU 'v9z'.* v5e"), ('', 'no TPU'), ('v5e', "no topology 'v5e'.* v5e:4x4"),
    ('v5e:4x', "no topology 'v5e:4x'"), ('v6e:3x3', 'v6e:2x2'), ('v5e:4x4x4', 'v5e:16x16'),
    ('v5e:4x4 ', 'no topology'), ('v5p:2x2', 'v5p:2x2x1'),
  ],
)
def test_an_unknown_topology_gives_one_line_with_the_valid_names(name, message, tmp_path):
  done = command.run_command(
    compile_tpu, f'--topology=v5e:2x2,{name}', '--preset=smoke', f'--runs={tmp_path}/runs')
  assert done.code == 2 and done.out == ''
  (line,) = done.err.splitlines()
  with pytest.raises(BadInput, match=message):
    raise BadInput(line)
  assert not (tmp_path / 'runs').exists()


def test_existing_variables_of_libtpu_are_kept(monkeypatch):
  monkeypatch.setattr(os, 'environ', {'TPU_WORKER_HOSTNAMES': 'own'})
  topologies.configure_jax_and_libtpu()
  assert os.environ['TPU_WORKER_HOSTNAMES'] == 'own'
  assert os.environ['TPU_SKIP_MDS_QUERY'] == '1' and os.environ['JAX_PLATFORMS'] == 'cpu'


def cells_of_command(*arguments):
  """Returns the cells that a command selects, or the finished command if it fails."""
  selected = []
  done = command.run_command(compile_tpu, *arguments, main=lambda: selected.extend(
    cells.create_compilation_grid_cells(
      'compile_tpu', flags.requested_preset(compile_tpu.PRESETS))))
  return selected or done


@pytest.mark.parametrize(('preset', 'papers'), [('quick', set()), ('paper', {'base', 'big'})])
def test_every_layer_is_compiled_for_every_topology(preset, papers):
  selected = [
    (cell.run['topology'], cell.run['layer']) for cell in cells_of_command(f'--preset={preset}')]
  for topology in compile_tpu.PRESETS[preset].topologies:
    assert {*LAYERS, *papers} == {layer for where, layer in selected if where == topology}
  assert len(set(selected)) == len(selected)


def test_only_the_named_layers_and_topologies_are_compiled():
  layers = '--layers=base,lstm(forget_bias=2.0)'
  selected = cells_of_command('--topology=v5e:2x4', layers, '--lengths=32,64')
  assert [(cell.run['layer'], cell.run['task'].partition('(')[0]) for cell in selected] == [
    ('lstm(forget_bias=2.0)', 'text'), ('lstm(forget_bias=2.0)', 'text'), ('base', 'copy')]
  assert {cell.run['topology'] for cell in selected} == {'v5e:2x4'}


@pytest.mark.parametrize(
  ('argument', 'message'),
  [
    ('--seeds=2', 'has no effect here'), ('--timeout=3', 'has no effect here'),
    ('--beam=2', 'has no effect here'),
    ('--batch_size=6', 'not a multiple of the 4 chips of v5e:2x2'), ('--width=7', '--width=7'),
    ('--layers=base,bigg', "no layer 'bigg'"), ('--lengths=1', 'length=1'),
    ('--workers=-1', '--workers'), ('--workers=-1', 'not -1'),
  ],
)
def test_an_invalid_flag_gives_one_line(argument, message):
  done = cells_of_command('--preset=smoke', argument)
  assert done.code == 2 and message in done.err and len(done.err.splitlines()) == 1


@pytest.mark.parametrize('argument', ['--width=128', '--dropout=0.3', '--lengths=32'])
def test_settings_fixed_by_table_3_are_refused_for_its_rows_only(argument):
  done = cells_of_command('--preset=smoke', '--layers=base,big', argument)
  name = argument.partition('=')[0]
  assert (done.code, done.err) == (2, f'{name} has no effect here: base and big fix its value\n')
  selected = cells_of_command('--preset=smoke', '--layers=base,lstm', argument)
  assert len({cell.run['layer'] for cell in selected}) == 2
  base_cell, = (cell for cell in cells_of_command('--preset=smoke', '--layers=base'))
  assert base_cell.run in [cell.run for cell in selected], 'the flag creates no second cell'


@pytest.fixture(scope='module')
def layer_records(tmp_path_factory):
  """Records of an Elman network and of attention, compiled for CPU devices instead of a TPU."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(devices, 'topology_devices', lambda topology: tuple(jax.devices()[:4]))
    store = Store(tmp_path_factory.mktemp('runs'), {'compile_tpu': compile_tpu.STUDY.kinds})
    selected = [
      Cell('compile_tpu', Run(**SMALL | run).to_json_values()
           | {'topology': 'v5e:2x2', 'parallel': 'jit'}, run['layer'])
      for run in ({'layer': 'elman'}, {'layer': 'attention(num_heads=1)', 'task': KERNEL_TASK})
    ]
    stored = run_grid_cells(selected, aot.compile_model_for_topology, store)
  return {record['run']['layer'].partition('(')[0]: record for record in stored}


@pytest.mark.slow
def test_only_programs_with_a_shared_batch_contain_collective_operations(layer_records):
  programs = {(p['part'], p['name']): p for p in layer_records['elman']['result']['programs']}
  assert list(programs) == [
    ('ensemble', 'advance'), ('shared', 'advance'), ('shared', 'evaluate'),
    ('shared', 'initialise'), ('generate', 'prompt'), ('generate', 'token')]
  communicating = {key for key, program in programs.items() if program['collectives']}
  assert communicating == {('shared', 'advance'), ('shared', 'evaluate')}
  experiment = aot.experiment_of_run(Run(layer='elman', **SMALL))
  training_setup, _ = aot.training_setup_and_model_width(experiment)
  state, _ = aot.state_and_batch_shapes(training_setup)
  parameter_count = sum(p.size for p in jax.tree.leaves(state.parameters))
  (kind, (_, size)), = programs['shared', 'advance']['collectives'].items()
  # The chips sum the gradients, the loss and the weight of the loss.
  assert kind == 'all-reduce' and size == 4 * (parameter_count + 2)
  assert all(p['arguments'] > 0 and p['temporary'] >= 0 for p in programs.values())


@pytest.mark.slow
def test_operations_are_those_of_a_full_batch(layer_records):
  width, tokens, vocabulary = SMALL['width'], 8 * 16, 256
  per_token = 2 * (2 * width**2 + width * vocabulary)  # of an Elman layer and the head
  operations = layer_records['elman']['result']['operations']
  assert operations['token'] == per_token * 8
  assert operations['prompt'] == per_token * (tokens - 8)
  assert per_token * tokens * 2 < operations['train'] <= per_token * tokens * 3


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_attention_is_counted_in_its_form_without_kernels(dtype):
  run = Run(layer='attention(num_heads=1)', dtype=dtype, **SMALL | {'task': KERNEL_TASK})
  operations = aot.count_operations(aot.experiment_of_run(run))
  width, length, vocabulary = SMALL['width'], 128, 256
  per_step = 2 * 8 * (4 * width**2 + 2 * length * width + width * vocabulary)  # of 8 sequences
  assert operations['token'] == per_step
  assert operations['train'] == per_step * length * 3


@pytest.mark.slow
def test_a_translator_trains_on_batches_that_the_chips_share(layer_records):
  run = Run(layer='transformer', **SMALL | {'task': 'copy(max_length=7, min_length=7)'})
  experiment = aot.experiment_of_run(run)
  training_setup, width = aot.training_setup_and_model_width(experiment)
  programs = {
    (program.part, program.name): aot.compile_lowered_program(program, lowered, 2**30)
    for program, lowered in aot.lower_programs(training_setup, width, jax.devices()[:4], 'jit')}
  assert list(programs) == [
    ('shared', 'step'), ('shared', 'initialise'), ('generate', 'prompt'), ('generate', 'token')]
  assert {program.reason for program in programs.values()} == {''}
  state, _ = aot.state_and_batch_shapes(training_setup)
  parameter_count = sum(p.size for p in jax.tree.leaves(state.parameters))
  step = programs['shared', 'step']
  assert step.collectives['all-reduce'].bytes == 4 * (parameter_count + 2)
  result = {'programs': [dataclasses.asdict(p) for p in programs.values()],
            'operations': aot.count_operations(experiment)}
  tables, (panel,) = compile_tpu.STUDY.report([layer_records['elman'] | {'result': result}])
  assert 'all-reduce' in tables[0].rows[0][2] and tables[0].rows[0][4] is None
  assert list(panel.series) == ['elman']


@pytest.mark.slow
def test_a_compilation_error_is_stored_with_its_reason(layer_records):
  record = layer_records['attention']
  assert record['status'] == 'failed'  # a CPU cannot compile a kernel for a TPU
  assert 'interpret mode' in record['reason']
  programs = {(p['part'], p['name']): p for p in record['result']['programs']}
  assert programs['generate', 'token']['status'] == 'finished'


def test_a_program_larger_than_the_memory_of_a_chip_does_not_fit():
  lowered = jax.jit(lambda x: x + 1).lower(jnp.zeros(100))
  program = aot.ProgramResult('shared', 'advance')
  assert aot.compile_lowered_program(program, lowered, 800).status == 'finished'
  too_large = aot.compile_lowered_program(program, lowered, 799)
  assert too_large.status == 'out of memory' and '799' in too_large.reason


@pytest.mark.slow
def test_tables_show_every_model_and_the_reason_of_a_failure(layer_records):
  tables, panels = compile_tpu.STUDY.report(list(layer_records.values()))
  training_rows = {row[0]: row for table in tables[::2] for row in table.rows}
  assert list(training_rows) == ['elman', 'attention(num_heads=1)']
  assert training_rows['elman'][-1] == 'yes' and 'all-reduce' in training_rows['elman'][2]
  assert training_rows['elman'][4] == 'none'
  assert training_rows['attention(num_heads=1)'][-1].startswith('failed: ')
  assert [len(table.rows) for table in tables] == [1] * 4  # two lengths are two settings
  (panel,) = panels
  assert list(panel.series) == ['elman']
  for table in tables:
    assert table.text() and 'v5e:2x2' in table.title


def test_a_missing_libtpu_gives_one_line_with_the_command_to_install_it(tmp_path, monkeypatch):
  devices.topology_devices.cache_clear()
  monkeypatch.setitem(sys.modules, 'libtpu', None)
  done = command.run_command(compile_tpu, '--preset=smoke', '--workers=1', f'--runs={tmp_path}')
  assert done.code == 2 and "pip install -e '.[tpu-aot]'" in done.err
  assert len(done.err.splitlines()) == 1


@pytest.mark.slow
def test_the_smoke_preset_compiles_for_a_tpu_with_attention_kernels(tmp_path):
  try:
    optional.import_optional('libtpu', 'tests of programs for a TPU', 'tpu-aot')
  except optional.MissingExtra as missing:
    pytest.skip(str(missing))
  arguments = [
    sys.executable, '-m', 'experiments.compile_tpu', '--preset=smoke', f'--runs={tmp_path}']
  subprocess.run(arguments, cwd=ROOT, check=True, capture_output=True)
  attention, lstm = Store(tmp_path).records('compile_tpu')
  assert attention['status'] == lstm['status'] == 'finished'
  kernels = {
    record['run']['layer']: [
      p['kernels'] for p in record['result']['programs'] if p['name'] == 'advance']
    for record in (attention, lstm)
  }
  # Attention has one kernel for the output and two for the gradient.
  assert kernels == {'attention(num_heads=2)': [3, 3], 'lstm': [0, 0]}
