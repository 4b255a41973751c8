"""Verdicts at their limits, and what the ledger and the report say where something is wrong."""

import copy
import dataclasses
import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.claims import __main__ as claims
from experiments.claims import ledger, rule
from experiments.claims.rule import findings, judge
from experiments.claims.stated import CLAIMS, CONTROLS, LOADED
from experiments.lab.optional import MissingExtra
from experiments.lab.results import notes
from experiments.lab.results.store import Store
from experiments.report import __main__ as report
from experiments.report import sections
from experiments.report.page import SIGNS
from tests.experiments.claims import test_claims
from tests.support import command, records, world

quick = settings(deadline=None, max_examples=20)
relations = st.sampled_from(['>', '<'])
thresholds = st.floats(-10, 10)


def exact(samples, relation='>', threshold=0.5):
  claim = dataclasses.replace(test_claims.claim_of(samples, relation, threshold), exact=True)
  return judge(claim, []).verdict


def stored(folder, made):
  records.stored(folder, made)
  return folder


@pytest.fixture(scope='module')
def as_claimed():
  return world.world()


def of(made, *studies):
  """The records of some studies, which may be changed."""
  return [copy.deepcopy(record) for record in made if record['study'] in studies]


@quick
@given(thresholds, st.integers(2, 6), relations)
def test_ties_at_a_threshold_are_inconclusive(threshold, count, relation):
  assert test_claims.verdict([threshold] * count, relation, threshold) == 'inconclusive'
  assert exact([threshold] * count, relation, threshold) == 'inconclusive'


def test_an_interval_that_ends_at_the_threshold_is_inconclusive():
  finding = judge(test_claims.claim_of([0.0, 0.0, 0.0, 1.0], '>', 0.0), [])
  assert finding.interval.low == 0.0 and finding.verdict == 'inconclusive'


@quick
@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=5), thresholds)
def test_what_is_exact_needs_every_value_and_no_more_than_one(margins, threshold):
  above = [threshold + margin for margin in margins]
  assert exact(above, '>', threshold) == 'supported'
  assert exact(above[:1], '<', threshold) == 'contradicted'
  assert exact([*above, threshold - 0.1], '>', threshold) == 'contradicted'
  assert exact([*above, float('nan')], '>', threshold) == 'contradicted'


def single(made, *studies):
  """The records of studies whose cells trained one seed."""
  left = of(made, *studies)
  for record in left:
    record['run']['seeds'] = [0]
    del record['result']['members'][1:]
  return left


def test_one_seed_leaves_a_control_undecided_which_voids_nothing(as_claimed):
  once = single(as_claimed, 'pronouns')
  for record in once:  # a convolution that guesses right with its only seed proves nothing
    if record['run']['layer'] == 'convolution':
      record['result']['members'][0]['test'] = record['result']['perfect']
  control = next(c for c in rule.judged(once) if c.claim.name == 'blind-pronouns')
  assert control.verdict == 'inconclusive'
  found = [f for f in findings(once) if f.claim.study == 'pronouns']
  assert 'void' not in {f.verdict for f in found} and found
  assert all('control undecided: blind-pronouns' in f.reason for f in found)
  for table in (ledger.table([control]), ledger.table(found)):
    assert all('inconclusive: one seed; --seeds=3' in row[1] for row in table.rows)
  (note,) = ledger.advice([control], 'runs')
  assert note.command == 'python -m experiments.pronouns --seeds=3 --runs=runs'


def test_with_three_seeds_the_control_of_one_seed_is_settled(as_claimed):
  once = single(as_claimed, 'retention')
  found = {f.claim.name: f.verdict for f in findings([*once, *of(as_claimed, 'retention')])
           if f.claim.study == 'retention'}
  assert set(found.values()) == {'supported'}


@pytest.mark.parametrize('folder', ['runs/quick', 'my runs/$HOME', "it's"])
def test_a_void_claim_says_why_and_what_to_do_in_a_command(as_claimed, folder):
  made = test_claims.broken(of(as_claimed, 'parallelism'), 'repeat')
  (note,) = ledger.advice(rule.judged(made), folder)
  assert 'Control repeat failed' in note.text and 'times itself' in note.text
  assert '2 ± 0' in note.text and '< 1.25 is needed' in note.text
  assert shlex.split(note.command) == [
    'python', '-m', 'experiments.parallelism', '--retry', f'--runs={folder}']


def test_times_that_are_undecided_are_measured_again(as_claimed):
  made = of(as_claimed, 'parallelism')
  noisy = test_claims.broken(made[:1], 'repeat')
  (note,) = ledger.advice(rule.judged([*noisy, *made[1:]]), 'runs')
  assert 'Control repeat is undecided' in note.text and ' --retry ' in note.command


def test_every_control_that_fails_has_a_note_with_a_command(as_claimed):
  for control in CONTROLS:
    broken = rule.judged(test_claims.broken(of(as_claimed, control.study), control.name))
    note = next(n for n in ledger.advice(broken, 'runs') if f' {control.name} failed' in n.text)
    assert f'experiments.{control.study} ' in note.command


def raising(made):
  """A function of records that reads what is not there."""
  return made[0]['nothing\nhere']


