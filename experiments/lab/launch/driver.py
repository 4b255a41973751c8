"""From a study's command to its tables: the driver of every study.

Flags are read, and --help is printed, before JAX is loaded; what makes cells is loaded after that.
"""

import functools
import importlib

from experiments.lab import source
from experiments.lab.launch import flags, listing
from experiments.lab.launch.study import Study
from experiments.lab.results import publish


def main(study: Study) -> None:
  """The command of a study."""
  define = functools.partial(study.define, study.presets)
  more = functools.partial(listing.of_study, study)
  flags.main(functools.partial(launch, study), define, study.question, more)


def launch(study: Study) -> None:
  """Makes the cells that the store lacks, prints the tables, and leaves them with the figure."""
  preset = flags.preset(study.presets)
  source.keep()  # before anything is loaded that makes numbers
  records = importlib.import_module('experiments.lab.launch.grid').records(study, preset)
  publish.study(study.name, *study.report(records), flags.FLAGS.runs)
