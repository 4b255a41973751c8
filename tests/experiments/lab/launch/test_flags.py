"""Commands: what is wrong is said in one line, --help is quick and whole, own values win."""

import dataclasses
import errno
import functools
import importlib
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest
from absl import flags as absl_flags
from absl.testing import flagsaver
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import STUDIES
from experiments.claims import __main__ as claims
from experiments.convert import __main__ as convert
from experiments.lab.cells.run import Run
from experiments.lab.launch import flags, grid, training_grid
from experiments.report import __main__ as report
from experiments.retention import study as retention
from experiments.translate import __main__ as translate
from experiments.translation import study as translation
from tests.support import command

ROOT = pathlib.Path(__file__).parents[4]
ASKED = {name: importlib.import_module(module) for name, module in STUDIES.items()}
SCRIPTS = {**ASKED, 'claims': claims, 'report': report}


def refused(script, *words, **options):
  """The one line that a command is refused with."""
  done = command.run(script, *words, **options)
  assert done.code == 2 and done.out == ''
  (line,) = done.err.splitlines()
  return line


BAD = {
  '--layers=': 'cannot read the layer',
  '--layers=atention': "did you mean 'attention'?",
  '--layers=attention(num_head=2)': "did you mean 'num_heads'?",
  '--layers=attention(num_heads=two)': 'takes int',
  '--layers=lstm,': 'cannot read the layer',
  '--layers=lstm\nlstm(': 'cannot read the layer',
  '--layers=lstm(forget_bias=__import__("os").getpid())': 'takes float',
  '--preset=fast': 'there is smoke, quick, paper',
  '--preset=': 'there is smoke, quick, paper',
  '--lengths=': 'whole numbers separated by commas',
  '--lengths=64,sixty': 'whole numbers separated by commas',
  '--lengths=nan': 'whole numbers',
  '--lengths=1e3': 'whole numbers',
  '--lengths=0': '--lengths are 1 or more, not 0',
  '--lengths=-64': '--lengths are 1 or more, not -64',
  '--lengths=64,64': 'distinct',
  '--steps=0': 'steps',
  '--steps=-1': 'steps',
  '--steps=nan': 'steps',
  '--seeds=0': '--seeds',
  '--seeds=-2': '--seeds',
  '--seeds=inf': '--seeds',
  '--learning_rates=': 'numbers separated by commas',
  '--learning_rates=nan': 'finite',
  '--learning_rates=inf': 'finite',
  '--learning_rates=0': 'positive',
  '--learning_rates=-1e-3': 'positive',
  '--dropout=nan': 'dropout',
  '--expansion=inf': 'expansion',
  '--width=0': 'width',
  '--block=after': 'there are pre_norm, post_norm, no_norm, plain',
  '--match=flops': 'there are params, none',
  '--dtype=float16': 'there are float32, bfloat16',
  '--parallel=vmap': 'there is jit, pmap',
  '--timeout=0': '--timeout',
  '--timeout=-1': '--timeout',
  '--timeout=nan': '--timeout',
  '--host_devices=-1': '--host_devices',
  '--host_devices=1000000000': '--host_devices is 0 to 1024',
  '--timeout=-inf': '--timeout is a finite number',
  '--length_penalty=nan': '--length_penalty is a finite number',
  '--clip=inf': '--clip is a finite number',
  '--width=1000000000': 'width is at most 262144',
  '--depth=1000000000': 'depth is at most 1024',
  '--expansion=1e300': 'expansion is at most 1024',
  f'--steps=1{"0" * 400}': '--steps is beyond 2147483647: a number of 401 digits',
  f'--lengths=1{"0" * 400}': 'a number of 401 digits',
  f'--layers={"x" * 100_000}': "no layer 'xxx",
  f'--layers={"(" * 100_000}': 'write name or name(option=value)',
  '--cache=~nobody_has_this_name/x': 'no home folder ~nobody_has_this_name is known',
  '--layer=lstm': 'layers',
  '--stepss=4': 'steps',
  'lstm': "'lstm' is no flag",
  '--retry=perhaps': 'retry',
  '--runs': '--runs',
}


@pytest.mark.parametrize('word', BAD)
@pytest.mark.parametrize('script', ['retention', 'parallelism', 'ladder'])
def test_bad_input_is_one_line_and_nothing_is_made(script, word, tmp_path):
  folder = tmp_path / 'runs'
  words = [word] if word == '--runs' else [f'--runs={folder}', word]
  if not word.startswith('--preset'):
    words.append('--preset=smoke')
  line = refused(SCRIPTS[script], *words[::-1])
  assert BAD[word] in line and 'Error' not in line
  assert not (folder / script).exists() and not list(folder.glob('cells/*.json'))


