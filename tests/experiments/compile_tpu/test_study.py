"""Programs for chips that are not here: which there are, what becomes of them, what is shown."""

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
from experiments.compile_tpu import programs as ahead
from experiments.compile_tpu import study as compile_tpu
from experiments.lab import optional
from experiments.lab.cells.cell import Cell
from experiments.lab.cells.run import Run
from experiments.lab.errors import BadInput
from experiments.lab.launch import flags
from experiments.lab.launch.grid import launch
from experiments.lab.results.store import Store
from experiments.lab.training.ensemble import AXIS, compile_over
from tests.support import command

ROOT = pathlib.Path(__file__).parents[3]
SMALL = {
  'task': 'text(length=16)', 'width': 8, 'depth': 1, 'batch_size': 8, 'steps': 2, 'match': 'none',
}
KERNELS = 'text(length=128)'  # a length that a Pallas kernel takes
ON_CHIPS = """
  %all-reduce.1 = (f32[1,2,64]{2,1,0:T(2,128)S(1)}, /*index=1*/bf16[3]{0:T(128)}) all-reduce(%a, %b)
  ROOT %all-gather-done.2 = u8[8,16]{1,0:T(8,128)} all-gather-done(%all-gather-start.2)
  %all-gather-start.2 = (u8[2,16]{1,0}, u8[8,16]{1,0}) all-gather-start(%c), dimensions={0}
  %all-reduce.3 = pred[] all-reduce(%d), to_apply=%region
  %fusion.4 = f32[7]{0} fusion(%all-reduce.3), metadata={op_name="jit(f)/all-reduce"}
"""


def program_of(function, *shape):
  """A function of what each device has, compiled for the four of the tests."""
  return compile_over(jax.devices()[:4], 'jit', function).lower(
    jax.ShapeDtypeStruct((4, *shape), jnp.float32)).compile()


@pytest.mark.parametrize(
  ('function', 'kind', 'size'),
  [
    (lambda x: lax.psum(x, AXIS), 'all-reduce', 60),
    (lambda x: lax.all_gather(x, AXIS), 'all-gather', 240),
    (lambda x: lax.ppermute(x, AXIS, [(0, 1), (1, 0)]), 'collective-permute', 60),
  ],
)
def test_what_devices_exchange_is_counted_to_the_byte(function, kind, size):
  assert collectives.of_program(program_of(function, 3, 5)) == {kind: (1, size)}


def test_devices_that_say_nothing_exchange_nothing():
  assert collectives.of_program(program_of(lambda x: x @ x, 5, 5)) == {}


def test_exchanges_of_chips_are_read_in_their_layouts_and_where_they_end():
  assert collectives.of_text(ON_CHIPS) == {
    'all-reduce': (2, 4 * 128 + 2 * 3 + 1), 'all-gather': (1, 128),
  }


def test_a_topology_has_as_many_chips_as_its_sides_make():
  for kind, generation in topologies.GENERATIONS.items():
    for size in generation.sizes:
      assert topologies.check(f'{kind}:{size}') is generation
  assert [topologies.count(name) for name in ('v5e:1x1', 'v5e:4x4', 'v4:2x2x4')] == [1, 16, 16]
  assert topologies.memory('v6e:2x2') == 32 * 2**30


@pytest.mark.parametrize(
  ('name', 'why'),
  [
    ('v9z:4x4', "no TPU 'v9z'.* v5e"), ('', 'no TPU'), ('v5e', "no topology 'v5e'.* v5e:4x4"),
    ('v5e:4x', "no topology 'v5e:4x'"), ('v6e:3x3', 'v6e:2x2'), ('v5e:4x4x4', 'v5e:16x16'),
    ('v5e:4x4 ', 'no topology'), ('v5p:2x2', 'v5p:2x2x1'),
  ],
)
def test_a_topology_that_does_not_exist_is_one_line_with_what_does(name, why, tmp_path):
  done = command.run(
    compile_tpu, f'--topology=v5e:2x2,{name}', '--preset=smoke', f'--runs={tmp_path}/runs')
  assert done.code == 2 and done.out == ''
  (line,) = done.err.splitlines()
  with pytest.raises(BadInput, match=why):
    raise BadInput(line)
  assert not (tmp_path / 'runs').exists()


def test_what_is_set_for_libtpu_stays(monkeypatch):
  monkeypatch.setattr(os, 'environ', {'TPU_WORKER_HOSTNAMES': 'own'})
  topologies.prepare()
  assert os.environ['TPU_WORKER_HOSTNAMES'] == 'own'
  assert os.environ['TPU_SKIP_MDS_QUERY'] == '1' and os.environ['JAX_PLATFORMS'] == 'cpu'


