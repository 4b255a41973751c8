"""What a user can get wrong: said in one line, with what would be right."""

import difflib
import errno

LONGEST = 1000  # characters of a line
ENDING = 300  # of them those that are kept of its end


class BadInput(ValueError):
  """A flag, a spec or a file that cannot be used as it is; the message is for the user."""

  def __init__(self, message: str):
    super().__init__(brief(message))


def brief(message: str) -> str:
  """A message as one line, without the middle of one that repeats a long input.

  What is wrong stands at its beginning, and what would be right at its end.
  """
  line = ' '.join(message.splitlines())
  if len(line) <= LONGEST:
    return line
  return f'{line[: LONGEST - ENDING - 5]} ... {line[-ENDING:]}'


def no_such(kind: str, name: str, known, meant: str = '') -> BadInput:
  """The error for an unknown name: it suggests what is meant or the nearest, and lists all."""
  known = list(known)
  near = [meant] if meant else difflib.get_close_matches(name, known, n=1)
  hint = f'did you mean {near[0]!r}? ' if near else ''
  return BadInput(f'no {kind} {name!r}; {hint}there is {", ".join(known) or "none"}')


def worded(error: OSError) -> str:
  """An error of the system in one line: which file, and what is wrong."""
  if error.errno is None:  # raised with words of its own
    return str(error)
  reason = {
    errno.EEXIST: 'it is no folder, and a folder is needed there',
    errno.ENOTDIR: 'a part of this path is no folder',
    errno.EISDIR: 'it is a folder, and a file is needed there',
  }.get(error.errno, error.strerror)
  return f'cannot use {error.filename}: {reason}' if error.filename else str(reason)
