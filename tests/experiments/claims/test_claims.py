"""Verdicts on supporting, contradicting and incomplete records, and after failed controls."""

import copy
import dataclasses
import importlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import LAYERS, TRANSLATORS
from experiments import STUDIES as REPORTED
from experiments import load_study
from experiments.claims import __main__ as claims
from experiments.claims import rule, verdict_table
from experiments.claims.registry import CLAIMS, CONTROLS
from experiments.claims.rule import evaluate_claim, evaluate_claims
from experiments.complexity import cells as complexity
from experiments.complexity.table_1 import COUNTED
from experiments.gradient_flow import cells as gradient_flow
from experiments.lab.cells import spec
from experiments.lab.cells.timing import Measurement
from experiments.lab.evidence import effects
from experiments.lab.evidence.claim import Claim
from experiments.lab.tasks import TASKS
from experiments.lab.tasks.copy_memory import CopyMemory
from experiments.receptive_field import cells as receptive_field
from tests.support import broken_controls, command, records, study_records

FIELD = study_records.FIELD
quick = settings(deadline=None, max_examples=30)
margins = st.lists(st.floats(0.01, 1), min_size=2, max_size=8)
STUDIES = {claim.study for claim in CLAIMS}


def claim_with_samples(samples, relation='>', threshold=0.5):
  return Claim('n', 'Statement', 'Source', 'study', lambda _: samples, 'unit', relation, threshold)


def verdict_on_samples(samples, *relation_and_threshold):
  return evaluate_claim(claim_with_samples(samples, *relation_and_threshold), []).verdict


def verdicts_by_name(findings):
  return {finding.claim.name: finding.verdict for finding in findings}


@pytest.fixture(scope='module')
def supporting_records():
  return study_records.records_of_all_studies()


@pytest.fixture(scope='module')
def contradicting_records():
  return study_records.records_of_all_studies(contradicted=True)


@quick
@given(margins, st.floats(-10, 10), st.sampled_from(['>', '<']))
def test_an_effect_on_one_side_of_the_threshold_is_decided(margins, threshold, relation):
  above = [threshold + margin for margin in margins]
  below = [threshold - margin for margin in margins]
  verdicts = {verdict_on_samples(samples, relation, threshold) for samples in (above, below)}
  assert verdicts == {'supported', 'contradicted'}
  assert verdict_on_samples(above, '>', threshold) == 'supported'
  assert verdict_on_samples(below, '<', threshold) == 'supported'


@quick
@given(st.floats(0.01, 1), st.integers(1, 4), st.sampled_from(['>', '<']))
def test_an_interval_around_the_threshold_is_inconclusive(margin, pairs, relation):
  assert verdict_on_samples([0.5 - margin, 0.5 + margin] * pairs, relation) == 'inconclusive'


@quick
@given(st.floats(-10, 10), st.sampled_from(['>', '<']))
def test_a_single_value_is_inconclusive(value, relation):
  assert verdict_on_samples([value], relation) == 'inconclusive'


@pytest.mark.parametrize('samples', [None, []])
def test_an_effect_without_values_is_not_run(samples):
  finding = evaluate_claim(claim_with_samples(samples), [])
  assert (finding.verdict, finding.samples, finding.confidence_interval) == ('not run', (), None)


def test_a_claim_is_evaluated_on_the_records_of_its_study():
  evaluated = []
  claim = dataclasses.replace(claim_with_samples([]), effect=evaluated.extend)
  evaluate_claim(claim, [{'study': 'study', 'n': 1}, {'study': 'other', 'n': 2}])
  assert [record['n'] for record in evaluated] == [1]


def test_supporting_records_support_every_claim(supporting_records):
  findings = evaluate_claims(supporting_records)
  assert verdicts_by_name(findings) == {claim.name: 'supported' for claim in CLAIMS}
  assert {finding.seeds for finding in findings} == {records.SEEDS}
  controls = rule.evaluate_control_experiments(supporting_records)
  assert {finding.verdict for finding in controls} == {'supported'}


def test_contradicting_records_contradict_every_claim(contradicting_records):
  findings = evaluate_claims(contradicting_records, control_experiments=())
  assert verdicts_by_name(findings) == {claim.name: 'contradicted' for claim in CLAIMS}


def test_no_claim_is_run_without_records():
  assert set(verdicts_by_name(evaluate_claims([])).values()) == {'not run'}


