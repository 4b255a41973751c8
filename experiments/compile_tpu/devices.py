"""Abstract devices of TPU topologies, for which libtpu compiles programs without a TPU."""

import functools

import jax
from jax.experimental import topologies as topology_descriptions

from experiments.compile_tpu import topologies
from experiments.lab import optional


@functools.cache
def topology_devices(topology: str) -> tuple:
  """Returns the abstract devices of a topology, for which programs can be compiled.

  Raises:
    MissingExtra: libtpu is not installed, or its version does not match the version of JAX.

  """
  generation = topologies.tpu_generation(topology)
  optional.import_optional('libtpu', 'programs for a TPU', 'tpu-aot')
  options = {'chip_config_name': generation.chip_config} if generation.chip_config else {}
  if topologies.chip_count(topology) == 1:  # larger topologies have four chips per host
    options['chips_per_host_bounds'] = [1, 1, 1]
  try:
    description = topology_descriptions.get_topology_desc(
      platform='tpu', topology_name=topology, **options)
  except RuntimeError as error:
    reason = str(error).partition('\n')[0]
    raise optional.MissingExtra(
      f'the installed libtpu does not match jax {jax.__version__} ({reason}), install it with '
      f'{optional.install_command("tpu-aot")}'
    ) from None
  return tuple(description.devices)
