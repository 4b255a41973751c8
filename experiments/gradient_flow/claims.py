"""Claims on the decay of gradients with distance, and control experiments of the study."""

from collections.abc import Mapping
from typing import NamedTuple

from experiments.gradient_flow import decay
from experiments.lab.evidence.claim import VASWANI, Claim, claims_about_oracle_and_baseline_scores
from experiments.lab.evidence.effects import Effect, Records

CONTROL = 'convolution'
DECREASE = 'decrease of log10 of the gradient norm from distance 1 to the longest distance'


class ModelDescription(NamedTuple):
  """Layer and settings of a model with measured gradient norms, and whether it is trained."""

  layer: str
  settings: Mapping
  trained: bool = False


def untrained_model_description(layer: str, **settings) -> ModelDescription:
  """Describes an untrained model, by default with one layer and without residual connection."""
  return ModelDescription(layer, {'block': 'plain', 'depth': 1} | settings)


def gradient_norm_decreases_by_seed(
  records: Records, model: ModelDescription
) -> list[float]:
  """The log10 gradient norm at distance 1 minus that at the longest distance, for each seed.

  If several records match the model, the record with the longest sequences counts, or that with
  the most training steps. The list is empty if no record matches.
  """
  matching = [
    record for record in records
    if record['status'] == 'finished' and ('at' not in record['run']) == model.trained
    and record['run']['layer'] == model.layer
    and all(record['run'].get(name) == value for name, value in model.settings.items())
  ]
  if not matching:
    return []
  record = max(matching, key=lambda r: r['run'].get('length', r['run'].get('steps')))
  if not model.trained:
    initial = decay.gradient_norm_curves_at_initialisation(record)
    return decay.log10_gradient_norm_decrease_with_distance(initial)
  *_, last = decay.gradient_norm_curves_by_training_step(record).values()
  return decay.log10_gradient_norm_decrease_with_distance(last)


def gradient_norm_decrease_with_distance(
  model: ModelDescription, reference_model_to_subtract: ModelDescription | None = None
) -> Effect:
  """Returns a function that computes the decrease of log10 gradient norm with distance.

  The function returns a decrease for each seed, minus that of the reference model if one is given.
  """
  def gradient_decrease_relative_to_reference_model(records: Records) -> list[float] | None:
    decreases = gradient_norm_decreases_by_seed(records, model)
    subtracted = [0.0] * len(decreases)
    if reference_model_to_subtract:
      subtracted = gradient_norm_decreases_by_seed(records, reference_model_to_subtract)
    return [a - b for a, b in zip(decreases, subtracted, strict=False)] or None

  return gradient_decrease_relative_to_reference_model


def largest_gradient_norm_beyond_receptive_field(layer: str) -> Effect:
  """Returns a function that computes the largest gradient norm outside the receptive field.

  The function returns a norm of the untrained layer for each seed.
  """
  def largest_norm_of_each_seed(records: Records) -> list[float] | None:
    norms = [
      norm for record in records
      if record['status'] == 'finished' and 'at' in record['run']
      and record['run']['layer'] == layer
      for norm in decay.largest_norms_beyond_receptive_field(
        decay.gradient_norm_curves_at_initialisation(record))
    ]
    return norms or None

  return largest_norm_of_each_seed


CONTROLS = (
  *claims_about_oracle_and_baseline_scores('gradient_flow'),
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
    gradient_norm_decrease_with_distance(untrained_model_description('elman')),
    DECREASE, '>', 3.0,
  ),
  Claim(
    'gradients-explode',
    'At initialisation the gradient of the last output of an Elman network with respect to an '
    'earlier input explodes with the distance between them if the orthogonal recurrent weights are '
    'multiplied by 2',
    'Bengio et al. 1994; Pascanu et al. 2013', 'gradient_flow',
    gradient_norm_decrease_with_distance(untrained_model_description('elman(recurrent_gain=2.0)')),
    DECREASE, '<', 0.0,
  ),
  Claim(
    'orthogonal-keeps',
    'At initialisation the gradient of the last output of an Elman network with respect to an '
    'earlier input decreases less with the distance between them if the recurrent weights are '
    'orthogonal than if they are normally distributed',
    'Saxe et al. 2014; Arjovsky et al. 2016', 'gradient_flow',
    gradient_norm_decrease_with_distance(
      untrained_model_description('elman(recurrent_init=normal)'),
      reference_model_to_subtract=untrained_model_description('elman')),
    f'{DECREASE}, with normal weights minus with orthogonal weights', '>', 0.0,
  ),
  Claim(
    'gate-keeps-gradients',
    'At initialisation the gradient of the last output of an LSTM with respect to an earlier input '
    'decreases less with the distance between them if the bias of the forget gate is 3 than if it '
    'is 0',
    'Gers et al. 2000; Jozefowicz et al. 2015', 'gradient_flow',
    gradient_norm_decrease_with_distance(
      untrained_model_description('lstm(forget_bias=0.0)'),
      reference_model_to_subtract=untrained_model_description('lstm(forget_bias=3.0)')),
    f'{DECREASE}, at bias 0 minus at bias 3', '>', 3.0,
  ),
  Claim(
    'attention-flows',
    'At initialisation the gradient of the last output of an attention layer with respect to an '
    'earlier input does not vanish with the distance between them',
    VASWANI, 'gradient_flow',
    gradient_norm_decrease_with_distance(untrained_model_description('attention')),
    DECREASE, '<', 1.0,
  ),
  Claim(
    'residual-across-time',
    'At initialisation residual connections around the layers of a four-layer Elman network do not '
    'keep the gradient of its last output with respect to an earlier input from decreasing with '
    'the distance between them',
    'Pascanu et al. 2013; He et al. 2016', 'gradient_flow',
    gradient_norm_decrease_with_distance(
      untrained_model_description('elman', depth=4),
      reference_model_to_subtract=untrained_model_description('elman', depth=4, block='no_norm')),
    f'{DECREASE}, without residual connections minus with them', '<', 3.0,
  ),
  Claim(
    'clipping-no-cure',
    'After training with gradients clipped to a norm of 1, the gradient of the last output of an '
    'Elman network with respect to an earlier input vanishes with the distance between them',
    'Pascanu et al. 2013', 'gradient_flow',
    gradient_norm_decrease_with_distance(
      ModelDescription('elman', {'block': 'plain', 'clip': 1.0}, trained=True)),
    DECREASE, '>', 3.0,
  ),
)
