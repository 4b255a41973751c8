"""How far gradients flow and fields reach: effects, claims and their controls."""

from collections.abc import Mapping
from typing import NamedTuple

from experiments.ledger.claim import VASWANI, Claim, calibrated
from experiments.ledger.effects import Effect, Records
from experiments.results import decay, fields
from experiments.results.scores import scores

LUO = 'Luo et al. 2016'


class Flow(NamedTuple):
  """The gradient of a layer in a setting, at initialisation or after it has been trained."""

  layer: str
  settings: Mapping
  trained: bool = False


def start(layer: str, **settings) -> Flow:
  """A layer's gradient at initialisation, by itself unless the settings say otherwise."""
  return Flow(layer, {'shell': 'classic', 'depth': 1} | settings)


def falls(records: Records, flow: Flow) -> list[float]:
  """Powers of ten by which it falls from distance 1 to the greatest, by seed; empty: not run.

  Of several cells it is the one with the longest sequences, or the most steps.
  """
  found = [
    record for record in records
    if record['status'] == 'finished' and ('at' not in record['run']) == flow.trained
    and record['run']['layer'] == flow.layer
    and all(record['run'].get(name) == value for name, value in flow.settings.items())
  ]
  if not found:
    return []
  record = max(found, key=lambda r: r['run'].get('length', r['run'].get('steps')))
  looks = decay.in_training(record).values() if flow.trained else [decay.at_start(record)]
  return decay.falls([*looks][-1])


def gradient_fall(flow: Flow, less: Flow | None = None) -> Effect:
  """Powers of ten by which a gradient falls with distance, or falls more than another, by seed."""
  def effect(records: Records) -> list[float] | None:
    ours = falls(records, flow)
    theirs = falls(records, less) if less else [0.0] * len(ours)
    return [a - b for a, b in zip(ours, theirs, strict=False)] or None

  return effect


def gradient_beyond(layer: str) -> Effect:
  """The largest norm of a layer's gradient beyond its receptive field, by seed."""
  def effect(records: Records) -> list[float] | None:
    found = [
      norm for record in records
      if record['status'] == 'finished' and 'at' in record['run']
      and record['run']['layer'] == layer
      for norm in decay.beyond(decay.at_start(record))
    ]
    return found or None

  return effect


def shown_as_declared(records: Records) -> list[float] | None:
  """1 for each stack whose Jacobian shows the field that it declares, 0 for each other."""
  stacks, _ = fields.split(records)
  return [float(fields.agrees(stack)) for stack in stacks] or None


def effective_part(lost: bool) -> Effect:
  """The effective part of the field of the deepest stacks, by seed; or how much less it is there.

  Less than that of the shallowest stacks of the same layers.
  """
  def effect(records: Records) -> list[float] | None:
    groups = fields.by_depth(fields.split(records)[0]).values()
    found = [
      (first - last if lost else last) for group in groups
      for first, last in zip(fields.shares(group[0]), fields.shares(group[-1]), strict=True)
    ]
    return found or None

  return effect


def spread_exponent(shell: str) -> Effect:
  """With what power of the depth the gradient spreads in a shell, by layer and seed."""
  def effect(records: Records) -> list[float] | None:
    groups = fields.by_depth(fields.split(records)[0]).values()
    return [
      power for group in groups if group[0]['run']['shell'] == shell
      for power in fields.exponents(group, 'spread')
    ] or None

  return effect


def around_edge(beyond: bool) -> Effect:
  """Scores, by seed, of all models that have an edge, at the distances inside or beyond it."""
  def effect(records: Records) -> list[float] | None:
    return [
      score for record in fields.split(records)[1]
      if record['status'] == 'finished' and record['result']['receptive_field']
      and fields.inside(record) != beyond
      for score in scores(record).values()
    ] or None

  return effect


def widening(records: Records) -> list[float] | None:
  """The spread of the gradient after training over that before, right inside of each field."""
  return [
    after / before for record in fields.just_inside(fields.split(records)[1])
    for before, after in zip(*(fields.watched(record, 'spread', look) for look in (0, -1)),
                             strict=True) if before
  ] or None


