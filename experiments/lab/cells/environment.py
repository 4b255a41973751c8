"""Configuration of JAX, and the devices, package versions and Git commit of an execution."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess

import jax

from experiments.lab.errors import BadInput

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'scipy')
MAX_DEFAULT_DEVICES = 8  # devices of a CPU, or processes, unless the user requests a number


def configure_jax(host_devices: int, cache: str) -> None:
  """Splits the CPU into several JAX devices and enables JAX's cache of compiled programs.

  Must be called before JAX creates any array.

  Args:
    host_devices: number of devices of the CPU; 0 uses one device per core, at most 8.
    cache: folder for compiled programs; '' disables the cache.

  Raises:
    BadInput: if the cache folder cannot be created.

  """
  devices = degree_of_parallelism(host_devices)
  if jax.config.jax_num_cpu_devices != devices:  # some versions of JAX reject a second update
    jax.config.update('jax_num_cpu_devices', devices)
  if cache:
    folder = pathlib.Path(cache)
    try:
      folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise BadInput(f'cannot use the compilation cache {folder}: {error.strerror}') from None
    jax.config.update('jax_compilation_cache_dir', str(folder))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
    jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


def degree_of_parallelism(requested_degree: int) -> int:
  """Returns the requested number of devices or processes, or min(cores, 8) for a request of 0."""
  return requested_degree or min(available_cores(), MAX_DEFAULT_DEVICES)


def available_cores() -> int:
  """The number of CPU cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def device_name() -> str:
  """The name and number of the devices, as in 'NVIDIA H100 80GB HBM3 x 1'.

  On a CPU it is the processor and the number of cores, as in 'AMD EPYC x 2 cores'.
  """
  devices = jax.devices()
  if devices[0].platform != 'cpu':
    return f'{devices[0].device_kind} x {len(devices)}'
  return f'{_processor_name()} x {available_cores()} cores'


def _processor_name() -> str:
  """Returns the processor's model name from /proc/cpuinfo, or else from the module `platform`."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    lines = []
  names = (line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
  return next(names, '') or platform.processor() or platform.machine()


def package_versions() -> dict[str, str]:
  """Returns the installed versions of Python and of the packages that affect numerical results."""
  versions = {name: importlib.metadata.version(name) for name in PACKAGES}
  return {'python': platform.python_version(), **versions}


def git_commit() -> str:
  """Returns the hash of the checked-out commit, or '' outside a checkout.

  A '+' at its end marks files that have been changed since that commit.
  """
  folder = pathlib.Path(__file__).parent

  def run_git_command(arguments):
    return subprocess.run(
      ('git', '-C', str(folder), *arguments), capture_output=True, text=True, check=True
    ).stdout.strip()

  try:
    changed = '+' if run_git_command(('status', '--porcelain')) else ''
    return run_git_command(('rev-parse', '--short=12', 'HEAD')) + changed
  except (OSError, subprocess.CalledProcessError):
    return ''
