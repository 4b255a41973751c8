"""What does one vector hold? Translation against the length of the source.

  python -m experiments.bottleneck --preset=quick --runs=runs/quick

An encoder-decoder through one fixed vector must press the whole source into it; attention looks at
all that was read. At matched parameters each is asked for whole sentences of growing length, up to
those it was trained on and beyond them:

  fixed_vector                 the encoder's last state starts the decoder (Sutskever et al. 2014)
  fixed_vector(reverse=True)   the same, the source read from its end
  additive, multiplicative     the decoder looks at every state (Bahdanau 2015; Luong 2015)
  transformer                  nothing but attention

For each stand exact match and BLEU, the length at which half of its answers are right, and for a
fixed vector the bits that it was seen to hold, by byte of its state. A convolution that hands over
the few tokens that it last saw must fail beyond them; it is the study's control.
"""

from experiments.bottleneck.claims import ATTENTIVE, CLAIMS, CONTROL, CONTROLS, FIXED
from experiments.lab.launch.study import SMOKE, Preset, Study, TaskGrid
from experiments.lab.results import scoreboard, translation_tables

KIND = 'translator'
LENGTHS = (5, 10, 15, 20, 25, 30)  # trained up to 20
FARTHER = (10, 20, 30, 40, 50, 60, 80, 100)  # trained up to 50

PRESETS = {
  # Every line that `paper` goes through, in the least time.
  'smoke': Preset(
    layers=('fixed_vector', 'transformer'),
    task_grids=(
      TaskGrid('copy(max_length=4, alphabet_size=4)', (4,), {'test_lengths': (2, 4, 6)}),
    ),
    settings=SMOKE,
    kind=KIND,
  ),
  # For two CPU cores: under fifteen minutes.
  'quick': Preset(
    layers=(*FIXED, *ATTENTIVE, CONTROL),
    task_grids=(
      TaskGrid('copy', (20,), {'test_lengths': LENGTHS}),
      TaskGrid('number_words(source=de, target=en)', (9,)),
    ),
    settings={
      'width': 64, 'depth': 1, 'steps': 1000, 'batch_size': 32, 'validations': 10,
      'test_batches': 8, 'learning_rates': (1e-3, 3e-3), 'feedforward': 'relu',
    },
    kind=KIND,
  ),
  # Sizes for a GPU or a TPU.
  'paper': Preset(
    layers=(
      *FIXED, 'fixed_vector(gru)', *ATTENTIVE, 'convs2s', 'bytenet', 'transformer(lstm)',
      'transformer(mamba)', CONTROL,
    ),
    task_grids=(
      TaskGrid('copy(max_length=50)', (50,), {'test_lengths': FARTHER}),
      TaskGrid('reverse(max_length=50)', (50,), {'test_lengths': FARTHER}),
      TaskGrid('number_words(source=de, target=en)', (12,)),
      TaskGrid('number_words(source=da, target=en)', (12,)),
      TaskGrid('number_words(source=en, target=fr)', (12,)),
    ),
    settings={
      'width': 256, 'depth': 2, 'feedforward': 'relu', 'expansion': 4.0, 'dropout': 0.1,
      'batch_size': 128, 'steps': 20000, 'seeds': (0, 1, 2, 3, 4),
      'learning_rates': (3e-4, 1e-3, 3e-3), 'validation_batches': 16, 'test_batches': 16,
    },
    kind=KIND,
  ),
}


def report(records: list[dict]):
  """The study's tables, curves and alignments."""
  columns, layers = scoreboard.columns_of(records), scoreboard.layers_of(records)
  tables = [
    *translation_tables.length_tables('Bottleneck: sentences right', columns, layers),
    translation_tables.vector_table('Bottleneck: what a vector holds', columns, layers),
    scoreboard.budget_table('Bottleneck: budgets', columns, layers),
    *translation_tables.example_tables(columns),
  ]
  return tables, [
    *translation_tables.length_panels(columns), *translation_tables.alignment_maps(records)
  ]


STUDY = Study('bottleneck', __doc__, PRESETS, report, CLAIMS, CONTROLS)
