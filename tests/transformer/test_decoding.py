"""Decoding: what is written is what the whole prefix says; beams against lists and against all."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.recurrent import LSTM
from baselines.state_space import Mamba
from tests.transformer.layer_laws import LAWS
from tests.transformer.token_table import PLACES, TINY, by_table, over_table, table_of
from transformer import decoding
from transformer.attention import Attention
from transformer.block import Block
from transformer.cross_attention import CrossAttention
from transformer.model import DecoderOnly, EncoderDecoder
from transformer.positions import POSITIONS
from transformer.stack import Stack

LENGTH, WIDTH, VOCABULARY = 6, 8, 7
PAD, START, END = 0, 1, 2
SOURCES = np.array([[3, 4, 5, 6, 3], [5, 3, 0, 0, 0], [6, 0, 0, 0, 0]], np.int32)
SIZES = np.array([5, 2, 1])
SEEN = np.arange(5)[None] < SIZES[:, None]


def decoder_only(layer):
  embedding = nn.Embed(VOCABULARY, WIDTH)
  return DecoderOnly(embedding, Stack((Block(layer),)), nn.Dense(VOCABULARY))


def encoder_decoder(encoder, *decoder, **settings):
  stacks = Stack((Block(encoder),)), Stack(tuple(map(Block, decoder)))
  head = nn.Dense(VOCABULARY)
  return EncoderDecoder(nn.Embed(VOCABULARY, WIDTH), *stacks, head=head, **settings)


SINUSOIDAL = POSITIONS['sinusoidal']()
MODELS = {
  'attention': decoder_only(Attention(2)),
  'lstm': decoder_only(LSTM()),
  'mamba': decoder_only(Mamba(state_size=4)),
  'cross-attention': encoder_decoder(
    Attention(2, SINUSOIDAL, causal=False), Attention(2, SINUSOIDAL), CrossAttention(2)),
  'carried state': encoder_decoder(LSTM(), LSTM(), carry_state=True, scale_embeddings=False),
}
TRANSLATORS = ('cross-attention', 'carried state')


@functools.cache
def parameters_of(name):
  """Parameters away from their initial values, so that answers differ in length and content."""
  inputs = (SOURCES, SOURCES[:, :2]) if name in TRANSLATORS else (SOURCES,)
  initial = jax.jit(MODELS[name].init)(jax.random.key(0), *inputs)
  generator = np.random.default_rng(9)

  def moved(p):
    return np.float32(p + generator.normal(0, 0.3 if p.ndim < 2 else 1.0, p.shape))

  return jax.tree.map(moved, initial)


def beginning(name, parameters, sources=SOURCES, mask=SEEN):
  """The step of a model, and its state when it has read sources, if it does."""
  model = MODELS[name]
  if name in TRANSLATORS:
    state = model.apply(parameters, sources, mask=mask, capacity=LENGTH, method='encode')
    return functools.partial(model.apply, parameters, method='decode'), state
  return functools.partial(model.apply, parameters), model.initial_state(
    len(sources), LENGTH, WIDTH)


@functools.cache
def search(name, how, **options):
  """A compiled search after sources, or after nothing."""
  @jax.jit
  def run(parameters, sources, mask):
    step, state = beginning(name, parameters, sources, mask)
    start = jnp.full(len(sources), START, jnp.int32)
    return how(step, state, start, LENGTH, END, PAD, **options)

  return functools.partial(run, parameters_of(name))


@functools.cache
def rerun(name):
  """The log p [B, T, V] of what follows each token of whole sequences [B, T], without a state."""
  @jax.jit
  def run(parameters, tokens):
    inputs = (SOURCES, tokens) if name in TRANSLATORS else (tokens,)
    options = {'mask': SEEN} if name in TRANSLATORS else {}
    return jax.nn.log_softmax(MODELS[name].apply(parameters, *inputs, **options)[0])

  def read(tokens):
    return np.asarray(run(parameters_of(name), np.insert(tokens, 0, START, 1)[:, :-1]))

  return read


@pytest.mark.parametrize('how', [
  decoding.greedy, functools.partial(decoding.sample, key=jax.random.key(1), temperature=0.5)])
def test_of_several_ends_the_first_that_is_written_ends_an_answer(how):
  """What is written then is what is written without any end, up to the first of them."""
  @functools.partial(jax.jit, static_argnums=1)
  def write(table, end):
    state, start = (jnp.zeros(1, jnp.int32), jnp.int32(0)), jnp.zeros(1, jnp.int32)
    return how(by_table(table), state, start, PLACES, end, -1)

  lengths = set()
  for table in map(table_of, range(12)):
    (row,), ((tokens,), (length,), *_) = write(table, -1).tokens.tolist(), write(table, (0, 2))
    first = next((i + 1 for i, token in enumerate(row) if token in (0, 2)), PLACES)
    assert length == first and tokens.tolist() == row[:first] + [-1] * (PLACES - first)
    lengths.add(first)
    np.testing.assert_array_equal(write(table, 2).tokens, write(table, (2, 2)).tokens)
  assert len(lengths) > 1


def test_a_beam_with_several_ends_is_one_whose_ends_are_one_token():
  """Where one of two ends has no mass, only the other ends an answer."""
  table = jnp.array(table_of(5)).at[:, 0].add(-1e9)

  def found(end):
    state, start = (jnp.zeros(1, jnp.int32), jnp.int32(0)), jnp.zeros(1, jnp.int32)
    return decoding.beam_search(by_table(table), state, start, PLACES, end, -1, beam_size=2)

  for one, same in zip(found(TINY - 1), found((0, TINY - 1)), strict=True):
    np.testing.assert_array_equal(one, same)
  tokens = found((1, TINY - 1)).tokens[0]
  assert all(row[0] in (1, TINY - 1) and set(row[1:]) == {-1} for row in tokens.tolist())


@pytest.mark.parametrize('name', MODELS)
def test_what_is_written_with_a_state_is_what_the_whole_prefix_says(name):
  written = search(name, decoding.greedy)(SOURCES, SEEN)
  expected = np.full((len(SOURCES), LENGTH), PAD)
  going = np.full(len(SOURCES), True)
  for t in range(LENGTH):
    expected[:, t] = np.where(going, rerun(name)(expected)[:, t].argmax(-1), PAD)
    going &= expected[:, t] != END
  np.testing.assert_array_equal(written.tokens, expected)
  ends = [[*row, END].index(END) + 1 for row in expected.tolist()]
  np.testing.assert_array_equal(written.lengths, np.minimum(ends, LENGTH))
  assert len(np.unique(expected, axis=0)) > 1 or name not in TRANSLATORS  # they look at sources


@pytest.mark.parametrize('name', MODELS)
def test_a_beam_scores_as_the_whole_prefix_says(name):
  """Each hypothesis goes on from its own state, whichever place it had in the beam before."""
  found = search(name, decoding.beam_search, beam_size=4, length_penalty=0.6)(SOURCES, SEEN)
  assert np.isfinite(found.scores).all() and (np.diff(found.scores) <= 0).all()
  for place in range(4):
    tokens, lengths = np.asarray(found.tokens[:, place]), np.asarray(found.lengths[:, place])
    each = np.take_along_axis(rerun(name)(tokens), tokens[:, :, None], 2)[:, :, 0]
    mass = np.where(np.arange(LENGTH) < lengths[:, None], each, 0).sum(1)
    expected = mass / ((5 + lengths) / 6) ** 0.6
    np.testing.assert_allclose(found.scores[:, place], expected, atol=2e-5)
  assert len(np.unique(np.asarray(found.tokens).reshape(12, -1), axis=0)) >= 4


@pytest.mark.parametrize('name', TRANSLATORS)
def test_a_source_among_others_is_answered_as_alone(name):
  run, row = search(name, decoding.beam_search), 1
  together, alone = run(SOURCES, SEEN), run(SOURCES[row : row + 1, : SIZES[row]], None)
  for got, want in zip(together[:-1], alone[:-1], strict=True):  # all but the steps
    np.testing.assert_allclose(got[row], want[0], atol=2e-5)
  assert len(np.unique(together.tokens[:, 0], axis=0)) > 1


@pytest.mark.parametrize('name', ['attention', 'mamba'])
def test_a_prompt_among_others_is_continued_as_alone(name):
  model, parameters, row = MODELS[name], parameters_of(name), 1
  step = functools.partial(model.apply, parameters)

  @jax.jit
  def continued(prompts, sizes):
    state = model.initial_state(len(prompts), prompts.shape[1] - 1 + LENGTH, WIDTH)
    state, start = decoding.read_prompt(step, state, prompts, sizes)
    return decoding.greedy(step, state, start, LENGTH, END, PAD).tokens

  together = continued(SOURCES, SIZES)
  alone = continued(SOURCES[row : row + 1, : SIZES[row]], SIZES[row : row + 1])
  np.testing.assert_array_equal(together[row], alone[0])
  assert len(np.unique(together, axis=0)) == 3


def test_a_prompt_of_one_token_is_where_writing_starts():
  def step(*_, **__):
    raise AssertionError('nothing is to be read')

  state, start = decoding.read_prompt(step, 'state', jnp.array([[4], [5]]), jnp.array([1, 1]))
  assert (state, start.tolist()) == ('state', [4, 5])


def log_mass(table, prefix):
  """The log p of each next token, in float64."""
  code = functools.reduce(lambda code, token: code * TINY + token, prefix, 1)
  row = table[code].astype(np.float64)
  return row - np.log(np.exp(row).sum())


def score(table, answer, alpha):
  mass = sum(log_mass(table, answer[:n])[token] for n, token in enumerate(answer))
  return mass / ((5 + len(answer)) / 6) ** alpha


def padded(answers):
  return [[*answer, *[-1] * (PLACES - len(answer))] for answer in answers]


def is_answer(tokens, limit):
  return (len(tokens) == limit or tokens[-1] == TINY - 1) and TINY - 1 not in tokens[:-1]


@pytest.mark.parametrize('alpha, answers', [(0.0, 24), (0.6, 24), (1.0, 24), (0.6, 1)])
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_a_beam_that_is_wide_enough_finds_what_looking_at_everything_finds(alpha, answers, seed):
  table, limits = table_of(seed), np.array([2, PLACES])
  options = {'beam_size': 24, 'length_penalty': alpha, 'answers': answers}
  found = over_table(decoding.beam_search, table, limits, tuple(options.items()))
  for row, limit in enumerate(limits):
    every = [
      tokens for size in range(1, limit + 1)
      for tokens in itertools.product(range(TINY), repeat=size) if is_answer(tokens, limit)
    ]
    every.sort(key=lambda tokens: -score(table, tokens, alpha))
    expected, count = every[:answers], min(answers, len(every))
    np.testing.assert_allclose(
      found.scores[row, :count], [score(table, tokens, alpha) for tokens in expected], atol=1e-5)
    np.testing.assert_array_equal(found.tokens[row, :count], padded(expected))
    np.testing.assert_array_equal(found.scores[row, count:], -np.inf)
    np.testing.assert_array_equal(found.lengths[row, count:], 0)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_a_beam_of_one_is_greedy(seed):
  table, limits = table_of(seed), np.array([1, 3, PLACES])
  options = ('beam_size', 1), ('length_penalty', 1.0)
  found = over_table(decoding.beam_search, table, limits, options)
  expected = over_table(decoding.greedy, table, limits, ())
  np.testing.assert_array_equal(found.tokens[:, 0], expected.tokens)
  np.testing.assert_array_equal(found.lengths[:, 0], expected.lengths)
  assert found.steps == expected.steps


def by_lists(table, limit, width, alpha, answers):
  """Beam search as it is told, and how many steps it takes."""
  beam, waiting, steps = [()], [], 0

  def of(tokens):
    return score(table, tokens, alpha)

  while beam:
    steps += 1
    longer = [(*tokens, token) for tokens in beam for token in range(TINY)]
    longer = sorted(longer, key=lambda tokens: -score(table, tokens, 0))[:width]
    waiting += [tokens for tokens in longer if is_answer(tokens, limit)]
    waiting = sorted(waiting, key=lambda tokens: -of(tokens))[:answers]
    beam = [tokens for tokens in longer if not is_answer(tokens, limit)]
    best = max((score(table, tokens, 0) for tokens in beam), default=-np.inf)
    if len(waiting) == answers and best / ((5 + limit) / 6) ** alpha <= of(waiting[-1]):
      break
  return waiting, steps


@pytest.mark.parametrize('options', [
  {'beam_size': 2, 'length_penalty': 0.6, 'answers': 1},
  {'beam_size': 2, 'length_penalty': 1.0, 'answers': 2},
  {'beam_size': 4, 'length_penalty': 0.0, 'answers': 2},
], ids=str)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), limit=st.integers(1, PLACES))
def test_a_beam_is_its_algorithm_and_stops_when_nothing_can_get_better(options, seed, limit):
  table = table_of(seed)
  found = over_table(decoding.beam_search, table, np.array([limit]), tuple(options.items()))
  expected, steps = by_lists(table, limit, *options.values())
  np.testing.assert_array_equal(found.tokens[0, : len(expected)], padded(expected))
  assert found.steps == steps
  assert (found.scores[0, len(expected) :] == -np.inf).all()


def test_a_longer_answer_that_scores_less_for_now_can_still_win():
  """At its limit it can: -0.8 / 1.5 is more than the -0.69 that the end scores at once."""
  table = np.zeros((2 * TINY**PLACES, TINY), np.float32)
  table[:, 0] = 30
  table[1] = np.log([0.45, 0.05, 0.5])
  for answers, limit, expected in ((1, PLACES, [0] * PLACES), (2, 1, [TINY - 1])):
    options = ('beam_size', 2), ('length_penalty', 1.0), ('answers', answers)
    found = over_table(decoding.beam_search, table, np.array([limit]), options)
    np.testing.assert_array_equal(found.tokens[0, 0], padded([expected])[0])


def test_the_loop_asks_no_more_when_all_is_over():
  asked = []
  table = np.zeros((2 * TINY**PLACES, TINY), np.float32)
  table[:, TINY - 1] = 9

  def step(tokens, state):
    jax.debug.callback(lambda: asked.append(1))
    return by_table(jnp.array(table))(tokens, state)

  for how in (decoding.greedy, decoding.beam_search):
    asked.clear()
    start = jnp.zeros(2, jnp.int32)
    run = jax.jit(lambda start, how=how: how(step, (start, 0), start, PLACES, TINY - 1, -1).steps)
    steps = int(run(start))
    jax.effects_barrier()
    assert len(asked) == steps < PLACES


@pytest.mark.parametrize('how', [decoding.greedy, decoding.beam_search])
def test_no_answer_is_longer_than_its_limit(how):
  table, limits = np.zeros((2 * TINY**PLACES, TINY), np.float32), np.array([0, 1, 3, 9])
  table[:, TINY - 1] = -1e3  # it never ends by itself
  found = over_table(how, table, limits, ())
  lengths, tokens = (np.asarray(a).reshape(4, -1, *a.shape[2:]) if how is decoding.beam_search
                     else np.asarray(a)[:, None] for a in (found.lengths, found.tokens))
  np.testing.assert_array_equal(lengths.max(1), np.minimum(limits, PLACES))
  np.testing.assert_array_equal((tokens != -1).sum(-1), lengths)
  assert over_table(how, table, np.array([1, 2]), ()).steps == 2


def test_the_source_is_not_moved_about_with_the_beam():
  """What attention to the source looks at is no part of what the loop carries."""
  carried, loop = [], jax.lax.while_loop

  def spy(condition, body, carry):
    shaped = jax.make_jaxpr(body)(carry).jaxpr
    carried.append([v for v, w in zip(shaped.invars, shaped.outvars, strict=True) if v is not w])
    return loop(condition, body, carry)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax.lax, 'while_loop', spy)
    jax.eval_shape(search('cross-attention', decoding.beam_search, answers=3), SOURCES, SEEN)
  moved = [v.aval.shape for v in carried[0]]
  size = SOURCES.shape[1]
  assert not [shape for shape in moved if size in shape] and len(moved) > 3


def test_a_state_is_reordered_by_its_rows():
  state = {'sums': jnp.arange(6.0).reshape(3, 2), 'index': jnp.int32(4), 'nothing': ()}
  found = decoding.reorder(state, jnp.array([2, 0, 0]))
  np.testing.assert_array_equal(found['sums'], [[4, 5], [0, 1], [0, 1]])
  assert (found['index'], found['nothing']) == (4, ())


class TimeFirst(LSTM):
  """A state that a beam could not take apart: its batch is not the first axis."""

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    return jnp.zeros((1, batch_size, width), dtype)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):
    return nn.Dense(x.shape[2], dtype=x.dtype)(x), state


def test_the_law_of_states_rejects_a_batch_that_is_not_the_first_axis():
  with pytest.raises(AssertionError, match='first axis'):
    LAWS['state'](TimeFirst())


@pytest.mark.parametrize('how, options, said', [
  (decoding.greedy, {'length': 0}, 'length is at least 1, not 0'),
  (decoding.sample, {'temperature': -0.5}, 'temperature is at least 0, not -0.5'),
  (decoding.sample, {'temperature': float('nan')}, 'temperature is at least 0, not nan'),
  (decoding.sample, {'top_k': -1}, 'top_k is at least 0, not -1'),
  (decoding.sample, {'top_k': 4}, 'top_k is at most the number of tokens, 3, not 4'),
  (decoding.sample, {'top_p': 0.0}, 'top_p is above 0 and at most 1, not 0.0'),
  (decoding.sample, {'top_p': 1.5}, 'top_p is above 0 and at most 1, not 1.5'),
  (decoding.beam_search, {'beam_size': 0}, 'beam_size is at least 1, not 0'),
  (decoding.beam_search, {'answers': 0}, 'answers is at least 1, not 0'),
  (decoding.beam_search, {'length_penalty': -1.0}, 'length_penalty is at least 0, not -1.0'),
  (decoding.beam_search, {'length': 0}, 'length is at least 1, not 0'),
])
def test_bad_arguments_are_one_line(how, options, said):
  key = {'key': jax.random.key(5)} if how is decoding.sample else {}
  arguments = {'length': PLACES} | options | key
  state = jnp.zeros(1, jnp.int32), jnp.int32(0)
  with pytest.raises(ValueError, match=said) as error:
    how(by_table(jnp.array(table_of(0))), state, jnp.zeros(1, jnp.int32), end=2, pad=-1,
        **arguments)
  assert '\n' not in str(error.value)
