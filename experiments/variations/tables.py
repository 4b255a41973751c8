"""Measured and published results and parameter counts of the models in Table 3 of Vaswani 2017."""

import collections

import numpy as np

from experiments.lab.cells import spec
from experiments.lab.errors import BadInput
from experiments.lab.results import published, scores, translation_scores
from experiments.lab.results.figures import Panel
from experiments.lab.results.statistics import mean_with_confidence_interval
from experiments.lab.results.table import Table
from transformer.presets import TABLE_3, VOCABULARY, infer_vocabulary_size

PUBLISHED_METRICS = ('perplexity per wordpiece', 'BLEU', 'parameters in millions')
BASE_STEPS = 100_000  # training steps of the base model in the paper


def settings_of_vaswani_table_3_row(row, width: int, depth: int, steps: int) -> dict:
  """Run settings of a model in Table 3 of Vaswani 2017, scaled in proportion to the base model.

  Args:
    row: the row, a preset of the Transformer.
    width: the width of the base model.
    depth: the number of layers of the encoder and of the decoder of the base model.
    steps: the training steps of the base model.

  Returns:
    The settings by name.

  """
  scaled = row.rescale_for_new_base_size(depth, width)
  heads = f'num_heads={scaled.heads}, positions={scaled.positions}'
  widths = f'key_width={scaled.key_width}, value_width={scaled.value_width}'
  (layer,) = spec.remove_default_options_from_specs(
    [f'transformer(attention({heads}, {widths}))'], 'translator')
  return {
    'layer': layer,
    'width': scaled.width,
    'depth': scaled.depth,
    'expansion': scaled.inner / scaled.width,
    'dropout': scaled.dropout,
    'label_smoothing': scaled.label_smoothing,
    'steps': steps * row.steps // BASE_STEPS,
  }


def infer_base_model_sizes(runs: list[dict]) -> tuple[int, int, int]:
  """Infers the base model's width, depth and steps as the most frequent combination of all runs."""
  sizes = collections.Counter((run['width'], run['depth'], run['steps']) for run in runs)
  return sizes.most_common(1)[0][0]


def name_of_vaswani_table_3_row(run: dict, base_sizes: tuple[int, int, int]) -> str:
  """The name of the row in Table 3 of Vaswani 2017 whose settings equal the settings of a run.

  If there is no such row, the result is the layer of the run.
  """
  for name, row in TABLE_3.items():
    try:
      settings = settings_of_vaswani_table_3_row(row, *base_sizes)
    except BadInput:  # raised if the row has no model of this width
      continue
    if all(run.get(field) == value for field, value in settings.items()):
      return name
  return run['layer']


def variations_table(records: list[dict]):
  """Table of perplexity, BLEU and exact match of Transformer variants, with published results."""
  published_values = {
    (dict(entry.settings)['row'], entry.metric): entry.value
    for entry in published.find_published_numbers(task='variations')
  }
  rows, runs = [], [record['run'] for record in records]
  for record in records:
    name = name_of_vaswani_table_3_row(record['run'], infer_base_model_sizes(runs))
    if record['status'] != 'finished':
      rows.append((name, record['run']['task'], record['status'], *[None] * 7))
      continue
    result = record['result']
    # No translations are stored if every ensemble member diverged at the best learning rate.
    outputs = result.get('written', ())[:1]
    rows.append((
      name, result['title'], perplexity_interval(record),
      *(metric(outputs[0]) if outputs else None
        for metric in (translation_scores.bleu, translation_scores.exact_match_rate)),
      result['parameters'],
      *(published_values.get((name, metric)) for metric in PUBLISHED_METRICS),
    ))
  return Table(
    'Variations: rows of Table 3 at reduced size',
    ('row', 'task', 'perplexity', 'BLEU', 'exact match', 'parameters', 'perplexity in the paper',
     'BLEU in the paper', 'parameters in the paper (10^6)'),
    rows,
    "On the test split. Perplexity per token: mean over seeds with Student's 95 % interval. BLEU: "
    'sacreBLEU with a bootstrap interval over sentences. Columns of the paper: newstest2013, '
    'English to German, at full size, from a secondary source. The base model has the width, depth '
    'and steps of most rows.',
    {'perplexity': 'lower', 'BLEU': 'higher', 'exact match': 'higher'} if len(rows) > 1 else {},
  )


def perplexity_interval(record: dict):
  """Mean and confidence interval over seeds of the test perplexity exp(loss).

  The perplexity is infinite if it overflows float64.
  """
  losses = [member['test_loss'] for member in scores.results_at_best_learning_rate(record)]
  with np.errstate(over='ignore'):
    return mean_with_confidence_interval(np.exp(losses))


def perplexity_panels(records: list[dict]):
  """A panel of perplexity against parameters, with a series for each group of model variations."""
  series, runs = {}, [record['run'] for record in records]
  for record in records:
    if record['status'] == 'finished':
      name = name_of_vaswani_table_3_row(record['run'], infer_base_model_sizes(runs))
      point = record['result']['parameters'], perplexity_interval(record)
      series.setdefault(name.partition(':')[0], []).append(point)
  title = 'rows of Table 3 at reduced size'
  return [Panel(title, 'parameters', 'perplexity', series, log_x=True)] if series else []


def parameter_count_table():
  """Table of computed parameter counts of the paper's models, beside the published counts."""
  published_counts = {
    dict(entry.settings)['row']: entry.value
    for entry in published.find_published_numbers(task='variations')
    if entry.metric == PUBLISHED_METRICS[-1]
  }
  rows = []
  for name, row in TABLE_3.items():
    count, published_count = row.count_parameters() / 1e6, published_counts.get(name)
    rows.append((
      name, row.depth, row.width, row.inner, row.heads, row.key_width, row.value_width,
      round(count, 1), published_count,
      None if published_count is None else f'{count / published_count - 1:+.1%}',
      None if published_count is None else infer_vocabulary_size(row, published_count * 1e6),
    ))
  return Table(
    'Variations: parameters of the models of Table 3',
    ('row', 'layers N', 'width d_model', 'feed-forward width d_ff', 'heads h', 'key width d_k',
     'value width d_v', 'counted parameters (10^6)', 'printed parameters (10^6)', 'difference',
     'implied vocabulary'),
    rows,
    f'Counted with a shared vocabulary of {VOCABULARY} tokens, as stated in the paper. Implied '
    'vocabulary: the number of tokens with which a row has as many parameters as the paper prints. '
    'The printed counts are accurate to half a million, which is 1000 tokens at d_model 512. No '
    'single vocabulary fits all rows.',
  )
