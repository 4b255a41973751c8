"""Collective operations of a compiled program, such as all-reduce, parsed from its HLO text.

  %all-reduce.1 = (f32[64,2]{1,0}, f32[1]{0}) all-reduce(%a, %b), replica_groups=...

is one operation whose result has 129 numbers. An asynchronous operation (`all-reduce-start` and
`all-reduce-done`) is counted at its end. The text contains the body of a loop once, so operations
in the body are counted once, regardless of the number of iterations.
"""

import math
import re
from typing import Any, NamedTuple

KINDS = (
  'all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'ragged-all-to-all',
  'collective-permute', 'collective-broadcast',
)
_COLLECTIVE = re.compile(rf'^\s*(?:ROOT )?%?\S+ = (.+?) ({"|".join(KINDS)})(?:-done)?\(', re.M)
_ARRAY = re.compile(r'\b([a-z]+)(\d*)(?:e\d\w*)?\[([\d,]*)\]')


class CollectiveTotal(NamedTuple):
  """Number of the collective operations of one kind, and the total size of their results."""

  count: int
  bytes: int  # of the results on each chip


def program_collectives(compiled: Any) -> dict[str, CollectiveTotal]:
  """Returns the number and bytes of each kind of collective operation in a compiled program."""
  return hlo_collectives(compiled.as_text())


def hlo_collectives(hlo: str) -> dict[str, CollectiveTotal]:
  """Returns the number and bytes of each kind of collective operation in an HLO text."""
  totals = {}
  for hlo_type, kind in _COLLECTIVE.findall(hlo):
    total = totals.get(kind, CollectiveTotal(0, 0))
    totals[kind] = CollectiveTotal(total.count + 1, total.bytes + hlo_type_bytes(hlo_type))
  return totals


def hlo_type_bytes(hlo_type: str) -> int:
  """Returns the size in bytes of an HLO array or tuple type, such as bf16[8,128]{1,0}."""
  bits = 0
  for kind, width, shape in _ARRAY.findall(hlo_type):
    bits_per_entry = {'pred': 8, 'token': 0}.get(kind) if not width else int(width)
    bits += bits_per_entry * math.prod(int(length) for length in shape.split(',') if length)
  return -(-bits // 8)
