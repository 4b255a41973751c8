"""The laws of `transformer.layer`, each a function that raises where a layer breaks it."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

BATCH = 2


class Subject:
  """A layer with parameters away from their special initial values, and an input for it."""

  def __init__(self, layer):
    self.layer = layer
    self.width = 8 * layer.width_multiple if layer.width_multiple < 8 else 2 * layer.width_multiple
    self.length = max(10, (layer.receptive_field or 1) + 3)
    keys = jax.random.split(jax.random.key(0), 4)
    self.x = jax.random.normal(keys[0], (BATCH, self.length, self.width))
    self.noise = jax.random.normal(keys[1], self.x.shape)
    self.mask = np.array(jax.random.bernoulli(keys[2], 0.7, self.x.shape[:2]))
    self.mask[:, 3], self.mask[:, -3:] = True, False  # something to read, and padding at the end
    self.mask[0, 0] = False  # and before the first token
    parameters = jax.jit(layer.init)(keys[3], self.x)
    self.parameters = jax.tree.map(
      lambda p: p + 0.1 * jax.random.normal(jax.random.fold_in(keys[3], p.size), p.shape),
      parameters,
    )
    self.apply = jax.jit(self.layer.apply)
    self.examine = jax.jit(self._examine)

  def _examine(self, parameters, x, mask):
    """Valid outputs, the state, and the gradients of both for parameters and inputs."""
    def loss(parameters, x):
      y, state = self.layer.apply(parameters, x, mask=mask)
      real = (s for s in jax.tree.leaves(state) if jnp.issubdtype(s.dtype, jnp.floating))
      return judged(y, mask) + sum(judged(s, None) for s in real), (y, state)

    gradients, (y, state) = jax.grad(loss, (0, 1), has_aux=True)(parameters, x)
    return {'outputs': jnp.where(mask[..., None], y, 0), 'state': state, 'gradients': gradients}

  def initial_state(self, capacity=None, dtype=jnp.float32):
    return self.layer.initial_state(BATCH, capacity or self.length, self.width, dtype)

  def whole(self, x=None, mask=None, parameters=None):
    """Outputs for the whole sequence at once."""
    x = self.x if x is None else x
    return self.apply(self.parameters if parameters is None else parameters, x, mask=mask)[0]

  def in_pieces(self, cuts, x, mask, parameters):
    """Outputs when the input is read in pieces between the cuts, the state carried."""
    state, outputs = self.initial_state(), []
    for start, stop in zip((0, *cuts), (*cuts, self.length), strict=True):
      piece = None if mask is None else mask[:, start:stop]
      y, state = self.layer.apply(parameters, x[:, start:stop], state, mask=piece)
      outputs.append(y)
    return jnp.concatenate(outputs, 1)

  def token_by_token(self, x, mask, parameters):
    """Outputs when each token is a piece of its own, in a compiled loop."""
    def step(state, now):
      y, state = self.layer.apply(parameters, now[0][:, None], state, mask=now[1])
      return state, y[:, 0]

    columns = None if mask is None else mask.T[..., None]
    return jax.lax.scan(step, self.initial_state(), (x.swapaxes(0, 1), columns))[1].swapaxes(0, 1)


@functools.lru_cache
def subject(layer):
  """One for each layer: its laws share the parameters and what was compiled."""
  return Subject(layer)


def close(actual, expected, what, tolerance=2e-5):
  """Every leaf within a tolerance of the expected leaf's own scale."""
  assert jax.tree.structure(actual) == jax.tree.structure(expected), what
  for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    a, e = np.asarray(a, np.float32), np.asarray(e, np.float32)
    scale = max(1.0, np.abs(e).max(initial=0))
    np.testing.assert_allclose(a / scale, e / scale, atol=tolerance, rtol=0, err_msg=what)


