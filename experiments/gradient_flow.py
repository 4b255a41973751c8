"""How far do gradients flow? Their norm against distance, before training and during it.

  python -m experiments.gradient_flow --preset=quick --layers=elman,attention --runs=runs/quick

What the last output of a stack of blocks owes to the token k steps before it is the Jacobian
d y_T / d x_{T - k}, taken row by row, never by finite differences. Its norm is followed over k:

  at initialisation   every layer by itself; then some in all shells and at depths, with other
                      biases of the forget gate and other recurrent weights; no task, no training
  during training     recurrent networks and attention on the adding problem, with and without
                      clipping, in several shells: the same norms at every look, and the score

An exponential and a power of k are fitted; half-lives are in tokens, and whether a gradient is
vanishing or exploding is said by an interval over seeds. Through several blocks of attention the
first tokens have the most paths, so that there a gradient grows with the distance. A convolution
has exactly no gradient beyond its receptive field: that is the control.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.launch import flags, questions
from experiments.launch.questions import Question

STUDY = 'gradient_flow'
CONTROL = 'convolution'
SHELLS = ('classic', 'none', 'pre', 'post')
SHOWN = (1, 8, 32)  # distances that tables have, besides the farthest
PICTURED = ('attention', 'elman', 'lstm', 'gru', 'mamba', 'lru', CONTROL)
LOWEST = 1e-12  # norm of a panel


@dataclasses.dataclass(frozen=True)
class Grid:
  """Layers, each with every combination of settings; no layers: the whole catalogue."""

  layers: tuple[str, ...] = ()
  varied: Mapping[str, Sequence] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Preset:
  """What is looked at before training, on sequences of a length, and what is trained."""

  start: tuple[Grid, ...]
  length: int
  trained: tuple[Grid, ...]
  questions: tuple[Question, ...]
  settings: dict[str, Any]


BIASES = ('lstm(forget_bias=0.0)', 'lstm(forget_bias=3.0)')
RECURRENT_WEIGHTS = ('elman(recurrent_init=normal)', 'elman(recurrent_gain=2.0)')

PRESETS = {
  # Every line that `paper` goes through, in the least time.
  'smoke': Preset(
    start=(Grid(('elman', CONTROL)), Grid(('elman',), {'shell': ('classic', 'pre')})),
    length=12,
    trained=(Grid(('elman',), {'clip': (1.0, 0.0)}),),
    questions=(Question('adding', (8,)),),
    settings={
      'width': 8, 'depth': 1, 'match': 'none', 'steps': 4, 'batch_size': 8, 'validations': 2,
      'validation_batches': 1, 'test_batches': 1, 'seeds': (0, 1), 'learning_rates': (1e-3, 1e-2),
    },
  ),
  # For two CPU cores: about five minutes.
  'quick': Preset(
    start=(
      Grid(),
      Grid(('elman', 'lstm', 'attention'), {'depth': (2, 4)}),
      Grid(('elman', 'lstm', 'attention'), {'depth': (4,), 'shell': SHELLS}),
      Grid((*BIASES, *RECURRENT_WEIGHTS)),
    ),
    length=128,
    trained=(
      Grid(('elman', RECURRENT_WEIGHTS[1], 'lstm'), {'clip': (1.0, 0.0)}),
      Grid(('elman', 'lstm'), {'shell': ('pre', 'post')}),
      Grid(('attention',), {'shell': ('pre',)}),
      Grid(('gru', *BIASES, RECURRENT_WEIGHTS[0])),
    ),
    questions=(Question('adding', (64,)),),
    settings={
      'width': 32, 'depth': 1, 'shell': 'classic', 'match': 'none', 'steps': 300,
      'batch_size': 32, 'validations': 6, 'learning_rates': (3e-3, 1e-2),
      'seeds': (0, 1, 2, 3, 4), 'stop_when_solved': False,
    },
  ),
  # Sizes for a GPU.
  'paper': Preset(
    start=(
      Grid(),
      Grid(
        ('elman', 'lstm', 'gru', 'attention', 'mamba', 'lru', 'gated_deltanet', 'tcn'),
        {'depth': (1, 2, 4, 8), 'shell': SHELLS},
      ),
      Grid((
        *BIASES, 'lstm(forget_bias=6.0)', *RECURRENT_WEIGHTS, 'lstm(recurrent_init=normal)',
        'gru(recurrent_init=normal)',
      )),
    ),
    length=512,
    trained=(
      Grid(
        ('elman', RECURRENT_WEIGHTS[1], 'lstm', 'gru', 'attention', 'mamba'),
        {'clip': (1.0, 0.0), 'shell': SHELLS},
      ),
      Grid((*BIASES, RECURRENT_WEIGHTS[0])),
    ),
    questions=(Question('adding', (200,)), Question('copy_memory', (110,))),
    settings={
      'width': 128, 'depth': 2, 'shell': 'classic', 'match': 'none', 'steps': 20000,
      'batch_size': 64, 'seeds': (0, 1, 2, 3, 4), 'learning_rates': (3e-4, 1e-3, 3e-3),
      'validation_batches': 16, 'test_batches': 64, 'stop_when_solved': False,
    },
  ),
}


def define() -> None:
  """The study's flags."""
  flags.define_study(
    PRESETS,
    steps='Training steps.',
    lengths="Lengths before training, and distances of the tasks, instead of the preset's.",
  )
  flags.define_training()


