"""Decoding with a model that is broken: no NaN becomes a token, and what ends is marked."""

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
from experiments.lab.training.step import Answer
from tests.support import command
from tests.transformer.token_table import PLACES, TINY, over_table, table_of
from transformer import decoding
from transformer.attention import Attention
from transformer.block import Block
from transformer.model import DecoderOnly
from transformer.stack import Stack

END, PAD, KEY = TINY - 1, -1, jax.random.key(5)
WRITERS = {
  'greedy': decoding.greedy,
  'sample': functools.partial(decoding.sample, key=KEY),
  'nucleus': functools.partial(decoding.sample, key=KEY, top_k=2, top_p=0.9),
  'cold': functools.partial(decoding.sample, key=KEY, temperature=0.0),
}
BROKEN = {
  'NaN': [np.nan, 1.0, 2.0], 'inf': [np.inf, 1.0, 2.0], 'nothing': [-np.inf] * 3,
  'all NaN': [np.nan] * 3,
}


def code(prefix):
  """The row of the table that says what follows a prefix."""
  return functools.reduce(lambda number, token: number * TINY + token, prefix, 1)


def endless(seed):
  """A table in which no sequence ends before its limit."""
  table = table_of(seed)
  table[:, END] = -np.inf
  return table


@pytest.mark.parametrize('logits', BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize('how', WRITERS.values(), ids=WRITERS)
def test_a_sequence_ends_before_logits_that_are_no_distribution(how, logits):
  table, limits = endless(0), np.array([PLACES, 2, 1, 0])
  whole = over_table(how, table, limits, ())
  assert not whole.broken.any()
  first = np.asarray(whole.tokens)[0]
  table[code(first[:2])] = logits
  found = over_table(how, table, limits, ())
  np.testing.assert_array_equal(found.broken, [True, False, False, False])  # as they ended before
  np.testing.assert_array_equal(found.tokens[0], [*first[:2], PAD, PAD])
  assert found.lengths[0] == 2
  for got, expected in zip(found[:2], whole[:2], strict=True):
    np.testing.assert_array_equal(got[1:], expected[1:])


@pytest.mark.parametrize('how', WRITERS.values(), ids=WRITERS)
def test_what_lies_behind_the_end_breaks_nothing(how):
  table = table_of(2)
  table[1] = [-np.inf, -np.inf, 0]  # the end at once
  whole = over_table(how, table, np.full(2, PLACES), ())
  table[code([END])] = np.nan
  found = over_table(how, table, np.full(2, PLACES), ())
  assert not found.broken.any()
  jax.tree.map(np.testing.assert_array_equal, found, whole)


@pytest.mark.parametrize('logits', BROKEN.values(), ids=BROKEN)
def test_a_beam_that_meets_no_distribution_scores_nan(logits):
  table, limits = endless(1), np.array([PLACES, 2])
  search = functools.partial(decoding.beam_search, beam_size=2)
  whole = over_table(search, table, limits, ())
  assert np.isfinite(whole.scores).all()
  table[code(np.asarray(whole.tokens)[0, 0, :2])] = logits
  found = over_table(search, table, limits, ())
  assert np.isnan(found.scores[0]).all()
  for got, expected in zip(found[:3], whole[:3], strict=True):
    np.testing.assert_array_equal(got[1], expected[1])


@pytest.mark.parametrize('beam_size', [2, 9, 40])
def test_a_beam_minds_only_what_its_hypotheses_read(beam_size):
  """Places of a beam that hold no hypothesis read anything, such as what follows an end."""
  table = table_of(3)
  search = functools.partial(decoding.beam_search, beam_size=beam_size)
  whole = over_table(search, table, np.full(1, PLACES), ())
  for length in range(1, PLACES):
    for prefix in itertools.product(range(TINY), repeat=length):
      if END in prefix:
        table[code(prefix)] = np.nan
  found = over_table(search, table, np.full(1, PLACES), ())
  jax.tree.map(np.testing.assert_array_equal, found, whole)


@functools.cache
def attending():
  model = DecoderOnly(nn.Embed(7, 8), Stack((Block(Attention(2)),)), nn.Dense(7))
  return model, jax.jit(model.init)(jax.random.key(0), np.zeros((2, 3), np.int32))


@functools.partial(jax.jit, static_argnums=(1, 2))
def written(parameters, room, how):
  model, _ = attending()
  state = model.initial_state(2, room, 8)
  return how(functools.partial(model.apply, parameters), state, jnp.array([1, 2]), 12, -1, PAD)


@pytest.mark.parametrize('how', [WRITERS['greedy'], WRITERS['nucleus']])
def test_a_cache_without_room_ends_the_answer(how):
  _, parameters = attending()
  whole, short = written(parameters, 12, how), written(parameters, 5, how)
  assert not whole.broken.any() and short.broken.all()
  np.testing.assert_array_equal(short.lengths, 5)
  np.testing.assert_array_equal(short.tokens[:, :5], whole.tokens[:, :5])
  assert (short.tokens[:, 5:] == PAD).all()
  beam = functools.partial(decoding.beam_search, beam_size=3)
  assert np.isnan(written(parameters, 5, beam).scores).all()


def test_an_infinite_weight_writes_nothing():
  _, parameters = attending()
  kernel = parameters['params']['stack']['level_0']['layer']['projection']['kernel']
  broken = jax.tree.map(lambda p: p.at[0, 0, 0].set(jnp.inf) if p is kernel else p, parameters)
  found = written(broken, 12, decoding.greedy)
  assert found.broken.all() and not found.lengths.any()


def test_a_member_whose_answers_break_has_no_score():
  """On its own task it has diverged; elsewhere the score is missing there alone."""
  task = Copy(max_length=2, alphabet_size=2)
  tasks, trained = (task, task.beyond(3)), [Member(seed, 0.1, 'finished', test=1.0)
                                            for seed in range(3)]
  asked = iter([[False, True, False], [True, True, False]])

  def answer(states, batch, active):
    one = np.ones(3, np.float32)
    broken = np.broadcast_to(np.array(next(asked))[:, None], (3, len(batch.source)))
    return Answer((one, one), (one, one), np.tile(batch.target, (3, 1, 1)), broken)

  training = types.SimpleNamespace(recipe=Recipe(batch_size=4, test_batches=1))
  ensemble = types.SimpleNamespace(training=training, answer=answer, gather=lambda x: x)
  artifacts.answered(ensemble, tasks, trained, None, np.ones(3, bool))
  assert [m.status for m in trained] == ['finished', 'diverged', 'finished']
  np.testing.assert_array_equal([m.test for m in trained], [1, np.nan, 1])
  np.testing.assert_array_equal([m.extrapolation[0] for m in trained], [np.nan, np.nan, 1])


def test_a_checkpoint_that_overflows_is_said_in_one_line(tmp_path):
  other_models = pytest.importorskip('other_models')
  from experiments.convert import __main__ as convert

  tensors = other_models.tensors_of(other_models.GPT2)
  tensors['h.0.mlp.c_fc.weight'][0, 0] = 3e38  # finite, but not its products
  folder = other_models.checkpoint(tmp_path, other_models.GPT2, tensors)
  done = command.run(convert, f'--checkpoint={folder}', '--prompt_ids=1,2', '--generate=4')
  assert done.code == 2 and 'no finite scores after 0 new tokens' in done.err
  assert done.err.count('\n') == 1