@pytest.mark.parametrize(
  ('word', 'why'),
  [
    ('--tasks=', 'cannot read the task'),
    ('--tasks=copymemory', "did you mean 'copy_memory'?"),
    ('--tasks=copy', "no translator 'attention'"),
    ('--tasks=adding(size=3)', 'variant'),
    ('--tasks=adding,recall(length=7)', 'even length'),
    ('--lengths=2', 'recall'),
    (
      '--lengths=32,64,128',
      '--lengths=64 does not suit recall(length=16, num_pairs=2, vocabulary_size=16), which keeps '
      'its proportions at every length: num_pairs=8',
    ),
    ('--lengths=32,64,128', 'the nearest lengths that it has are 62'),
    ('--lengths=33', 'the nearest lengths that it has are 32 and 34'),
    ('--task=adding', 'tasks'),
  ],
)
def test_tasks_that_cannot_be_asked_are_one_line(word, why, tmp_path):
  assert why in refused(retention, f'--runs={tmp_path}', '--preset=smoke', word)
  assert list(tmp_path.iterdir()) == []


DECAY = '--weight_decay=0.5'
IDLE = {
  DECAY: 'adam decays no weights, --optimizer=adamw does',
  '--expansion=3': 'it is the width of a feed-forward network, and --feedforward=none',
  '--beam=3': '{} is answered without decoding',
  '--length_penalty=1': '{} is answered without decoding',
  '--label_smoothing=0.5': 'adding is answered by a number',
}
SHAPES = (DECAY, '--expansion=3')  # that programs have, which are timed and not trained
DECODED = '--length_penalty=1', 'it is that of a beam search, and --beam=1 is greedy'


@pytest.mark.parametrize(('study', 'word', 'why'), [
  *(('retention', word, why.format('recall')) for word, why in IDLE.items()),
  *((study, word, why.format('adding')) for word, why in IDLE.items()
    for study in ('retention', 'ladder', 'gradient_flow')),
  *((study, word, IDLE[word]) for word in SHAPES for study in (
    'receptive_field', 'state_tracking', 'pronouns', 'parallelism', 'complexity', 'compile_tpu')),
  ('bottleneck', *DECODED), ('variations', *DECODED), ('variations', DECAY, IDLE[DECAY]),
])
def test_a_flag_that_changes_nothing_is_refused_and_nothing_is_made(study, word, why, tmp_path):
  words = ['--preset=smoke', '--optimizer=adam', f'--runs={tmp_path / "runs"}', word]
  words += ['--tasks=adding'] * why.startswith('adding is')
  assert refused(ASKED[study], *words) == f'{word.partition("=")[0]} changes nothing here: {why}'
  assert not (tmp_path / 'runs').exists()


@pytest.mark.parametrize('script', SCRIPTS)
def test_a_flag_given_twice_and_a_stray_word_are_one_line(script, tmp_path):
  def line(*words):
    return refused(SCRIPTS[script], *words, main=lambda: None)

  same = f'--runs={tmp_path}'
  assert '--runs is given 2 times' in line(same, same)
  assert '--runs is given 2 times' in line('--runs', str(tmp_path), same)
  assert "'=3' is no flag" in line(same, '=3')


@pytest.mark.parametrize('script', SCRIPTS)
def test_a_runs_folder_below_a_file_is_one_line(script, tmp_path):
  (tmp_path / 'file').write_text('')
  words = ['--preset=smoke'] if script in STUDIES else []
  line = refused(SCRIPTS[script], f'--runs={tmp_path}/file/runs', *words)
  assert f'cannot use the results folder {tmp_path}/file/runs' in line


def test_a_real_process_says_the_same():
  words = [sys.executable, '-m', 'experiments.retention', '--layers=atention']
  done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
  assert (done.returncode, done.stdout) == (2, '')
  assert "did you mean 'attention'?" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize('script', SCRIPTS)
