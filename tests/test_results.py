"""Laws of the statistics, and of what tables, figures and the page do to numbers and text."""

import csv
import html.parser
import io
import math
import re
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.results import escape, figures, notation, page, published, statistics
from experiments.results.statistics import Interval
from experiments.results.table import Table

values = st.floats(-1e6, 1e6).map(lambda value: round(value, 6))
samples = st.lists(values, min_size=2, max_size=8)
few = settings(max_examples=15, deadline=None)
BOTH = [statistics.mean_interval, statistics.median_interval]


def near(left, right, scale=1.0):
  return np.allclose(left, right, rtol=1e-6, atol=1e-6 * max(1.0, scale))


# Statistics


@few
@given(sample=samples)
@pytest.mark.parametrize('interval', [*BOTH, statistics.median_spread])
def test_bounds_hold_the_estimate(interval, sample):
  found = interval(sample)
  assert found.low <= found.mean <= found.high and found.count == len(sample) and found.known


@few
@given(sample=samples, offset=values, factor=st.floats(-100, 100))
@pytest.mark.parametrize('interval', [*BOTH, statistics.median_spread])
def test_intervals_move_and_stretch_with_their_values(interval, sample, offset, factor):
  found, size = interval(sample), max(map(abs, [*sample, offset])) * max(1, abs(factor))
  moved = interval([factor * value + offset for value in sample])
  bounds = sorted(factor * bound + offset for bound in found[1:3])
  assert near(moved[:3], [factor * found.mean + offset, *bounds], size)


@given(sample=st.lists(values, min_size=2, max_size=8), order=st.randoms())
def test_mean_interval_knows_no_order(sample, order):
  mixed = list(sample)
  order.shuffle(mixed)
  size = max(map(abs, sample))
  assert near(statistics.mean_interval(mixed), statistics.mean_interval(sample), size)


@pytest.mark.parametrize(('count', 'quantile'), [(2, 12.706205), (5, 2.776445), (31, 2.042272)])
def test_mean_interval_has_students_width(count, quantile):
  sample = np.arange(count, dtype=float)
  found = statistics.mean_interval(sample)
  expected = quantile * np.std(sample, ddof=1) / math.sqrt(count)
  assert found.high - found.mean == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
  ('interval', 'least'), [(statistics.mean_interval, 0.93), (statistics.median_interval, 0.9)]
)
def test_intervals_cover_the_truth_as_often_as_they_say(interval, least):
  draws = np.random.default_rng(0).normal(3.0, 2.0, (200, 12))
  found = [interval(sample) for sample in draws]
  covered = np.mean([one.low <= 3.0 <= one.high for one in found])
  assert least <= covered <= 0.99


def test_spread_is_the_middle_half():
  assert statistics.median_spread([4.0, 0.0, 3.0, 1.0, 2.0]) == Interval(2.0, 1.0, 3.0, 5)


@pytest.mark.parametrize('interval', [*BOTH, statistics.median_spread])
def test_equal_values_have_no_width(interval):
  assert interval([0.1] * 5)[:3] == pytest.approx((0.1, 0.1, 0.1), abs=1e-16)


@pytest.mark.parametrize('interval', [*BOTH, statistics.median_spread])
@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_a_value_that_is_no_number_is_never_left_out(interval, bad):
  assert all(map(math.isnan, interval([0.5, bad, 0.7])[:3]))


@pytest.mark.parametrize('interval', [*BOTH, statistics.median_spread])
def test_one_value_has_no_interval_and_none_has_no_estimate(interval):
  assert interval([0.25]).mean == 0.25 and not interval([0.25]).known
  assert math.isnan(interval([]).mean) and interval([]).count == 0


def test_bootstrap_repeats_itself():
  sample = np.random.default_rng(1).normal(size=20)
  assert statistics.median_interval(sample) == statistics.median_interval(sample)


