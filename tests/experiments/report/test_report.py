"""The report page, which is self-contained, begins with the verdicts and has every study."""

import base64
import html.parser
import pathlib
import re
import subprocess
import sys

import pytest

from experiments import STUDIES, load_study
from experiments.claims.registry import CLAIMS
from experiments.report import __main__ as report
from tests.support import command, records, study_records

ROOT = pathlib.Path(__file__).parents[3]
PNG = b'\x89PNG\r\n\x1a\n'
VOID_ELEMENTS = {'area', 'base', 'br', 'col', 'hr', 'img', 'input', 'link', 'meta', 'source', 'wbr'}


class ParsedPage(html.parser.HTMLParser):
  """The tags and texts of an HTML page in their order."""

  def __init__(self, text):
    super().__init__()
    self.text, self.tags, self.texts, self.open, self.unclosed = text, [], [], [], []
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))
    if tag not in VOID_ELEMENTS:
      self.open.append(tag)

  def handle_endtag(self, tag):
    if not self.open or self.open.pop() != tag:
      self.unclosed.append(tag)

  def handle_data(self, data):
    if data.strip():
      self.texts.append((self.open[-1] if self.open else '', ' '.join(data.split())))

  def attribute_values(self, name):
    return [attributes[name] for _, attributes in self.tags if attributes.get(name) is not None]

  def index_of_text(self, text, tag=None):
    """Returns the position of a text among all texts, in an element of the given tag."""
    return next(i for i, (element, content) in enumerate(self.texts)
                if content == text and tag in (None, element))


def store_in_folder(folder, new_records):
  records.store_records(folder, new_records)
  return folder


@pytest.fixture(scope='module')
def report_folder_and_result(tmp_path_factory):
  """Returns a folder with records of every study and the result of the report command."""
  lengths = [{'batch': 1, 'length': length, 'heads': 4, 'head_width': 32} for length in (64, 128)]
  benchmarks = [records.benchmark_record(sizes=sizes) for sizes in lengths]
  runs = store_in_folder(
    tmp_path_factory.mktemp('report') / 'runs',
    [*study_records.records_of_all_studies(), *benchmarks])
  return runs, command.run_command(report, f'--runs={runs}')


@pytest.fixture(scope='module')
def page(report_folder_and_result):
  return ParsedPage((report_folder_and_result[0] / 'report.html').read_text())


def test_the_report_is_one_file_with_a_folder_of_tables(report_folder_and_result):
  runs, result = report_folder_and_result
  assert (result.code, result.err) == (0, '')
  assert f'report: {runs / "report.html"}' in result.out.splitlines()
  assert {path.name for path in runs.iterdir()} == {'cells', 'report', 'report.html'}


def test_the_page_is_self_contained(page):
  assert page.unclosed == page.open == []
  for address in page.attribute_values('src') + page.attribute_values('srcset'):
    assert address.startswith('data:')
  for address in page.attribute_values('href'):
    assert address.startswith(('#', 'data:'))
  tags = [tag for tag, _ in page.tags]
  assert not {'script', 'iframe', 'object', 'embed', 'base', 'form'} & set(tags)
  assert all(attributes.get('rel') == 'icon' for tag, attributes in page.tags if tag == 'link')
  assert not [name for _, attributes in page.tags for name in attributes if name.startswith('on')]
  assert 'http-equiv' not in page.text
  (style,) = re.findall(r'<style>(.*?)</style>', page.text, re.DOTALL)
  assert '@import' not in style and '@font-face' not in style and 'url(' not in style


def test_every_link_has_a_target_and_ids_are_unique(page):
  names = page.attribute_values('id')
  assert len(set(names)) == len(names)
  links = [address[1:] for address in page.attribute_values('href') if address.startswith('#')]
  assert links and set(links) <= set(names)


def test_every_image_is_embedded_and_has_a_text_alternative(page):
  pictures = [attributes for tag, attributes in page.tags if tag == 'img']
  assert len(pictures) == len(STUDIES)
  for picture in pictures:
    kind, data = picture['src'].split(',', 1)
    assert kind == 'data:image/png;base64' and base64.b64decode(data).startswith(PNG)
    assert picture['alt']


def test_the_page_has_verdicts_then_studies_then_provenance(page):
  first = min(page.index_of_text(claim.statement, 'td') for claim in CLAIMS)
  last = max(page.index_of_text(claim.statement, 'td') for claim in CLAIMS)
  headings = [load_study(name).question.partition('\n')[0] for name in STUDIES]
  sections = [page.index_of_text(text, 'h2') for text in [*headings, 'Provenance']]
  order = [page.index_of_text(report.TITLE, 'h1'), first, last, *sections]
  assert order == sorted(order)
  assert not [text for tag, text in page.texts[:first] if tag == 'h2']


