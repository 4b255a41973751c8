"""Output that cannot be written never ends a command with a traceback."""

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
flags.main(script, flags.define_store, 'A command.')
'''
full = pytest.mark.skipif(not os.path.exists('/dev/full'), reason='there is no full device')


def start(*words, lines=1, **options):
  """The process of a command that prints so many lines."""
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE} | options
  code = COMMAND.format(lines=lines)
  return subprocess.Popen([sys.executable, '-c', code, *words], cwd=ROOT, **pipes)


@pytest.mark.parametrize('encoding', ['ascii', 'ascii:strict', 'latin-1', 'utf-8'])
def test_characters_that_a_terminal_lacks_are_replaced(encoding):
  process = start(env=os.environ | {'PYTHONIOENCODING': encoding})
  out, err = process.communicate()
  assert (process.returncode, err) == (0, b'stored\n')
  encoding = encoding.partition(':')[0]
  assert out == '1.5 ± 0.5 😀 runs/quick 0\n'.encode(encoding, 'replace')


def test_a_folder_whose_name_is_no_text_is_printed_with_marks():
  process = start(b'--runs=/tmp/\xff')
  out, err = process.communicate()
  assert (process.returncode, err) == (0, b'stored\n') and b'/tmp/? 0' in out


def test_a_reader_that_ends_changes_nothing():
  with start(lines=100_000) as process:
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b'stored\n' and process.wait() == 0


@full
@pytest.mark.parametrize('lines', [1, 100_000])
def test_a_full_disk_is_one_line_after_everything_is_done(lines):
  with open('/dev/full', 'wb') as device, start(lines=lines, stdout=device) as process:
    assert process.stderr.read().splitlines() == [
      b'stored', b'cannot write to standard output: No space left on device']
    assert process.wait() == 2


@full
def test_errors_that_nobody_can_read_change_nothing():
  with open('/dev/full', 'wb') as device:
    process = start(stderr=device)
    assert b'0.5' in process.communicate()[0] and process.returncode == 0


def test_a_closed_output_changes_nothing():
  script = 'exec "$0" -c "$1" >&- 2>&-'
  words = ['sh', '-c', script, sys.executable, COMMAND.format(lines=1)]
  assert subprocess.run(words, cwd=ROOT, check=False).returncode == 0


def test_help_into_a_pipe_that_is_closed_ends_quietly():
  with start('--help') as process:
    process.stdout.close()
    assert process.stderr.read() == b'' and process.wait() == 0
