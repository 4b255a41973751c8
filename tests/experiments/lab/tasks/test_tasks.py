"""Tests of the layout, the distribution and the published constants of each task."""

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
from experiments.lab.tasks.text import (
  SMALLEST_SPLIT,
  Text,
  read_standard_library_code,
  split_of_file,
)

few = settings(max_examples=8, deadline=None)  # every example has new shapes to compile


def compute_numpy_batch(task, split='train', index=0, batch_size=256):
  """A batch as NumPy arrays, compiled as one program because this is faster."""
  batch = jax.jit(task.batch, static_argnums=(0, 2))
  return jax.tree.map(np.asarray, batch(split, index, batch_size))


def mean_loss(task, predict, batch):
  """The mean loss of a predictor over all positions with weight, as in publications."""
  return np.sum(batch.weight * task.loss(predict(batch.source), batch)) / np.sum(batch.weight)


# Sampling without replacement


@pytest.mark.parametrize('count, population', [(1, 1), (1, 5), (3, 5), (4, 4)])
def test_lehmer_codes_and_arrangements_are_in_bijection(count, population):
  codes = itertools.product(*(range(population - i) for i in range(count)))
  decoded = draws.decode_lehmer_codes(jnp.array(list(codes)))
  arrangements = set(itertools.permutations(range(population), count))
  assert len(decoded) == len(arrangements)
  assert set(map(tuple, decoded.tolist())) == arrangements


@few
@given(st.integers(1, 12), st.integers(0, 5000), st.integers(0, 2**31 - 1))
def test_samples_without_replacement_are_distinct(count, more, seed):
  drawn = np.asarray(draws.sample_distinct(jax.random.key(seed), 4, count, count + more))
  assert drawn.min() >= 0
  assert drawn.max() < count + more
  assert all(len(set(row)) == count for row in drawn.tolist())


def test_weighted_samples_follow_successive_probabilities():
  weights, size = np.array([8.0, 4.0, 2.0, 1.0]), 20_000
  drawn = draws.sample_weighted_without_replacement(jax.random.key(0), size, 2, jnp.log(weights))
  counts = np.zeros((4, 4))
  np.add.at(counts, tuple(np.asarray(drawn).T), 1)
  first = weights / weights.sum()
  second = weights[None] / (weights.sum() - weights)[:, None]
  expected = size * first[:, None] * second * (1 - np.eye(4))
  assert_chi_square(counts[expected > 0], expected[expected > 0])


def assert_chi_square(counts, expected):
  """Asserts that counts have their expectations, within 5 standard deviations of chi-square."""
  freedom = counts.size - 1
  statistic = np.sum((counts - expected) ** 2 / expected)
  assert statistic < freedom + 5 * math.sqrt(2 * freedom)


# Recall


@st.composite
def recall_tasks(draw):
  """A Hypothesis strategy for valid recall tasks of limited size."""
  num_pairs = draw(st.integers(1, 6))
  length = 2 * draw(st.integers(2 * num_pairs, 24))
  vocabulary_size = draw(st.integers(2 * num_pairs + 2, 40))
  return Recall(length, num_pairs, vocabulary_size, random_non_queries=draw(st.booleans()))


@few
@given(recall_tasks(), st.sampled_from(SPLITS), st.integers(0, 1000))
def test_recall_queries_each_key_once_for_its_value(task, split, index):
  middle, pairs = task.vocabulary_size // 2, 2 * task.num_pairs
  for source, target, weight in zip(*compute_numpy_batch(task, split, index, 8), strict=True):
    stated = dict(zip(source[:pairs:2], source[1:pairs:2], strict=True))
    assert len(stated) == len(set(stated.values())) == task.num_pairs
    assert all(1 <= key < middle <= value for key, value in stated.items())
    queries = np.flatnonzero(weight)
    assert sorted(source[queries]) == sorted(stated)
    assert all(stated[source[query]] == target[query] for query in queries)
    assert np.all(queries >= pairs)
    assert np.all(queries % 2 == 0)
    assert not np.any(target[weight == 0])
    assert task.random_non_queries or not np.any(source[pairs:][weight[pairs:] == 0])


