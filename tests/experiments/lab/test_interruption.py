"""Tests that signals are never lost, are announced immediately, and leave handlers unchanged."""

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
def test_a_signal_is_announced_in_one_line_and_raised_at_the_next_check(
    default_signal_handlers, number, capsys):
  with pytest.raises(Interrupted, match='at step 3') as caught, interruption.deferred_signals():
    interruption.raise_if_stopped()
    os.kill(os.getpid(), number)
    os.kill(os.getpid(), number)  # counts as the same signal, as it follows so soon
    assert interruption.stop_requested()
    with interruption.deferred_signals():
      interruption.raise_if_stopped('at step 3')
  assert caught.value.exit_code == 128 + number and not interruption.stop_requested()
  (line,) = capsys.readouterr().err.splitlines()
  assert number.name in line and 'stops after the current call' in line
  assert {n: signal.getsignal(n) for n in SIGNALS} == default_signal_handlers


def test_a_block_that_ends_without_a_check_is_interrupted(default_signal_handlers):
  with pytest.raises(Interrupted), interruption.deferred_signals():
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_during_a_callback_of_a_library_is_not_lost(default_signal_handlers):
  def send_signal_in_callback(phase, info):
    if phase == 'start':  # two signals would end the process if the collection took a second
      os.kill(os.getpid(), signal.SIGINT)  # Python would discard a KeyboardInterrupt here
      time.sleep(0)

  gc.collect()
  with pytest.raises(Interrupted), interruption.deferred_signals():
    gc.callbacks.append(send_signal_in_callback)
    try:
      gc.collect()
    finally:
      gc.callbacks.remove(send_signal_in_callback)
    interruption.raise_if_stopped()


def test_an_ignored_signal_is_still_ignored(default_signal_handlers):
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # as shells do for background jobs
  with interruption.deferred_signals():
    os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    interruption.sleep_unless_interrupted(0)
  assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_threads_other_than_the_main_thread_change_no_handler(default_signal_handlers):
  def record_handlers():
    with interruption.deferred_signals():
      observed.append(({n: signal.getsignal(n) for n in SIGNALS}, interruption.stop_requested()))

  observed = []
  thread = threading.Thread(target=record_handlers)
  thread.start()
  thread.join()
  assert observed == [(default_signal_handlers, False)]


def test_a_signal_ends_a_sleep(default_signal_handlers):
  timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
  start = time.monotonic()
  timer.start()
  with pytest.raises(Interrupted), interruption.deferred_signals():
    interruption.sleep_unless_interrupted(60)
  assert time.monotonic() - start < 30


LONG_CALL = """
import hashlib, signal
from experiments.lab import interruption
signal.signal(signal.SIGINT, signal.default_int_handler)
interruption.SAME_SIGNAL_SECONDS = 0.1
with interruption.deferred_signals():
  print('ready', flush=True)
  hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)  # takes minutes, in which no handler is executed
"""


@pytest.mark.parametrize('number', SIGNALS)
def test_a_signal_during_a_long_call_is_announced_and_a_second_one_ends_the_process(number):
  process = subprocess.Popen(
    [sys.executable, '-c', LONG_CALL], cwd=ROOT, text=True,
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