def finite(tree, what):
  """No leaf of the tree holds NaN or infinity."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    name = jax.tree_util.keystr(path)
    assert np.isfinite(np.asarray(leaf, np.float32)).all(), f'{what}: {name} is not finite'


def judged(y, mask):
  """A scalar that depends on every valid output in its own way."""
  weight = jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
  y = y if mask is None else jnp.where(mask[..., None], y, 0)
  return jnp.sum(weight * jnp.sin(y))


def streaming(layer):
  """Cut the input anywhere, carry the state: the same outputs and the same gradients."""
  s = subject(layer)
  for mask, how, way in (
    (None, 'cut in three', functools.partial(s.in_pieces, (1, 6))),
    (s.mask, 'token by token', s.token_by_token),
  ):
    def read(way, mask=mask):
      """Valid outputs, and the gradients for parameters and inputs, of one way to read."""
      def loss(parameters, x):
        y = way(x, mask, parameters)
        return judged(y, mask), y if mask is None else jnp.where(mask[..., None], y, 0)

      gradients, y = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(s.parameters, s.x)
      return y, gradients

    (y, gradients), (other, others) = read(s.whole), read(way)
    close(other, y, f'outputs, {how}')
    close(others, gradients, f'gradients, {how}', tolerance=1e-4)


def causality(layer):
  """Changing token t moves nothing before t, exactly, and something at or after t."""
  s = subject(layer)
  y = np.asarray(s.whole())
  for t in range(s.length):
    changed = np.asarray(s.whole(s.x.at[:, t].set(s.noise[:, t])))
    np.testing.assert_array_equal(changed[:, :t], y[:, :t], f'token {t} moved what is before it')
    assert (changed[:, t:] != y[:, t:]).any(), f'token {t} moved nothing'


def padding(layer):
  """Values under the mask, even NaN, change no valid output, gradient or later state.

  Padding as such changes no output before it, and no state unless the layer says that padding
  takes time.
  """
  s = subject(layer)
  hidden = ~s.mask[..., None]
  expected = s.examine(s.parameters, s.x, s.mask)
  for other in (jnp.nan, s.noise):
    actual = s.examine(s.parameters, jnp.where(hidden, other, s.x), s.mask)
    finite(actual, 'with NaN under the mask')
    for part, tolerance in (('outputs', 0), ('state', 0), ('gradients', 1e-6)):
      close(actual[part], expected[part], f'{part}, by what is under the mask', tolerance)
  assert not np.asarray(actual['gradients'][1])[~s.mask].any(), 'gradients flow into padding'

  if not layer.padding_takes_time:
    _, before = s.apply(s.parameters, s.x, s.initial_state(s.length + 3))
    nothing = jnp.full_like(s.x[:, :3], jnp.nan)
    _, after = s.apply(s.parameters, nothing, before, mask=np.zeros((BATCH, 3), bool))
    close(after, before, 'the state after padding against the state before it', tolerance=0)

  first = np.broadcast_to(np.arange(s.length) < s.length - 3, s.mask.shape)
  shorter = s.apply(s.parameters, s.x[:, :-3])[0]
  close(s.whole(mask=first)[:, :-3], shorter, 'a padded sequence against the sequence itself')


def state(layer):
  """A step returns the state's own tree, shapes and dtypes; no state is the initial state.

  Each of its arrays has the batch as its first axis, or is a scalar that all sequences share.
  """
  s = subject(layer)
  for dtype, length in itertools.product((jnp.float32, jnp.bfloat16), (1, 3)):
    before = s.initial_state(capacity=s.length + 5, dtype=dtype)
    x = s.x[:, :length].astype(dtype)
    _, after = jax.eval_shape(layer.apply, s.parameters, x, before)
    assert jax.tree.structure(after) == jax.tree.structure(before), 'the tree changed'
    for b, a in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
      assert (b.shape, b.dtype) == (a.shape, a.dtype), f'{b.aval} became {a}'
  few, many = (
    jax.eval_shape(functools.partial(layer.initial_state, size, s.length, s.width))
    for size in (BATCH, BATCH + 1)
  )
  for a, b in zip(jax.tree.leaves(few), jax.tree.leaves(many), strict=True):
    shared, rows = ((), ()), ((BATCH, *a.shape[1:]), (BATCH + 1, *a.shape[1:]))
    assert (a.shape, b.shape) in (shared, rows), f'{a} does not have the batch as its first axis'
  fresh, given = s.apply(s.parameters, s.x), s.apply(s.parameters, s.x, s.initial_state())
  close(fresh, given, 'no state against the initial state')


def training(layer):
  """Finite, non-zero gradients; compiled = not compiled; one trace a shape; bfloat16 agrees."""
  s = subject(layer)
  gradient = jax.jit(jax.grad(lambda p: judged(s.whole(parameters=p), None)))(s.parameters)
  for path, g in jax.tree_util.tree_leaves_with_path(gradient):
    name = jax.tree_util.keystr(path)
    assert np.isfinite(g).all(), f'the gradient of {name} is not finite'
    assert np.abs(g).max() > 1e-7, f'the gradient of {name} is zero'

  y = s.whole()
  with jax.disable_jit():
    close(layer.apply(s.parameters, s.x)[0], y, 'compiled against not compiled')

  traces = []

  def traced(layer, parameters, x):
    traces.append(x.shape)
    return layer.apply(parameters, x)

  compiled = jax.jit(traced, static_argnums=0)
  for x in (s.x, s.noise):
    compiled(layer.copy(), s.parameters, x)
  assert len(traces) == 1, 'an equal layer and an equal shape were traced again'

  low = s.whole(s.x.astype(jnp.bfloat16))
  assert low.dtype == jnp.bfloat16, f'bfloat16 came out as {low.dtype}'
  close(low, y, 'bfloat16 against float32', tolerance=2.0**-8 * 8)


def receptive_field(layer):
  """The Jacobian reaches as far back as declared, at every position, and no further."""
  s = subject(layer)
  pull = jax.jit(lambda t: jax.grad(lambda x: jnp.sum(s.noise[:, t] * s.whole(x)[:, t]))(s.x))
  for t in range(s.length):
    touched = np.flatnonzero((np.asarray(pull(t)) != 0).any((0, 2)))
    assert touched.max() == t, f'output {t} depends on {touched}'
    field = layer.receptive_field or t + 1
    if field <= t + 1:
      assert t + 1 - touched.min() == field, f'output {t} depends on {touched}, not {field} tokens'
    else:
      assert t + 1 - touched.min() <= field, f'output {t} depends on {touched}, over {field} tokens'


def sizes(layer):
  """Sequences of 0 and 1 tokens and a batch of 1 are read as any others."""
  s = subject(layer)
  empty, no_mask = s.x[:, :0], s.mask[:, :0]
  shapes = functools.partial(jax.tree.map, lambda leaf: (leaf.shape, leaf.dtype))
  assert shapes(jax.eval_shape(layer.init, jax.random.key(0), empty)) == shapes(s.parameters), (
    'parameters initialised without a token have other shapes'
  )
  state = s.apply(s.parameters, s.x, s.initial_state(s.length + 1))[1]
  for before, mask in ((state, None), (state, no_mask), (None, no_mask)):
    y, after = s.apply(s.parameters, empty, before, mask=mask)
    assert y.shape == empty.shape, f'the output for no token has the shape {y.shape}'
    before = s.layer.initial_state(BATCH, 0, s.width) if before is None else before
    close(after, before, 'the state after no token', tolerance=0)
  gradient = jax.jit(jax.grad(lambda p, x: jnp.sum(layer.apply(p, x)[0]), (0, 1)))(
    s.parameters, empty)
  assert not any(np.any(g) for g in jax.tree.leaves(gradient)), 'no token has a gradient'

  few = s.examine(s.parameters, s.x[:1, :1], np.ones((1, 1), bool))
  finite(few, 'one token')
  close(few['outputs'], s.whole()[:1, :1], 'one token against the first of many')
  close(s.whole(s.x[:1]), s.whole()[:1], 'a batch of 1 against a row of many')


def large_inputs(layer):
  """Inputs 1e4 times as large give finite outputs, state and gradients."""
  s = subject(layer)
  finite(s.examine(s.parameters, 1e4 * s.x, s.mask), 'inputs times 1e4')


def large_biases(layer):
  """Biases of +-50 and +-100, and padding, give finite outputs, state and gradients.

  Their signs are all the same, or opposite in parameters that follow each other, or drawn.
  """
  s = subject(layer)
  x = jnp.where(s.mask[..., None], s.x, jnp.nan)
  draw = np.random.default_rng(0)
  signs = {
    'above 0': lambda k, shape: np.ones(shape),
    'below 0': lambda k, shape: -np.ones(shape),
    'above and below 0 in turn': lambda k, shape: (-1.0) ** k * np.ones(shape),
    'below and above 0 in turn': lambda k, shape: (-1.0) ** (k + 1) * np.ones(shape),
    'of drawn signs': lambda k, shape: draw.choice([-1.0, 1.0], shape),
  }
  for size, (name, sign) in itertools.product((50, 100), signs.items()):
    turn = itertools.count()

    def biased(path, p, size=size, sign=sign, turn=turn):
      is_bias = str(getattr(path[-1], 'key', '')).endswith('bias')
      return jnp.array(size * sign(next(turn), p.shape), p.dtype) if is_bias else p

    parameters = jax.tree_util.tree_map_with_path(biased, s.parameters)
    finite(s.examine(parameters, x, s.mask), f'biases of {size}, {name}')


def long_bfloat16(layer):
  """Over 1024 tokens bfloat16 agrees with float32 to its precision, late tokens as early ones.

  Of every 64 tokens half of the errors are compared with the outputs' root mean square: a norm of
  a head that is nearly constant, or a softmax that is nearly a choice, enlarges a few of them.
  """
  s = subject(layer)
  x = jax.random.normal(jax.random.key(1), (1, 1024, s.width), jnp.bfloat16)
  y, low = (
    np.asarray(s.whole(x.astype(dtype)), np.float32).reshape(16, -1)
    for dtype in (jnp.float32, jnp.bfloat16)
  )
  error = np.median(np.abs(low - y), 1) / np.sqrt(np.square(y).mean(1))
  assert error.max() < 8 * 2.0**-8, f'relative errors of every 64 tokens: {error}'


LAWS = {
  law.__name__: law
  for law in (
    streaming, causality, padding, state, training, receptive_field, sizes, large_inputs,
    large_biases, long_bfloat16,
  )
}