def without_layer(all_records, layer):
  """Returns copies of the records without those of a layer."""
  names = layer, COUNTED.get(layer, layer)
  remaining = [
    copy.deepcopy(record) for record in all_records if record['run'].get('layer') not in names]
  for record in remaining:
    if layer in record['run'].get('layers', ()):
      record['run']['layers'].remove(layer)
      points = record['result']['points']
      record['result']['points'] = [point for point in points if point['layer'] != layer]
  return remaining


CLAIMS_OF_LAYERS = {  # For each layer the prefixes of the names of its claims.
  'attention': (
    'attention-remembers', 'attention-leads', 'attention-training', 'attention-generation',
    'attention-refers', 'tracking-fails-attention', 'attention-flows', 'attention-depth',
    'attention-path', 'attention-work',
  ),
  'lstm': ('recurren', 'attention-leads'),
  'gru': ('recurrent', 'attention-leads', 'recurrence-depth', 'recurrence-path'),
  'elman': (
    'recurrence-depth', 'recurrence-path', 'gradients-vanish', 'orthogonal-keeps',
    'residual-across', 'clipping',
  ),
  'transformer': ('attention-holds', 'length-leads', 'transformer'),
  'fixed_vector': ('vector', 'length-leads', 'reversal', 'transformer'),
  'additive': ('attention-holds', 'transformer'),
  'tcn': ('convolution', 'dilated-path'),
  'sliding_window': ('restricted-path',),
  'retnet': ('delta-recalls',),
  'gla': ('matrix-recalls',),
  's5': ('selection-copies', 'linear-depth'),
  'mamba': ('selection-copies', 'tracking-fails-positive'),
  "mamba(eigenvalues='[-1,1]')": ('tracking-signed',),
}


@pytest.mark.parametrize('layer', CLAIMS_OF_LAYERS)
def test_without_a_layer_only_its_claims_are_not_run(supporting_records, layer):
  findings = evaluate_claims(without_layer(supporting_records, layer))
  for name, verdict in verdicts_by_name(findings).items():
    assert verdict == ('not run' if name.startswith(CLAIMS_OF_LAYERS[layer]) else 'supported'), name


@pytest.mark.parametrize('family', ['recall', 'copy_memory'])
def test_claims_about_growing_distances_need_two_distances(supporting_records, family):
  long = records.LONG_DISTANCE if family == 'recall' else records.UNCOVERED_DISTANCE
  remaining = [
    record for record in supporting_records if record['study'] == 'retention'
    and (record['result']['family'], record['result']['distance']) != (family, long)]
  verdicts = verdicts_by_name(evaluate_claims(remaining))
  suffix = '-copy' if family == 'copy_memory' else ''
  names = f'recurrent-forget{suffix}', f'attention-remembers{suffix}'
  assert [verdicts[name] for name in names] == ['not run', 'not run']


@pytest.mark.parametrize('status', ['diverged', 'timeout', 'out of memory'])
def test_unfinished_cells_are_no_evidence(supporting_records, status):
  unfinished = [record | {'status': status} for record in supporting_records
                if record['study'] == 'retention']
  assert set(verdicts_by_name(evaluate_claims(unfinished)).values()) == {'not run'}


def test_claims_with_one_seed_are_inconclusive(supporting_records):
  retention = copy.deepcopy(
    [record for record in supporting_records if record['study'] == 'retention'])
  for record in retention:
    record['run']['seeds'] = [0]
    del record['result']['members'][1:]
  evaluated = evaluate_claims(retention, control_experiments=())
  findings = {finding.claim.name: finding for finding in evaluated}
  for name in ('attention-remembers', 'attention-remembers-copy', 'convolution-sees'):
    assert (findings[name].verdict, findings[name].seeds) == ('inconclusive', 1)


@pytest.mark.parametrize('control', CONTROLS, ids=lambda control: control.name)
def test_a_failed_control_voids_only_its_study(supporting_records, control):
  findings = evaluate_claims(broken_controls.break_control(supporting_records, control.name))
  assert {control.study for control in CONTROLS} == STUDIES
  for finding in findings:
    is_same_study = finding.claim.study == control.study
    assert finding.verdict == ('void' if is_same_study else 'supported')
    assert finding.failed_controls == ((control.name,) if is_same_study else ())
    assert (f'control failed: {control.name}' in finding.verdict_explanation) == is_same_study
    assert finding.samples


def test_an_exact_control_fails_with_a_single_value(supporting_records):
  broken = broken_controls.break_control(supporting_records[:1], 'oracle-retention')
  mixed = [*supporting_records[1:], *broken]
  verdicts = {f.verdict for f in evaluate_claims(mixed) if f.claim.study == 'retention'}
  assert verdicts == {'void'}
  controls = rule.evaluate_control_experiments(mixed)
  control = next(c for c in controls if c.claim.name == 'oracle-retention')
  (note,) = verdict_table.notes_on_failed_or_undecided_controls([control], 'runs')
  assert 'is 0.5 ' in note.text and '> 0.999 is required' in note.text