def grid(*words):
  """The cells that a command asks for."""
  found = []
  done = command.run(compile_tpu, *words, main=lambda: found.extend(
    cells.grid('compile_tpu', flags.preset(compile_tpu.PRESETS))))
  return found or done


@pytest.mark.parametrize(('preset', 'papers'), [('quick', set()), ('paper', {'base', 'big'})])
def test_all_layers_are_asked_on_every_topology(preset, papers):
  asked = [(cell.run['topology'], cell.run['layer']) for cell in grid(f'--preset={preset}')]
  for topology in compile_tpu.PRESETS[preset].topologies:
    assert {*LAYERS, *papers} == {layer for where, layer in asked if where == topology}
  assert len(set(asked)) == len(asked)


def test_what_is_named_alone_is_asked():
  layers = '--layers=base,lstm(forget_bias=2.0)'
  asked = grid('--topology=v5e:2x4', layers, '--lengths=32,64')
  assert [(cell.run['layer'], cell.run['task'].partition('(')[0]) for cell in asked] == [
    ('lstm(forget_bias=2.0)', 'text'), ('lstm(forget_bias=2.0)', 'text'), ('base', 'copy')]
  assert {cell.run['topology'] for cell in asked} == {'v5e:2x4'}


@pytest.mark.parametrize(
  ('word', 'why'),
  [
    ('--seeds=2', 'means nothing here'), ('--timeout=3', 'means nothing here'),
    ('--beam=2', 'means nothing here'),
    ('--batch_size=6', 'no multiple of the 4 chips of v5e:2x2'), ('--width=7', 'does not suit'),
    ('--layers=base,bigg', 'no layer'), ('--lengths=1', 'length=1'),
    ('--workers=-1', '--workers is 0 to 1024, not -1'),
  ],
)
def test_what_cannot_be_compiled_is_one_line(word, why):
  done = grid('--preset=smoke', word)
  assert done.code == 2 and why in done.err and len(done.err.splitlines()) == 1


@pytest.mark.parametrize('word', ['--width=128', '--dropout=0.3', '--lengths=32'])
def test_what_the_papers_models_bring_is_refused_for_them_alone(word):
  done = grid('--preset=smoke', '--layers=base,big', word)
  name = word.partition('=')[0]
  assert (done.code, done.err) == (2, f'{name} changes nothing here: base and big have their own\n')
  asked = grid('--preset=smoke', '--layers=base,lstm', word)
  assert len({cell.run['layer'] for cell in asked}) == 2
  alone, = (cell for cell in grid('--preset=smoke', '--layers=base'))
  assert alone.run in [cell.run for cell in asked], 'it makes no second cell'


