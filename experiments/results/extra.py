"""Libraries that only the report needs, and what to install when they are missing."""

import importlib
import types


class MissingExtra(ImportError):
  """A library of the `report` extra is not installed; the message says how to."""


def load(module: str, purpose: str) -> types.ModuleType:
  """Import a module of the `report` extra; MissingExtra says in one line how to install it."""
  try:
    return importlib.import_module(module)
  except ModuleNotFoundError as error:
    # It is there, but something that it needs is not: show the true cause.
    if (error.name or '').partition('.')[0] != module.partition('.')[0]:
      raise
    text = f"{purpose} need the extra: pip install 'sequence-lab[report]'"
    raise MissingExtra(text, name=error.name) from None
