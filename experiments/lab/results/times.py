"""What the records of timed cells say: points, seconds a token, bytes, and grids of all of them.

The cells of a grid differ by their seed alone: they are its repetitions, and their rounds are
pooled. Within a round everything is timed in turns, so that a round is what is resampled.
"""

import functools
from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

from experiments.lab import optional
from experiments.lab.results.statistics import Interval, median_interval
from experiments.lab.results.store import canonical

np = optional.later('numpy')
MICRO = 1e6
STEADY = 1.25  # how many times as long the same step may take when it is measured again


class Measure(NamedTuple):
  """One of the things that a timed cell says of a layer at a length."""

  name: str
  quantity: str  # of the points that say it
  exact: bool = False  # bytes, which nothing has to repeat; else seconds
  shared: bool = False  # by all tokens of a step, be they a few long sequences or many short ones


STEP = Measure('training step', 'train', shared=True)
MEMORY = Measure('memory', 'train', exact=True, shared=True)
TOKEN = Measure('generated token', 'generate')
STATE = Measure('state', 'generate', exact=True)


def is_timed(record: dict) -> bool:
  """Whether a record is one of times; a study may have others."""
  return 'tokens' in record['run']


def settled(record: dict) -> bool:
  """Whether there is nothing to measure again: a cell finished, and its times can be repeated."""
  if record['status'] != 'finished' or not is_timed(record):
    return record['status'] == 'finished'
  return all(drift < STEADY for drift in map(
    functools.partial(drift_of, record), record['run']['layers']))


def drift_of(record: dict, layer: str) -> float:
  """How many times as long a layer's step took when it was measured again, or the inverse."""
  first, again = (per_token(record, layer, quantity) for quantity in ('train', 'repeat'))
  ratios = [median(again[length]) / median(first[length]) for length in again if length in first]
  return max((max(ratio, 1 / ratio) for ratio in ratios), default=1.0)


def grids(records: Iterable[dict]) -> list[list[dict]]:
  """The records of each grid: they differ by their seed, never by device, sizes or layers."""
  found = {}
  for record in records:
    shared = {name: value for name, value in record['run'].items() if name != 'seed'}
    found.setdefault(canonical(shared), []).append(record)
  return list(found.values())


def title(text: str, records: Sequence[dict], alone: bool) -> str:
  """A title for one grid's records; `alone`: it needs no more to tell it from another grid's."""
  run = records[0]['run']
  return text if alone else f'{text}, {run["tokens"]} tokens a step on {run["device"]}'


def setting(run: dict, work: str) -> str:
  """Where, of what and in which shell a grid was measured."""
  block = run['settings']
  return (
    f'{run["device"]}; {work}; width {block["width"]}, depth {block["depth"]},'
    f' match {block["match"]}, {block["dtype"]}'
  )


def work(run: dict, *quantities: str) -> str:
  """How many tokens it takes to measure quantities."""
  generated = f'generated tokens: {run["generated"]}, side by side: {run["sequences"]}'
  trained = f'{run["tokens"]} tokens a step'
  return '; '.join(dict.fromkeys(generated if q == 'generate' else trained for q in quantities))


def points(record: dict, layer: str, quantity: str) -> list[dict]:
  """What was measured of a layer, in the order of lengths; nothing if the whole cell failed."""
  return [
    point
    for point in record['result'].get('points', ())
    if (point['layer'], point['quantity']) == (layer, quantity)
  ]


def out_of_memory(records: Iterable[dict], *quantities: str) -> str:
  """A sentence that names what memory was too short for; none if it was for nothing."""
  every = [p for record in records for p in record['result'].get('points', ())]
  short = dict.fromkeys(
    f'{p["layer"]} at {p["length"]}' for p in every
    if p['quantity'] in quantities and p['status'] == 'out of memory'
  )
  return f' Out of memory: {", ".join(short)}.' if short else ''


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


def samples(records: Sequence[dict], measure: Measure) -> 'np.ndarray':
  """All that one grid's records know of a measure: [rounds, layers, lengths], NaN: nothing.

  Seconds a token of all rounds of all repetitions, or the one round of bytes; no bytes at all count
  as one, so that there are ratios. Layers and lengths are in the order of the run.
  """
  layers, lengths = (records[0]['run'][name] for name in ('layers', 'lengths'))
  pooled = []
  for record in records:
    rounds = 1 if measure.exact else record['run']['rounds']
    sample = np.full((rounds, len(layers), len(lengths)), np.nan)
    for point in record['result'].get('points', ()):
      if point['quantity'] == measure.quantity and point['length'] in lengths:
        place = layers.index(point['layer']), lengths.index(point['length'])
        found = _bytes(point) if measure.exact else np.divide(point['seconds'], point['tokens'])
        sample[: len(found), *place] = found
    pooled.append(sample)
  if measure.exact:
    return medians(np.concatenate(pooled))[None]
  return np.concatenate(pooled)


def medians(rounds: 'np.ndarray') -> 'np.ndarray':
  """Median over the rounds that are known [rounds, ...] -> [...]; NaN where none is."""
  ordered = np.sort(rounds, axis=0)  # NaN comes last
  known = np.sum(~np.isnan(ordered), axis=0, keepdims=True)
  places = np.maximum((known - 1) // 2, 0), np.minimum(known // 2, len(rounds) - 1)
  return sum(np.take_along_axis(ordered, place, 0) for place in places)[0] / 2


def _bytes(point: dict) -> list[int]:
  return [] if point['bytes'] is None else [max(1, point['bytes'])]
