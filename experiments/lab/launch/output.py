"""Standard output and error that never end a command: what cannot be written is left out.

A terminal may lack a character, the reader of a pipe may have ended (`claims | head`), a disk may
be full. A character that the encoding lacks is written as a question mark. After the first failed
write a stream discards what follows, so that the command goes on and stores its results.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class Output:
  """A text stream whose writes do not fail; `error` is why the first of them did."""

  def __init__(self, stream: TextIO):
    self.error: OSError | None = None
    self._stream = stream
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='replace')

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)

  def write(self, text: str) -> int:
    """Writes a text, or discards it."""
    try:
      self._stream.write(text)
    except OSError as error:
      self._discard(error)
    return len(text)

  def flush(self) -> None:
    """Hands on what was written, or discards it."""
    try:
      self._stream.flush()
    except OSError as error:
      self._discard(error)

  @property
  def failed(self) -> bool:
    """Whether something is lost that a reader waited for: a reader that ended waits for nothing."""
    return self.error is not None and not isinstance(self.error, BrokenPipeError)

  def _discard(self, error: OSError) -> None:
    """From here on the stream's file is the null device, to which all writes succeed."""
    self.error = self.error or error
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, self._stream.fileno())
    os.close(null)


@contextlib.contextmanager
def forgiving() -> Iterator[Output]:
  """Replaces both standard streams for a while by such outputs; yields standard output's."""
  streams = sys.stdout, sys.stderr
  # A process that is started without an open stream has None in its place.
  out, err = (Output(stream or open(os.devnull, 'w')) for stream in streams)  # noqa: SIM115
  sys.stdout, sys.stderr = out, err
  try:
    yield out
  finally:
    sys.stdout, sys.stderr = streams
    out.flush()
    err.flush()
