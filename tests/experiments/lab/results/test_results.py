"""Tables, figures, the HTML page and published numbers."""

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
def test_csv_is_lossless(rows):
  names, *csv_rows = csv.reader(io.StringIO(Table('t', ('a', 'b', 'c'), rows).csv(), newline=''))
  has_intervals = any(row[2] is not None for row in rows)
  interval_names = ['c estimate', 'c low', 'c high', 'c count'] if has_intervals else ['c']
  assert names == ['a', 'b', *interval_names]
  for (text, number, interval), (csv_text, digits, *parts) in zip(rows, csv_rows, strict=True):
    assert csv_text == text and repr(float(digits)) == repr(number)
    if interval is None:
      assert not any(parts)
    else:
      assert repr([*map(float, parts[:3]), int(parts[3])]) == repr(list(interval))


def invert_latex_escapes(text):
  """Inverts the escapes one token at a time, as TeX parses them."""
  inverse = {escaped: plain for plain, escaped in escape._LATEX.items() if plain != '\n'}
  tokens = sorted(map(re.escape, inverse), key=len, reverse=True)
  assert re.fullmatch(rf'(?:{"|".join(tokens)}|[^\\{{}}$&#%_^~])*', text), text
  return re.sub('|'.join(tokens), lambda match: inverse[match.group()], text)


@given(text=texts.filter(lambda text: '--' not in text and '-–' not in text and '–-' not in text))
def test_latex_escapes_all_special_characters(text):
  escaped = escape.to_latex(text)
  if text[:1] in ('[', '*'):
    escaped = escaped.removeprefix('{}')
  assert invert_latex_escapes(escaped) == text.replace('\n', ' ')


@given(rows=rows)
def test_markdown_rows_have_equal_numbers_of_columns(rows):
  lines = Table('t', ('a', 'b', 'c'), rows).markdown().splitlines()[2:]
  assert len(lines) == len(rows) + 2
  assert {len(re.findall(r'(?<!\\)(?:\\\\)*\|', line)) for line in lines} == {4}


