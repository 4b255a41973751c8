"""TPU topologies by name, such as v5e:4x4, for compilation without a TPU.

The compiler in libtpu needs no TPU, so any machine can compile the programs of a TPU slice offline
and obtain their planned memory. Local TPU chips remain unused, because JAX is restricted to the CPU
and libtpu is configured not to lock them.

The sizes are those that Google Cloud offers. The memory per chip is that of the documentation of
each generation (cloud.google.com/tpu/docs, pages v4, v5e, v5p and v6e).
"""

import math
import os
from typing import NamedTuple

from experiments.lab.errors import BadInput, unknown_name_error

SIZES_2D = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
SIZES_3D = ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8', '8x8x16')
GIBI = 2**30


class Generation(NamedTuple):
  """Memory per chip and available slice sizes of one TPU generation."""

  chip_gibibytes: int
  sizes: tuple[str, ...]
  chip_config: str = ''  # libtpu's name of the core configuration, '' for the default


GENERATIONS = {
  'v4': Generation(32, SIZES_3D, 'megacore'),
  'v5e': Generation(16, SIZES_2D),  # Google Colab offers v5e:1x1
  'v5p': Generation(95, SIZES_3D),
  'v6e': Generation(32, SIZES_2D),
}
# These variables prevent libtpu from querying the network and from locking local TPU chips.
# TPU_ACCELERATOR_TYPE is only a placeholder, because each compilation states its own topology.
# Values that the user has set in the environment are not overwritten.
ENVIRONMENT = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-16',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_LOG_DIR': 'disabled',
  'TPU_MIN_LOG_LEVEL': '3',
  'TPU_STDERR_LOG_LEVEL': '3',
}


def tpu_generation(topology: str) -> Generation:
  """Returns the TPU generation of a topology, and raises a BadInput for an unknown topology."""
  kind, _, size = topology.partition(':')
  if kind not in GENERATIONS:
    raise unknown_name_error('TPU', kind, GENERATIONS)
  if size not in GENERATIONS[kind].sizes:
    valid = ', '.join(f'{kind}:{size}' for size in GENERATIONS[kind].sizes)
    raise BadInput(f'no topology {topology!r}, the topologies of {kind} are {valid}')
  return GENERATIONS[kind]


def chip_memory_in_bytes(topology: str) -> int:
  """Returns the memory of one chip in bytes."""
  return tpu_generation(topology).chip_gibibytes * GIBI


def chip_count(topology: str) -> int:
  """Returns the number of chips of a topology."""
  return math.prod(map(int, topology.partition(':')[2].split('x')))


def configure_jax_and_libtpu() -> None:
  """Sets environment variables so that JAX uses only the CPU and libtpu is only a compiler.

  They take effect only if they are set before JAX and libtpu are imported.
  """
  os.environ['JAX_PLATFORMS'] = 'cpu'
  for variable, value in ENVIRONMENT.items():
    os.environ.setdefault(variable, value)
