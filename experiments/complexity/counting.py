"""One cell of counts: a layer's programs at several sizes, traced and never run.

  forward    the layer reads n tokens at once
  train      the same with the gradients for its parameters and for what it read
  generate   it reads one token, with a state that has room for n

A layer stands alone, without shell, embedding and head, for one sequence. Its programs are made for
a platform that is assumed, so that the counts are the same on every machine: layers have a form
with short chains where there are many processors ('gpu'), and one with little work ('cpu').

How far two positions are apart is asked of as many layers, one on the other, as it takes for the
first token to reach the last; a stack of convolutions gets as many levels instead.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments.complexity import depth, paths
from experiments.lab.cells import spec
from experiments.lab.cells.cell import Cell, Outcome
from experiments.lab.errors import BadInput
from experiments.lab.measure import work
from transformer import platform
from transformer.layer import SequenceLayer
from transformer.stack import Stack

PHASES = ('forward', 'train', 'generate')
OPTIONS = ('window', 'kernel_size')  # a layer's own size, r or k, where it bounds what is seen
ALL_PAIRS = 64
NARROW = 8  # the width at which ways are followed: they are the same at any


def asked(layer: str, platform: str, lengths, widths, path_lengths) -> dict:
  """What identifies a cell."""
  return {
    'layer': layer, 'platform': platform, 'lengths': list(lengths), 'widths': list(widths),
    'path_lengths': list(path_lengths),
  }


def check(run: dict) -> None:
  """A BadInput for a width that does not suit the layer."""
  layer = spec.parse(run['layer'], 'layer')
  for width in run['widths']:
    if width % layer.width_multiple:
      raise BadInput(f'{run["layer"]} cannot be counted at width {width}: '
                     f'it takes multiples of {layer.width_multiple}')


def count_cell(cell: Cell, report) -> Outcome:
  """Counts a cell, for `grid.launch`; a BadInput for a layer that cannot be counted."""
  try:
    return _count(cell.run, report)
  except ValueError as error:
    raise BadInput(f'{cell.run["layer"]} cannot be counted: {error}') from None


def _count(run: dict, report) -> Outcome:
  layer = spec.parse(run['layer'], 'layer')
  # A law in the layer's own size is looked for where one in the width is.
  ones = sized(layer) if len(run['widths']) > 1 else (layer,)
  with platform.assumed(run['platform']):
    counts = []
    sizes = list(grid(run['lengths'], run['widths']))
    for i, (length, width) in enumerate(sizes):
      report(i / len(sizes) / 2, f'{length} tokens at width {width}')
      counts += [counted(one, phase, length, width) for one in ones for phase in PHASES]
    ways = []
    for i, length in enumerate(run['path_lengths']):
      report((1 + i / len(run['path_lengths'])) / 2, f'ways through {length} tokens')
      ways.append(farthest(layer, length))
  option = option_of(layer)
  return Outcome({
    'option': option and {'name': option, 'value': getattr(layer, option)},
    'receptive_field': layer.receptive_field,
    'counts': counts,
    'paths': ways,
  })


def grid(lengths, widths):
  """All lengths at the first width, and all widths at all but the first length."""
  yield from itertools.product(lengths, widths[:1])
  yield from itertools.product(lengths[1:], widths[1:])


def option_of(layer: SequenceLayer) -> str | None:
  """The name of the layer's own size; None: nothing bounds what it sees."""
  if layer.receptive_field is None:
    return None
  return next((name for name in OPTIONS if getattr(layer, name, 0)), None)


def sized(layer: SequenceLayer) -> tuple[SequenceLayer, ...]:
  """The layer, and with twice its own size, if it has one."""
  option = option_of(layer)
  if option is None:
    return (layer,)
  return layer, layer.clone(**{option: 2 * getattr(layer, option)})


def counted(layer: SequenceLayer, phase: str, length: int, width: int) -> dict:
  """Everything that is counted of one program."""
  program = jax.make_jaxpr(function(layer, phase))(*arguments(layer, phase, length, width)).jaxpr
  done, option = work.of_jaxpr(program), option_of(layer)
  state = jax.eval_shape(functools.partial(layer.initial_state, 1, length, width))
  return {
    'phase': phase, 'length': length, 'width': width,
    'option': option and getattr(layer, option),
    **done._asdict(),
    'depth': depth.of_jaxpr(program),
    'logarithmic_depth': depth.of_jaxpr(program, logarithmic=True),
    'state_bytes': sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)),
  }


def function(layer: SequenceLayer, phase: str):
  """What is traced."""
  def read(parameters, x, state=None):
    return layer.apply(parameters, x, state)

  def judged(parameters, x, weight):
    return jnp.sum(weight * read(parameters, x)[0])

  return jax.grad(judged, (0, 1)) if phase == 'train' else read


def arguments(layer: SequenceLayer, phase: str, length: int, width: int) -> list:
  """The shapes of its arguments."""
  x = jax.ShapeDtypeStruct((1, 1 if phase == 'generate' else length, width), jnp.float32)
  parameters = parameters_of(layer, width)
  match phase:
    case 'train':
      return [parameters, x, x]
    case 'generate':
      return [parameters, x, jax.eval_shape(lambda: layer.initial_state(1, length, width))]
  return [parameters, x]


@functools.lru_cache(maxsize=16)
def parameters_of(layer: SequenceLayer, width: int):
  """The shapes of its parameters, which are the same at any length."""
  x = jax.ShapeDtypeStruct((1, 1, width), jnp.float32)
  return jax.eval_shape(layer.init, jax.random.key(0), x)


def farthest(layer: SequenceLayer, length: int) -> dict:
  """The longest of the shortest ways between two of so many tokens, and through what.

  All pairs are asked up to ALL_PAIRS tokens; beyond, those that begin with the first token, which
  has the longest way to go (tested).
  """
  width = math.lcm(layer.width_multiple, NARROW)
  reaching, count = covering(layer, length)
  x = jax.ShapeDtypeStruct((1, length, width), jnp.float32)
  parameters = generic(reaching, width)
  sources = None if length <= ALL_PAIRS else [0]
  ways = paths.paths(lambda x: reaching.apply(parameters, x)[0], x, sources)
  forward = ways[np.triu_indices(len(ways), m=length)]
  return {'length': length, 'layers': count, 'operations': _number(forward.max())}


def covering(layer: SequenceLayer, length: int) -> tuple[SequenceLayer, int]:
  """As many layers, or levels, as the first of so many tokens needs to reach the last."""
  field = layer.receptive_field
  if field is None:
    return layer, 1
  if hasattr(layer, 'levels'):
    found = next(layer.clone(levels=n) for n in itertools.count(1)
                 if layer.clone(levels=n).receptive_field >= length)
    return found, found.levels
  count = max(1, math.ceil((length - 1) / (field - 1)))
  return Stack((layer,), count), count


def generic(layer: SequenceLayer, width: int):
  """Parameters of which none is 0, nor anything else in particular."""
  random = np.random.default_rng(0)

  def draw(like):
    return (0.3 * random.standard_normal(like.shape)).astype(like.dtype)

  return jax.tree.map(draw, parameters_of(layer, width))


def _number(count: np.floating) -> float | None:
  """For JSON, which has no infinity: None where there is no way."""
  return int(count) if np.isfinite(count) else None
