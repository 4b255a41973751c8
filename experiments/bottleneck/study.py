"""How much of a sequence can one fixed vector encode? Measures exact match at each source length.

  python -m experiments.bottleneck --preset=quick --runs=runs/quick

An encoder-decoder with one fixed vector must encode the whole source in it, whereas attention has
access to all states of the encoder. At matched parameters each model is tested on whole sequences
of growing length, up to the longest trained length and beyond.

  fixed_vector                 the encoder's last state initialises the decoder (Sutskever et al.
                               2014)
  fixed_vector(reverse=True)   the same with the source reversed
  additive, multiplicative     the decoder attends to every state of the encoder (Bahdanau 2015,
                               Luong 2015)
  transformer                  encoder and decoder consist of attention and feed-forward networks

The tables contain exact match and BLEU, and the length at which half of the outputs are exact. For
a fixed vector they also contain a lower bound on the bits that it encodes, per byte of its state.
The control is a convolution whose fixed vector depends on its last few inputs. It has to fail at
longer sources.
"""

from experiments.bottleneck.claims import ATTENTIVE, CLAIMS, CONTROL, CONTROLS, FIXED
from experiments.lab.launch.study import SMOKE, Preset, Study, TaskGrid
from experiments.lab.results import scoreboard, translation_tables

KIND = 'translator'
QUICK_TEST_LENGTHS = (5, 10, 15, 20, 25, 30)  # the longest trained length is 20
PAPER_TEST_LENGTHS = (10, 20, 30, 40, 50, 60, 80, 100)  # the longest trained length is 50

PRESETS = {
  # This preset runs all code of the `paper` preset at the smallest sizes, as a fast test.
  'smoke': Preset(
    layers=('fixed_vector', 'transformer'),
    task_grids=(
      TaskGrid('copy(max_length=4, alphabet_size=4)', (4,), {'test_lengths': (2, 4, 6)}),
    ),
    settings=SMOKE,
    kind=KIND,
  ),
  # This preset takes less than fifteen minutes on two CPU cores.
  'quick': Preset(
    layers=(*FIXED, *ATTENTIVE, CONTROL),
    task_grids=(
      TaskGrid('copy', (20,), {'test_lengths': QUICK_TEST_LENGTHS}),
      TaskGrid('number_words(source=de, target=en)', (9,)),
    ),
    settings={
      'width': 64, 'depth': 1, 'steps': 1000, 'batch_size': 32, 'validations': 10,
      'test_batches': 8, 'learning_rates': (1e-3, 3e-3), 'feedforward': 'relu',
    },
    kind=KIND,
  ),
  # The sizes of this preset need a GPU or a TPU.
  'paper': Preset(
    layers=(
      *FIXED, 'fixed_vector(gru)', *ATTENTIVE, 'convs2s', 'bytenet', 'transformer(lstm)',
      'transformer(mamba)', CONTROL,
    ),
    task_grids=(
      TaskGrid('copy(max_length=50)', (50,), {'test_lengths': PAPER_TEST_LENGTHS}),
      TaskGrid('reverse(max_length=50)', (50,), {'test_lengths': PAPER_TEST_LENGTHS}),
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
  """Tables of scores, of bits encoded in the state and of example outputs, and figure panels.

  The panels contain scores against source length, and attention weights.
  """
  columns = scoreboard.group_by_table_column(records)
  layers = scoreboard.layers_in_record_order(records)
  tables = [
    *translation_tables.exact_match_tables(
      'Bottleneck: exact match by source length', columns, layers),
    translation_tables.table_of_source_information_reaching_decoder(
      'Bottleneck: bits of the source in the state', columns, layers),
    scoreboard.parameter_budget_table(
      'Bottleneck: parameter budgets and training time', columns, layers),
    *translation_tables.example_translation_tables(columns),
  ]
  return tables, [
    *translation_tables.panels_of_exact_match_by_source_length(columns),
    *translation_tables.alignment_maps(records),
  ]


STUDY = Study('bottleneck', __doc__, PRESETS, report, CLAIMS, CONTROLS)
