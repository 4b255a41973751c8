"""Operation counts of a layer at several sizes, from its jaxprs and without running it.

  forward    the layer processes n tokens at once
  train      the same with the gradients for its parameters and its input
  generate   the layer processes one token, with a decoding state for at most n tokens

The counts exclude residual blocks, the embedding and the output head, and the batch is one
sequence. Programs are traced for an assumed platform, so that the counts are the same on every
machine. Many layers have one implementation with short chains of operations for many processors
('gpu') and one with fewer operations ('cpu').

For path lengths, the layer is stacked until the last token depends on the first one. A stack of
dilated convolutions gets more levels instead.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments.complexity import depth, path_length
from experiments.lab.cells import spec
from experiments.lab.cells.cell import Cell, Outcome
from experiments.lab.errors import BadInput
from experiments.lab.measure import work
from transformer import platform
from transformer.layer import SequenceLayer
from transformer.stack import Stack

PHASES = ('forward', 'train', 'generate')
RECEPTIVE_FIELD_OPTIONS = ('window', 'kernel_size')  # layer options that bound the receptive field
MAX_ALL_PAIRS = 64
PATH_WIDTH = 8  # path lengths do not depend on the width


def operation_count_settings(
  layer: str, platform: str, lengths, widths, path_lengths
) -> dict:
  """Settings of an experiment that counts the operations of a layer on one platform.

  Args:
    layer: the canonical spec of the layer.
    platform: 'gpu' or 'cpu', for which the layer chooses its implementation.
    lengths: the sequence lengths of the counts.
    widths: the widths of the counts; the first width is combined with all lengths.
    path_lengths: the sequence lengths at which path lengths are computed.

  Returns:
    The settings as JSON values.

  """
  return {
    'layer': layer, 'platform': platform, 'lengths': list(lengths), 'widths': list(widths),
    'path_lengths': list(path_lengths),
  }


def check_widths(run: dict) -> None:
  """Raises BadInput if the layer to be counted does not support one of the widths."""
  layer = spec.parse_spec(run['layer'], 'layer')
  for width in run['widths']:
    if width % layer.required_width_divisor:
      raise BadInput(f'{run["layer"]} cannot be counted at width {width}, which is not a multiple '
                     f'of {layer.required_width_divisor}')


def count_layer_operations_at_all_sizes(grid_cell: Cell, report_progress) -> Outcome:
  """Counts the operations of a layer at all sequence lengths and widths of a grid cell.

  Raises BadInput for a layer that cannot be counted.
  """
  try:
    return _count_operations_and_path_lengths(grid_cell.run, report_progress)
  except ValueError as error:
    raise BadInput(f'{grid_cell.run["layer"]} cannot be counted: {error}') from None


def _count_operations_and_path_lengths(run: dict, report_progress) -> Outcome:
  layer = spec.parse_spec(run['layer'], 'layer')
  # With a single model width, only the growth with the sequence length is fitted.
  variants = layer_variants_by_kernel_or_window_size(layer) if len(run['widths']) > 1 else (layer,)
  with platform.override_platform(run['platform']):
    counts = []
    sizes = list(pair_lengths_with_widths(run['lengths'], run['widths']))
    for i, (length, width) in enumerate(sizes):
      report_progress(i / len(sizes) / 2, f'{length} tokens at width {width}')
      counts += [count_layer_operations(variant, phase, length, width)
                 for variant in variants for phase in PHASES]
    paths = []
    for i, length in enumerate(run['path_lengths']):
      report_progress((1 + i / len(run['path_lengths'])) / 2, f'paths through {length} tokens')
      paths.append(maximum_path_length(layer, length))
  option = name_of_setting_that_limits_receptive_field(layer)
  return Outcome({
    'option': option and {'name': option, 'value': getattr(layer, option)},
    'receptive_field': layer.receptive_field,
    'counts': counts,
    'paths': paths,
  })


def pair_lengths_with_widths(lengths, widths):
  """Yields the pairs (sequence length, width) at which the operations of a layer are counted.

  The first width is combined with all lengths, and each other width with all but the first length.
  """
  yield from itertools.product(lengths, widths[:1])
  yield from itertools.product(lengths[1:], widths[1:])


def name_of_setting_that_limits_receptive_field(layer: SequenceLayer) -> str | None:
  """The name of the layer option that bounds the receptive field, such as 'window', or None."""
  if layer.receptive_field is None:
    return None
  return next((name for name in RECEPTIVE_FIELD_OPTIONS if getattr(layer, name, 0)), None)


def layer_variants_by_kernel_or_window_size(layer: SequenceLayer) -> tuple[SequenceLayer, ...]:
  """Returns the layer and, if it has a kernel size or window, a variant with twice this size."""
  option = name_of_setting_that_limits_receptive_field(layer)
  if option is None:
    return (layer,)
  return layer, layer.clone(**{option: 2 * getattr(layer, option)})


def count_layer_operations(layer: SequenceLayer, phase: str, length: int, width: int) -> dict:
  """Counts the operations of a layer in inference, training or generation, at the given sizes.

  Args:
    layer: the layer.
    phase: one of PHASES.
    length: the sequence length.
    width: the width of the layer's input.

  Returns:
    The phase and the sizes, the operations and bytes of memory traffic, the depth by both
    conventions, and the bytes of the decoding state.

  """
  arguments = argument_shapes_for_training_or_inference(layer, phase, length, width)
  program = jax.make_jaxpr(forward_or_gradient_function(layer, phase))(*arguments).jaxpr
  option = name_of_setting_that_limits_receptive_field(layer)
  state = jax.eval_shape(functools.partial(layer.initial_state, 1, length, width))
  return {
    'phase': phase, 'length': length, 'width': width,
    'option': option and getattr(layer, option),
    **work.count_operations_and_bytes_of_jaxpr(program)._asdict(),
    'depth': depth.longest_operation_chain_length_of_jaxpr(program),
    'logarithmic_depth': depth.longest_operation_chain_length_of_jaxpr(
      program, reductions_have_log_depth=True),
    'state_bytes': sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)),
  }


def forward_or_gradient_function(layer: SequenceLayer, phase: str):
  """Returns the gradient function of the layer for the phase 'train', else its forward function."""
  def apply_layer(parameters, x, state=None):
    return layer.apply(parameters, x, state)

  def weighted_output_sum(parameters, x, weights):
    return jnp.sum(weights * apply_layer(parameters, x)[0])

  return jax.grad(weighted_output_sum, (0, 1)) if phase == 'train' else apply_layer


def argument_shapes_for_training_or_inference(
  layer: SequenceLayer, phase: str, length: int, width: int
) -> list:
  """The shapes of the arguments with which the layer is traced in the given phase.

  Args:
    layer: the layer.
    phase: one of PHASES.
    length: the sequence length.
    width: the width of the layer's input.

  Returns:
    The shapes of the parameters, of the input [1, T, width], and of a weight or a state.

  """
  x = jax.ShapeDtypeStruct((1, 1 if phase == 'generate' else length, width), jnp.float32)
  parameters = parameter_shapes(layer, width)
  match phase:
    case 'train':
      return [parameters, x, x]
    case 'generate':
      return [parameters, x, jax.eval_shape(lambda: layer.initial_state(1, length, width))]
  return [parameters, x]


@functools.lru_cache(maxsize=16)
def parameter_shapes(layer: SequenceLayer, width: int):
  """The shapes of the layer's parameters, which do not depend on the sequence length."""
  x = jax.ShapeDtypeStruct((1, 1, width), jnp.float32)
  return jax.eval_shape(layer.init, jax.random.key(0), x)


