"""Verdicts at the threshold, and the output of the commands for faulty records."""

import copy
import dataclasses
import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.claims import __main__ as claims
from experiments.claims import rule, verdict_table
from experiments.claims.registry import CLAIMS, CONTROLS, LOADED_STUDIES
from experiments.claims.rule import evaluate_claim, evaluate_claims
from experiments.lab.optional import MissingExtra
from experiments.lab.results import notes
from experiments.lab.results.store import Store
from experiments.report import __main__ as report
from experiments.report import sections
from experiments.report.page import SIGNS
from tests.experiments.claims import test_claims
from tests.support import broken_controls, command, records, study_records

quick = settings(deadline=None, max_examples=20)
relations = st.sampled_from(['>', '<'])
thresholds = st.floats(-10, 10)


def exact_verdict_on_samples(samples, relation='>', threshold=0.5):
  claim = test_claims.claim_with_samples(samples, relation, threshold)
  return evaluate_claim(dataclasses.replace(claim, exact=True), []).verdict


def store_in_folder(folder, new_records):
  records.store_records(folder, new_records)
  return folder


@pytest.fixture(scope='module')
def supporting_records():
  return study_records.records_of_all_studies()


def copy_records_of(all_records, *studies):
  """Returns copies of the records of some studies."""
  return [copy.deepcopy(record) for record in all_records if record['study'] in studies]


@quick
@given(thresholds, st.integers(2, 6), relations)
def test_values_equal_to_the_threshold_are_inconclusive(threshold, count, relation):
  assert test_claims.verdict_on_samples([threshold] * count, relation, threshold) == 'inconclusive'
  assert exact_verdict_on_samples([threshold] * count, relation, threshold) == 'inconclusive'


def test_an_interval_that_ends_at_the_threshold_is_inconclusive():
  finding = evaluate_claim(test_claims.claim_with_samples([0.0, 0.0, 0.0, 1.0], '>', 0.0), [])
  assert finding.confidence_interval.low == 0.0 and finding.verdict == 'inconclusive'


@quick
@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=5), thresholds)
def test_an_exact_claim_is_decided_by_every_value(margins, threshold):
  above = [threshold + margin for margin in margins]
  assert exact_verdict_on_samples(above, '>', threshold) == 'supported'
  assert exact_verdict_on_samples(above[:1], '<', threshold) == 'contradicted'
  assert exact_verdict_on_samples([*above, threshold - 0.1], '>', threshold) == 'contradicted'
  assert exact_verdict_on_samples([*above, float('nan')], '>', threshold) == 'contradicted'


def single_seed_records(all_records, *studies):
  """Returns copies of the records of some studies with a single seed."""
  single_seed = copy_records_of(all_records, *studies)
  for record in single_seed:
    record['run']['seeds'] = [0]
    del record['result']['members'][1:]
  return single_seed


def test_a_control_with_one_seed_is_undecided_and_voids_no_claim(supporting_records):
  single_seed = single_seed_records(supporting_records, 'pronouns')
  # A convolution with a perfect score at its only seed is not sufficient evidence.
  for record in single_seed:
    if record['run']['layer'] == 'convolution':
      record['result']['members'][0]['test'] = record['result']['perfect']
  controls = rule.evaluate_control_experiments(single_seed)
  control = next(c for c in controls if c.claim.name == 'blind-pronouns')
  assert control.verdict == 'inconclusive'
  findings = [f for f in evaluate_claims(single_seed) if f.claim.study == 'pronouns']
  assert 'void' not in {finding.verdict for finding in findings} and findings
  assert all(
    'control undecided: blind-pronouns' in finding.verdict_explanation for finding in findings)
  table = verdict_table.make_verdict_table('Claims', [control, *findings])
  assert all('inconclusive: only one seed; use --seeds=3' in row[1] for row in table.rows)
  (note,) = verdict_table.notes_on_failed_or_undecided_controls([control], 'runs')
  assert note.command == 'python -m experiments.pronouns --seeds=3 --runs=runs'


def test_three_more_seeds_decide_a_control(supporting_records):
  single_seed = single_seed_records(supporting_records, 'retention')
  findings = evaluate_claims([*single_seed, *copy_records_of(supporting_records, 'retention')])
  assert {f.verdict for f in findings if f.claim.study == 'retention'} == {'supported'}