def test_pairing_cancels_what_rounds_share():
  generator = np.random.default_rng(2)
  weather = np.exp(generator.normal(0, 0.5, 15))
  slow = 2.0 * weather * np.exp(generator.normal(0, 0.001, 15))
  paired = statistics.ratio_interval(slow, weather, paired=True)
  loose = statistics.ratio_interval(slow, weather)
  assert paired.low <= 2.0 <= paired.high
  assert paired.high - paired.low < 0.1 * (loose.high - loose.low)


@few
@given(power=st.floats(-1, 3), scale=st.floats(0.01, 100))
def test_growth_exponent_of_a_power_law(power, scale):
  lengths = np.array([64, 128, 256, 512.0])
  rounds = np.array([[0.9], [1.0], [1.2]])  # each round as a whole is faster or slower
  found = statistics.growth_exponent(lengths, scale * rounds * lengths**power)
  assert near(found[:3], [power] * 3) and found.count == 3


def test_growth_exponent_wants_rounds_by_lengths():
  with pytest.raises(ValueError, match='rounds, lengths'):
    statistics.growth_exponent([1, 2, 4], [[1.0, 2.0]])


# Notation


@pytest.mark.parametrize(
  ('value', 'text'),
  [
    (Interval(0.9932, 0.989, 0.9974, 5), '0.993 ± 0.004'),
    (Interval(0.99, 0.97, 0.995, 9), '0.990 [0.970, 0.995]'),
    (Interval(5.8e-5, 5.6e-5, 6e-5, 4), '(5.8 ± 0.2)e-5'),
    (Interval(56789, 55555, 58023, 5), '56,800 ± 1,200'),
    (Interval(-0.002, -0.052, 0.048, 5), '0.00 ± 0.05'),
    (Interval(1.0, 1.0, 1.0, 5), '1 ± 0'),
    (Interval.bare(0.5), '0.5'),
    (Interval.bare(math.nan, 0), '–'),
    (Interval.bare(math.nan, 5), 'nan'),
    (None, '–'),
    (65536, '65,536'),
    (1024, '1024'),
    (0.123456, '0.1235'),
    (5.8e-5, '5.8e-5'),
    (-math.inf, '-∞'),
    ('text', 'text'),
    (True, 'yes'),
  ],
)
def test_numbers_are_written_as_their_intervals_allow(value, text):
  assert notation.cell(value) == text


@given(mean=values, half=st.floats(1e-4, 1e3))
def test_a_rounded_interval_is_near_the_exact_one(mean, half):
  text = notation.interval(Interval(mean, mean - half, mean + half, 5)).replace(',', '')
  inner, power = re.fullmatch(r'\(?([^()]*?)\)?(?:e(-?\d+))?', text).groups()
  shown = [float(part) * 10 ** int(power or 0) for part in inner.split(' ± ')]
  assert abs(shown[0] - mean) <= 0.5 * half and abs(shown[1] - half) <= 0.25 * half


@given(value=st.floats(-1e300, 1e300))
def test_a_number_keeps_four_digits(value):
  assert float(notation.number(value).replace(',', '')) == pytest.approx(value, rel=5e-4)


# Tables

texts = st.text(
  st.characters(codec='utf-8', exclude_characters='\r\0', exclude_categories=['Cs']), max_size=12
)
intervals = st.builds(Interval, st.floats(), st.floats(), st.floats(), st.integers(0, 99))
rows = st.lists(st.tuples(texts, st.floats(), st.none() | intervals), min_size=1, max_size=5)


@given(rows=rows)
def test_csv_keeps_everything(rows):
  names, *found = csv.reader(io.StringIO(Table('t', ('a', 'b', 'c'), rows).csv(), newline=''))
  split = any(row[2] is not None for row in rows)
  assert names == ['a', 'b', *(['c mean', 'c low', 'c high', 'c count'] if split else ['c'])]
  for (text, number, interval), (shown, digits, *parts) in zip(rows, found, strict=True):
    assert shown == text and repr(float(digits)) == repr(number)
    if interval is None:
      assert not any(parts)
    else:
      assert repr([*map(float, parts[:3]), int(parts[3])]) == repr(list(interval))


