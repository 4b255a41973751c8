"""Tests of commands, their flags and --help, and of one-line errors for invalid values."""

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
from unittest import mock

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
STUDY_MODULES = {name: importlib.import_module(module) for name, module in STUDIES.items()}
SCRIPTS = {**STUDY_MODULES, 'claims': claims, 'report': report}


def error_line(script, *arguments, **options):
  """The error message of a command that is rejected, which must be one line."""
  done = command.run_command(script, *arguments, **options)
  assert done.code == 2 and done.out == ''
  (line,) = done.err.splitlines()
  return line


INVALID_FLAGS = {
  '--layers=': 'cannot parse the layer',
  '--layers=atention': "did you mean 'attention'?",
  '--layers=attention(num_head=2)': "did you mean 'num_heads'?",
  '--layers=attention(num_heads=two)': 'takes int',
  '--layers=lstm,': 'cannot parse the layer',
  '--layers=lstm\nlstm(': 'cannot parse the layer',
  '--layers=lstm(forget_bias=__import__("os").getpid())': 'takes float',
  '--preset=fast': 'valid names are smoke, quick',
  '--preset=': 'valid names are smoke, quick',
  '--lengths=': 'whole numbers separated by commas',
  '--lengths=64,sixty': 'whole numbers separated by commas',
  '--lengths=nan': 'whole numbers',
  '--lengths=1e3': 'whole numbers',
  '--lengths=0': '--lengths must be at least 1, not 0',
  '--lengths=-64': '--lengths must be at least 1, not -64',
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
  '--block=after': 'must be one of pre_norm, post_norm, no_norm, plain',
  '--match=flops': 'must be one of params, none',
  '--dtype=float16': 'must be one of float32, bfloat16',
  '--parallel=vmap': 'valid names are jit, pmap',
  '--timeout=0': '--timeout',
  '--timeout=-1': '--timeout',
  '--timeout=nan': '--timeout',
  '--host_devices=-1': '--host_devices',
  '--host_devices=1000000000': '--host_devices must be 0 to 1024',
  '--timeout=-inf': '--timeout must be a finite number',
  '--length_penalty=nan': '--length_penalty must be a finite number',
  '--clip=inf': '--clip must be a finite number',
  '--width=1000000000': 'width is at most 262144',
  '--depth=1000000000': 'depth is at most 1024',
  '--expansion=1e300': 'expansion is at most 1024',
  f'--steps=1{"0" * 400}': '--steps exceeds 2147483647: a number of 401 digits',
  f'--lengths=1{"0" * 400}': 'a number of 401 digits',
  f'--layers={"x" * 100_000}': "no layer 'xxx",
  f'--layers={"(" * 100_000}': 'write name or name(option=value)',
  '--cache=~nobody_has_this_name/x': 'no home folder ~nobody_has_this_name is known',
  '--layer=lstm': 'layers',
  '--stepss=4': 'steps',
  'lstm': "'lstm' is not a flag",
  '--retry=perhaps': 'retry',
  '--runs': '--runs',
}


@pytest.mark.parametrize('argument', INVALID_FLAGS)
@pytest.mark.parametrize('script', ['retention', 'parallelism', 'ladder'])
def test_an_invalid_flag_is_rejected_in_one_line_before_any_execution(script, argument, tmp_path):
  folder = tmp_path / 'runs'
  arguments = [argument] if argument == '--runs' else [f'--runs={folder}', argument]
  if not argument.startswith('--preset'):
    arguments.append('--preset=smoke')
  line = error_line(SCRIPTS[script], *arguments[::-1])
  assert INVALID_FLAGS[argument] in line and 'Error' not in line
  assert not (folder / script).exists() and not list(folder.glob('cells/*.json'))


@pytest.mark.parametrize(
  ('argument', 'message'),
  [
    ('--tasks=', 'cannot parse the task'),
    ('--tasks=copymemory', "did you mean 'copy_memory'?"),
    ('--tasks=copy', "no translator 'attention'"),
    ('--tasks=adding(size=3)', 'variant'),
    ('--tasks=adding,recall(length=7)', 'even length'),
    ('--lengths=2', 'recall'),
    (
      '--lengths=32,64,128',
      '--lengths=64 is invalid for recall(length=16, num_pairs=2, vocabulary_size=16), whose other '
      'options scale with the length: num_pairs=8',
    ),
    ('--lengths=32,64,128', 'the nearest valid lengths are 62'),
    ('--lengths=33', 'the nearest valid lengths are 32 and 34'),
    ('--task=adding', 'tasks'),
  ],
)
def test_invalid_tasks_and_distances_are_rejected_in_one_line(argument, message, tmp_path):
  assert message in error_line(retention, f'--runs={tmp_path}', '--preset=smoke', argument)
  assert list(tmp_path.iterdir()) == []


