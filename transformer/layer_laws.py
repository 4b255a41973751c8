"""Checks of the laws in `transformer.layer`, which are properties that every layer must have.

  from transformer.layer_laws import verify_layer
  verify_layer(MyLayer())

For a layer that violates laws, `verify_layer` raises one error, which names each violated law, the
sizes, the observation, and the likely cause. `LAWS` maps the name of each law to its check.
"""

import functools
import itertools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from transformer.laws import expect, expect_close, expect_finite, select_laws, verify_laws
from transformer.layer import SequenceLayer

BATCH = 2
# This hint is part of the error messages of several checks.
STATE = (
  'what `__call__` returns as the state, and whether it starts from the state that it is given; '
  '`initial_state` has to describe the same tree'
)
MASK = (
  'how the mask [B, T] is used: set masked inputs to zero with `transformer.layer.apply_mask`, not '
  'by a product, before anything mixes tokens, and pass mask.T to a scan, so that padding keeps '
  'the state'
)
RANGE = (
  'exp, log, division and norms: subtract a maximum first, or use a stable form such as '
  'jax.nn.softplus or logsumexp, and give jnp.where safe inputs on both branches'
)
DTYPE = (
  'casts: compute in the dtype of the input, keep parameters, softmax, norms and sums over time '
  'in float32, and cast the result back'
)


class _LayerTestCase:
  """A layer with random parameters and inputs, for which required properties are checked."""

  def __init__(self, layer: SequenceLayer):
    self.layer = layer
    self.width = layer.required_width_divisor * (8 if layer.required_width_divisor < 8 else 2)
    self.length = max(10, (layer.receptive_field or 1) + 3)
    keys = jax.random.split(jax.random.key(0), 4)
    self.x = jax.random.normal(keys[0], (BATCH, self.length, self.width))
    self.noise = jax.random.normal(keys[1], self.x.shape)
    self.mask = np.array(jax.random.bernoulli(keys[2], 0.7, self.x.shape[:2]))
    self.mask[:, 3], self.mask[:, -3:] = True, False  # padding at the end of each row
    self.mask[0, 0] = False  # and before the first valid token of one row
    parameters = jax.jit(layer.init)(keys[3], self.x)
    self.parameters = jax.tree.map(
      lambda p: p + 0.1 * jax.random.normal(jax.random.fold_in(keys[3], p.size), p.shape),
      parameters)
    self.apply = jax.jit(self.layer.apply)
    self.evaluate = jax.jit(self._outputs_state_and_gradients)

  @property
  def size_description(self) -> str:
    """The batch size, length and width of the inputs as text, for error messages."""
    return f'B={BATCH}, T={self.length}, D={self.width}'

  def _outputs_state_and_gradients(self, parameters, x, mask):
    """Returns outputs, the final state, and gradients with respect to parameters and inputs."""
    def loss_with_outputs_and_state(parameters, x):
      y, state = self.layer.apply(parameters, x, mask=mask)
      real = (leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating))
      return scalar_loss(y, mask) + sum(scalar_loss(leaf, None) for leaf in real), (y, state)

    gradients, (y, state) = jax.grad(
      loss_with_outputs_and_state, (0, 1), has_aux=True)(parameters, x)
    return {'outputs': jnp.where(mask[..., None], y, 0), 'state': state, 'gradients': gradients}

  def initial_state(self, capacity=None, dtype=jnp.float32):
    return self.layer.initial_state(BATCH, capacity or self.length, self.width, dtype)

  def parallel_outputs(self, x=None, mask=None, parameters=None):
    """Returns the outputs [B, T, D] of one call of the layer with the complete sequence."""
    x = self.x if x is None else x
    return self.apply(self.parameters if parameters is None else parameters, x, mask=mask)[0]

  def chunked_outputs(self, boundaries, x, mask, parameters):
    """Returns the outputs [B, T, D] of successive calls of the layer with chunks of x."""
    state, outputs = self.initial_state(), []
    for start, stop in zip((0, *boundaries), (*boundaries, self.length), strict=True):
      chunk_mask = None if mask is None else mask[:, start:stop]
      y, state = self.layer.apply(parameters, x[:, start:stop], state, mask=chunk_mask)
      outputs.append(y)
    return jnp.concatenate(outputs, 1)

  def token_by_token_outputs(self, x, mask, parameters):
    """Returns the outputs [B, T, D] of successive calls of the layer with single tokens."""
    def process_token(state, inputs):
      y, state = self.layer.apply(parameters, inputs[0][:, None], state, mask=inputs[1])
      return state, y[:, 0]

    inputs = x.swapaxes(0, 1), None if mask is None else mask.T[..., None]
    return jax.lax.scan(process_token, self.initial_state(), inputs)[1].swapaxes(0, 1)


