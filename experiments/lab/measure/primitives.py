"""The kinds of JAX primitives, which determine how the operations of a primitive are counted.

A program is a jaxpr, which is a list of equations. Each equation applies a primitive.

  elementwise   arithmetic on each element separately
  reduction     many elements are reduced to one, as in a sum or a maximum
  cumulative    each element is combined with all earlier ones, as in a cumulative sum
  product       a matrix product or a convolution
  transform     a Fourier transform
  sorting       elements are sorted along an axis
  scatter       elements are added to others at indices that are data
  movement      elements are moved, copied or selected by index, without arithmetic
  recast        elements are cast to another type or split into parts, without arithmetic
  control       a scan, a while loop, a branch, or a function call

A primitive without a kind raises an error with its name, since a count without it would be too low.

The equations of JAX versions differ in the set of primitives, in the names of a loop's parameters,
and in whether the body of a loop is a `Jaxpr` or a `ClosedJaxpr`. Only this module handles these
differences. Where the name of a parameter differs, its value is computed from the shapes of the
equation instead.
"""

from collections.abc import Iterator
from typing import NamedTuple

from jax.extend import core

_KINDS = {
  'elementwise': """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp
    clz cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igammac
    integer_pow is_finite le le_to lgamma log log1p log2 logistic lt lt_to max min mul mulhi ne neg
    nextafter not one_minus_square or polygamma population_count pow random_bits random_fold_in
    random_seed random_split random_unwrap random_wrap rem round rsqrt select_n shift_left
    shift_right_arithmetic shift_right_logical sign sin sinh sqrt square sub tan tanh threefry2x32
    xor zeta
  """,
  'reduction': """
    argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum reduce_xor
  """,
  'cumulative': 'cumlogsumexp cummax cummin cumprod cumsum',
  'product': 'conv_general_dilated dot_general',
  'transform': 'fft',
  'sorting': 'sort top_k',
  'scatter': 'scatter-add scatter-max scatter-min scatter-mul scatter_add scatter_max scatter_min',
  'movement': """
    broadcast_in_dim concatenate dynamic_slice dynamic_update_slice empty2 expand_dims gather iota
    pad reshape rev scatter slice split squeeze stack tile transpose unstack
  """,
  'recast': """
    bitcast_convert_type complex conj convert_element_type copy copy_p device_put imag name
    optimization_barrier real reduce_precision sharding_constraint stop_gradient
  """,
  'control': """
    call checkpoint closed_call cond core_call custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr
    eval_jaxpr jit pjit remat remat2 scan while
  """,
}
KINDS = {name: kind for kind, names in _KINDS.items() for name in names.split()}
FREE = ('movement', 'recast')  # kinds without arithmetic


class UnknownPrimitive(ValueError):
  """Error for a JAX primitive whose operations cannot be counted, because its kind is unknown."""


def primitive_kind(jaxpr_equation) -> str:
  """The kind of an equation's primitive, such as 'elementwise' or 'reduction'."""
  name = jaxpr_equation.primitive.name
  if name not in KINDS:
    raise UnknownPrimitive(f'the cost of the primitive {name!r} is unknown')
  return KINDS[name]


def inner_jaxprs(jaxpr_equation) -> Iterator[core.ClosedJaxpr]:
  """The jaxprs that an equation executes, which are loop bodies, branches and called functions."""
  for value in jaxpr_equation.params.values():
    for inner in value if isinstance(value, tuple | list) else (value,):
      if isinstance(inner, core.ClosedJaxpr):
        yield inner
      elif isinstance(inner, core.Jaxpr):
        yield core.ClosedJaxpr(inner, ())


class LoopOperands(NamedTuple):
  """The numbers of constant, carried and stacked operands of a scan."""

  constants: int  # the same in every iteration
  carried: int  # passed from iteration to iteration; the last values are the first outputs
  stacked: int  # one slice per iteration


def count_scan_operands(jaxpr_equation) -> LoopOperands:
  """Counts the constant, carried and stacked operands of a scan.

  A stacked array has one more axis than the slice that the body takes or returns.
  """
  (body,) = inner_jaxprs(jaxpr_equation)
  stacked = _count_arrays_stacked_over_iterations(jaxpr_equation.invars, body.jaxpr.invars)
  carried = len(jaxpr_equation.outvars) - _count_arrays_stacked_over_iterations(
    jaxpr_equation.outvars, body.jaxpr.outvars)
  return LoopOperands(len(jaxpr_equation.invars) - carried - stacked, carried, stacked)


def _count_arrays_stacked_over_iterations(scan_variables, loop_body_variables) -> int:
  """The number of stacked inputs or outputs of a scan, which have one slice per iteration.

  These arrays have more axes outside of the loop than in its body.
  """
  pairs = zip(scan_variables, loop_body_variables, strict=True)
  return sum(outer.aval.ndim > body.aval.ndim for outer, body in pairs)


def num_elements_combined_per_output_element(jaxpr_equation) -> int:
  """The number of elements that a jaxpr equation combines into each output element, as in a sum."""
  operand, params = jaxpr_equation.invars[0].aval, jaxpr_equation.params
  match primitive_kind(jaxpr_equation), jaxpr_equation.primitive.name:
    case 'reduction', _:
      return _product_of_lengths(operand.shape[axis] for axis in params['axes'])
    case 'cumulative', _:
      return operand.shape[params['axis']]
    case 'transform', _:
      return _product_of_lengths(params['fft_lengths'])
    case 'sorting', _:  # along the last axis if a version of JAX has no such parameter
      return operand.shape[params.get('dimension', params.get('axis', -1))]
    case _, 'dot_general':
      (contracted, _), _ = params['dimension_numbers']
      return _product_of_lengths(operand.shape[axis] for axis in contracted)
    case _, 'conv_general_dilated':
      kernel = jaxpr_equation.invars[1].aval.shape
      return _product_of_lengths(kernel) // kernel[params['dimension_numbers'].rhs_spec[0]]
  return 1


def _product_of_lengths(lengths) -> int:
  size = 1
  for length in lengths:
    size *= length
  return size
