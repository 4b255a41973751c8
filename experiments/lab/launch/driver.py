"""Driver that parses the flags of a study, executes its grid cells and prints its tables.

Flags are parsed, and --help is printed, before JAX is imported. The modules that create and execute
cells are imported after that.
"""

import functools
import importlib

from experiments.lab import source
from experiments.lab.launch import flags, listing
from experiments.lab.launch.study import Study
from experiments.lab.results import publish


def main(study: Study) -> None:
  """Runs the command-line program of a study."""
  define_flags = functools.partial(study.define_flags, study.presets)
  help_appendix = functools.partial(listing.study_listing, study)
  flags.run_command_line(
    functools.partial(run_study, study), define_flags, study.question, help_appendix)


def run_study(study: Study) -> None:
  """Executes grid cells that have no stored record, then prints and saves tables and a figure."""
  preset = flags.requested_preset(study.presets)
  source.cache_source_files()  # must precede the import of every module that computes numbers
  records = importlib.import_module('experiments.lab.launch.grid').study_records(study, preset)
  publish.print_and_save_study(study.name, *study.report(records), flags.FLAGS.runs)
