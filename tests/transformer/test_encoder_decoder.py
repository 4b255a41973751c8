"""Encoder-decoder models, the state between encoder and decoder, and the presets of the paper."""

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
from experiments.lab.cells.experiment import create_experiment
from experiments.lab.cells.run import Run
from experiments.lab.tasks import TASKS
from experiments.variations.tables import settings_of_vaswani_table_3_row
from transformer.attention import Attention
from transformer.block import Block
from transformer.cross_attention import CrossAttention
from transformer.feedforward import FeedForward
from transformer.model import EncoderDecoder
from transformer.positions import POSITIONS
from transformer.presets import TABLE_3, infer_vocabulary_size
from transformer.stack import Stack

BATCH, SOURCE, TARGET, WIDTH, VOCABULARY = 3, 6, 4, 8, 7
LENGTHS = np.array([6, 3, 4])


def transformer_model(norm='post', positions='sinusoidal', **options):
  """An encoder and a decoder of two blocks each."""
  attention = Attention(2, POSITIONS[positions]())
  stack = lambda *layers: Stack(tuple(Block(l, norm=norm) for l in layers), 2)  # noqa: E731, E741
  return EncoderDecoder(
    nn.Embed(VOCABULARY, WIDTH),
    encoder=stack(attention.bidirectional_version, FeedForward('relu')),
    decoder=stack(attention, CrossAttention(2), FeedForward('relu')),
    normalization=nn.LayerNorm() if norm == 'pre' else None,
    **options,
  )


def state_carrying_model(**options):
  """A model of two recurrent levels whose decoder starts from the encoder's final states."""
  stack = Stack((Block(LSTM()), Block(GRU())))
  return EncoderDecoder(nn.Embed(VOCABULARY, WIDTH), stack, stack, carry_state=True, **options)


MODELS = {
  'transformer': transformer_model,
  'pre': functools.partial(transformer_model, 'pre', 'learned'),
  'carried': functools.partial(state_carrying_model, reverse_source=True),
  'apart': functools.partial(
    transformer_model, target_embedding=nn.Embed(VOCABULARY, WIDTH), head=nn.Dense(VOCABULARY)
  ),
}


NAMES = [
  'transformer', 'carried', *(pytest.param(n, marks=pytest.mark.slow) for n in ('pre', 'apart'))
]


@functools.cache
def initialized_model(name):
  """Returns a model, parameters, a padded source, a target, a mask and the output function."""
  model, generator = MODELS[name](), np.random.default_rng(0)
  source, target = (generator.integers(0, VOCABULARY, (BATCH, n)).astype(np.int32)
                    for n in (SOURCE, TARGET))
  mask = np.arange(SOURCE)[None] < LENGTHS[:, None]
  tree = jax.jit(model.init)(jax.random.key(0), source, target)
  outputs = jax.jit(lambda source, target, mask: model.apply(tree, source, target, mask=mask)[0])
  return model, tree, source, target, mask, outputs


