"""What is claimed of receptive fields, and what the claims rest on."""

from experiments.lab.evidence.claim import Claim, calibrated
from experiments.lab.evidence.effects import Effect, Records
from experiments.lab.results.scores import scores
from experiments.receptive_field import tables

LUO = 'Luo et al. 2016'


def shown_as_declared(records: Records) -> list[float] | None:
  """1 for each stack whose Jacobian shows the field that it declares, 0 for each other."""
  stacks, _ = tables.split(records)
  return [float(tables.agrees(stack)) for stack in stacks] or None


def effective_part(lost: bool) -> Effect:
  """The effective part of the field of the deepest stacks, by seed; or how much less it is there.

  Less than that of the shallowest stacks of the same layers.
  """
  def effect(records: Records) -> list[float] | None:
    groups = tables.by_depth(tables.split(records)[0]).values()
    found = [
      (first - last if lost else last) for group in groups
      for first, last in zip(tables.shares(group[0]), tables.shares(group[-1]), strict=True)
    ]
    return found or None

  return effect


def spread_exponent(block: str) -> Effect:
  """With what power of the depth the gradient spreads in a shell, by layer and seed."""
  def effect(records: Records) -> list[float] | None:
    groups = tables.by_depth(tables.split(records)[0]).values()
    return [
      power for group in groups if group[0]['run']['block'] == block
      for power in tables.exponents(group, 'spread')
    ] or None

  return effect


def around_edge(beyond: bool) -> Effect:
  """Scores, by seed, of all models that have an edge, at the distances inside or beyond it."""
  def effect(records: Records) -> list[float] | None:
    return [
      score for record in tables.split(records)[1]
      if record['status'] == 'finished' and record['result']['receptive_field']
      and tables.inside(record) != beyond
      for score in scores(record).values()
    ] or None

  return effect


def widening(records: Records) -> list[float] | None:
  """The spread of the gradient after training over that before, right inside of each field."""
  return [
    after / before for record in tables.just_inside(tables.split(records)[1])
    for before, after in zip(*(tables.watched(record, 'spread', look) for look in (0, -1)),
                             strict=True) if before
  ] or None


CONTROLS = (
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
    'receptive_field', spread_exponent('plain'), 'power of the depth', '<', 0.6,
  ),
  Claim(
    'training-widens', 'Training widens the effective field to where the answer is', LUO,
    'receptive_field', widening, 'times the spread before', '>', 1.0,
  ),
)
