"""The report: one page that needs nothing else, opens with the verdicts, and shows every study."""

import base64
import html.parser
import pathlib
import re
import subprocess
import sys

import pytest

from experiments import STUDIES, load
from experiments.claims.stated import CLAIMS
from experiments.report import __main__ as report
from tests.support import command, records, world

ROOT = pathlib.Path(__file__).parents[3]
PNG = b'\x89PNG\r\n\x1a\n'
VOID = {'area', 'base', 'br', 'col', 'hr', 'img', 'input', 'link', 'meta', 'source', 'wbr'}


class Page(html.parser.HTMLParser):
  """What a browser would read of a page: its tags, its texts, in their order."""

  def __init__(self, text):
    super().__init__()
    self.text, self.tags, self.said, self.open, self.unclosed = text, [], [], [], []
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    if not self.open or self.open.pop() != tag:
      self.unclosed.append(tag)

  def handle_data(self, data):
    if data.strip():
      self.said.append((self.open[-1] if self.open else '', ' '.join(data.split())))

  def values(self, name):
    return [attributes[name] for _, attributes in self.tags if attributes.get(name) is not None]

  def at(self, text, tag=None):
    """Where a text stands among all texts."""
    return next(i for i, (where, said) in enumerate(self.said)
                if said == text and tag in (None, where))


def stored(folder, made):
  records.stored(folder, made)
  return folder


@pytest.fixture(scope='module')
def reported(tmp_path_factory):
  """A folder with records of every study, and the report on it."""
  lengths = [{'batch': 1, 'length': length, 'heads': 4, 'head_width': 32} for length in (64, 128)]
  made = [*world.world(), *(records.contested(sizes=sizes) for sizes in lengths)]
  runs = stored(tmp_path_factory.mktemp('report') / 'runs', made)
  return runs, command.run(report, f'--runs={runs}')


@pytest.fixture(scope='module')
def page(reported):
  return Page((reported[0] / 'report.html').read_text())


def test_the_report_is_one_file_beside_its_tables(reported):
  runs, done = reported
  assert (done.code, done.err) == (0, '')
  assert f'report: {runs / "report.html"}' in done.out.splitlines()
  assert {path.name for path in runs.iterdir()} == {'cells', 'report', 'report.html'}


def test_the_page_needs_nothing_but_itself(page):
  assert page.unclosed == page.open == []
  for address in page.values('src') + page.values('srcset'):
    assert address.startswith('data:')
  for address in page.values('href'):
    assert address.startswith(('#', 'data:'))
  tags = [tag for tag, _ in page.tags]
  assert not {'script', 'iframe', 'object', 'embed', 'base', 'form'} & set(tags)
  assert all(attributes.get('rel') == 'icon' for tag, attributes in page.tags if tag == 'link')
  assert not [name for _, attributes in page.tags for name in attributes if name.startswith('on')]
  assert 'http-equiv' not in page.text
  (style,) = re.findall(r'<style>(.*?)</style>', page.text, re.DOTALL)
  assert '@import' not in style and '@font-face' not in style and 'url(' not in style


def test_every_link_leads_somewhere_and_every_place_has_one_name(page):
  names = page.values('id')
  assert len(set(names)) == len(names)
  links = [address[1:] for address in page.values('href') if address.startswith('#')]
  assert links and set(links) <= set(names)


def test_every_picture_is_in_the_page_and_is_described(page):
  pictures = [attributes for tag, attributes in page.tags if tag == 'img']
  assert len(pictures) == len(STUDIES)
  for picture in pictures:
    kind, data = picture['src'].split(',', 1)
    assert kind == 'data:image/png;base64' and base64.b64decode(data).startswith(PNG)
    assert picture['alt']


def test_the_verdicts_come_first_then_each_study_then_where_it_comes_from(page):
  first = min(page.at(claim.statement, 'td') for claim in CLAIMS)
  last = max(page.at(claim.statement, 'td') for claim in CLAIMS)
  headings = [load(name).question.partition('\n')[0] for name in STUDIES]
  places = [page.at(text, 'h2') for text in [*headings, 'Where these numbers come from']]
  order = [page.at(report.TITLE, 'h1'), first, last, *places]
  assert order == sorted(order)
  assert not [said for tag, said in page.said[:first] if tag == 'h2']


