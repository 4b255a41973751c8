"""Encoder and decoder: the state between them, the paper's models, what is carried and reversed."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.recurrent import GRU, LSTM
from experiments.lab.cells.experiment import resolve
from experiments.lab.cells.run import Run
from experiments.lab.tasks import TASKS
from experiments.variations.tables import variation
from transformer.attention import Attention
from transformer.block import Block
from transformer.cross_attention import CrossAttention
from transformer.feedforward import FeedForward
from transformer.model import EncoderDecoder
from transformer.positions import POSITIONS
from transformer.presets import TABLE_3, implied_vocabulary
from transformer.stack import Stack

BATCH, SOURCE, TARGET, WIDTH, VOCABULARY = 3, 6, 4, 8, 7
LENGTHS = np.array([6, 3, 4])


def transformer(norm='post', positions='sinusoidal', **options):
  """Two blocks on each side."""
  attention = Attention(2, POSITIONS[positions]())
  stack = lambda *layers: Stack(tuple(Block(l, norm=norm) for l in layers), 2)  # noqa: E731, E741
  return EncoderDecoder(
    nn.Embed(VOCABULARY, WIDTH),
    encoder=stack(attention.bidirectional, FeedForward('relu')),
    decoder=stack(attention, CrossAttention(2), FeedForward('relu')),
    normalization=nn.LayerNorm() if norm == 'pre' else None,
    **options,
  )


def carried(**options):
  """Two recurrent levels that go on from where the encoder's stopped."""
  stack = Stack((Block(LSTM()), Block(GRU())))
  return EncoderDecoder(nn.Embed(VOCABULARY, WIDTH), stack, stack, carry_state=True, **options)


MODELS = {
  'transformer': transformer,
  'pre': functools.partial(transformer, 'pre', 'learned'),
  'carried': functools.partial(carried, reverse_source=True),
  'apart': functools.partial(
    transformer, target_embedding=nn.Embed(VOCABULARY, WIDTH), head=nn.Dense(VOCABULARY)
  ),
}


NAMES = [
  'transformer', 'carried', *(pytest.param(n, marks=pytest.mark.slow) for n in ('pre', 'apart'))
]


@functools.cache
def subject(name):
  """A model, parameters, a source with padding, a target's past, and what the model answers."""
  model, generator = MODELS[name](), np.random.default_rng(0)
  source, target = (generator.integers(0, VOCABULARY, (BATCH, n)).astype(np.int32)
                    for n in (SOURCE, TARGET))
  mask = np.arange(SOURCE)[None] < LENGTHS[:, None]
  tree = jax.jit(model.init)(jax.random.key(0), source, target)
  answer = jax.jit(lambda source, target, mask: model.apply(tree, source, target, mask=mask)[0])
  return model, tree, source, target, mask, answer


@pytest.mark.parametrize('name', NAMES)
@settings(deadline=None, max_examples=2)
@given(cuts=st.sets(st.integers(1, TARGET - 1)))
def test_a_target_in_pieces_is_answered_as_the_whole(name, cuts):
  model, tree, source, target, mask, answer = subject(name)
  encode = jax.jit(functools.partial(model.apply, method='encode', capacity=TARGET))
  decode = jax.jit(functools.partial(model.apply, method='decode'))
  state, outputs = encode(tree, source, mask=mask), []
  for piece in np.split(target, sorted(cuts), 1):
    before = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    y, state = decode(tree, piece, state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == before
    outputs.append(y)
  np.testing.assert_allclose(np.concatenate(outputs, 1), answer(source, target, mask), atol=2e-5)


@pytest.mark.parametrize('name', NAMES)
def test_a_padded_source_is_answered_as_the_source_alone(name):
  _, _, source, target, mask, answer = subject(name)
  whole = answer(source, target, mask)
  for b, length in enumerate(LENGTHS):
    alone = answer(source[b : b + 1, :length], target[b : b + 1], mask[b : b + 1, :length])
    np.testing.assert_allclose(whole[b : b + 1], alone, atol=2e-5)


@pytest.mark.parametrize('name', NAMES)
def test_every_source_token_counts_everywhere_and_a_target_token_from_its_place_on(name):
  _, _, source, target, mask, answer = subject(name)
  whole = np.asarray(answer(source, target, mask))
  for place in range(SOURCE):
    changed = source.copy()
    changed[:, place] = (source[:, place] + 1) % VOCABULARY
    moved = (np.asarray(answer(changed, target, mask)) != whole).any(-1)
    np.testing.assert_array_equal(moved, np.broadcast_to(mask[:, place, None], moved.shape))
  for place in range(TARGET):
    changed = target.copy()
    changed[:, place] = (target[:, place] + 1) % VOCABULARY
    moved = (np.asarray(answer(source, changed, mask)) != whole).any((0, 2))
    np.testing.assert_array_equal(moved, np.arange(TARGET) >= place)


@pytest.mark.parametrize('name', NAMES)
def test_every_parameter_has_a_gradient(name):
  model, tree, source, target, mask, _ = subject(name)

  @jax.jit
  @jax.grad
  def gradient(tree):
    y, _ = model.apply(tree, source, target, mask=mask)
    return jnp.sum(jnp.sin(jnp.arange(y.size, dtype=jnp.float32).reshape(y.shape) + y))

  for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(tree)):
    name = jax.tree_util.keystr(path)
    assert np.isfinite(leaf).all() and (np.abs(leaf).max() > 1e-7), name


