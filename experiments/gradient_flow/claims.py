"""What is claimed of how far gradients flow, and what the claims rest on."""

from collections.abc import Mapping
from typing import NamedTuple

from experiments.gradient_flow import decay
from experiments.lab.evidence.claim import VASWANI, Claim, calibrated
from experiments.lab.evidence.effects import Effect, Records

CONTROL = 'convolution'


class Flow(NamedTuple):
  """The gradient of a layer in a setting, at initialisation or after it has been trained."""

  layer: str
  settings: Mapping
  trained: bool = False


def start(layer: str, **settings) -> Flow:
  """A layer's gradient at initialisation, by itself unless the settings say otherwise."""
  return Flow(layer, {'block': 'plain', 'depth': 1} | settings)


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


CONTROLS = (
  *calibrated('gradient_flow'),
  Claim(
    'blind-gradient', 'A convolution has no gradient at all beyond its receptive field', 'control',
    'gradient_flow', gradient_beyond('convolution'), 'norm', '<', 1e-30, exact=True,
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
    gradient_fall(start('elman', depth=4), less=start('elman', depth=4, block='no_norm')),
    'powers of ten kept', '<', 3.0,
  ),
  Claim(
    'clipping-no-cure', 'Clipping does not keep gradients from vanishing in training',
    'Pascanu et al. 2013', 'gradient_flow',
    gradient_fall(Flow('elman', {'block': 'plain', 'clip': 1.0}, trained=True)),
    'powers of ten', '>', 3.0,
  ),
)
