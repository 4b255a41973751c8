"""Tables and panels of gradients: at initialisation, and before and after training."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.gradient_flow import decay
from experiments.gradient_flow.claims import CONTROL
from experiments.lab.results import scores
from experiments.lab.results.figures import Panel
from experiments.lab.results.statistics import mean_interval
from experiments.lab.results.table import Table

SHOWN = (1, 8, 32)  # distances that tables have, besides the farthest
PICTURED = ('attention', 'elman', 'lstm', 'gru', 'mamba', 'lru', CONTROL)
LOWEST = 1e-12  # norm of a panel


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
  for record in sorted(records, key=lambda r: (r['run']['block'] != 'plain', r['run']['depth'])):
    run = record['run']
    found.setdefault((run['layer'], run['length'], run['width']), record)
  return list(found.values())


def varied_of(records: Sequence[dict]) -> list[dict]:
  """The cells of layers that were looked at in more than one shell or at more than one depth."""
  layers = [record['run']['layer'] for record in records]
  return [record for record in records if layers.count(record['run']['layer']) > 1]


def start_table(title: str, records: Sequence[dict]):
  """Norms at some distances, the better fit, half-life and verdict of cells at initialisation."""
  rows = []
  for record in records:
    run, curves = record['run'], decay.at_start(record)
    found = decay.decay(curves)
    rows.append((
      run['layer'], run['block'], run['depth'], run['length'],
      *(curves.at(k) for k in (*SHOWN, int(curves.distances[-1]))),
      found.better, found.half_life, found.verdict,
    ))
  return Table(
    title,
    ('layer', 'block', 'depth', 'length T', *(f'k = {k}' for k in SHOWN), 'k = T - 1',
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
  rows = []
  for record in records:
    run, result = record['run'], record['result']
    looks = list(decay.in_training(record).values())
    before, halfway, after = (decay.decay(looks[i]) for i in (0, len(looks) // 2, -1))
    rows.append((
      f'{result["title"]} {result["distance"]}', run['layer'], run['block'], run['clip'],
      before.half_life, halfway.half_life, after.half_life,
      *(look.at(int(look.distances[-1])) for look in (looks[0], looks[-1])),
      before.verdict, after.verdict, scores.metric_interval(record),
    ))
  metrics = ', '.join(dict.fromkeys(record['result']['metric'] for record in records))
  return Table(
    'Gradient flow during training',
    ('question', 'layer', 'block', 'clip', 'half-life before', 'halfway', 'after',
     'farthest before', 'farthest after', 'verdict before', 'verdict after', 'score'),
    rows,
    'Half-lives in tokens, and log10 of the norm at the greatest distance, on test sequences. '
    f'Score: {metrics} on the test split, at the learning rate that is best on validation. 95 % '
    'intervals over seeds. Clip: the global norm that gradients are scaled down to; 0: none.',
  )


def panel(title: str, series: Mapping[str, Any]):
  """Norms against distance, from 1 on; what is exactly 0, or too small to draw, is left out."""
  drawn = {name: curves.points(LOWEST) for name, curves in series.items()}
  most = max((norm.mean for points in drawn.values() for _, norm in points), default=1.0)
  return Panel(title, 'distance k', 'norm of the gradient', drawn, log_x=True, log_y=True,
               y_range=(LOWEST, 4 * most))


def start_panels(records: Sequence[dict]):
  """The main layers; other biases and recurrent weights; the shells of the deepest stacks."""
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
      record['run']['block']: decay.at_start(record)
      for record in own if record['run']['depth'] == depth
    }))
  return [one for one in panels if any(one.series.values())]


def training_panels(records: Sequence[dict]):
  """Before and after training, with clipping, of each layer in the shell that it is in first."""
  panels = []
  for title in dict.fromkeys(record['result']['title'] for record in records):
    own = {}
    for record in sorted(records, key=lambda r: r['run']['block']):
      if record['result']['title'] == title and record['run']['clip']:
        own.setdefault(record['run']['layer'], list(decay.in_training(record).values()))
    for when, place in (('before', 0), ('after', -1)):
      panels.append(panel(f'{when} {title}', {n: looks[place] for n, looks in own.items()}))
  return [one for one in panels if any(one.series.values())]
