"""Crossovers of power laws are detected, and none is stated where measurements do not show it."""

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
from tests.experiments.complexity.power_laws import LENGTHS, power_law_record

FLAT = (1.0, 0.0)


def law_equal_to_flat(length, power=1.0):
  """A power law that equals the law FLAT at a length."""
  return length**-power, power


def first_pair_crossovers(*records, measure=times.STEP):
  """The crossovers of the first two layers."""
  return [
    crossover for crossover in crossovers.find_crossovers(records, measure)
    if [crossover.first, crossover.second] == records[0]['run']['layers'][:2]
  ]


def record_with_ratios(ratios, noise=0.0, rounds=9, lengths=(1, 2, 4, 8)):
  """The record of a repetition in which the first layer costs `ratios` times the second."""
  laws = {'first': FLAT, 'second': FLAT}
  record = power_law_record(laws, lengths=lengths, rounds=rounds, noise=noise)
  for point in record['result']['points']:
    if point['layer'] == 'first':
      factor = ratios[lengths.index(point['length'])]
      point['seconds'] = [factor * seconds for seconds in point['seconds']]
      point['bytes'] = round(factor * point['bytes'])
  return record


@settings(max_examples=20, deadline=None)
@given(length=st.floats(70, 1000), powers=st.lists(st.floats(0, 2), min_size=2, max_size=2))
def test_power_laws_cross_where_they_are_equal(length, powers):
  assume(abs(powers[0] - powers[1]) > 0.1)
  laws = {name: law_equal_to_flat(length, power)
          for name, power in zip(('first', 'second'), powers, strict=True)}
  steep, mild = ('first', 'second') if powers[0] > powers[1] else ('second', 'first')
  for measure in crossovers.QUANTITY_LABELS:
    crossover, = first_pair_crossovers(power_law_record(laws), measure=measure)
    assert crossover.length.estimate == pytest.approx(length, rel=1e-4)  # bytes are rounded
    assert (crossover.cheaper_below, crossover.cheaper_above) == (steep, mild)
    assert crossover.missing_share == 0
    assert crossover.length.has_bounds == (not measure.exact) and crossover.is_reliable


def test_noise_that_a_round_shares_does_not_widen_intervals():
  laws = {'first': law_equal_to_flat(200), 'second': FLAT}
  crossover, = first_pair_crossovers(power_law_record(laws, round_noise=1.0))
  assert crossover.length[:3] == pytest.approx((200,) * 3)


def test_intervals_cover_the_crossover_at_their_confidence():
  laws, covered = {'first': law_equal_to_flat(200, 0.5), 'second': FLAT}, []
  for seed in range(60):
    crossover, = first_pair_crossovers(power_law_record(laws, seed, rounds=15, noise=0.1))
    covered.append(crossover.length.low <= 200 <= crossover.length.high)
  assert 0.85 <= np.mean(covered) < 1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), noise=st.sampled_from([0.0, 0.1, 0.5]))
def test_the_order_of_a_pair_does_not_matter(seed, noise):
  record = power_law_record({'a': law_equal_to_flat(300, 0.3), 'b': FLAT}, seed, noise=noise)
  swapped = record | {'run': record['run'] | {'layers': ['b', 'a']}}
  for measure in crossovers.QUANTITY_LABELS:
    first, second = (first_pair_crossovers(r, measure=measure) for r in (record, swapped))
    assert len(first) == len(second)
    names = ('length', 'missing_share', 'lengths', 'significant_lengths', 'cheaper_below',
             'cheaper_above')
    for left, right in zip(first, second, strict=True):
      for name in names:
        assert getattr(left, name) == pytest.approx(getattr(right, name), nan_ok=True)
      if left.cheaper_above:
        assert left.smallest_cost_ratio == pytest.approx(right.smallest_cost_ratio, nan_ok=True)
    texts = map(crossovers.describe_crossovers, (first, second))
    assert len({*texts}) == 1