@functools.lru_cache
def layer_test_case(layer: SequenceLayer) -> _LayerTestCase:
  """Returns the test case of a layer, cached so that its functions are compiled only once."""
  return _LayerTestCase(layer)


def scalar_loss(y: jax.Array, mask: jax.Array | None) -> jax.Array:
  """Returns a weighted sum of sin(y) over the valid elements of y [B, T, ...], as a loss."""
  weight = jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
  y = y if mask is None else jnp.where(mask[..., None], y, 0)
  return jnp.sum(weight * jnp.sin(y))


def check_streaming_equals_parallel(case: _LayerTestCase) -> None:
  """Checks that processing in chunks changes neither the outputs nor the gradients."""
  for mask, description, compute_in_chunks in (
    (None, 'in three chunks', functools.partial(case.chunked_outputs, (1, 6))),
    (case.mask, 'token by token', case.token_by_token_outputs),
  ):
    def outputs_and_gradients(compute_outputs, mask=mask):
      def loss_and_outputs(parameters, x):
        y = compute_outputs(x, mask, parameters)
        return scalar_loss(y, mask), y if mask is None else jnp.where(mask[..., None], y, 0)

      gradient = jax.jit(jax.grad(loss_and_outputs, (0, 1), has_aux=True))
      return gradient(case.parameters, case.x)[::-1]

    (expected, expected_gradients), (y, gradients) = map(
      outputs_and_gradients, (case.parallel_outputs, compute_in_chunks))
    expect_close(y, expected, f'the outputs {description} differ from those of one call', STATE)
    expect_close(
      gradients, expected_gradients, f'the gradients {description} differ from those of one call',
      f'{STATE}; a stop_gradient or an integer cast on the state cuts its gradient', 1e-4,
    )


def check_causality(case: _LayerTestCase) -> None:
  """Checks that each token affects an output at its position or later, and no earlier output."""
  y = np.asarray(case.parallel_outputs())
  for t in range(case.length):
    changed = np.asarray(case.parallel_outputs(case.x.at[:, t].set(case.noise[:, t])))
    expect_close(
      changed[:, :t], y[:, :t], f'token {t} changes outputs before position {t}',
      'the causal mask, the padding of a convolution (on the left only), shifts with jnp.roll, '
      'and normalisation or softmax over the time axis', 0,
    )
    expect(
      (changed[:, t:] != y[:, t:]).any(), f'token {t} changes no output',
      'slices and masks that drop a token, and gates that are constant',
    )


