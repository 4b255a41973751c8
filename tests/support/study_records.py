"""Records of all studies in which every claim is supported, or every claim is contradicted."""

from experiments.bottleneck import claims as bottleneck
from experiments.complexity import layer_counts, table_1
from experiments.gradient_flow import gradient_norms
from experiments.lab.cells import experiment, spec
from experiments.lab.cells.run import Run
from experiments.receptive_field import field_measurement
from experiments.state_tracking.claims import LINEAR, SIGNED
from experiments.translation import claims as translation
from experiments.variations import tables as variations
from tests.support.records import (
  CHANCE_SCORES,
  GOOD_SCORES,
  GROWING_TIMES,
  LONG_DISTANCE,
  PERFECT_SCORES,
  POOR_SCORES,
  RUN_ENVIRONMENT,
  SEEDS,
  SHORT_DISTANCE,
  UNCOVERED_DISTANCE,
  timing_record,
  training_record,
)
from transformer.presets import TABLE_3

GRADIENT_DISTANCES = (0, 1, 2, 4, 8)
FIELD = 17  # The receptive field of two convolutions with kernels of nine tokens.
LENGTHS = (8, 16, 32, 64)


def translation_records(attention_scores, fixed_vector_scores, covered_scores, uncovered_scores):
  """Returns records of the studies of translation and pronouns with the given scores.

  Args:
    attention_scores: The scores of models with attention.
    fixed_vector_scores: The scores of models with a fixed vector or a recurrent layer.
    covered_scores: The scores of the fixed vector with a reversed source.
    uncovered_scores: The scores of models whose receptive field misses the answer.

  Returns:
    The records.
  """
  def copy_record(layer, scores):
    return training_record(
      layer, 'copy', SHORT_DISTANCE, scores, study='bottleneck',
      extrapolation={SHORT_DISTANCE // 4: PERFECT_SCORES, SHORT_DISTANCE: scores},
    )

  def number_words_record(study, layer, scores):
    return training_record(layer, 'number_words', 6, scores, study=study)

  def variation_record(name):
    settings = variations.settings_of_vaswani_table_3_row(TABLE_3[name], 64, 1, 10)
    return training_record(
      settings.pop('layer'), 'copy', SHORT_DISTANCE, PERFECT_SCORES, study='variations',
      match='none', **settings)

  fixed, reversed_source = bottleneck.FIXED
  return [
    *(copy_record(layer, attention_scores) for layer in bottleneck.ATTENTIVE),
    *(copy_record(layer, fixed_vector_scores) for layer in bottleneck.FIXED),
    copy_record(bottleneck.CONTROL, uncovered_scores),
    number_words_record('bottleneck', fixed, uncovered_scores),
    number_words_record('bottleneck', reversed_source, covered_scores),
    *(variation_record('base'), variation_record('B: d_k 16')),
    *(number_words_record(
        'translation', layer,
        attention_scores if layer == 'transformer' else fixed_vector_scores)
      for layer in translation.TRANSLATORS),
    *(training_record(layer, 'pronouns', distance, scores, study='pronouns')
      for layer, short_scores, long_scores in (
        ('attention', PERFECT_SCORES, attention_scores),
        ('lstm', PERFECT_SCORES, fixed_vector_scores),
        ('convolution', uncovered_scores, uncovered_scores))
      for distance, scores in ((SHORT_DISTANCE, short_scores), (LONG_DISTANCE, long_scores))),
  ]


def gradient_record(layer, decay_exponents, beyond=0.0, **settings):
  """Returns the record of an untrained layer whose gradient decays by given powers of ten.

  Args:
    layer: The spec of the layer.
    decay_exponents: The exponent of each seed from the shortest to the longest distance.
    beyond: The gradient norm outside a bounded receptive field.
    **settings: Further settings of the run.

  Returns:
    The record.
  """
  run = Run(layer=layer, width=8, match='none', seeds=tuple(range(len(decay_exponents))),
            **{'block': 'plain', 'depth': 1} | settings)
  field = spec.parse_spec(layer, 'layer').receptive_field
  longest = GRADIENT_DISTANCES[-1]
  norms = [
    [10 ** (-exponent * max(0, distance - 1) / (longest - 1)) for distance in GRADIENT_DISTANCES]
    for exponent in decay_exponents
  ]
  if field is not None:
    norms = [
      [norm if distance < field else beyond
       for distance, norm in zip(GRADIENT_DISTANCES, row, strict=False)]
      for row in norms
    ]
  return {
    'study': 'gradient_flow', 'run': gradient_norms.measurement_settings(run, longest + 1),
    'status': 'finished', 'reason': '',
    'result': {'receptive_field': field, 'distances': list(GRADIENT_DISTANCES), 'norms': norms,
               'spectral_norms': norms},
    **RUN_ENVIRONMENT,
  }


def trained_gradient_record(layer, decay_exponents, **settings):
  """Returns the record of a trained layer whose gradient decays only after training.

  Args:
    layer: The spec of the layer.
    decay_exponents: The exponent of each seed from the shortest to the longest distance.
    **settings: Further settings of the run.

  Returns:
    The record.
  """
  record = training_record(
    layer, 'adding', GRADIENT_DISTANCES[-1] + 1, [0.5] * len(decay_exponents),
    study='gradient_flow', **{'block': 'plain', 'match': 'none'} | settings)
  initial_norms = [[1.0] * len(GRADIENT_DISTANCES)] * len(decay_exponents)
  final_norms = gradient_record(layer, decay_exponents)['result']['norms']
  record['result']['watched'] = [
    {'step': step, 'distances': list(GRADIENT_DISTANCES), 'norms': norms, 'spectral_norms': norms}
    for step, norms in ((0, initial_norms), (record['run']['steps'], final_norms))
  ]
  return record


def gradient_records(contradicted):
  """Returns records of gradient_flow that support or contradict all of its claims."""
  steep, flat, rising = (9.0, 9.1, 9.2), (0.1, 0.0, 0.2), (-1.0, -1.1, -1.2)
  if contradicted:
    steep, flat, rising = flat, steep, (1.0, 1.1, 1.2)
  orthogonal = [exponent + 1 if contradicted else exponent - 1 for exponent in steep]
  return [
    gradient_record('elman', orthogonal),
    gradient_record('elman(recurrent_init=normal)', steep),
    gradient_record('lstm(forget_bias=0.0)', steep),
    gradient_record('lstm(forget_bias=3.0)', flat),
    gradient_record('attention', flat),
    gradient_record('elman(recurrent_gain=2.0)', rising),
    gradient_record('convolution', flat, 1e-3 * contradicted),
    gradient_record('elman', [slope * contradicted + 1 for slope in (5, 5.1, 5.2)], depth=4),
    gradient_record('elman', (1.0, 1.1, 1.2), depth=4, block='no_norm'),
    trained_gradient_record('elman', steep, clip=1.0), trained_gradient_record('gru', steep),
    trained_gradient_record('lstm', steep),
  ]


def field_stack_record(depth, effective, spread, layer='convolution(kernel_size=3)', block='plain'):
  """Returns the record of an untrained stack of convolutions with given effective fields.

  Args:
    depth: The number of layers.
    effective: The effective receptive field of each seed in tokens.
    spread: The standard deviation of the gradient over distances for each seed.
    layer: The spec of the layer.
    block: The residual block.

  Returns:
    The record.
  """
  theoretical = 1 + 2 * depth
  run = Run(layer=layer, depth=depth, block=block, seeds=tuple(range(len(effective))))
  run = field_measurement.create_experiment_grid_cell_for_untrained_model(
    'receptive_field', experiment.create_experiment(run), length=64, sequences=2).run
  return {
    'study': 'receptive_field', 'run': run, 'status': 'finished', 'reason': '',
    'result': {
      'theoretical': theoretical, 'length': theoretical + 3,
      'measured': [theoretical] * len(effective),
      'effective': list(effective), 'spread': list(spread), 'energy': [[1.0]] * len(effective),
    },
  } | RUN_ENVIRONMENT


def trained_field_record(distance, scores, initial_spread, trained_spread):
  """Returns the record of two trained convolutions with given spreads of the gradient.

  Args:
    distance: The trained distance.
    scores: The score of each seed.
    initial_spread: The spread in tokens before training.
    trained_spread: The spread in tokens after training.

  Returns:
    The record.
  """
  record = training_record(
    'convolution(kernel_size=9)', 'copy_memory', distance, scores, depth=2,
    study='receptive_field')
  record['run']['task'] = f'copy_memory at {distance}'
  seeds = len(scores)
  record['result']['watched'] = [
    {'step': step, 'effective': [size] * seeds, 'spread': [size] * seeds,
     'measured': [FIELD] * seeds, 'energy': [[1 / FIELD] * FIELD] * seeds}
    for step, size in ((0, initial_spread), (100, trained_spread))
  ]
  return record


def field_records(contradicted):
  """Returns records of receptive_field that support or contradict all of its claims."""
  power = 0.9 if contradicted else 0.5
  fractions = {1: 0.5, 4: 0.7, 16: 0.95} if contradicted else {1: 0.9, 4: 0.6, 16: 0.4}
  noise = (1.0, 1.01, 1.02)
  scores = POOR_SCORES if contradicted else PERFECT_SCORES
  spreads = (6.0, 3.0) if contradicted else (3.0, 6.0)
  return [
    *(field_stack_record(
      depth, [fraction * (1 + 2 * depth) * factor for factor in noise],
      [depth**power * factor for factor in noise]) for depth, fraction in fractions.items()),
    trained_field_record(FIELD - 1, scores, *spreads),
    trained_field_record(FIELD, CHANCE_SCORES, *spreads),
  ]


def count_record(layer, platform='gpu', products=1, depth=0, operations=0, layers=0):
  """Returns the record of the counts of a layer, which are powers of the length.

  Args:
    layer: The name of the layer.
    platform: The platform of the program.
    products: The exponent of the FLOPs of matrix products.
    depth: The exponent of the length of the longest chain of operations.
    operations: The exponent of the path length in operations.
    layers: The exponent of the path length in layers.

  Returns:
    The record.
  """
  settings = layer_counts.operation_count_settings(
    table_1.COUNTED.get(layer, layer), platform, LENGTHS, (8, 16, 32), LENGTHS)
  counts = [
    {'phase': phase, 'length': n, 'width': d, 'option': None,
     'products': 4 * n**products * d**2, 'elementwise': n * d, 'bytes': 4 * n * d,
     'depth': 3 * n**depth, 'logarithmic_depth': 5 * n**depth, 'state_bytes': 4 * d}
    for n, d in layer_counts.pair_lengths_with_widths(LENGTHS, (8, 16, 32))
    for phase in layer_counts.PHASES
  ]
  paths = [{'length': n, 'layers': n**layers, 'operations': 3 * n**operations} for n in LENGTHS]
  return {
    'study': 'complexity', 'run': settings, 'status': 'finished', 'reason': '',
    'result': {'option': None, 'receptive_field': None, 'counts': counts, 'paths': paths},
  } | RUN_ENVIRONMENT


def count_records(contradicted):
  """Returns records of complexity that support or contradict all of its claims about counts."""
  growing, constant = (0, 1) if contradicted else (1, 0)
  exponents = {
    'attention': {'depth': constant, 'operations': constant, 'products': 1 + growing},
    **{key: {'depth': growing, 'operations': growing} for key in ('elman', 'lstm', 'gru')},
    'convolution': {'depth': constant, 'layers': growing},
    'tcn': {'depth': constant, 'layers': constant},
    'sliding_window': {'layers': growing},
    **{key: {'depth': constant} for key in ('mingru', 'lru', 's5', 'rglru')},
  }
  return [count_record(layer, platform, **powers) for layer, powers in exponents.items()
          for platform in table_1.IMPLEMENTATIONS]


def compilation_record(layer, contradicted):
  """Returns the record of the TPU programs of a layer, with a failure if `contradicted`."""
  program = {'status': 'finished', 'reason': '', 'arguments': 2**20,
             'temporary': 2**21, 'kernels': 0}
  programs = [
    program | {'part': part, 'name': name, 'collectives': collectives}
    for part, name, collectives in (
      ('ensemble', 'advance', {}), ('shared', 'advance', {'all-reduce': [1, 2**10]}),
      ('generate', 'prompt', {}), ('generate', 'token', {}))
  ]
  run = Run(layer=layer, task='text(length=128)').to_json_values()
  return {
    'study': 'compile_tpu', 'run': run | {'topology': 'v5e:2x2', 'parallel': 'jit'},
    'status': 'failed' if contradicted else 'finished', 'reason': '',
    'result': {'chips': 4, 'memory': 16 * 2**30, 'programs': programs,
               'operations': {'train': 3, 'prompt': 2, 'token': 1}},
  } | RUN_ENVIRONMENT


def records_of_all_studies(contradicted=False):
  """Returns records that support all claims, or contradict them if `contradicted`."""
  high, low = (POOR_SCORES, PERFECT_SCORES) if contradicted else (PERFECT_SCORES, POOR_SCORES)
  covered, uncovered = (
    (CHANCE_SCORES, GOOD_SCORES) if contradicted else (GOOD_SCORES, CHANCE_SCORES))
  records = []
  for family, long in (('recall', LONG_DISTANCE), ('copy_memory', UNCOVERED_DISTANCE)):
    records += [
      training_record(layer, family, SHORT_DISTANCE, PERFECT_SCORES)
      for layer in ('attention', 'lstm', 'gru')
    ]
    records.append(training_record('attention', family, long, high))
    records += [training_record(layer, family, long, low) for layer in ('lstm', 'gru')]
    records.append(training_record('tcn', family, SHORT_DISTANCE, covered))
    records.append(training_record('tcn', family, long, uncovered))

  ladder = (
    ('recall', SHORT_DISTANCE, ('deltanet', 'gla'), ('retnet', 'mingru')),
    ('selective_copying', LONG_DISTANCE, ('mamba',), ('lru', 's5')),
    ('copy_memory', SHORT_DISTANCE, (), ('convolution',)),
  )
  for family, distance, better, worse in ladder:
    scores = low if better else uncovered
    records += [training_record(layer, family, distance, high, study='ladder') for layer in better]
    records += [training_record(layer, family, distance, scores, study='ladder') for layer in worse]
  tracking = (('lstm', *SIGNED), POOR_SCORES if contradicted else PERFECT_SCORES)
  failing = (('attention', 'convolution', *LINEAR), uncovered)
  for layers, extrapolation in (tracking, failing):
    records += [
      training_record(
        layer, 'parity', SHORT_DISTANCE, PERFECT_SCORES, study='state_tracking',
        extrapolation=extrapolation)
      for layer in layers
    ]

  records += [
    *translation_records(high, low, covered, uncovered),
    *gradient_records(contradicted),
    *field_records(contradicted),
    *count_records(contradicted),
    *(compilation_record(layer, contradicted) for layer in ('s4d', 'hyena')),
  ]

  def time_growth_with_length(layer, quantity):
    return 4.0 if ((layer, quantity) in GROWING_TIMES) != contradicted else 1.0

  layers = ('attention', 'lstm', 'gru', 'tcn')
  return records + [
    timing_record(seed, layers, (64, 256), time_growth_with_length, study=study)
    for study in ('parallelism', 'complexity') for seed in range(SEEDS)
  ]
