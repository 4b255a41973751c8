"""The schema of records of trained models, and field schemas that other modules reuse.

The schema requires the fields that tables and claims evaluate.
"""

import itertools
import sys

from experiments.lab.results.schema import (
  Choice,
  Constraint,
  Fields,
  Integer,
  ListOf,
  MapOf,
  Nullable,
  Number,
  RecordKind,
  Text,
)

METRIC = Number(finite=False)  # It is NaN or infinite if the member diverged.
NORM = Number(0, finite=False)
SETTING = Number(0, sys.float_info.max)
RATE = Number(5e-324, sys.float_info.max)
SIZE, FIELD = Integer(1), Nullable(Integer(1))
MATRIX = ListOf(ListOf(Number()))


def is_ascending(values: list) -> bool:
  """Whether the numbers are strictly increasing."""
  return all(a < b for a, b in itertools.pairwise(values))


def has_matrix_shape(rows: list[list], height: int, width: int | None = None) -> bool:
  """Whether a list of lists is a matrix of the given shape.

  Args:
    rows: the rows of the matrix.
    height: the required number of rows.
    width: the required length of every row. None means any length that all rows have.

  Returns:
    True if the number of rows and their lengths are as required.

  """
  widths = {len(row) for row in rows}
  return len(rows) == height and (widths == {width} if width is not None else len(widths) == 1)


# The modules cells/training.py, cells/artifacts.py and training/loop.py write these fields.
MEMBER = Fields({
  'seed': Integer(), 'learning_rate': RATE, 'steps': Integer(),
  'status': Choice(('finished', 'solved', 'diverged', 'timeout')),
  'test': METRIC, 'test_loss': METRIC, 'extrapolation': ListOf(METRIC),
}, {'extrapolation_loss': ListOf(METRIC), 'validation': METRIC, 'validation_loss': METRIC})
TRANSLATIONS = Fields({
  'distance': SIZE, 'source_length': ListOf(SIZE, 1), 'source': ListOf(Text()),
  'reference': ListOf(Text()), 'answers': MapOf(ListOf(Text())), 'unigram_loss': Number(),
  'tokens': Number(0),
}, {'cut_off': MapOf(Integer()), 'left_out': MapOf(Integer())})
ALIGNMENT = Fields({
  'source': ListOf(Text(), 1), 'target': ListOf(Text(), 1), 'layers': MapOf(MATRIX)})
ANTECEDENT_ATTENTION = Fields({'distance': SIZE, 'tokens': SIZE, 'heads': MapOf(ListOf(Number()))})


def every_seed_trained_at_every_learning_rate(run: dict, result: dict) -> bool:
  """Whether each seed was trained exactly once at each requested learning rate.

  The best learning rate must be a requested rate.
  """
  members = [(member['seed'], member['learning_rate']) for member in result['members']]
  requested = itertools.product(run['seeds'], run['learning_rates'])
  return sorted(members) == sorted(requested) and result['learning_rate'] in run['learning_rates']


def additional_test_results_are_complete_or_absent(run: dict, result: dict) -> bool:
  """Whether each trained model has results for every extrapolation test distance or for none."""
  counts = {len(member.get(name, ())) for member in result['members']
            for name in ('extrapolation', 'extrapolation_loss')}
  return counts <= {0, len(result['extrapolation'])}


def every_source_sentence_has_translations(run: dict, result: dict) -> bool:
  """Whether each seed has a translation of every source sentence at every tested length."""
  parts = result.get('written', ())
  if not parts:
    return True
  return len(parts) == 1 + len(result['extrapolation']) and all(
    {len(part[name]) for name in ('source', 'reference')} == {len(part['source_length'])}
    and set(part['answers']) == set(parts[0]['answers'])
    and all(len(texts) == len(part['source']) for texts in part['answers'].values())
    for part in parts
  )


def attention_maps_match_tokens(run: dict, result: dict) -> bool:
  """Whether each attention map has one row per target token and one column per source token."""
  return all(
    has_matrix_shape(weights, len(alignment['target']), len(alignment['source']))
    for alignment in result.get('alignments', ()) for weights in alignment['layers'].values()
  )


TRAINING = RecordKind(
  'task',
  Fields({
    'layer': Text(), 'task': Text(), 'seeds': ListOf(Integer(), 1, distinct=True),
    'learning_rates': ListOf(RATE, 1, distinct=True), 'steps': SIZE, 'width': SIZE,
    'depth': SIZE, 'block': Text(), 'clip': SETTING,
  }),
  Fields({
    'family': Text(), 'title': Text(), 'axis': Text(), 'distance': SIZE, 'metric': Text(),
    'perfect': Number(), 'chance': Number(), 'settings': Fields({}, {'target': Text()}),
    'controls': MapOf(METRIC), 'receptive_field': FIELD, 'state_bytes': Integer(),
    'extrapolation': ListOf(Fields({'distance': SIZE, 'chance': Number()})), 'width': SIZE,
    'parameters': SIZE, 'budget': FIELD, 'learning_rate': RATE, 'members': ListOf(MEMBER, 1),
  }, {
    'written': ListOf(TRANSLATIONS), 'alignments': ListOf(ALIGNMENT), 'step_flops': Integer(),
    'antecedent_attention': ListOf(ANTECEDENT_ATTENTION),
  }),
  (
    Constraint('the metric of the oracle differs from chance', lambda run, result: all(
      tested['chance'] != result['perfect'] for tested in (result, *result['extrapolation']))),
    Constraint(
      'there is one member for each seed at each learning rate',
      every_seed_trained_at_every_learning_rate),
    Constraint(
      'a member has a metric for all additional test distances or for none',
      additional_test_results_are_complete_or_absent),
    Constraint(
      'every seed has a translation of every source', every_source_sentence_has_translations),
    Constraint('an alignment has a weight for each pair of tokens', attention_maps_match_tokens),
    Constraint('a record with translations has FLOPs and losses', lambda run, result: (
      not result.get('written') or ('step_flops' in result and all(
        'extrapolation_loss' in member for member in result['members'])))),
  ),
  modules=('experiments.lab.cells.training',),
)
