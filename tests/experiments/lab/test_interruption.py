"""Signals are never lost, are said at once, and leave handlers as they were."""

import gc
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from experiments.lab import interruption
from experiments.lab.interruption import SIGNALS, Interrupted

ROOT = pathlib.Path(__file__).parents[3]


@pytest.mark.parametrize('number', SIGNALS)
def test_a_signal_is_noticed_at_the_next_look_and_said_in_one_line(handlers, number, capsys):
  with pytest.raises(Interrupted, match='at step 3') as caught, interruption.noticed():
    interruption.check()
    os.kill(os.getpid(), number)
    os.kill(os.getpid(), number)  # so soon after the first, it is the same one
    assert interruption.requested()
    with interruption.noticed():
      interruption.check('at step 3')
  assert caught.value.exit_code == 128 + number and not interruption.requested()
  (line,) = capsys.readouterr().err.splitlines()
  assert number.name in line and 'stops after the current call' in line
  assert {n: signal.getsignal(n) for n in SIGNALS} == handlers


def test_a_block_that_ends_without_a_look_is_interrupted_too(handlers):
  with pytest.raises(Interrupted), interruption.noticed():
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_in_a_callback_of_a_library_is_not_lost(handlers):
  def callback(phase, info):
    os.kill(os.getpid(), signal.SIGINT)  # Python's own exception is printed here, and dropped
    time.sleep(0)

  gc.collect()
  with pytest.raises(Interrupted), interruption.noticed():
    gc.callbacks.append(callback)
    try:
      gc.collect()
    finally:
      gc.callbacks.remove(callback)
    interruption.check()


def test_what_is_ignored_stays_ignored(handlers):
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for what runs in the background
  with interruption.noticed():
    os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    interruption.wait(0)
  assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_another_thread_handles_no_signals(handlers):
  def run():
    with interruption.noticed():
      seen.append(({n: signal.getsignal(n) for n in SIGNALS}, interruption.requested()))

  seen = []
  thread = threading.Thread(target=run)
  thread.start()
  thread.join()
  assert seen == [(handlers, False)]


def test_waiting_ends_with_a_signal(handlers):
  timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
  start = time.monotonic()
  timer.start()
  with pytest.raises(Interrupted), interruption.noticed():
    interruption.wait(60)
  assert time.monotonic() - start < 30


BUSY = """
import hashlib, signal
from experiments.lab import interruption
signal.signal(signal.SIGINT, signal.default_int_handler)
interruption.TOGETHER = 0.1
with interruption.noticed():
  print('ready', flush=True)
  hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)  # minutes in which Python runs no handler
"""


@pytest.mark.parametrize('number', SIGNALS)
def test_within_a_long_call_it_is_said_at_once_and_a_second_signal_ends_it(number):
  process = subprocess.Popen(
    [sys.executable, '-c', BUSY], cwd=ROOT, text=True,
    stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  assert process.stdout.readline() == 'ready\n'
  time.sleep(0.2)
  process.send_signal(number)
  assert number.name in process.stderr.readline()
  time.sleep(0.5)
  assert process.poll() is None
  process.send_signal(number)
  assert process.wait(30) == 128 + number
  assert process.stderr.read() == ''
  process.stdout.close()
  process.stderr.close()
