"""Memory use of a compiled program, as planned by the compiler before the program runs.

XLA plans every buffer before a program starts. The temporary bytes of the plan are the memory of
the program beyond its arguments and its results. In a training step, they hold the activations for
the backward pass, which grow with the sequence length. The plan has the same meaning on every
platform. The peak of an allocator does not, because it never decreases and a CPU has none.

An accelerator raises an error for a program that is too large. On a CPU, the operating system may
allocate more memory than is available and kill the process later, so that
`require_available_memory` checks the available memory beforehand.
"""

import os
import pathlib
from typing import Any, NamedTuple

import jax

MEBIBYTE = 2**20
_LIMITS = ('memory.max', 'memory/memory.limit_in_bytes')  # of a container: cgroup versions 2 and 1


class MemoryUse(NamedTuple):
  """The memory of a compiled program, in bytes."""

  temporary: int
  arguments: int
  results: int  # without those that reuse the buffer of an argument


def program_memory(compiled_program: Any) -> MemoryUse | None:
  """The memory that the compiler plans for a program, or None if the platform reports no plan."""
  plan = compiled_program.memory_analysis()
  if plan is None:
    return None
  return MemoryUse(
    plan.temp_size_in_bytes,
    plan.argument_size_in_bytes,
    plan.output_size_in_bytes - plan.alias_size_in_bytes,
  )


def array_bytes(tree: Any) -> int:
  """The total size of all arrays of a tree, in bytes."""
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def available_bytes() -> int:
  """The bytes that this process may still allocate on the machine or in its container."""
  limits = [os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')]
  for name in _LIMITS:
    try:
      limits.append(int(pathlib.Path('/sys/fs/cgroup', name).read_text()))
    except (OSError, ValueError):  # the file is missing, or its content is 'max'
      continue
  try:
    lines = pathlib.Path('/proc/meminfo').read_text().splitlines()
  except OSError:
    lines = []
  limits += [int(line.split()[1]) * 1024 for line in lines if line.startswith('MemAvailable')]
  return min(limits)


def require_available_memory(memory_use: MemoryUse | None) -> None:
  """Raises a MemoryError if a program on a CPU needs more than the available memory."""
  if memory_use is None or jax.default_backend() != 'cpu':
    return
  needed = memory_use.temporary + memory_use.results
  if needed > (available := available_bytes()):
    raise MemoryError(
      f'the program needs {needed / MEBIBYTE:,.0f} MiB of memory, but only '
      f'{available / MEBIBYTE:,.0f} MiB are available'
    )