@pytest.fixture(scope='module')
def record(tmp_path_factory):
  """An Elman network and attention for a TPU whose chips are the devices of the tests."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(devices, 'chips', lambda name: tuple(jax.devices()[:4]))
    store = Store(tmp_path_factory.mktemp('runs'), {'compile_tpu': compile_tpu.STUDY.kinds})
    asked = [
      Cell('compile_tpu', Run(**SMALL | run).identity()
           | {'topology': 'v5e:2x2', 'parallel': 'jit'}, run['layer'])
      for run in ({'layer': 'elman'}, {'layer': 'attention(num_heads=1)', 'task': KERNELS})
    ]
    made = launch(asked, ahead.compile_cell, store)
  return {one['run']['layer'].partition('(')[0]: one for one in made}


@pytest.mark.slow
def test_chips_sum_gradients_where_they_share_a_batch_and_else_say_nothing(record):
  programs = {(p['part'], p['name']): p for p in record['elman']['result']['programs']}
  assert list(programs) == [
    ('ensemble', 'advance'), ('shared', 'advance'), ('shared', 'examine'),
    ('shared', 'initialise'), ('generate', 'prompt'), ('generate', 'token')]
  speaks = {key for key, program in programs.items() if program['collectives']}
  assert speaks == {('shared', 'advance'), ('shared', 'examine')}
  training, _ = ahead.training_of(ahead.resolved(Run(layer='elman', **SMALL)))
  numbers = sum(p.size for p in jax.tree.leaves(ahead.shapes(training)[0].parameters))
  (kind, (_, size)), = programs['shared', 'advance']['collectives'].items()
  assert kind == 'all-reduce' and size == 4 * (numbers + 2)  # with the loss and its weight
  assert all(p['arguments'] > 0 and p['temporary'] >= 0 for p in programs.values())


@pytest.mark.slow
def test_operations_are_those_of_a_whole_batch_wherever_it_is(record):
  width, tokens, vocabulary = SMALL['width'], 8 * 16, 256
  each = 2 * (2 * width**2 + width * vocabulary)  # of an Elman layer and a head
  counted = record['elman']['result']['operations']
  assert counted['token'] == each * 8
  assert counted['prompt'] == each * (tokens - 8)
  assert each * tokens * 2 < counted['train'] <= each * tokens * 3


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_attention_is_counted_without_the_kernel_that_it_is_compiled_to(dtype):
  run = Run(layer='attention(num_heads=1)', dtype=dtype, **SMALL | {'task': KERNELS})
  counted = ahead.operations(ahead.resolved(run))
  width, length, vocabulary = SMALL['width'], 128, 256
  products = 2 * 8 * (4 * width**2 + 2 * length * width + width * vocabulary)  # of all sequences
  assert counted['token'] == products
  assert counted['train'] == products * length * 3


@pytest.mark.slow
def test_a_translator_is_given_batches_that_chips_share(record):
  run = Run(layer='transformer', **SMALL | {'task': 'copy(max_length=7, min_length=7)'})
  one = ahead.resolved(run)
  training, width = ahead.training_of(one)
  made = {(program.part, program.name): ahead.compiled(program, traced, 2**30)
          for program, traced in ahead.lowered(training, width, jax.devices()[:4], 'jit')}
  assert list(made) == [
    ('shared', 'step'), ('shared', 'initialise'), ('generate', 'prompt'), ('generate', 'token')]
  assert {program.reason for program in made.values()} == {''}
  numbers = sum(p.size for p in jax.tree.leaves(ahead.shapes(training)[0].parameters))
  assert made['shared', 'step'].collectives['all-reduce'].bytes == 4 * (numbers + 2)
  result = {'programs': [dataclasses.asdict(p) for p in made.values()],
            'operations': ahead.operations(one)}
  tables, (panel,) = compile_tpu.STUDY.report([record['elman'] | {'result': result}])
  assert 'all-reduce' in tables[0].rows[0][2] and tables[0].rows[0][4] is None
  assert list(panel.series) == ['elman']


@pytest.mark.slow
def test_a_program_that_does_not_compile_is_a_result_with_its_reason(record):
  found = record['attention']
  assert found['status'] == 'failed'  # a kernel for a TPU is none for a CPU
  assert 'interpret mode' in found['reason']
  programs = {(p['part'], p['name']): p for p in found['result']['programs']}
  assert programs['generate', 'token']['status'] == 'finished'


def test_a_program_that_no_chip_can_hold_does_not_fit():
  whole = jax.jit(lambda x: x + 1).lower(jnp.zeros(100))
  before = ahead.Program('shared', 'advance')
  assert ahead.compiled(before, whole, 800).status == 'finished'
  tight = ahead.compiled(before, whole, 799)
  assert tight.status == 'out of memory' and '799' in tight.reason


@pytest.mark.slow
def test_tables_show_every_model_and_why_one_does_not_compile(record):
  tables, panels = compile_tpu.STUDY.report(list(record.values()))
  shown = {row[0]: row for table in tables[::2] for row in table.rows}
  assert list(shown) == ['elman', 'attention(num_heads=1)']
  assert shown['elman'][-1] == 'yes' and 'all-reduce' in shown['elman'][2]
  assert shown['elman'][4] == 'nothing'
  assert shown['attention(num_heads=1)'][-1].startswith('failed: ')
  assert [len(table.rows) for table in tables] == [1] * 4  # two lengths: two settings
  (panel,) = panels
  assert list(panel.series) == ['elman']
  for table in tables:
    assert table.text() and 'v5e:2x2' in table.title


def test_without_libtpu_what_to_install_is_one_line(tmp_path, monkeypatch):
  devices.chips.cache_clear()
  monkeypatch.setitem(sys.modules, 'libtpu', None)
  done = command.run(compile_tpu, '--preset=smoke', '--workers=1', f'--runs={tmp_path}')
  assert done.code == 2 and "pip install -e '.[tpu-aot]'" in done.err
  assert len(done.err.splitlines()) == 1


@pytest.mark.slow
def test_the_smoke_compiles_for_a_tpu_and_attention_is_a_kernel_there(tmp_path):
  try:
    optional.load('libtpu', 'tests of programs for a TPU', 'tpu-aot')
  except optional.MissingExtra as missing:
    pytest.skip(str(missing))
  words = [sys.executable, '-m', 'experiments.compile_tpu', '--preset=smoke', f'--runs={tmp_path}']
  subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
  attention, lstm = Store(tmp_path).records('compile_tpu')
  assert attention['status'] == lstm['status'] == 'finished'
  kernels = {
    one['run']['layer']: [p['kernels'] for p in one['result']['programs'] if p['name'] == 'advance']
    for one in (attention, lstm)
  }
  assert kernels == {'attention(num_heads=2)': [3, 3], 'lstm': [0, 0]}  # and two for its gradient
