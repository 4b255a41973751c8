"""Lengths of the paths from input positions to array elements, propagated through a program.

The path length of an element from an input position is the smallest number of operations on any
path between them. The result of an operation has the smallest path length of its operands plus one,
and moving data adds nothing. An element without a path from any position is a known constant, and a
constant can remove paths. A path ends where its value is multiplied by a known 0, where another
value is selected, and where its value is added to a number so large that float32 rounds the sum to
that number.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from experiments.complexity.numpy_evaluation import ABSORBING, evaluate_equation
from experiments.lab.measure.primitives import FREE, UnknownPrimitive, primitive_kind

NO_PATH = np.float32(np.inf)


class DependentArray:
  """An array with the length of the shortest path from each input position to each element.

  Elements without a path from any input position are constants, and their values are stored too.
  """

  def __init__(self, path_lengths: np.ndarray, value: np.ndarray):
    """Stores the path lengths of all elements and the values of the constant elements.

    Args:
      path_lengths: path lengths [positions, ...] in float32, infinite without a path.
      value: values [...], which are valid where all path lengths are infinite.

    """
    self.path_lengths, self.value, self.shape = path_lengths, value, value.shape

  @functools.cached_property
  def is_constant(self) -> np.ndarray:
    """A mask [...] of the elements that do not depend on any input position."""
    return np.isinf(self.path_lengths).all(0)

  def subarray(self, index: int) -> 'DependentArray':
    """The array element or subarray at an index of the first axis."""
    return DependentArray(self.path_lengths[:, index], self.value[index])


Array = np.ndarray | DependentArray


class PartialConstant(NamedTuple):
  """The values of an array and a mask of its constant elements."""

  value: np.ndarray
  is_constant: np.ndarray

  @property
  def is_constant_zero(self) -> np.ndarray:
    """A mask of the elements that are a constant 0."""
    return self.is_constant & (self.value == 0)

  @property
  def is_constant_nonzero(self) -> np.ndarray:
    """A mask of the elements that are a constant other than 0."""
    return self.is_constant & (self.value != 0)


def propagate_through_equation(equation, operands: Sequence[Array]) -> list[DependentArray]:
  """Computes the outputs of a jaxpr equation and their path lengths from the input positions."""
  kind, name = primitive_kind(equation), equation.primitive.name
  if kind == 'movement':
    return _propagate_through_data_movement(equation, operands)
  if name in ('optimization_barrier', 'device_put'):
    return list(operands)
  rule = PATH_LENGTH_RULES.get(name) or PATH_LENGTH_RULES.get(kind)
  if rule is None:
    raise UnknownPrimitive(f'the primitive {name!r} has no rule for path lengths')
  aval = equation.outvars[0].aval
  path_lengths = rule(equation, *operands) + (kind not in FREE)
  path_lengths = np.broadcast_to(path_lengths, (len(path_lengths), *aval.shape))
  if name in CONSTANT_RESULTS:
    partial = (PartialConstant(_array_values(x), _constant_mask(x)) for x in operands)
    is_constant = CONSTANT_RESULTS[name](*partial)
    if is_constant.any():
      path_lengths = np.where(is_constant, NO_PATH, path_lengths)
  output = DependentArray(path_lengths, np.ones(aval.shape, aval.dtype))
  if output.is_constant.any():
    with np.errstate(all='ignore'):
      (values,) = evaluate_equation(equation, list(map(_array_values, operands)))
    output.value = np.where(output.is_constant, values, output.value)
  return [output]


def _array_values(x: Array) -> np.ndarray:
  return x.value if isinstance(x, DependentArray) else x


def _constant_mask(x: Array) -> np.ndarray:
  return x.is_constant if isinstance(x, DependentArray) else np.ones(np.shape(x), bool)


def _mask_of_sums_with_huge_constant(x: PartialConstant, y: PartialConstant) -> np.ndarray:
  """A mask of the sums that are constant after rounding, since one summand is a huge constant."""
  x_large, y_large = (
    summand.is_constant & (np.abs(summand.value) >= ABSORBING) for summand in (x, y))
  return x_large | y_large


CONSTANT_RESULTS = {  # masks of results that are constant although an operand is not
  'mul': lambda x, y: x.is_constant_zero | y.is_constant_zero,
  'div': lambda x, y: x.is_constant_zero & np.ones(y.value.shape, bool),
  'and': lambda x, y: x.is_constant_zero | y.is_constant_zero,
  'or': lambda x, y: x.is_constant_nonzero | y.is_constant_nonzero,
  'add': _mask_of_sums_with_huge_constant,
  'sub': _mask_of_sums_with_huge_constant,
}


def _elementwise_path_lengths(equation, *operands: Array) -> np.ndarray:
  """The elementwise minimum of the path lengths of all operands, with scalars broadcast."""
  rank = len(equation.outvars[0].aval.shape)
  lengths = [x.path_lengths for x in operands if isinstance(x, DependentArray)]
  lengths = [d.reshape(d.shape + (1,) * (rank + 1 - d.ndim)) for d in lengths]
  return functools.reduce(np.minimum, lengths)


def _select_path_lengths(equation, condition: Array, *cases: Array) -> np.ndarray:
  """The path lengths of the result of a select operation, such as `jnp.where`.

  Where the condition is a constant, only the selected case counts. Elsewhere the result is the
  minimum over the condition and all cases.
  """
  shortest = _elementwise_path_lengths(equation, condition, *cases)
  known, positions = _constant_mask(condition), len(shortest)
  if not known.any():
    return shortest
  lengths = [_path_lengths_or_infinity(case, positions) for case in cases]
  # Subtracts 1 because a selection by a constant condition does not count as an operation.
  selected = np.choose(_array_values(condition).astype(int), lengths, mode='clip') - 1
  return np.where(known, selected, shortest)


def _reduction_path_lengths(equation, x: DependentArray) -> np.ndarray:
  return x.path_lengths.min(tuple(1 + axis for axis in equation.params['axes']))


def _cumulative_path_lengths(equation, x: DependentArray) -> np.ndarray:
  axis, backwards = 1 + equation.params['axis'], equation.params['reverse']
  lengths = np.flip(x.path_lengths, axis) if backwards else x.path_lengths
  shortest = np.minimum.accumulate(lengths, axis)
  return np.flip(shortest, axis) if backwards else shortest


def _fourier_transform_path_lengths(equation, x: DependentArray) -> np.ndarray:
  axes = tuple(range(-len(equation.params['fft_lengths']), 0))
  return x.path_lengths.min(axes, keepdims=True)


def _scatter_path_lengths(equation, x: Array, indices: Array, updates: Array) -> np.ndarray:
  """The path lengths of the result of a scatter operation, such as scatter-add."""
  if isinstance(indices, DependentArray):
    raise ValueError('a scatter-add with indices that depend on the input is not supported')
  positions = next(len(y.path_lengths) for y in (x, updates) if isinstance(y, DependentArray))
  options = {name: equation.params[name] for name in (
    'dimension_numbers', 'indices_are_sorted', 'unique_indices', 'mode')}

  def scatter_minimum_path_lengths(path_lengths, update_path_lengths):
    return np.asarray(
      jax.lax.scatter_min(path_lengths, indices, update_path_lengths, **options))

  zeros = np.zeros(updates.shape, np.float32)
  is_updated = scatter_minimum_path_lengths(np.ones(x.shape, np.float32), zeros) == 0
  lengths = zip(
    _path_lengths_or_infinity(x, positions), _path_lengths_or_infinity(updates, positions),
    strict=True)
  # Subtracts 1 for elements without updates, since copying does not count as an operation.
  return np.stack([scatter_minimum_path_lengths(*pair) for pair in lengths]) - ~is_updated


def _path_lengths_or_infinity(x: Array, positions: int) -> np.ndarray:
  """The path lengths [positions, ...] of an array, which are infinite if it is constant."""
  if isinstance(x, DependentArray):
    return x.path_lengths
  return np.full((positions, *x.shape), NO_PATH)


def _matrix_product_path_lengths(equation, x: Array, y: Array) -> np.ndarray:
  """The path lengths of the elements of a matrix product or batched matrix product.

  Each element has the minimum over all factors of its sum that are not multiplied by a constant 0.
  """
  contracted_axes, batch_axes = equation.params['dimension_numbers']
  sides = list(zip((x, y), contracted_axes, batch_axes, strict=True))
  candidates = []
  for (factor, *factor_axes), (other, *other_axes) in (sides, sides[::-1]):
    if isinstance(factor, DependentArray):
      partial = PartialConstant(_array_values(other), _constant_mask(other))
      lengths = _path_lengths_through_one_factor(
        _reshape_to_matrices(factor.path_lengths, *factor_axes, num_leading_axes=1),
        _reshape_to_matrices(partial.is_constant_zero, *other_axes))
      candidates.append(lengths if factor is x else lengths.swapaxes(2, 3))
  shortest = functools.reduce(np.minimum, candidates)
  return shortest.reshape(len(shortest), *equation.outvars[0].aval.shape)


def _reshape_to_matrices(
  x: np.ndarray, contracted_axes, batch_axes, num_leading_axes: int = 0
) -> np.ndarray:
  """Reshapes an operand of a matrix product to [..., batch, rows, contracted columns].

  All batch axes become one axis, as do all contracted axes and all other axes (rows). The leading
  axes do not change.
  """
  others = [a for a in range(x.ndim - num_leading_axes) if a not in (*contracted_axes, *batch_axes)]
  groups = [[num_leading_axes + axis for axis in group]
            for group in (batch_axes, others, contracted_axes)]
  sizes = [math.prod(x.shape[axis] for axis in group) for group in groups]
  transposed = x.transpose(*range(num_leading_axes), *itertools.chain(*groups))
  return transposed.reshape(*x.shape[:num_leading_axes], *sizes)


def _path_lengths_through_one_factor(
  path_lengths: np.ndarray, is_zero_in_other_factor: np.ndarray
) -> np.ndarray:
  """Path lengths [P, b, m, n] of a matrix product, from the path lengths of one factor.

  The argument `path_lengths` [P, b, m, K] belongs to this factor. Its elements that are multiplied
  by a constant 0 of the other factor, given by the mask `is_zero_in_other_factor` [b, n, K], do not
  contribute.
  """
  if not is_zero_in_other_factor.any():
    shortest = path_lengths.min(3, initial=NO_PATH)[..., None]
    return np.broadcast_to(shortest, (*shortest.shape[:3], is_zero_in_other_factor.shape[1]))
  shortest = np.full((*path_lengths.shape[:3], is_zero_in_other_factor.shape[1]), NO_PATH)
  penalty = np.where(is_zero_in_other_factor, NO_PATH, np.float32(0))  # [b, n, K]
  for k in range(path_lengths.shape[3]):
    np.minimum(shortest, path_lengths[..., k, None] + penalty[:, None, :, k], out=shortest)
  return shortest


def _convolution_path_lengths(equation, x: Array, kernel: Array) -> np.ndarray:
  """The path lengths of the result of a convolution with a constant kernel."""
  params, layout = equation.params, equation.params['dimension_numbers']
  if isinstance(kernel, DependentArray) or params['batch_group_count'] > 1:
    raise ValueError('a convolution with a kernel that depends on the input is not supported')
  lengths = x.path_lengths.transpose(0, *(1 + axis for axis in layout.lhs_spec))  # [P, B, D, times]
  for axis, (padding, dilation) in enumerate(zip(params['padding'], params['lhs_dilation'],
                                                 strict=True)):
    lengths = _dilate_and_pad_axis(lengths, 3 + axis, padding, dilation)
  taps = [kernel.shape[axis] for axis in layout.rhs_spec[2:]]
  output_shape = equation.outvars[0].aval.shape
  times = [output_shape[axis] for axis in layout.out_spec[2:]]
  shortest = NO_PATH
  for tap in itertools.product(*map(range, taps)):
    window = [
      slice(first * dilation, first * dilation + stride * (length - 1) + 1, stride)
      for first, dilation, stride, length in zip(
        tap, params['rhs_dilation'], params['window_strides'], times, strict=True)
    ]
    shortest = np.minimum(shortest, lengths[:, :, :, *window])
  groups = params['feature_group_count']
  shortest = shortest.reshape(*shortest.shape[:2], groups, -1, *shortest.shape[3:]).min(3)
  features = output_shape[layout.out_spec[1]]
  shortest = np.repeat(shortest, features // groups, 2)  # [P, B, F, times]
  output_axes = (1 + layout.out_spec.index(axis) for axis in range(len(output_shape)))
  return shortest.transpose(0, *output_axes)


def _dilate_and_pad_axis(
  path_lengths: np.ndarray, axis: int, padding: tuple[int, int], dilation: int
) -> np.ndarray:
  """Inserts infinite path lengths along an axis, where a convolution inserts zeros.

  A negative padding removes elements at an end of the axis.
  """
  length, shape = path_lengths.shape[axis], list(path_lengths.shape)
  dilated_length = dilation * (length - 1) + 1
  shape[axis] = dilated_length + max(padding[0], 0) + max(padding[1], 0)
  padded = np.full(shape, NO_PATH)
  leading = (slice(None),) * axis
  first = max(padding[0], 0)
  padded[(*leading, slice(first, first + dilated_length, dilation))] = path_lengths
  return padded[(*leading, slice(max(-padding[0], 0), shape[axis] - max(-padding[1], 0)))]


PATH_LENGTH_RULES = {  # by kind, or by primitive where it differs from its kind
  'elementwise': _elementwise_path_lengths,
  'recast': _elementwise_path_lengths,
  'select_n': _select_path_lengths,
  'reduction': _reduction_path_lengths,
  'cumulative': _cumulative_path_lengths,
  'transform': _fourier_transform_path_lengths,
  'scatter': _scatter_path_lengths,
  'dot_general': _matrix_product_path_lengths,
  'conv_general_dilated': _convolution_path_lengths,
}

INDEX_OPERANDS = {  # the operands of movements that are indices
  'dynamic_slice': slice(1, None),
  'dynamic_update_slice': slice(2, None),
  'gather': slice(1, 2),
  'scatter': slice(1, 2),
}


def _propagate_through_data_movement(equation, operands: Sequence[Array]) -> list[DependentArray]:
  """The outputs of an equation that moves, copies or selects elements by index.

  The operation is evaluated on the numbers of the elements, which then select the path lengths.
  """
  name, order = equation.primitive.name, list(range(len(operands)))
  index_operands = order[INDEX_OPERANDS.get(name, slice(0, 0))]
  if any(isinstance(operands[i], DependentArray) for i in index_operands):
    raise ValueError(f'a {name} with indices that depend on the input is not supported')
  positions = next(len(x.path_lengths) for x in operands if isinstance(x, DependentArray))
  numbered, total = list(operands), 0
  path_lengths, values = [], []
  for i in order:
    if i in index_operands:
      continue
    x = operands[i]
    size = math.prod(x.shape)
    numbered[i] = np.arange(total, total + size, dtype=np.int32).reshape(x.shape)
    total += size
    values.append(_array_values(x).ravel())
    path_lengths.append(_path_lengths_or_infinity(x, positions).reshape(positions, -1))
  flat_lengths, flat_values = np.concatenate(path_lengths, 1), np.concatenate(values)
  outputs = evaluate_equation(equation, numbered)
  if any((numbers < 0).any() or (numbers >= total).any() for numbers in outputs):
    raise ValueError(f'a {name} with indices outside of its operand is not supported')
  return [DependentArray(flat_lengths[:, numbers], flat_values[numbers]) for numbers in outputs]


def unwrap_constant_array(x: Array) -> Array:
  """Returns a NumPy array in place of an array of path lengths whose elements are constant."""
  return x.value if isinstance(x, DependentArray) and x.is_constant.all() else x


def stack_arrays(arrays: Sequence[Array]) -> Array:
  """Stacks NumPy arrays or arrays with path lengths along a new first axis."""
  values = np.stack(list(map(_array_values, arrays)))
  positions = next((len(x.path_lengths) for x in arrays if isinstance(x, DependentArray)), None)
  if positions is None:
    return values
  path_lengths = np.stack([_path_lengths_or_infinity(x, positions) for x in arrays], 1)
  return DependentArray(path_lengths, values)
