"""Tests of measured receptive fields against theoretical ones and of effective fields."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import LAYERS
from baselines.convolution import Convolution
from experiments.lab.cells.experiment import create_experiment
from experiments.lab.cells.run import Run
from experiments.lab.measure import jacobian
from experiments.receptive_field import field_measurement, jacobian_statistics, tables
from transformer.stack import Stack

SIZES = {'width': 4, 'seeds': (0, 1), 'match': 'none'}


def measure_stack(layer, depth=1, length=12, **settings):
  """The record of a measurement of an untrained stack of layers."""
  experiment = create_experiment(Run(layer=layer, depth=depth, **SIZES | settings))
  cell = field_measurement.create_experiment_grid_cell_for_untrained_model(
    'receptive_field', experiment, length, sequences=2)
  outcome = field_measurement.measure_receptive_field_at_initialisation(cell, None)
  return {'run': cell.run, 'result': outcome.result}


def spec_and_closed_form_field(layer, depth, kernel_size, dilation, levels):
  """The spec of a convolutional layer, and the receptive field of its paper's formula."""
  options, dilation_sum = {
    'convolution': (f'dilation={dilation}', dilation),
    'tcn': (f'levels={levels}', 2 * (2**levels - 1)),
    'bytenet': (f'levels={levels}', 2**levels - 1),
    'convs2s': (f'levels={levels}', levels),
  }[layer]
  field = 1 + depth * (kernel_size - 1) * dilation_sum
  return f'{layer}(kernel_size={kernel_size}, {options})', field


@pytest.mark.slow
@settings(max_examples=8, deadline=None, derandomize=True)
@given(
  st.sampled_from(('convolution', 'convolution', 'tcn', 'bytenet', 'convs2s')), st.integers(1, 3),
  st.integers(1, 4), st.integers(1, 4), st.integers(1, 2), st.sampled_from(('pre_norm', 'plain')),
)
def test_theoretical_and_measured_fields_of_convolutions_equal_the_closed_form(
  layer, depth, kernel_size, dilation, levels, block
):
  depth = depth if layer == 'convolution' else 1
  spec, expected = spec_and_closed_form_field(layer, depth, kernel_size, dilation, levels)
  record = measure_stack(spec, depth, block=block)
  assert record['result']['theoretical'] == max(record['result']['measured']) == expected
  assert tables.measured_receptive_field_equals_theoretical(record)


@pytest.mark.parametrize('layer, depth, theoretical', [
  ('sliding_window(window=3)', 2, 5), ('interleave(convolution, sliding_window(window=2))', 2, 5),
  ('attention', 1, None),
])
def test_measured_field_is_the_theoretical_one_or_the_full_input(layer, depth, theoretical):
  record = measure_stack(layer, depth, width=8)
  assert record['result']['theoretical'] == theoretical
  assert record['result']['measured'] == [theoretical or 12] * 2
  assert tables.measured_receptive_field_equals_theoretical(record)


@pytest.mark.parametrize('extra', [-1, 1])
def test_a_wrongly_declared_field_is_detected(extra, monkeypatch):
  class WronglyDeclared(Convolution):
    """A convolution that declares one token more, or one less, than its receptive field."""

    @property
    def receptive_field(self):
      return super().receptive_field + extra

    def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
      return jnp.zeros((batch_size, self.kernel_size - 1, width), dtype)

  monkeypatch.setitem(LAYERS, 'wrongly_declared', WronglyDeclared)
  record = measure_stack('wrongly_declared')
  assert max(record['result']['measured']) == 4 and record['result']['theoretical'] == 4 + extra
  assert not tables.measured_receptive_field_equals_theoretical(record)
  assert tables.receptive_field_table([record]).rows[0][3] is False


@functools.partial(jax.jit, static_argnums=(0, 2))
def squared_gradient_norms(stack, parameters, width):
  x = jnp.zeros((1, stack.receptive_field + 2, width))
  apply_stack = lambda x: stack.apply(parameters, x)[0]  # noqa: E731
  gradient = jacobian.jacobian_of_output_at_position(apply_stack, x, x.shape[1] - 1)
  return jacobian_statistics.squared_gradient_norm_by_distance(gradient)


def convolution_power(kernel, depth):
  """The `depth`-fold convolution of a kernel with itself, padded with two zeros."""
  return np.pad(functools.reduce(np.convolve, [kernel] * depth), (0, 2))


@pytest.mark.parametrize('size, dilation, depth', [(3, 1, 1), (3, 1, 6), (2, 2, 4), (5, 1, 3)])
def test_gradient_of_a_stack_of_equal_weights_is_the_convolution_power_of_its_kernel(
  size, dilation, depth
):
  stack = Stack((Convolution(size, dilation),), depth)
  shapes = jax.eval_shape(stack.init, jax.random.key(0), jnp.zeros((1, 1, 1)))
  parameters = jax.tree.map(lambda p: jnp.full(p.shape, 1 / size if p.ndim == 3 else 0.0), shapes)
  kernel = np.zeros(1 + (size - 1) * dilation)
  kernel[::dilation] = 1 / size
  gradient = convolution_power(kernel, depth)
  squared_norms = squared_gradient_norms(stack, parameters, 1)
  np.testing.assert_allclose(squared_norms, gradient**2, rtol=1e-5)
  effective_receptive_field = int(np.sum(gradient > 0.0455 * gradient.max()))
  measured_field = jacobian_statistics.effective_receptive_field(squared_norms)
  assert int(measured_field) == effective_receptive_field
  if (size, depth) == (3, 6):
    assert effective_receptive_field == 9 < stack.receptive_field == 13
  weight, distance = gradient**2 / np.sum(gradient**2), np.arange(len(gradient))
  spread = np.sqrt(weight @ distance**2 - (weight @ distance) ** 2)
  measured_spread = jacobian_statistics.receptive_field_spread(squared_norms)
  np.testing.assert_allclose(measured_spread, spread, rtol=1e-4)


@pytest.mark.parametrize('dilation, depth', [(1, 1), (2, 3), (1, 6)])
def test_spread_under_random_weights_grows_with_the_square_root_of_the_depth(dilation, depth):
  stack = Stack((Convolution(3, dilation),), depth)
  keys = jax.random.split(jax.random.key(1), 200)
  norms_of_random_stack = lambda key: squared_gradient_norms(  # noqa: E731
    stack, stack.init(key, jnp.zeros((1, 1, 4))), 4)
  mean = np.mean(jax.jit(jax.vmap(norms_of_random_stack))(keys), 0)
  kernel = np.zeros(1 + 2 * dilation)
  kernel[::dilation] = 1 / 3
  np.testing.assert_allclose(mean / mean.sum(), convolution_power(kernel, depth), atol=0.02)
  closed_form = dilation * (depth * (3**2 - 1) / 12) ** 0.5
  measured = jacobian_statistics.receptive_field_spread(mean)
  np.testing.assert_allclose(measured, closed_form, rtol=0.05)


def test_effective_field_and_spread_of_a_nan_gradient_are_nan():
  squared_norms = jnp.array([1.0, jnp.nan, 0.5])
  assert np.isnan(jacobian_statistics.effective_receptive_field(squared_norms))
  assert np.isnan(jacobian_statistics.receptive_field_spread(squared_norms))