def expand(grids: Iterable[Grid]):
  """Every layer, or every one of --layers, with each combination of settings of its grid."""
  from baselines import LAYERS
  from experiments.launch import spec

  for grid in grids:
    asked = flags.FLAGS.layers if flags.given('layers') else grid.layers or tuple(LAYERS)
    for layer in spec.canonical(asked, 'layer'):
      for values in itertools.product(*grid.varied.values()):
        yield layer, dict(zip(grid.varied, values, strict=True))


def starts() -> list[dict]:
  """What identifies the cells before training: a layer by itself unless a grid says otherwise."""
  from experiments.launch import build, flow, spec

  preset, found = flags.preset(PRESETS), []
  for length in flags.lengths() or (preset.length,):
    for layer, varied in expand(preset.start):
      alone = {'shell': 'classic', 'depth': len(spec.parse(layer, 'layer').pattern)}
      settings = preset.settings | alone | varied | flags.settings()
      asked = flow.asked(flags.make_run(**settings | {'layer': layer}), length)
      if asked not in found:
        build.check(flow.run_of(asked))
        found.append(asked)
  return found


def runs() -> list:
  """The runs that are trained."""
  preset = flags.preset(PRESETS)
  return list(dict.fromkeys(
    flags.make_run(**preset.settings | question.settings | varied | flags.settings()
                   | {'layer': layer, 'task': task})
    for question in questions.wanted(preset)
    for task in questions.distances(question)
    for layer, varied in expand(preset.trained)
  ))


def report(records: list[dict]):
  """The study's tables and panels."""
  done = [record for record in records if record['result']]
  started = [record for record in done if 'at' in record['run']]
  trained = [record for record in done if 'at' not in record['run']]
  shown = (
    ('every layer by itself', bare(started)),
    ('shells and depths', varied_of(started)),
  )
  tables = [start_table(f'Gradient flow at initialisation: {what}', of) for what, of in shown if of]
  if started:
    tables.append(fit_table(bare(started)))
  if trained:
    tables.append(training_table(trained))
  return tables, [*start_panels(started), *training_panels(trained)]


def bare(records: Sequence[dict]) -> list[dict]:
  """Of each layer the cell with least around it, and as shallow as there is."""
  found = {}
  for record in sorted(records, key=lambda r: (r['run']['shell'] != 'classic', r['run']['depth'])):
    run = record['run']
    found.setdefault((run['layer'], run['length'], run['width']), record)
  return list(found.values())


def varied_of(records: Sequence[dict]) -> list[dict]:
  """The cells of layers that were looked at in more than one shell or at more than one depth."""
  layers = [record['run']['layer'] for record in records]
  return [record for record in records if layers.count(record['run']['layer']) > 1]


def start_table(title: str, records: Sequence[dict]):
  """Norms at some distances, the better fit, half-life and verdict of cells at initialisation."""
  from experiments.results import decay
  from experiments.results.table import Table

  rows = []
  for record in records:
    run, curves = record['run'], decay.at_start(record)
    found = decay.decay(curves)
    rows.append((
      run['layer'], run['shell'], run['depth'], run['length'],
      *(curves.at(k) for k in (*SHOWN, int(curves.distances[-1]))),
      found.better, found.half_life, found.verdict,
    ))
  return Table(
    title,
    ('layer', 'shell', 'depth', 'length T', *(f'k = {k}' for k in SHOWN), 'k = T - 1',
     'better fit', 'half-life', 'verdict'),
    rows,
    'Log10 of the norm of d y_T / d x_(T - k), 0 for the identity, minus infinity where there is '
    'exactly no gradient; means over seeds with 95 % intervals. Unit Gaussian inputs. The '
    'half-life, in tokens, is of the exponential fit from k = 1 on. Vanishing or exploding: over '
    'the distances fitted, the whole interval of the change is beyond a factor of 2; steady: '
    'within it.',
  )


