"""Evaluation of one operation of a jaxpr with NumPy, or with JAX if NumPy lacks the operation.

NumPy is used because JAX would compile each operation separately, which takes longer than a single
evaluation.

A product of many factors below 1 underflows to 0, and a factor of 0 removes a dependence. An
analysis of dependence must distinguish an exact 0 from an underflow. Results that are 0 only by
underflow are therefore replaced by the smallest normal number.
"""

from collections.abc import Sequence

import numpy as np

_ELEMENTWISE = {
  'add': np.add, 'add_any': np.add, 'sub': np.subtract, 'mul': np.multiply, 'neg': np.negative,
  'max': np.maximum, 'min': np.minimum, 'abs': np.abs, 'sign': np.sign, 'square': np.square,
  'exp': np.exp, 'log': np.log, 'sqrt': np.sqrt, 'tanh': np.tanh, 'sin': np.sin, 'cos': np.cos,
  'eq': np.equal, 'ne': np.not_equal, 'lt': np.less, 'le': np.less_equal, 'gt': np.greater,
  'ge': np.greater_equal, 'and': np.bitwise_and, 'or': np.bitwise_or, 'not': np.invert,
  'real': np.real, 'imag': np.imag, 'copy': np.positive, 'stop_gradient': np.positive,
}

_MAY_UNDERFLOW = ('mul', 'div', 'exp', 'exp2', 'integer_pow', 'pow', 'square')
# In float32, the sum of 1e30 and a moderate number is 1e30, and exp(-1e30) is exactly 0.
ABSORBING = 1e30


def evaluate_jaxpr_equation(jaxpr_equation, values: Sequence[np.ndarray]) -> list[np.ndarray]:
  """Evaluates a jaxpr operation, and substitutes tiny numbers for results that underflow to 0."""
  outputs = _compute_outputs(jaxpr_equation, values)
  first = outputs[0]
  name = jaxpr_equation.primitive.name
  if name not in _MAY_UNDERFLOW or first.dtype.kind not in 'fc' or first.all():
    return outputs
  exact_zero = np.zeros(first.shape, bool)
  for value in values:
    exact_zero |= (value == 0) & (name in ('mul', 'div', 'integer_pow', 'square'))
    exact_zero |= np.abs(value) >= ABSORBING
  smallest = np.finfo(first.dtype).tiny
  return [np.where((first == 0) & ~exact_zero, smallest, first).astype(first.dtype)]


def _compute_outputs(jaxpr_equation, values: Sequence[np.ndarray]) -> list[np.ndarray]:
  primitive, params = jaxpr_equation.primitive, jaxpr_equation.params
  if primitive.name in _MOVEMENTS:
    return _MOVEMENTS[primitive.name](params, *values)
  aval = jaxpr_equation.outvars[0].aval
  if primitive.name in _ELEMENTWISE and not any(v.dtype == bool for v in values):
    with np.errstate(all='ignore'):
      return [np.asarray(_ELEMENTWISE[primitive.name](*values)).astype(aval.dtype)]
  outputs = primitive.bind(*values, **params)
  return list(map(np.asarray, outputs if primitive.multiple_results else [outputs]))


def _wrap_output_in_list(function):
  """Wraps a function so that it returns a list with its result as the only element."""
  return lambda params, *values: [function(params, *values)]


def _evaluate_slice_primitive(params, x):
  strides = params['strides'] or (1,) * x.ndim
  bounds = zip(params['start_indices'], params['limit_indices'], strides, strict=True)
  return x[tuple(slice(*bound) for bound in bounds)]


def _evaluate_broadcast_in_dim_primitive(params, x, *dynamic):
  del dynamic
  shape, axes = params['shape'], params['broadcast_dimensions']
  aligned_shape = [1] * len(shape)
  for axis, length in zip(axes, x.shape, strict=True):
    aligned_shape[axis] = length
  return np.broadcast_to(x.reshape(aligned_shape), shape)


def _evaluate_pad_primitive(params, x, padding_value):
  """Pads between and around the elements, or removes end elements if padding is negative."""
  shape, inside, retained = [], [], []
  for length, (low, high, between) in zip(x.shape, params['padding_config'], strict=True):
    dilated_length = max(0, length + (length - 1) * between)
    shape.append(dilated_length + max(low, 0) + max(high, 0))
    inside.append(slice(max(low, 0), max(low, 0) + dilated_length, between + 1))
    retained.append(slice(max(-low, 0), shape[-1] - max(-high, 0)))
  padded = np.full(shape, padding_value, x.dtype)
  padded[tuple(inside)] = x
  return padded[tuple(retained)]


def _evaluate_split_primitive(params, x):
  return np.split(x, np.cumsum(params['sizes'])[:-1], params['axis'])


def _clamp_start_indices(operand, sizes, starts):
  """Clamps the start indices of a dynamic slice, as XLA does, so that the slice fits."""
  return [min(max(int(start), 0), length - size)
          for start, length, size in zip(starts, operand.shape, sizes, strict=True)]


def _evaluate_dynamic_slice_primitive(params, x, *starts):
  sizes = params['slice_sizes']
  bounds = zip(_clamp_start_indices(x, sizes, starts), sizes, strict=True)
  return x[tuple(slice(start, start + size) for start, size in bounds)]


def _evaluate_dynamic_update_slice_primitive(params, x, update, *starts):
  del params
  result = x.copy()
  bounds = zip(_clamp_start_indices(x, update.shape, starts), update.shape, strict=True)
  result[tuple(slice(start, start + size) for start, size in bounds)] = update
  return result


_MOVEMENTS = {
  'reshape': _wrap_output_in_list(lambda params, x, *_: x.reshape(params['new_sizes'])),
  'transpose': _wrap_output_in_list(lambda params, x: x.transpose(params['permutation'])),
  'squeeze': _wrap_output_in_list(lambda params, x: x.squeeze(tuple(params['dimensions']))),
  'expand_dims': _wrap_output_in_list(
    lambda params, x: np.expand_dims(x, tuple(params['dimensions']))),
  'rev': _wrap_output_in_list(lambda params, x: np.flip(x, tuple(params['dimensions']))),
  'concatenate': _wrap_output_in_list(
    lambda params, *parts: np.concatenate(parts, params['dimension'])),
  'slice': _wrap_output_in_list(_evaluate_slice_primitive),
  'broadcast_in_dim': _wrap_output_in_list(_evaluate_broadcast_in_dim_primitive),
  'pad': _wrap_output_in_list(_evaluate_pad_primitive),
  'split': _evaluate_split_primitive,
  'dynamic_slice': _wrap_output_in_list(_evaluate_dynamic_slice_primitive),
  'dynamic_update_slice': _wrap_output_in_list(_evaluate_dynamic_update_slice_primitive),
}
