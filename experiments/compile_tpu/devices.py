"""The devices of a TPU that is not here: what libtpu's compiler makes programs for."""

import functools

import jax
from jax.experimental import topologies as topology_descriptions

from experiments.compile_tpu import topologies
from experiments.lab import optional


@functools.cache
def chips(name: str) -> tuple:
  """The devices of a topology, to compile for.

  Raises a MissingExtra where libtpu is missing, or is not the one that this JAX goes with.
  """
  generation = topologies.check(name)
  optional.load('libtpu', 'programs for a TPU', 'tpu-aot')
  options = {'chip_config_name': generation.core} if generation.core else {}
  if topologies.count(name) == 1:  # else a host has four
    options['chips_per_host_bounds'] = [1, 1, 1]
  try:
    found = topology_descriptions.get_topology_desc(platform='tpu', topology_name=name, **options)
  except RuntimeError as error:
    reason = str(error).partition('\n')[0]
    raise optional.MissingExtra(
      f'the libtpu that is installed does not go with jax {jax.__version__} ({reason}): '
      f'{optional.install("tpu-aot")}'
    ) from None
  return tuple(found.devices)
