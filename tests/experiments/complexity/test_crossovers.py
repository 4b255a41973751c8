"""Who is ahead from where: found again in power laws, and never claimed where it is not known."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from experiments.complexity import crossovers
from experiments.lab.results import figures, times
from experiments.lab.results.statistics import Interval
from tests.experiments.complexity.power_laws import LENGTHS, record

FLAT = (1.0, 0.0)


def overtaken(at, power=1.0):
  """The law of a layer that a flat one overtakes at a length."""
  return at**-power, power


def between(*records, measure=times.STEP):
  """The crossovers of the first two layers."""
  return [
    one for one in crossovers.crossovers(records, measure)
    if [one.first, one.second] == records[0]['run']['layers'][:2]
  ]


def shaped(ratios, noise=0.0, rounds=9, lengths=(1, 2, 4, 8)):
  """A repetition in which a layer takes `ratios` times as long as another."""
  made = record({'first': FLAT, 'second': FLAT}, lengths=lengths, rounds=rounds, noise=noise)
  for point in made['result']['points']:
    if point['layer'] == 'first':
      factor = ratios[lengths.index(point['length'])]
      point['seconds'] = [factor * seconds for seconds in point['seconds']]
      point['bytes'] = round(factor * point['bytes'])
  return made


@settings(max_examples=20, deadline=None)
@given(at=st.floats(70, 1000), powers=st.lists(st.floats(0, 2), min_size=2, max_size=2))
def test_power_laws_cross_where_they_are_equal(at, powers):
  assume(abs(powers[0] - powers[1]) > 0.1)
  laws = {'first': overtaken(at, powers[0]), 'second': overtaken(at, powers[1])}
  steep, mild = ('first', 'second') if powers[0] > powers[1] else ('second', 'first')
  for measure in crossovers.PHRASES:
    found, = between(record(laws), measure=measure)
    assert found.length.mean == pytest.approx(at, rel=1e-4)  # whole bytes
    assert (found.ahead_below, found.ahead_above, found.absent) == (steep, mild, 0)
    assert found.length.known == (not measure.exact) and found.sure


def test_what_a_round_does_to_all_alike_widens_nothing():
  found, = between(record({'first': overtaken(200), 'second': FLAT}, weather=1.0))
  assert found.length[:3] == pytest.approx((200,) * 3)


def test_intervals_cover_the_crossing_as_often_as_they_say():
  laws, covered = {'first': overtaken(200, 0.5), 'second': FLAT}, []
  for seed in range(60):
    found, = between(record(laws, seed, rounds=15, noise=0.1))
    covered.append(found.length.low <= 200 <= found.length.high)
  assert 0.85 <= np.mean(covered) < 1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), noise=st.sampled_from([0.0, 0.1, 0.5]))
def test_a_swapped_pair_swaps_roles_and_nothing_else(seed, noise):
  made = record({'a': overtaken(300, 0.3), 'b': FLAT}, seed, noise=noise)
  swapped = made | {'run': made['run'] | {'layers': ['b', 'a']}}
  for measure in crossovers.PHRASES:
    one, other = (between(which, measure=measure) for which in (made, swapped))
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
      for name in ('length', 'absent', 'lengths', 'apart', 'ahead_below', 'ahead_above'):
        assert getattr(left, name) == pytest.approx(getattr(right, name), nan_ok=True)
      if left.ahead_above:
        assert left.lead == pytest.approx(right.lead, nan_ok=True)
    assert crossovers.clause(one) == crossovers.clause(other)


def test_the_rest_of_the_grid_does_not_matter():
  laws = {'a': overtaken(300), 'b': FLAT, 'c': (0.5, 0.2)}
  made = record(laws, noise=0.1)
  few = made | {'run': made['run'] | {'layers': ['a', 'b']}, 'result': {'points': [
    point for point in made['result']['points'] if point['layer'] != 'c'
  ]}}
  assert between(made) == between(few)


@pytest.mark.parametrize('ratios, places', [
  ((0.5, 2, 2, 2), [math.sqrt(2)]),
  ((0.5, 0.5, 2, 0.5), [math.sqrt(8), math.sqrt(32)]),
  ((2, 0.5, 2, 0.5), [math.sqrt(2), math.sqrt(8), math.sqrt(32)]),
  ((0.5, 1, 1, 2), [4]),  # equal until the other is ahead
  ((0.5, 1, 0.5, 0.9), []),
  ((1, 1, 2, 1), []),
])
def test_every_crossing_is_named_and_a_tie_is_none(ratios, places):
  for measure in (times.STEP, times.MEMORY):
    found = between(shaped(ratios), measure=measure)
    lengths = [one.length.mean for one in found if one.length]
    assert lengths == pytest.approx(places)
    assert all(a.ahead_above == b.ahead_below != a.ahead_below
               for a, b in itertools.pairwise(found))
    said = crossovers.clause(found)
    assert said.count('up to') == len(places) and ('beyond' in said) == bool(places)
    assert found[-1].ahead_above == ('first' if ratios[-1] < 1 else 'second')


def test_never_in_range_says_who_and_by_how_much_at_least():
  found, = between(shaped((3, 2, 1.5, 4), noise=0.01))
  assert (found.length, found.ahead_below, found.ahead_above) == (None, 'second', 'second')
  assert found.apart == found.lengths == (1, 2, 4, 8) and found.absent == 1
  assert found.lead.low < found.lead.mean < found.lead.high < 2
  assert found.lead.mean == pytest.approx(1.5, rel=0.02)
  assert crossovers.clause([found]).startswith('second is ahead from 1 to 8 tokens, by a factor of')


def test_what_noise_hides_is_not_told_apart():
  alike, = between(shaped((1, 1, 1, 1), noise=0.3))[:1]
  assert alike.apart == () and not alike.sure
  assert crossovers.clause([alike]) == 'they are not told apart'
  partly = between(shaped((1.001, 2, 2, 2), noise=0.1))
  assert partly[-1].apart == (2, 4, 8)
  doubtful = dataclasses.replace(partly[-1], length=None, ahead_above='second')
  assert crossovers.clause([doubtful]).endswith('but not told apart at 1')


def test_a_crossing_that_resamples_miss_says_so():
  found = between(shaped((0.99, 1.01, 1.02, 2), noise=0.05))
  assert found[-1].length and 0.05 < found[-1].absent < 1 and not found[-1].sure
  assert '% of resamples' in crossovers.clause(found)


def test_a_crossing_is_looked_for_in_its_own_direction():
  up, down, again = between(shaped((0.5, 1.01, 0.99, 2), noise=0.05))
  assert up.absent == again.absent == 0  # from 0.5 to 2, one way or another
  assert 0.05 < down.absent < 1


def test_one_round_has_no_interval_and_tells_nothing_apart_but_bytes():
  made = shaped((0.5, 2, 2, 2), rounds=1)
  step, = between(made)
  assert step.length.count == 1 and not step.length.known and step.apart == ()
  memory, = between(made, measure=times.MEMORY)
  assert memory.apart == (1, 2, 4, 8)
  assert crossovers.clause([memory]) == 'first is ahead up to 1 tokens, second beyond'


def test_equal_bytes_are_equal():
  found, = between(shaped((1, 1, 1, 1)), measure=times.MEMORY)
  assert found.ahead_above is None and crossovers.clause([found]) == 'they are equal'


def test_only_lengths_that_both_have_memory_for_are_compared():
  laws = {'first': overtaken(300), 'second': FLAT}
  short = record(laws, missing=[('first', 1024, 'train')])
  step, = between(short)
  assert (step.lengths, step.length, step.ahead_above) == ((64, 256), None, 'first')
  memory, = between(short, measure=times.MEMORY)
  assert memory.length.mean == pytest.approx(300, rel=1e-4)  # planned, if not to be had
  none, = between(record(laws, missing=[('second', n, 'train') for n in LENGTHS]))
  assert none.lengths == () and crossovers.clause([none]) == 'there is nothing to compare'
  assert 'Out of memory: first at 1024.' in crossovers.sentences([short]).caption


def test_a_hole_between_lengths_is_bridged():
  found, = between(record(
    {'first': overtaken(300), 'second': FLAT}, missing=[('first', 256, 'train')]))
  assert found.lengths == (64, 1024) and found.length.mean == pytest.approx(300)


def test_one_length_has_a_winner_and_no_crossing():
  made = record({'first': (2.0, 0.0), 'second': FLAT}, lengths=(64,))
  found, = between(made)
  assert (found.length, found.ahead_above) == (None, 'second')
  assert crossovers.clause([found]) == 'second is ahead at 64 tokens, by a factor of 2 ± 0'
  assert figures.image(figures.draw(crossovers.panels([made])))


def test_repetitions_are_pooled_and_one_that_failed_changes_nothing():
  laws = {'first': overtaken(300), 'second': FLAT}
  made = [record(laws, seed, noise=0.1) for seed in range(3)]
  failed = made[0] | {'result': {}}
  whole, = between(*made)
  assert whole.length.count == 27 and between(*made, failed)[0].length.count == 27


def test_pairs_are_judged_one_by_one():
  """What is not told apart from two layers may tell those two apart: no order of all is made up."""
  made = record(dict.fromkeys('abc', FLAT), lengths=(64,))
  rounds = {'a': (1.0, 1.0, 1.0), 'b': (0.9, 1.2, 1.0), 'c': (1.1, 1.1, 1.1)}
  for point in made['result']['points']:
    point['seconds'] = 3 * rounds[point['layer']]
  found = crossovers.crossovers([made], times.STEP)
  assert [(one.first, one.second) for one in found] == [('a', 'b'), ('a', 'c'), ('b', 'c')]
  assert [bool(one.apart) for one in found] == [False, True, False]


@settings(max_examples=50, deadline=None)
@given(ratios=st.lists(st.integers(-2, 2), min_size=1, max_size=7))
def test_crossings_are_those_that_are_found_one_by_one(ratios):
  lengths, expected, ahead = 2.0 ** np.arange(len(ratios)), {}, 0
  for i, ratio in enumerate(ratios):
    if ratio * ahead < 0:
      before = ratios[i - 1]
      expected[i - 1] = (i - 1 + before / (before - ratio)) * math.log(2), np.sign(ratio)
    ahead = ratio or ahead
  places, signs = crossovers._crossings(lengths, np.array(ratios, float))
  assert list(np.flatnonzero(signs)) == list(expected)
  for i, (place, sign) in expected.items():
    assert places[i] == pytest.approx(place) and signs[i] == sign


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.floats(0, 9) | st.none(), min_size=1, max_size=6))
def test_medians_are_of_what_is_known(values):
  known = [value for value in values if value is not None]
  found = times.medians(np.array(values, float)[:, None])
  assert found == pytest.approx([np.median(known) if known else math.nan], nan_ok=True)


def test_sentences_name_every_pair_once_with_all_three_quantities():
  laws = {'a': overtaken(300), 'b': FLAT, 'c': (2.0, 0.0)}
  table = crossovers.sentences([record(laws, noise=0.01)])
  assert [row[0] for row in table.rows] == ['a and b', 'a and c', 'b and c']
  for _, said in table.rows:
    assert [said.count(phrase) for phrase in crossovers.PHRASES.values()] == [1, 1, 1]
  assert table.rows[0][1].startswith('in a training step a is ahead up to 3')
  assert 'in memory a is ahead up to 300 tokens, b beyond' in table.rows[0][1]


def test_a_map_shows_each_pair_once_and_earlier_is_darker():
  laws = {'a': overtaken(300), 'b': FLAT, 'c': (2.0, 0.0), 'd': overtaken(900)}
  picture = crossovers.panels([record(laws)])[0]
  shown = dict(zip(laws, picture.weights, strict=True))
  assert shown['b'][0] == crossovers.shade(300, LENGTHS) > shown['b'][3] > crossovers.LATEST
  assert shown['b'][2] == 1 and shown['c'][1] == crossovers.NEVER  # always, and never
  weights = np.asarray(picture.weights)
  assert not np.any(weights * weights.T)
  assert picture.notes[1] == ['300', '', '', '900']
  assert picture.scale[1.0] == '64' and picture.scale[crossovers.NEVER] == 'never'


def test_a_map_marks_what_it_does_not_know():
  made = shaped((1, 1, 1, 1), noise=0.3)
  assert crossovers.panels([made])[0].notes == [['', '≈'], ['≈', '']]
  made = shaped((0.99, 1.01, 1.02, 2), noise=0.05)
  assert crossovers.panels([made])[0].notes[1][0].endswith('?')
  none = record(dict.fromkeys('ab', FLAT), missing=[('a', n, 'train') for n in LENGTHS])
  assert crossovers.panels([none])[0].notes == [['', '–'], ['–', '']]


def test_a_large_map_has_a_row_of_its_own_and_the_others_keep_theirs():
  interval = Interval(1.0, 0.5, 2.0, 3)
  curve = figures.Panel('curve', 'x', 'y', {'a': [(1, interval), (2, interval)]})
  large = crossovers.panels([record(dict.fromkeys('abcdefghijk', FLAT))])[0]
  drawn = figures.draw([curve, curve, large, curve])
  drawn.canvas.draw()
  places = {}
  for axes in drawn.axes:
    places.setdefault(axes.get_title(loc='left'), []).append(axes.get_position())
  (one, two, three), map_ = places['curve'], places[large.title][0]
  assert one.x1 < two.x0 and one.y0 == pytest.approx(two.y0, abs=0.01)
  assert one.y0 > map_.y1 > map_.y0 > three.y1 and map_.x1 - map_.x0 > one.x1 - one.x0
  assert len(figures.draw([curve] * 3).axes) == 3
