"""Do layers learn to track a state? Training on short sequences, and tests on longer ones.

  python -m experiments.state_tracking --preset=quick --layers=lstm,mamba --runs=runs/quick

The target at every token is the state of a finite automaton. In the smallest automaton, parity,
every 1 flips the state. A linear recurrence with eigenvalues in [0, 1] cannot flip its state
(Sarrof et al. 2024, Grazzi et al. 2025), attention has no recurrent state, and a nonlinear
recurrent network needs one bit. Short sequences can be memorised, so that only tests beyond the
trained length show whether a model learnt the rule. Each test scores the positions beyond the
previous test length alone. Of tests at lengths 64 and 128, the second scores positions from 65 on.
"""

from experiments.lab.launch.study import SMOKE, Preset, Study, TaskGrid
from experiments.lab.results import scoreboard
from experiments.state_tracking.claims import CLAIMS, CONTROLS, LINEAR, SIGNED

PRESETS = {
  # This preset runs all code of the `paper` preset at the smallest sizes, as a fast test.
  'smoke': Preset(
    layers=('lstm', 'mamba'),
    task_grids=(TaskGrid('parity(length=8)', (8,)),),
    settings=SMOKE | {'test_lengths': (12, 16)},
  ),
  # This preset trains on parity alone, in about eight minutes on two CPU cores.
  'quick': Preset(
    layers=('attention', 'convolution', 'lstm', 'slstm', *LINEAR, *SIGNED),
    task_grids=(TaskGrid('parity', (40,)),),
    settings={
      'steps': 600, 'batch_size': 32, 'validations': 10, 'learning_rates': (3e-3, 1e-2),
      'test_lengths': (64, 128, 256), 'test_batches': 4, 'stop_when_solved': False,
    },
  ),
  # The published lengths, up to 40 in training and up to 500 in tests, need a GPU or a TPU.
  'paper': Preset(
    layers=(
      'attention', 'attention(positions=none)', 'attention(positions=alibi)', 'convolution', 'tcn',
      'elman', 'lstm', 'gru', 'slstm', 'mlstm', 'mingru', 'lru', 's5', 'retnet', 'gla', 'rwkv7',
      'mamba2', *LINEAR, *SIGNED,
    ),
    task_grids=(
      *(TaskGrid(task, (40,)) for task in (
        'parity', 'even_pairs', 'modular_arithmetic', 'cycle_navigation',
      )),
      TaskGrid('word_problem(group=s5)', (20,), {'test_lengths': (40, 80, 160)}),
      TaskGrid('word_problem(group=a5)', (20,), {'test_lengths': (40, 80, 160)}),
      TaskGrid('flip_flop', (512,), {'test_lengths': ()}),
      TaskGrid('selective_copying(length=256)', (256,), {'test_lengths': (512, 1024)}),
      TaskGrid('induction_heads', (256,), {'test_lengths': (512, 1024, 2048, 4096)}),
    ),
    settings={
      'width': 128, 'batch_size': 128, 'steps': 20000, 'seeds': (0, 1, 2, 3, 4),
      'feedforward': 'gelu', 'learning_rates': (1e-4, 3e-4, 1e-3, 3e-3),
      'test_lengths': (64, 128, 256, 500), 'stop_when_solved': False,
    },
  ),
}


def report(records: list[dict]):
  """Tables of scores, training budgets and published results, and panels of scores by length."""
  columns = scoreboard.group_by_table_column(records)
  layers = scoreboard.layers_in_record_order(records)
  tables = [
    scoreboard.extrapolation_table(
      'State tracking: scores beyond the trained length', columns, layers),
    scoreboard.parameter_budget_table(
      'State tracking: parameter budgets and training time', columns, layers),
    *scoreboard.tables_of_published_numbers(records),
  ]
  return tables, scoreboard.extrapolation_panels(records)


STUDY = Study('state_tracking', __doc__, PRESETS, report, CLAIMS, CONTROLS)