def test_other_layers_of_the_grid_do_not_matter():
  laws = {'a': law_equal_to_flat(300), 'b': FLAT, 'c': (0.5, 0.2)}
  record = power_law_record(laws, noise=0.1)
  few = record | {'run': record['run'] | {'layers': ['a', 'b']}, 'result': {'points': [
    point for point in record['result']['points'] if point['layer'] != 'c'
  ]}}
  assert first_pair_crossovers(record) == first_pair_crossovers(few)


@pytest.mark.parametrize('ratios, places', [
  ((0.5, 2, 2, 2), [math.sqrt(2)]),
  ((0.5, 0.5, 2, 0.5), [math.sqrt(8), math.sqrt(32)]),
  ((2, 0.5, 2, 0.5), [math.sqrt(2), math.sqrt(8), math.sqrt(32)]),
  ((0.5, 1, 1, 2), [4]),  # equal until the other layer is cheaper
  ((0.5, 1, 0.5, 0.9), []),
  ((1, 1, 2, 1), []),
])
def test_every_crossover_is_described_and_a_tie_is_none(ratios, places):
  for measure in (times.STEP, times.MEMORY):
    results = first_pair_crossovers(record_with_ratios(ratios), measure=measure)
    lengths = [crossover.length.estimate for crossover in results if crossover.length]
    assert lengths == pytest.approx(places)
    assert all(a.cheaper_above == b.cheaper_below != a.cheaper_below
               for a, b in itertools.pairwise(results))
    text = crossovers.describe_crossovers(results)
    assert text.count('up to') == len(places) and ('beyond' in text) == bool(places)
    assert results[-1].cheaper_above == ('first' if ratios[-1] < 1 else 'second')


def test_without_a_crossover_the_cheaper_layer_and_the_smallest_ratio_are_described():
  crossover, = first_pair_crossovers(record_with_ratios((3, 2, 1.5, 4), noise=0.01))
  assert crossover.length is None and crossover.missing_share == 1
  assert crossover.cheaper_below == crossover.cheaper_above == 'second'
  assert crossover.significant_lengths == crossover.lengths == (1, 2, 4, 8)
  ratio = crossover.smallest_cost_ratio
  assert ratio.low < ratio.estimate < ratio.high < 2
  assert ratio.estimate == pytest.approx(1.5, rel=0.02)
  text = crossovers.describe_crossovers([crossover])
  assert text.startswith('second is cheaper from 1 to 8 tokens, by a factor of at least')


def test_differences_within_noise_are_not_significant():
  equal, = first_pair_crossovers(record_with_ratios((1, 1, 1, 1), noise=0.3))[:1]
  assert equal.significant_lengths == () and not equal.is_reliable
  assert crossovers.describe_crossovers([equal]) == 'the difference is not significant'
  partly = first_pair_crossovers(record_with_ratios((1.001, 2, 2, 2), noise=0.1))
  assert partly[-1].significant_lengths == (2, 4, 8)
  doubtful = dataclasses.replace(partly[-1], length=None, cheaper_above='second')
  assert crossovers.describe_crossovers([doubtful]).endswith('but not significantly at 1')


def test_a_crossover_that_some_resamples_lack_is_described_as_such():
  results = first_pair_crossovers(record_with_ratios((0.99, 1.01, 1.02, 2), noise=0.05))
  assert results[-1].length and 0.05 < results[-1].missing_share < 1 and not results[-1].is_reliable
  assert '% of resamples' in crossovers.describe_crossovers(results)


def test_resamples_of_a_crossover_have_its_direction():
  first, second, third = first_pair_crossovers(record_with_ratios((0.5, 1.01, 0.99, 2), noise=0.05))
  # All resamples start at 0.5 and end at 2, so that each has a crossover of this direction.
  assert first.missing_share == third.missing_share == 0
  assert 0.05 < second.missing_share < 1


