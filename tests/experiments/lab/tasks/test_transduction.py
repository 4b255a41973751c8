"""Tests of the transduction tasks and of subword vocabularies."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from num2words import num2words

from experiments.lab.corpora.reserved import END, PAD, RESERVED, START
from experiments.lab.corpora.vocabulary import UNKNOWN, DamagedVocabulary, Vocabulary
from experiments.lab.tasks import dates, number_words, pairs
from experiments.lab.tasks.dates import Dates
from experiments.lab.tasks.number_words import NumberWords
from experiments.lab.tasks.sequence_copying import Copy, Reverse, Sort
from experiments.lab.tasks.task import SPLITS, one_hot_logits
from experiments.lab.tasks.text import split_of_file
from experiments.lab.tasks.transduction import shift_right

few = settings(max_examples=6, deadline=None)  # every example has new shapes to compile
LANGUAGES = ('en', 'de', 'fr', 'da', 'nl', 'es')
WORDS = NumberWords(digits=4, pairs=4000)
DAYS = Dates(years=20)


def compute_numpy_batch(task, split='train', index=0, batch_size=256):
  """A batch as NumPy arrays, compiled as one program."""
  batch = jax.jit(task.batch, static_argnums=(0, 2))
  return jax.tree.map(np.asarray, batch(split, index, batch_size))


# The interface


def test_decoder_inputs_are_shifted_targets_and_sources_end_with_end():
  batch = compute_numpy_batch(Copy(max_length=5), batch_size=8)
  (source, inputs), keywords = Copy(max_length=5).model_arguments(batch)
  np.testing.assert_array_equal(inputs, np.insert(batch.target, 0, START, 1)[:, :-1])
  np.testing.assert_array_equal(inputs, shift_right(batch.target))
  np.testing.assert_array_equal(source[keywords['mask']], batch.source[batch.source != PAD])
  assert np.all((source == END).sum(1) == 1)
  assert np.all(np.where(keywords['mask'], 0, source) == 0)


def test_a_sequence_is_correct_if_all_its_tokens_are_correct():
  task = Copy(max_length=6)
  batch = compute_numpy_batch(task, batch_size=4)
  answer = batch.target.copy()
  answer[0, 0] += 1  # wrong at the first token
  answer[1, batch.weight[1] == 0] += 1  # wrong only at positions without weight
  end = np.argmax(batch.target[2] == END)
  answer[2, end] = RESERVED  # no END after the last symbol
  unweighted = batch._replace(weight=batch.weight * np.array([1, 1, 1, 0])[:, None])
  assert task.metric_sums(one_hot_logits(answer, task.vocabulary_size), batch) == (2, 4)
  assert task.metric_sums(one_hot_logits(answer, task.vocabulary_size), unweighted) == (1, 3)


# Copy, reverse, sort


@few
@given(st.sampled_from([(Copy, list), (Reverse, lambda row: row[::-1]), (Sort, sorted)]),
       st.integers(1, 9), st.integers(0, 4), st.integers(2, 9), st.integers(0, 1000))
def test_targets_reorder_the_source_symbols(family, min_length, more, alphabet_size, index):
  task, expected = family[0](min_length + more, min_length, alphabet_size), family[1]
  for source, target, weight in zip(*compute_numpy_batch(task, 'train', index, 16), strict=True):
    length = int(np.argmax(source == END))
    symbols = source[:length].tolist()
    assert min_length <= length <= min_length + more
    assert all(RESERVED <= symbol < RESERVED + alphabet_size for symbol in symbols)
    assert target[: length + 1].tolist() == [*expected(symbols), END]
    assert not np.any(source[length + 1 :]) and not np.any(target[length + 1 :])
    assert weight.tolist() == [float(position <= length) for position in range(len(weight))]
    assert task.detokenize(source) == ' '.join(str(symbol - RESERVED) for symbol in symbols)


def test_lengths_and_symbols_are_uniform():
  task = Copy(max_length=4, min_length=2, alphabet_size=3)
  source = compute_numpy_batch(task, batch_size=3000).source
  lengths = np.bincount(np.argmax(source == END, 1), minlength=5)
  assert lengths[:2].tolist() == [0, 0] and np.all(abs(lengths[2:] - 1000) < 130)
  symbols = np.bincount(source[:, :2].ravel())[RESERVED:]
  assert symbols.size == 3 and np.all(abs(symbols - 2000) < 180)


@pytest.mark.parametrize('family', [Copy, Reverse, Sort])
@pytest.mark.parametrize('lengths', [(1, 1), (2, 4), (3, 3), (4, 4)])
def test_chance_is_the_probability_of_the_most_likely_target(family, lengths):
  """The reference enumerates all sources."""
  task, targets = family(max(lengths), min(lengths), alphabet_size=3), {}
  for length in range(min(lengths), max(lengths) + 1):
    for source in itertools.product(range(3), repeat=length):
      target = tuple(sorted(source)) if family is Sort else source
      targets[target] = targets.get(target, 0) + 3.0**-length / (1 + max(lengths) - min(lengths))
  assert task.chance_level == pytest.approx(max(targets.values()))
  assert targets[tuple(task.most_likely_target_symbols)] == pytest.approx(task.chance_level)


def test_extrapolation_tasks_have_only_longer_sequences():
  task = Copy(max_length=3).extrapolation_task(6)
  lengths = np.argmax(compute_numpy_batch(task).source == END, 1)
  assert set(lengths) == {4, 5, 6}
  assert Copy(8, 5).with_dependency_distance(3) == Copy(3, 3)


# Vocabularies


LINES = [f'{tens} {ones}' for tens in ('sixty', 'seventy', 'ninety') for ones in
         ('one', 'two', 'three', 'seven', 'nine', '17')]


def test_a_vocabulary_decodes_what_it_encodes():
  vocabulary = Vocabulary.train(LINES, 40)
  assert vocabulary.size == 40
  tokens = vocabulary.encode(LINES)
  assert [row.count(END) for row in tokens] == [1] * len(LINES)
  assert all(row[-1] == END and min(row) >= END for row in tokens)
  assert [vocabulary.decode([START, *row, PAD, RESERVED + 5]) for row in tokens] == LINES
  pieces = map(vocabulary.split_into_pieces, LINES)
  assert [''.join(line).replace('▁', ' ').strip() for line in pieces] == LINES
  assert UNKNOWN in vocabulary.encode(['québec'])[0]


def test_vocabularies_compare_by_content_and_train_without_output(capfd):
  first, same, different = (Vocabulary.train(lines, 40) for lines in (LINES, LINES, LINES[:-2]))
  assert first == same and hash(first) == hash(same) and first.digest == same.digest
  assert first != different and first.digest != different.digest
  assert capfd.readouterr() == ('', '')


def test_digits_are_separate_tokens_on_request():
  lines = [f'year 19{year}' for year in range(10, 99)]
  merged, separate = (Vocabulary.train(lines, 26, split_digits=split) for split in (False, True))
  assert '19' in merged.split_into_pieces('year 1950')[1]
  assert separate.split_into_pieces('year 1950')[-4:] == list('1950')


@pytest.mark.parametrize('size, hint', [(5, 'too small|smaller'), (400, '<= ')])
def test_an_unsuitable_vocabulary_size_raises_a_one_line_error(size, hint):
  with pytest.raises(ValueError, match=f'vocabulary_size={size}.*({hint})') as refusal:
    Vocabulary.train(LINES, size)
  assert '\n' not in str(refusal.value)


def test_a_saved_vocabulary_loads_and_damage_is_detected(tmp_path):
  path, vocabulary = tmp_path / 'words.vocabulary', Vocabulary.train(LINES, 40)
  vocabulary.save(path)
  assert list(tmp_path.iterdir()) == [path]
  assert Vocabulary.load(path) == vocabulary
  intact = path.read_bytes()
  changed = intact[:90] + b'?' + intact[91:]
  for damaged in (intact[:-1], b'', intact + b'.', b'x' + intact, changed):
    path.write_bytes(damaged)
    with pytest.raises(DamagedVocabulary, match=r'words\.vocabulary is damaged') as refusal:
      Vocabulary.load(path)
    assert '\n' not in str(refusal.value)


# Tables of pairs


@pytest.mark.parametrize('task', [WORDS, DAYS], ids=repr)
def test_pairs_are_assigned_to_splits_by_their_names(task):
  pair_of_source = {pair.source: pair for pair in task.sentence_pairs()}
  assert len(pair_of_source) == len(task.sentence_pair_table.source)
  for split in SPLITS:
    for source, target, _ in zip(*compute_numpy_batch(task, split, 1, 24), strict=True):
      pair = pair_of_source[task.detokenize(source)]
      assert pair.target == task.detokenize(target)
      assert split_of_file(pair.name) == split
  rows = task.sentence_pair_table.rows
  assert sorted(np.concatenate(list(rows.values()))) == list(range(len(pair_of_source)))
  assert 0.7 < rows['train'].size / len(pair_of_source) < 0.9


@pytest.mark.parametrize('task', [WORDS, WORDS.extrapolation_task(8), DAYS], ids=repr)
def test_padded_lengths_equal_the_longest_sentences(task):
  for tokens, length in ((task.sentence_pair_table.source, task.source_length),
                         (task.sentence_pair_table.target, task.target_length)):
    assert tokens.shape[1] == length == (tokens != PAD).sum(1).max()


def test_all_distances_and_directions_share_one_vocabulary():
  reverse = NumberWords(source='de', target='en', digits=9, nonzero=2, pairs=50)
  for task in (WORDS.with_dependency_distance(12), WORDS.extrapolation_task(7), reverse):
    assert task.vocabulary is WORDS.vocabulary
  assert DAYS.extrapolation_task(50).vocabulary is DAYS.vocabulary
  assert WORDS.vocabulary.size == WORDS.vocabulary_size == WORDS.input_space.size


def test_no_sentence_has_unknown_tokens():
  for task in (WORDS, WORDS.with_dependency_distance(12), DAYS, DAYS.extrapolation_task(400)):
    assert not np.any(task.sentence_pair_table.source == UNKNOWN)
    assert not np.any(task.sentence_pair_table.target == UNKNOWN)


def test_the_digest_depends_on_the_pairs_and_the_vocabulary():
  others = (
    WORDS.with_dependency_distance(5), NumberWords(digits=4, pairs=3999),
    NumberWords(digits=4, target='fr'), NumberWords(digits=4, pairs=4000, vocabulary_size=150),
  )
  assert len({task.digest for task in (WORDS, *others)}) == 5
  rebuilt_table = pairs.build_sentence_pair_table.__wrapped__(WORDS)
  assert rebuilt_table.digest == WORDS.sentence_pair_table.digest


def test_distinct_rows_have_distinct_hashes():
  rows = np.random.default_rng(0).integers(0, 3, (50, 9), np.int32)
  rows = np.unique(rows, axis=0)
  multipliers, hashes = pairs.find_hash_function_without_collisions(rows)
  exact = [sum(map(int.__mul__, row, multipliers.tolist())) % 2**32 for row in rows.tolist()]
  hashes_in_jax = jax.device_get(pairs.hash_token_rows(jax.numpy.asarray(rows), multipliers))
  assert hashes.tolist() == exact == hashes_in_jax.tolist()
  with pytest.raises(ValueError, match='2 sources have 1 distinct token rows'):
    pairs.find_hash_function_without_collisions(rows[[0, 0]])


def test_an_ambiguous_source_raises_an_error(monkeypatch):
  same = [pairs.SentencePair(str(number), 'some', str(number)) for number in range(2)]
  monkeypatch.setattr(NumberWords, 'sentence_pairs', lambda _: iter(same))
  with pytest.raises(ValueError, match="0 and 1 have the same source 'some'"):
    pairs.build_sentence_pair_table.__wrapped__(WORDS)


# Number words


@pytest.mark.parametrize('language', LANGUAGES)
def test_numbers_are_spelled_as_by_num2words(language):
  """The test covers the greatest numbers, beyond which number words are removed."""
  numbers = [number for pair in NumberWords(digits=12, pairs=60).sentence_pairs()
             for number in (int(pair.name),)] + [10**12 - 1, 10**6, 10**9, 80, 21]
  spell = number_words.make_number_speller(language)
  assert list(map(spell, numbers)) == [num2words(n, lang=language).lower() for n in numbers]


@pytest.mark.parametrize('source, target', [*itertools.pairwise(LANGUAGES + LANGUAGES[:1])])
def test_table_targets_match_their_sources_in_every_language(source, target):
  task = NumberWords(source, target, pairs=200)
  table = task.sentence_pair_table
  for pair in itertools.islice(task.sentence_pairs(), 0, None, 20):
    tokens, = task.vocabulary.encode([pair.source])
    row = np.flatnonzero(np.all(table.source[:, : len(tokens)] == tokens, 1))
    assert [task.detokenize(table.target[i]) for i in row] == [pair.target]


@few
@given(st.integers(2, 12), st.integers(0, 4), st.integers(1, 3), st.integers(1, 400))
def test_sampled_numbers_are_distinct_and_of_valid_length(digits, nonzero, fewest, count):
  nonzero = min(nonzero, digits)
  task = NumberWords(digits=digits, nonzero=nonzero, fewest=min(fewest, nonzero or digits),
                     pairs=count)
  numbers = list(task.sample_numbers())
  lengths = [len(str(n).replace('0', '') if nonzero else str(n)) for n in numbers]
  assert len(set(numbers)) == len(numbers) <= count
  assert all(task.fewest <= length <= task.dependency_distance for length in lengths)
  assert max((len(str(number)) for number in numbers), default=1) <= digits
  populations = map(task.num_integers_of_length, range(task.fewest, task.dependency_distance + 1))
  assert len(numbers) == min(count, sum(populations))


@pytest.mark.parametrize('nonzero', [0, 1, 2, 3])
def test_indices_and_numbers_are_in_bijection(nonzero):
  task = NumberWords(digits=3, nonzero=nonzero)
  numbers = {task.integer_with_num_digits(num_digits, index)
             for num_digits in range(1, task.dependency_distance + 1)
             for index in range(task.num_integers_of_length(num_digits))}
  assert numbers == {number for number in range(1, 1000)
                     if not nonzero or 3 - f'{number:03}'.count('0') <= nonzero}


def test_the_table_has_all_short_numbers():
  numbers = set(NumberWords(digits=6, pairs=3000).sample_numbers())
  assert numbers > set(range(1, 100))
  assert [sum(len(str(n)) == length for n in numbers) for length in (3, 4, 5, 6)] == [
    725, 725, 725, 726]


def test_longer_numbers_use_the_words_of_shorter_numbers():
  def used_tokens(task):
    tables = [task.sentence_pair_table.source, task.sentence_pair_table.target]
    return {int(token) for table in tables for token in np.unique(table)}

  short = NumberWords(digits=9, nonzero=3, pairs=4000)
  longer = short.extrapolation_task(6)
  assert (longer.digits, longer.nonzero, longer.fewest) == (9, 6, 4)
  assert used_tokens(longer) <= used_tokens(short)
  assert short.with_dependency_distance(12) == NumberWords(digits=12, nonzero=12, pairs=4000)


# Dates


def test_dates_have_the_formats_of_both_locales():
  texts = {pair.name: (pair.source, pair.target) for pair in DAYS.sentence_pairs()}
  assert len(texts) == 20 * 365 + 4  # leap years: 1904, 1908, 1912, 1916
  assert texts['1903-02-07'] == ('Saturday, February 7, 1903', '7. Februar 1903')
  french = Dates(source='fr', target='da', source_format='short', target_format='iso', years=1)
  assert ('1900-03-02', '02/03/1900', '1900-03-02') in set(french.sentence_pairs())


def test_extrapolation_dates_are_in_later_years():
  later = Dates(years=10, pairs=300).extrapolation_task(30)
  years = {int(pair.name[:4]) for pair in later.sentence_pairs()}
  assert years == set(range(1910, 1930))
  assert later.dependency_distance == 30


@pytest.mark.parametrize('source, form', [('en_US', 'short'), ('es', 'short'), ('de_DE', 'short')])
def test_years_of_two_digits_cover_at_most_a_century(source, form):
  task = Dates(source=source, target='da', source_format=form, years=100, pairs=100)
  assert task.task_for_learning_subword_vocabulary.years == 100
  with pytest.raises(ValueError, match='two digits'):
    task.with_dependency_distance(101)
  with pytest.raises(ValueError, match='two digits'):
    task.extrapolation_task(200)


# Invalid settings


BAD = [
  (Copy, {'max_length': 0}, 'max_length=0'),
  (Reverse, {'min_length': 21}, '1 to 20'),
  (Sort, {'min_length': 0}, 'min_length=0'),
  (Copy, {'alphabet_size': 1}, 'alphabet_size=1'),
  (NumberWords, {'digits': 13}, '2 to 12'),
  (NumberWords, {'digits': 1}, 'digits=1'),
  (NumberWords, {'nonzero': 7}, 'nonzero=7'),
  (NumberWords, {'nonzero': 2, 'fewest': 3}, '1 to 2'),
  (NumberWords, {'source': 'klingon'}, 'klingon.*de, en'),
  (NumberWords, {'target': ''}, "''"),
  (NumberWords, {'pairs': 0}, 'pairs=0'),
  (NumberWords, {'vocabulary_size': 4}, 'vocabulary_size=4'),
  (Dates, {'source': 'xx'}, "no locale 'xx'.*en_US"),
  (Dates, {'target': 'de-DE'}, 'de_DE'),
  (Dates, {'source_format': 'tiny'}, 'short, medium, long, full, iso'),
  (Dates, {'target_format': 'tiny'}, "target_format='tiny'"),
  (Dates, {'years': 0}, 'years=0'),
  (Dates, {'years': 8101}, '1 to 8100'),
  (Dates, {'skipped': 200}, '0 to 199'),
  (Dates, {'source_format': 'short'}, 'two digits'),
]


@pytest.mark.parametrize('task_class, bad, hint', BAD)
def test_invalid_transduction_settings_raise_one_line_errors(task_class, bad, hint):
  with pytest.raises(ValueError, match=hint) as refusal:
    task_class(**bad)
  assert '\n' not in str(refusal.value)


def test_numbers_that_num2words_cannot_spell_raise_an_error():
  with pytest.raises(ValueError, match=r"cannot spell .* in 'en_IN'"):
    number_words.make_number_speller('en_IN')(10**11)


def test_too_few_pairs_for_three_splits_raise_an_error():
  with pytest.raises(ValueError, match=r'no pair for (validation|test) among 3'):
    pairs.build_sentence_pair_table.__wrapped__(NumberWords(digits=2, pairs=3))


def test_all_date_formats_differ():
  day = next(iter(Dates(years=1, pairs=1).sentence_pairs())).name
  date = dates.datetime.date.fromisoformat(day)
  assert len({dates.format_date(date, 'en_US', form) for form in dates.FORMATS}) == 5
