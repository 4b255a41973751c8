"""Who keeps track of a state? Trained on short sequences, tested on longer ones.

  python -m experiments.state_tracking --preset=quick --layers=lstm,mamba --runs=runs/quick

A finite automaton reads tokens; the answer is its state. In the shortest one, parity, every 1 flips
it: a state that is a sum under eigenvalues in [0, 1] cannot be flipped (Sarrof et al. 2024, Grazzi
et al. 2025), attention has no state at all, a recurrent network needs one bit of its own. Short
sequences can be learnt by heart; only tests beyond the trained length tell who learnt the rule.
Each of them asks what lies beyond the one before: of tests at 64 and 128 the second from 65 on.
"""

from experiments.lab.launch.study import SMOKE, Preset, Study, TaskGrid
from experiments.lab.results import scoreboard
from experiments.state_tracking.claims import CLAIMS, CONTROLS, LINEAR, SIGNED

PRESETS = {
  # Every line that `paper` goes through, in the least time.
  'smoke': Preset(
    layers=('lstm', 'mamba'),
    task_grids=(TaskGrid('parity(length=8)', (8,)),),
    settings=SMOKE | {'test_lengths': (12, 16)},
  ),
  # The shortest automaton, for two CPU cores: about eight minutes.
  'quick': Preset(
    layers=('attention', 'convolution', 'lstm', 'slstm', *LINEAR, *SIGNED),
    task_grids=(TaskGrid('parity', (40,)),),
    settings={
      'steps': 600, 'batch_size': 32, 'validations': 10, 'learning_rates': (3e-3, 1e-2),
      'test_lengths': (64, 128, 256), 'test_batches': 4, 'stop_when_solved': False,
    },
  ),
  # Published lengths, for a GPU or a TPU: trained up to 40, tested up to 500.
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
  """The study's tables and panels."""
  columns, layers = scoreboard.columns_of(records), scoreboard.layers_of(records)
  tables = [
    scoreboard.extrapolation_table('State tracking: beyond the trained length', columns, layers),
    scoreboard.budget_table('State tracking: budgets', columns, layers),
    *scoreboard.published_tables(records),
  ]
  return tables, scoreboard.extrapolation_panels(records)


STUDY = Study('state_tracking', __doc__, PRESETS, report, CLAIMS, CONTROLS)
