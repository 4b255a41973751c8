"""What tables, figures and the page do to numbers and text."""

import csv
import html.parser
import io
import math
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.lab.results import escape, figures, published
from experiments.lab.results.statistics import Interval
from experiments.lab.results.table import Table
from experiments.report import page

values = st.floats(-1e6, 1e6).map(lambda value: round(value, 6))


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
  assert "need the extra: pip install -e '.[report]'" in message


def test_a_name_that_is_no_text_has_a_question_mark_on_the_page(tmp_path):
  path = page.write(tmp_path / 'page.html', 'runs/\udcff', {}, [])
  assert '<title>runs/?</title>' in path.read_text()


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
