"""Interruption of long computations, which check a flag that Ctrl-C and SIGTERM set.

Python's default handler raises KeyboardInterrupt at whatever instruction is executing. If that
instruction is in a callback of a library (JAX has one for garbage collection), the exception is
printed and discarded, and the program continues. A flag cannot be lost in this manner.

Computations check the flag between calls into compiled code, and Python executes no handler during
such a call. The operating system therefore writes each signal into a pipe (`signal.set_wakeup_fd`),
and a thread that reads the pipe announces immediately that the process will stop. A second signal
ends the process immediately.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME_SIGNAL_SECONDS = 1.0  # signals within this time count once, as `timeout` sends two
POLL_SECONDS = 0.2  # between two checks of the flag while the process only waits
MESSAGE = (
  'interrupted by {}: the command stops after the current call and keeps all stored results; '
  'the same command resumes from them, and a second signal ends it immediately'
)


class Interrupted(KeyboardInterrupt):
  """The error that long computations raise after a signal has requested the process to stop."""

  def __init__(self, signal_number: int, message: str = ''):
    super().__init__(message)
    self.exit_code = 128 + signal_number  # the exit code that shells report for a signal


class _Listener:
  """Signal handlers that store the number of the first received signal."""

  def __init__(self):
    self.first_signal: int | None = None
    self._reader, self._writer = os.pipe()
    os.set_blocking(self._writer, False)
    self._thread = threading.Thread(
      target=self._process_received_signals, name='signals', daemon=True)

  def install_handlers(self) -> None:
    # A background job ignores Ctrl-C, and signals that are already ignored must remain ignored.
    handled = [n for n in SIGNALS if signal.getsignal(n) not in (signal.SIG_IGN, None)]
    self._previous_handlers = {n: signal.signal(n, self._record_signal) for n in handled}
    self._previous_descriptor = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
    self._thread.start()

  def restore_handlers(self) -> None:
    signal.set_wakeup_fd(self._previous_descriptor)
    for number, handler in self._previous_handlers.items():
      signal.signal(number, handler)
    os.write(self._writer, b'\0')
    self._thread.join()
    os.close(self._reader)
    os.close(self._writer)

  def _record_signal(self, number: int, frame: FrameType | None) -> None:
    self.first_signal = self.first_signal or number

  def _process_received_signals(self) -> None:
    first_time = None
    while number := os.read(self._reader, 1)[0]:
      if number not in self._previous_handlers:
        continue
      if first_time is None:
        first_time, self.first_signal = time.monotonic(), self.first_signal or number
        with contextlib.suppress(OSError, ValueError):  # the terminal may be closed
          print(MESSAGE.format(signal.Signals(number).name), file=sys.stderr, flush=True)
      elif time.monotonic() - first_time > SAME_SIGNAL_SECONDS:
        os._exit(128 + number)


_listener: _Listener | None = None  # a process has one set of handlers, hence one listener


@contextlib.contextmanager
def deferred_signals() -> Iterator[None]:
  """Makes signals within a `with` block set a flag instead of terminating the process.

  Blocks may be nested. Python permits signal handlers in the main thread only, so that the block
  has no effect in any other thread.

  Raises:
    Interrupted: if a signal arrived and the block ended without an exception.

  """
  global _listener
  if _listener or threading.current_thread() is not threading.main_thread():
    yield
    return
  _listener = _Listener()
  _listener.install_handlers()
  try:
    yield
    raise_if_stopped()
  finally:
    _listener.restore_handlers()
    _listener = None


def stop_requested() -> bool:
  """Whether a signal has requested the process to stop."""
  return _listener is not None and _listener.first_signal is not None


def raise_if_stopped(message: str = '') -> None:
  """Raises Interrupted with the message if a signal has requested the process to stop."""
  if stop_requested():
    raise Interrupted(_listener.first_signal, message)


def sleep_unless_interrupted(seconds: float) -> None:
  """Sleeps for some seconds, and raises Interrupted as soon as a signal requests a stop."""
  deadline = time.monotonic() + seconds
  raise_if_stopped()
  while (remaining := deadline - time.monotonic()) > 0:
    time.sleep(min(POLL_SECONDS, remaining))
    raise_if_stopped()
