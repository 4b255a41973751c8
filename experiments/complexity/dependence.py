"""Smallest number of operations on a path from each input position to each element of an array.

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

from experiments.complexity.numpy_evaluation import ABSORBING, evaluate_jaxpr_equation
from experiments.lab.measure.primitives import FREE, UnknownPrimitive, primitive_kind

NO_PATH = np.float32(np.inf)


class DependentArray:
  """An array with the lengths of the shortest dependency paths from the input to each element.

  Each input position has its own path lengths. The length of a path is its number of operations.
  Elements without a path from any input position are constants, and their values are stored too.
  """

  def __init__(self, path_lengths: np.ndarray, value: np.ndarray):
    """Stores path lengths from input positions to each array element, and the array's values.

    Args:
      path_lengths: path lengths [positions, ...] in float32, infinite without a path.
      value: values [...], which are valid where all path lengths are infinite.

    """
    self.path_lengths, self.value, self.shape = path_lengths, value, value.shape

  @functools.cached_property
  def is_constant(self) -> np.ndarray:
    """A boolean array that marks the elements that do not depend on any input position."""
    return np.isinf(self.path_lengths).all(0)

  def subarray(self, index: int) -> 'DependentArray':
    """The array element or subarray at an index of the first axis."""
    return DependentArray(self.path_lengths[:, index], self.value[index])


Array = np.ndarray | DependentArray


class PartialConstant(NamedTuple):
  """The values of an array and a mask of the elements that do not depend on the input."""

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


def propagate_path_lengths_through_jaxpr_equation(
  jaxpr_equation, operands: Sequence[Array]
) -> list[DependentArray]:
  """Computes the outputs of a jaxpr operation, and the lengths of their dependency paths.

  A dependency path leads from an input position to an element of an output.
  """
  kind, name = primitive_kind(jaxpr_equation), jaxpr_equation.primitive.name
  if kind == 'movement':
    return _propagate_path_lengths_through_data_movement(jaxpr_equation, operands)
  if name in ('optimization_barrier', 'device_put'):
    return list(operands)
  rule = PATH_LENGTH_RULES.get(name) or PATH_LENGTH_RULES.get(kind)
  if rule is None:
    raise UnknownPrimitive(f'the primitive {name!r} has no rule for path lengths')
  aval = jaxpr_equation.outvars[0].aval
  path_lengths = rule(jaxpr_equation, *operands) + (kind not in FREE)
  path_lengths = np.broadcast_to(path_lengths, (len(path_lengths), *aval.shape))
  if name in CONSTANT_RESULTS:
    partial = (PartialConstant(_to_numpy_array(x), _mask_of_constant_elements(x)) for x in operands)
    is_constant = CONSTANT_RESULTS[name](*partial)
    if is_constant.any():
      path_lengths = np.where(is_constant, NO_PATH, path_lengths)
  output = DependentArray(path_lengths, np.ones(aval.shape, aval.dtype))
  if output.is_constant.any():
    with np.errstate(all='ignore'):
      (values,) = evaluate_jaxpr_equation(jaxpr_equation, list(map(_to_numpy_array, operands)))
    output.value = np.where(output.is_constant, values, output.value)
  return [output]


def _to_numpy_array(x: Array) -> np.ndarray:
  return x.value if isinstance(x, DependentArray) else x


def _mask_of_constant_elements(x: Array) -> np.ndarray:
  return x.is_constant if isinstance(x, DependentArray) else np.ones(np.shape(x), bool)


def _mask_of_sums_dominated_by_constant(x: PartialConstant, y: PartialConstant) -> np.ndarray:
  """Marks elements where x ± y is constant because x or y is a constant of very large magnitude.

  Rounding to float32 then removes the other operand from the sum or difference.
  """
  x_large, y_large = (
    summand.is_constant & (np.abs(summand.value) >= ABSORBING) for summand in (x, y))
  return x_large | y_large


CONSTANT_RESULTS = {  # masks of results that are constant although an operand is not
  'mul': lambda x, y: x.is_constant_zero | y.is_constant_zero,
  'div': lambda x, y: x.is_constant_zero & np.ones(y.value.shape, bool),
  'and': lambda x, y: x.is_constant_zero | y.is_constant_zero,
  'or': lambda x, y: x.is_constant_nonzero | y.is_constant_nonzero,
  'add': _mask_of_sums_dominated_by_constant,
  'sub': _mask_of_sums_dominated_by_constant,
}


def _dependency_path_lengths_through_elementwise_operation(
  jaxpr_equation, *operands: Array
) -> np.ndarray:
  """Returns the elementwise minimum of the lengths of the operands' dependency paths.

  The result has a length for each input position and output element. Scalar operands are broadcast.
  """
  rank = len(jaxpr_equation.outvars[0].aval.shape)
  lengths = [x.path_lengths for x in operands if isinstance(x, DependentArray)]
  lengths = [d.reshape(d.shape + (1,) * (rank + 1 - d.ndim)) for d in lengths]
  return functools.reduce(np.minimum, lengths)


def _dependency_path_lengths_through_select_operation(
  jaxpr_equation, condition: Array, *cases: Array
) -> np.ndarray:
  """Path lengths from the input positions to the result of a select operation, as in `jnp.where`.

  Where the condition is a constant, only the selected case counts. Elsewhere the result is the
  minimum over the condition and all cases.
  """
  shortest = _dependency_path_lengths_through_elementwise_operation(
    jaxpr_equation, condition, *cases)
  known, positions = _mask_of_constant_elements(condition), len(shortest)
  if not known.any():
    return shortest
  lengths = [_dependency_path_lengths_of_array(case, positions) for case in cases]
  # A `select` whose condition is constant does not lengthen any dependency path.
  # The caller of this function adds 1 to every path length, so 1 is subtracted here.
  selected = np.choose(_to_numpy_array(condition).astype(int), lengths, mode='clip') - 1
  return np.where(known, selected, shortest)


def _dependency_path_lengths_through_reduction(
  jaxpr_equation, operand: DependentArray
) -> np.ndarray:
  return operand.path_lengths.min(tuple(1 + axis for axis in jaxpr_equation.params['axes']))


def _dependency_path_lengths_through_cumulative_operation(
  jaxpr_equation, operand: DependentArray
) -> np.ndarray:
  axis, backwards = 1 + jaxpr_equation.params['axis'], jaxpr_equation.params['reverse']
  lengths = np.flip(operand.path_lengths, axis) if backwards else operand.path_lengths
  shortest = np.minimum.accumulate(lengths, axis)
  return np.flip(shortest, axis) if backwards else shortest


def _dependency_path_lengths_through_fourier_transform(
  jaxpr_equation, operand: DependentArray
) -> np.ndarray:
  axes = tuple(range(-len(jaxpr_equation.params['fft_lengths']), 0))
  return operand.path_lengths.min(axes, keepdims=True)


def _dependency_path_lengths_through_scatter_operation(
  jaxpr_equation, x: Array, indices: Array, updates: Array
) -> np.ndarray:
  """Path lengths from the input positions to the result of a scatter, such as a scatter-add."""
  if isinstance(indices, DependentArray):
    raise ValueError('a scatter-add with indices that depend on the input is not supported')
  positions = next(len(y.path_lengths) for y in (x, updates) if isinstance(y, DependentArray))
  options = {name: jaxpr_equation.params[name] for name in (
    'dimension_numbers', 'indices_are_sorted', 'unique_indices', 'mode')}

  def apply_scatter_min(path_lengths, path_lengths_of_updates):
    return np.asarray(
      jax.lax.scatter_min(path_lengths, indices, path_lengths_of_updates, **options))

  zeros = np.zeros(updates.shape, np.float32)
  is_updated = apply_scatter_min(np.ones(x.shape, np.float32), zeros) == 0
  lengths = zip(
    _dependency_path_lengths_of_array(x, positions),
    _dependency_path_lengths_of_array(updates, positions),
    strict=True)
  # `propagate_path_lengths_through_jaxpr_equation` adds 1 to all path lengths of a scatter result.
  # A scatter only copies elements without updates, so 1 is subtracted from their path lengths.
  return np.stack([apply_scatter_min(*pair) for pair in lengths]) - ~is_updated


def _dependency_path_lengths_of_array(x: Array, num_input_positions: int) -> np.ndarray:
  """Path lengths [positions, ...] from the input to an array, infinite for a constant array."""
  if isinstance(x, DependentArray):
    return x.path_lengths
  return np.full((num_input_positions, *x.shape), NO_PATH)


def _dependency_path_lengths_through_matrix_product(
  jaxpr_equation, x: Array, y: Array
) -> np.ndarray:
  """Path lengths from the input positions to the elements of a (batched) matrix product.

  Each element has the minimum over all factors of its sum that are not multiplied by a constant 0.
  """
  contracted_axes, batch_axes = jaxpr_equation.params['dimension_numbers']
  sides = list(zip((x, y), contracted_axes, batch_axes, strict=True))
  candidates = []
  for (factor, *factor_axes), (other, *other_axes) in (sides, sides[::-1]):
    if isinstance(factor, DependentArray):
      partial = PartialConstant(_to_numpy_array(other), _mask_of_constant_elements(other))
      lengths = _path_lengths_after_matmul(
        _reshape_to_matrices(factor.path_lengths, *factor_axes, num_leading_axes=1),
        _reshape_to_matrices(partial.is_constant_zero, *other_axes))
      candidates.append(lengths if factor is x else lengths.swapaxes(2, 3))
  shortest = functools.reduce(np.minimum, candidates)
  return shortest.reshape(len(shortest), *jaxpr_equation.outvars[0].aval.shape)


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


def _path_lengths_after_matmul(
  path_lengths: np.ndarray, other_operand_is_zero: np.ndarray
) -> np.ndarray:
  """Path lengths [P, b, m, n] from P input positions to each entry [b, m, n] of a matrix product.

  Only paths through one operand are included. The argument `path_lengths` [P, b, m, K] belongs to
  this operand. Its elements that are multiplied by a constant 0 of the other operand do not
  contribute. The mask `other_operand_is_zero` [b, n, K] marks these zeros.
  """
  if not other_operand_is_zero.any():
    shortest = path_lengths.min(3, initial=NO_PATH)[..., None]
    return np.broadcast_to(shortest, (*shortest.shape[:3], other_operand_is_zero.shape[1]))
  shortest = np.full((*path_lengths.shape[:3], other_operand_is_zero.shape[1]), NO_PATH)
  penalty = np.where(other_operand_is_zero, NO_PATH, np.float32(0))  # [b, n, K]
  for k in range(path_lengths.shape[3]):
    np.minimum(shortest, path_lengths[..., k, None] + penalty[:, None, :, k], out=shortest)
  return shortest


def _dependency_path_lengths_through_convolution(
  jaxpr_equation, x: Array, kernel: Array
) -> np.ndarray:
  """Path lengths from the input positions to the result of a convolution with a constant kernel."""
  params, layout = jaxpr_equation.params, jaxpr_equation.params['dimension_numbers']
  if isinstance(kernel, DependentArray) or params['batch_group_count'] > 1:
    raise ValueError('a convolution with a kernel that depends on the input is not supported')
  lengths = x.path_lengths.transpose(0, *(1 + axis for axis in layout.lhs_spec))  # [P, B, D, times]
  for axis, (padding, dilation) in enumerate(zip(params['padding'], params['lhs_dilation'],
                                                 strict=True)):
    lengths = _dilate_and_pad_axis(lengths, 3 + axis, padding, dilation)
  taps = [kernel.shape[axis] for axis in layout.rhs_spec[2:]]
  output_shape = jaxpr_equation.outvars[0].aval.shape
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
  """Inserts infinite path lengths where a convolution dilates or pads its input with zeros.

  The path length of a zero is infinite, because a zero does not depend on any input position.
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
  'elementwise': _dependency_path_lengths_through_elementwise_operation,
  'recast': _dependency_path_lengths_through_elementwise_operation,
  'select_n': _dependency_path_lengths_through_select_operation,
  'reduction': _dependency_path_lengths_through_reduction,
  'cumulative': _dependency_path_lengths_through_cumulative_operation,
  'transform': _dependency_path_lengths_through_fourier_transform,
  'scatter': _dependency_path_lengths_through_scatter_operation,
  'dot_general': _dependency_path_lengths_through_matrix_product,
  'conv_general_dilated': _dependency_path_lengths_through_convolution,
}

