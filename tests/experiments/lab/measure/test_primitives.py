"""Every primitive of every layer's programs has a kind in the installed version of JAX."""

import functools

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import LAYERS
from experiments.complexity import layer_counts
from experiments.lab.measure.primitives import (
  FREE,
  KINDS,
  UnknownPrimitive,
  count_scan_operands,
  inner_jaxprs,
  num_elements_combined_per_output_element,
  primitive_kind,
)
from transformer import platform


def all_equations(jaxpr):
  """All equations of a jaxpr, including those of its loops, branches and functions."""
  for equation in jaxpr.eqns:
    yield equation
    for inner in inner_jaxprs(equation):
      yield from all_equations(inner.jaxpr)


@pytest.mark.parametrize('assumed', ['cpu', pytest.param('gpu', marks=pytest.mark.slow)])
@pytest.mark.parametrize('name', LAYERS)
def test_every_primitive_of_a_layer_has_a_kind(name, assumed):
  layer, length = LAYERS[name](), 9
  with platform.override_platform(assumed):
    for phase in layer_counts.PHASES:
      width = 8 * layer.required_width_divisor
      shapes = layer_counts.argument_shapes_for_training_or_inference(layer, phase, length, width)
      program = jax.make_jaxpr(layer_counts.forward_or_gradient_function(layer, phase))(*shapes)
      primitives = {e.primitive.name: e for e in all_equations(program.jaxpr)}
      unknown = primitives.keys() - KINDS.keys()
      assert not unknown, f'{name} has primitives without a kind in its {phase} program'
      computing = [e for e in primitives.values() if primitive_kind(e) not in (*FREE, 'control')]
      assert computing
      assert all(num_elements_combined_per_output_element(equation) >= 1 for equation in computing)


def test_an_unknown_primitive_raises_an_error_with_its_name():
  def kinds(function):
    return [primitive_kind(e) for e in all_equations(jax.make_jaxpr(function)(jnp.eye(3)).jaxpr)]

  assert 'cumulative' in kinds(jax.lax.cummax)
  with pytest.raises(UnknownPrimitive, match="'cholesky'"):
    kinds(jax.lax.linalg.cholesky)


operand_counts = st.integers(0, 3)


@settings(deadline=None, max_examples=25)
@given(operand_counts, operand_counts, operand_counts, operand_counts, st.booleans())
def test_operands_of_a_scan_are_counted_by_kind(constants, carried, stacked, outputs, matrices):
  if not carried + stacked:
    return
  shape = (2, 3) if matrices else ()
  constant_arrays = [jnp.full(shape, float(i)) for i in range(constants)]

  def body(carry, slices):
    total = functools.reduce(jnp.add, (*constant_arrays, *carry, *slices))
    return tuple(x + total for x in carry), tuple(total * i for i in range(1, outputs + 1))

  def loop(constant_inputs, carry, xs):
    nonlocal constant_arrays
    constant_arrays = constant_inputs
    return jax.lax.scan(body, carry, xs, length=4)

  program = jax.make_jaxpr(loop)(
    constant_arrays, (jnp.ones(shape),) * carried, (jnp.ones((4, *shape)),) * stacked)
  (equation,) = (e for e in all_equations(program.jaxpr) if e.primitive.name == 'scan')
  assert count_scan_operands(equation) == (constants, carried, stacked)