def read_latex(text):
  """Undo the escapes by reading one token at a time, as TeX does."""
  back = {written: plain for plain, written in escape._LATEX.items() if plain != '\n'}
  tokens = sorted(map(re.escape, back), key=len, reverse=True)
  assert re.fullmatch(rf'(?:{"|".join(tokens)}|[^\\{{}}$&#%_^~])*', text), text
  return re.sub('|'.join(tokens), lambda match: back[match.group()], text)


@given(text=texts.filter(lambda text: '--' not in text and '-–' not in text and '–-' not in text))
def test_latex_prints_the_text_and_nothing_is_left_special(text):
  written = escape.latex(text).removeprefix('{}') if text[:1] in ('[', '*') else escape.latex(text)
  assert read_latex(written) == text.replace('\n', ' ')


@given(rows=rows)
def test_markdown_keeps_its_columns(rows):
  lines = Table('t', ('a', 'b', 'c'), rows).markdown().splitlines()[2:]
  assert len(lines) == len(rows) + 2
  assert {len(re.findall(r'(?<!\\)(?:\\\\)*\|', line)) for line in lines} == {4}


BOARD = Table(
  'Recall & copying',
  ('layer', 'accuracy', 'loss'),
  [
    ('attention(num_heads=8)', Interval(0.99, 0.98, 1.0, 5), 0.01),
    ('lstm', Interval(0.5, 0.4, 0.6, 5), 0.7),
    ('tcn', None, 0.01),
  ],
  caption='Five seeds.',
  best={'accuracy': 'higher', 'loss': 'lower'},
)


def test_the_best_is_marked_everywhere():
  assert [[cell.best for cell in row] for row in BOARD.shown()] == [
    [False, True, True],
    [False, False, False],
    [False, False, True],
  ]
  assert BOARD.text().count('*0.') == 3 and BOARD.markdown().count('**0.') == 3
  assert BOARD.latex().count(r'\textbf{0.') == 3


@given(column=st.lists(st.none() | values, min_size=1, max_size=6))
def test_best_of_the_opposite_is_worst(column):
  def winners(numbers, direction):
    table = Table('t', ('x',), [(number,) for number in numbers], best={'x': direction})
    return [row[0].best for row in table.shown()]

  negated = [None if number is None else -number for number in column]
  assert winners(column, 'higher') == winners(negated, 'lower')
  assert any(winners(column, 'higher')) == any(number is not None for number in column)


def test_latex_is_a_whole_float():
  text = BOARD.latex()
  assert r'\caption{Recall \& copying. Five seeds.}' in text
  assert r'\label{tab:recall-copying}' in text
  assert r'attention(num\_heads=8) & \textbf{0.990 $\pm$ 0.010} & \textbf{0.01} \\' in text
  assert r'{lrr}' in text and [text.count(rule) for rule in (r'\toprule', r'\bottomrule')] == [1, 1]


def test_wide_tables_fold_under_their_first_column():
  columns = ('layer', *(f'length {2**power}' for power in range(6, 18)))
  rows = [('gated linear attention', *[0.5] * 12), ('lstm', *[0.25] * 12)]
  table = Table('Wide', columns, rows)
  lines = table.text(width=80).splitlines()
  assert max(map(len, lines)) <= 80
  assert sum(line.startswith('gated linear attention') for line in lines) > 1
  assert table.text(80).count('0.25') == 12


@pytest.mark.parametrize(
  'fault', [{'rows': [(1,)]}, {'best': {'c': 'higher'}}, {'best': {'a': 'bigger'}}]
)
def test_a_table_that_does_not_fit_is_refused(fault):
  with pytest.raises(ValueError):
    Table(**{'title': 't', 'columns': ('a', 'b'), 'rows': [(1, 2)]} | fault)


