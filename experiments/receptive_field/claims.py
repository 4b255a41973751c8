"""Claims on declared, measured and effective receptive fields, and control experiments."""

from experiments.lab.evidence.claim import Claim, oracle_and_baseline_controls
from experiments.lab.evidence.effects import Effect, Records
from experiments.lab.results.scores import scores_by_seed
from experiments.receptive_field import tables

LUO = 'Luo et al. 2016'
SCORE = 'copy memory score, 0 at chance and 1 if perfect'
FRACTION = 'effective receptive field divided by the declared one'
SPREAD = 'standard deviation of the lag, weighted by the squared gradient of the last output'


def agreement_of_declared_and_measured_fields(records: Records) -> list[float] | None:
  """For each stack, 1 if the measured receptive field equals the declared one, and 0 otherwise."""
  stacks, _ = tables.split_untrained_and_trained(records)
  return [float(tables.measured_equals_declared(stack)) for stack in stacks] or None


def ratio_of_effective_to_declared_field(decrease_with_depth: bool) -> Effect:
  """Returns a function that computes the ratio of effective to declared receptive field.

  The function returns the ratio in the deepest stack for each layer and seed. With
  `decrease_with_depth` it returns the ratio in the shallowest stack minus that in the deepest.
  """
  def fraction_of_each_stack_and_seed(records: Records) -> list[float] | None:
    untrained, _ = tables.split_untrained_and_trained(records)
    values = []
    for group in tables.group_stacks_by_layer(untrained).values():
      shallowest, deepest = (tables.effective_field_fractions(group[index]) for index in (0, -1))
      values += [first - last if decrease_with_depth else last
                 for first, last in zip(shallowest, deepest, strict=True)]
    return values or None

  return fraction_of_each_stack_and_seed


def depth_exponent_of_lag_deviation(block: str) -> Effect:
  """Returns a function that fits how the spread of gradient energy over lags grows with depth.

  The spread is the standard deviation of the lag, weighted by gradient energy. The function returns
  the exponent of a power law in depth for each layer and seed.
  """
  def exponent_of_each_stack_and_seed(records: Records) -> list[float] | None:
    untrained, _ = tables.split_untrained_and_trained(records)
    return [
      exponent for group in tables.group_stacks_by_layer(untrained).values()
      if group[0]['run']['block'] == block
      for exponent in tables.depth_growth_exponents(group, 'spread')
    ] or None

  return exponent_of_each_stack_and_seed


def scores_outside_or_inside_receptive_field(outside: bool) -> Effect:
  """Returns a function that selects test scores by task distance.

  The function returns the scores for each model and seed, at distances outside the receptive field
  if `outside` is true and at distances inside it otherwise.
  """
  def score_of_each_model_and_seed(records: Records) -> list[float] | None:
    return [
      score for record in tables.split_untrained_and_trained(records)[1]
      if record['status'] == 'finished' and record['result']['receptive_field']
      and tables.is_distance_within_field(record) != outside
      for score in scores_by_seed(record).values()
    ] or None

  return score_of_each_model_and_seed


def ratio_of_trained_to_initial_lag_deviation(records: Records) -> list[float] | None:
  """The spread of gradient energy over lags after training, divided by that before training.

  The spread is the standard deviation of the lag, weighted by gradient energy. There is a
  ratio for each seed and each model with a bounded receptive field, at the longest trained distance
  within that field.
  """
  _, trained = tables.split_untrained_and_trained(records)
  ratios = []
  for record in tables.records_at_field_edge(trained):
    before, after = (tables.statistic_at_evaluation(record, 'spread', index) for index in (0, -1))
    ratios += [last / first for first, last in zip(before, after, strict=True) if first]
  return ratios or None


CONTROLS = (
  *oracle_and_baseline_controls('receptive_field'),
  Claim(
    'declared-field',
    'At initialisation the receptive field that a stack of layers declares equals the support of '
    'the Jacobian of its last output',
    'control', 'receptive_field', agreement_of_declared_and_measured_fields,
    'fraction of the stacks with equal fields', '>', 0.999, exact=True,
  ),
  Claim(
    'blind-field',
    'A model trained on copy memory at a distance beyond its receptive field scores no better than '
    'chance',
    'control', 'receptive_field', scores_outside_or_inside_receptive_field(outside=True), SCORE,
    '<', 0.05,
  ),
)
CLAIMS = (
  Claim(
    'inside-field',
    'A model with a bounded receptive field, such as a stack of convolutions, solves copy memory '
    'at trained distances within that field',
    'Bai et al. 2018', 'receptive_field', scores_outside_or_inside_receptive_field(outside=False),
    SCORE, '>', 0.9,
  ),
  Claim(
    'effective-field',
    'At initialisation the effective receptive field of the deepest measured stacks is smaller '
    'than their declared receptive field',
    LUO, 'receptive_field', ratio_of_effective_to_declared_field(decrease_with_depth=False),
    FRACTION, '<', 0.9,
  ),
  Claim(
    'effective-shrinks',
    'At initialisation the effective receptive field is a smaller fraction of the declared one in '
    'the deepest than in the shallowest measured stack of a layer',
    LUO, 'receptive_field', ratio_of_effective_to_declared_field(decrease_with_depth=True),
    f'{FRACTION}, in the shallowest stack minus in the deepest', '>', 0.0,
  ),
  Claim(
    'effective-root',
    f'At initialisation, in stacks of convolutions without residual connections, the {SPREAD}, '
    'grows with about the square root of the depth',
    LUO, 'receptive_field', depth_exponent_of_lag_deviation('plain'),
    'exponent of the depth', '<', 0.6,
  ),
  Claim(
    'training-widens',
    'Training a model on copy memory at the longest distance within its receptive field increases '
    f'the {SPREAD}',
    LUO, 'receptive_field', ratio_of_trained_to_initial_lag_deviation,
    'standard deviation of the lag after training divided by that before training', '>', 1.0,
  ),
)