def test_the_scoreboard_has_every_claim_with_its_verdict(page):
  statements = [claim.statement for claim in CLAIMS]
  rows = [said for tag, said in page.said if tag == 'td' and said in statements]
  assert rows == statements
  said = [words for _, words in page.said[: page.at(statements[-1]) + 8]]
  assert said.count('supported') == len(statements) + 1  # each row's badge, and the count of them


def test_every_layer_and_question_of_the_records_is_on_the_page(page):
  said = {words for _, words in page.said}
  for record in world.world():
    if record['study'] == 'retention':
      result = record['result']
      assert {record['run']['layer'], f'{result["title"]} {result["distance"]}'} <= said


def test_the_page_says_how_to_make_it_again(reported, page):
  for name in (*STUDIES, 'report'):
    assert f'python -m experiments.{name} --runs={reported[0]}' in page.text


def few():
  """Records of one study: pages of all of them take their time."""
  return [record for record in world.world() if record['study'] == 'retention']


def test_broken_controls_are_named_on_the_scoreboard(tmp_path):
  made = few()
  for record in made:
    record['result']['controls']['guess'] = 0.9
  runs = stored(tmp_path, made)
  done = command.run(report, f'--runs={runs}', '--title=<b>1 & 2</b>')
  assert done.code == 0
  page = Page((runs / 'report.html').read_text())
  void = sum(claim.study == 'retention' for claim in CLAIMS)
  assert sum('control failed: guess' in words for tag, words in page.said if tag == 'span') == void
  assert page.at('<b>1 & 2</b>', 'h1') and ('b', '1 & 2') not in page.said


def test_unfinished_cells_are_reported_too(tmp_path):
  failed = records.trained('lstm', 'recall', 20, (0.1, 0.2)) | {
    'status': 'out of memory', 'reason': '80 GB', 'result': {}}
  runs = stored(tmp_path, [failed])
  done = command.run(report, f'--runs={runs}')
  assert (done.code, done.err) == (0, '')
  page = Page((runs / 'report.html').read_text())
  assert page.at('out of memory') and page.at('80 GB')
  assert all(tag != 'img' for tag, _ in page.tags)


def test_the_same_records_give_the_same_page(tmp_path):
  runs = stored(tmp_path / 'runs', few())
  assert command.run(report, f'--runs={runs}').code == 0
  before = (runs / 'report.html').read_bytes()
  assert command.run(report, f'--runs={runs}').code == 0
  assert (runs / 'report.html').read_bytes() == before


@pytest.mark.parametrize('make', [False, True], ids=['missing', 'empty'])
def test_a_folder_without_records_is_one_line_that_says_what_to_run(tmp_path, make):
  runs = tmp_path / 'runs'
  if make:
    runs.mkdir()
  done = command.run(report, f'--runs={runs}')
  assert (done.code, done.out) == (2, '')
  (line,) = done.err.splitlines()
  assert f'no results in {runs}' in line and '-m experiments.retention' in line
  assert list(tmp_path.rglob('*')) == ([runs] if make else [])


def test_a_folder_in_the_place_of_the_page_is_one_line(tmp_path):
  runs = stored(tmp_path / 'runs', few())
  (runs / 'report.html').mkdir()
  done = command.run(report, f'--runs={runs}')
  (line,) = done.err.splitlines()
  assert done.code == 2 and line.startswith(f'cannot use {runs / "report.html"}: it is a folder')


@pytest.mark.parametrize('missing', ['jinja2', 'matplotlib'])
def test_a_missing_library_is_one_line_that_says_what_to_install(tmp_path, missing):
  runs = stored(tmp_path, few())
  code = (
    'import sys\n'
    f'sys.modules[{missing!r}] = None\n'
    'from experiments.report import __main__ as report\n'
    'from experiments.lab.launch import flags\n'
    'flags.main(report.main, report.define, report.__doc__)\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code, f'--runs={runs}'],
    cwd=ROOT, capture_output=True, text=True, check=False,
  )
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert "pip install -e '.[report]'" in line
  assert not (runs / 'report.html').exists()
