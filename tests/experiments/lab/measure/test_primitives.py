"""Every primitive of every layer's programs is known, in whatever version of JAX is installed."""

import functools

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import LAYERS
from experiments.complexity import counting
from experiments.lab.measure.primitives import (
  FREE,
  KINDS,
  UnknownPrimitive,
  inner_jaxprs,
  kind_of,
  scan_operands,
  summands,
)
from transformer import platform


def equations(jaxpr):
  """All equations of a jaxpr, those of its loops, branches and functions included."""
  for equation in jaxpr.eqns:
    yield equation
    for inner in inner_jaxprs(equation):
      yield from equations(inner.jaxpr)


@pytest.mark.parametrize('assumed', ('cpu', 'gpu'))
@pytest.mark.parametrize('name', LAYERS)
def test_every_primitive_of_a_layer_is_known(name, assumed):
  layer, length = LAYERS[name](), 9
  with platform.assumed(assumed):
    for phase in counting.PHASES:
      shapes = counting.arguments(layer, phase, length, 8 * layer.width_multiple)
      program = jax.make_jaxpr(counting.function(layer, phase))(*shapes)
      seen = {equation.primitive.name: equation for equation in equations(program.jaxpr)}
      unknown = seen.keys() - KINDS.keys()
      assert not unknown, f'{name} has primitives that no kind is given to, in its {phase} program'
      computing = [e for e in seen.values() if kind_of(e) not in (*FREE, 'control')]
      assert computing and all(summands(equation) >= 1 for equation in computing)


def test_a_primitive_that_is_not_known_is_refused_by_its_name():
  def names(function):
    return [kind_of(e) for e in equations(jax.make_jaxpr(function)(jnp.eye(3)).jaxpr)]

  assert 'cumulative' in names(jax.lax.cummax)
  with pytest.raises(UnknownPrimitive, match="'cholesky'"):
    names(jax.lax.linalg.cholesky)


counts = st.integers(0, 3)


@settings(deadline=None, max_examples=25)
@given(counts, counts, counts, counts, st.booleans())
def test_operands_of_a_scan_are_counted_by_kind(constants, carried, stacked, made, matrices):
  if not carried + stacked:
    return
  shape = (2, 3) if matrices else ()
  fixed = [jnp.full(shape, float(i)) for i in range(constants)]

  def turn(carry, slices):
    total = functools.reduce(jnp.add, (*fixed, *carry, *slices))
    return tuple(x + total for x in carry), tuple(total * i for i in range(1, made + 1))

  def loop(fixed_inputs, carry, xs):
    nonlocal fixed
    fixed = fixed_inputs
    return jax.lax.scan(turn, carry, xs, length=4)

  program = jax.make_jaxpr(loop)(
    fixed, (jnp.ones(shape),) * carried, (jnp.ones((4, *shape)),) * stacked)
  (equation,) = (e for e in equations(program.jaxpr) if e.primitive.name == 'scan')
  assert scan_operands(equation) == (constants, carried, stacked)