def test_one_round_has_no_interval_and_only_bytes_differ_significantly():
  record = record_with_ratios((0.5, 2, 2, 2), rounds=1)
  step, = first_pair_crossovers(record)
  assert step.length.count == 1 and not step.length.has_bounds and step.significant_lengths == ()
  memory, = first_pair_crossovers(record, measure=times.MEMORY)
  assert memory.significant_lengths == (1, 2, 4, 8)
  text = crossovers.describe_crossovers([memory])
  assert text == 'first is cheaper up to 1 tokens, second beyond'


def test_equal_bytes_are_described_as_equal():
  crossover, = first_pair_crossovers(record_with_ratios((1, 1, 1, 1)), measure=times.MEMORY)
  assert crossover.cheaper_above is None
  assert crossovers.describe_crossovers([crossover]) == 'both layers have equal costs'


def test_only_lengths_that_fit_into_memory_for_both_layers_are_compared():
  laws = {'first': law_equal_to_flat(300), 'second': FLAT}
  short = power_law_record(laws, missing=[('first', 1024, 'train')])
  step, = first_pair_crossovers(short)
  assert (step.lengths, step.length, step.cheaper_above) == ((64, 256), None, 'first')
  memory, = first_pair_crossovers(short, measure=times.MEMORY)
  assert memory.length.estimate == pytest.approx(300, rel=1e-4)  # planned, although not available
  unmeasured = power_law_record(laws, missing=[('second', n, 'train') for n in LENGTHS])
  none, = first_pair_crossovers(unmeasured)
  assert none.lengths == ()
  assert crossovers.describe_crossovers([none]) == 'no length was measured for both layers'
  assert 'Out of memory: first at 1024.' in crossovers.crossover_table([short]).caption


def test_a_missing_length_is_interpolated():
  crossover, = first_pair_crossovers(power_law_record(
    {'first': law_equal_to_flat(300), 'second': FLAT}, missing=[('first', 256, 'train')]))
  assert crossover.lengths == (64, 1024) and crossover.length.estimate == pytest.approx(300)


def test_one_length_has_a_cheaper_layer_and_no_crossover():
  record = power_law_record({'first': (2.0, 0.0), 'second': FLAT}, lengths=(64,))
  crossover, = first_pair_crossovers(record)
  assert (crossover.length, crossover.cheaper_above) == (None, 'second')
  text = crossovers.describe_crossovers([crossover])
  assert text == 'second is cheaper at 64 tokens, by a factor of 2 ± 0'
  assert figures.encode_figure(figures.draw_figure(crossovers.crossover_heat_maps([record])))


def test_repetitions_are_pooled_and_a_failed_one_is_ignored():
  laws = {'first': law_equal_to_flat(300), 'second': FLAT}
  records = [power_law_record(laws, seed, noise=0.1) for seed in range(3)]
  failed = records[0] | {'result': {}}
  pooled, = first_pair_crossovers(*records)
  assert pooled.length.count == 27 and first_pair_crossovers(*records, failed)[0].length.count == 27


def test_each_pair_is_compared_separately():
  """Two layers may differ significantly although a third one differs from neither."""
  record = power_law_record(dict.fromkeys('abc', FLAT), lengths=(64,))
  rounds = {'a': (1.0, 1.0, 1.0), 'b': (0.9, 1.2, 1.0), 'c': (1.1, 1.1, 1.1)}
  for point in record['result']['points']:
    point['seconds'] = 3 * rounds[point['layer']]
  results = crossovers.find_crossovers([record], times.STEP)
  assert [(pair.first, pair.second) for pair in results] == [('a', 'b'), ('a', 'c'), ('b', 'c')]
  assert [bool(pair.significant_lengths) for pair in results] == [False, True, False]


