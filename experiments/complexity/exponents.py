"""How times and bytes grow with length: measured exponents beside those of the papers.

A quantity y is taken to be a n^p of the length n; p is the slope of log y over log n, fitted to the
medians at all lengths. What is constant in y hides p at short lengths, so the slope between the two
longest lengths stands beside it. Intervals resample whole rounds (statistics.growth_exponent);
bytes are the same in every round and need none.

A training step always has the same number of tokens, as many sequences as a length leaves room for;
so its time and its memory are those of a sequence once they are divided by how many there are. A
generated token's time is as it is; and so are the bytes of the state, whose length is what it has
room for, the tokens that are generated included.
"""

from collections.abc import Mapping, Sequence

from experiments.lab import optional
from experiments.lab.results import times
from experiments.lab.results.statistics import Interval, growth_exponent
from experiments.lab.results.table import Table

np = optional.later('numpy')
MEASURES = (times.STEP, times.MEMORY, times.TOKEN, times.STATE)


def table(
  records: Sequence[dict], orders: Mapping[str, str] | None = None, alone: bool = True
) -> Table:
  """The exponents of every layer of one grid, over all lengths and between the two longest.

  Args:
    records: the repetitions of one grid, of two lengths at least.
    orders: what a paper says of a layer, as it is to be shown.
    alone: whether the title needs no more to tell it from another grid's.

  """
  run = records[0]['run']
  lengths, last = run['lengths'], sorted(run['lengths'])[-2:]
  ends = [lengths.index(length) for length in last]
  columns, rows = ['layer'], [[layer] for layer in run['layers']]
  if orders:
    columns.append('as published')
    for row in rows:
      row.append(orders.get(row[0]))
  for measure in MEASURES:
    columns += [measure.name, f'{measure.name}, {last[0]} to {last[-1]}']
    sample = times.samples(records, measure)
    room = run['generated'] if measure == times.STATE else 0
    grid = [length + room for length in lengths]
    for row, rounds in zip(rows, np.moveaxis(sample, 1, 0), strict=True):
      grown = rounds * lengths if measure.shared else rounds
      row += [
        exponent(grid, grown), exponent([grid[i] for i in ends], grown[:, ends], whole=True)]
  caption = (
    f'Exponents p of n^p, in the length n, for a sequence in a training step, and for a token that '
    f'is generated at position n; over all lengths from {min(lengths)} to {last[-1]} that were '
    f'measured, and between the two longest. '
    f'{times.setting(run, times.work(run, "train", "generate"))}; slopes of medians with 95 % '
    f'intervals (rounds: {run["rounds"]}, repetitions: {len(records)}); bytes are exact: temporary '
    f'memory that the compiled step plans, and the state of generation with the room that it has.'
    f'{times.out_of_memory(records, "train", "generate")}'
  )
  return Table(times.title('Measured exponents', records, alone), columns, rows, caption)


def exponent(
  lengths: Sequence[float], rounds: 'np.ndarray', whole: bool = False
) -> Interval | None:
  """Exponent p of values ~ length^p from values [rounds, lengths]; NaN: not measured.

  It is fitted to the lengths that were measured, or to all or none if it is to be `whole`; None:
  there are not two.
  """
  known = ~np.all(np.isnan(rounds), axis=0)
  if np.sum(known) < 2 or (whole and not np.all(known)):
    return None
  complete = rounds[:, known][~np.any(np.isnan(rounds[:, known]), axis=1)]
  if not len(complete):
    return None
  found = growth_exponent(np.asarray(lengths)[known], complete)
  # Least squares leave a last digit of what does not grow at all.
  return found if found.known else found._replace(mean=round(found.mean, 12))
