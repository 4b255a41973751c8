"""The ledger: verdicts follow the records, and a broken control makes its study void."""

import copy
import dataclasses
import importlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import LAYERS, TRANSLATORS
from experiments import STUDIES as REPORTED
from experiments import load
from experiments.bottleneck.claims import CONTROL
from experiments.claims import __main__ as claims
from experiments.claims import ledger, rule
from experiments.claims.rule import findings, judge
from experiments.claims.stated import CLAIMS, CONTROLS
from experiments.complexity import cells as complexity
from experiments.complexity.table_1 import COUNTED
from experiments.gradient_flow import cells as gradient_flow
from experiments.lab.cells import spec
from experiments.lab.cells.timing import Point
from experiments.lab.evidence import effects
from experiments.lab.evidence.claim import Claim
from experiments.lab.tasks import TASKS
from experiments.lab.tasks.copy_memory import CopyMemory
from experiments.receptive_field import cells as receptive_field
from tests.support import command, records, world

FIELD = world.FIELD
quick = settings(deadline=None, max_examples=30)
margins = st.lists(st.floats(0.01, 1), min_size=2, max_size=8)
STUDIES = {claim.study for claim in CLAIMS}


def claim_of(samples, relation='>', threshold=0.5):
  return Claim('n', 'Statement', 'Source', 'study', lambda _: samples, 'unit', relation, threshold)


def verdict(samples, *rule):
  return judge(claim_of(samples, *rule), []).verdict


def verdicts(found):
  return {finding.claim.name: finding.verdict for finding in found}


@pytest.fixture(scope='module')
def as_claimed():
  return world.world()


@pytest.fixture(scope='module')
def opposite():
  return world.world(opposite=True)


@quick
@given(margins, st.floats(-10, 10), st.sampled_from(['>', '<']))
def test_what_lies_on_one_side_is_decided_and_flips_with_its_side(margins, threshold, relation):
  above = [threshold + margin for margin in margins]
  below = [threshold - margin for margin in margins]
  found = {verdict(above, relation, threshold), verdict(below, relation, threshold)}
  assert found == {'supported', 'contradicted'}
  assert verdict(above, '>', threshold) == verdict(below, '<', threshold) == 'supported'


@quick
@given(st.floats(0.01, 1), st.integers(1, 4), st.sampled_from(['>', '<']))
def test_what_straddles_the_threshold_is_inconclusive(margin, times, relation):
  assert verdict([0.5 - margin, 0.5 + margin] * times, relation) == 'inconclusive'


@quick
@given(st.floats(-10, 10), st.sampled_from(['>', '<']))
def test_one_value_alone_decides_nothing(value, relation):
  assert verdict([value], relation) == 'inconclusive'


@pytest.mark.parametrize('nothing', [None, []])
def test_no_value_is_not_run(nothing):
  finding = judge(claim_of(nothing), [])
  assert (finding.verdict, finding.samples, finding.interval) == ('not run', (), None)


def test_a_study_is_judged_by_its_own_records_only():
  seen = []
  claim = dataclasses.replace(claim_of([]), effect=seen.extend)
  judge(claim, [{'study': 'study', 'n': 1}, {'study': 'other', 'n': 2}])
  assert [record['n'] for record in seen] == [1]


def test_every_claim_is_supported_in_the_world_that_it_claims(as_claimed):
  found = findings(as_claimed)
  assert verdicts(found) == {claim.name: 'supported' for claim in CLAIMS}
  assert {finding.seeds for finding in found} == {records.SEEDS}
  assert {judge(control, as_claimed).verdict for control in CONTROLS} == {'supported'}


def test_every_claim_is_contradicted_in_the_opposite_world(opposite):
  found = findings(opposite, controls=())
  assert verdicts(found) == {claim.name: 'contradicted' for claim in CLAIMS}


def test_nothing_is_run_in_an_empty_store():
  assert set(verdicts(findings([])).values()) == {'not run'}


def without(world, layer):
  """The records of a world in which a layer was never asked for."""
  own = layer, COUNTED.get(layer, layer)
  left = [copy.deepcopy(record) for record in world if record['run'].get('layer') not in own]
  for record in left:
    if layer in record['run'].get('layers', ()):
      record['run']['layers'].remove(layer)
      points = record['result']['points']
      record['result']['points'] = [point for point in points if point['layer'] != layer]
  return left


