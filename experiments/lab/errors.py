"""Errors in user input, reported in one line that also states valid input."""

import difflib
import errno

MAX_CHARACTERS = 1000  # of an error message
KEPT_ENDING = 300  # characters at the end of a long message that are never cut


class BadInput(ValueError):
  """The error for an invalid flag, spec or file, shown to the user without a traceback."""

  def __init__(self, message: str):
    super().__init__(shorten_to_line(message))


def shorten_to_line(message: str) -> str:
  """Joins the lines of a message, and omits its middle if it exceeds MAX_CHARACTERS.

  The beginning, which states the fault, and the end, which states the valid input, are kept.
  """
  line = ' '.join(message.splitlines())
  if len(line) <= MAX_CHARACTERS:
    return line
  return f'{line[: MAX_CHARACTERS - KEPT_ENDING - 5]} ... {line[-KEPT_ENDING:]}'


def unknown_name_error(kind: str, name: str, known, suggestion: str = '') -> BadInput:
  """Creates an error that reports an unknown name, lists the valid names and suggests one of them.

  Args:
    kind: kind of the name, such as 'layer'.
    name: the unknown name.
    known: valid names, all of which the message lists.
    suggestion: name to suggest; '' suggests the most similar valid name.

  Returns:
    The error, which the caller raises.

  """
  known = list(known)
  suggestions = [suggestion] if suggestion else difflib.get_close_matches(name, known, n=1)
  hint = f'did you mean {suggestions[0]!r}? ' if suggestions else ''
  return BadInput(f'no {kind} {name!r}; {hint}valid names are {", ".join(known) or "none"}')


def describe_os_error(error: OSError) -> str:
  """Describes an error of the operating system in one line with the file and the reason."""
  if error.errno is None:  # it was raised with a message only
    return str(error)
  reason = {
    errno.EEXIST: 'it is not a folder, and a folder is needed there',
    errno.ENOTDIR: 'a part of this path is not a folder',
    errno.EISDIR: 'it is a folder, and a file is needed there',
  }.get(error.errno, error.strerror)
  return f'cannot use {error.filename}: {reason}' if error.filename else str(reason)