def test_recall_gaps_have_the_published_distribution():
  """The reference is the sampler of NumPy, which the published generator calls."""
  task, size = Recall(length=24, num_pairs=3, vocabulary_size=20, power=0.01), 4000
  source, _, weight = compute_numpy_batch(task, batch_size=size)
  space = np.arange(1, (task.length - 6) // 2 + 1)
  weights = task.power * space ** (task.power - 1)
  generator = np.random.default_rng(0)
  published = np.stack([generator.choice(space.size, 3, replace=False, p=weights / weights.sum())
                        for _ in range(size)])
  for key in range(3):
    query = np.argmax(weight * (source == source[:, 2 * key, None]), 1)
    ours = np.bincount((query - 6) // 2, minlength=space.size)
    theirs = np.bincount(published[:, key], minlength=space.size)
    # The difference of two samples of the same size has twice the variance of each sample.
    assert_chi_square((ours - theirs) / math.sqrt(2) + (ours + theirs) / 2, (ours + theirs) / 2)


def test_recall_fills_with_uniform_random_tokens():
  task = Recall(length=64, num_pairs=2, vocabulary_size=12, random_non_queries=True)
  source, _, weight = compute_numpy_batch(task, batch_size=512)
  fillers = source[:, 4:][weight[:, 4:] == 0]
  assert_chi_square(np.bincount(fillers, minlength=12), np.full(12, fillers.size / 12))


def test_recall_at_other_lengths_has_the_published_settings():
  task = Recall()
  assert (task.length, task.num_pairs, task.vocabulary_size, task.power) == (64, 4, 8192, 0.01)
  assert [task.with_dependency_distance(length).num_pairs for length in (128, 256)] == [8, 16]


# Copy memory


@few
@given(st.sampled_from(['arjovsky', 'bai']), st.integers(1, 40), st.integers(1, 12))
def test_copy_memory_has_the_published_layout(variant, delay, num_symbols):
  task = CopyMemory(delay, variant, num_symbols)
  source, target, weight = compute_numpy_batch(task, batch_size=4)
  suffix = [9] + num_symbols * [9 if variant == 'bai' else 0]
  assert source.shape == target.shape == (4, delay + 2 * num_symbols)
  assert np.all(weight == 1)
  for tokens, answer in zip(source, target, strict=True):
    symbols = tokens[:num_symbols]
    assert set(symbols) <= set(range(1, 9))
    np.testing.assert_array_equal(tokens[num_symbols:], (delay - 1) * [0] + suffix)
    np.testing.assert_array_equal(answer, (delay + num_symbols) * [0] + list(symbols))


@pytest.mark.parametrize('variant', ['arjovsky', 'bai'])
def test_copy_memory_outputs_depend_on_one_exact_distance(variant):
  """Each output depends on the token `dependency_distance` steps before it, and on no other."""
  task = CopyMemory(delay=7, variant=variant, num_symbols=4)
  source = jnp.asarray(compute_numpy_batch(task, batch_size=1).source)
  answer = jnp.argmax(task.oracle_outputs(source), -1)
  for position in range(source.shape[1]):
    changed_source = source.at[0, position].set(source[0, position] % 8 + 1)
    changed = np.flatnonzero(jnp.argmax(task.oracle_outputs(changed_source), -1)[0] != answer[0])
    expected = [position + task.dependency_distance] if position < task.num_symbols else []
    assert changed.tolist() == expected


@pytest.mark.parametrize('variant', ['arjovsky', 'bai'])
@pytest.mark.parametrize('delay', [100, 1000])
def test_copy_memory_baseline_has_the_published_loss(delay, variant):
  task = CopyMemory(delay, variant)
  loss = mean_loss(task, task.baseline_outputs, compute_numpy_batch(task, batch_size=2))
  assert loss == pytest.approx(10 * math.log(8) / (delay + 20), rel=1e-5)


def test_copy_memory_metric_counts_only_reproduced_symbols():
  task = CopyMemory(delay=30)
  batch = compute_numpy_batch(task, batch_size=8)
  blank = jax.nn.one_hot(jnp.zeros_like(batch.target), task.output_space.size)
  assert task.metric_sums(blank, batch) == (0, 80)


# Adding


@few
@given(st.sampled_from(['arjovsky', 'bai']), st.integers(2, 41), st.integers(0, 1000))
def test_adding_sums_two_marked_values(variant, length, index):
  task = Adding(length, variant)
  source, target, weight = compute_numpy_batch(task, 'train', index, 8)
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


def test_adding_marks_all_pairs_of_steps_equally_often():
  marker = compute_numpy_batch(Adding(6, 'bai'), batch_size=6000).source[..., 1]
  pairs = np.nonzero(marker)[1].reshape(-1, 2) @ [6, 1]
  expected = [6 * i + j for i, j in itertools.combinations(range(6), 2)]
  assert_chi_square(np.bincount(pairs, minlength=36)[expected], np.full(15, 6000 / 15))


# Selective copying


@few
@given(st.integers(1, 12), st.integers(0, 30), st.integers(4, 20), st.integers(0, 1000))
def test_selective_copying_targets_are_ordered_symbols(num_tokens, blanks, vocabulary_size, index):
  task = SelectiveCopying(num_tokens + blanks, num_tokens, vocabulary_size)
  marker = vocabulary_size - 1
  for source, target, weight in zip(*compute_numpy_batch(task, 'train', index, 8), strict=True):
    context, markers = np.split(source, [num_tokens + blanks])
    symbols = context[context != 0]
    assert set(symbols) <= set(range(1, marker))
    np.testing.assert_array_equal(markers, [marker] * num_tokens)
    np.testing.assert_array_equal(target[weight == 1], symbols)
    np.testing.assert_array_equal(weight, source == marker)


def test_selective_copying_positions_are_uniform():
  source = compute_numpy_batch(SelectiveCopying(6, 2), batch_size=6000).source[:, :6]
  pairs = np.nonzero(source)[1].reshape(-1, 2) @ [6, 1]
  expected = [6 * i + j for i, j in itertools.combinations(range(6), 2)]
  assert_chi_square(np.bincount(pairs, minlength=36)[expected], np.full(15, 6000 / 15))


# Induction heads


@few
@given(st.integers(3, 40), st.integers(3, 20), st.integers(0, 1000))
def test_induction_target_follows_the_first_trigger(length, vocabulary_size, index):
  task = InductionHeads(length, vocabulary_size)
  source, target, weight = compute_numpy_batch(task, 'train', index, 8)
  np.testing.assert_array_equal(weight, np.eye(length)[[-1] * 8])
  for tokens, answer in zip(source, target[:, -1], strict=True):
    first, last = np.flatnonzero(tokens == 0)
    assert last == length - 1
    assert tokens[first + 1] == answer != 0


def test_induction_trigger_positions_are_uniform():
  source = compute_numpy_batch(InductionHeads(8), batch_size=6000).source
  assert_chi_square(np.bincount(np.argmax(source == 0, 1)), np.full(6, 6000 / 6))


# Flip-flop


@few
@given(st.integers(2, 30), st.floats(0, 1), st.integers(0, 1000))
def test_flip_flop_target_is_the_last_written_bit(half, ignore, index):
  for source, target, weight in zip(
    *compute_numpy_batch(FlipFlop(2 * half, ignore), 'train', index, 8), strict=True
  ):
    instructions, bits, written = source[::2].tolist(), source[1::2].tolist(), None
    assert instructions[0] == WRITE and instructions[-1] == READ
    for i, (instruction, bit) in enumerate(zip(instructions, bits, strict=True)):
      written = bit if instruction == WRITE else written
      assert weight[2 * i] == (instruction == READ) and weight[2 * i + 1] == 0
      assert instruction != READ or target[2 * i] == bit == written


@pytest.mark.parametrize('ignore', [0.1, 0.8, 0.98])
def test_flip_flop_instructions_have_their_probabilities(ignore):
  source = compute_numpy_batch(FlipFlop(102, ignore), batch_size=1000).source
  counts = np.bincount(source[:, 2:-2:2].ravel(), minlength=5)
  expected = source[:, 2:-2:2].size * np.array([(1 - ignore) / 2, (1 - ignore) / 2, ignore])
  assert_chi_square(counts[[WRITE, READ, IGNORE]], expected)
  free = source[:, 1::2][source[:, ::2] != READ]
  assert_chi_square(np.bincount(free), np.full(2, free.size / 2))


# Text


def test_text_assigns_whole_files_to_splits():
  corpus = Text().corpus
  files = {split: set(corpus.files[split]) for split in SPLITS}
  assert all(split_of_file(name) == split for split in SPLITS for name in files[split])
  assert not any(files[a] & files[b] for a, b in itertools.combinations(SPLITS, 2))
  all_files = set().union(*files.values())
  assert 'typing.py' in all_files
  assert not any(name.startswith(('test', '_sysconfigdata')) for name in all_files)
  sizes = np.array([corpus.data[split].size for split in SPLITS])
  assert 0.6 < sizes[0] / sizes.sum() < 0.95


@few
@given(st.sampled_from(SPLITS), st.integers(2, 300), st.integers(0, 1000))
def test_text_crops_come_from_their_split(split, length, index):
  task = Text(length)
  source, target, _ = compute_numpy_batch(task, split, index, 4)
  split_bytes = task.corpus.data[split].tobytes()
  for crop, answer in zip(source, target, strict=True):
    assert bytes([*crop, answer[-1]]) in split_bytes
    np.testing.assert_array_equal(crop[1:], answer[:-1])


def write_small_library(folder, size):
  """Writes one module per split, with names of the standard library because others are ignored."""
  names = ['ast.py', 'bisect.py', 'typing.py']
  assert {split_of_file(name) for name in names} == set(SPLITS)
  for name in names:
    (folder / name).write_bytes(name.encode() * (size // len(name) + 1))
  return str(folder)


def test_text_digest_depends_only_on_library_bytes(tmp_path):
  folder = write_small_library(tmp_path, SMALLEST_SPLIT)
  digest = read_standard_library_code(folder).digest
  (tmp_path / 'not_of_the_library.py').write_text('installed later')
  assert read_standard_library_code.__wrapped__(folder).digest == digest
  (tmp_path / 'ast.py').write_bytes(b'x' * SMALLEST_SPLIT)
  assert read_standard_library_code.__wrapped__(folder).digest != digest


@pytest.mark.parametrize('size', [None, 10])
def test_missing_text_raises_a_one_line_error(tmp_path, size):
  folder = str(tmp_path / 'absent') if size is None else write_small_library(tmp_path, size)
  with pytest.raises(OSError, match='install Python with its library') as failure:
    read_standard_library_code(folder)
  assert '\n' not in str(failure.value)


def test_text_chance_exceeds_the_entropy_of_the_test_split():
  task = Text()
  frequency = np.bincount(task.corpus.data['test'], minlength=256) / task.corpus.data['test'].size
  entropy = -np.sum(frequency * np.log2(np.where(frequency > 0, frequency, 1)))
  assert entropy < task.chance_level < entropy + 0.2


# Invalid settings


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
def test_invalid_task_settings_raise_one_line_errors(task_class, bad, hint):
  with pytest.raises(ValueError, match=hint) as refusal:
    task_class(**bad)
  assert '\n' not in str(refusal.value)