WEIGHT_DECAY = '--weight_decay=0.5'
REASONS = {
  WEIGHT_DECAY: 'adam applies no weight decay, use --optimizer=adamw',
  '--expansion=3': 'with --feedforward=none the model has no feed-forward network',
  '--beam=3': '{} is scored without decoding',
  '--length_penalty=1': '{} is scored without decoding',
  '--label_smoothing=0.5': 'the targets of adding are real numbers, not classes',
}
UNUSED_FLAGS = (WEIGHT_DECAY, '--expansion=3')  # without effect in studies that train nothing too
LENGTH_PENALTY = '--length_penalty=1', 'it applies to beam search, but --beam=1 decodes greedily'


@pytest.mark.parametrize(('study', 'argument', 'message'), [
  *(('retention', argument, message.format('recall')) for argument, message in REASONS.items()),
  *((study, argument, message.format('adding')) for argument, message in REASONS.items()
    for study in ('retention', 'ladder', 'gradient_flow')),
  *((study, argument, REASONS[argument]) for argument in UNUSED_FLAGS for study in (
    'receptive_field', 'state_tracking', 'pronouns', 'parallelism', 'complexity', 'compile_tpu')),
  ('bottleneck', *LENGTH_PENALTY), ('variations', *LENGTH_PENALTY),
  ('variations', WEIGHT_DECAY, REASONS[WEIGHT_DECAY]),
])
def test_a_flag_without_effect_is_rejected_before_any_execution(study, argument, message, tmp_path):
  arguments = ['--preset=smoke', '--optimizer=adam', f'--runs={tmp_path / "runs"}', argument]
  arguments += ['--tasks=adding'] * ('adding' in message)
  flag = argument.partition('=')[0]
  assert error_line(STUDY_MODULES[study], *arguments) == f'{flag} has no effect here: {message}'
  assert not (tmp_path / 'runs').exists()


@pytest.mark.parametrize('script', SCRIPTS)
def test_duplicate_flags_and_positional_arguments_are_rejected_in_one_line(script, tmp_path):
  def rejection(*words):
    return error_line(SCRIPTS[script], *words, main=lambda: None)

  runs_flag = f'--runs={tmp_path}'
  assert '--runs is given 2 times' in rejection(runs_flag, runs_flag)
  assert '--runs is given 2 times' in rejection('--runs', str(tmp_path), runs_flag)
  assert "'=3' is not a flag" in rejection(runs_flag, '=3')


@pytest.mark.parametrize('script', SCRIPTS)
def test_a_results_folder_below_a_file_is_rejected_in_one_line(script, tmp_path):
  (tmp_path / 'file').write_text('')
  arguments = ['--preset=smoke'] if script in STUDIES else []
  line = error_line(SCRIPTS[script], f'--runs={tmp_path}/file/runs', *arguments)
  assert f'cannot use the results folder {tmp_path}/file/runs' in line


def test_a_separate_process_reports_the_same_error():
  arguments = [sys.executable, '-m', 'experiments.retention', '--layers=atention']
  done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
  assert (done.returncode, done.stdout) == (2, '')
  assert "did you mean 'attention'?" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize('script', SCRIPTS)
def test_help_lists_every_flag_and_imports_no_jax(script):
  module = f'experiments.{script}'
  arguments = [sys.executable, '-X', 'importtime', '-m', module, '--steps=0', '--help']
  done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
  loaded = set(re.findall(r'\| +(\S+)$', done.stderr, re.MULTILINE))
  assert 'absl.flags' in loaded
  assert not loaded & {'jax', 'flax', 'numpy', 'scipy', 'matplotlib', 'jinja2'}
  assert not [line for line in done.stderr.splitlines() if not line.startswith('import time:')]
  study = getattr(SCRIPTS[script], 'STUDY', None)
  text = (study.question if study else SCRIPTS[script].__doc__).strip()
  assert done.stdout.startswith(text)
  with flagsaver.flagsaver():
    before = set(absl_flags.FLAGS)
    study.define_flags(study.presets) if study else SCRIPTS[script].define_flags()
    names = set(absl_flags.FLAGS) - before
    help_texts = {name: absl_flags.FLAGS[name].help for name in names}
  assert 'runs' in names
  listed = re.findall(r'^  --(\w+)$', done.stdout[len(text):], re.MULTILINE)
  assert sorted(listed) == sorted(names)
  output = ' '.join(done.stdout.split())
  assert all(' '.join(text.split()) in output for text in help_texts.values())