def test_tables_without_rows_render(tmp_path):
  paths = Table('Empty', ('a', 'b'), []).save(tmp_path / 'new', 'empty')
  assert [path.name for path in paths] == ['empty.txt', 'empty.md', 'empty.tex', 'empty.csv']
  assert all(path.read_text().strip() for path in paths)


# Figures


def curve(*heights):
  return [(2**i, Interval(y, y - 0.1, y + 0.1, 5)) for i, y in enumerate(heights)]


def panel(**changes):
  series = {'lstm': curve(0.5, 0.3, 0.2), 'attention': curve(1.0, math.nan, 0.9)}
  options = {'log_x': True, 'lines': {'chance': 0.1}} | changes
  return figures.Panel('Recall', 'length', 'accuracy', series, **options)


def test_a_name_keeps_its_look():
  names = [f'layer {i}' for i in range(56)]
  looks = figures.styles(names)
  assert len({(look.colour, look.marker) for look in looks.values()}) == 56
  assert figures.styles(names[:3]) == {name: looks[name] for name in names[:3]}
  order = ['attention', 'gru', 'lstm']
  drawn = figures.draw([panel()], order=order).axes[0].get_lines()
  assert [line.get_color() for line in drawn[:2]] == [
    figures.styles(order)[name].colour for name in ('lstm', 'attention')
  ]


def test_figures_are_the_same_twice_and_hold_no_date(tmp_path):
  for form in ('png', 'pdf'):
    twice = [figures.image(figures.draw([panel(), panel(log_y=True)]), form) for _ in range(2)]
    assert twice[0] == twice[1] and b'CreationDate' not in twice[0]
  saved = figures.save(figures.draw([panel()]), tmp_path / 'new' / 'recall.v1')
  assert [path.name for path in saved] == ['recall.v1.png', 'recall.v1.pdf']


def test_lengths_are_written_out():
  axes = figures.draw([panel()]).axes[0]
  assert [label.get_text() for label in axes.get_xticklabels()] == ['1', '2', '4']


def test_figures_leave_no_global_state():
  import matplotlib

  before = {name: matplotlib.rcParams[name] for name in figures._LOOK}
  figures.image(figures.draw([panel()]))
  assert before == {name: matplotlib.rcParams[name] for name in figures._LOOK}
  assert 'matplotlib.pyplot' not in sys.modules


@pytest.mark.parametrize(
  ('module', 'act'),
  [
    ('matplotlib', lambda: figures.draw([panel()])),
    ('jinja2', lambda: page.render('t', {}, [])),
  ],
)
def test_a_missing_extra_says_what_to_install(monkeypatch, module, act):
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(ImportError) as caught:
    act()
  message = str(caught.value)
  assert message.endswith("need the extra: pip install 'sequence-lab[report]'")


# The page


class Reader(html.parser.HTMLParser):
  """Collect a page's text, ids and links, and check that its tags nest."""

  def __init__(self, text):
    super().__init__()
    self.open, self.said, self.ids, self.addresses = [], [], [], []
    self.feed(text)
    assert self.open == []

  def handle_starttag(self, tag, attributes):
    attributes = dict(attributes)
    self.ids += [attributes['id']] if 'id' in attributes else []
    self.addresses += [attributes[name] for name in ('href', 'src') if name in attributes]
    if tag not in ('meta', 'link', 'img'):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.said.append(data)


NASTY = '<script>alert("&")</script>'


@pytest.fixture(scope='module')
def report():
  table = Table(NASTY, ('layer', NASTY), [(NASTY, 1.5)], caption=NASTY, best={NASTY: 'higher'})
  picture = page.Picture(figures.image(figures.draw([panel()])), NASTY)
  sections = [
    page.Section('Same', f'First {NASTY}.\n\nThen `a < b`.', [table, BOARD], [picture]),
    page.Section('Same'),
  ]
  verdicts = [page.Verdict(NASTY, verdict, NASTY, source=NASTY) for verdict in page.SIGNS]
  verdicts.append(page.Verdict('Claim', 'supported', 'twice', Interval(2, 1.9, 2.1, 5), 5))
  return page.render(NASTY, {'device': NASTY, 'versions': {'jax': '1'}}, sections, verdicts, NASTY)