def test_an_undecided_control_voids_no_claim(supporting_records):
  broken = broken_controls.break_control(supporting_records[:1], 'baseline-retention')
  mixed = [*supporting_records[1:], *broken]
  findings = [f for f in evaluate_claims(mixed) if f.claim.study == 'retention']
  assert {finding.verdict for finding in findings} == {'supported'}
  explanations = {finding.verdict_explanation for finding in findings}
  assert explanations == {'control undecided: baseline-retention'}


def test_a_claim_that_is_not_run_is_not_void(supporting_records):
  remaining = without_layer(supporting_records, 'attention')
  broken = broken_controls.break_control(remaining, 'oracle-retention')
  verdicts = verdicts_by_name(evaluate_claims(broken))
  assert verdicts['attention-remembers'] == 'not run' and verdicts['recurrent-forget'] == 'void'


def change_timing_settings(all_records, **settings):
  """Returns the timing records with other settings, and therefore of another grid."""
  return [record | {'run': record['run'] | settings}
          for record in all_records if record['study'] == 'parallelism']


def test_runs_with_different_settings_are_not_compared(supporting_records, contradicting_records):
  shorter = copy.deepcopy([
    record for record in contradicting_records
    if record['study'] == 'retention' and record['run']['layer'] != 'tcn'])
  for record in shorter:
    record['run']['steps'] = 7
  times = change_timing_settings(contradicting_records, device='another device')[1:]
  for order in (1, -1):
    findings = evaluate_claims([*supporting_records, *shorter, *times][::order])
    assert set(verdicts_by_name(findings).values()) == {'supported'}


def test_variants_of_a_task_are_not_compared(supporting_records):
  task = CopyMemory(variant='bai')
  variant = [records.training_record('attention', 'copy_memory', distance, scores, task=task)
         for distance, scores in ((12, records.PERFECT_SCORES), (200, records.POOR_SCORES))]
  findings = evaluate_claims(supporting_records + variant)
  assert set(verdicts_by_name(findings).values()) == {'supported'}


def test_the_comparison_with_more_training_steps_is_selected(
  supporting_records, contradicting_records,
):
  longer = copy.deepcopy(
    [record for record in contradicting_records if record['study'] == 'retention'])
  for record in longer:
    record['run']['steps'] = 2000
  for mixed in (supporting_records + longer, longer + supporting_records):
    findings = evaluate_claims(mixed, control_experiments=())
    assert {f.verdict for f in findings if f.claim.study == 'retention'} == {'contradicted'}


def test_a_failed_control_is_found_in_every_grid(supporting_records):
  other_grid = [
    records.timing_record(0, ('elman',), (8, 16), lambda *_: 1.0, device='another device')]
  broken = broken_controls.break_control(supporting_records, 'repeat')
  findings = evaluate_claims(broken + other_grid)
  assert {f.verdict for f in findings if f.claim.study == 'parallelism'} == {'void'}


def test_a_comparison_has_equal_settings_and_ascending_distances(supporting_records):
  retention = [record for record in supporting_records if record['study'] == 'retention']
  for family in ('recall', 'copy_memory'):
    comparison = effects.comparable_records_by_layer(retention[::-1], family)
    assert set(comparison) == {'attention', 'lstm', 'gru', 'tcn'}
    for layer, group in comparison.items():
      distances = [record['result']['distance'] for record in group]
      assert distances == sorted(set(distances)) and len(distances) == 2
      assert {record['run']['layer'] for record in group} == {layer}


def test_no_distance_is_within_or_beyond_an_unbounded_receptive_field():
  record = records.training_record(
    'attention', 'recall', records.SHORT_DISTANCE, records.PERFECT_SCORES)
  for beyond in (False, True):
    effect = effects.scores_beyond_or_within_receptive_field('recall', 'attention', beyond)
    assert effect([record]) is None


@pytest.mark.parametrize('study', sorted(STUDIES))
def test_every_study_with_a_claim_is_in_the_report(study):
  assert study in REPORTED and load_study(study).name == study
  loaded = load_study(study)
  assert {claim.study for claim in (*loaded.claims, *loaded.controls)} == {study}


def test_names_and_statements_are_unique():
  for field in ('name', 'statement'):
    values = [getattr(claim, field) for claim in (*CLAIMS, *CONTROLS)]
    assert len(set(values)) == len(values)


