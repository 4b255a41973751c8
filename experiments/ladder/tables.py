"""Scores of every rung, beside the bytes of its state and the time of a training step."""

import dataclasses
from collections.abc import Sequence

from experiments.lab.results import times

TIMED_LENGTH = 64


def split(records: list[dict], order: Sequence[str]) -> tuple[list[dict], list[dict]]:
  """Records of trained cells, those of layers in an order, and records of times."""
  trained = [record for record in records if 'layer' in record['run']]

  def rung(record):
    name = record['run']['layer'].partition('(')[0]
    return order.index(name) if name in order else len(order)

  return sorted(trained, key=rung), [record for record in records if 'layers' in record['run']]


def beside(scored, columns, timed: list[dict]):
  """The table of scores with two more columns: bytes of state, and time of a step a token."""
  held = {}  # by the first question that a layer was asked
  for group in columns.values():
    for record in group:
      if record['result']:
        held.setdefault(record['run']['layer'], record['result']['state_bytes'])

  def cost(layer):
    own = [record for record in timed if layer in record['run']['layers']]
    return times.microseconds(own, layer, 'train', TIMED_LENGTH)

  return dataclasses.replace(
    scored,
    columns=(scored.columns[0], 'state bytes', 'us a token', *scored.columns[1:]),
    rows=[(row[0], held.get(row[0]), cost(row[0]), *row[1:]) for row in scored.rows],
    caption=f'{scored.caption} State: what the model remembers of one sequence of the first '
    f'question. Time: a training step at length {TIMED_LENGTH}, all layers in turns, median.',
    best=scored.best | {'us a token': 'lower'} if scored.best else {},
  )