def check_padding_changes_no_output(case: _LayerTestCase) -> None:
  """Checks that masked values, even NaN, change no valid output, no gradient and no later state.

  Padding changes no earlier output. It changes no state unless the layer sets
  `padding_occupies_positions`.
  """
  hidden = ~case.mask[..., None]
  expected = case.evaluate(case.parameters, case.x, case.mask)
  for values, description in ((jnp.nan, 'NaN'), (case.noise, 'other numbers')):
    actual = case.evaluate(case.parameters, jnp.where(hidden, values, case.x), case.mask)
    expect_finite(actual, f'results with {description} at masked positions', MASK)
    for part, tolerance in (('outputs', 0), ('state', 0), ('gradients', 1e-6)):
      expect_close(
        actual[part], expected[part], f'the {part} depend on the inputs at masked positions',
        MASK, tolerance,
      )
  masked_gradients = np.asarray(actual['gradients'][1])[~case.mask]
  expect(not masked_gradients.any(), 'the gradient with respect to masked inputs is not zero', MASK)
  if not case.layer.padding_occupies_positions:
    _, before = case.apply(case.parameters, case.x, case.initial_state(case.length + 3))
    no_tokens = jnp.full_like(case.x[:, :3], jnp.nan)
    _, after = case.apply(case.parameters, no_tokens, before, mask=np.zeros((BATCH, 3), bool))
    expect_close(
      after, before, 'three masked tokens change the state',
      f'{MASK}; or set `padding_occupies_positions` if padding is meant to increase the '
      'distance to earlier tokens, as in a convolution', 0,
    )
  valid = np.broadcast_to(np.arange(case.length) < case.length - 3, case.mask.shape)
  expect_close(
    case.parallel_outputs(mask=valid)[:, :-3], case.apply(case.parameters, case.x[:, :-3])[0],
    'padding at the end of a sequence changes its outputs', MASK,
  )


def check_state_shapes_and_dtypes(case: _LayerTestCase) -> None:
  """Checks that a call preserves the tree structure, shapes and dtypes of the state.

  Each array of the state has the batch as its first axis, or is a scalar that all sequences share.
  A call without a state is equal to a call with the initial state.
  """
  for dtype, length in itertools.product((jnp.float32, jnp.bfloat16), (1, 3)):
    before = case.initial_state(capacity=case.length + 5, dtype=dtype)
    x = case.x[:, :length].astype(dtype)
    _, after = jax.eval_shape(case.layer.apply, case.parameters, x, before)
    expect(
      jax.tree.structure(after) == jax.tree.structure(before),
      f'{length} tokens of {dtype.__name__} change the structure of the state', STATE,
    )
    for b, a in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
      expect(
        (b.shape, b.dtype) == (a.shape, a.dtype),
        f'{length} tokens of {dtype.__name__} turn a state of {b.dtype}{list(b.shape)} into '
        f'{a.dtype}{list(a.shape)}', f'{STATE}, with the requested dtype',
      )
  few, more = (
    jax.eval_shape(functools.partial(case.layer.initial_state, size, case.length, case.width))
    for size in (BATCH, BATCH + 1)
  )
  for a, b in zip(jax.tree.leaves(few), jax.tree.leaves(more), strict=True):
    shared, rows = ((), ()), ((BATCH, *a.shape[1:]), (BATCH + 1, *a.shape[1:]))
    expect(
      (a.shape, b.shape) in (shared, rows),
      f'a state array of shape {a.shape} does not have the batch as its first axis',
      '`initial_state`: beam search and padding reorder the rows of every array of the state',
    )
  expect_close(
    case.apply(case.parameters, case.x), case.apply(case.parameters, case.x, case.initial_state()),
    'calls without a state and with the initial state have different results', STATE,
  )


def check_gradients_compilation_and_bfloat16(case: _LayerTestCase) -> None:
  """Checks that gradients are finite and non-zero and that compilation changes no output.

  Each shape is traced once, and results in bfloat16 agree with float32.
  """
  gradient = jax.jit(
    jax.grad(lambda p: scalar_loss(case.parallel_outputs(parameters=p), None)))(case.parameters)
  for path, g in jax.tree_util.tree_leaves_with_path(gradient):
    name = jax.tree_util.keystr(path)
    expect(np.isfinite(g).all(), f'the gradient of {name} is not finite', RANGE)
    expect(
      np.abs(g).max() > 1e-7, f'the gradient of {name} is zero',
      'whether the parameter is used, and stop_gradient, rounding or argmax between parameter '
      'and output',
    )
  y = case.parallel_outputs()
  with jax.disable_jit():
    expect_close(
      case.layer.apply(case.parameters, case.x)[0], y, 'compilation changes the outputs',
      'Python branches on values or on tracers, and state kept outside of the function',
    )
  traces = []

  def apply_and_count_jax_traces(layer, parameters, x):
    traces.append(x.shape)
    return layer.apply(parameters, x)

  compiled = jax.jit(apply_and_count_jax_traces, static_argnums=0)
  compiled(case.layer.copy(), case.parameters, case.x)
  compiled(case.layer.copy(), case.parameters, case.noise)
  expect(
    len(traces) == 1, 'an equal layer is traced again for inputs of the same shape',
    'fields of the layer, which must be hashable and compare by value (no lists, no lambdas)',
  )
  low = case.parallel_outputs(case.x.astype(jnp.bfloat16))
  expect(low.dtype == jnp.bfloat16, f'a bfloat16 input gives a {low.dtype} output', DTYPE)
  expect_close(low, y, 'bfloat16 and float32 outputs differ', DTYPE, 2.0**-8 * 8)


