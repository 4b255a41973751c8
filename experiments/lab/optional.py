"""Libraries that only some things need: loaded when they are used, with what to install.

Records are read, flags parsed and --help printed without most of them, so that those which take
long to load are declared with `later` instead of being imported.
"""

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


class Later(types.ModuleType):
  """A module that is loaded when something of it is first used."""

  def __getattr__(self, name: str):
    module = importlib.import_module(self.__name__)
    self.__dict__.update(vars(module))
    return getattr(module, name)


def later(module: str) -> Later:
  """A library of the core, loaded when it is first used; annotations that name it are texts."""
  return Later(module)


def install(extra: str) -> str:
  """How to install an extra: this project is in no package index, only in its repository."""
  return f"pip install -e '.[{extra}]' in the folder of the repository"