def test_layers_and_tasks_of_the_records_exist(supporting_records):
  for record in supporting_records:
    layers = record['run'].get('layers', [record['run'].get('layer')])
    assert {layer.partition('(')[0] for layer in layers} <= {*LAYERS, *TRANSLATORS}
    assert record['result'].get('family', 'recall') in TASKS
  points = [point for record in supporting_records for point in record['result'].get('points', ())]
  assert {frozenset(point) for point in points} == {
    frozenset(field.name for field in dataclasses.fields(Measurement))}


@pytest.mark.slow
@pytest.mark.parametrize('name', ['quick', 'paper'])
def test_a_preset_requests_the_records_of_every_claim(name):
  requested = [
    records.training_record(
      layer, task.family, distance, (0.5, 0.6), task=task, study=study.name,
      extrapolation=dict.fromkeys(run_settings.get('test_lengths', ()), (0.5, 0.6)),
      **{k: v for k, v in run_settings.items() if k not in ('seeds', 'learning_rates')},
    )
    for study in map(load_study, (
      'retention', 'ladder', 'state_tracking', 'bottleneck', 'translation', 'pronouns'))
    for task_grid in study.presets[name].task_grids
    for task in [spec.parse_spec(task_grid.task, 'task')]
    if not task.streams  # Streamed corpora may not be on the disk.
    for run_settings in [study.presets[name].settings | task_grid.settings]
    for distance in task_grid.distances
    for layer in study.presets[name].layers
  ]
  times = load_study('parallelism').presets[name]
  requested += [
    records.timing_record(seed, times.layers, times.lengths, lambda *_: 2.0, study=study)
    for study in ('parallelism', 'complexity') for seed in (0, 1)]
  requested += requested_program_records(name)
  verdicts = verdicts_by_name(evaluate_claims(requested, control_experiments=()))
  assert [claim for claim, verdict in verdicts.items() if verdict == 'not run'] == []
  controls = verdicts_by_name(rule.evaluate_control_experiments(requested))
  assert [control for control, verdict in controls.items() if verdict == 'not run'] == []


def requested_program_records(name):
  """Returns records with arbitrary values for the cells that a preset of these studies requests."""
  def evaluate_on_preset(study, function):
    module = importlib.import_module(REPORTED[study])
    return command.evaluate_on_preset(
      module, f'--preset={name}', function=lambda preset: function(study, preset))

  cells = evaluate_on_preset(
    'gradient_flow', gradient_flow.create_experiment_grid_cells_for_untrained_models)
  runs = [cell.run for cell in cells]
  requested = [
    study_records.gradient_record(run['layer'], (1.0, 1.1), block=run['block'], depth=run['depth'])
    for run in runs]
  experiments = evaluate_on_preset(
    'gradient_flow', lambda _, preset: gradient_flow.training_experiments(preset))
  requested += [
    study_records.trained_gradient_record(run.layer, (1.0, 1.1), block=run.block, clip=run.clip)
    for run in (experiment.run for experiment in experiments)]
  stacks = evaluate_on_preset(
    'receptive_field', receptive_field.create_experiment_grid_cells_for_untrained_models)
  requested += [
    study_records.field_stack_record(
      run['depth'], (1.0, 1.1), (1.0, 1.1), run['layer'], run['block'])
    for run in (cell.run for cell in stacks)]
  assert evaluate_on_preset(
    'receptive_field',
    lambda _, preset: receptive_field.experiments_near_receptive_field_boundary(preset))
  requested += [
    study_records.trained_field_record(distance, (0.5, 0.6), 3.0, 5.0)
    for distance in (FIELD, FIELD - 1)]
  requested += [
    study_records.compilation_record(layer, contradicted=False) for layer in ('lstm', 'gru')]
  counting_cells = evaluate_on_preset(
    'complexity', complexity.create_operation_count_grid_cells)
  return requested + [study_records.count_record(cell.run['layer']) for cell in counting_cells]


def test_the_command_saves_tables_of_claims_and_controls(supporting_records, tmp_path):
  broken = broken_controls.break_control(supporting_records, 'baseline-retention')
  records.store_records(tmp_path, broken)
  result = command.run_command(claims, f'--runs={tmp_path}')
  assert (result.code, result.err) == (0, '')
  table = (tmp_path / 'claims' / 'claims.csv').read_text()
  assert all(claim.statement in table for claim in CLAIMS)
  void_claims = sum(claim.study == 'retention' for claim in CLAIMS)
  assert table.count('control failed: baseline-retention') == void_claims
  controls = (tmp_path / 'claims' / 'controls.csv').read_text()
  assert all(control.statement in controls for control in CONTROLS)
