"""What the record of a timed cell says: points, and seconds a token."""

from collections.abc import Sequence

from experiments.results.statistics import Interval, median_interval

MICRO = 1e6

def points(record: dict, layer: str, quantity: str) -> list[dict]:
  """What was measured of a layer, in the order of lengths; nothing if the whole cell failed."""
  return [
    point
    for point in record['result'].get('points', ())
    if (point['layer'], point['quantity']) == (layer, quantity)
  ]


def per_token(record: dict, layer: str, quantity: str) -> dict[int, list[float]]:
  """Seconds per token in each round, by length; the rounds of all lengths are interleaved.

  Args:
    record: of a timed cell.
    layer: its canonical spec.
    quantity: 'train', 'forward', 'repeat' or 'generate'; for the last, a length is a position.
  """
  return {
    point['length']: [seconds / point['tokens'] for seconds in point['seconds']]
    for point in points(record, layer, quantity)
    if point['seconds']
  }


def microseconds(
  records: Sequence[dict], layer: str, quantity: str, length: int
) -> Interval | None:
  """The median time a token over all rounds of all repetitions; None: there is none."""
  rounds = [per_token(record, layer, quantity).get(length, ()) for record in records]
  pooled = [MICRO * seconds for times in rounds for seconds in times]
  return median_interval(pooled) if pooled else None
