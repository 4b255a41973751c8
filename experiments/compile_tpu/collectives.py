"""The collective operations of a compiled program, such as all-reduce, read from its HLO.

  %all-reduce.1 = (f32[64,2]{1,0}, f32[1]{0}) all-reduce(%a, %b), replica_groups=...

is one exchange of 129 numbers. One that is begun and awaited (`all-reduce-start`, `-done`) is
counted where it ends. A loop is in the text once: what stands in its body is counted once, whatever
the number of turns.
"""

import math
import re
from typing import Any, NamedTuple

KINDS = (
  'all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'ragged-all-to-all',
  'collective-permute', 'collective-broadcast',
)
_EXCHANGE = re.compile(rf'^\s*(?:ROOT )?%?\S+ = (.+?) ({"|".join(KINDS)})(?:-done)?\(', re.M)
_ARRAY = re.compile(r'\b([a-z]+)(\d*)(?:e\d\w*)?\[([\d,]*)\]')


class Exchange(NamedTuple):
  """All exchanges of a kind."""

  count: int
  bytes: int  # that each chip has in the end


def of_program(compiled: Any) -> dict[str, Exchange]:
  """The exchanges of a compiled program."""
  return of_text(compiled.as_text())


def of_text(hlo: str) -> dict[str, Exchange]:
  """The exchanges of each kind that an HLO text has any of."""
  found = {}
  for result, kind in _EXCHANGE.findall(hlo):
    before = found.get(kind, Exchange(0, 0))
    found[kind] = Exchange(before.count + 1, before.bytes + size_of(result))
  return found


def size_of(result: str) -> int:
  """Bytes of an HLO type: an array's, such as bf16[8,128]{1,0:T(8,128)}, or a tuple's."""
  bits = 0
  for kind, width, shape in _ARRAY.findall(result):
    each = {'pred': 8, 'token': 0}.get(kind) if not width else int(width)
    bits += each * math.prod(int(length) for length in shape.split(',') if length)
  return -(-bits // 8)
