"""A run is resolved once: from a command to its records nobody parses a spec a second time."""

import collections
from unittest import mock

import pytest

from experiments.gradient_flow import flow
from experiments.gradient_flow import study as gradient_flow
from experiments.lab.cells import experiment, spec, training
from experiments.lab.cells.cell import Outcome
from experiments.receptive_field import fields
from experiments.receptive_field import study as receptive_field
from experiments.retention import study as retention
from experiments.state_tracking import study as state_tracking
from tests.support import command


def cut_short(cell, report):
  """What a cell comes to that was stopped at once; its experiment is there as it is needed."""
  one = cell.experiment
  assert one.model and one.match and one.unmatched() and one.extrapolation_tasks is not None
  return Outcome({}, 'timeout', 'nothing is trained or measured here')


@pytest.mark.parametrize(('study', 'words', 'tasks', 'lists'), [
  (retention, (), 4, 1),
  (retention, ('--tasks=recall(length=20),adding', '--lengths=20,40'), 2, 1),
  (state_tracking, (), 1, 1),
  (gradient_flow, (), 1, 3),  # three lists of its preset name a layer
  (receptive_field, (), 1, 2),
], ids=['retention', 'named tasks', 'test lengths', 'gradient_flow', 'receptive_field'])
def test_each_spec_of_a_command_is_parsed_once(study, words, tasks, lists, tmp_path):
  experiment.reference_of('layer')  # once for all
  parsed = collections.Counter()
  parse = spec.parse

  def counted(text, kind):
    parsed[text, kind] += 1
    return parse(text, kind)

  words = ('--preset=smoke', f'--runs={tmp_path}', *words)
  with (
    mock.patch.object(spec, 'parse', counted),
    mock.patch.object(training, 'train_cell', lambda *_: cut_short),
    mock.patch.object(flow, 'measure_cell', cut_short),
    mock.patch.object(fields, 'measure_cell', cut_short),
  ):
    done = command.run(study, *words)
  assert done.code == 0, done.err
  assert sum(kind == 'task' for _, kind in parsed) == tasks
  assert {text: count for (text, _), count in parsed.items() if count > lists} == {}
