"""Evaluates one equation of a jaxpr on arrays: by NumPy if it has the operation, else by JAX.

A program that is run once, equation by equation, would spend its time on compiling each of them.
What NumPy lacks, JAX computes.

A product of many factors below 1 underflows to 0, and a 0 is what nothing passes. Who asks what
depends on what does not mean that: what only underflows stays as small as a number can be.
"""

from collections.abc import Sequence

import numpy as np

_SAME = {
  'add': np.add, 'add_any': np.add, 'sub': np.subtract, 'mul': np.multiply, 'neg': np.negative,
  'max': np.maximum, 'min': np.minimum, 'abs': np.abs, 'sign': np.sign, 'square': np.square,
  'exp': np.exp, 'log': np.log, 'sqrt': np.sqrt, 'tanh': np.tanh, 'sin': np.sin, 'cos': np.cos,
  'eq': np.equal, 'ne': np.not_equal, 'lt': np.less, 'le': np.less_equal, 'gt': np.greater,
  'ge': np.greater_equal, 'and': np.bitwise_and, 'or': np.bitwise_or, 'not': np.invert,
  'real': np.real, 'imag': np.imag, 'copy': np.positive, 'stop_gradient': np.positive,
}

_SHRINK = ('mul', 'div', 'exp', 'exp2', 'integer_pow', 'pow', 'square')
SWALLOWS = 1e30  # beside a float32 as large as this others are nothing; its exponential is a true 0


def evaluate(equation, values: Sequence[np.ndarray]) -> list[np.ndarray]:
  """The outputs of an equation, as NumPy arrays."""
  made = _computed(equation, values)
  if equation.primitive.name not in _SHRINK or made[0].dtype.kind not in 'fc' or made[0].all():
    return made
  true = np.zeros(made[0].shape, bool)
  for value in values:
    true |= (value == 0) & (equation.primitive.name in ('mul', 'div', 'integer_pow', 'square'))
    true |= np.abs(value) >= SWALLOWS
  small = np.finfo(made[0].dtype).tiny
  return [np.where((made[0] == 0) & ~true, small, made[0]).astype(made[0].dtype)]


def _computed(equation, values: Sequence[np.ndarray]) -> list[np.ndarray]:
  primitive, params = equation.primitive, equation.params
  if primitive.name in _MOVES:
    return _MOVES[primitive.name](params, *values)
  aval = equation.outvars[0].aval
  if primitive.name in _SAME and not any(v.dtype == bool for v in values):
    with np.errstate(all='ignore'):
      return [np.asarray(_SAME[primitive.name](*values)).astype(aval.dtype)]
  made = primitive.bind(*values, **params)
  return list(map(np.asarray, made if primitive.multiple_results else [made]))


def _one(function):
  return lambda params, *values: [function(params, *values)]


def _slice(params, x):
  strides = params['strides'] or (1,) * x.ndim
  bounds = zip(params['start_indices'], params['limit_indices'], strides, strict=True)
  return x[tuple(slice(*bound) for bound in bounds)]


def _broadcast(params, x, *dynamic):
  del dynamic
  shape, axes = params['shape'], params['broadcast_dimensions']
  lined_up = [1] * len(shape)
  for axis, length in zip(axes, x.shape, strict=True):
    lined_up[axis] = length
  return np.broadcast_to(x.reshape(lined_up), shape)


def _pad(params, x, filling):
  """Elements between and around the others; negative numbers of them cut at the ends."""
  shape, inside, cut = [], [], []
  for length, (low, high, between) in zip(x.shape, params['padding_config'], strict=True):
    spread = max(0, length + (length - 1) * between)
    shape.append(spread + max(low, 0) + max(high, 0))
    inside.append(slice(max(low, 0), max(low, 0) + spread, between + 1))
    cut.append(slice(max(-low, 0), shape[-1] - max(-high, 0)))
  wide = np.full(shape, filling, x.dtype)
  wide[tuple(inside)] = x
  return wide[tuple(cut)]


def _split(params, x):
  return np.split(x, np.cumsum(params['sizes'])[:-1], params['axis'])


def _starts(operand, sizes, starts):
  """Where a dynamic slice begins: moved so that it fits, as XLA does."""
  return [min(max(int(start), 0), length - size)
          for start, length, size in zip(starts, operand.shape, sizes, strict=True)]


def _dynamic_slice(params, x, *starts):
  sizes = params['slice_sizes']
  return x[tuple(slice(s, s + n) for s, n in zip(_starts(x, sizes, starts), sizes, strict=True))]


def _dynamic_update(params, x, new, *starts):
  del params
  made = x.copy()
  places = zip(_starts(x, new.shape, starts), new.shape, strict=True)
  made[tuple(slice(s, s + n) for s, n in places)] = new
  return made


_MOVES = {
  'reshape': _one(lambda params, x, *_: x.reshape(params['new_sizes'])),
  'transpose': _one(lambda params, x: x.transpose(params['permutation'])),
  'squeeze': _one(lambda params, x: x.squeeze(tuple(params['dimensions']))),
  'expand_dims': _one(lambda params, x: np.expand_dims(x, tuple(params['dimensions']))),
  'rev': _one(lambda params, x: np.flip(x, tuple(params['dimensions']))),
  'concatenate': _one(lambda params, *parts: np.concatenate(parts, params['dimension'])),
  'slice': _one(_slice),
  'broadcast_in_dim': _one(_broadcast),
  'pad': _one(_pad),
  'split': _split,
  'dynamic_slice': _one(_dynamic_slice),
  'dynamic_update_slice': _one(_dynamic_update),
}
