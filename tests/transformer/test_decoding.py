"""Decoding of models with a state matches recomputation from complete prefixes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from baselines.recurrent import LSTM
from baselines.state_space import Mamba
from tests.transformer.token_table import (
  END_TOKEN,
  MAX_LENGTH,
  TABLE_SHAPE,
  decode_table,
  random_table,
  table_step,
)
from transformer import decoding
from transformer.attention import Attention
from transformer.block import Block
from transformer.cross_attention import CrossAttention
from transformer.layer_laws import verify_layer
from transformer.model import DecoderOnly, EncoderDecoder
from transformer.positions import POSITIONS
from transformer.stack import Stack

LENGTH, WIDTH, VOCABULARY = 6, 8, 7
PAD, START, END = 0, 1, 2
SOURCES = np.array([[3, 4, 5, 6, 3], [5, 3, 0, 0, 0], [6, 0, 0, 0, 0]], np.int32)
SIZES = np.array([5, 2, 1])
MASK = np.arange(5)[None] < SIZES[:, None]


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
def perturbed_parameters(name):
  """Perturbs initial parameters, so that sequences differ in length and content."""
  inputs = (SOURCES, SOURCES[:, :2]) if name in TRANSLATORS else (SOURCES,)
  initial = jax.jit(MODELS[name].init)(jax.random.key(0), *inputs)
  generator = np.random.default_rng(9)

  def perturb(p):
    return np.float32(p + generator.normal(0, 0.3 if p.ndim < 2 else 1.0, p.shape))

  return jax.tree.map(perturb, initial)


def step_and_initial_state(name, parameters, sources=SOURCES, mask=MASK):
  """The step function of a model, and its state after the sources if it has an encoder."""
  model = MODELS[name]
  if name in TRANSLATORS:
    state = model.apply(parameters, sources, mask=mask, capacity=LENGTH, method='encode')
    return functools.partial(model.apply, parameters, method='decode'), state
  return functools.partial(model.apply, parameters), model.initial_state(
    len(sources), LENGTH, WIDTH)


@functools.cache
def compiled_search(name, search, **options):
  """Compiles a decoding method for a model, as a function of sources and their mask."""
  @jax.jit
  def decode_sources(parameters, sources, mask):
    step, state = step_and_initial_state(name, parameters, sources, mask)
    start_tokens = jnp.full(len(sources), START, jnp.int32)
    return search(step, state, start_tokens, LENGTH, END, PAD, **options)

  return functools.partial(decode_sources, perturbed_parameters(name))


@functools.cache
def recompute_log_probabilities(name):
  """A function from tokens [B, T] to log p [B, T, V] of each token, computed without a state."""
  @jax.jit
  def log_softmax_outputs(parameters, tokens):
    inputs = (SOURCES, tokens) if name in TRANSLATORS else (tokens,)
    options = {'mask': MASK} if name in TRANSLATORS else {}
    return jax.nn.log_softmax(MODELS[name].apply(parameters, *inputs, **options)[0])

  def log_probabilities_of(tokens):
    return np.asarray(
      log_softmax_outputs(perturbed_parameters(name), np.insert(tokens, 0, START, 1)[:, :-1]))

  return log_probabilities_of


@pytest.mark.parametrize('search', [
  decoding.greedy_search,
  functools.partial(decoding.sample, key=jax.random.key(1), temperature=0.5),
])
def test_the_first_of_several_end_tokens_ends_a_sequence(search):
  """The result equals decoding without end tokens up to the first of them."""
  @functools.partial(jax.jit, static_argnums=1)
  def decode(table, end_tokens):
    state, start_tokens = (jnp.zeros(1, jnp.int32), jnp.int32(0)), jnp.zeros(1, jnp.int32)
    return search(table_step(table), state, start_tokens, MAX_LENGTH, end_tokens, -1)

  lengths = set()
  for table in map(random_table, range(12)):
    (row,) = decode(table, -1).tokens.tolist()
    (tokens,), (length,), *_ = decode(table, (0, 2))
    first = next((i + 1 for i, token in enumerate(row) if token in (0, 2)), MAX_LENGTH)
    assert length == first and tokens.tolist() == row[:first] + [-1] * (MAX_LENGTH - first)
    lengths.add(first)
    np.testing.assert_array_equal(decode(table, 2).tokens, decode(table, (2, 2)).tokens)
  assert len(lengths) > 1


def test_beam_search_with_an_impossible_end_token_ignores_it():
  """An end token without probability does not change the hypotheses."""
  table = jnp.array(random_table(5)).at[:, 0].add(-1e9)

  def hypotheses(end_tokens):
    state, start_tokens = (jnp.zeros(1, jnp.int32), jnp.int32(0)), jnp.zeros(1, jnp.int32)
    return decoding.beam_search(
      table_step(table), state, start_tokens, MAX_LENGTH, end_tokens, -1, beam_size=2)

  for expected, actual in zip(
      hypotheses(END_TOKEN), hypotheses((0, END_TOKEN)), strict=True):
    np.testing.assert_array_equal(actual, expected)
  tokens = hypotheses((1, END_TOKEN)).tokens[0]
  assert all(row[0] in (1, END_TOKEN) and set(row[1:]) == {-1} for row in tokens.tolist())


@pytest.mark.parametrize('name', MODELS)
def test_greedy_search_with_a_state_matches_recomputation(name):
  output = compiled_search(name, decoding.greedy_search)(SOURCES, MASK)
  log_probabilities_of = recompute_log_probabilities(name)
  expected = np.full((len(SOURCES), LENGTH), PAD)
  active = np.full(len(SOURCES), True)
  for t in range(LENGTH):
    expected[:, t] = np.where(active, log_probabilities_of(expected)[:, t].argmax(-1), PAD)
    active &= expected[:, t] != END
  np.testing.assert_array_equal(output.tokens, expected)
  ends = [[*row, END].index(END) + 1 for row in expected.tolist()]
  np.testing.assert_array_equal(output.lengths, np.minimum(ends, LENGTH))
  assert len(np.unique(expected, axis=0)) > 1 or name not in TRANSLATORS


@pytest.mark.parametrize('name', MODELS)
def test_beam_scores_match_recomputation(name):
  """Each hypothesis continues from its own state when its index in the beam changes."""
  search = compiled_search(name, decoding.beam_search, beam_size=4, length_penalty=0.6)
  hypotheses = search(SOURCES, MASK)
  assert np.isfinite(hypotheses.scores).all() and (np.diff(hypotheses.scores) <= 0).all()
  for rank in range(4):
    tokens, lengths, scores = (np.asarray(field[:, rank]) for field in hypotheses[:3])
    log_p = recompute_log_probabilities(name)(tokens)
    log_p = np.take_along_axis(log_p, tokens[:, :, None], 2)[:, :, 0]
    total = np.where(np.arange(LENGTH) < lengths[:, None], log_p, 0).sum(1)
    expected = total / ((5 + lengths) / 6) ** 0.6
    np.testing.assert_allclose(scores, expected, atol=2e-5)
  assert len(np.unique(np.asarray(hypotheses.tokens).reshape(12, -1), axis=0)) >= 4


@pytest.mark.parametrize('name', TRANSLATORS)
def test_a_source_in_a_batch_decodes_as_in_a_batch_of_one(name):
  search, row = compiled_search(name, decoding.beam_search), 1
  batch, single = search(SOURCES, MASK), search(SOURCES[row : row + 1, : SIZES[row]], None)
  for actual, expected in zip(batch[:-1], single[:-1], strict=True):  # all fields but the steps
    np.testing.assert_allclose(actual[row], expected[0], atol=2e-5)
  assert len(np.unique(batch.tokens[:, 0], axis=0)) > 1


@pytest.mark.parametrize('name', ['attention', 'mamba'])
def test_a_prompt_in_a_batch_continues_as_in_a_batch_of_one(name):
  model, parameters, row = MODELS[name], perturbed_parameters(name), 1
  step = functools.partial(model.apply, parameters)

  @jax.jit
  def continue_prompts(prompts, sizes):
    state = model.initial_state(len(prompts), prompts.shape[1] - 1 + LENGTH, WIDTH)
    state, start_tokens = decoding.prefill(step, state, prompts, sizes)
    return decoding.greedy_search(step, state, start_tokens, LENGTH, END, PAD).tokens

  batch = continue_prompts(SOURCES, SIZES)
  single = continue_prompts(SOURCES[row : row + 1, : SIZES[row]], SIZES[row : row + 1])
  np.testing.assert_array_equal(batch[row], single[0])
  assert len(np.unique(batch, axis=0)) == 3


def test_prefill_of_one_token_does_not_call_the_model():
  def step(*_, **__):
    raise AssertionError('the model is called')

  prompt, lengths = jnp.array([[4], [5]]), jnp.array([1, 1])
  state, start_tokens = decoding.prefill(step, 'state', prompt, lengths)
  assert (state, start_tokens.tolist()) == ('state', [4, 5])


def test_the_loop_stops_when_all_sequences_are_complete():
  calls = []
  table = np.zeros(TABLE_SHAPE, np.float32)
  table[:, END_TOKEN] = 9

  def step(tokens, state):
    jax.debug.callback(lambda: calls.append(1))
    return table_step(jnp.array(table))(tokens, state)

  for search in (decoding.greedy_search, decoding.beam_search):
    calls.clear()
    start_tokens = jnp.zeros(2, jnp.int32)
    run = jax.jit(
      lambda start, search=search: search(step, (start, 0), start, MAX_LENGTH, END_TOKEN, -1).steps)
    steps = int(run(start_tokens))
    jax.effects_barrier()
    assert len(calls) == steps < MAX_LENGTH


@pytest.mark.parametrize('search', [decoding.greedy_search, decoding.beam_search])
def test_no_sequence_exceeds_its_limit(search):
  table, limits = np.zeros(TABLE_SHAPE, np.float32), np.array([0, 1, 3, 9])
  table[:, END_TOKEN] = -1e3  # no sequence ends before its limit
  output = decode_table(search, table, limits, ())
  lengths, tokens = (
    np.asarray(a).reshape(4, -1, *a.shape[2:]) if search is decoding.beam_search
    else np.asarray(a)[:, None] for a in (output.lengths, output.tokens))
  np.testing.assert_array_equal(lengths.max(1), np.minimum(limits, MAX_LENGTH))
  np.testing.assert_array_equal((tokens != -1).sum(-1), lengths)
  assert decode_table(search, table, np.array([1, 2]), ()).steps == 2


def test_beam_reordering_does_not_copy_the_source():
  """Keys and values of the source are not among the variables that the loop changes."""
  changed, original = [], jax.lax.while_loop

  def record_changed_variables(condition, body, carry):
    jaxpr = jax.make_jaxpr(body)(carry).jaxpr
    changed.append([v for v, w in zip(jaxpr.invars, jaxpr.outvars, strict=True) if v is not w])
    return original(condition, body, carry)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax.lax, 'while_loop', record_changed_variables)
    search = compiled_search('cross-attention', decoding.beam_search, num_return_sequences=3)
    jax.eval_shape(search, SOURCES, MASK)
  shapes = [v.aval.shape for v in changed[0]]
  size = SOURCES.shape[1]
  assert not [shape for shape in shapes if size in shape] and len(shapes) > 3


def test_select_rows_reorders_arrays_and_keeps_scalars():
  state = {'sums': jnp.arange(6.0).reshape(3, 2), 'index': jnp.int32(4), 'empty': ()}
  selected = decoding.select_batch_rows(state, jnp.array([2, 0, 0]))
  np.testing.assert_array_equal(selected['sums'], [[4, 5], [0, 1], [0, 1]])
  assert (selected['index'], selected['empty']) == (4, ())


class TimeFirst(LSTM):
  """A layer that breaks the law of states, because the batch is not the first axis of its state."""

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    return jnp.zeros((1, batch_size, width), dtype)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):
    return nn.Dense(x.shape[2], dtype=x.dtype)(x), state


def test_the_law_of_states_rejects_a_batch_that_is_not_the_first_axis():
  with pytest.raises(AssertionError, match='first axis'):
    verify_layer(TimeFirst(), ['state'])


@pytest.mark.parametrize('search, options, message', [
  (decoding.greedy_search, {'max_length': 0}, 'max_length must be at least 1, not 0'),
  (decoding.sample, {'temperature': -0.5}, 'temperature must be at least 0, not -0.5'),
  (decoding.sample, {'temperature': float('nan')}, 'temperature must be at least 0, not nan'),
  (decoding.sample, {'top_k': -1}, 'top_k must be at least 0, not -1'),
  (decoding.sample, {'top_k': 4}, 'top_k must be at most the number of tokens, 3, not 4'),
  (decoding.sample, {'top_p': 0.0}, 'top_p must be above 0 and at most 1, not 0.0'),
  (decoding.sample, {'top_p': 1.5}, 'top_p must be above 0 and at most 1, not 1.5'),
  (decoding.beam_search, {'beam_size': 0}, 'beam_size must be at least 1, not 0'),
  (decoding.beam_search, {'num_return_sequences': 0},
   'num_return_sequences must be at least 1, not 0'),
  (decoding.beam_search, {'length_penalty': -1.0}, 'length_penalty must be at least 0, not -1.0'),
  (decoding.beam_search, {'max_length': 0}, 'max_length must be at least 1, not 0'),
])
def test_invalid_arguments_raise_errors(search, options, message):
  key = {'key': jax.random.key(5)} if search is decoding.sample else {}
  arguments = {'max_length': MAX_LENGTH} | options | key
  state = jnp.zeros(1, jnp.int32), jnp.int32(0)
  with pytest.raises(ValueError, match=message) as error:
    search(table_step(jnp.array(random_table(0))), state, jnp.zeros(1, jnp.int32), end_tokens=2,
           pad_token=-1, **arguments)
  assert '\n' not in str(error.value)