def check_receptive_field(case: _LayerTestCase) -> None:
  """Checks that `receptive_field` is the number of input tokens that an output depends on."""
  gradient = jax.jit(lambda t: jax.grad(
    lambda x: jnp.sum(case.noise[:, t] * case.parallel_outputs(x)[:, t]))(case.x))
  hint = '`receptive_field`: 1 + sum of (kernel_size - 1) dilation over layers; None if unbounded'
  for t in range(case.length):
    inputs = np.flatnonzero((np.asarray(gradient(t)) != 0).any((0, 2)))
    expect(
      inputs.size and inputs.max() == t, f'output {t} depends on the inputs {inputs.tolist()}',
      'output t has to depend on token t and on no later token',
    )
    field, shown = case.layer.receptive_field or t + 1, t + 1 - inputs.min()
    expect(
      shown == field if field <= t + 1 else shown <= field,
      f'output {t} depends on {shown} tokens, but `receptive_field` is {field}', hint,
    )


def check_empty_and_single_token_inputs(case: _LayerTestCase) -> None:
  """Checks that sequences of 0 or 1 tokens and batches of 1 sequence are valid inputs."""
  empty, no_mask = case.x[:, :0], case.mask[:, :0]
  shapes = functools.partial(jax.tree.map, lambda leaf: (leaf.shape, leaf.dtype))
  hint = 'indices such as x[:, -1], reductions over time, and slices of a state, for T = 0 and 1'
  expect(
    shapes(jax.eval_shape(case.layer.init, jax.random.key(0), empty)) == shapes(case.parameters),
    'parameters initialised on a sequence of 0 tokens have different shapes', hint,
  )
  full_state = case.apply(case.parameters, case.x, case.initial_state(case.length + 1))[1]
  for before, mask in ((full_state, None), (full_state, no_mask), (None, no_mask)):
    y, after = case.apply(case.parameters, empty, before, mask=mask)
    expect(y.shape == empty.shape, f'the output for 0 tokens has the shape {y.shape}', hint)
    before = case.layer.initial_state(BATCH, 0, case.width) if before is None else before
    expect_close(after, before, 'a call with 0 tokens changes the state', hint, 0)
  gradient = jax.jit(jax.grad(lambda p, x: jnp.sum(case.layer.apply(p, x)[0]), (0, 1)))(
    case.parameters, empty)
  expect(
    not any(np.any(g) for g in jax.tree.leaves(gradient)),
    'the gradient of the outputs of 0 tokens is not zero', hint,
  )
  expect_close(
    case.parallel_outputs(case.x[:1]), case.parallel_outputs()[:1],
    'the outputs of a sequence depend on the rest of the batch', 'reductions over the batch axis')
  single = case.evaluate(case.parameters, case.x[:1, :1], np.ones((1, 1), bool))
  expect_finite(single, 'one token', hint)
  expect_close(
    single['outputs'], case.parallel_outputs()[:1, :1],
    'the output of a single token changes if more tokens follow', hint)


def check_finite_with_large_inputs(case: _LayerTestCase) -> None:
  """Checks that outputs, states and gradients are finite for inputs multiplied by 10,000."""
  expect_finite(case.evaluate(case.parameters, 1e4 * case.x, case.mask), 'inputs * 10,000', RANGE)


