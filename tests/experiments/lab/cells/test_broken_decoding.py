"""Tests of decoding with a broken model, whose NaN logits end a sequence and are never a token."""

import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from experiments.lab.cells import artifacts
from experiments.lab.tasks.sequence_copying import Copy
from experiments.lab.training.loop import Member
from experiments.lab.training.recipe import Recipe
from experiments.lab.training.step import DecodedBatch
from tests.support import command
from tests.transformer.token_table import MAX_LENGTH, NUM_TOKENS, decode_table, random_table
from transformer import decoding
from transformer.attention import Attention
from transformer.block import Block
from transformer.model import DecoderOnly
from transformer.stack import Stack

END, PAD, KEY = NUM_TOKENS - 1, -1, jax.random.key(5)
SEARCHES = {
  'greedy': decoding.greedy_search,
  'sample': functools.partial(decoding.sample, key=KEY),
  'nucleus': functools.partial(decoding.sample, key=KEY, top_k=2, top_p=0.9),
  'cold': functools.partial(decoding.sample, key=KEY, temperature=0.0),
}
BROKEN_LOGITS = {
  'NaN': [np.nan, 1.0, 2.0], 'inf': [np.inf, 1.0, 2.0], 'nothing': [-np.inf] * 3,
  'all NaN': [np.nan] * 3,
}


def prefix_row(prefix):
  """The row of the table with the logits after a prefix."""
  return functools.reduce(lambda number, token: number * NUM_TOKENS + token, prefix, 1)


def table_without_end(seed):
  """A random table in which no sequence ends before its limit."""
  table = random_table(seed)
  table[:, END] = -np.inf
  return table


@pytest.mark.parametrize('logits', BROKEN_LOGITS.values(), ids=BROKEN_LOGITS)
@pytest.mark.parametrize('search', SEARCHES.values(), ids=SEARCHES)
def test_a_sequence_ends_before_logits_that_are_no_distribution(search, logits):
  table, limits = table_without_end(0), np.array([MAX_LENGTH, 2, 1, 0])
  intact = decode_table(search, table, limits, ())
  assert not intact.broken.any()
  first = np.asarray(intact.tokens)[0]
  table[prefix_row(first[:2])] = logits
  broken = decode_table(search, table, limits, ())
  # The other sequences ended before the broken row.
  np.testing.assert_array_equal(broken.broken, [True, False, False, False])
  np.testing.assert_array_equal(broken.tokens[0], [*first[:2], PAD, PAD])
  assert broken.lengths[0] == 2
  for actual, expected in zip(broken[:2], intact[:2], strict=True):
    np.testing.assert_array_equal(actual[1:], expected[1:])


@pytest.mark.parametrize('search', SEARCHES.values(), ids=SEARCHES)
def test_broken_logits_after_the_end_token_have_no_effect(search):
  table = random_table(2)
  table[1] = [-np.inf, -np.inf, 0]  # the first token is the end token
  intact = decode_table(search, table, np.full(2, MAX_LENGTH), ())
  table[prefix_row([END])] = np.nan
  broken = decode_table(search, table, np.full(2, MAX_LENGTH), ())
  assert not broken.broken.any()
  jax.tree.map(np.testing.assert_array_equal, broken, intact)


@pytest.mark.parametrize('logits', BROKEN_LOGITS.values(), ids=BROKEN_LOGITS)
def test_a_beam_with_logits_that_are_no_distribution_has_a_score_of_nan(logits):
  table, limits = table_without_end(1), np.array([MAX_LENGTH, 2])
  search = functools.partial(decoding.beam_search, beam_size=2)
  intact = decode_table(search, table, limits, ())
  assert np.isfinite(intact.scores).all()
  table[prefix_row(np.asarray(intact.tokens)[0, 0, :2])] = logits
  broken = decode_table(search, table, limits, ())
  assert np.isnan(broken.scores[0]).all()
  for actual, expected in zip(broken[:3], intact[:3], strict=True):
    np.testing.assert_array_equal(actual[1], expected[1])