def test_the_page_is_well_formed_and_stands_alone(report):
  reader = Reader(report)
  for address in reader.addresses:
    assert address.startswith(('#', 'data:')), address
    assert not address.startswith('#') or address[1:] in reader.ids
  assert len(set(reader.ids)) == len(reader.ids)
  assert 'http' not in report.replace(NASTY, '')


def test_text_stays_text(report):
  assert '<script' not in report
  said = ''.join(Reader(report).said)
  assert said.count(NASTY) >= 12


def test_the_page_holds_verdicts_data_and_provenance(report):
  said = ' '.join(''.join(Reader(report).said).split())
  for text in ('✓ supported', '✕ contradicted', '2.00 ± 0.10', 'jax 1', r'\toprule', 'loss'):
    assert text in said, text
  assert '<code>a &lt; b</code>' in report and report.count('class="number best"') >= 3


def test_the_page_is_written_whole(tmp_path, monkeypatch):
  path = page.write(tmp_path / 'new' / 'report.html', 'First', {}, [])
  first = path.read_bytes()
  monkeypatch.setattr('os.replace', lambda *_: (_ for _ in ()).throw(OSError(28, 'full')))
  with pytest.raises(OSError):
    page.write(path, 'Second', {}, [])
  assert path.read_bytes() == first and list(path.parent.iterdir()) == [path]


def test_an_unknown_verdict_is_refused():
  with pytest.raises(ValueError, match='maybe'):
    page.Verdict('Claim', 'maybe')


# Published numbers


def test_every_published_number_says_where_it_is_from():
  entries = published.published()
  assert len(entries) == len({(e.task, e.layer, e.metric, e.source, e.settings) for e in entries})
  for entry in entries:
    assert entry.mark in published.MARKS and entry.relation in ('=', '<')
    assert entry.metric and entry.selection and entry.protocol and entry.source
    assert math.isfinite(entry.value)


def test_trivial_baselines_follow_from_arithmetic():
  (adding,) = published.published('adding', 'trivial', length=600)
  assert adding.value == pytest.approx(1 / 6)
  copying = published.published('copy_memory', 'trivial')
  for entry in copying:
    delay = dict(entry.settings)['delay']
    assert entry.value == pytest.approx(10 * math.log(8) / (delay + 20), abs=1e-7)
  assert {dict(entry.settings)['delay'] for entry in copying} >= {100, 500, 1000}


def test_lookup_matches_what_an_entry_names_and_passes_over_the_rest():
  (entry,) = published.published('recall', 'attention', length=64, num_pairs=4, width=64, seed=3)
  assert entry.value == 1.0 and entry.mark == 'read off a figure'
  assert published.published('recall', 'attention', length=65) == ()
  sizes = {(e.layer, *dict(e.settings).values()) for e in published.published('recall')}
  assert len(sizes) == 5 * 4 * 4


def test_published_stands_beside_ours_with_the_difference():
  ours = Interval(0.03, 0.02, 0.04, 5)
  entries = published.published('adding', length=600)
  table = published.table('Adding', entries, {entries[0]: ours})
  place = table.columns.index('difference')
  assert table.rows[0][place] == ours.shifted(-entries[0].value)
  assert all(row[place] is None for row in table.rows[1:])
  marks = [row[table.columns.index('mark')] for row in table.rows]
  assert marks == [entry.mark for entry in entries]
  bound = next(e for e in published.published('copy_memory') if e.relation == '<')
  assert published.table('Bound', [bound]).rows[0][4] == '< 0.2'