CONTROLS = (
  *calibrated('gradient_flow'),
  Claim(
    'blind-gradient', 'A convolution has no gradient at all beyond its receptive field', 'control',
    'gradient_flow', gradient_beyond('convolution'), 'norm', '<', 1e-30, exact=True,
  ),
  *calibrated('receptive_field'),
  Claim(
    'declared-field', 'The field that a layer declares is the one that its Jacobian shows',
    'control', 'receptive_field', shown_as_declared, 'part of the stacks', '>', 0.999,
    exact=True,
  ),
  Claim(
    'blind-field', 'Beyond its receptive field a model scores chance', 'control',
    'receptive_field', around_edge(beyond=True), 'score', '<', 0.05,
  ),
)
CLAIMS = (
  Claim(
    'gradients-vanish', 'Gradients of a simple recurrent network vanish with distance',
    'Bengio et al. 1994; Pascanu et al. 2013', 'gradient_flow', gradient_fall(start('elman')),
    'powers of ten', '>', 3.0,
  ),
  Claim(
    'gradients-explode', 'Recurrent weights that stretch make them explode',
    'Bengio et al. 1994; Pascanu et al. 2013', 'gradient_flow',
    gradient_fall(start('elman(recurrent_gain=2.0)')), 'powers of ten lost', '<', 0.0,
  ),
  Claim(
    'orthogonal-keeps', 'Orthogonal recurrent weights keep them longer than normal ones',
    'Saxe et al. 2014; Arjovsky et al. 2016', 'gradient_flow',
    gradient_fall(start('elman(recurrent_init=normal)'), less=start('elman')),
    'powers of ten', '>', 0.0,
  ),
  Claim(
    'gate-keeps-gradients', 'A forget gate that starts open keeps them longer',
    'Gers et al. 2000; Jozefowicz et al. 2015', 'gradient_flow',
    gradient_fall(start('lstm(forget_bias=0.0)'), less=start('lstm(forget_bias=3.0)')),
    'powers of ten', '>', 3.0,
  ),
  Claim(
    'attention-flows', "Attention's gradients do not vanish with distance", VASWANI,
    'gradient_flow', gradient_fall(start('attention')), 'powers of ten', '<', 1.0,
  ),
  Claim(
    'residual-across-time',
    'Residual connections from block to block do not carry gradients back in time',
    'Pascanu et al. 2013; He et al. 2016', 'gradient_flow',
    gradient_fall(start('elman', depth=4), less=start('elman', depth=4, shell='none')),
    'powers of ten kept', '<', 3.0,
  ),
  Claim(
    'clipping-no-cure', 'Clipping does not keep gradients from vanishing in training',
    'Pascanu et al. 2013', 'gradient_flow',
    gradient_fall(Flow('elman', {'shell': 'classic', 'clip': 1.0}, trained=True)),
    'powers of ten', '>', 3.0,
  ),
  Claim(
    'inside-field', 'Within its receptive field a convolution copies', 'Bai et al. 2018',
    'receptive_field', around_edge(beyond=False), 'score', '>', 0.9,
  ),
  Claim(
    'effective-field', 'The effective field is a part of the declared one', LUO,
    'receptive_field', effective_part(lost=False), 'part of the field', '<', 0.9,
  ),
  Claim(
    'effective-shrinks', 'That part shrinks with depth', LUO, 'receptive_field',
    effective_part(lost=True), 'part of the field', '>', 0.0,
  ),
  Claim(
    'effective-root', 'Without residuals the gradient spreads with the root of the depth', LUO,
    'receptive_field', spread_exponent('classic'), 'power of the depth', '<', 0.6,
  ),
  Claim(
    'training-widens', 'Training widens the effective field to where the answer is', LUO,
    'receptive_field', widening, 'times the spread before', '>', 1.0,
  ),
)
