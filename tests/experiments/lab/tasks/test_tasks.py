"""What each task promises beyond the contract: layout, distribution, published numbers."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.lab.tasks import draws
from experiments.lab.tasks.adding import Adding
from experiments.lab.tasks.copy_memory import CopyMemory
from experiments.lab.tasks.flip_flop import IGNORE, READ, WRITE, FlipFlop
from experiments.lab.tasks.induction_heads import InductionHeads
from experiments.lab.tasks.recall import Recall
from experiments.lab.tasks.selective_copying import SelectiveCopying
from experiments.lab.tasks.task import SPLITS
from experiments.lab.tasks.text import SMALLEST_SPLIT, Text, read_corpus, split_of

few = settings(max_examples=8, deadline=None)  # every example has new shapes to compile


def numpy_batch(task, split='train', index=0, batch_size=256):
  """A batch, out of JAX, compiled as a whole: that is quicker than one operation at a time."""
  batch = jax.jit(task.batch, static_argnums=(0, 2))
  return jax.tree.map(np.asarray, batch(split, index, batch_size))


def mean_loss(task, answer, batch):
  """The published average: over all positions that count."""
  return np.sum(batch.weight * task.loss(answer(batch.source), batch)) / np.sum(batch.weight)


# Draws


@pytest.mark.parametrize('count, population', [(1, 1), (1, 5), (3, 5), (4, 4)])
def test_lehmer_codes_and_arrangements_are_one_to_one(count, population):
  codes = itertools.product(*(range(population - i) for i in range(count)))
  decoded = draws.arrangement(jnp.array(list(codes)))
  arrangements = set(itertools.permutations(range(population), count))
  assert len(decoded) == len(arrangements)
  assert set(map(tuple, decoded.tolist())) == arrangements


@few
@given(st.integers(1, 12), st.integers(0, 5000), st.integers(0, 2**31 - 1))
def test_distinct_draws_are_distinct(count, more, seed):
  drawn = np.asarray(draws.distinct(jax.random.key(seed), 4, count, count + more))
  assert drawn.min() >= 0
  assert drawn.max() < count + more
  assert all(len(set(row)) == count for row in drawn.tolist())


def test_weighted_draws_follow_their_weights_one_after_the_other():
  weights, size = np.array([8.0, 4.0, 2.0, 1.0]), 20_000
  drawn = draws.distinct_weighted(jax.random.key(0), size, 2, jnp.log(weights))
  seen = np.zeros((4, 4))
  np.add.at(seen, tuple(np.asarray(drawn).T), 1)
  first = weights / weights.sum()
  then = weights[None] / (weights.sum() - weights)[:, None]
  expected = size * first[:, None] * then * (1 - np.eye(4))
  assert_chi_square(seen[expected > 0], expected[expected > 0])


def assert_chi_square(seen, expected):
  """Counts agree with their expectation, up to five standard deviations of chi-square."""
  freedom = seen.size - 1
  statistic = np.sum((seen - expected) ** 2 / expected)
  assert statistic < freedom + 5 * math.sqrt(2 * freedom)


# Recall


@st.composite
def recalls(draw):
  """Any setting that Recall accepts, up to some size."""
  num_pairs = draw(st.integers(1, 6))
  length = 2 * draw(st.integers(2 * num_pairs, 24))
  vocabulary_size = draw(st.integers(2 * num_pairs + 2, 40))
  return Recall(length, num_pairs, vocabulary_size, random_non_queries=draw(st.booleans()))


@few
@given(recalls(), st.sampled_from(SPLITS), st.integers(0, 1000))
def test_recall_asks_each_key_once_for_its_value(task, split, index):
  middle, pairs = task.vocabulary_size // 2, 2 * task.num_pairs
  for source, target, weight in zip(*numpy_batch(task, split, index, 8), strict=True):
    stated = dict(zip(source[:pairs:2], source[1:pairs:2], strict=True))
    assert len(stated) == len(set(stated.values())) == task.num_pairs
    assert all(1 <= key < middle <= value for key, value in stated.items())
    asked = np.flatnonzero(weight)
    assert sorted(source[asked]) == sorted(stated)
    assert all(stated[source[at]] == target[at] for at in asked)
    assert np.all(asked >= pairs)
    assert np.all(asked % 2 == 0)
    assert not np.any(target[weight == 0])
    assert task.random_non_queries or not np.any(source[pairs:][weight[pairs:] == 0])


def test_recall_gaps_follow_the_power_law_in_the_order_of_the_keys():
  """Against NumPy's sampler, which the published generator calls."""
  task, size = Recall(length=24, num_pairs=3, vocabulary_size=20, power=0.01), 4000
  source, _, weight = numpy_batch(task, batch_size=size)
  space = np.arange(1, (task.length - 6) // 2 + 1)
  weights = task.power * space ** (task.power - 1)
  generator = np.random.default_rng(0)
  published = np.stack([generator.choice(space.size, 3, replace=False, p=weights / weights.sum())
                        for _ in range(size)])
  for which in range(3):  # gap of the first, second and third key
    at = np.argmax(weight * (source == source[:, 2 * which, None]), 1)
    ours = np.bincount((at - 6) // 2, minlength=space.size)
    theirs = np.bincount(published[:, which], minlength=space.size)
    # Two samples of one size: their difference has twice the variance of either.
    assert_chi_square((ours - theirs) / math.sqrt(2) + (ours + theirs) / 2, (ours + theirs) / 2)


def test_recall_fills_with_tokens_of_the_whole_vocabulary():
  task = Recall(length=64, num_pairs=2, vocabulary_size=12, random_non_queries=True)
  source, _, weight = numpy_batch(task, batch_size=512)
  filled = source[:, 4:][weight[:, 4:] == 0]
  assert_chi_square(np.bincount(filled, minlength=12), np.full(12, filled.size / 12))


def test_recall_in_proportion_meets_the_published_settings():
  task = Recall()
  assert (task.length, task.num_pairs, task.vocabulary_size, task.power) == (64, 4, 8192, 0.01)
  assert [task.at(length).num_pairs for length in (128, 256)] == [8, 16]


# Copy memory


@few
@given(st.sampled_from(['arjovsky', 'bai']), st.integers(1, 40), st.integers(1, 12))
def test_copy_memory_layout(variant, delay, num_symbols):
  task = CopyMemory(delay, variant, num_symbols)
  source, target, weight = numpy_batch(task, batch_size=4)
  signal = [9] + num_symbols * [9 if variant == 'bai' else 0]
  assert source.shape == target.shape == (4, delay + 2 * num_symbols)
  assert np.all(weight == 1)
  for read, answer in zip(source, target, strict=True):
    symbols = read[:num_symbols]
    assert set(symbols) <= set(range(1, 9))
    np.testing.assert_array_equal(read[num_symbols:], (delay - 1) * [0] + signal)
    np.testing.assert_array_equal(answer, (delay + num_symbols) * [0] + list(symbols))


@pytest.mark.parametrize('variant', ['arjovsky', 'bai'])
def test_copy_memory_distance_is_exact(variant):
  """Each answer moves with the one token `distance` steps before it, and with no other."""
  task = CopyMemory(delay=7, variant=variant, num_symbols=4)
  source = jnp.asarray(numpy_batch(task, batch_size=1).source)
  answer = jnp.argmax(task.oracle(source), -1)
  for at in range(source.shape[1]):
    other = source.at[0, at].set(source[0, at] % 8 + 1)
    moved = np.flatnonzero(jnp.argmax(task.oracle(other), -1)[0] != answer[0])
    assert moved.tolist() == ([at + task.distance] if at < task.num_symbols else [])


@pytest.mark.parametrize('variant', ['arjovsky', 'bai'])
@pytest.mark.parametrize('delay', [100, 1000])
def test_copy_memory_guess_has_the_published_loss(delay, variant):
  task = CopyMemory(delay, variant)
  loss = mean_loss(task, task.baseline, numpy_batch(task, batch_size=2))
  assert loss == pytest.approx(10 * math.log(8) / (delay + 20), rel=1e-5)


def test_copy_memory_counts_the_recalled_symbols_alone():
  task = CopyMemory(delay=30)
  batch = numpy_batch(task, batch_size=8)
  blank = jax.nn.one_hot(jnp.zeros_like(batch.target), task.outputs.size)
  assert task.measure(blank, batch) == (0, 80)


# Adding


@few
@given(st.sampled_from(['arjovsky', 'bai']), st.integers(2, 41), st.integers(0, 1000))
def test_adding_sums_two_marked_values(variant, length, index):
  task = Adding(length, variant)
  source, target, weight = numpy_batch(task, 'train', index, 8)
  value, marker = source[..., 0], source[..., 1]
  assert np.all((value >= 0) & (value < 1))
  assert set(np.unique(marker)) <= {0, 1}
  assert np.all(marker.sum(1) == 2)
  np.testing.assert_allclose(target[:, -1, 0], (value * marker).sum(1), rtol=1e-6)
  np.testing.assert_array_equal(weight, np.eye(length)[[-1] * 8])
  if variant == 'arjovsky':
    half = length // 2
    assert np.all(marker[:, :half].sum(1) == 1)
    assert np.all(marker[:, half : 2 * half].sum(1) == 1)


def test_adding_marks_any_two_steps_equally_often():
  marker = numpy_batch(Adding(6, 'bai'), batch_size=6000).source[..., 1]
  pairs = np.nonzero(marker)[1].reshape(-1, 2) @ [6, 1]
  expected = [6 * i + j for i, j in itertools.combinations(range(6), 2)]
  assert_chi_square(np.bincount(pairs, minlength=36)[expected], np.full(15, 6000 / 15))


# Selective copying


@few
@given(st.integers(1, 12), st.integers(0, 30), st.integers(4, 20), st.integers(0, 1000))
def test_selective_copying_repeats_what_is_not_blank(num_tokens, blanks, vocabulary_size, index):
  task = SelectiveCopying(num_tokens + blanks, num_tokens, vocabulary_size)
  marker = vocabulary_size - 1
  for source, target, weight in zip(*numpy_batch(task, 'train', index, 8), strict=True):
    context, markers = np.split(source, [num_tokens + blanks])
    symbols = context[context != 0]
    assert set(symbols) <= set(range(1, marker))
    np.testing.assert_array_equal(markers, [marker] * num_tokens)
    np.testing.assert_array_equal(target[weight == 1], symbols)
    np.testing.assert_array_equal(weight, source == marker)


def test_selective_copying_scatters_evenly():
  source = numpy_batch(SelectiveCopying(6, 2), batch_size=6000).source[:, :6]
  pairs = np.nonzero(source)[1].reshape(-1, 2) @ [6, 1]
  expected = [6 * i + j for i, j in itertools.combinations(range(6), 2)]
  assert_chi_square(np.bincount(pairs, minlength=36)[expected], np.full(15, 6000 / 15))


# Induction heads


@few
@given(st.integers(3, 40), st.integers(3, 20), st.integers(0, 1000))
def test_induction_asks_for_what_followed_the_only_trigger(length, vocabulary_size, index):
  task = InductionHeads(length, vocabulary_size)
  source, target, weight = numpy_batch(task, 'train', index, 8)
  np.testing.assert_array_equal(weight, np.eye(length)[[-1] * 8])
  for read, answer in zip(source, target[:, -1], strict=True):
    first, last = np.flatnonzero(read == 0)
    assert last == length - 1
    assert read[first + 1] == answer != 0


def test_induction_places_the_trigger_evenly():
  source = numpy_batch(InductionHeads(8), batch_size=6000).source
  assert_chi_square(np.bincount(np.argmax(source == 0, 1)), np.full(6, 6000 / 6))


# Flip-flop


@few
@given(st.integers(2, 30), st.floats(0, 1), st.integers(0, 1000))
def test_flip_flop_reads_what_was_written_last(half, ignore, index):
  for source, target, weight in zip(
    *numpy_batch(FlipFlop(2 * half, ignore), 'train', index, 8), strict=True
  ):
    instructions, bits, written = source[::2].tolist(), source[1::2].tolist(), None
    assert instructions[0] == WRITE and instructions[-1] == READ
    for place, (instruction, bit) in enumerate(zip(instructions, bits, strict=True)):
      written = bit if instruction == WRITE else written
      assert weight[2 * place] == (instruction == READ) and weight[2 * place + 1] == 0
      assert instruction != READ or target[2 * place] == bit == written


@pytest.mark.parametrize('ignore', [0.1, 0.8, 0.98])
def test_flip_flop_draws_instructions_with_their_probabilities(ignore):
  source = numpy_batch(FlipFlop(102, ignore), batch_size=1000).source
  seen = np.bincount(source[:, 2:-2:2].ravel(), minlength=5)
  expected = source[:, 2:-2:2].size * np.array([(1 - ignore) / 2, (1 - ignore) / 2, ignore])
  assert_chi_square(seen[[WRITE, READ, IGNORE]], expected)
  free = source[:, 1::2][source[:, ::2] != READ]
  assert_chi_square(np.bincount(free), np.full(2, free.size / 2))


# Text


def test_text_splits_by_file():
  corpus = Text().corpus
  files = {split: set(corpus.files[split]) for split in SPLITS}
  assert all(split_of(name) == split for split in SPLITS for name in files[split])
  assert not any(files[a] & files[b] for a, b in itertools.combinations(SPLITS, 2))
  every = set().union(*files.values())
  assert 'typing.py' in every
  assert not any(name.startswith(('test', '_sysconfigdata')) for name in every)
  sizes = np.array([corpus.data[split].size for split in SPLITS])
  assert 0.6 < sizes[0] / sizes.sum() < 0.95


@few
@given(st.sampled_from(SPLITS), st.integers(2, 300), st.integers(0, 1000))
def test_text_crops_come_from_their_split(split, length, index):
  task = Text(length)
  source, target, _ = numpy_batch(task, split, index, 4)
  whole = task.corpus.data[split].tobytes()
  for read, answer in zip(source, target, strict=True):
    assert bytes([*read, answer[-1]]) in whole
    np.testing.assert_array_equal(read[1:], answer[:-1])


def write_library(folder, size):
  """A library with a module in each split: names are real, for only those are read."""
  names = ['ast.py', 'bisect.py', 'typing.py']
  assert {split_of(name) for name in names} == set(SPLITS)
  for name in names:
    (folder / name).write_bytes(name.encode() * (size // len(name) + 1))
  return str(folder)


def test_text_digest_names_the_bytes_that_count(tmp_path):
  folder = write_library(tmp_path, SMALLEST_SPLIT)
  digest = read_corpus(folder).digest
  (tmp_path / 'not_of_the_library.py').write_text('installed later')
  assert read_corpus.__wrapped__(folder).digest == digest
  (tmp_path / 'ast.py').write_bytes(b'x' * SMALLEST_SPLIT)
  assert read_corpus.__wrapped__(folder).digest != digest


@pytest.mark.parametrize('size', [None, 10])
def test_text_says_what_is_missing(tmp_path, size):
  folder = str(tmp_path / 'absent') if size is None else write_library(tmp_path, size)
  with pytest.raises(OSError, match='install Python with its library') as failure:
    read_corpus(folder)
  assert '\n' not in str(failure.value)


def test_text_chance_is_worse_than_the_test_splits_own_entropy():
  task = Text()
  frequency = np.bincount(task.corpus.data['test'], minlength=256) / task.corpus.data['test'].size
  entropy = -np.sum(frequency * np.log2(np.where(frequency > 0, frequency, 1)))
  assert entropy < task.chance < entropy + 0.2


# Settings that make no sense


BAD = [
  (Recall, {'length': 63}, 'length=63'),
  (Recall, {'length': 2}, 'length=2'),
  (Recall, {'num_pairs': 17}, '1 to 16'),
  (Recall, {'num_pairs': 0}, 'num_pairs=0'),
  (Recall, {'vocabulary_size': 8}, '1 to 3'),
  (Recall, {'vocabulary_size': 3}, 'vocabulary_size=3'),
  (CopyMemory, {'variant': 'hochreiter'}, 'arjovsky, bai'),
  (CopyMemory, {'delay': 0}, 'delay=0'),
  (CopyMemory, {'num_symbols': 0}, 'num_symbols=0'),
  (Adding, {'variant': 'hochreiter'}, 'arjovsky, bai'),
  (Adding, {'length': 1}, 'length=1'),
  (SelectiveCopying, {'num_tokens': 0}, 'num_tokens=0'),
  (SelectiveCopying, {'length': 8}, '1 to 8'),
  (SelectiveCopying, {'vocabulary_size': 3}, 'vocabulary_size=3'),
  (InductionHeads, {'length': 2}, 'length=2'),
  (InductionHeads, {'vocabulary_size': 2}, 'vocabulary_size=2'),
  (FlipFlop, {'length': 2}, 'length=2'),
  (FlipFlop, {'length': 7}, 'length=7'),
  (FlipFlop, {'ignore': 1.5}, 'ignore=1.5'),
  (FlipFlop, {'ignore': float('nan')}, 'ignore=nan'),
  (Text, {'length': 1}, 'length=1'),
  (Text, {'length': SMALLEST_SPLIT}, f'2 to {SMALLEST_SPLIT - 1}'),
]


@pytest.mark.parametrize('task_class, bad, hint', BAD)
def test_bad_settings_are_refused_in_one_line(task_class, bad, hint):
  with pytest.raises(ValueError, match=hint) as refusal:
    task_class(**bad)
  assert '\n' not in str(refusal.value)
