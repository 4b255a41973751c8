"""What a user can get wrong: said in one line, with what would be right."""

import difflib


class BadInput(ValueError):
  """A flag, a spec or a file that cannot be used as it is; the message is for the user."""


def no_such(kind: str, name: str, known) -> BadInput:
  """The error for an unknown name: it suggests the nearest, and lists what there is."""
  known = list(known)
  near = difflib.get_close_matches(name, known, n=1)
  hint = f'did you mean {near[0]!r}? ' if near else ''
  return BadInput(f'no {kind} {name!r}; {hint}there is {", ".join(known) or "none"}')