NEEDS = {  # layer -> what the names of the claims about it start with
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


@pytest.mark.parametrize('layer', NEEDS)
def test_without_a_layer_exactly_the_claims_about_it_are_not_run(as_claimed, layer):
  for name, found in verdicts(findings(without(as_claimed, layer))).items():
    assert found == ('not run' if name.startswith(NEEDS[layer]) else 'supported'), name


@pytest.mark.parametrize('family', ['recall', 'copy_memory'])
def test_at_one_distance_nothing_is_known_of_growing_ones(as_claimed, family):
  far = records.FAR if family == 'recall' else records.BEYOND
  left = [record for record in as_claimed if record['study'] == 'retention'
          and (record['result']['family'], record['result']['distance']) != (family, far)]
  found = verdicts(findings(left))
  copied = '-copy' if family == 'copy_memory' else ''
  assert found[f'recurrent-forget{copied}'] == found[f'attention-remembers{copied}'] == 'not run'


@pytest.mark.parametrize('status', ['diverged', 'timeout', 'out of memory'])
def test_what_did_not_finish_is_no_evidence(as_claimed, status):
  unfinished = [record | {'status': status} for record in as_claimed
                if record['study'] == 'retention']
  assert set(verdicts(findings(unfinished)).values()) == {'not run'}


def test_one_seed_is_inconclusive(as_claimed):
  single = [record for record in copy.deepcopy(as_claimed) if record['study'] == 'retention']
  for record in single:
    record['run']['seeds'] = [0]
    del record['result']['members'][1:]
  found = {f.claim.name: f for f in findings(single, controls=())}
  for name in ('attention-remembers', 'attention-remembers-copy', 'convolution-sees'):
    assert (found[name].verdict, found[name].seeds) == ('inconclusive', 1)


BLIND = {  # control -> the layer and the task that it looks at
  'blind': ('tcn', 'copy_memory'),
  'blind-ladder': ('convolution', 'copy_memory'),
  'blind-tracking': ('convolution', 'parity'),
  'blind-bottleneck': (CONTROL, 'copy'),
  'blind-pronouns': ('convolution', 'pronouns'),
}


def broken(world, control):
  """The world in which a control does not hold."""
  world = copy.deepcopy(world)
  for place, record in enumerate(world):
    result = record['result']
    answer, _, study = control.partition('-')
    asked = record['run'].get('layer'), result.get('family')
    if answer in ('oracle', 'guess') and record['study'] == study and 'controls' in result:
      result['controls'][answer] = 0.5
    elif control == 'blind-gradient' and record['run'].get('layer') == 'convolution':
      if 'at' in record['run']:
        result['norms'] = [[1.0] * len(row) for row in result['norms']]
    elif control == 'declared-field' and 'declared' in result:
      result['shown'] = [shown + 1 for shown in result['shown']]
    elif control == 'blind-field' and record['study'] == 'receptive_field':
      if result.get('distance') == FIELD:
        for member in result['members']:
          member['test'] = result['perfect']
    elif control == 'independent-members' and record['study'] == 'compile_tpu':
      result['programs'][0]['collectives'] = {'all-reduce': [2, 8]}
    elif control == 'hand-count' and 'counts' in result:
      for point in result['counts']:
        point['products'] += 1
    elif asked == BLIND.get(control) and result['distance'] >= (result['receptive_field'] or 0):
      for member in result['members']:
        member['test'] = result['chance'] + 0.9 * (result['perfect'] - result['chance'])
        member['extrapolation'] = [member['test']] * max(1, len(result['extrapolation']))
    elif answer == 'repeat' and record['study'] == (study or 'parallelism'):
      for point in result.get('points', ()):
        if point['quantity'] == 'repeat':  # as often faster as slower: no mean of ratios sees it
          point['seconds'] = [s * (2 if place % 2 else 0.5) for s in point['seconds']]
  return world


@pytest.mark.parametrize('control', CONTROLS, ids=lambda control: control.name)
def test_a_broken_control_makes_its_study_void_and_no_other(as_claimed, control):
  found = findings(broken(as_claimed, control.name))
  assert {one.study for one in CONTROLS} == STUDIES
  for finding in found:
    own = finding.claim.study == control.study
    assert finding.verdict == ('void' if own else 'supported')
    assert finding.failed == ((control.name,) if own else ())
    assert (f'control failed: {control.name}' in finding.reason) == own
    assert finding.samples


def test_one_broken_cell_is_enough_for_what_is_computed_exactly(as_claimed):
  once = [*as_claimed[1:], broken(as_claimed[:1], 'oracle-retention')[0]]
  found = {f.verdict for f in findings(once) if f.claim.study == 'retention'}
  assert found == {'void'}
  control = next(c for c in rule.judged(once) if c.claim.name == 'oracle-retention')
  (note,) = ledger.advice([control], 'runs')
  assert 'came to 0.5 ' in note.text and '> 0.999 is needed' in note.text


def test_one_broken_cell_leaves_an_estimate_undecided_which_voids_nothing(as_claimed):
  once = [*as_claimed[1:], broken(as_claimed[:1], 'guess-retention')[0]]
  found = [f for f in findings(once) if f.claim.study == 'retention']
  assert {f.verdict for f in found} == {'supported'}
  assert {f.reason for f in found} == {'control undecided: guess-retention'}


def test_what_is_not_run_is_not_void(as_claimed):
  found = verdicts(findings(broken(without(as_claimed, 'attention'), 'oracle-retention')))
  assert found['attention-remembers'] == 'not run' and found['recurrent-forget'] == 'void'


def slower(world, **settings):
  """The same world of times, on another grid."""
  return [record | {'run': record['run'] | settings}
          for record in world if record['study'] == 'parallelism']


def test_runs_of_other_settings_do_not_mix(as_claimed, opposite):
  few = [record for record in copy.deepcopy(opposite) if record['study'] == 'retention']
  for record in few:
    record['run']['steps'] = 7
  few = [record for record in few if record['run']['layer'] != 'tcn']
  times = slower(opposite, device='another device')[1:]
  for order in (1, -1):
    found = findings([*as_claimed, *few, *times][::order])
    assert set(verdicts(found).values()) == {'supported'}


def test_two_variants_of_a_task_do_not_mix(as_claimed):
  task = CopyMemory(variant='bai')
  bai = [records.trained('attention', 'copy_memory', distance, scores, task=task)
         for distance, scores in ((12, records.REMEMBERS), (200, records.FORGETS))]
  assert set(verdicts(findings(as_claimed + bai)).values()) == {'supported'}


def test_of_equal_comparisons_the_longer_trained_counts(as_claimed, opposite):
  longer = [copy.deepcopy(record) for record in opposite if record['study'] == 'retention']
  for record in longer:
    record['run']['steps'] = 2000
  for mixed in (as_claimed + longer, longer + as_claimed):
    found = findings(mixed, controls=())
    assert {f.verdict for f in found if f.claim.study == 'retention'} == {'contradicted'}


def test_a_broken_control_cannot_hide_behind_another_grid(as_claimed):
  other = [records.timed(0, ('elman',), (8, 16), lambda *_: 1.0, device='another device')]
  found = findings(broken(as_claimed, 'repeat') + other)
  assert {f.verdict for f in found if f.claim.study == 'parallelism'} == {'void'}


def test_a_comparison_is_one_set_of_settings_ordered_by_distance(as_claimed):
  own = [record for record in as_claimed if record['study'] == 'retention']
  for family in ('recall', 'copy_memory'):
    compared = effects.comparison(own[::-1], family)
    assert set(compared) == {'attention', 'lstm', 'gru', 'tcn'}
    for layer, group in compared.items():
      distances = [record['result']['distance'] for record in group]
      assert distances == sorted(set(distances)) and len(distances) == 2
      assert {record['run']['layer'] for record in group} == {layer}


def test_what_has_no_receptive_field_is_neither_inside_nor_beyond_it():
  record = records.trained('attention', 'recall', records.NEAR, records.REMEMBERS)
  for beyond in (False, True):
    assert effects.across_field('recall', 'attention', beyond)([record]) is None


@pytest.mark.parametrize('study', sorted(STUDIES))
def test_every_study_with_a_claim_exists_and_is_reported(study):
  assert study in REPORTED and load(study).name == study
  assert {one.study for one in (*load(study).claims, *load(study).controls)} == {study}


def test_names_and_statements_are_unique():
  for field in ('name', 'statement'):
    values = [getattr(claim, field) for claim in (*CLAIMS, *CONTROLS)]
    assert len(set(values)) == len(values)


def test_layers_and_tasks_that_records_are_made_of_are_in_the_catalogues(as_claimed):
  for record in as_claimed:
    layers = record['run'].get('layers', [record['run'].get('layer')])
    assert {layer.partition('(')[0] for layer in layers} <= {*LAYERS, *TRANSLATORS}
    assert record['result'].get('family', 'recall') in TASKS
  points = [point for record in as_claimed for point in record['result'].get('points', ())]
  assert {frozenset(point) for point in points} == {
    frozenset(field.name for field in dataclasses.fields(Point))}


@pytest.mark.parametrize('name', ['quick', pytest.param('paper', marks=pytest.mark.slow)])
def test_a_preset_asks_for_all_that_every_claim_needs(name):
  made = [
    records.trained(
      layer, task.family, distance, (0.5, 0.6), task=task, study=study.name,
      extrapolation=dict.fromkeys(chosen.get('test_lengths', ()), (0.5, 0.6)),
      **{k: v for k, v in chosen.items() if k not in ('seeds', 'learning_rates')},
    )
    for study in map(load, (
      'retention', 'ladder', 'state_tracking', 'bottleneck', 'translation', 'pronouns'))
    for question in study.presets[name].task_grids
    for task in [spec.parse(question.task, 'task')]
    if not task.streams  # that is on a disk, or not
    for chosen in [study.presets[name].settings | question.settings]
    for distance in question.distances
    for layer in study.presets[name].layers
  ]
  times = load('parallelism').presets[name]
  made += [records.timed(seed, times.layers, times.lengths, lambda *_: 2.0, study=study)
           for study in ('parallelism', 'complexity') for seed in (0, 1)]
  made += programs(name)
  found = verdicts(findings(made, controls=()))
  assert [claim for claim, found in found.items() if found == 'not run'] == []
  assert [c.name for c in CONTROLS if judge(c, made).verdict == 'not run'] == []


def programs(name):
  """What a preset asks of the studies that look into programs, answered by chance."""
  def asked(study, of):
    module = importlib.import_module(REPORTED[study])
    return command.asked(module, f'--preset={name}', of=lambda preset: of(study, preset))

  starts = [cell.run for cell in asked('gradient_flow', gradient_flow.starts)]
  made = [world.flowing(r['layer'], (1.0, 1.1), block=r['block'], depth=r['depth']) for r in starts]
  flows = [one.run for one in asked('gradient_flow', lambda _, preset: gradient_flow.grid(preset))]
  made += [world.flowing_trained(run.layer, (1.0, 1.1), block=run.block, clip=run.clip)
           for run in flows]
  stacks = [cell.run for cell in asked('receptive_field', receptive_field.stacks)]
  made += [world.field_stack(r['depth'], (1.0, 1.1), (1.0, 1.1), r['layer'], r['block'])
           for r in stacks]
  assert asked('receptive_field', lambda _, preset: receptive_field.grid(preset))
  made += [world.watched_field(world.FIELD - inside, (0.5, 0.6), 3.0, 5.0) for inside in (0, 1)]
  made += [world.compiled(layer, opposite=False) for layer in ('lstm', 'gru')]
  counted = asked('complexity', complexity.counting_cells)
  return made + [world.counted(cell.run['layer']) for cell in counted]


def test_the_ledger_is_printed_with_its_controls(as_claimed, tmp_path):
  records.stored(tmp_path, broken(as_claimed, 'guess-retention'))
  done = command.run(claims, f'--runs={tmp_path}')
  assert (done.code, done.err) == (0, '')
  page = (tmp_path / 'claims' / 'claims.csv').read_text()
  assert all(claim.statement in page for claim in CLAIMS)
  own = sum(claim.study == 'retention' for claim in CLAIMS)
  assert page.count('control failed: guess-retention') == own
  controls = (tmp_path / 'claims' / 'controls.csv').read_text()
  assert all(control.statement in controls for control in CONTROLS)
