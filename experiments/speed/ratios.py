"""What the records of contests say: ratios of time, shares of the peak, bytes.

The times of a record are from the same rounds, so that they are compared in pairs. Records of the
same contest are repetitions, and their rounds are pooled.
"""

from collections.abc import Sequence
from statistics import median

from experiments.lab.results.statistics import Interval, ratio_interval
from experiments.speed import OURS


def contestant(record: dict, name: str) -> dict:
  """What a contestant came to in a record; without times if it took no part."""
  every = record['result'].get('contestants', ())
  return next((one for one in every if one['name'] == name), {'seconds': {}, 'bytes': None})


def rivals(records: Sequence[dict]) -> list[str]:
  """The names of those that ours was compared with."""
  names = [one['name'] for record in records for one in record['result'].get('contestants', ())]
  return [name for name in dict.fromkeys(names) if name != OURS]


def ratio(records: Sequence[dict], rival: str, quantity: str) -> Interval | None:
  """Our time over theirs, with the interval of their ratio; None where either has none."""
  pairs = [
    (ours, theirs)
    for record in records
    for ours, theirs in zip(
      *(contestant(record, name)['seconds'].get(quantity, ()) for name in (OURS, rival)),
      strict=False,
    )
  ]
  return ratio_interval(*zip(*pairs, strict=True), paired=True) if pairs else None


def share(records: Sequence[dict], quantity: str) -> Interval | None:
  """Our matrix products a second in per cent of the peak's; None where they are not most of it."""
  spent, least = [], []
  for record in records:
    ours = contestant(record, OURS)['seconds'].get(quantity, ())
    work = record['result'].get('work', {}).get(quantity)
    if work is None or not ours or not (yardstick := peak(record)):
      continue
    scale = 100 * work / yardstick['work']
    pairs = list(zip(yardstick['seconds'], ours, strict=False))
    least += [scale * seconds for seconds, _ in pairs]
    spent += [seconds for _, seconds in pairs]
  return ratio_interval(least, spent, paired=True) if spent else None


def peak(record: dict) -> dict | None:
  """The product of large matrices that did the most work a second in a record."""
  products = record['result'].get('peak', ())
  return max(products, key=speed, default=None)


def speed(product: dict) -> float:
  """Operations a second of a product."""
  return product['work'] / median(product['seconds'])


def temporaries(records: Sequence[dict], name: str) -> int | None:
  """Bytes that a contestant's compiled program plans beyond what goes in and out."""
  found = [contestant(record, name)['bytes'] for record in records]
  return next((planned for planned in found if planned is not None), None)
