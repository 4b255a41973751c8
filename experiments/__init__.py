"""Questions, a folder each, and the lab that they share.

STUDIES names them in the order in which they are reported: name -> the module that has its `STUDY`.
It is read without loading any of them.
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


def load(name: str):
  """The `Study` of a name in STUDIES."""
  return importlib.import_module(STUDIES[name]).STUDY
