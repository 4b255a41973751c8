"""What records of counts say: laws in n, d and a layer's own size, beside what the paper says."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

from experiments.complexity.growth import Law, Polynomial, exponent, law, polynomial
from experiments.lab.results.figures import Panel
from experiments.lab.results.statistics import Interval
from experiments.lab.results.table import Table

PHASES = {
  'forward': 'reading n tokens', 'train': 'training on them', 'generate': 'one token more'
}
SOURCE = 'Vaswani et al. 2017, Table 1'


def by_layer(records: Iterable[dict], names: Mapping[str, str]) -> dict[str, dict[str, dict]]:
  """Records by layer, under the name that it is shown by, and by the platform of its form."""
  found: dict[str, dict[str, dict]] = {}
  for record in records:
    run = record['run']
    found.setdefault(names.get(run['layer'], run['layer']), {})[run['platform']] = record
  return found


def points(record: dict, phase: str) -> list[dict]:
  """What was counted of one phase."""
  return [point for point in record['result']['counts'] if point['phase'] == phase]


def work(
  record: dict, phase: str, quantity: str, symbols: Mapping[str, str]
) -> Polynomial | Law:
  """The law that a count of work follows in the length, the width and the layer's own size."""
  option, every = record['result']['option'], points(record, phase)
  own = ('option',) if option else ()
  counts = {tuple(p[axis] for axis in ('length', 'width', *own)): p[quantity] for p in every}
  names = 'n', 'd', *(symbols[option['name']] for _ in own)
  return polynomial(counts, names) or law(along(record, phase, quantity))


def along(record: dict, phase: str, quantity: str) -> dict[int, int]:
  """A count by length, at the first width and the layer's own size."""
  option, widths = record['result']['option'], record['run']['widths']
  return {
    p['length']: p[quantity] for p in points(record, phase)
    if p['width'] == widths[0] and p['option'] == (option and option['value'])
  }


def chain(record: dict, phase: str, quantity: str = 'depth') -> Law:
  """The law of the longest chain of operations."""
  return law(along(record, phase, quantity))


def way(record: dict, what: str) -> Law:
  """The law of the ways between positions that are far apart: 'operations', or 'layers'."""
  field = record['result']['receptive_field']
  counts = {p['length']: p[what] for p in record['result']['paths']}
  return law(counts, field - 1 if field else 0)


def tables(
  records: Sequence[dict],
  names: Mapping[str, str],
  paper: Mapping[str, tuple[str, str, str, str]],
  forms: Mapping[str, str],
  symbols: Mapping[str, str],
) -> list[Table]:
  """All tables of what was counted.

  Args:
    records: of counting cells.
    names: by which a layer is shown, where it is not by its spec.
    paper: what the paper says of a layer: its type, complexity, sequential operations, longest way.
    forms: platforms whose forms were counted, in words; the first one's are those of Table 1.
    symbols: the letter of a layer's own size.

  """
  first, *_ = forms
  layers = by_layer(records, names)
  whole = {name: found for name, found in layers.items() if len(found) == len(forms)}
  own = {name: found[first] for name, found in whole.items()}
  return [
    paper_table(own, paper, symbols),
    work_table(own, symbols),
    chain_table(whole, forms),
    way_table(whole, forms),
    traffic_table(own, symbols),
  ]


def paper_table(own: Mapping[str, dict], paper, symbols) -> Table:
  """The paper's Table 1 with what was counted beside it."""
  rows = []
  for layer, record in own.items():
    kind, *said = paper.get(layer, (None,) * 4)
    bounded = record['result']['receptive_field'] is not None
    order = work(record, 'forward', 'products', symbols).order
    counted = order, chain(record, 'forward').order, way(
      record, 'layers' if bounded else 'operations').order
    rows.append((layer, kind, *(x for pair in zip(counted, said, strict=True) for x in pair)))
  return Table(
    'Table 1, counted',
    ('layer', 'type', 'complexity', 'published complexity', 'sequential', 'published sequential',
     'path', 'published path'),
    rows,
    'One layer reads n tokens at width d; k is the kernel, r the window (or the field). Counted in '
    'its programs: products of matrices and convolutions, the projections included, which the '
    'paper leaves out; operations that must follow one another, a product or a sum being one; '
    'and operations on the longest of the shortest ways between two positions, or layers on it '
    f'where a layer does not see that far. Orders are of laws that hold exactly. {SOURCE}.',
  )


