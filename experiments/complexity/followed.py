"""Arrays of which some elements depend on an input, and what equations make of them.

An element carries, for every position of the input, the fewest operations on a way from there. What
an operation makes is at the minimum over all that goes into it, plus one; moving data is free. What
depends on no position is a number that is known, and what it cuts off is cut: what is multiplied by
a known 0, what is not chosen, what stands beside a number so large that it swallows it.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from experiments.complexity.evaluate import SWALLOWS, evaluate
from experiments.lab.measure.primitives import FREE, UnknownPrimitive, kind_of

NONE = np.float32(np.inf)


class Followed:
  """An array of which some elements depend on the input; of the others the value is known."""

  def __init__(self, distance: np.ndarray, value: np.ndarray):
    """Distances [positions, ...] in float32; numbers [...] where all of them are infinite."""
    self.distance, self.value, self.shape = distance, value, value.shape

  @functools.cached_property
  def fixed(self) -> np.ndarray:
    """Which elements depend on no position [...]."""
    return np.isinf(self.distance).all(0)

  def at(self, index: int) -> 'Followed':
    """An entry of the first axis."""
    return Followed(self.distance[:, index], self.value[index])


Array = np.ndarray | Followed


class Known(NamedTuple):
  """An array, and which of its elements are known."""

  value: np.ndarray
  fixed: np.ndarray

  @property
  def zero(self) -> np.ndarray:
    """Where it is known to be 0."""
    return self.fixed & (self.value == 0)


def follow(equation, operands: Sequence[Array]) -> list[Followed]:
  """What an equation makes where some of its operands depend on the input."""
  kind, name = kind_of(equation), equation.primitive.name
  if kind == 'movement':
    return _moved(equation, operands)
  if name in ('optimization_barrier', 'device_put'):
    return list(operands)
  rule = RULES.get(name) or RULES.get(kind)
  if rule is None:
    raise UnknownPrimitive(f'nobody has said how the primitive {name!r} passes dependence on')
  aval = equation.outvars[0].aval
  distance = rule(equation, *operands) + (kind not in FREE)
  distance = np.broadcast_to(distance, (len(distance), *aval.shape))
  if name in CUTS:
    known = CUTS[name](*(Known(_value(x), _fixed(x)) for x in operands))
    if known.any():
      distance = np.where(known, NONE, distance)
  made = Followed(distance, np.ones(aval.shape, aval.dtype))
  if made.fixed.any():
    with np.errstate(all='ignore'):
      (values,) = evaluate(equation, list(map(_value, operands)))
    made.value = np.where(made.fixed, values, made.value)
  return [made]


def _value(x: Array) -> np.ndarray:
  return x.value if isinstance(x, Followed) else x


def _fixed(x: Array) -> np.ndarray:
  return x.fixed if isinstance(x, Followed) else np.ones(np.shape(x), bool)


def _swallowed(x: Known, y: Known) -> np.ndarray:
  """Where a sum is one of its terms, since the other is nothing beside it."""
  large, also = (one.fixed & (np.abs(one.value) >= SWALLOWS) for one in (x, y))
  return large | also


def _true(x: Known) -> np.ndarray:
  return x.fixed & (x.value != 0)


CUTS = {  # where a result is known, though not all that goes into it is
  'mul': lambda x, y: x.zero | y.zero,
  'div': lambda x, y: x.zero & np.ones(y.value.shape, bool),
  'and': lambda x, y: x.zero | y.zero,
  'or': lambda x, y: _true(x) | _true(y),
  'add': _swallowed,
  'sub': _swallowed,
}


def _elementwise(equation, *operands: Array) -> np.ndarray:
  """The nearest operand; one that is a scalar goes with every element."""
  rank = len(equation.outvars[0].aval.shape)
  nearest = [x.distance for x in operands if isinstance(x, Followed)]
  nearest = [d.reshape(d.shape + (1,) * (rank + 1 - d.ndim)) for d in nearest]
  return functools.reduce(np.minimum, nearest)


def _chosen(equation, which: Array, *cases: Array) -> np.ndarray:
  """The case that is chosen, where that is known; else what chooses and all the cases."""
  nearest = _elementwise(equation, which, *cases)
  known, positions = _fixed(which), len(nearest)
  if not known.any():
    return nearest
  ways = [_distances(one, positions) for one in cases]
  # Choosing what is known to be chosen is no operation: the one that `follow` adds is taken back.
  chosen = np.choose(_value(which).astype(int), ways, mode='clip') - 1
  return np.where(known, chosen, nearest)


def _reduction(equation, x: Followed) -> np.ndarray:
  return x.distance.min(tuple(1 + axis for axis in equation.params['axes']))


def _cumulative(equation, x: Followed) -> np.ndarray:
  axis, backwards = 1 + equation.params['axis'], equation.params['reverse']
  turned = np.flip(x.distance, axis) if backwards else x.distance
  nearest = np.minimum.accumulate(turned, axis)
  return np.flip(nearest, axis) if backwards else nearest


def _transform(equation, x: Followed) -> np.ndarray:
  axes = tuple(range(-len(equation.params['fft_lengths']), 0))
  return x.distance.min(axes, keepdims=True)


def _scattered(equation, x: Array, places: Array, added: Array) -> np.ndarray:
  """The nearest of an element and of all that is added to it, at places that are known."""
  if isinstance(places, Followed):
    raise ValueError('a scatter-add to where the input says cannot be followed')
  positions = next(len(one.distance) for one in (x, added) if isinstance(one, Followed))
  numbers = {name: equation.params[name] for name in (
    'dimension_numbers', 'indices_are_sorted', 'unique_indices', 'mode')}

  def nearest(near, new):
    return np.asarray(jax.lax.scatter_min(near, places, new, **numbers))

  hit = nearest(np.ones(x.shape, np.float32), np.zeros(added.shape, np.float32)) == 0
  ways = zip(_distances(x, positions), _distances(added, positions), strict=True)
  # What nothing is added to goes through no operation: the one that `follow` adds is taken back.
  return np.stack([nearest(*way) for way in ways]) - ~hit


def _distances(x: Array, positions: int) -> np.ndarray:
  """Of an array from so many positions, also if it depends on none."""
  return x.distance if isinstance(x, Followed) else np.full((positions, *x.shape), NONE)


def _product(equation, x: Array, y: Array) -> np.ndarray:
  """The nearest element that goes in; one that meets a 0 does not."""
  contracted, shared = equation.params['dimension_numbers']
  sides = list(zip((x, y), contracted, shared, strict=True))
  ways = []
  for (one, *own), (other, *others) in (sides, sides[::-1]):
    if isinstance(one, Followed):
      hidden = Known(_value(other), _fixed(other)).zero
      way = _nearest(_matrix(one.distance, *own, lead=1), _matrix(hidden, *others))
      ways.append(way if one is x else way.swapaxes(2, 3))
  nearest = functools.reduce(np.minimum, ways)
  return nearest.reshape(len(nearest), *equation.outvars[0].aval.shape)


def _matrix(x: np.ndarray, contracted, shared, lead: int = 0) -> np.ndarray:
  """[..., shared, the rest, contracted], each as one axis, behind so many leading ones."""
  rest = [a for a in range(x.ndim - lead) if a not in (*contracted, *shared)]
  groups = [[lead + axis for axis in group] for group in (shared, rest, contracted)]
  sizes = [math.prod(x.shape[axis] for axis in group) for group in groups]
  return x.transpose(*range(lead), *itertools.chain(*groups)).reshape(*x.shape[:lead], *sizes)


def _nearest(distance: np.ndarray, hidden: np.ndarray) -> np.ndarray:
  """The nearest in each row [P, b, m, K] of what each column [b, n, K] does not hide."""
  if not hidden.any():
    nearest = distance.min(3, initial=NONE)[..., None]
    return np.broadcast_to(nearest, (*nearest.shape[:3], hidden.shape[1]))
  nearest = np.full((*distance.shape[:3], hidden.shape[1]), NONE)
  walls = np.where(hidden, NONE, np.float32(0))  # [b, n, K]
  for k in range(distance.shape[3]):
    np.minimum(nearest, distance[..., k, None] + walls[:, None, :, k], out=nearest)
  return nearest


def _convolution(equation, x: Array, kernel: Array) -> np.ndarray:
  """The nearest element under the kernel, which is known."""
  params, places = equation.params, equation.params['dimension_numbers']
  if isinstance(kernel, Followed) or params['batch_group_count'] > 1:
    raise ValueError('a convolution can be followed if its kernel does not depend on the input')
  d = x.distance.transpose(0, *(1 + axis for axis in places.lhs_spec))  # [P, B, D, times]
  for axis, (ends, stretch) in enumerate(zip(params['padding'], params['lhs_dilation'],
                                             strict=True)):
    d = _stretched(d, 3 + axis, ends, stretch)
  taps = [kernel.shape[axis] for axis in places.rhs_spec[2:]]
  made = equation.outvars[0].aval.shape
  times = [made[axis] for axis in places.out_spec[2:]]
  nearest = NONE
  for tap in itertools.product(*map(range, taps)):
    window = [
      slice(first * dilation, first * dilation + stride * (length - 1) + 1, stride)
      for first, dilation, stride, length in zip(
        tap, params['rhs_dilation'], params['window_strides'], times, strict=True)
    ]
    nearest = np.minimum(nearest, d[:, :, :, *window])
  groups = params['feature_group_count']
  nearest = nearest.reshape(*nearest.shape[:2], groups, -1, *nearest.shape[3:]).min(3)
  nearest = np.repeat(nearest, made[places.out_spec[1]] // groups, 2)  # [P, B, F, times]
  return nearest.transpose(0, *(1 + places.out_spec.index(axis) for axis in range(len(made))))


def _stretched(d: np.ndarray, axis: int, ends: tuple[int, int], stretch: int) -> np.ndarray:
  """Distances with nothing between the entries of an axis, and at its ends (or cut there)."""
  length, shape = d.shape[axis], list(d.shape)
  shape[axis] = stretch * (length - 1) + 1 + max(ends[0], 0) + max(ends[1], 0)
  wide = np.full(shape, NONE)
  inside = (slice(None),) * axis
  first = max(ends[0], 0)
  wide[(*inside, slice(first, first + stretch * (length - 1) + 1, stretch))] = d
  return wide[(*inside, slice(max(-ends[0], 0), shape[axis] - max(-ends[1], 0)))]


RULES = {  # of kinds, and of those primitives that are not as their kind
  'elementwise': _elementwise,
  'recast': _elementwise,
  'select_n': _chosen,
  'reduction': _reduction,
  'cumulative': _cumulative,
  'transform': _transform,
  'scatter': _scattered,
  'dot_general': _product,
  'conv_general_dilated': _convolution,
}

PLACES = {  # which operands say where, of those that move others
  'dynamic_slice': slice(1, None),
  'dynamic_update_slice': slice(2, None),
  'gather': slice(1, 2),
  'scatter': slice(1, 2),
}


def _moved(equation, operands: Sequence[Array]) -> list[Followed]:
  """The same elements elsewhere: where, is found by moving their numbers."""
  names = list(range(len(operands)))
  places = names[PLACES.get(equation.primitive.name, slice(0, 0))]
  if any(isinstance(operands[i], Followed) for i in places):
    name = equation.primitive.name
    raise ValueError(f'a {name} to where the input says cannot be followed')
  data = [i for i in names if i not in places]
  positions = next(len(x.distance) for x in operands if isinstance(x, Followed))
  numbered, total = list(operands), 0
  distances, values = [], []
  for i in data:
    x = operands[i]
    size = math.prod(x.shape)
    numbered[i] = np.arange(total, total + size, dtype=np.int32).reshape(x.shape)
    total += size
    values.append(_value(x).ravel())
    distances.append(_distances(x, positions).reshape(positions, -1))
  distance, value = np.concatenate(distances, 1), np.concatenate(values)
  made = evaluate(equation, numbered)
  if any((numbers < 0).any() or (numbers >= total).any() for numbers in made):
    raise ValueError(f'a {equation.primitive.name} from outside of its operand cannot be followed')
  return [Followed(distance[:, numbers], value[numbers]) for numbers in made]


def settled(x: Array) -> Array:
  """The array itself; a known one if none of its elements depends on the input."""
  return x.value if isinstance(x, Followed) and x.fixed.all() else x


def stack(parts: Sequence[Array]) -> Array:
  """Arrays along a new first axis."""
  values = np.stack(list(map(_value, parts)))
  positions = next((len(x.distance) for x in parts if isinstance(x, Followed)), None)
  if positions is None:
    return values
  return Followed(np.stack([_distances(x, positions) for x in parts], 1), values)
