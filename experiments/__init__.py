"""Studies, each in a separate folder, and the package `lab` with code that all studies share.

STUDIES maps each study's name to the module that defines its `STUDY`, in the order of the report.
The dictionary can be used without importing any study.
"""

import importlib

STUDIES = {
  'complexity': 'experiments.complexity.study',
  'parallelism': 'experiments.parallelism.study',
  'gradient_flow': 'experiments.gradient_flow.study',
  'receptive_field': 'experiments.receptive_field.study',
  'retention': 'experiments.retention.study',
  'ladder': 'experiments.ladder.study',
  'state_tracking': 'experiments.state_tracking.study',
  'bottleneck': 'experiments.bottleneck.study',
  'translation': 'experiments.translation.study',
  'variations': 'experiments.variations.study',
  'pronouns': 'experiments.pronouns.study',
  'speed': 'experiments.speed.study',
  'compile_tpu': 'experiments.compile_tpu.study',
}


def load_study(name: str):
  """Imports the module of a study and returns its `Study` object."""
  return importlib.import_module(STUDIES[name]).STUDY
