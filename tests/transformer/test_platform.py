"""Programs are traced for the overriding platform, and for the default one before and after."""

import jax
import jax.numpy as jnp
import pytest

from baselines.linear_recurrence import MinGRU
from transformer import platform
from transformer.attention import Attention

DEFAULT_PLATFORM = jax.default_backend()
OTHER_PLATFORM = 'tpu' if DEFAULT_PLATFORM != 'tpu' else 'gpu'


def layer_jaxpr(layer, length):
  """The jaxpr of a layer's compiled call, which is the same function object in every call."""
  x = jax.ShapeDtypeStruct((2, length, 16), jnp.float32)
  parameters = jax.eval_shape(layer.init, jax.random.key(0), x)
  apply = jax.jit(type(layer).apply, static_argnums=0)
  return str(jax.make_jaxpr(apply, static_argnums=0)(layer, parameters, x))


def test_functions_are_traced_again_for_each_platform():
  platforms = []

  @jax.jit
  def add_platform_index(x):
    platforms.append(platform.current_platform())
    return x + platform.PLATFORMS.index(platform.current_platform())

  def traced_platform():
    return platform.PLATFORMS[int(add_platform_index(0))]

  assert traced_platform() == DEFAULT_PLATFORM
  with platform.override_platform(OTHER_PLATFORM):
    assert traced_platform() == traced_platform() == OTHER_PLATFORM
  assert traced_platform() == DEFAULT_PLATFORM
  assert platforms == [DEFAULT_PLATFORM, OTHER_PLATFORM, DEFAULT_PLATFORM]


def test_overriding_with_the_same_platform_keeps_the_cache():
  traces = []
  function = jax.jit(lambda x: traces.append(x) or x)
  for _ in range(3):
    with platform.override_platform(DEFAULT_PLATFORM):
      function(1.0)
  assert len(traces) == 1


def test_the_override_ends_with_its_context_even_after_an_error():
  with platform.override_platform(OTHER_PLATFORM):
    with platform.override_platform(DEFAULT_PLATFORM):
      assert platform.current_platform() == DEFAULT_PLATFORM
    assert platform.current_platform() == OTHER_PLATFORM
  with pytest.raises(KeyError), platform.override_platform(OTHER_PLATFORM):
    raise KeyError
  assert platform.current_platform() == DEFAULT_PLATFORM


def test_an_unknown_platform_raises_an_error():
  with pytest.raises(ValueError, match="no platform 'npu'; there are cpu, gpu, tpu"), \
       platform.override_platform('npu'):
    pass


@pytest.mark.skipif(DEFAULT_PLATFORM != 'cpu', reason='the default form is that of a CPU')
@pytest.mark.parametrize(
  ('layer', 'length', 'cpu_primitive', 'tpu_primitive'),
  [(Attention(2), 128, 'exp', 'pallas_call['), (MinGRU(), 64, 'scan[', 'concatenate[')],
)
def test_layers_use_the_form_of_the_overriding_platform(
  layer, length, cpu_primitive, tpu_primitive
):
  before = layer_jaxpr(layer, length)
  with platform.override_platform('tpu'):
    inside = layer_jaxpr(layer, length)
  assert cpu_primitive in before and tpu_primitive not in before
  assert tpu_primitive in inside
  assert layer_jaxpr(layer, length) == before
