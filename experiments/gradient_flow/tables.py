"""Tables and figure panels of gradient norms, at initialisation and during training."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.gradient_flow import decay
from experiments.gradient_flow.claims import CONTROL
from experiments.lab.results import scores
from experiments.lab.results.figures import Panel
from experiments.lab.results.statistics import mean_with_confidence_interval
from experiments.lab.results.table import Table

TABLE_DISTANCES = (1, 8, 32)  # columns of tables, beside the longest distance
PLOTTED_LAYERS = ('attention', 'elman', 'lstm', 'gru', 'mamba', 'lru', CONTROL)
LOWEST_PLOTTED = 1e-12


def report(records: list[dict]):
  """The tables and figure panels of the gradient norms of untrained and of trained models."""
  with_result = [record for record in records if record['result']]
  untrained = [record for record in with_result if 'at' in record['run']]
  trained = [record for record in with_result if 'at' not in record['run']]
  titled_records = (
    ('every layer alone', _records_of_shallowest_models(untrained)),
    ('residual blocks and depths compared', _records_of_compared_layers(untrained)),
  )
  tables = [
    _table_of_norms_at_initialisation(
      f'Gradient norm against distance at initialisation: {title}', selected)
    for title, selected in titled_records if selected
  ]
  if untrained:
    tables.append(_decay_fits_table(_records_of_shallowest_models(untrained)))
  if trained:
    tables.append(_table_of_norms_during_training(trained))
  return tables, [
    *_panels_of_norms_at_initialisation(untrained),
    *_panels_of_norms_before_and_after_training(trained),
  ]


def _records_of_shallowest_models(records: Sequence[dict]) -> list[dict]:
  """Returns one record per layer, preferably without residual block and of the smallest depth."""
  shallowest = {}
  for record in sorted(records, key=lambda r: (r['run']['block'] != 'plain', r['run']['depth'])):
    run = record['run']
    shallowest.setdefault((run['layer'], run['length'], run['width']), record)
  return list(shallowest.values())


def _records_of_compared_layers(records: Sequence[dict]) -> list[dict]:
  """Records of layers that were measured at several depths or with several residual block types."""
  layers = [record['run']['layer'] for record in records]
  return [record for record in records if layers.count(record['run']['layer']) > 1]


def _table_of_norms_at_initialisation(title: str, records: Sequence[dict]):
  """Table of gradient norms at initialisation, and whether they vanish or explode with distance.

  Half-lives are in tokens. A verdict is the class of a decay, such as `vanishing`.
  """
  rows = []
  for record in records:
    run, curves = record['run'], decay.gradient_norm_curves_at_initialisation(record)
    analysis = decay.analyse_decay(curves)
    rows.append((
      run['layer'], run['block'], run['depth'], run['length'],
      *(curves.mean_log10_norm_at(k) for k in (*TABLE_DISTANCES, int(curves.distances[-1]))),
      analysis.better, analysis.half_life, analysis.verdict,
    ))
  return Table(
    title,
    ('layer', 'residual block', 'depth', 'length T', *(f'k = {k}' for k in TABLE_DISTANCES),
     'k = T - 1', 'better fit', 'half-life in tokens', 'verdict'),
    rows,
    'Columns k: log10 of the norm of d y_T / d x_(T - k), the gradient of the last output with '
    'respect to the input k tokens earlier. It is 0 for an identity map, and minus infinity where '
    'the gradient is exactly 0. Means over seeds with 95 % intervals, for unit Gaussian inputs. '
    'The half-life is that of the exponential fit from k = 1 on. A gradient is vanishing or '
    'exploding if the 95 % interval of its change over the fitted distances lies beyond a factor '
    'of 2, and steady if the interval lies within a factor of 2.',
  )


def _decay_fits_table(records: Sequence[dict]):
  """Table of exponential and power-law fits to gradient norms at initialisation."""
  rows = []
  for record in records:
    curves = decay.gradient_norm_curves_at_initialisation(record)
    fits = decay.analyse_decay(curves).fits or {}
    longest = curves.curves_within_fit_range.distances[-1] if fits else None
    rows.append((
      record['run']['layer'], f'1 to {longest}' if fits else None,
      *(value for law in decay.DECAY_LAWS for value in (
        (mean_with_confidence_interval(fits[law].slopes), fits[law].residual)
        if fits else (None, None))),
    ))
  return Table(
    'Gradient norm against distance at initialisation: fits',
    ('layer', 'fitted distances', 'rate per token', 'residual of the exponential',
     'exponent of k', 'residual of the power'),
    rows,
    'Least-squares fits of log norm = a + rate k (exponential) and log norm = a + exponent log k '
    '(power) over the fitted distances k, where rate = -1 / tau. Means over seeds with 95 % '
    'intervals. Residual: root mean square over seeds and distances, in log norm.',
  )


def _table_of_norms_during_training(records: Sequence[dict]):
  """Table of test scores, of gradient norms, and of the distances over which the norms halve.

  The norms are those before, halfway through and after training.
  """
  rows = []
  for record in records:
    run, result = record['run'], record['result']
    evaluations = list(decay.gradient_norm_curves_by_training_step(record).values())
    before, halfway, after = (
      decay.analyse_decay(evaluations[i]) for i in (0, len(evaluations) // 2, -1))
    rows.append((
      f'{result["title"]} {result["distance"]}', run['layer'], run['block'], run['clip'],
      before.half_life, halfway.half_life, after.half_life,
      *(curves.mean_log10_norm_at(int(curves.distances[-1]))
        for curves in (evaluations[0], evaluations[-1])),
      before.verdict, after.verdict, scores.mean_test_metric_with_interval(record),
    ))
  metrics = ', '.join(dict.fromkeys(record['result']['metric'] for record in records))
  return Table(
    'Gradient norm during training',
    ('task', 'layer', 'residual block', 'clipping norm', 'half-life before training',
     'half-life halfway through training', 'half-life after training', 'log10 norm before training',
     'log10 norm after training', 'verdict before training', 'verdict after training', 'score'),
    rows,
    'The gradient is that of the last output with respect to the inputs of the first block, on '
    'test sequences. Half-lives are in tokens. The log10 norm is at the longest distance. '
    f'Score: {metrics} on the test split, at the learning rate that is best on the validation '
    'split. 95 % intervals over seeds. Clipping norm: the global norm to which training gradients '
    'are scaled down, or 0 without clipping.',
  )


def _gradient_norms_panel(title: str, series: Mapping[str, Any]):
  """A panel of gradient norms against distance, without norms below `LOWEST_PLOTTED`."""
  drawn = {
    name: curves.geometric_mean_norms_over_seeds(LOWEST_PLOTTED)
    for name, curves in series.items()
  }
  most = max((norm.estimate for points in drawn.values() for _, norm in points), default=1.0)
  return Panel(title, 'distance k in tokens', 'norm of the gradient', drawn, log_x=True, log_y=True,
               y_range=(LOWEST_PLOTTED, 4 * most))


def _panels_of_norms_at_initialisation(records: Sequence[dict]):
  """Panels of gradient norms at initialisation against distance.

  The first panel compares layers. The other panels compare initial weights of a layer, or residual
  blocks around a layer.
  """
  shallowest = _records_of_shallowest_models(records)
  by_layer = {
    record['run']['layer']: decay.gradient_norm_curves_at_initialisation(record)
    for record in shallowest
  }
  main_layers = {name: by_layer[name] for name in PLOTTED_LAYERS if name in by_layer}
  panels = [_gradient_norms_panel('at initialisation', main_layers)]
  for family in ('elman', 'lstm'):
    variants = {
      name: curves for name, curves in by_layer.items() if name.partition('(')[0] == family}
    if len(variants) > 1:
      panels.append(_gradient_norms_panel(f'{family} by initial weights', variants))
  compared = _records_of_compared_layers(records)
  for layer in dict.fromkeys(record['run']['layer'] for record in compared):
    same_layer = [record for record in compared if record['run']['layer'] == layer]
    depth = max(record['run']['depth'] for record in same_layer)
    panels.append(_gradient_norms_panel(f'{layer} by residual block, depth {depth}', {
      record['run']['block']: decay.gradient_norm_curves_at_initialisation(record)
      for record in same_layer if record['run']['depth'] == depth
    }))
  return [panel for panel in panels if any(panel.series.values())]


def _panels_of_norms_before_and_after_training(records: Sequence[dict]):
  """Panels of gradient norms before and after training with gradient clipping, for each layer.

  Each layer has only one kind of residual block.
  """
  panels = []
  for title in dict.fromkeys(record['result']['title'] for record in records):
    by_layer = {}
    for record in sorted(records, key=lambda r: r['run']['block']):
      if record['result']['title'] == title and record['run']['clip']:
        evaluations = list(decay.gradient_norm_curves_by_training_step(record).values())
        by_layer.setdefault(record['run']['layer'], evaluations)
    for time, index in (('before', 0), ('after', -1)):
      panels.append(_gradient_norms_panel(f'{time} training on {title}', {
        layer: evaluations[index] for layer, evaluations in by_layer.items()
      }))
  return [panel for panel in panels if any(panel.series.values())]
