"""How much memory a program takes, from its compiled form: exact, and without running it.

XLA plans every buffer before a program starts. The plan's temporary bytes are what the program
holds beyond its arguments and its results; for a training step these are the activations kept for
the backward pass, which is what grows with the length. The plan means the same on every platform;
peaks counted by an allocator do not: they never fall again, and a CPU has none.

A program that is too large for an accelerator is refused there. The system of a CPU may hand out
more than it has and kill the process later, so that `require` looks first.
"""

import os
import pathlib
from typing import Any, NamedTuple

import jax

MEBIBYTE = 2**20
_LIMITS = ('memory.max', 'memory/memory.limit_in_bytes')  # of a container: cgroup versions 2 and 1


class MemoryUse(NamedTuple):
  """Bytes of a compiled program."""

  temporary: int
  arguments: int
  results: int  # without those that take an argument's place


def of_program(compiled: Any) -> MemoryUse | None:
  """What was planned for a compiled program; None where the platform does not tell."""
  plan = compiled.memory_analysis()
  if plan is None:
    return None
  return MemoryUse(
    plan.temp_size_in_bytes,
    plan.argument_size_in_bytes,
    plan.output_size_in_bytes - plan.alias_size_in_bytes,
  )


def of_arrays(tree: Any) -> int:
  """Bytes of all arrays of a tree."""
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def available() -> int:
  """Bytes that this process may still take from the machine, or from the container it runs in."""
  found = [os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')]
  for name in _LIMITS:
    try:
      found.append(int(pathlib.Path('/sys/fs/cgroup', name).read_text()))
    except (OSError, ValueError):  # there is none, or it is 'max'
      continue
  try:
    lines = pathlib.Path('/proc/meminfo').read_text().splitlines()
  except OSError:
    lines = []
  found += [int(line.split()[1]) * 1024 for line in lines if line.startswith('MemAvailable')]
  return min(found)


def require(memory: MemoryUse | None) -> None:
  """A MemoryError if a program is about to run on a CPU with less memory than it needs."""
  if memory is None or jax.default_backend() != 'cpu':
    return
  needed = memory.temporary + memory.results
  if needed > (there := available()):
    raise MemoryError(
      f'it needs {needed / MEBIBYTE:,.0f} MiB, and {there / MEBIBYTE:,.0f} MiB are free'
    )
