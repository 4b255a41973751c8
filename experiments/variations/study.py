"""Table 3 of "Attention is all you need" at reduced size, one variation of the model per row.

  python -m experiments.variations --preset=quick --runs=runs/quick

The rows vary heads, widths of keys and values, depth, width, the width of the feed-forward network,
dropout, label smoothing and positions of the base model, and the last row is the big model. Every
row keeps its proportions to the base model. The preset `quick` has a base model of an eighth of the
width and half of the depth, and the task is to translate spelled-out numbers. The model with
post-norm and the training recipe are those of the paper. The table also has the results of the
paper. A second table has the parameters of the paper's models, counted, and the vocabulary size
that the printed counts imply.
"""

from experiments.lab.launch.study import Preset, Study, TaskGrid

ROWS = (
  'base', 'A: 1 head', 'A: 4 heads', 'A: 16 heads', 'A: 32 heads', 'B: d_k 16', 'B: d_k 32',
  'C: 2 layers', 'C: 4 layers', 'C: 8 layers', 'C: d_model 256', 'C: d_model 1024', 'C: d_ff 1024',
  'C: d_ff 4096', 'D: no dropout', 'D: dropout 0.2', 'D: no label smoothing',
  'D: label smoothing 0.2', 'E: learned positions',
)
PAPER_SETTINGS = {  # the training recipe of sections 5.3 and 5.4
  'feedforward': 'relu', 'block': 'post_norm', 'optimizer': 'adam', 'beta2': 0.98, 'epsilon': 1e-9,
  'schedule': 'inverse_sqrt', 'clip': 0.0, 'match': 'none', 'stop_when_solved': False,
}
PRESETS = {
  # This preset runs the code of the `paper` preset on a small generated corpus, as a fast test.
  'smoke': Preset(
    layers=('base', 'B: d_k 16', 'E: learned positions'),
    task_grids=(TaskGrid('number_words(pairs=500)', (2,)),),
    settings=PAPER_SETTINGS | {
      'width': 64, 'depth': 1, 'steps': 4, 'batch_size': 8, 'validations': 2,
      'validation_batches': 1, 'test_batches': 1, 'seeds': (0, 1), 'learning_rates': (1e-3,),
    },
  ),
  # This preset takes less than twenty minutes on two CPU cores.
  'quick': Preset(
    layers=ROWS,
    task_grids=(TaskGrid('number_words(source=de, target=en)', (6,)),),
    settings=PAPER_SETTINGS | {
      'width': 64, 'depth': 3, 'steps': 500, 'warmup': 0.2, 'batch_size': 32, 'validations': 5,
      'test_batches': 8, 'learning_rates': (3e-3,),
    },
  ),
  # The model sizes of this preset are those of Table 3 of Vaswani 2017.
  # As in Table 3 of Vaswani 2017, this preset does not average checkpoints.
  'paper': Preset(
    layers=(*ROWS, 'big'),
    task_grids=(TaskGrid('corpus', (256,)),),
    settings=PAPER_SETTINGS | {
      'width': 512, 'depth': 6, 'steps': 100_000, 'warmup': 0.04, 'validations': 100, 'beam': 4,
      'learning_rates': (6.99e-4,), 'seeds': (0,),
    },
  ),
}


def report(records: list[dict]):
  """Tables of results and parameter counts, and a panel of perplexity against parameters."""
  # The module `tables` imports JAX to count parameters, so it is imported only when needed.
  from experiments.variations import tables

  report_tables = [tables.variations_table(records), tables.parameter_count_table()]
  return report_tables, tables.perplexity_panels(records)


STUDY = Study('variations', __doc__, PRESETS, report, cells='experiments.variations.cells')
