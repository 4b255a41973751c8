"""Libraries that only some things need, and what to install when they are missing."""

import importlib
import types


class MissingExtra(ImportError):
  """A library of an extra of setup.cfg is not installed; the message says how to."""


def load(module: str, purpose: str, extra: str) -> types.ModuleType:
  """Import a module of an extra; MissingExtra says in one line what needs it and how to install."""
  try:
    return importlib.import_module(module)
  except ModuleNotFoundError as error:
    # It is there, but something that it needs is not: show the true cause.
    if (error.name or '').partition('.')[0] != module.partition('.')[0]:
      raise
    raise MissingExtra(f'{purpose} need the extra: {install(extra)}', name=error.name) from None


def install(extra: str) -> str:
  """How to install an extra: this project is in no package index, only in its repository."""
  return f"pip install -e '.[{extra}]' in the folder of the repository"
