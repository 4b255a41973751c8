"""What JAX's primitives do: the words in which programs are counted.

A program is a jaxpr, a list of equations. Each applies a primitive of one of these kinds:

  elementwise   arithmetic on every element by itself
  reduction     many elements become one: a sum, a maximum
  cumulative    every element becomes one of all before it
  product       a product of matrices, a convolution
  transform     a Fourier transform
  sorting       elements are put in order, along an axis
  scatter       elements are added to others at places that are data
  movement      elements come to stand elsewhere; nothing is computed
  recast        elements are taken for another type, or as a part of one; nothing is computed
  control       a scan, a while loop, a branch, or a function that is called

A primitive that is in none of them is refused by its name: a count with a hole in it is no count.

This is the one place that knows how the versions of JAX differ in their equations: in the
primitives that they have, in the names of a loop's parameters, and in whether the body of a loop
is a `Jaxpr` or a `ClosedJaxpr`. Where a parameter has had several names, what it said is computed
from the shapes of the equation instead.
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
FREE = ('movement', 'recast')  # nothing is computed


class UnknownPrimitive(ValueError):
  """Of a primitive that no kind has been given to."""


def kind_of(equation) -> str:
  """The kind of an equation's primitive."""
  name = equation.primitive.name
  if name not in KINDS:
    raise UnknownPrimitive(f'the primitive {name!r} is not known: nobody has said what it costs')
  return KINDS[name]


def inner_jaxprs(equation) -> Iterator[core.ClosedJaxpr]:
  """The jaxprs among an equation's parameters: bodies of loops, branches, called functions."""
  for value in equation.params.values():
    for one in value if isinstance(value, tuple | list) else (value,):
      if isinstance(one, core.ClosedJaxpr):
        yield one
      elif isinstance(one, core.Jaxpr):
        yield core.ClosedJaxpr(one, ())


class LoopOperands(NamedTuple):
  """How many operands of a scan are of each kind, in the order in which they stand."""

  constants: int  # the same in every turn
  carried: int  # handed from turn to turn; the first outputs are what the last turn hands on
  stacked: int  # one slice a turn


def scan_operands(equation) -> LoopOperands:
  """The operands of a scan, counted by kind.

  A stacked array has one axis more than the slice of it that the body reads or returns.
  """
  (body,) = inner_jaxprs(equation)
  stacked = _longer(equation.invars, body.jaxpr.invars)
  carried = len(equation.outvars) - _longer(equation.outvars, body.jaxpr.outvars)
  return LoopOperands(len(equation.invars) - carried - stacked, carried, stacked)


def _longer(outside, inside) -> int:
  """How many variables have more axes outside of a loop than inside."""
  return sum(o.aval.ndim > i.aval.ndim for o, i in zip(outside, inside, strict=True))


def summands(equation) -> int:
  """How many numbers go into one that a reduction, a product, a running sum or an order makes."""
  operand, params = equation.invars[0].aval, equation.params
  match kind_of(equation), equation.primitive.name:
    case 'reduction', _:
      return _size(operand.shape[axis] for axis in params['axes'])
    case 'cumulative', _:
      return operand.shape[params['axis']]
    case 'transform', _:
      return _size(params['fft_lengths'])
    case 'sorting', _:  # along the last axis where a version of JAX does not say which
      return operand.shape[params.get('dimension', params.get('axis', -1))]
    case _, 'dot_general':
      (contracted, _), _ = params['dimension_numbers']
      return _size(operand.shape[axis] for axis in contracted)
    case _, 'conv_general_dilated':
      kernel = equation.invars[1].aval.shape
      return _size(kernel) // kernel[params['dimension_numbers'].rhs_spec[0]]
  return 1


def _size(lengths) -> int:
  size = 1
  for length in lengths:
    size *= length
  return size