def maximum_path_length(layer: SequenceLayer, length: int) -> dict:
  """The maximum path length of a layer over all pairs of tokens of a sequence.

  The path length of a pair is the number of operations on its shortest path. Up to MAX_ALL_PAIRS
  tokens, all pairs are computed. For longer sequences only paths from the first token are computed,
  which are the longest ones (tested).

  Args:
    layer: the layer, which is stacked until the last token depends on the first one.
    length: the sequence length.

  Returns:
    The sequence length, the number of layers and the number of operations on the path.

  """
  width = math.lcm(layer.required_width_divisor, PATH_WIDTH)
  stack, count = smallest_stack_with_receptive_field(layer, length)
  x = jax.ShapeDtypeStruct((1, length, width), jnp.float32)
  parameters = random_nonzero_parameters(stack, width)
  sources = None if length <= MAX_ALL_PAIRS else [0]
  paths = path_length.shortest_path_lengths(lambda x: stack.apply(parameters, x)[0], x, sources)
  forward = paths[np.triu_indices(len(paths), m=length)]
  operations = _count_or_none_if_infinite(forward.max())
  return {'length': length, 'layers': count, 'operations': operations}


def smallest_stack_with_receptive_field(
  layer: SequenceLayer, length: int
) -> tuple[SequenceLayer, int]:
  """Returns the smallest stack of layers whose receptive field covers a sequence, and its depth.

  The depth is the number of layers, or the number of levels of a dilated convolution.
  """
  field = layer.receptive_field
  if field is None:
    return layer, 1
  if hasattr(layer, 'levels'):
    with_levels = (layer.clone(levels=n) for n in itertools.count(1))
    stack = next(stack for stack in with_levels if stack.receptive_field >= length)
    return stack, stack.levels
  count = max(1, math.ceil((length - 1) / (field - 1)))
  return Stack((layer,), count), count


def random_nonzero_parameters(layer: SequenceLayer, width: int):
  """Random parameters of a layer, all nonzero because a factor of 0 would hide a dependence."""
  random = np.random.default_rng(0)

  def random_normal_array(shape):
    return (0.3 * random.standard_normal(shape.shape)).astype(shape.dtype)

  return jax.tree.map(random_normal_array, parameter_shapes(layer, width))


def _count_or_none_if_infinite(count: np.floating) -> int | None:
  """Converts a finite count to an integer and infinity to None, which JSON can represent."""
  return int(count) if np.isfinite(count) else None