@pytest.mark.parametrize('folder', ['runs/quick', 'my runs/$HOME', "it's"])
def test_the_note_on_a_failed_control_has_its_effect_and_a_command(supporting_records, folder):
  broken = broken_controls.break_control(
    copy_records_of(supporting_records, 'parallelism'), 'repeat')
  (note,) = verdict_table.notes_on_failed_or_undecided_controls(
    rule.evaluate_control_experiments(broken), folder)
  statement = next(control.statement for control in CONTROLS if control.name == 'repeat')
  assert 'Control repeat failed' in note.text and statement in note.text
  assert '2 ± 0' in note.text and '< 1.25 is required' in note.text
  assert shlex.split(note.command) == [
    'python', '-m', 'experiments.parallelism', '--retry', f'--runs={folder}']


def test_the_note_on_undecided_times_repeats_the_measurement(supporting_records):
  timing = copy_records_of(supporting_records, 'parallelism')
  noisy = broken_controls.break_control(timing[:1], 'repeat')
  findings = rule.evaluate_control_experiments([*noisy, *timing[1:]])
  (note,) = verdict_table.notes_on_failed_or_undecided_controls(findings, 'runs')
  assert 'Control repeat is undecided' in note.text and ' --retry ' in note.command


def test_every_failed_control_has_a_note_with_a_command(supporting_records):
  for control in CONTROLS:
    records_of_study = copy_records_of(supporting_records, control.study)
    broken = broken_controls.break_control(records_of_study, control.name)
    control_notes = verdict_table.notes_on_failed_or_undecided_controls(
      rule.evaluate_control_experiments(broken), 'runs')
    note = next(note for note in control_notes if f' {control.name} failed' in note.text)
    assert f'experiments.{control.study} ' in note.command


def raise_key_error(all_records):
  """Raises a KeyError, as an effect that uses a missing field of a record."""
  return all_records[0]['nothing\nhere']


def test_an_exception_in_a_claim_affects_no_other_claim(supporting_records):
  broken = dataclasses.replace(CLAIMS[0], name='broken', effect=raise_key_error)
  findings = evaluate_claims(
    copy_records_of(supporting_records, broken.study), claims=[broken, *CLAIMS[1:]])
  explanation = findings[0].verdict_explanation
  assert findings[0].verdict == 'error' and 'KeyError' in explanation
  assert 'test_verdicts.py, line' in explanation and '\n' not in explanation
  assert {f.verdict for f in findings[1:] if f.claim.study == broken.study} == {'supported'}
  (note,) = verdict_table.notes_on_failed_claim_evaluations([*findings, findings[0]], 'my runs')
  assert f'records of {broken.study}' in note.text and "--runs=my runs'" in note.command
  assert sections.verdict_rows(findings)[0].verdict in SIGNS


def test_a_control_with_an_exception_is_undecided(supporting_records):
  control = dataclasses.replace(CONTROLS[0], effect=raise_key_error)
  records_of_study = copy_records_of(supporting_records, control.study)
  findings = [f for f in evaluate_claims(records_of_study, control_experiments=[control])
              if f.claim.study == control.study]
  assert {finding.verdict for finding in findings} == {'supported'}
  assert all(finding.undecided_controls == (control.name,) for finding in findings)


def test_a_missing_library_is_not_caught():
  def raise_missing_extra():
    raise MissingExtra('install it')

  with pytest.raises(MissingExtra):
    notes.call_or_describe_failure(raise_missing_extra)
  with pytest.raises(KeyboardInterrupt):
    notes.call_or_describe_failure(lambda: (_ for _ in ()).throw(KeyboardInterrupt))


