"""TPUs by name, such as v5e:4x4, for the programs of machines that are not here.

The compiler of libtpu needs no chip: with it any machine makes, offline, the programs that a TPU of
some size runs, and learns what they take. Chips that a machine does have are left alone: JAX is
kept to the CPU, so that nobody opens them, and libtpu is told to take no lock on them.

The sizes are those that Google Cloud lends out, and the memory is a chip's, as the pages of each
generation say (cloud.google.com/tpu/docs: v4, v5e, v5p, v6e).
"""

import math
import os
from typing import NamedTuple

from experiments.lab.errors import BadInput, no_such

FLAT = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
CUBES = ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8', '8x8x16')
GIBI = 2**30


class Generation(NamedTuple):
  """The chips of one generation."""

  memory: int  # GiB of a chip
  sizes: tuple[str, ...]
  core: str = ''  # how the cores of a chip work as one, where that is not the default


GENERATIONS = {
  'v4': Generation(32, CUBES, 'megacore'),
  'v5e': Generation(16, FLAT),  # 1x1 is the chip of a Colab
  'v5p': Generation(95, CUBES),
  'v6e': Generation(32, FLAT),
}
# As libtpu loads, it asks the network what machine this is, and locks its chips. So it is told an
# answer, which is as good as any: a topology is named whenever one is meant. What is set stays.
ENVIRONMENT = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-16',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_LOG_DIR': 'disabled',
  'TPU_MIN_LOG_LEVEL': '3',
  'TPU_STDERR_LOG_LEVEL': '3',
}


def check(name: str) -> Generation:
  """The generation of a topology; a BadInput with what there is, if there is none of that name."""
  kind, _, size = name.partition(':')
  if kind not in GENERATIONS:
    raise no_such('TPU', kind, GENERATIONS)
  if size not in GENERATIONS[kind].sizes:
    sizes = ', '.join(f'{kind}:{one}' for one in GENERATIONS[kind].sizes)
    raise BadInput(f'no topology {name!r}; there is {sizes}')
  return GENERATIONS[kind]


def memory(name: str) -> int:
  """Bytes of a chip."""
  return check(name).memory * GIBI


def count(name: str) -> int:
  """How many chips there are."""
  return math.prod(map(int, name.partition(':')[2].split('x')))


def prepare() -> None:
  """Keeps JAX to the CPU and tells libtpu what it would ask for; before either is loaded."""
  os.environ['JAX_PLATFORMS'] = 'cpu'
  for variable, value in ENVIRONMENT.items():
    os.environ.setdefault(variable, value)