@settings(max_examples=50, deadline=None)
@given(ratios=st.lists(st.integers(-2, 2), min_size=1, max_size=7))
def test_sign_changes_are_those_of_a_scan_over_lengths(ratios):
  lengths, expected, sign_before = 2.0 ** np.arange(len(ratios)), {}, 0
  for i, ratio in enumerate(ratios):
    if ratio * sign_before < 0:
      before = ratios[i - 1]
      expected[i - 1] = (i - 1 + before / (before - ratio)) * math.log(2), np.sign(ratio)
    sign_before = ratio or sign_before
  places, signs = crossovers._interpolate_sign_changes(lengths, np.array(ratios, float))
  assert list(np.flatnonzero(signs)) == list(expected)
  for i, (place, sign) in expected.items():
    assert places[i] == pytest.approx(place) and signs[i] == sign


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.floats(0, 9) | st.none(), min_size=1, max_size=6))
def test_medians_ignore_missing_values(values):
  known = [value for value in values if value is not None]
  medians = times.median_over_rounds(np.array(values, float)[:, None])
  assert medians == pytest.approx([np.median(known) if known else math.nan], nan_ok=True)


def test_the_table_describes_every_pair_once_for_all_three_quantities():
  laws = {'a': law_equal_to_flat(300), 'b': FLAT, 'c': (2.0, 0.0)}
  table = crossovers.crossover_table([power_law_record(laws, noise=0.01)])
  assert [row[0] for row in table.rows] == ['a and b', 'a and c', 'b and c']
  for _, text in table.rows:
    assert [text.count(label) for label in crossovers.QUANTITY_LABELS.values()] == [1, 1, 1]
  assert table.rows[0][1].startswith('time of a training step: a is cheaper up to 3')
  assert 'memory of a training step: a is cheaper up to 300 tokens, b beyond' in table.rows[0][1]


def test_a_heat_map_shows_each_pair_once_with_larger_weights_for_shorter_lengths():
  laws = {'a': law_equal_to_flat(300), 'b': FLAT, 'c': (2.0, 0.0), 'd': law_equal_to_flat(900)}
  picture = crossovers.crossover_heat_maps([power_law_record(laws)])[0]
  shown = dict(zip(laws, picture.weights, strict=True))
  assert shown['b'][0] == crossovers.color_intensity(300, LENGTHS) > shown['b'][3]
  assert shown['b'][3] > crossovers.WEIGHT_LONGEST
  assert shown['b'][2] == 1 and shown['c'][1] == crossovers.WEIGHT_NEVER
  weights = np.asarray(picture.weights)
  assert not np.any(weights * weights.T)
  assert picture.cell_labels[1] == ['300', '', '', '900']
  labels = picture.scale_labels
  assert labels[1.0] == '64' and labels[crossovers.WEIGHT_NEVER] == 'never'


def test_a_heat_map_marks_unknown_and_uncertain_pairs():
  record = record_with_ratios((1, 1, 1, 1), noise=0.3)
  assert crossovers.crossover_heat_maps([record])[0].cell_labels == [['', '≈'], ['≈', '']]
  record = record_with_ratios((0.99, 1.01, 1.02, 2), noise=0.05)
  assert crossovers.crossover_heat_maps([record])[0].cell_labels[1][0].endswith('?')
  none = power_law_record(dict.fromkeys('ab', FLAT), missing=[('a', n, 'train') for n in LENGTHS])
  assert crossovers.crossover_heat_maps([none])[0].cell_labels == [['', '–'], ['–', '']]


def test_a_large_heat_map_fills_a_row_of_the_figure():
  interval = Interval(1.0, 0.5, 2.0, 3)
  curve = figures.Panel('curve', 'x', 'y', {'a': [(1, interval), (2, interval)]})
  large = crossovers.crossover_heat_maps([power_law_record(dict.fromkeys('abcdefghijk', FLAT))])[0]
  figure = figures.draw_figure([curve, curve, large, curve])
  figure.canvas.draw()
  places = {}
  for axes in figure.axes:
    places.setdefault(axes.get_title(loc='left'), []).append(axes.get_position())
  (first, second, third), heat_map = places['curve'], places[large.title][0]
  assert first.x1 < second.x0 and first.y0 == pytest.approx(second.y0, abs=0.01)
  assert first.y0 > heat_map.y1 > heat_map.y0 > third.y1
  assert heat_map.x1 - heat_map.x0 > first.x1 - first.x0
  assert len(figures.draw_figure([curve] * 3).axes) == 3
