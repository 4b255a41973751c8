"""Strict JAX for every test: four devices on one CPU, no silent rank promotion."""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax

if jax.config.jax_platforms == 'cpu':
  jax.config.update('jax_num_cpu_devices', 4)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_disable_most_optimizations', True)  # tiny programs: compiling is the cost