@pytest.mark.parametrize('argument', ['--help', '-help', '-h', '-?', '--helpfull', '--helpshort'])
def test_every_spelling_of_help_is_accepted(argument):
  done = command.run_command(retention, argument)
  assert done.code == 0 and done.err == '' and '--learning_rates' in done.out


def requested_runs(*arguments, script=retention):
  experiments = []
  done = command.run_command(script, *arguments, main=lambda: experiments.extend(
    training_grid.requested_experiments(flags.requested_preset(script.PRESETS))))
  assert done == (0, '', '')
  return [experiment.run for experiment in experiments]


@pytest.mark.parametrize('preset', retention.PRESETS)
def test_a_preset_contains_every_layer_on_every_task_at_every_distance(preset):
  runs, expected = requested_runs(f'--preset={preset}'), retention.PRESETS[preset]
  num_distances = sum(len(task_grid.distances) for task_grid in expected.task_grids)
  assert len(runs) == len(set(runs)) == len(expected.layers) * num_distances
  assert list(dict.fromkeys(run.layer for run in runs)) == list(expected.layers)
  for run in runs:
    for name in ('seeds', 'learning_rates'):
      assert getattr(run, name) == expected.settings.get(name, getattr(Run(), name))


def test_values_of_the_command_override_those_of_task_preset_and_defaults():
  runs = requested_runs('--preset=quick', '--tasks=text')
  assert {run.steps for run in runs} == {200}  # the setting of the task, while the preset has 600
  assert {run.batch_size for run in runs} == {32} and {run.seeds for run in runs} == {(0, 1, 2)}
  runs = requested_runs('--preset=quick', '--tasks=text', '--batch_size=7', '--seeds=2',
                        '--layers=lstm', '--clip=0.5', '--learning_rates=1,1e-2', '--lengths=32,16')
  assert runs == [
    Run(layer='lstm', task=f'text(length={length})', steps=200, batch_size=7, validations=15,
        feedforward='gelu', seeds=(0, 1), learning_rates=(1.0, 1e-2), clip=0.5)
    for length in (16, 32)]


def test_only_settings_with_an_effect_differ_from_their_defaults():
  for optimizer, decay in (('adam', Run().weight_decay), ('adamw', 0.1)):  # the preset has 0.1
    runs = requested_runs('--preset=paper', f'--optimizer={optimizer}', '--tasks=recall')
    assert {run.weight_decay for run in runs} == {decay}
  runs = requested_runs('--preset=quick', '--nostop_when_solved')  # text is never solved
  assert {run.task.partition('(')[0] for run in runs if run.stop_when_solved} == {'text'}
  runs = requested_runs('--preset=quick', '--expansion=3')  # only text has a feed-forward network
  assert {(r.feedforward, r.expansion) for r in runs} == {('none', 2.0), ('gelu', 3.0)}


def test_a_task_with_options_keeps_them_and_is_trained_once():
  arguments = '--preset=smoke', '--layers=lstm'
  (run,) = requested_runs(*arguments, '--tasks=adding(variant=bai, length=30)')
  assert run.task == 'adding(length=30, variant=bai)'
  named_twice = requested_runs(*arguments, '--tasks=adding,adding(length=8)')
  assert named_twice == requested_runs(*arguments, '--tasks=adding')


def test_execution_flags_do_not_change_a_run(tmp_path):
  execution = ['--parallel=pmap', '--host_devices=2', '--timeout=5', '--retry', '--cache=',
               f'--runs={tmp_path}']
  assert requested_runs('--preset=smoke', *execution) == requested_runs('--preset=smoke')