def test_an_exception_in_a_study_is_a_note_on_the_page(
  supporting_records, tmp_path, monkeypatch,
):
  runs = store_in_folder(
    tmp_path / 'my runs', copy_records_of(supporting_records, 'retention', 'state_tracking'))
  broken = dataclasses.replace(LOADED_STUDIES['retention'], report=raise_key_error)
  monkeypatch.setitem(LOADED_STUDIES, 'retention', broken)
  result = command.run_command(report, f'--runs={runs}')
  (line,) = result.err.splitlines()
  assert result.code == 0 and 'records of retention' in line and 'KeyError' in line
  page = (runs / 'report.html').read_text()
  # The note is at the top of the page and in the section of the study.
  assert page.count('The records of retention could not be evaluated') == 2
  assert 'State tracking: scores beyond the trained length' in page
  assert 'Retention: score against distance' not in page
  for study in ('retention', 'state_tracking', 'report'):
    assert f'python -m experiments.{study} &#39;--runs={runs}&#39;' in page


def test_an_exception_in_a_claim_is_one_line_of_output(supporting_records, tmp_path, monkeypatch):
  runs = store_in_folder(tmp_path, copy_records_of(supporting_records, 'retention'))
  broken = [
    dataclasses.replace(claim, effect=raise_key_error) if claim.study == 'retention' else claim
    for claim in CLAIMS
  ]
  monkeypatch.setattr(evaluate_claims, '__defaults__', (tuple(broken), CONTROLS))
  result = command.run_command(claims, f'--runs={runs}')
  (line,) = result.err.splitlines()
  assert result.code == 0 and 'records of retention' in line
  count = sum(claim.study == 'retention' for claim in CLAIMS)
  assert (runs / 'claims' / 'claims.csv').read_text().count('error: KeyError') == count


def test_the_commands_print_advice_about_failed_controls(supporting_records, tmp_path):
  broken = broken_controls.break_control(
    copy_records_of(supporting_records, 'parallelism'), 'repeat')
  runs = store_in_folder(tmp_path / 'my runs', broken)
  advice = f"python -m experiments.parallelism --retry '--runs={runs}'"
  result = command.run_command(claims, f'--runs={runs}')
  assert (result.code, result.err) == (0, '') and advice in result.out
  assert command.run_command(report, f'--runs={runs}').code == 0
  page = (runs / 'report.html').read_text()
  assert advice.replace("'", '&#39;') in page and 'control failed: repeat' in page


@pytest.mark.parametrize('script', [claims, report])
@pytest.mark.parametrize('kind', ['missing', 'folder', 'broken link'])
def test_a_folder_without_records_is_a_one_line_error(tmp_path, script, kind):
  runs = tmp_path / 'a typo'
  if kind == 'folder':
    runs.mkdir()
  if kind == 'broken link':
    runs.symlink_to(tmp_path / 'gone')
  before = list(tmp_path.rglob('*'))
  result = command.run_command(script, f'--runs={runs}')
  assert (result.code, result.out) == (2, '')
  (line,) = result.err.splitlines()
  reason = f'no results in {runs}'
  if kind == 'broken link':
    reason = f'{runs} is a link to {tmp_path / "gone"}'
  assert reason in line and f"'--runs={runs}'" in line
  assert list(tmp_path.rglob('*')) == before


def test_the_error_about_a_broken_link_has_its_target(tmp_path):
  (tmp_path / 'runs').symlink_to(tmp_path / 'gone')
  with pytest.raises(ValueError, match=r'runs is a link to .*gone, which does not exist') as caught:
    Store(tmp_path / 'runs').create_writable_folders()
  assert '\n' not in str(caught.value)


def test_a_study_without_results_has_a_page(tmp_path):
  failed = records.training_record('lstm', 'adding', 9, (0.1, 0.2), study='gradient_flow') | {
    'status': 'out of memory', 'reason': '80 GB', 'result': {}}
  result = command.run_command(report, f'--runs={store_in_folder(tmp_path, [failed])}')
  assert (result.code, result.err) == (0, '')


def test_an_unwritable_table_is_printed_with_a_one_line_error(supporting_records, tmp_path):
  store_in_folder(tmp_path, supporting_records[:1])
  (tmp_path / 'claims').write_text('a file')
  result = command.run_command(claims, f'--runs={tmp_path}')
  assert result.code == 2 and result.out.count('not run') > len(CLAIMS) / 2
  (line,) = result.err.splitlines()
  assert line == f'cannot use {tmp_path}/claims: it is not a folder, and a folder is needed there'
