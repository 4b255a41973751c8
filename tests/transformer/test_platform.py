"""Programs made for another platform, and for this one before and after."""

import jax
import jax.numpy as jnp
import pytest

from baselines.linear_recurrence import MinGRU
from transformer import platform
from transformer.attention import Attention

HERE = jax.default_backend()
OTHER = 'tpu' if HERE != 'tpu' else 'gpu'


def written(layer, length):
  """A layer's compiled call as a jaxpr reads; it is the same function every time."""
  x = jax.ShapeDtypeStruct((2, length, 16), jnp.float32)
  parameters = jax.eval_shape(layer.init, jax.random.key(0), x)
  apply = jax.jit(type(layer).apply, static_argnums=0)
  return str(jax.make_jaxpr(apply, static_argnums=0)(layer, parameters, x))


def test_what_was_traced_before_is_made_anew_inside_and_again_after():
  seen = []

  @jax.jit
  def where(x):
    seen.append(platform.current())
    return x + platform.PLATFORMS.index(platform.current())

  def answer():
    return platform.PLATFORMS[int(where(0))]

  assert answer() == HERE
  with platform.assumed(OTHER):
    assert answer() == answer() == OTHER
  assert answer() == HERE
  assert seen == [HERE, OTHER, HERE]


def test_to_assume_what_is_there_forgets_nothing():
  count = []
  once = jax.jit(lambda x: count.append(x) or x)
  for _ in range(3):
    with platform.assumed(HERE):
      once(1.0)
  assert len(count) == 1


def test_what_is_assumed_ends_with_its_block_however_that_ends():
  with platform.assumed(OTHER):
    with platform.assumed(HERE):
      assert platform.current() == HERE
    assert platform.current() == OTHER
  with pytest.raises(KeyError), platform.assumed(OTHER):
    raise KeyError
  assert platform.current() == HERE


def test_a_platform_that_does_not_exist_is_one_line():
  with pytest.raises(ValueError, match="no platform 'npu'; there are cpu, gpu, tpu"), \
       platform.assumed('npu'):
    pass


@pytest.mark.skipif(HERE != 'cpu', reason='says what a CPU does')
@pytest.mark.parametrize(
  ('layer', 'length', 'here', 'there'),
  [(Attention(2), 128, 'exp', 'pallas_call['), (MinGRU(), 64, 'scan[', 'concatenate[')],
)
def test_a_layer_takes_the_form_of_the_platform_that_is_assumed(layer, length, here, there):
  before = written(layer, length)
  with platform.assumed('tpu'):
    inside = written(layer, length)
  assert here in before and there not in before
  assert there in inside
  assert written(layer, length) == before
