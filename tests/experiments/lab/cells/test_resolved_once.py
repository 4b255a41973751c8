"""Tests that a command parses each of its specs once between its flags and its records."""

import collections
from unittest import mock

import pytest

from experiments.gradient_flow import gradient_norms
from experiments.gradient_flow import study as gradient_flow
from experiments.lab.cells import experiment, spec, training
from experiments.lab.cells.cell import Outcome
from experiments.receptive_field import field_measurement
from experiments.receptive_field import study as receptive_field
from experiments.retention import study as retention
from experiments.state_tracking import study as state_tracking
from tests.support import command


def stop_immediately(cell, report_progress):
  """Executes nothing, but accesses everything of the cell's experiment that an execution needs."""
  resolved = cell.experiment
  assert resolved.model and resolved.model_width_and_parameter_counts and resolved.model_at_width()
  assert resolved.extrapolation_tasks is not None
  return Outcome({}, 'timeout', 'nothing is trained or measured here')


@pytest.mark.parametrize(('study', 'arguments', 'num_tasks', 'num_lists'), [
  (retention, (), 4, 1),
  (retention, ('--tasks=recall(length=20),adding', '--lengths=20,40'), 2, 1),
  (state_tracking, (), 1, 1),
  (gradient_flow, (), 1, 3),  # three lists of its preset contain the same layer
  (receptive_field, (), 1, 2),
], ids=['retention', 'named tasks', 'test lengths', 'gradient_flow', 'receptive_field'])
def test_each_spec_of_a_command_is_parsed_once(study, arguments, num_tasks, num_lists, tmp_path):
  experiment.layer_of_reference_model('layer')  # is cached, and parsed once for all commands
  num_parsed = collections.Counter()
  parse_spec = spec.parse_spec

  def count_and_parse(text, kind):
    num_parsed[text, kind] += 1
    return parse_spec(text, kind)

  arguments = ('--preset=smoke', f'--runs={tmp_path}', *arguments)
  with (
    mock.patch.object(spec, 'parse_spec', count_and_parse),
    mock.patch.object(training, 'training_executor', lambda *_: stop_immediately),
    mock.patch.object(gradient_norms, 'measure_gradient_norms_at_initialisation', stop_immediately),
    mock.patch.object(
      field_measurement, 'measure_receptive_field_at_initialisation', stop_immediately),
  ):
    done = command.run_command(study, *arguments)
  assert done.code == 0, done.err
  assert sum(kind == 'task' for _, kind in num_parsed) == num_tasks
  assert {text: count for (text, _), count in num_parsed.items() if count > num_lists} == {}
