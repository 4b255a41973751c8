"""Which parts of the Transformer matter? Table 3 of the 2017 paper, at a scale that fits.

  python -m experiments.variations --preset=quick --runs=runs/quick

Every row of the table keeps its proportions to base: heads, widths of keys and values, depth,
width, the feed-forward's width, dropout, label smoothing, learned positions, and big. `quick` has
base at an eighth of its width and half of its depth, on spelled-out numbers; the model is the
paper's, post-norm, with its recipe. Beside our columns stand the paper's, and the parameters that
the paper's own sizes come to, with the vocabulary that its printed counts imply.
"""

import collections

from experiments.launch import flags, questions
from experiments.launch.questions import Preset, Question

STUDY = 'variations'

BASE_STEPS = 100_000  # of the paper's base
PRINTED = ('perplexity per wordpiece', 'BLEU', 'parameters in millions')
ROWS = (
  'base', 'A: 1 head', 'A: 4 heads', 'A: 16 heads', 'A: 32 heads', 'B: d_k 16', 'B: d_k 32',
  'C: 2 layers', 'C: 4 layers', 'C: 8 layers', 'C: d_model 256', 'C: d_model 1024', 'C: d_ff 1024',
  'C: d_ff 4096', 'D: no dropout', 'D: dropout 0.2', 'D: no label smoothing',
  'D: label smoothing 0.2', 'E: learned positions',
)
PAPER = {  # the recipe, sections 5.3 and 5.4
  'feedforward': 'relu', 'shell': 'post', 'optimizer': 'adam', 'beta2': 0.98, 'epsilon': 1e-9,
  'schedule': 'inverse_sqrt', 'clip': 0.0, 'match': 'none', 'stop_when_solved': False,
}
PRESETS = {
  # Every line that `paper` goes through but its corpus, in the least time.
  'smoke': Preset(
    layers=('base', 'B: d_k 16', 'E: learned positions'),
    questions=(Question('number_words(pairs=500)', (2,)),),
    settings=PAPER | {
      'width': 64, 'depth': 1, 'steps': 4, 'batch_size': 8, 'validations': 2,
      'validation_batches': 1, 'test_batches': 1, 'seeds': (0, 1), 'learning_rates': (1e-3,),
    },
  ),
  # For two CPU cores: under twenty minutes.
  'quick': Preset(
    layers=ROWS,
    questions=(Question('number_words(source=de, target=en)', (6,)),),
    settings=PAPER | {
      'width': 64, 'depth': 3, 'steps': 500, 'warmup': 0.2, 'batch_size': 32, 'validations': 5,
      'test_batches': 8, 'learning_rates': (3e-3,),
    },
  ),
  # The table itself; without averaging, as the paper says.
  'paper': Preset(
    layers=(*ROWS, 'big'),
    questions=(Question('corpus', (256,)),),
    settings=PAPER | {
      'width': 512, 'depth': 6, 'steps': 100_000, 'warmup': 0.04, 'validations': 100, 'beam': 4,
      'learning_rates': (6.99e-4,), 'seeds': (0,),
    },
  ),
}


def define() -> None:
  """The study's flags."""
  questions.define(PRESETS)


def variation(row, width: int, depth: int, steps: int) -> dict:
  """What is a row's own in its run, at the proportions of a base of so much width and depth."""
  from experiments.launch import spec

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


def grid() -> list:
  """The runs that the flags ask for; --layers names rows."""
  from experiments.launch import spec
  from experiments.launch.errors import no_such
  from transformer.presets import TABLE_3

  preset = flags.preset(PRESETS)
  wanted = spec.split(flags.FLAGS.layers) if flags.given('layers') else preset.layers
  for row in wanted:
    if row not in TABLE_3:
      raise no_such('row', row, TABLE_3)
  base = preset.settings | flags.settings()
  sizes = {name: base[name] for name in ('width', 'depth', 'steps')}
  return [
    flags.make_run(**base | variation(TABLE_3[row], **sizes) | {'task': task})
    for question in questions.wanted(preset)
    for task in questions.distances(question)
    for row in wanted
  ]


def base_of(runs: list[dict]) -> tuple[int, int, int]:
  """Width, depth and steps of the base that runs are variations of: what most of them have."""
  sizes = collections.Counter((run['width'], run['depth'], run['steps']) for run in runs)
  return sizes.most_common(1)[0][0]


def row_of(run: dict, base: tuple[int, int, int]) -> str:
  """The row whose proportions to a base a run has; its model where it has those of none."""
  from experiments.launch.errors import BadInput
  from transformer.presets import TABLE_3

  for name, row in TABLE_3.items():
    try:
      settings = variation(row, *base)
    except BadInput:  # no model of the row is so wide
      continue
    if all(run.get(field) == value for field, value in settings.items()):
      return name
  return run['layer']


def report(records: list[dict]):
  """The table, ours beside the paper's, and what the paper's own sizes come to."""
  return [variations_table(records), parameter_table()], panels(records)


def variations_table(records: list[dict]):
  """Perplexity, BLEU and exact match of every row, with the paper's columns."""
  from experiments.results import published, translations
  from experiments.results.table import Table

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
  import numpy as np

  from experiments.results import scores
  from experiments.results.statistics import mean_interval

  with np.errstate(over='ignore'):
    return mean_interval(np.exp([member['test_loss'] for member in scores.chosen(record)]))


def panels(records: list[dict]):
  """Perplexity against parameters, the rows of a letter in one colour."""
  from experiments.results.figures import Panel

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
  from experiments.results import published
  from experiments.results.table import Table
  from transformer.presets import TABLE_3, VOCABULARY, implied_vocabulary

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


def main() -> None:
  """Trains the missing rows, prints the tables, and leaves them as files."""
  from experiments.results import publish

  publish.study(STUDY, *report(questions.train(STUDY, grid())), flags.FLAGS.runs)


if __name__ == '__main__':
  flags.main(main, define, __doc__)
