"""What is declared is what the Jacobian shows; effective fields against closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import LAYERS
from baselines.convolution import Convolution
from experiments.lab.cells.experiment import resolve
from experiments.lab.cells.run import Run
from experiments.lab.measure import jacobian
from experiments.receptive_field import field
from experiments.receptive_field import fields as cells
from experiments.receptive_field import tables as fields
from transformer.stack import Stack

SIZES = {'width': 4, 'seeds': (0, 1), 'match': 'none'}


def record(layer, depth=1, length=12, **settings):
  """What a cell of a stack has to say."""
  one = resolve(Run(layer=layer, depth=depth, **SIZES | settings))
  cell = cells.cell_of('receptive_field', one, length, sequences=2)
  return {'run': cell.run, 'result': cells.measure_cell(cell, None).result}


def closed_form(layer, depth, kernel_size, dilation, levels):
  """A convolution's field as its paper has it, and its spec."""
  spec, reach = {
    'convolution': (f'dilation={dilation}', dilation),
    'tcn': (f'levels={levels}', 2 * (2**levels - 1)),
    'bytenet': (f'levels={levels}', 2**levels - 1),
    'convs2s': (f'levels={levels}', levels),
  }[layer]
  return f'{layer}(kernel_size={kernel_size}, {spec})', 1 + depth * (kernel_size - 1) * reach


@pytest.mark.slow
@settings(max_examples=8, deadline=None, derandomize=True)
@given(
  st.sampled_from(('convolution', 'convolution', 'tcn', 'bytenet', 'convs2s')), st.integers(1, 3),
  st.integers(1, 4), st.integers(1, 4), st.integers(1, 2), st.sampled_from(('pre_norm', 'plain')),
)
def test_what_a_convolution_declares_is_what_its_jacobian_shows(
  layer, depth, kernel_size, dilation, levels, block
):
  depth = depth if layer == 'convolution' else 1
  spec, expected = closed_form(layer, depth, kernel_size, dilation, levels)
  found = record(spec, depth, block=block)
  assert found['result']['declared'] == max(found['result']['shown']) == expected
  assert fields.agrees(found)


@pytest.mark.parametrize('layer, depth, declared', [
  ('sliding_window(window=3)', 2, 5), ('interleave(convolution, sliding_window(window=2))', 2, 5),
  ('attention', 1, None),
])
def test_windows_and_hybrids_too_and_without_a_bound_all_is_seen(layer, depth, declared):
  found = record(layer, depth, width=8)
  assert found['result']['declared'] == declared
  assert found['result']['shown'] == [declared or 12] * 2
  assert fields.agrees(found)


@pytest.mark.parametrize('extra', [-1, 1])
def test_a_layer_that_declares_what_it_does_not_see_is_found_out(extra, monkeypatch):
  class Wrong(Convolution):
    """Says that it sees a token more, or fewer, than it does."""

    @property
    def receptive_field(self):
      return super().receptive_field + extra

    def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
      return jnp.zeros((batch_size, self.kernel_size - 1, width), dtype)

  monkeypatch.setitem(LAYERS, 'wrong', Wrong)
  found = record('wrong')
  assert max(found['result']['shown']) == 4 and found['result']['declared'] == 4 + extra
  assert not fields.agrees(found)
  assert fields.declared_table([found]).rows[0][3] is False


@functools.partial(jax.jit, static_argnums=(0, 2))
def energy_of(stack, parameters, width):
  x = jnp.zeros((1, stack.receptive_field + 2, width))
  read = lambda x: stack.apply(parameters, x)[0]  # noqa: E731
  return field.energy(jacobian.at_output(read, x, x.shape[1] - 1))


def powers(kernel, depth):
  """The kernel convolved with itself, and two lags behind it."""
  return np.pad(functools.reduce(np.convolve, [kernel] * depth), (0, 2))


@pytest.mark.parametrize('size, dilation, depth', [(3, 1, 1), (3, 1, 6), (2, 2, 4), (5, 1, 3)])
def test_a_stack_of_equal_weights_is_a_power_of_its_kernel(size, dilation, depth):
  stack = Stack((Convolution(size, dilation),), depth)
  parameters = jax.eval_shape(stack.init, jax.random.key(0), jnp.zeros((1, 1, 1)))
  ones = jax.tree.map(lambda p: jnp.full(p.shape, 1 / size if p.ndim == 3 else 0.0), parameters)
  kernel = np.zeros(1 + (size - 1) * dilation)
  kernel[::dilation] = 1 / size
  gradient = powers(kernel, depth)
  energy = energy_of(stack, ones, 1)
  np.testing.assert_allclose(energy, gradient**2, rtol=1e-5)
  counted = int(np.sum(gradient > 0.0455 * gradient.max()))
  assert int(field.effective(energy)) == counted
  if (size, depth) == (3, 6):
    assert counted == 9 < stack.receptive_field == 13
  mass, lag = gradient**2 / np.sum(gradient**2), np.arange(len(gradient))
  spread = np.sqrt(mass @ lag**2 - (mass @ lag) ** 2)
  np.testing.assert_allclose(field.spread(energy), spread, rtol=1e-4)


@pytest.mark.parametrize('dilation, depth', [(1, 1), (2, 3), (1, 6)])
def test_random_weights_spread_with_the_root_of_the_depth(dilation, depth):
  stack = Stack((Convolution(3, dilation),), depth)
  keys = jax.random.split(jax.random.key(1), 200)
  draw = lambda key: energy_of(stack, stack.init(key, jnp.zeros((1, 1, 4))), 4)  # noqa: E731
  energy = np.mean(jax.jit(jax.vmap(draw))(keys), 0)
  kernel = np.zeros(1 + 2 * dilation)
  kernel[::dilation] = 1 / 3
  np.testing.assert_allclose(energy / energy.sum(), powers(kernel, depth), atol=0.02)
  closed = dilation * (depth * (3**2 - 1) / 12) ** 0.5
  np.testing.assert_allclose(field.spread(energy), closed, rtol=0.05)


def test_a_gradient_that_is_no_number_has_no_effective_field():
  energy = jnp.array([1.0, jnp.nan, 0.5])
  assert np.isnan(field.effective(energy)) and np.isnan(field.spread(energy))