def test_the_table_of_verdicts_has_every_claim(page):
  statements = [claim.statement for claim in CLAIMS]
  rows = [text for tag, text in page.texts if tag == 'td' and text in statements]
  assert rows == statements
  texts = [text for _, text in page.texts[: page.index_of_text(statements[-1]) + 8]]
  # The word is in each row and beside the number of supported claims.
  assert texts.count('supported') == len(statements) + 1


def test_every_layer_and_task_is_on_the_page(page):
  texts = {text for _, text in page.texts}
  for record in study_records.records_of_all_studies():
    if record['study'] == 'retention':
      result = record['result']
      assert {record['run']['layer'], f'{result["title"]} {result["distance"]}'} <= texts


def test_the_page_has_the_commands_that_reproduce_it(report_folder_and_result, page):
  for name in (*STUDIES, 'report'):
    assert f'python -m experiments.{name} --runs={report_folder_and_result[0]}' in page.text


def retention_records():
  """Returns the records of a single study, because pages of all studies are slow."""
  return [
    record for record in study_records.records_of_all_studies() if record['study'] == 'retention']


def test_the_table_of_verdicts_has_the_failed_controls(tmp_path):
  broken = retention_records()
  for record in broken:
    record['result']['controls']['baseline'] = 0.9
  runs = store_in_folder(tmp_path, broken)
  result = command.run_command(report, f'--runs={runs}', '--title=<b>1 & 2</b>')
  assert result.code == 0
  page = ParsedPage((runs / 'report.html').read_text())
  reasons = [text for tag, text in page.texts if tag == 'span' and 'control failed' in text]
  assert len(reasons) == sum(claim.study == 'retention' for claim in CLAIMS)
  assert all('control failed: baseline' in reason for reason in reasons)
  assert page.index_of_text('<b>1 & 2</b>', 'h1') and ('b', '1 & 2') not in page.texts


def test_unfinished_cells_are_on_the_page(tmp_path):
  failed = records.training_record('lstm', 'recall', 20, (0.1, 0.2)) | {
    'status': 'out of memory', 'reason': '80 GB', 'result': {}}
  runs = store_in_folder(tmp_path, [failed])
  result = command.run_command(report, f'--runs={runs}')
  assert (result.code, result.err) == (0, '')
  page = ParsedPage((runs / 'report.html').read_text())
  assert page.index_of_text('out of memory') and page.index_of_text('80 GB')
  assert all(tag != 'img' for tag, _ in page.tags)


def test_equal_records_have_equal_pages(tmp_path):
  runs = store_in_folder(tmp_path / 'runs', retention_records())
  assert command.run_command(report, f'--runs={runs}').code == 0
  before = (runs / 'report.html').read_bytes()
  assert command.run_command(report, f'--runs={runs}').code == 0
  assert (runs / 'report.html').read_bytes() == before


@pytest.mark.parametrize('exists', [False, True], ids=['missing', 'empty'])
def test_the_error_about_a_folder_without_records_has_a_command(tmp_path, exists):
  runs = tmp_path / 'runs'
  if exists:
    runs.mkdir()
  result = command.run_command(report, f'--runs={runs}')
  assert (result.code, result.out) == (2, '')
  (line,) = result.err.splitlines()
  assert f'no results in {runs}' in line and '-m experiments.retention' in line
  assert list(tmp_path.rglob('*')) == ([runs] if exists else [])


def test_a_folder_with_the_name_of_the_page_is_a_one_line_error(tmp_path):
  runs = store_in_folder(tmp_path / 'runs', retention_records())
  (runs / 'report.html').mkdir()
  result = command.run_command(report, f'--runs={runs}')
  (line,) = result.err.splitlines()
  assert result.code == 2 and line.startswith(f'cannot use {runs / "report.html"}: it is a folder')


@pytest.mark.parametrize('missing', ['jinja2', 'matplotlib'])
def test_the_error_about_a_missing_library_has_the_install_command(tmp_path, missing):
  runs = store_in_folder(tmp_path, retention_records())
  code = (
    'import sys\n'
    f'sys.modules[{missing!r}] = None\n'
    'from experiments.report import __main__ as report\n'
    'from experiments.lab.launch import flags\n'
    'flags.run_command_line(report.main, report.define_flags, report.__doc__)\n'
  )
  process = subprocess.run(
    [sys.executable, '-c', code, f'--runs={runs}'],
    cwd=ROOT, capture_output=True, text=True, check=False,
  )
  assert process.returncode == 2
  (line,) = process.stderr.splitlines()
  assert "pip install -e '.[report]'" in line
  assert not (runs / 'report.html').exists()
