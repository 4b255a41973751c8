"""Import of optional dependencies on first use, with an error message if they are missing.

Most libraries are not needed to load records, parse flags or print --help. Libraries that take long
to import are therefore declared with `lazy_module` instead of an import statement.
"""

import importlib
import types


class MissingExtra(ImportError):
  """The error for an optional library that is not installed, which states the install command."""


def import_optional(module: str, purpose: str, extra: str) -> types.ModuleType:
  """Imports a module of an optional library, or raises MissingExtra if it is not installed.

  Args:
    module: dotted name of the module.
    purpose: plural noun phrase for what needs the module, with which the message begins.
    extra: name of the extra in setup.cfg that installs the module.

  Returns:
    The imported module.

  Raises:
    MissingExtra: if the library is not installed; the message states the install command.

  """
  try:
    return importlib.import_module(module)
  except ModuleNotFoundError as error:
    # The original error is kept if it reports a missing dependency of the library.
    if (error.name or '').partition('.')[0] != module.partition('.')[0]:
      raise
    message = f'{purpose} need an optional library: {install_command(extra)}'
    raise MissingExtra(message, name=error.name) from None


class LazyModule(types.ModuleType):
  """A module that is imported when one of its attributes is first used."""

  def __getattr__(self, name: str):
    module = importlib.import_module(self.__name__)
    self.__dict__.update(vars(module))
    return getattr(module, name)


def lazy_module(module: str) -> LazyModule:
  """Returns a module object that imports the named module when an attribute is first used.

  The module belongs to a library that is required but slow to import. Annotations that refer to
  the library must be strings.
  """
  return LazyModule(module)


def install_command(extra: str) -> str:
  """Returns the pip command that installs the libraries of an extra in setup.cfg."""
  return f"pip install -e '.[{extra}]' in the folder of the repository"