def test_help_names_every_flag_and_loads_no_jax(script):
  words = [sys.executable, '-X', 'importtime', '-m', f'experiments.{script}', '--steps=0', '--help']
  done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
  loaded = set(re.findall(r'\| +(\S+)$', done.stderr, re.MULTILINE))
  assert 'absl.flags' in loaded
  assert not loaded & {'jax', 'flax', 'numpy', 'scipy', 'matplotlib', 'jinja2'}
  assert not [line for line in done.stderr.splitlines() if not line.startswith('import time:')]
  study = getattr(SCRIPTS[script], 'STUDY', None)
  text = (study.question if study else SCRIPTS[script].__doc__).strip()
  assert done.stdout.startswith(text)
  with flagsaver.flagsaver():
    before = set(absl_flags.FLAGS)
    study.define(study.presets) if study else SCRIPTS[script].define()
    own = set(absl_flags.FLAGS) - before
    helps = {name: absl_flags.FLAGS[name].help for name in own}
  assert 'runs' in own
  listed = re.findall(r'^  --(\w+)$', done.stdout[len(text):], re.MULTILINE)
  assert sorted(listed) == sorted(own)
  shown = ' '.join(done.stdout.split())
  assert all(' '.join(text.split()) in shown for text in helps.values())


@pytest.mark.parametrize('word', ['--help', '-help', '-h', '-?', '--helpfull', '--helpshort'])
def test_every_way_to_ask_for_help_gets_it(word):
  done = command.run(retention, word)
  assert done.code == 0 and done.err == '' and '--learning_rates' in done.out


def runs_of(*words, script=retention):
  """The runs that a command asks for."""
  found = []
  done = command.run(script, *words, main=lambda: found.extend(
    training_grid.grid(flags.preset(script.PRESETS))))
  assert done == (0, '', '')
  return [one.run for one in found]


@pytest.mark.parametrize('preset', retention.PRESETS)
def test_a_preset_asks_every_layer_every_question_at_every_distance(preset):
  runs, wanted = runs_of(f'--preset={preset}'), retention.PRESETS[preset]
  distances = sum(len(question.distances) for question in wanted.task_grids)
  assert len(runs) == len(set(runs)) == len(wanted.layers) * distances
  assert list(dict.fromkeys(run.layer for run in runs)) == list(wanted.layers)
  for run in runs:
    for name in ('seeds', 'learning_rates'):
      assert getattr(run, name) == wanted.settings.get(name, getattr(Run(), name))


def test_a_commands_own_values_win_over_its_questions_over_its_presets_over_the_defaults():
  runs = runs_of('--preset=quick', '--tasks=text')
  assert {run.steps for run in runs} == {200}  # the question's own, not the preset's 600
  assert {run.batch_size for run in runs} == {32} and {run.seeds for run in runs} == {(0, 1, 2)}
  runs = runs_of('--preset=quick', '--tasks=text', '--batch_size=7', '--seeds=2', '--layers=lstm',
                 '--clip=0.5', '--learning_rates=1,1e-2', '--lengths=32,16')
  assert runs == [
    Run(layer='lstm', task=f'text(length={length})', steps=200, batch_size=7, validations=15,
        feedforward='gelu', seeds=(0, 1), learning_rates=(1.0, 1e-2), clip=0.5)
    for length in (16, 32)]


def test_what_changes_nothing_is_at_its_default_and_what_changes_something_as_given():
  for optimizer, decay in (('adam', Run().weight_decay), ('adamw', 0.1)):  # which the preset has
    asked = runs_of('--preset=paper', f'--optimizer={optimizer}', '--tasks=recall')
    assert {run.weight_decay for run in asked} == {decay}
  asked = runs_of('--preset=quick', '--nostop_when_solved')  # bits a byte have no such bound
  assert {run.task.partition('(')[0] for run in asked if run.stop_when_solved} == {'text'}
  asked = runs_of('--preset=quick', '--expansion=3')  # only text has a feed-forward network
  assert {(r.feedforward, r.expansion) for r in asked} == {('none', 2.0), ('gelu', 3.0)}


def test_a_task_with_options_is_asked_as_it_says_and_once():
  (run,) = runs_of('--preset=smoke', '--layers=lstm', '--tasks=adding(variant=bai, length=30)')
  assert run.task == 'adding(length=30, variant=bai)'
  twice = '--tasks=adding,adding(length=8)'
  assert runs_of('--preset=smoke', '--layers=lstm', twice) == runs_of(
    '--preset=smoke', '--layers=lstm', '--tasks=adding')


def test_how_a_run_is_executed_is_not_part_of_it(tmp_path):
  execution = ['--parallel=pmap', '--host_devices=2', '--timeout=5', '--retry', '--cache=',
               f'--runs={tmp_path}']
  assert runs_of('--preset=smoke', *execution) == runs_of('--preset=smoke')


