"""Tests that failed writes to standard output or error never end a command with a traceback."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[4]
COMMAND = '''
import sys
from experiments.lab.launch import flags
def script():
  for line in range({lines}):
    print('1.5 \u00b1 0.5 \U0001f600', flags.FLAGS.runs, line)
  print('stored', file=sys.stderr)
flags.run_command_line(script, flags.define_runs_flag, 'A command.')
'''
requires_full_device = pytest.mark.skipif(
  not os.path.exists('/dev/full'), reason='requires /dev/full')


def start_command(*arguments, lines=1, **options):
  """Starts a process with a command that prints some lines."""
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE} | options
  code = COMMAND.format(lines=lines)
  return subprocess.Popen([sys.executable, '-c', code, *arguments], cwd=ROOT, **pipes)


@pytest.mark.parametrize('encoding', ['ascii', 'ascii:strict', 'latin-1', 'utf-8'])
def test_characters_that_an_encoding_lacks_are_replaced(encoding):
  process = start_command(env=os.environ | {'PYTHONIOENCODING': encoding})
  out, err = process.communicate()
  assert (process.returncode, err) == (0, b'stored\n')
  encoding = encoding.partition(':')[0]
  assert out == '1.5 ± 0.5 😀 runs/quick 0\n'.encode(encoding, 'replace')


def test_undecodable_bytes_in_a_folder_name_are_printed_as_question_marks():
  process = start_command(b'--runs=/tmp/\xff')
  out, err = process.communicate()
  assert (process.returncode, err) == (0, b'stored\n') and b'/tmp/? 0' in out


def test_a_reader_that_closes_the_pipe_does_not_end_the_command():
  with start_command(lines=100_000) as process:
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b'stored\n' and process.wait() == 0


@requires_full_device
@pytest.mark.parametrize('lines', [1, 100_000])
def test_a_full_disk_is_reported_in_one_line_at_the_end(lines):
  with open('/dev/full', 'wb') as device, start_command(lines=lines, stdout=device) as process:
    assert process.stderr.read().splitlines() == [
      b'stored', b'cannot write to standard output: No space left on device']
    assert process.wait() == 2


@requires_full_device
def test_a_failed_write_to_standard_error_has_no_effect():
  with open('/dev/full', 'wb') as device:
    process = start_command(stderr=device)
    assert b'0.5' in process.communicate()[0] and process.returncode == 0


def test_closed_standard_streams_have_no_effect():
  script = 'exec "$0" -c "$1" >&- 2>&-'
  words = ['sh', '-c', script, sys.executable, COMMAND.format(lines=1)]
  assert subprocess.run(words, cwd=ROOT, check=False).returncode == 0


def test_help_into_a_closed_pipe_prints_no_error():
  with start_command('--help') as process:
    process.stdout.close()
    assert process.stderr.read() == b'' and process.wait() == 0