INDEX_OPERANDS = {  # the operands of movements that are indices
  'dynamic_slice': slice(1, None),
  'dynamic_update_slice': slice(2, None),
  'gather': slice(1, 2),
  'scatter': slice(1, 2),
}


def _propagate_path_lengths_through_data_movement(
  jaxpr_equation, operands: Sequence[Array]
) -> list[DependentArray]:
  """Computes outputs and dependency-path lengths when elements are moved, copied or indexed.

  The operation is evaluated on the numbers of the elements, which then select the path lengths.
  """
  name, order = jaxpr_equation.primitive.name, list(range(len(operands)))
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
    values.append(_to_numpy_array(x).ravel())
    path_lengths.append(_dependency_path_lengths_of_array(x, positions).reshape(positions, -1))
  flat_lengths, flat_values = np.concatenate(path_lengths, 1), np.concatenate(values)
  outputs = evaluate_jaxpr_equation(jaxpr_equation, numbered)
  if any((numbers < 0).any() or (numbers >= total).any() for numbers in outputs):
    raise ValueError(f'a {name} with indices outside of its operand is not supported')
  return [DependentArray(flat_lengths[:, numbers], flat_values[numbers]) for numbers in outputs]


def convert_to_numpy_if_constant(x: Array) -> Array:
  """Returns a plain NumPy array if no element depends on the input, else the unchanged argument."""
  return x.value if isinstance(x, DependentArray) and x.is_constant.all() else x


def stack_arrays(arrays: Sequence[Array]) -> Array:
  """Stacks NumPy arrays, or arrays that store path lengths, along a new first axis."""
  values = np.stack(list(map(_to_numpy_array, arrays)))
  positions = next((len(x.path_lengths) for x in arrays if isinstance(x, DependentArray)), None)
  if positions is None:
    return values
  path_lengths = np.stack([_dependency_path_lengths_of_array(x, positions) for x in arrays], 1)
  return DependentArray(path_lengths, values)