def work_table(own: Mapping[str, dict], symbols) -> Table:
  """Operations of all phases, and the state."""
  rows = [
    (layer, *(str(work(record, phase, 'products', symbols)) for phase in PHASES),
     str(work(record, 'generate', 'state_bytes', symbols)))
    for layer, record in own.items()
  ]
  return Table(
    'What a layer multiplies and adds', ('layer', *PHASES.values(), 'state, bytes'), rows,
    'Operations in products of matrices and convolutions, two for a multiplication with an '
    'addition; for one sequence. One token more is read with a state that has room for n.',
  )


def chain_table(whole: Mapping[str, Mapping[str, dict]], forms) -> Table:
  """Sequential operations, in both conventions, for each form."""
  columns, rows = ['layer'], [[layer] for layer in whole]
  for platform, words in forms.items():
    for phase in ('forward', 'train'):
      columns.append(f'{PHASES[phase]}, {words}')
      for row in rows:
        row.append(chain(whole[row[0]][platform], phase).text)
  first, *_ = forms
  columns += ['reading, sums in a tree', PHASES['generate']]
  for row in rows:
    record = whole[row[0]][first]
    row.append(chain(record, 'forward', 'logarithmic_depth').text)
    row.append(chain(record, 'generate').text)
  return Table(
    'Operations that follow one another', columns, rows,
    'The longest chain in a program, in n: a product of matrices or a sum is one operation, or as '
    'many as a tree of additions has levels, which depends on the width too (here the first).',
  )


def way_table(whole: Mapping[str, Mapping[str, dict]], forms) -> Table:
  """Ways between positions, in operations and layers, for each form."""
  first, *_ = forms
  rows = [
    (layer, found[first]['result']['receptive_field'], way(found[first], 'layers').text,
     *(way(found[platform], 'operations').text for platform in forms))
    for layer, found in whole.items()
  ]
  return Table(
    'Operations between two positions',
    ('layer', 'field', 'layers', *(f'operations, {words}' for words in forms.values())), rows,
    'The fewest operations on a way through the program from one position to another, for the '
    'two that are the farthest apart among n; through as many layers as it takes to get there '
    '(levels, for a stack of convolutions). The field of one layer as it is, in tokens.',
  )


def traffic_table(own: Mapping[str, dict], symbols) -> Table:
  """Elementwise work, and bytes, of reading and of training."""
  columns, rows = ['layer'], [[layer] for layer in own]
  for phase in ('forward', 'train'):
    for quantity, words in (('elementwise', 'elementwise'), ('bytes', 'bytes')):
      columns.append(f'{words}, {PHASES[phase]}')
      for row in rows:
        row.append(work(own[row[0]], phase, quantity, symbols).order)
  return Table(
    'What a layer does besides', columns, rows,
    'Orders of all other arithmetic, and of the bytes that all equations would read and write if '
    'none was fused with another.',
  )


QUANTITIES = {
  'operations to read n tokens': 'products',
  'operations in sequence': 'depth',
}


def panels(
  records: Sequence[dict], names: Mapping[str, str], forms: Mapping[str, str]
) -> list[Panel]:
  """Counts against length, in the first of the forms."""
  first, *_ = forms
  own = {name: found[first] for name, found in by_layer(records, names).items() if first in found}
  made = []
  for title, quantity in QUANTITIES.items():
    series = {
      layer: [(n, Interval.bare(count)) for n, count in along(record, 'forward', quantity).items()]
      for layer, record in own.items()
    }
    made.append(Panel(title, 'sequence length', 'counted', series, log_x=True, log_y=True))
  ways = {
    layer: [(p['length'], Interval.bare(p['operations'])) for p in record['result']['paths']
            if p['operations'] is not None]
    for layer, record in own.items()
  }
  return [*made, Panel('operations between the farthest', 'sequence length', 'counted', ways,
                       log_x=True, log_y=True)]


def slopes(record: dict, quantity: str) -> list[float]:
  """Slopes of a count of reading between neighbouring lengths, both on a logarithmic scale.

  The quantity is one of work, 'depth', or of ways: 'operations' or 'layers'.
  """
  if quantity in ('operations', 'layers'):
    counts = {p['length']: p[quantity] for p in record['result']['paths']}
    by_length = {n: math.inf if count is None else count for n, count in counts.items()}
  else:
    by_length = along(record, 'forward', quantity)
  return [exponent(dict(pair)) for pair in itertools.pairwise(sorted(by_length.items()))]
