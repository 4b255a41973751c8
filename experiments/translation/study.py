"""Who translates best, at what cost? Quality and training FLOPs, the two columns of Table 2.

  python -m experiments.translation --preset=quick --runs=runs/quick
  python -m experiments.translation --preset=paper --layers=transformer --runs=runs/wmt14

Every encoder-decoder on one corpus, at matched parameters: through a fixed vector, with additive
and multiplicative attention, by convolutions, and the Transformer. `quick` translates spelled-out
numbers from German to English; `paper` is WMT14, English to German, with the paper's own recipe and
base model (Vaswani et al. 2017, sections 5 and 6.1). Quality is sacreBLEU, the tokenised BLEU with
compounds split that the paper reports, chrF and exact match; cost is counted, not estimated.
"""

from experiments.lab.launch.study import SMOKE, Preset, Study, TaskGrid
from experiments.lab.results import published, scoreboard, translation_tables
from experiments.translation.claims import CLAIMS, CONTROLS, TRANSLATORS

KIND = 'translator'

PRESETS = {
  # Every line that `paper` goes through but its corpus, in the least time.
  'smoke': Preset(
    layers=('fixed_vector', 'convs2s', 'transformer'),
    task_grids=(TaskGrid('number_words(pairs=500)', (2,)),),
    settings=SMOKE | {'beam': 2, 'average': 2, 'label_smoothing': 0.1},
    kind=KIND,
  ),
  # For two CPU cores.
  'quick': Preset(
    layers=(*TRANSLATORS, 'transformer(mamba)'),
    task_grids=(TaskGrid('number_words(source=de, target=en)', (6,)),),
    settings={
      'width': 64, 'depth': 1, 'steps': 800, 'batch_size': 32, 'validations': 8,
      'test_batches': 8, 'learning_rates': (1e-3, 3e-3), 'feedforward': 'relu',
    },
    kind=KIND,
  ),
  # The paper's base model, recipe and corpus, for eight accelerators.
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
  """The study's tables, curves and alignments."""
  columns, layers = scoreboard.columns_of(records), scoreboard.layers_of(records)
  entries = published.published(task='corpus', dataset='wmt14_translate/de-en')
  tables = [
    translation_tables.quality_table('Translation: quality and cost', columns, layers),
    scoreboard.budget_table('Translation: budgets', columns, layers),
    *translation_tables.example_tables(columns),
    published.table('Translation: published, WMT14 English to German', entries),
  ]
  return tables, [
    *translation_tables.length_panels(columns), *translation_tables.alignment_maps(records)
  ]


STUDY = Study('translation', __doc__, PRESETS, report, CLAIMS, CONTROLS)
