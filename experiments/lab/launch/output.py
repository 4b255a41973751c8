"""Output streams whose write errors do not terminate a command.

A terminal may lack a character, the reader of a pipe may have ended (`claims | head`), or a disk
may be full. A character that the encoding lacks is replaced by a question mark. After its first
failed write a stream discards all further text, so that the command continues and stores its
results.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class TolerantStream:
  """A text stream that raises no write error, and stores the first such error in `error`."""

  def __init__(self, stream: TextIO):
    self.error: OSError | None = None
    self._stream = stream
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='replace')

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)

  def write(self, text: str) -> int:
    """Writes text, or discards it after a write error, and returns its number of characters."""
    try:
      self._stream.write(text)
    except OSError as error:
      self._discard_further_output(error)
    return len(text)

  def flush(self) -> None:
    """Flushes the stream, or discards the buffered text after a write error."""
    try:
      self._stream.flush()
    except OSError as error:
      self._discard_further_output(error)

  @property
  def has_write_error_except_broken_pipe(self) -> bool:
    """Whether a write failed for any reason other than a closed pipe."""
    return self.error is not None and not isinstance(self.error, BrokenPipeError)

  def _discard_further_output(self, write_error: OSError) -> None:
    """Redirects the stream to the null device after an error, and stores the first error."""
    self.error = self.error or write_error
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, self._stream.fileno())
    os.close(null)


@contextlib.contextmanager
def streams_that_tolerate_write_errors() -> Iterator[TolerantStream]:
  """Makes stdout and stderr tolerate write errors in a `with` block, and yields stdout."""
  streams = sys.stdout, sys.stderr
  # A standard stream is None if it was closed when the process started.
  out, err = (
    TolerantStream(stream or open(os.devnull, 'w')) for stream in streams)  # noqa: SIM115
  sys.stdout, sys.stderr = out, err
  try:
    yield out
  finally:
    sys.stdout, sys.stderr = streams
    out.flush()
    err.flush()