def fit_table(records: Sequence[dict]):
  """Both fits of cells at initialisation, with what they leave over."""
  from experiments.results import decay
  from experiments.results.statistics import mean_interval
  from experiments.results.table import Table

  rows = []
  for record in records:
    curves = decay.at_start(record)
    fits = decay.decay(curves).fits or {}
    rows.append((
      record['run']['layer'], f'1 to {curves.fitted.distances[-1]}' if fits else None,
      *(value for form in decay.FORMS for value in (
        (mean_interval(fits[form].slopes), fits[form].residual) if fits else (None, None))),
    ))
  return Table(
    'Gradient flow at initialisation: fits',
    ('layer', 'fitted', 'rate a token', 'misfit', 'exponent of k', 'misfit of the power'),
    rows,
    'log norm = a + rate k, or a + exponent log k, by least squares over the distances fitted; the '
    'rate is -1 / tau. Means over seeds with 95 % intervals. Misfit: root mean square of what is '
    'left, in log norm.',
  )


def training_table(records: Sequence[dict]):
  """Half-lives before, halfway through and after training, beside the score."""
  from experiments.results import decay, scores
  from experiments.results.table import Table

  rows = []
  for record in records:
    run, result = record['run'], record['result']
    looks = list(decay.in_training(record).values())
    before, halfway, after = (decay.decay(looks[i]) for i in (0, len(looks) // 2, -1))
    rows.append((
      f'{result["title"]} {result["distance"]}', run['layer'], run['shell'], run['clip'],
      before.half_life, halfway.half_life, after.half_life,
      *(look.at(int(look.distances[-1])) for look in (looks[0], looks[-1])),
      before.verdict, after.verdict, scores.metric_interval(record),
    ))
  metrics = ', '.join(dict.fromkeys(record['result']['metric'] for record in records))
  return Table(
    'Gradient flow during training',
    ('question', 'layer', 'shell', 'clip', 'half-life before', 'halfway', 'after',
     'farthest before', 'farthest after', 'verdict before', 'verdict after', 'score'),
    rows,
    'Half-lives in tokens, and log10 of the norm at the greatest distance, on test sequences. '
    f'Score: {metrics} on the test split, at the learning rate that is best on validation. 95 % '
    'intervals over seeds. Clip: the global norm that gradients are scaled down to; 0: none.',
  )


def panel(title: str, series: Mapping[str, Any]):
  """Norms against distance, from 1 on; what is exactly 0, or too small to draw, is left out."""
  from experiments.results.figures import Panel

  drawn = {name: curves.points(LOWEST) for name, curves in series.items()}
  most = max((norm.mean for points in drawn.values() for _, norm in points), default=1.0)
  return Panel(title, 'distance k', 'norm of the gradient', drawn, log_x=True, log_y=True,
               y_range=(LOWEST, 4 * most))


def start_panels(records: Sequence[dict]):
  """The main layers; other biases and recurrent weights; the shells of the deepest stacks."""
  from experiments.results import decay

  alone = {record['run']['layer']: decay.at_start(record) for record in bare(records)}
  panels = [panel('at initialisation', {n: alone[n] for n in PICTURED if n in alone})]
  for family in ('elman', 'lstm'):
    same = {name: curves for name, curves in alone.items() if name.partition('(')[0] == family}
    if len(same) > 1:
      panels.append(panel(f'{family}, other weights at the start', same))
  several = varied_of(records)
  for layer in dict.fromkeys(record['run']['layer'] for record in several):
    own = [record for record in several if record['run']['layer'] == layer]
    depth = max(record['run']['depth'] for record in own)
    panels.append(panel(f'{layer}, shells at a depth of {depth}', {
      record['run']['shell']: decay.at_start(record)
      for record in own if record['run']['depth'] == depth
    }))
  return [one for one in panels if any(one.series.values())]


def training_panels(records: Sequence[dict]):
  """Before and after training, with clipping, of each layer in the shell that it is in first."""
  from experiments.results import decay

  panels = []
  for title in dict.fromkeys(record['result']['title'] for record in records):
    own = {}
    for record in sorted(records, key=lambda r: r['run']['shell']):
      if record['result']['title'] == title and record['run']['clip']:
        own.setdefault(record['run']['layer'], list(decay.in_training(record).values()))
    for when, place in (('before', 0), ('after', -1)):
      panels.append(panel(f'{when} {title}', {n: looks[place] for n, looks in own.items()}))
  return [one for one in panels if any(one.series.values())]


def main() -> None:
  """Measures and trains the grid's missing cells, prints the tables, leaves them as files."""
  from experiments.launch import environment, flow, grid
  from experiments.results import publish
  from experiments.results.store import Store

  environment.prepare(flags.FLAGS.host_devices, flags.FLAGS.cache)  # before cells are checked
  asked = starts()
  records = questions.train(STUDY, runs(), flow.watch)
  records += grid.launch(
    [flow.cell_of(STUDY, values) for values in asked], flow.execute, Store(flags.FLAGS.runs),
    flags.FLAGS.retry,
  )
  publish.study(STUDY, *report(records), flags.FLAGS.runs)


if __name__ == '__main__':
  flags.main(main, define, __doc__)