def test_what_is_carried_is_all_that_the_decoder_knows_and_does_not_grow():
  model, tree, source, target, _, _ = subject('carried')
  encode = functools.partial(model.apply, tree, method='encode', capacity=TARGET)
  sizes = [jax.tree.map(jnp.shape, jax.eval_shape(encode, source[:, :n])) for n in (2, SOURCE)]
  assert sizes[0] == sizes[1]
  assert len(jax.tree.leaves(encode(source))) == 3  # h and c, then h
  turned = model.clone(reverse_source=False).apply(tree, source[:, ::-1], target)[0]
  np.testing.assert_allclose(model.apply(tree, source, target)[0], turned, atol=1e-6)


def test_layers_that_do_not_match_cannot_carry():
  wrong = EncoderDecoder(
    nn.Embed(VOCABULARY, WIDTH), Stack((Block(LSTM()),)), Stack((Block(GRU()),)), carry_state=True
  )
  _, _, source, target, _, _ = subject('carried')
  with pytest.raises(ValueError, match='layers as the decoder has them'):
    wrong.init(jax.random.key(0), source, target)


def test_embeddings_are_scaled_and_tied_to_the_output():
  model, tree, source, target, mask, _ = subject('transformer')
  assert set(tree['params']) == {'embedding', 'encoder', 'decoder', 'bridges_1', 'bridges_4'}
  matrix = tree['params']['embedding']['embedding']
  own = {'params': tree['params']['encoder']}
  stack = jax.jit(functools.partial(model.encoder.apply, own))
  place, _ = model.encoder.input_layer.apply({}, jnp.zeros((1, SOURCE, WIDTH)))
  memory, _ = stack(matrix[source] * WIDTH**0.5 + place, mask=mask)
  state = model.apply(tree, source, mask=mask, method='encode')
  source_projection = model.decoder.levels[1].source_projection
  own = {'params': tree['params']['bridges_1']}
  there = source_projection.apply(own, memory, mask)
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), state[1][1], there)
  doubled = jax.tree.map(lambda x: x, tree)
  doubled['params']['decoder']['level_5']['norm']['scale'] *= 2  # post-norm: the last thing done
  twice = model.apply(doubled, source, target, mask=mask)[0]
  np.testing.assert_allclose(twice, 2 * model.apply(tree, source, target, mask=mask)[0], atol=1e-4)


def test_dropout_falls_on_the_sums_of_embeddings_and_positions_in_training_only():
  model, tree, source, target, mask, answer = subject('transformer')
  model = model.clone(dropout=0.5)
  np.testing.assert_allclose(
    model.apply(tree, source, target, mask=mask)[0], answer(source, target, mask), atol=1e-5
  )
  with pytest.raises(flax.errors.InvalidRngError, match='dropout'):
    model.apply(tree, source, target, mask=mask, train=True)
  drawn = model.apply(tree, source, target, mask=mask, train=True,
                      rngs={'dropout': jax.random.key(0)})[0]
  assert np.abs(drawn - answer(source, target, mask)).max() > 1e-2


def counted(model):
  """The parameters of a model, as it makes them."""
  tokens = jnp.zeros((1, 1), jnp.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize('name', TABLE_3)
def test_a_row_of_table_3_has_the_parameters_that_are_counted_by_hand(name):
  row = TABLE_3[name]
  small = row.scaled(2, 32)
  assert counted(small.model(11)) == small.parameters(11)
  if name in ('base', 'big'):
    assert counted(row.model()) == row.parameters()
  assert implied_vocabulary(row, row.parameters(12345)) == 12345


def test_base_and_big_are_63_and_214_millions_as_counted_at_37_thousand_tokens():
  assert [round(TABLE_3[name].parameters() / 1e6) for name in ('base', 'big')] == [63, 214]


@pytest.mark.parametrize('name', ['base', 'A: 32 heads', 'B: d_k 16', 'C: d_model 256', 'big'])
def test_the_study_of_variations_trains_the_presets_own_model(name):
  row = TABLE_3[name]
  own = variation(row, width=64, depth=3, steps=10)
  run = Run(task='copy', feedforward='relu', block='post_norm', match='none', **own)
  task = TASKS['copy']()
  model = resolve(run).model
  preset = row.scaled(3, 64).model(task.inputs.size)
  for stack in ('encoder', 'decoder'):
    assert getattr(model, stack).levels == getattr(preset, stack).levels
  same = {'encoder': None, 'decoder': None}
  assert model.clone(**same) == preset.clone(**same)