@pytest.mark.parametrize('beam_size', [2, 9, 40])
def test_a_beam_is_affected_only_by_the_logits_of_its_hypotheses(beam_size):
  """Unused slots of a beam may contain any prefix, such as one that continues after the end."""
  table = random_table(3)
  search = functools.partial(decoding.beam_search, beam_size=beam_size)
  intact = decode_table(search, table, np.full(1, MAX_LENGTH), ())
  for length in range(1, MAX_LENGTH):
    for prefix in itertools.product(range(NUM_TOKENS), repeat=length):
      if END in prefix:
        table[prefix_row(prefix)] = np.nan
  broken = decode_table(search, table, np.full(1, MAX_LENGTH), ())
  jax.tree.map(np.testing.assert_array_equal, broken, intact)


@functools.cache
def attention_model():
  """A small attention model with its parameters."""
  model = DecoderOnly(nn.Embed(7, 8), Stack((Block(Attention(2)),)), nn.Dense(7))
  return model, jax.jit(model.init)(jax.random.key(0), np.zeros((2, 3), np.int32))


@functools.partial(jax.jit, static_argnums=(1, 2))
def decode(parameters, capacity, search):
  """Decodes 12 tokens with a cache of the given capacity."""
  model, _ = attention_model()
  state = model.initial_state(2, capacity, 8)
  return search(functools.partial(model.apply, parameters), state, jnp.array([1, 2]), 12, -1, PAD)


@pytest.mark.parametrize('search', [SEARCHES['greedy'], SEARCHES['nucleus']])
def test_a_full_cache_ends_a_sequence(search):
  _, parameters = attention_model()
  whole, short = decode(parameters, 12, search), decode(parameters, 5, search)
  assert not whole.broken.any() and short.broken.all()
  np.testing.assert_array_equal(short.lengths, 5)
  np.testing.assert_array_equal(short.tokens[:, :5], whole.tokens[:, :5])
  assert (short.tokens[:, 5:] == PAD).all()
  beam = functools.partial(decoding.beam_search, beam_size=3)
  assert np.isnan(decode(parameters, 5, beam).scores).all()


def test_a_model_with_an_infinite_weight_decodes_no_token():
  _, parameters = attention_model()
  kernel = parameters['params']['stack']['level_0']['layer']['projection']['kernel']
  broken = jax.tree.map(lambda p: p.at[0, 0, 0].set(jnp.inf) if p is kernel else p, parameters)
  decoded = decode(broken, 12, decoding.greedy_search)
  assert decoded.broken.all() and not decoded.lengths.any()


def test_a_member_with_broken_translations_has_no_score():
  """The member counts as diverged only if translations of its own task are broken."""
  task = Copy(max_length=2, alphabet_size=2)
  tasks = task, task.extrapolation_task(3)
  trained = [Member(seed, 0.1, 'finished', test=1.0) for seed in range(3)]
  broken_members = iter([[False, True, False], [True, True, False]])

  def fake_decode(states, batch, active):
    one = np.ones(3, np.float32)
    broken = np.broadcast_to(np.array(next(broken_members))[:, None], (3, len(batch.source)))
    return DecodedBatch((one, one), (one, one), np.tile(batch.target, (3, 1, 1)), broken)

  training = types.SimpleNamespace(recipe=Recipe(batch_size=4, test_batches=1))
  ensemble = types.SimpleNamespace(
    training=training, decode=fake_decode, gather_from_devices=lambda x: x)
  artifacts.collect_translations(ensemble, tasks, trained, None, np.ones(3, bool))
  assert [m.status for m in trained] == ['finished', 'diverged', 'finished']
  np.testing.assert_array_equal([m.test for m in trained], [1, np.nan, 1])
  np.testing.assert_array_equal([m.extrapolation[0] for m in trained], [np.nan, np.nan, 1])


def test_a_checkpoint_whose_products_overflow_is_reported_in_one_line(tmp_path):
  other_models = pytest.importorskip('tests.experiments.convert.other_models')
  from experiments.convert import __main__ as convert

  tensors = other_models.random_checkpoint_tensors(other_models.GPT2)
  tensors['h.0.mlp.c_fc.weight'][0, 0] = 3e38  # finite, but its products are not
  folder = other_models.write_checkpoint(tmp_path, other_models.GPT2, tensors)
  done = command.run_command(convert, f'--checkpoint={folder}', '--prompt_ids=1,2', '--generate=4')
  assert done.code == 2 and 'no finite scores after 0 new tokens' in done.err
  assert done.err.count('\n') == 1
