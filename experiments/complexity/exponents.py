"""Measured exponents of the growth of time and memory with the sequence length.

A quantity y is modelled as a n^p of the length n. The exponent p is the slope of log y over log n,
fitted to the medians at all lengths. A constant part of y lowers p at short lengths, so that the
slope between the two longest lengths is also given. Intervals come from resampling complete rounds
(statistics.growth_exponent). Bytes are the same in every round and need no interval.

All training steps have the same number of tokens, so that the number of sequences decreases with
their length. The time and memory of a step are therefore divided by the number of sequences. The
time per generated token and the bytes of the state are not divided. The length of a state is its
capacity, which includes the generated tokens.
"""

from collections.abc import Mapping, Sequence

from experiments.lab import optional
from experiments.lab.results import times
from experiments.lab.results.statistics import Interval, growth_exponent
from experiments.lab.results.table import Table

np = optional.lazy_module('numpy')
MEASURES = (times.STEP, times.MEMORY, times.TOKEN, times.STATE)


def exponent_table(
  records: Sequence[dict],
  published_complexity_by_layer: Mapping[str, str] | None = None,
  include_run_settings: bool = False,
) -> Table:
  """A table of growth exponents of time and memory for all layers of one timing grid.

  Args:
    records: the repetitions of one grid, with at least two lengths.
    published_complexity_by_layer: the published order of growth of a layer, such as O(n²), by its
      name.
    include_run_settings: whether the title includes the tokens per step and the device, because
      records of the report differ in them.

  Returns:
    The exponents over all lengths and between the two longest lengths.

  """
  run = records[0]['run']
  lengths, last = run['lengths'], sorted(run['lengths'])[-2:]
  last_indices = [lengths.index(length) for length in last]
  columns, rows = ['layer'], [[layer] for layer in run['layers']]
  if published_complexity_by_layer:
    columns.append('published complexity')
    for row in rows:
      row.append(published_complexity_by_layer.get(row[0]))
  for measure in MEASURES:
    columns += [measure.name, f'{measure.name}, {last[0]} to {last[-1]}']
    samples = times.measurements_as_array(records, measure)
    extra = run['generated'] if measure == times.STATE else 0
    sizes = [length + extra for length in lengths]
    for row, rounds in zip(rows, np.moveaxis(samples, 1, 0), strict=True):
      values = rounds * lengths if measure.shared else rounds
      row += [
        fit_growth_exponent(sizes, values),
        fit_growth_exponent([sizes[i] for i in last_indices], values[:, last_indices],
                     requires_all_lengths=True)]
  workload = times.describe_workload(run, 'train', 'generate')
  caption = (
    f'Exponents p of costs that grow as n^p with the sequence length n, for one sequence in a '
    f'training step and for one token that is generated at position n. They are fitted over all '
    f'measured lengths from {min(lengths)} to {last[-1]}, and between the two longest lengths. '
    f'{times.describe_timing_setup(run, workload)}; slopes of medians with 95 % intervals (rounds: '
    f'{run["rounds"]}, repetitions: {len(records)}). Bytes are exact, and are those of the '
    f'temporary memory that the compiler plans for a training step, and those of the decoding '
    f'state at its capacity.'
    f'{times.describe_out_of_memory(records, "train", "generate")}'
  )
  title = times.add_token_count_and_device_to_title(
    'Measured exponents of growth with length', records, include_run_settings)
  return Table(title, columns, rows, caption)


def fit_growth_exponent(
  lengths: Sequence[float], values: 'np.ndarray', requires_all_lengths: bool = False
) -> Interval | None:
  """Fits the exponent p of measured seconds or bytes that grow as length^p.

  Args:
    lengths: the lengths.
    values: times or bytes [rounds, lengths], NaN where a value was not measured.
    requires_all_lengths: whether all lengths must have been measured.

  Returns:
    The exponent, or None if fewer than two lengths were measured.

  """
  known = ~np.all(np.isnan(values), axis=0)
  if np.sum(known) < 2 or (requires_all_lengths and not np.all(known)):
    return None
  complete = values[:, known][~np.any(np.isnan(values[:, known]), axis=1)]
  if not len(complete):
    return None
  exponent = growth_exponent(np.asarray(lengths)[known], complete)
  # Rounding removes the numerical error of the fit, so that constant sizes have an exponent of 0.
  if exponent.has_bounds:
    return exponent
  return exponent._replace(estimate=round(exponent.estimate, 12))
