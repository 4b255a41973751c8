"""Claims on the decay of gradients with distance, and control experiments of the study."""

from collections.abc import Mapping
from typing import NamedTuple

from experiments.gradient_flow import decay
from experiments.lab.evidence.claim import VASWANI, Claim, oracle_and_baseline_controls
from experiments.lab.evidence.effects import Effect, Records

CONTROL = 'convolution'
DECREASE = 'decrease of log10 of the gradient norm from distance 1 to the longest distance'


class GradientSetting(NamedTuple):
  """Layer, settings and training state of the model whose gradient norms are selected."""

  layer: str
  settings: Mapping
  trained: bool = False


def untrained_layer_setting(layer: str, **settings) -> GradientSetting:
  """Selects one untrained layer, without a residual block unless `settings` contains `block`."""
  return GradientSetting(layer, {'block': 'plain', 'depth': 1} | settings)


def gradient_decrease_of_each_seed(records: Records, setting: GradientSetting) -> list[float]:
  """The log10 gradient norm at distance 1 minus that at the longest distance, for each seed.

  If several records have the setting, the one with the longest sequences counts, or with the most
  training steps. The list is empty if no record has the setting.
  """
  matching = [
    record for record in records
    if record['status'] == 'finished' and ('at' not in record['run']) == setting.trained
    and record['run']['layer'] == setting.layer
    and all(record['run'].get(name) == value for name, value in setting.settings.items())
  ]
  if not matching:
    return []
  record = max(matching, key=lambda r: r['run'].get('length', r['run'].get('steps')))
  if not setting.trained:
    return decay.log10_norm_decrease(decay.initial_norm_curves(record))
  return decay.log10_norm_decrease([*decay.training_norm_curves(record).values()][-1])


def gradient_decrease(
  setting: GradientSetting, reference: GradientSetting | None = None
) -> Effect:
  """Returns a function that computes the decrease of log10 gradient norm with distance.

  The function returns a decrease for each seed, minus that of the reference model if there is one.
  """
  def decrease_minus_reference(records: Records) -> list[float] | None:
    decreases = gradient_decrease_of_each_seed(records, setting)
    subtracted = [0.0] * len(decreases)
    if reference:
      subtracted = gradient_decrease_of_each_seed(records, reference)
    return [a - b for a, b in zip(decreases, subtracted, strict=False)] or None

  return decrease_minus_reference


def largest_gradient_norm_beyond_receptive_field(layer: str) -> Effect:
  """Returns a function that computes the largest gradient norm outside the receptive field.

  The function returns a norm of the untrained layer for each seed.
  """
  def largest_norm_of_each_seed(records: Records) -> list[float] | None:
    norms = [
      norm for record in records
      if record['status'] == 'finished' and 'at' in record['run']
      and record['run']['layer'] == layer
      for norm in decay.largest_norms_beyond_receptive_field(decay.initial_norm_curves(record))
    ]
    return norms or None

  return largest_norm_of_each_seed


CONTROLS = (
  *oracle_and_baseline_controls('gradient_flow'),
  Claim(
    'blind-gradient',
    'At initialisation the gradient of the last output of a convolution with respect to inputs '
    'beyond its receptive field is 0',
    'control', 'gradient_flow', largest_gradient_norm_beyond_receptive_field('convolution'), 
    'largest norm of the gradient beyond the receptive field', '<', 1e-30, exact=True,
  ),
)
CLAIMS = (
  Claim(
    'gradients-vanish',
    'At initialisation the gradient of the last output of an Elman network with respect to an '
    'earlier input vanishes with the distance between them',
    'Bengio et al. 1994; Pascanu et al. 2013', 'gradient_flow',
    gradient_decrease(untrained_layer_setting('elman')), DECREASE, '>', 3.0,
  ),
  Claim(
    'gradients-explode',
    'At initialisation the gradient of the last output of an Elman network with respect to an '
    'earlier input explodes with the distance between them if the orthogonal recurrent weights are '
    'multiplied by 2',
    'Bengio et al. 1994; Pascanu et al. 2013', 'gradient_flow',
    gradient_decrease(untrained_layer_setting('elman(recurrent_gain=2.0)')), DECREASE, '<', 0.0,
  ),
  Claim(
    'orthogonal-keeps',
    'At initialisation the gradient of the last output of an Elman network with respect to an '
    'earlier input decreases less with the distance between them if the recurrent weights are '
    'orthogonal than if they are normally distributed',
    'Saxe et al. 2014; Arjovsky et al. 2016', 'gradient_flow',
    gradient_decrease(
      untrained_layer_setting('elman(recurrent_init=normal)'),
      reference=untrained_layer_setting('elman')),
    f'{DECREASE}, with normal weights minus with orthogonal weights', '>', 0.0,
  ),
  Claim(
    'gate-keeps-gradients',
    'At initialisation the gradient of the last output of an LSTM with respect to an earlier input '
    'decreases less with the distance between them if the bias of the forget gate is 3 than if it '
    'is 0',
    'Gers et al. 2000; Jozefowicz et al. 2015', 'gradient_flow',
    gradient_decrease(
      untrained_layer_setting('lstm(forget_bias=0.0)'),
      reference=untrained_layer_setting('lstm(forget_bias=3.0)')),
    f'{DECREASE}, at bias 0 minus at bias 3', '>', 3.0,
  ),
  Claim(
    'attention-flows',
    'At initialisation the gradient of the last output of an attention layer with respect to an '
    'earlier input does not vanish with the distance between them',
    VASWANI, 'gradient_flow', gradient_decrease(untrained_layer_setting('attention')), DECREASE,
    '<', 1.0,
  ),
  Claim(
    'residual-across-time',
    'At initialisation residual connections around the layers of a four-layer Elman network do not '
    'keep the gradient of its last output with respect to an earlier input from decreasing with '
    'the distance between them',
    'Pascanu et al. 2013; He et al. 2016', 'gradient_flow',
    gradient_decrease(
      untrained_layer_setting('elman', depth=4),
      reference=untrained_layer_setting('elman', depth=4, block='no_norm')),
    f'{DECREASE}, without residual connections minus with them', '<', 3.0,
  ),
  Claim(
    'clipping-no-cure',
    'After training with gradients clipped to a norm of 1, the gradient of the last output of an '
    'Elman network with respect to an earlier input vanishes with the distance between them',
    'Pascanu et al. 2013', 'gradient_flow',
    gradient_decrease(GradientSetting('elman', {'block': 'plain', 'clip': 1.0}, trained=True)),
    DECREASE, '>', 3.0,
  ),
)