def check_finite_with_large_biases(case: _LayerTestCase) -> None:
  """Checks that outputs, states and gradients are finite for biases of +-50 and +-100.

  The inputs contain padding. The signs are equal, alternate between parameters, or are random.
  """
  x = jnp.where(case.mask[..., None], case.x, jnp.nan)
  draw = np.random.default_rng(0)
  signs = {
    'all positive': lambda k, shape: np.ones(shape),
    'all negative': lambda k, shape: -np.ones(shape),
    'alternating from positive': lambda k, shape: (-1.0) ** k * np.ones(shape),
    'alternating from negative': lambda k, shape: (-1.0) ** (k + 1) * np.ones(shape),
    'of random signs': lambda k, shape: draw.choice([-1.0, 1.0], shape),
  }

  def set_bias_to_signed_magnitude(magnitude, signs_of_bias, bias_indices, parameter_path, values):
    if not str(getattr(parameter_path[-1], 'key', '')).endswith('bias'):
      return values
    return jnp.array(magnitude * signs_of_bias(next(bias_indices), values.shape), values.dtype)

  for magnitude, (name, signs_of_bias) in itertools.product((50, 100), signs.items()):
    set_bias = functools.partial(
      set_bias_to_signed_magnitude, magnitude, signs_of_bias, itertools.count())
    parameters = jax.tree_util.tree_map_with_path(set_bias, case.parameters)
    expect_finite(case.evaluate(parameters, x, case.mask), f'biases of {magnitude}, {name}', RANGE)


def check_bfloat16_on_long_sequence(case: _LayerTestCase) -> None:
  """Checks that bfloat16 agrees with float32 at all positions of a sequence of 1024 tokens.

  In each span of 64 tokens the median error is compared with the root mean square of the outputs,
  since a norm of a nearly constant head, or a nearly one-hot softmax, enlarges a few errors.
  """
  x = jax.random.normal(jax.random.key(1), (1, 1024, case.width), jnp.bfloat16)
  y, low = (
    np.asarray(case.parallel_outputs(x.astype(dtype)), np.float32).reshape(16, -1)
    for dtype in (jnp.float32, jnp.bfloat16)
  )
  error = np.median(np.abs(low - y), 1) / np.sqrt(np.square(y).mean(1))
  expect(
    error.max() < 8 * 2.0**-8,
    f'over 1024 tokens the relative error of bfloat16 reaches {error.max():.3g} (span '
    f'{error.argmax() + 1} of 16)', f'{DTYPE}; a state that sums over time is kept in float32',
  )


LAWS = {
  'streaming': check_streaming_equals_parallel, 'causality': check_causality,
  'padding': check_padding_changes_no_output, 'state': check_state_shapes_and_dtypes,
  'training': check_gradients_compilation_and_bfloat16, 'receptive_field': check_receptive_field,
  'sizes': check_empty_and_single_token_inputs, 'large_inputs': check_finite_with_large_inputs,
  'large_biases': check_finite_with_large_biases, 'long_bfloat16': check_bfloat16_on_long_sequence,
}


def verify_layer(layer: SequenceLayer, laws: Iterable[str] = tuple(LAWS)) -> tuple[str, ...]:
  """Checks that a layer has the properties (laws) that the layer interface requires.

  Args:
    layer: an instance of SequenceLayer with the options to verify; it is initialised here, at a
      width of 8 or a small multiple of `layer.required_width_divisor`.
    laws: names of the laws to check, from `LAWS`; all of them by default.

  Returns:
    The names of the laws that were checked, all of which hold.

  Raises:
    LawViolations: the layer violates laws. The message has one paragraph for each.
    ValueError: there is no law of a given name.

  Examples:
    >>> from transformer.attention import Attention
    >>> verify_layer(Attention(num_heads=2), laws=['causality', 'state'])
    ('causality', 'state')

  """
  selected_laws = select_laws(LAWS, laws)
  case = layer_test_case(layer)
  name = ' '.join(repr(layer).replace('# attributes', '').replace('# children', '').split())
  return verify_laws(selected_laws, case, name, case.size_description)
