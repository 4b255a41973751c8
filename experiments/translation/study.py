"""Translation quality and training FLOPs of encoder-decoders, as in Table 2 of Vaswani 2017.

  python -m experiments.translation --preset=quick --runs=runs/quick
  python -m experiments.translation --preset=paper --layers=transformer --runs=runs/wmt14

Encoder-decoders with a fixed vector, with additive and multiplicative attention and with
convolutions are compared with the Transformer on one corpus, at matched parameters. The preset
`quick` translates spelled-out numbers from German to English. The preset `paper` is WMT14, English
to German, with the training recipe and the base model of the paper (Vaswani et al. 2017, sections 5
and 6.1). Quality is sacreBLEU, the tokenised BLEU with compounds split that the paper reports, chrF
and exact match. The FLOPs are counted, not estimated.
"""

from experiments.lab.launch.study import SMOKE, Preset, Study, TaskGrid
from experiments.lab.results import published, scoreboard, translation_tables
from experiments.translation.claims import CLAIMS, CONTROLS, TRANSLATORS

KIND = 'translator'

PRESETS = {
  # This preset runs the code of the `paper` preset on a small generated corpus, as a fast test.
  'smoke': Preset(
    layers=('fixed_vector', 'convs2s', 'transformer'),
    task_grids=(TaskGrid('number_words(pairs=500)', (2,)),),
    settings=SMOKE | {'beam': 2, 'average': 2, 'label_smoothing': 0.1},
    kind=KIND,
  ),
  # The sizes of this preset suit two CPU cores.
  'quick': Preset(
    layers=(*TRANSLATORS, 'transformer(mamba)'),
    task_grids=(TaskGrid('number_words(source=de, target=en)', (6,)),),
    settings={
      'width': 64, 'depth': 1, 'steps': 800, 'batch_size': 32, 'validations': 8,
      'test_batches': 8, 'learning_rates': (1e-3, 3e-3), 'feedforward': 'relu',
    },
    kind=KIND,
  ),
  # The base model, the training recipe and the corpus of the paper need eight accelerators.
  'paper': Preset(
    layers=TRANSLATORS,
    task_grids=(
      TaskGrid('corpus', (256,)),
      TaskGrid('number_words(source=de, target=en)', (12,), {'batch_size': 512}),
    ),
    settings={
      'width': 512, 'depth': 6, 'feedforward': 'relu', 'expansion': 4.0, 'block': 'post_norm',
      'dropout': 0.1, 'label_smoothing': 0.1, 'optimizer': 'adam', 'beta2': 0.98, 'epsilon': 1e-9,
      'schedule': 'inverse_sqrt', 'warmup': 0.04, 'clip': 0.0, 'steps': 100_000,
      'learning_rates': (6.99e-4,), 'validations': 100, 'average': 5, 'beam': 4,
      'seeds': (0,), 'stop_when_solved': False,
    },
    kind=KIND,
  ),
}


def report(records: list[dict]):
  """Tables and panels of translation quality, with parameter budgets and published scores.

  Another table contains example translations.
  """
  columns = scoreboard.group_by_table_column(records)
  layers = scoreboard.layers_in_record_order(records)
  entries = published.find_published_numbers(task='corpus', dataset='wmt14_translate/de-en')
  tables = [
    translation_tables.translation_quality_table(
      'Translation: quality and training FLOPs', columns, layers),
    scoreboard.parameter_budget_table(
      'Translation: parameter budgets and training time', columns, layers),
    *translation_tables.example_translation_tables(columns),
    published.published_numbers_table(
      'Translation: published results on WMT14, English to German', entries),
  ]
  return tables, [
    *translation_tables.panels_of_exact_match_by_source_length(columns),
    *translation_tables.alignment_maps(records),
  ]


STUDY = Study('translation', __doc__, PRESETS, report, CLAIMS, CONTROLS)
