"""Ctrl-C and SIGTERM set a flag, which work that takes long looks at between its calls.

Python's own handler raises KeyboardInterrupt wherever the program happens to be. If that is a
callback of a library (JAX has one for garbage collections), the exception is printed and dropped,
and the program goes on. A flag is not lost.

A call into compiled code ends before anybody looks at the flag, and Python runs no handler until
then. So the system itself writes each signal into a pipe (`signal.set_wakeup_fd`), and a thread
that reads from it says at once what will happen. A second signal ends the process at once.
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
TOGETHER = 1.0  # seconds: signals this close are one, such as the two that `timeout` sends
POLL = 0.2  # seconds between looks at the flag while there is nothing to do but wait
MESSAGE = (
  'interrupted by {}: it stops after the current call, what was stored is kept, and the same '
  'command goes on; a second signal ends it at once'
)


class Interrupted(KeyboardInterrupt):
  """The process was asked to stop by a signal, and a look at the flag has noticed."""

  def __init__(self, number: int, message: str = ''):
    super().__init__(message)
    self.exit_code = 128 + number  # as shells report it


class _Listener:
  """The handlers of the signals, and which signal came first."""

  def __init__(self):
    self.received: int | None = None
    self._reader, self._writer = os.pipe()
    os.set_blocking(self._writer, False)
    self._thread = threading.Thread(target=self._announce, name='signals', daemon=True)

  def start(self) -> None:
    # A background job of a shell ignores Ctrl-C, and goes on doing so.
    heard = [n for n in SIGNALS if signal.getsignal(n) not in (signal.SIG_IGN, None)]
    self._before = {number: signal.signal(number, self._note) for number in heard}
    self._descriptor = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
    self._thread.start()

  def stop(self) -> None:
    signal.set_wakeup_fd(self._descriptor)
    for number, handler in self._before.items():
      signal.signal(number, handler)
    os.write(self._writer, b'\0')
    self._thread.join()
    os.close(self._reader)
    os.close(self._writer)

  def _note(self, number: int, frame: FrameType | None) -> None:
    self.received = self.received or number

  def _announce(self) -> None:
    first = None
    while number := os.read(self._reader, 1)[0]:
      if number not in self._before:
        continue
      if first is None:
        first, self.received = time.monotonic(), self.received or number
        with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
          print(MESSAGE.format(signal.Signals(number).name), file=sys.stderr, flush=True)
      elif time.monotonic() - first > TOGETHER:
        os._exit(128 + number)


_listener: _Listener | None = None  # signals belong to the process, so that there is one at most


@contextlib.contextmanager
def noticed() -> Iterator[None]:
  """Notices signals instead of dying of them as long as the block lasts; may be nested.

  Outside the main thread, which alone may handle signals, nothing changes. Interrupted if a signal
  came and the block ends as if none had.
  """
  global _listener
  if _listener or threading.current_thread() is not threading.main_thread():
    yield
    return
  _listener = _Listener()
  _listener.start()
  try:
    yield
    check()
  finally:
    _listener.stop()
    _listener = None


def requested() -> bool:
  """Whether a signal has asked the process to stop."""
  return _listener is not None and _listener.received is not None


def check(message: str = '') -> None:
  """Interrupted, with a message, if a signal has asked the process to stop."""
  if requested():
    raise Interrupted(_listener.received, message)


def wait(seconds: float) -> None:
  """Sleeps; Interrupted as soon as a signal asks the process to stop."""
  end = time.monotonic() + seconds
  check()
  while (left := end - time.monotonic()) > 0:
    time.sleep(min(POLL, left))
    check()