@pytest.mark.parametrize('name', NAMES)
@settings(deadline=None, max_examples=2)
@given(cuts=st.sets(st.integers(1, TARGET - 1)))
def test_a_target_in_chunks_has_the_outputs_of_one_call(name, cuts):
  model, tree, source, target, mask, outputs = initialized_model(name)
  encode = jax.jit(functools.partial(model.apply, method='encode', capacity=TARGET))
  decode = jax.jit(functools.partial(model.apply, method='decode'))
  state, chunks = encode(tree, source, mask=mask), []
  for chunk in np.split(target, sorted(cuts), 1):
    before = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    y, state = decode(tree, chunk, state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == before
    chunks.append(y)
  np.testing.assert_allclose(np.concatenate(chunks, 1), outputs(source, target, mask), atol=2e-5)


@pytest.mark.parametrize('name', NAMES)
def test_a_padded_source_has_the_outputs_of_the_unpadded_source(name):
  _, _, source, target, mask, outputs = initialized_model(name)
  batch_outputs = outputs(source, target, mask)
  for b, length in enumerate(LENGTHS):
    row = slice(b, b + 1)
    row_outputs = outputs(source[row, :length], target[row], mask[row, :length])
    np.testing.assert_allclose(batch_outputs[row], row_outputs, atol=2e-5)


@pytest.mark.parametrize('name', NAMES)
def test_outputs_depend_on_all_source_tokens_and_earlier_target_tokens(name):
  _, _, source, target, mask, outputs = initialized_model(name)
  expected = np.asarray(outputs(source, target, mask))
  for position in range(SOURCE):
    changed = source.copy()
    changed[:, position] = (source[:, position] + 1) % VOCABULARY
    differs = (np.asarray(outputs(changed, target, mask)) != expected).any(-1)
    np.testing.assert_array_equal(
      differs, np.broadcast_to(mask[:, position, None], differs.shape))
  for position in range(TARGET):
    changed = target.copy()
    changed[:, position] = (target[:, position] + 1) % VOCABULARY
    differs = (np.asarray(outputs(source, changed, mask)) != expected).any((0, 2))
    np.testing.assert_array_equal(differs, np.arange(TARGET) >= position)


@pytest.mark.parametrize('name', NAMES)
def test_every_parameter_has_a_gradient(name):
  model, tree, source, target, mask, _ = initialized_model(name)

  @jax.jit
  @jax.grad
  def loss_gradient(tree):
    y, _ = model.apply(tree, source, target, mask=mask)
    return jnp.sum(jnp.sin(jnp.arange(y.size, dtype=jnp.float32).reshape(y.shape) + y))

  for path, leaf in jax.tree_util.tree_leaves_with_path(loss_gradient(tree)):
    name = jax.tree_util.keystr(path)
    assert np.isfinite(leaf).all() and (np.abs(leaf).max() > 1e-7), name


def test_a_carried_state_has_a_constant_size():
  model, tree, source, target, _, _ = initialized_model('carried')
  encode = functools.partial(model.apply, tree, method='encode', capacity=TARGET)
  sizes = [jax.tree.map(jnp.shape, jax.eval_shape(encode, source[:, :n])) for n in (2, SOURCE)]
  assert sizes[0] == sizes[1]
  assert len(jax.tree.leaves(encode(source))) == 3  # h and c of the LSTM, h of the GRU
  expected = model.clone(reverse_source=False).apply(tree, source[:, ::-1], target)[0]
  np.testing.assert_allclose(model.apply(tree, source, target)[0], expected, atol=1e-6)


def test_carried_states_of_unequal_shapes_raise_an_error():
  wrong = EncoderDecoder(
    nn.Embed(VOCABULARY, WIDTH), Stack((Block(LSTM()),)), Stack((Block(GRU()),)), carry_state=True
  )
  _, _, source, target, _, _ = initialized_model('carried')
  with pytest.raises(ValueError, match='needs encoder states of the same shapes'):
    wrong.init(jax.random.key(0), source, target)


def test_embeddings_are_scaled_and_tied_to_the_output():
  model, tree, source, target, mask, _ = initialized_model('transformer')
  assert set(tree['params']) == {'embedding', 'encoder', 'decoder', 'bridges_1', 'bridges_4'}
  matrix = tree['params']['embedding']['embedding']
  encoder_parameters = {'params': tree['params']['encoder']}
  encode = jax.jit(functools.partial(model.encoder.apply, encoder_parameters))
  positions, _ = model.encoder.input_layer.apply({}, jnp.zeros((1, SOURCE, WIDTH)))
  memory, _ = encode(matrix[source] * WIDTH**0.5 + positions, mask=mask)
  state = model.apply(tree, source, mask=mask, method='encode')
  source_projection = model.decoder.all_layers[1].source_projection
  projection_parameters = {'params': tree['params']['bridges_1']}
  expected = source_projection.apply(projection_parameters, memory, mask)
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), state[1][1], expected)
  doubled = jax.tree.map(lambda x: x, tree)
  doubled['params']['decoder']['level_5']['norm']['scale'] *= 2  # the norm is the last operation
  y = model.apply(doubled, source, target, mask=mask)[0]
  np.testing.assert_allclose(y, 2 * model.apply(tree, source, target, mask=mask)[0], atol=1e-4)


def test_dropout_of_embedding_sums_is_active_in_training_only():
  model, tree, source, target, mask, outputs = initialized_model('transformer')
  model = model.clone(dropout=0.5)
  np.testing.assert_allclose(
    model.apply(tree, source, target, mask=mask)[0], outputs(source, target, mask), atol=1e-5
  )
  with pytest.raises(flax.errors.InvalidRngError, match='dropout'):
    model.apply(tree, source, target, mask=mask, train=True)
  dropped = model.apply(tree, source, target, mask=mask, train=True,
                      rngs={'dropout': jax.random.key(0)})[0]
  assert np.abs(dropped - outputs(source, target, mask)).max() > 1e-2


def count_initialized_parameters(model):
  """The number of parameters that the initialization of a model creates."""
  tokens = jnp.zeros((1, 1), jnp.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize('name', TABLE_3)
def test_parameter_counts_of_table_3_match_the_models(name):
  row = TABLE_3[name]
  small = row.rescale_for_new_base_size(2, 32)
  assert count_initialized_parameters(small.build_model(11)) == small.count_parameters(11)
  if name in ('base', 'big'):
    assert count_initialized_parameters(row.build_model()) == row.count_parameters()
  assert infer_vocabulary_size(row, row.count_parameters(12345)) == 12345


def test_base_and_big_have_63_and_214_million_parameters():
  assert [round(TABLE_3[name].count_parameters() / 1e6) for name in ('base', 'big')] == [63, 214]


@pytest.mark.parametrize('name', ['base', 'A: 32 heads', 'B: d_k 16', 'C: d_model 256', 'big'])
def test_variations_study_trains_the_preset_model(name):
  row = TABLE_3[name]
  settings_of_row = settings_of_vaswani_table_3_row(row, width=64, depth=3, steps=10)
  run = Run(task='copy', feedforward='relu', block='post_norm', match='none', **settings_of_row)
  task = TASKS['copy']()
  model = create_experiment(run).model
  preset = row.rescale_for_new_base_size(3, 64).build_model(task.input_space.size)
  for stack in ('encoder', 'decoder'):
    assert getattr(model, stack).all_layers == getattr(preset, stack).all_layers
  without_stacks = {'encoder': None, 'decoder': None}
  assert model.clone(**without_stacks) == preset.clone(**without_stacks)