SCORE_TABLE = Table(
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


def test_all_formats_mark_the_best_values():
  assert [[cell.best for cell in row] for row in SCORE_TABLE.formatted_rows()] == [
    [False, True, True],
    [False, False, False],
    [False, False, True],
  ]
  assert SCORE_TABLE.text().count('*0.') == 3 and SCORE_TABLE.markdown().count('**0.') == 3
  assert SCORE_TABLE.latex().count(r'\textbf{0.') == 3


@given(column=st.lists(st.none() | values, min_size=1, max_size=6))
def test_the_best_value_depends_on_the_direction(column):
  def best_flags(numbers, direction):
    table = Table('t', ('x',), [(number,) for number in numbers], best={'x': direction})
    return [row[0].best for row in table.formatted_rows()]

  negated = [None if number is None else -number for number in column]
  assert best_flags(column, 'higher') == best_flags(negated, 'lower')
  assert any(best_flags(column, 'higher')) == any(number is not None for number in column)


def test_latex_is_a_complete_float():
  text = SCORE_TABLE.latex()
  assert r'\caption{Recall \& copying. Five seeds.}' in text
  assert r'\label{tab:recall-copying}' in text
  assert r'attention(num\_heads=8) & \textbf{0.990 $\pm$ 0.010} & \textbf{0.01} \\' in text
  assert r'{lrr}' in text and [text.count(rule) for rule in (r'\toprule', r'\bottomrule')] == [1, 1]


def test_wide_tables_continue_below_with_their_first_column():
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
def test_an_inconsistent_table_is_rejected(fault):
  with pytest.raises(ValueError):
    Table(**{'title': 't', 'columns': ('a', 'b'), 'rows': [(1, 2)]} | fault)


def test_tables_without_rows_render(tmp_path):
  paths = Table('Empty', ('a', 'b'), []).save(tmp_path / 'new', 'empty')
  assert [path.name for path in paths] == ['empty.txt', 'empty.md', 'empty.tex', 'empty.csv']
  assert all(path.read_text().strip() for path in paths)


# Figures


def points_with_intervals(*heights):
  return [(2**i, Interval(y, y - 0.1, y + 0.1, 5)) for i, y in enumerate(heights)]


def example_panel(**changes):
  series = {
    'lstm': points_with_intervals(0.5, 0.3, 0.2),
    'attention': points_with_intervals(1.0, math.nan, 0.9),
  }
  options = {'log_x': True, 'lines': {'chance': 0.1}} | changes
  return figures.Panel('Recall', 'length', 'accuracy', series, **options)


def test_a_name_has_the_same_style_in_all_figures():
  names = [f'layer {i}' for i in range(56)]
  styles = figures.assign_styles(names)
  assert len({(style.colour, style.marker) for style in styles.values()}) == 56
  assert figures.assign_styles(names[:3]) == {name: styles[name] for name in names[:3]}
  order = ['attention', 'gru', 'lstm']
  lines = figures.draw_figure([example_panel()], curve_order=order).axes[0].get_lines()
  assert [line.get_color() for line in lines[:2]] == [
    figures.assign_styles(order)[name].colour for name in ('lstm', 'attention')
  ]


def test_figure_files_are_deterministic_and_undated(tmp_path):
  panels = [example_panel(), example_panel(log_y=True)]
  for file_format in ('png', 'pdf'):
    first, second = (
      figures.encode_figure(figures.draw_figure(panels), file_format) for _ in range(2))
    assert first == second and b'CreationDate' not in first
  paths = figures.save_figure(figures.draw_figure(panels), tmp_path / 'new' / 'recall.v1')
  assert [path.name for path in paths] == ['recall.v1.png', 'recall.v1.pdf']


def test_length_ticks_are_integers():
  axes = figures.draw_figure([example_panel()]).axes[0]
  assert [label.get_text() for label in axes.get_xticklabels()] == ['1', '2', '4']


def test_figures_do_not_change_global_settings():
  import matplotlib

  before = {name: matplotlib.rcParams[name] for name in figures._RC_PARAMETERS}
  figures.encode_figure(figures.draw_figure([example_panel()]))
  assert before == {name: matplotlib.rcParams[name] for name in figures._RC_PARAMETERS}
  assert 'matplotlib.pyplot' not in sys.modules


@pytest.mark.parametrize(
  ('module', 'render'),
  [
    ('matplotlib', lambda: figures.draw_figure([example_panel()])),
    ('jinja2', lambda: page.render_page('t', {}, [])),
  ],
)
def test_the_error_about_a_missing_extra_has_the_install_command(monkeypatch, module, render):
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(ImportError) as caught:
    render()
  message = str(caught.value)
  assert "need an optional library: pip install -e '.[report]'" in message


def test_undecodable_bytes_become_question_marks_on_the_page(tmp_path):
  path = page.write_page(tmp_path / 'page.html', page.render_page('runs/\udcff', {}, []))
  assert '<title>runs/?</title>' in path.read_text()


# The page


class WellFormedPage(html.parser.HTMLParser):
  """The texts, ids and links of an HTML page whose tags are properly nested."""

  def __init__(self, text):
    super().__init__()
    self.open, self.texts, self.ids, self.addresses = [], [], [], []
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
    self.texts.append(data)


MARKUP = '<script>alert("&")</script>'


@pytest.fixture(scope='module')
def report_html():
  table = Table(MARKUP, ('layer', MARKUP), [(MARKUP, 1.5)], caption=MARKUP, best={MARKUP: 'higher'})
  picture = page.Picture(figures.encode_figure(figures.draw_figure([example_panel()])), MARKUP)
  sections = [
    page.Section('Same', f'First {MARKUP}.\n\nThen `a < b`.', [table, SCORE_TABLE], [picture]),
    page.Section('Same'),
  ]
  verdicts = [page.Verdict(MARKUP, verdict, MARKUP, source=MARKUP) for verdict in page.SIGNS]
  verdicts.append(page.Verdict('Claim', 'supported', 'twice', Interval(2, 1.9, 2.1, 5), 5))
  provenance = {'device': MARKUP, 'versions': {'jax': '1'}}
  return page.render_page(MARKUP, provenance, sections, verdicts, MARKUP)


def test_the_page_is_well_formed_and_self_contained(report_html):
  parsed = WellFormedPage(report_html)
  for address in parsed.addresses:
    assert address.startswith(('#', 'data:')), address
    assert not address.startswith('#') or address[1:] in parsed.ids
  assert len(set(parsed.ids)) == len(parsed.ids)
  assert 'http' not in report_html.replace(MARKUP, '')


def test_text_is_escaped(report_html):
  assert '<script' not in report_html
  text = ''.join(WellFormedPage(report_html).texts)
  assert text.count(MARKUP) >= 12


def test_the_page_contains_verdicts_data_and_provenance(report_html):
  content = ' '.join(''.join(WellFormedPage(report_html).texts).split())
  for text in ('✓ supported', '✕ contradicted', '2.00 ± 0.10', 'jax 1', r'\toprule', 'loss'):
    assert text in content, text
  assert '<code>a &lt; b</code>' in report_html and report_html.count('class="number best"') >= 3


def test_the_page_is_written_atomically(tmp_path, monkeypatch):
  path = page.write_page(tmp_path / 'new' / 'report.html', page.render_page('First', {}, []))
  first = path.read_bytes()
  monkeypatch.setattr('os.replace', lambda *_: (_ for _ in ()).throw(OSError(28, 'full')))
  with pytest.raises(OSError):
    page.write_page(path, page.render_page('Second', {}, []))
  assert path.read_bytes() == first and list(path.parent.iterdir()) == [path]


def test_an_unknown_verdict_is_rejected():
  with pytest.raises(ValueError, match='maybe'):
    page.Verdict('Claim', 'maybe')


# Published numbers


def test_every_published_number_has_a_source():
  entries = published.find_published_numbers()
  assert len(entries) == len({(e.task, e.layer, e.metric, e.source, e.settings) for e in entries})
  for entry in entries:
    assert entry.reliability in published.RELIABILITIES and entry.relation in ('=', '<')
    assert entry.metric and entry.selection and entry.protocol and entry.source
    assert math.isfinite(entry.value)


def test_trivial_baselines_equal_their_closed_forms():
  (adding,) = published.find_published_numbers('adding', 'trivial', length=600)
  assert adding.value == pytest.approx(1 / 6)
  copying = published.find_published_numbers('copy_memory', 'trivial')
  for entry in copying:
    delay = dict(entry.settings)['delay']
    assert entry.value == pytest.approx(10 * math.log(8) / (delay + 20), abs=1e-7)
  assert {dict(entry.settings)['delay'] for entry in copying} >= {100, 500, 1000}


def test_lookup_compares_only_the_settings_of_an_entry():
  (entry,) = published.find_published_numbers(
    'recall', 'attention', length=64, num_pairs=4, width=64, seed=3)
  assert entry.value == 1.0 and entry.reliability == 'read off a figure'
  assert published.find_published_numbers('recall', 'attention', length=65) == ()
  numbers = published.find_published_numbers('recall')
  sizes = {(e.layer, *dict(e.settings).values()) for e in numbers}
  assert len(sizes) == 5 * 4 * 4


def test_the_comparison_table_has_the_difference_from_published_numbers():
  ours = Interval(0.03, 0.02, 0.04, 5)
  entries = published.find_published_numbers('adding', length=600)
  table = published.published_numbers_table('Adding', entries, {entries[0]: ours})
  column = table.columns.index('measured minus published')
  assert table.rows[0][column] == ours.add_offset(-entries[0].value)
  assert all(row[column] is None for row in table.rows[1:])
  reliabilities = [row[table.columns.index('reliability')] for row in table.rows]
  assert reliabilities == [entry.reliability for entry in entries]
  bound = next(e for e in published.find_published_numbers('copy_memory') if e.relation == '<')
  assert published.published_numbers_table('Bound', [bound]).rows[0][4] == '< 0.2'
