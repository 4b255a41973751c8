"""Which parts of the Transformer matter? Table 3 of the 2017 paper, at a scale that fits.

  python -m experiments.variations --preset=quick --runs=runs/quick

Every row of the table keeps its proportions to base: heads, widths of keys and values, depth,
width, the feed-forward's width, dropout, label smoothing, learned positions, and big. `quick` has
base at an eighth of its width and half of its depth, on spelled-out numbers; the model is the
paper's, post-norm, with its recipe. Beside our columns stand the paper's, and the parameters that
the paper's own sizes come to, with the vocabulary that its printed counts imply.
"""

from experiments.lab.launch.study import Preset, Study, TaskGrid

ROWS = (
  'base', 'A: 1 head', 'A: 4 heads', 'A: 16 heads', 'A: 32 heads', 'B: d_k 16', 'B: d_k 32',
  'C: 2 layers', 'C: 4 layers', 'C: 8 layers', 'C: d_model 256', 'C: d_model 1024', 'C: d_ff 1024',
  'C: d_ff 4096', 'D: no dropout', 'D: dropout 0.2', 'D: no label smoothing',
  'D: label smoothing 0.2', 'E: learned positions',
)
PAPER = {  # the recipe, sections 5.3 and 5.4
  'feedforward': 'relu', 'block': 'post_norm', 'optimizer': 'adam', 'beta2': 0.98, 'epsilon': 1e-9,
  'schedule': 'inverse_sqrt', 'clip': 0.0, 'match': 'none', 'stop_when_solved': False,
}
PRESETS = {
  # Every line that `paper` goes through but its corpus, in the least time.
  'smoke': Preset(
    layers=('base', 'B: d_k 16', 'E: learned positions'),
    task_grids=(TaskGrid('number_words(pairs=500)', (2,)),),
    settings=PAPER | {
      'width': 64, 'depth': 1, 'steps': 4, 'batch_size': 8, 'validations': 2,
      'validation_batches': 1, 'test_batches': 1, 'seeds': (0, 1), 'learning_rates': (1e-3,),
    },
  ),
  # For two CPU cores: under twenty minutes.
  'quick': Preset(
    layers=ROWS,
    task_grids=(TaskGrid('number_words(source=de, target=en)', (6,)),),
    settings=PAPER | {
      'width': 64, 'depth': 3, 'steps': 500, 'warmup': 0.2, 'batch_size': 32, 'validations': 5,
      'test_batches': 8, 'learning_rates': (3e-3,),
    },
  ),
  # The table itself; without averaging, as the paper says.
  'paper': Preset(
    layers=(*ROWS, 'big'),
    task_grids=(TaskGrid('corpus', (256,)),),
    settings=PAPER | {
      'width': 512, 'depth': 6, 'steps': 100_000, 'warmup': 0.04, 'validations': 100, 'beam': 4,
      'learning_rates': (6.99e-4,), 'seeds': (0,),
    },
  ),
}


def report(records: list[dict]):
  """The table, ours beside the paper's, and what the paper's own sizes come to."""
  from experiments.variations import tables  # it counts with the paper's model, which loads JAX

  made = [tables.variations_table(records), tables.parameter_table()]
  return made, tables.panels(records)


STUDY = Study('variations', __doc__, PRESETS, report, cells='experiments.variations.cells')
