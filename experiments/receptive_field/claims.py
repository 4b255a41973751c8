"""Claims on theoretical, measured and effective receptive fields, and control experiments."""

from experiments.lab.evidence.claim import Claim, claims_about_oracle_and_baseline_scores
from experiments.lab.evidence.effects import Effect, Records
from experiments.lab.results.scores import scores_by_seed
from experiments.receptive_field import tables

LUO = 'Luo et al. 2016'
SCORE = 'copy memory score, 0 at chance and 1 if perfect'
FRACTION = 'effective receptive field divided by the theoretical one'
SPREAD = (
  'standard deviation of the distance from an input to the last output, weighted by the squared '
  'gradient of that output')


def agreement_of_theoretical_and_measured_receptive_fields(records: Records) -> list[float] | None:
  """For each stack, 1 if the measured receptive field equals the theoretical one, or else 0."""
  stacks, _ = tables.split_untrained_and_trained(records)
  return [
    float(tables.measured_receptive_field_equals_theoretical(stack)) for stack in stacks
  ] or None


def _effective_to_theoretical_receptive_field_ratios(records: Records) -> list[tuple[float, float]]:
  """Ratios of the effective to the theoretical receptive field, for each layer and seed.

  The ratios are pairs, in which the first is that of the shallowest stack of the layer and the
  second is that of the deepest.
  """
  untrained, _ = tables.split_untrained_and_trained(records)
  return [
    pair for group in tables.group_stacks_by_layer(untrained).values()
    for pair in zip(
      *(
        tables.ratios_of_effective_to_theoretical_receptive_field(group[index])
        for index in (0, -1)
      ),
      strict=True)
  ]


def effective_to_theoretical_receptive_field_ratio_at_largest_depth(
  records: Records
) -> list[float] | None:
  """Ratios of effective to theoretical receptive field in the deepest stack of each layer.

  There is a ratio for each layer and seed.
  """
  ratios = _effective_to_theoretical_receptive_field_ratios(records)
  return [deepest for _, deepest in ratios] or None


def effective_to_theoretical_receptive_field_ratio_drop_with_depth(
  records: Records
) -> list[float] | None:
  """The decrease with depth of the ratio of the effective to the theoretical receptive field.

  A decrease is the ratio in the shallowest stack of a layer minus that in its deepest stack. There
  is a decrease for each layer and seed.
  """
  ratios = _effective_to_theoretical_receptive_field_ratios(records)
  return [shallowest - deepest for shallowest, deepest in ratios] or None


def growth_exponent_of_receptive_field_with_depth(residual_block: str) -> Effect:
  """Returns a function that computes the exponent with which receptive fields widen with depth.

  The function fits a power law of the depth to the spread, which is the standard deviation of the
  distance in tokens between output and input, weighted by squared gradient norm. It returns an
  exponent for each seed and each layer with the given residual block.
  """
  def exponents_of_receptive_field_growth_with_depth(records: Records) -> list[float] | None:
    untrained, _ = tables.split_untrained_and_trained(records)
    return [
      exponent for group in tables.group_stacks_by_layer(untrained).values()
      if group[0]['run']['block'] == residual_block
      for exponent in tables.depth_scaling_exponents(group, 'spread')
    ] or None

  return exponents_of_receptive_field_growth_with_depth


def _scores_by_distance_range(
  records: Records, is_within_receptive_field: bool
) -> list[float] | None:
  """Selects test scores by whether the dependency distance is within a bounded receptive field.

  If `is_within_receptive_field` is true, the scores at distances within the receptive field are
  returned, and otherwise those beyond it. There is a score for each model and seed.
  """
  return [
    score for record in tables.split_untrained_and_trained(records)[1]
    if record['status'] == 'finished' and record['result']['receptive_field']
    and tables.is_dependency_within_receptive_field(record) == is_within_receptive_field
    for score in scores_by_seed(record).values()
  ] or None


def scores_at_distances_within_receptive_field(records: Records) -> list[float] | None:
  """Test scores of each model and seed at dependency distances within the receptive field."""
  return _scores_by_distance_range(records, is_within_receptive_field=True)


def scores_at_distances_beyond_receptive_field(records: Records) -> list[float] | None:
  """Test scores of each model and seed at dependency distances beyond the receptive field."""
  return _scores_by_distance_range(records, is_within_receptive_field=False)


def receptive_field_widening_during_training(records: Records) -> list[float] | None:
  """The spread of the receptive field after training, divided by its spread before training.

  The spread is the standard deviation of the distance in tokens between output and input, weighted
  by squared gradient norm. There is a ratio for each seed and each model with a bounded receptive
  field, at the longest trained distance within that field.
  """
  _, trained = tables.split_untrained_and_trained(records)
  ratios = []
  for record in tables.select_records_at_longest_distance_within_receptive_field(trained):
    before, after = (tables.statistic_at_evaluation(record, 'spread', index) for index in (0, -1))
    ratios += [last / first for first, last in zip(before, after, strict=True) if first]
  return ratios or None


CONTROLS = (
  *claims_about_oracle_and_baseline_scores('receptive_field'),
  Claim(
    'theoretical-field',
    'At initialisation the theoretical receptive field of a stack of layers equals the support of '
    'the Jacobian of its last output',
    'control', 'receptive_field', agreement_of_theoretical_and_measured_receptive_fields,
    'fraction of the stacks with equal fields', '>', 0.999, exact=True,
  ),
  Claim(
    'blind-field',
    'A model trained on copy memory at a distance beyond its receptive field scores no better than '
    'chance',
    'control', 'receptive_field', scores_at_distances_beyond_receptive_field, SCORE, '<', 0.05,
  ),
)
CLAIMS = (
  Claim(
    'inside-field',
    'A model with a bounded receptive field, such as a stack of convolutions, solves copy memory '
    'at trained distances within that field',
    'Bai et al. 2018', 'receptive_field', scores_at_distances_within_receptive_field,
    SCORE, '>', 0.9,
  ),
  Claim(
    'effective-field',
    'At initialisation the effective receptive field of the deepest measured stacks is smaller '
    'than their theoretical receptive field',
    LUO, 'receptive_field', effective_to_theoretical_receptive_field_ratio_at_largest_depth,
    FRACTION, '<', 0.9,
  ),
  Claim(
    'effective-shrinks',
    'At initialisation the effective receptive field is a smaller fraction of the theoretical one '
    'in the deepest than in the shallowest measured stack of a layer',
    LUO, 'receptive_field', effective_to_theoretical_receptive_field_ratio_drop_with_depth,
    f'{FRACTION}, in the shallowest stack minus in the deepest', '>', 0.0,
  ),
  Claim(
    'effective-root',
    f'At initialisation, in stacks of convolutions without residual connections, the {SPREAD}, '
    'grows with about the square root of the depth',
    LUO, 'receptive_field', growth_exponent_of_receptive_field_with_depth('plain'),
    'exponent of the depth', '<', 0.6,
  ),
  Claim(
    'training-widens',
    'Training a model on copy memory at the longest distance within its receptive field increases '
    f'the {SPREAD}',
    LUO, 'receptive_field', receptive_field_widening_during_training,
    'standard deviation of the distance after training divided by that before training', '>', 1.0,
  ),
)