def test_a_claim_that_raises_is_an_error_and_the_others_stay(as_claimed):
  broken = dataclasses.replace(CLAIMS[0], name='broken', effect=raising)
  found = findings(of(as_claimed, broken.study), claims=[broken, *CLAIMS[1:]])
  assert found[0].verdict == 'error' and 'KeyError' in found[0].reason
  assert 'test_verdicts.py, line' in found[0].reason and '\n' not in found[0].reason
  assert {f.verdict for f in found[1:] if f.claim.study == broken.study} == {'supported'}
  (note,) = ledger.errors([*found, found[0]], 'my runs')
  assert f'records of {broken.study}' in note.text and "--runs=my runs'" in note.command
  assert sections.verdicts(found)[0].verdict in SIGNS


def test_a_control_that_raises_is_undecided(as_claimed):
  control = dataclasses.replace(CONTROLS[0], effect=raising)
  found = [f for f in findings(of(as_claimed, control.study), controls=[control])
           if f.claim.study == control.study]
  assert {f.verdict for f in found} == {'supported'}
  assert all(f.undecided == (control.name,) for f in found)


def test_a_missing_library_is_no_fault_of_the_records():
  def missing():
    raise MissingExtra('install it')

  with pytest.raises(MissingExtra):
    notes.attempt(missing)
  with pytest.raises(KeyboardInterrupt):
    notes.attempt(lambda: (_ for _ in ()).throw(KeyboardInterrupt))


def test_a_study_that_raises_is_a_note_on_the_page_and_the_others_stay(
  as_claimed, tmp_path, monkeypatch,
):
  runs = stored(tmp_path / 'my runs', of(as_claimed, 'retention', 'state_tracking'))
  broken = dataclasses.replace(LOADED['retention'], report=raising)
  monkeypatch.setitem(LOADED, 'retention', broken)
  done = command.run(report, f'--runs={runs}')
  (line,) = done.err.splitlines()
  assert done.code == 0 and 'records of retention' in line and 'KeyError' in line
  page = (runs / 'report.html').read_text()
  assert page.count('The records of retention could not be read') == 2  # on top, and in its place
  assert 'State tracking: beyond the trained length' in page
  assert 'Retention: score against distance' not in page
  for study in ('retention', 'state_tracking', 'report'):
    assert f'python -m experiments.{study} &#39;--runs={runs}&#39;' in page


def test_a_claim_that_raises_is_one_line_of_the_command(as_claimed, tmp_path, monkeypatch):
  runs = stored(tmp_path, of(as_claimed, 'retention'))
  broken = [dataclasses.replace(claim, effect=raising) if claim.study == 'retention' else claim
            for claim in CLAIMS]
  monkeypatch.setattr(findings, '__defaults__', (tuple(broken), CONTROLS))
  done = command.run(claims, f'--runs={runs}')
  (line,) = done.err.splitlines()
  assert done.code == 0 and 'records of retention' in line
  own = sum(claim.study == 'retention' for claim in CLAIMS)
  assert (runs / 'claims' / 'claims.csv').read_text().count('error: KeyError') == own


def test_the_commands_say_what_to_do_about_a_control_that_failed(as_claimed, tmp_path):
  runs = stored(tmp_path / 'my runs', test_claims.broken(of(as_claimed, 'parallelism'), 'repeat'))
  advised = f"python -m experiments.parallelism --retry '--runs={runs}'"
  done = command.run(claims, f'--runs={runs}')
  assert (done.code, done.err) == (0, '') and advised in done.out
  assert command.run(report, f'--runs={runs}').code == 0
  page = (runs / 'report.html').read_text()
  assert advised.replace("'", '&#39;') in page and 'control failed: repeat' in page


@pytest.mark.parametrize('script', [claims, report])
@pytest.mark.parametrize('make', [None, 'folder', 'link'])
def test_a_folder_without_records_is_one_line_and_nothing_is_made(tmp_path, script, make):
  runs = tmp_path / 'a typo'
  if make == 'folder':
    runs.mkdir()
  if make == 'link':
    runs.symlink_to(tmp_path / 'gone')
  before = list(tmp_path.rglob('*'))
  done = command.run(script, f'--runs={runs}')
  assert (done.code, done.out) == (2, '')
  (line,) = done.err.splitlines()
  said = f'{runs} is a link to {tmp_path / "gone"}' if make == 'link' else f'no results in {runs}'
  assert said in line and f"'--runs={runs}'" in line
  assert list(tmp_path.rglob('*')) == before


def test_a_dangling_link_is_named_where_records_are_to_be_written(tmp_path):
  (tmp_path / 'runs').symlink_to(tmp_path / 'gone')
  with pytest.raises(ValueError, match=r'runs is a link to .*gone, which is not there') as caught:
    Store(tmp_path / 'runs').prepare()
  assert '\n' not in str(caught.value)


def test_a_study_without_a_table_has_a_page_all_the_same(tmp_path):
  failed = records.trained('lstm', 'adding', 9, (0.1, 0.2), study='gradient_flow') | {
    'status': 'out of memory', 'reason': '80 GB', 'result': {}}
  done = command.run(report, f'--runs={stored(tmp_path, [failed])}')
  assert (done.code, done.err) == (0, '')


def test_a_ledger_that_cannot_be_written_is_printed_and_said_in_one_line(as_claimed, tmp_path):
  stored(tmp_path, as_claimed[:1])
  (tmp_path / 'claims').write_text('a file')
  done = command.run(claims, f'--runs={tmp_path}')
  assert done.code == 2 and done.out.count('not run') > len(CLAIMS) / 2
  (line,) = done.err.splitlines()
  assert line == f'cannot use {tmp_path}/claims: it is no folder, and a folder is needed there'
