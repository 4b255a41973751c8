"""What did each rung bring? From Elman to attention in one shell, at one budget.

  python -m experiments.ladder --preset=quick --layers=gru,mingru,mamba --runs=runs/quick

  elman                     a state, all of it rewritten at every step
  lstm, gru                 gates that depend on the state: it keeps what they say
  mingru                    gates that depend on the input alone: the recurrence is linear
  lru, s5                   linear with fixed decays, complex ones: parallel, but it cannot select
  mamba                     decays that depend on the input: it can
  retnet, gla               a matrix for a state: keys and values, under a decay
  deltanet, gated_deltanet  a key's old value is erased before the new one is written
  attention                 a state that grows: nothing has to be forgotten

Each layer is trained on recall, copying, adding, parity and selective copying. Beside its scores
stand the bytes of its state and the time of a training step, all layers' steps in turns in one run.
A convolution that sees a few tokens stands below: what lies beyond them it must fail.
"""

import dataclasses

from experiments.launch import flags, questions
from experiments.launch.questions import Preset, Question

STUDY = 'ladder'
LADDER = (
  'elman', 'lstm', 'gru', 'mingru', 'lru', 's5', 'mamba', 'retnet', 'gla', 'deltanet',
  'gated_deltanet', 'attention',
)
CONTROL = 'convolution'
ROUNDS = 7  # of timed steps
TIMED_LENGTH = 64

PRESETS = {
  # Every line that `paper` goes through, in the least time.
  'smoke': Preset(
    layers=('elman', 'attention(num_heads=2)'),
    questions=(
      Question('recall(length=16, num_pairs=2, vocabulary_size=16)', (16,)),
      Question('parity(length=8)', (8,)),
    ),
    settings={
      'width': 8, 'depth': 1, 'steps': 4, 'batch_size': 8, 'validations': 2,
      'validation_batches': 1, 'test_batches': 1, 'seeds': (0, 1), 'learning_rates': (1e-3, 1e-2),
    },
  ),
  # For two CPU cores: under twenty minutes.
  'quick': Preset(
    layers=(*LADDER, CONTROL),
    questions=(
      Question('recall(length=32, num_pairs=4, vocabulary_size=64)', (32,)),
      Question('copy_memory', (30,)),
      Question('adding', (50,)),
      Question('parity', (40,)),
      Question('selective_copying(length=32, num_tokens=4)', (32,)),
    ),
    settings={
      'steps': 300, 'batch_size': 32, 'validations': 10, 'learning_rates': (3e-3, 1e-2),
    },
  ),
  # Sizes for a GPU or a TPU.
  'paper': Preset(
    layers=(
      *LADDER[:4], 'minlstm', *LADDER[4:6], 's4d', 'rglru', 'mamba', 'mamba2', 'linear_attention',
      *LADDER[7:9], 'mlstm', 'slstm', *LADDER[9:11], 'rwkv7', 'hyena', 'sliding_window',
      'interleave', 'attention', CONTROL,
    ),
    questions=(
      Question('recall(length=128, num_pairs=8)', (128,), {'weight_decay': 0.1}),
      Question('copy_memory', (110,)),
      Question('adding', (200,)),
      Question('parity', (40,)),
      Question('selective_copying(length=256)', (256,)),
    ),
    settings={
      'batch_size': 128, 'steps': 12500, 'seeds': (0, 1, 2, 3, 4),
      'learning_rates': (1e-4, 4.64e-4, 2.15e-3, 1e-2), 'validation_batches': 16,
      'test_batches': 64,
    },
  ),
}


def define() -> None:
  """The study's flags."""
  questions.define(PRESETS)


def grid() -> list:
  """The runs that the flags ask for."""
  return questions.grid(PRESETS)


def clock(runs: list):
  """The cell that times a training step of every layer among the runs, in turns."""
  from experiments.launch import timing
  from experiments.launch.grid import Cell

  first, tokens = runs[0], runs[0].batch_size * TIMED_LENGTH
  asked = timing.asked(
    first, dict.fromkeys(run.layer for run in runs), [TIMED_LENGTH], ['train'],
    tokens=tokens, rounds=ROUNDS,
  )
  return Cell(STUDY, asked | {'seed': first.seeds[0]}, 'steps of all layers in turns')


def split(records: list[dict]) -> tuple[list[dict], list[dict]]:
  """Records of trained cells, those of the ladder in its order, and records of times."""
  trained = [record for record in records if 'layer' in record['run']]

  def rung(record):
    name = record['run']['layer'].partition('(')[0]
    order = PRESETS['paper'].layers
    return order.index(name) if name in order else len(order)

  return sorted(trained, key=rung), [record for record in records if 'layers' in record['run']]


def report(records: list[dict]):
  """The study's tables and panels."""
  from experiments.results import scoreboard

  trained, timed = split(records)
  columns, layers = scoreboard.columns_of(trained), scoreboard.layers_of(trained)
  scored = scoreboard.score_table('Ladder: scores, state and time', columns, layers)
  budgets = scoreboard.budget_table('Ladder: budgets', columns, layers)
  return [beside(scored, columns, timed), budgets], scoreboard.state_panels(trained)


def beside(scored, columns, timed: list[dict]):
  """The table of scores with two more columns: bytes of state, and time of a step a token."""
  from experiments.results import times

  held = {}  # by the first question that a layer was asked
  for group in columns.values():
    for record in group:
      if record['result']:
        held.setdefault(record['run']['layer'], record['result']['state_bytes'])

  def cost(layer):
    own = [record for record in timed if layer in record['run']['layers']]
    return times.microseconds(own, layer, 'train', TIMED_LENGTH)

  return dataclasses.replace(
    scored,
    columns=(scored.columns[0], 'state bytes', 'us a token', *scored.columns[1:]),
    rows=[(row[0], held.get(row[0]), cost(row[0]), *row[1:]) for row in scored.rows],
    caption=f'{scored.caption} State: what the model remembers of one sequence of the first '
    f'question. Time: a training step at length {TIMED_LENGTH}, all layers in turns, median.',
    best=scored.best | {'us a token': 'lower'} if scored.best else {},
  )


def main() -> None:
  """Trains and times what is missing, prints the table, and leaves it with its figure as files."""
  from experiments.launch import grid as grids
  from experiments.launch import timing
  from experiments.results import publish
  from experiments.results.store import Store

  runs = grid()
  records = questions.train(STUDY, runs)
  execute = timing.execute(flags.FLAGS.timeout)
  records += grids.launch([clock(runs)], execute, Store(flags.FLAGS.runs), flags.FLAGS.retry)
  publish.study(STUDY, *report(records), flags.FLAGS.runs)


if __name__ == '__main__':
  flags.main(main, define, __doc__)
