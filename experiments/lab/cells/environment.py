"""Where a run happens: its devices, its compilation cache, and how a record names them."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess

import jax

from experiments.lab.errors import BadInput

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'scipy')
MOST = 8  # devices of a CPU, or processes, unless more are asked for


def prepare(host_devices: int, cache: str) -> None:
  """Splits the CPU into devices and turns on the compilation cache; before any array is made.

  Args:
    host_devices: how many devices the CPU is to be; 0: one a core, and at most 8.
    cache: a folder for compiled programs; '': none.

  """
  if jax.config.jax_num_cpu_devices != one_a_core(host_devices):  # some versions refuse it twice
    jax.config.update('jax_num_cpu_devices', one_a_core(host_devices))
  if cache:
    folder = pathlib.Path(cache)
    try:
      folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise BadInput(f'cannot use the compilation cache {folder}: {error.strerror}') from None
    jax.config.update('jax_compilation_cache_dir', str(folder))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
    jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


def one_a_core(asked: int) -> int:
  """As many as are asked for; 0: one a core, and at most 8."""
  return asked or min(cores(), MOST)


def cores() -> int:
  """Cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def device() -> str:
  """The device's name, such as 'NVIDIA H100 80GB HBM3 x 1' or 'AMD EPYC x 2 cores'."""
  devices = jax.devices()
  if devices[0].platform != 'cpu':
    return f'{devices[0].device_kind} x {len(devices)}'
  return f'{_processor()} x {cores()} cores'


def _processor() -> str:
  """The processor's model, from where Linux keeps it, or what Python knows."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    lines = []
  named = (line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
  return next(named, '') or platform.processor() or platform.machine()


def versions() -> dict[str, str]:
  """Python's version and those of the packages that numbers depend on."""
  found = {name: importlib.metadata.version(name) for name in PACKAGES}
  return {'python': platform.python_version(), **found}


def commit() -> str:
  """The commit of this code, with a '+' if files have changed since; '' outside a checkout."""
  folder = pathlib.Path(__file__).parent

  def git(*words):
    return subprocess.run(
      ('git', '-C', str(folder), *words), capture_output=True, text=True, check=True
    ).stdout.strip()

  try:
    return git('rev-parse', '--short=12', 'HEAD') + ('+' if git('status', '--porcelain') else '')
  except (OSError, subprocess.CalledProcessError):
    return ''