def test_every_setting_of_a_run_has_a_flag_but_those_that_the_grid_spans():
  with flagsaver.flagsaver():
    retention.STUDY.define(retention.PRESETS)
    names = {field.name for field in dataclasses.fields(Run)}
    assert names - set(absl_flags.FLAGS) == {'layer', 'task'}


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_says_that_it_goes_on(number, handlers):
  done = command.run(retention, main=lambda: os.kill(os.getpid(), number))
  (line,) = done.err.splitlines()
  assert done.code == 128 + number and 'the same command goes on' in line


@pytest.mark.parametrize(('error', 'line'), [
  (OSError(errno.ENOSPC, 'No space left on device'), 'No space left on device'),
  (OSError(errno.EROFS, 'Read-only file system', 'runs/x.csv'),
   'cannot use runs/x.csv: Read-only file system'),
  (FileExistsError(errno.EEXIST, 'File exists', 'runs'),
   'cannot use runs: it is no folder, and a folder is needed there'),
  (OSError('the library is missing'), 'the library is missing'),
])
def test_an_error_of_the_system_is_one_line(error, line):
  def fail():
    raise error

  assert command.run(retention, main=fail) == (2, '', f'{line}\n')


def test_a_mistake_in_the_code_is_not_hidden():
  def fail():
    raise ValueError('a bug')

  with pytest.raises(ValueError, match='a bug'):
    command.run(retention, main=fail)


class Launched(Exception):
  """A command has got as far as its first cell."""


def launch(*_, **__):
  raise Launched


ANY = ('0', '-1', 'nan', 'inf', '-inf', '1e9', '1000000000', f'1{"0" * 400}', 'x' * 100_000)


@functools.cache
def flags_of(study):
  """The flags that a study defines."""
  with flagsaver.flagsaver():
    before = set(absl_flags.FLAGS)
    ASKED[study].STUDY.define(ASKED[study].PRESETS)
    return sorted(set(absl_flags.FLAGS) - before)


def try_flag(study, name, value, folder):
  """A command with any value of a flag launches its first cell, or is refused in one line."""
  words = [f'--{name}={value}'] + ['--preset=smoke'] * (name != 'preset')
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    patch.setattr(grid, '_made', launch)
    try:
      line = refused(ASKED[study], *words)
    except Launched:
      assert value not in ('nan', '-inf') or name in ('runs', 'cache')
    else:
      assert len(line) <= 1000


@settings(deadline=None, max_examples=60)
@given(
  st.sampled_from(sorted(STUDIES)).flatmap(
    lambda study: st.tuples(st.just(study), st.sampled_from(flags_of(study)))),
  st.sampled_from(ANY),
)
def test_any_value_of_any_flag_is_a_launch_or_one_line(tmp_path_factory, flag, value):
  try_flag(*flag, value, tmp_path_factory.mktemp('folder'))


@pytest.mark.slow
@pytest.mark.parametrize('study', STUDIES)
def test_every_value_of_every_flag_is_a_launch_or_one_line(study, tmp_path):
  for name in flags_of(study):
    for value in ANY:
      try_flag(study, name, value, tmp_path)


@pytest.mark.parametrize(
  ('script', 'flag'),
  [(retention, 'runs'), (retention, 'cache'), (claims, 'runs'), (report, 'runs'),
   (translate, 'weights'), (convert, 'checkpoint'), (convert, 'out')],
)
def test_a_path_may_begin_at_home_and_is_not_empty(script, flag, monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  seen = []

  def value():
    seen.append(getattr(flags.FLAGS, flag))

  for written, path in {'~': f'{tmp_path}', '~/a b': f'{tmp_path}/a b', './~': './~'}.items():
    assert command.run(script, f'--{flag}={written}', main=value).code == 0
    assert seen.pop() == path
  done = command.run(script, f'--{flag}=', main=value)
  assert (done.code == 0 and seen == ['']) if flag == 'cache' else (
    done.code == 2 and f'--{flag}=: a path is not empty' in done.err)


@pytest.mark.parametrize(
  ('script', 'layer', 'meant'),
  [
    (retention, 'transformer', 'attention'),
    (retention, 'additive', 'gru'),
    (retention, 'alibi', 'attention(positions=alibi)'),
    (translation, 'lstm', 'fixed_vector(lstm)'),
    (translation, 'gru', 'additive(gru)'),
    (translation, 'mamba', 'transformer(mamba)'),
    (translation, 'attention', 'transformer(attention)'),
  ],
)
def test_a_name_of_another_kind_is_said_to_be_what_it_means_here(script, layer, meant, tmp_path):
  line = refused(script, f'--runs={tmp_path}', '--preset=smoke', f'--layers={layer}')
  assert f'did you mean {meant!r}?' in line
