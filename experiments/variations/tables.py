"""Our rows of Table 3 beside the paper's, and what the paper's own sizes come to."""

import collections

import numpy as np

from experiments.lab.cells import spec
from experiments.lab.errors import BadInput
from experiments.lab.results import published, scores, translations
from experiments.lab.results.figures import Panel
from experiments.lab.results.statistics import mean_interval
from experiments.lab.results.table import Table
from transformer.presets import TABLE_3, VOCABULARY, implied_vocabulary

PRINTED = ('perplexity per wordpiece', 'BLEU', 'parameters in millions')
BASE_STEPS = 100_000  # of the paper's base


def variation(row, width: int, depth: int, steps: int) -> dict:
  """What is a row's own in its run, at the proportions of a base of so much width and depth."""
  scaled = row.scaled(depth, width)
  heads = f'num_heads={scaled.heads}, positions={scaled.positions}'
  widths = f'key_width={scaled.key_width}, value_width={scaled.value_width}'
  (layer,) = spec.canonical([f'transformer(attention({heads}, {widths}))'], 'translator')
  return {
    'layer': layer,
    'width': scaled.width,
    'depth': scaled.depth,
    'expansion': scaled.inner / scaled.width,
    'dropout': scaled.dropout,
    'label_smoothing': scaled.label_smoothing,
    'steps': steps * row.steps // BASE_STEPS,
  }


def base_of(runs: list[dict]) -> tuple[int, int, int]:
  """Width, depth and steps of the base that runs are variations of: what most of them have."""
  sizes = collections.Counter((run['width'], run['depth'], run['steps']) for run in runs)
  return sizes.most_common(1)[0][0]


def row_of(run: dict, base: tuple[int, int, int]) -> str:
  """The row whose proportions to a base a run has; its model where it has those of none."""
  for name, row in TABLE_3.items():
    try:
      settings = variation(row, *base)
    except BadInput:  # no model of the row is so wide
      continue
    if all(run.get(field) == value for field, value in settings.items()):
      return name
  return run['layer']


def variations_table(records: list[dict]):
  """Perplexity, BLEU and exact match of every row, with the paper's columns."""
  printed = {
    (dict(entry.settings)['row'], entry.metric): entry.value
    for entry in published.published(task='variations')
  }
  rows, runs = [], [record['run'] for record in records]
  for record in records:
    name = row_of(record['run'], base_of(runs))
    if record['status'] != 'finished':
      rows.append((name, record['run']['task'], record['status'], *[None] * 7))
      continue
    result = record['result']
    written = result.get('written', ())[:1]  # nothing, where every member of the rate diverged
    rows.append((
      name, result['title'], perplexity(record),
      *(judge(written[0]) if written else None
        for judge in (translations.bleu, translations.exact_match)), result['parameters'],
      *(printed.get((name, metric)) for metric in PRINTED),
    ))
  return Table(
    'Variations: Table 3 at scale',
    ('row', 'task', 'perplexity', 'BLEU', 'exact match', 'parameters', "paper's perplexity",
     "paper's BLEU", "paper's parameters (10^6)"),
    rows,
    "Test split; perplexity a token, mean over seeds with Student's 95 % interval; sacreBLEU with "
    "a bootstrap interval over sentences. The paper's columns: newstest2013, English to German, at "
    'the full size (second-hand). Base is the size that most rows have.',
    {'perplexity': 'lower', 'BLEU': 'higher', 'exact match': 'higher'} if len(rows) > 1 else {},
  )


def perplexity(record: dict):
  """The exponential of the test loss, its mean over seeds; infinite where it is no float64."""
  with np.errstate(over='ignore'):
    return mean_interval(np.exp([member['test_loss'] for member in scores.chosen(record)]))


def panels(records: list[dict]):
  """Perplexity against parameters, the rows of a letter in one colour."""
  series, runs = {}, [record['run'] for record in records]
  for record in records:
    if record['status'] == 'finished':
      name = row_of(record['run'], base_of(runs)).partition(':')[0]
      point = record['result']['parameters'], perplexity(record)
      series.setdefault(name, []).append(point)
  title = 'Table 3 at scale'
  return [Panel(title, 'parameters', 'perplexity', series, log_x=True)] if series else []


def parameter_table():
  """The paper's sizes, counted, beside its printed counts."""
  printed = {
    dict(entry.settings)['row']: entry.value
    for entry in published.published(task='variations') if entry.metric == PRINTED[-1]
  }
  rows = []
  for name, row in TABLE_3.items():
    count, there = row.parameters() / 1e6, printed.get(name)
    rows.append((
      name, row.depth, row.width, row.inner, row.heads, row.key_width, row.value_width,
      round(count, 1), there, None if there is None else f'{count / there - 1:+.1%}',
      None if there is None else implied_vocabulary(row, there * 1e6),
    ))
  return Table(
    'Variations: parameters of the paper\'s models',
    ('row', 'N', 'd_model', 'd_ff', 'h', 'd_k', 'd_v', 'parameters (10^6)', 'printed',
     'difference', 'implied vocabulary'),
    rows,
    f'Counted at {VOCABULARY} shared tokens, as the paper says. Implied: the tokens with which a '
    'row would have as many parameters as are printed (to half a million, which is 1000 tokens at '
    'd_model 512); no single vocabulary fits all of them.',
  )