def test_every_setting_of_a_run_except_layer_and_task_has_a_flag():
  with flagsaver.flagsaver():
    retention.STUDY.define_flags(retention.PRESETS)
    names = {field.name for field in dataclasses.fields(Run)}
    assert names - set(absl_flags.FLAGS) == {'layer', 'task'}


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_reports_how_to_resume(number, default_signal_handlers):
  done = command.run_command(retention, main=lambda: os.kill(os.getpid(), number))
  (line,) = done.err.splitlines()
  assert done.code == 128 + number and 'the same command resumes' in line


@pytest.mark.parametrize(('error', 'line'), [
  (OSError(errno.ENOSPC, 'No space left on device'), 'No space left on device'),
  (OSError(errno.EROFS, 'Read-only file system', 'runs/x.csv'),
   'cannot use runs/x.csv: Read-only file system'),
  (FileExistsError(errno.EEXIST, 'File exists', 'runs'),
   'cannot use runs: it is not a folder, and a folder is needed there'),
  (OSError('the library is missing'), 'the library is missing'),
])
def test_an_error_of_the_operating_system_is_reported_in_one_line(error, line):
  def fail():
    raise error

  assert command.run_command(retention, main=fail) == (2, '', f'{line}\n')


def test_other_exceptions_are_not_caught():
  def fail():
    raise ValueError('a bug')

  with pytest.raises(ValueError, match='a bug'):
    command.run_command(retention, main=fail)


class FirstCellReached(Exception):
  """A command has reached the execution of its first cell."""


EXTREME_VALUES = (
  '0', '-1', 'nan', 'inf', '-inf', '1e9', '1000000000', f'1{"0" * 400}', 'x' * 100_000)


@functools.cache
def flag_names(study):
  """The names of the flags that a study defines."""
  with flagsaver.flagsaver():
    before = set(absl_flags.FLAGS)
    STUDY_MODULES[study].STUDY.define_flags(STUDY_MODULES[study].PRESETS)
    return sorted(set(absl_flags.FLAGS) - before)


def try_flag(study, name, value, folder):
  """Checks that a value of a flag is accepted, up to the first cell, or rejected in one line."""
  arguments = [f'--{name}={value}'] + ['--preset=smoke'] * (name != 'preset')
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    patch.setattr(grid, '_run_jobs', mock.Mock(side_effect=FirstCellReached))
    try:
      line = error_line(STUDY_MODULES[study], *arguments)
    except FirstCellReached:
      assert value not in ('nan', '-inf') or name in ('runs', 'cache')
    else:
      assert len(line) <= 1000


@settings(deadline=None, max_examples=60)
@given(
  st.sampled_from(sorted(STUDIES)).flatmap(
    lambda study: st.tuples(st.just(study), st.sampled_from(flag_names(study)))),
  st.sampled_from(EXTREME_VALUES),
)
def test_a_random_value_of_a_flag_is_accepted_or_rejected(tmp_path_factory, flag, value):
  try_flag(*flag, value, tmp_path_factory.mktemp('folder'))


@pytest.mark.slow
@pytest.mark.parametrize('study', STUDIES)
def test_every_value_of_every_flag_is_accepted_or_rejected_in_one_line(study, tmp_path):
  for name in flag_names(study):
    for value in EXTREME_VALUES:
      try_flag(study, name, value, tmp_path)


@pytest.mark.parametrize(
  ('script', 'flag'),
  [(retention, 'runs'), (retention, 'cache'), (claims, 'runs'), (report, 'runs'),
   (translate, 'weights'), (convert, 'checkpoint'), (convert, 'out')],
)
def test_a_path_may_begin_with_home_and_must_not_be_empty(script, flag, monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  values = []

  def record_value():
    values.append(getattr(flags.FLAGS, flag))

  for text, path in {'~': f'{tmp_path}', '~/a b': f'{tmp_path}/a b', './~': './~'}.items():
    assert command.run_command(script, f'--{flag}={text}', main=record_value).code == 0
    assert values.pop() == path
  done = command.run_command(script, f'--{flag}=', main=record_value)
  assert (done.code == 0 and values == ['']) if flag == 'cache' else (
    done.code == 2 and f'--{flag}=: a path must not be empty' in done.err)


@pytest.mark.parametrize(
  ('script', 'layer', 'suggestion'),
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
def test_a_name_of_another_kind_is_rejected_with_a_suggestion(script, layer, suggestion, tmp_path):
  line = error_line(script, f'--runs={tmp_path}', '--preset=smoke', f'--layers={layer}')
  assert f'did you mean {suggestion!r}?' in line
