"""The table of scores, state size and step time of recurrent layers and attention."""

import dataclasses
from collections.abc import Sequence

from experiments.lab.results import times

TIMED_LENGTH = 64


def split_training_and_timing_records(
  records: list[dict], layer_order: Sequence[str]
) -> tuple[list[dict], list[dict]]:
  """Returns training records sorted by `layer_order`, and records of training-step times."""
  trained = [record for record in records if 'layer' in record['run']]

  def index_of_layer_in_display_order(record):
    name = record['run']['layer'].partition('(')[0]
    return layer_order.index(name) if name in layer_order else len(layer_order)

  timed = [record for record in records if 'layers' in record['run']]
  return sorted(trained, key=index_of_layer_in_display_order), timed


def insert_state_size_and_step_time_columns(
  score_table, records_by_column, timing_records: list[dict]
):
  """Inserts columns of state size and training-step time into a table of scores.

  Args:
    score_table: the table of test metrics by layer and task.
    records_by_column: the records of trained layers by column of the table.
    timing_records: the records of training-step times.

  Returns:
    A copy of the table with both columns after that of the layers.

  """
  state_bytes = {}  # of the first task on which a layer was trained
  for group in records_by_column.values():
    for record in group:
      if record['result']:
        state_bytes.setdefault(record['run']['layer'], record['result']['state_bytes'])

  def median_step_time(layer):
    records = [record for record in timing_records if layer in record['run']['layers']]
    return times.median_microseconds_per_token(records, layer, 'train', TIMED_LENGTH)

  return dataclasses.replace(
    score_table,
    columns=(
      score_table.columns[0], 'state bytes', 'step time, us per token', *score_table.columns[1:]),
    rows=[(row[0], state_bytes.get(row[0]), median_step_time(row[0]), *row[1:])
          for row in score_table.rows],
    caption=f'{score_table.caption} State bytes: the recurrent state or the cache of the model '
    'after one sequence of the first task. Step time: median time of a training step in '
    f'microseconds per token, at length {TIMED_LENGTH}, with the steps of all layers interleaved.',
    best=score_table.best | {'step time, us per token': 'lower'} if score_table.best else {},
  )
