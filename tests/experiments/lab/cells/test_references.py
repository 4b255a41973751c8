"""Tests that translations are compared with the original sentences, and omissions are counted."""

import math
import os
import pathlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.lab.cells import artifacts
from experiments.lab.corpora import reader
from experiments.lab.corpora.datasets import (
  CorpusError,
  SentencePairs,
  split_of_sentence_pair,
)
from experiments.lab.corpora.reserved import END, PAD, RESERVED
from experiments.lab.corpora.vocabulary import UNKNOWN, Vocabulary, normalize_whitespace
from experiments.lab.results import translation_scores, translation_tables
from experiments.lab.results.store import Store
from experiments.lab.tasks.corpus import Corpus
from experiments.lab.tasks.dates import Dates
from experiments.lab.tasks.number_words import NumberWords
from experiments.lab.tasks.sequence_copying import Reverse
from experiments.lab.tasks.task import one_hot_logits
from experiments.lab.training.recipe import Recipe
from experiments.translation import study as translation
from tests.experiments.lab.corpora import tiny_corpus
from tests.experiments.lab.corpora.tiny_corpus import ODD, TinyLengths
from tests.support import command

VOCABULARY_SIZE = 80
SCORED_PAIRS = [pair for pair in ODD if all(map(str.strip, pair))]


@pytest.fixture(autouse=True, scope='module')
def data_folder(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('TFDS_DATA_DIR', str(tmp_path_factory.mktemp('data')))
    yield


def corpus(name='tiny_odd', **changed):
  defaults = {'vocabulary_size': VOCABULARY_SIZE, 'batch_tokens': 0, 'max_length': 32}
  return Corpus(name, **defaults | changed)


def all_test_batches(task, batch_size=4):
  return [task.batch('test', i, batch_size) for i in range(task.num_batches('test', batch_size))]


def translations_as_text(task, batches, translate):
  """The stored translations of a member whose output tokens [B, T] are `translate(batch)`."""
  decoded = [SimpleNamespace(tokens=translate(batch)[None]) for batch in batches]
  return artifacts.translations_as_text(task, len(batches[0].source), {'0': 0}, batches, decoded)


def test_references_are_the_sentences_of_the_data_set():
  task = corpus()
  stored = translations_as_text(task, all_test_batches(task), lambda batch: batch.target)
  assert sorted(zip(stored['source'], stored['reference'], strict=True)) == sorted(SCORED_PAIRS)
  assert stored['left_out'] == {'with an empty sentence': len(ODD) - len(SCORED_PAIRS)}
  assert stored['cut_off'] == {'0': 0}


def test_a_translation_with_the_unknown_token_is_wrong_as_text_and_as_tokens():
  """Such a translation results if a model predicts every token of the target correctly."""
  task = corpus()
  batches = all_test_batches(task)
  stored = translations_as_text(task, batches, lambda batch: batch.target)
  matches = translation_scores.exact_matches_by_seed(stored)['0'].tolist()
  correct = dict(zip(stored['reference'], matches, strict=True))
  known = {target: UNKNOWN not in task.tokenize(target) for _, target in SCORED_PAIRS}
  assert correct == known | {'blau ⁇': True}  # this reference contains the unknown token's text
  assert {target for target, is_known in known.items() if is_known} == {
    ' eins\u00a0zwei\u202f', 'drei\r\nvier'}
  sums = [
    task.metric_sums(one_hot_logits(jnp.asarray(batch.target), VOCABULARY_SIZE), batch)
    for batch in batches
  ]
  assert np.sum(sums, 0).tolist() == [sum(known.values()), len(SCORED_PAIRS)]


def test_the_scores_of_a_translation_with_the_unknown_token():
  reference = 'Ærøskøbing  Haus'
  translation = corpus().detokenize(corpus().tokenize(reference))
  assert translation == ' ⁇ r ⁇ s ⁇ bing Haus'
  stored = {'reference': [reference] * 2, 'answers': {'0': [translation] * 2}}
  # Only 1 of 7 words is correct, and smoothing counts the longer n-grams as 1/2, 1/4 and 1/8.
  bleu = 100 * (1 / 7 / (2 * 12) / (4 * 10) / (8 * 8)) ** 0.25
  assert translation_scores.exact_match_rate(stored).estimate == 0
  assert translation_scores.bleu(stored).estimate == pytest.approx(bleu)
  assert translation_scores.chrf(stored).estimate == pytest.approx(49.87, abs=0.01)
  stored['reference'] = [translation] * 2
  assert translation_scores.exact_match_rate(stored).estimate == 1


@pytest.mark.parametrize('task', [
  NumberWords(digits=3, pairs=400), NumberWords('de', 'fr', digits=3, pairs=400),
  Dates(years=5, pairs=300), Reverse(max_length=5),
], ids=repr)
def test_the_references_of_every_task_are_the_sentences_of_its_batches(task):
  batches = [jax.tree.map(np.asarray, task.batch('test', i, 6)) for i in range(3)]
  stored = translations_as_text(task, batches, lambda batch: batch.target)
  assert translation_scores.exact_match_rate(stored).estimate == 1 and stored['left_out'] == {}
  rows = [row for batch in batches for row in batch.source]
  assert stored['source'] == [task.detokenize(row) for row in rows]
  assert stored['source_length'] == [int((row != PAD).sum()) for row in rows]
  if sentences := getattr(task, 'sentence_pairs', None):
    pairs = {(pair.source, pair.target) for pair in sentences()}
    assert set(zip(stored['source'], stored['reference'], strict=True)) <= pairs


def test_reference_sentences_are_not_detokenized(monkeypatch):
  task = NumberWords(digits=3, pairs=300)
  monkeypatch.setattr(Vocabulary, 'decode', lambda *_: 'detokenized text')
  same = NumberWords(digits=3, pairs=300)
  assert task.sentence_pairs_of_test_batch(0, 5) == same.sentence_pairs_of_test_batch(0, 5)
  assert not any(
    'detokenized' in side for pair in task.sentence_pairs_of_test_batch(0, 5) for side in pair)


def test_a_baseline_that_predicts_the_unknown_token_scores_zero(monkeypatch):
  task = NumberWords(digits=3, pairs=301)  # a new task, because counts of a task are cached
  target = np.full_like(task.sentence_pair_table.target, PAD)
  target[:, 0] = UNKNOWN
  table = task.sentence_pair_table._replace(target=target)
  monkeypatch.setattr(NumberWords, 'sentence_pair_table', property(lambda _: table))
  assert task.chance_level == 0


def test_sentences_in_no_batch_are_counted_by_reason():
  task = corpus('tiny_translation', min_length=6, max_length=20)
  lengths = task.prepared_corpus.splits['test'].lengths.max(1)
  size = 3
  for count in (1, 2, 1000):
    num_tested = sum(len(task.sentence_pairs_of_test_batch(i, size))
                     for i in range(min(count, task.num_batches('test', size))))
    left_out = task.count_excluded_test_pairs(count, size)
    assert sum(left_out.values()) + num_tested == len(lengths)
    assert left_out['of more than 20 tokens'] == (lengths > 20).sum() > 0
    assert left_out['of 6 tokens or fewer'] == (lengths <= 6).sum() > 0
    assert ('in later batches' in left_out) == (count < 1000)


class DataSource(list):
  """Examples with the interface of a data source of TensorFlow Datasets."""

  def __getitems__(self, indices):
    return [self[index] for index in indices]


def test_sentences_of_a_data_set_are_read_unchanged():
  examples = [{'en': side.encode(), 'de': side} for pair in ODD for side in pair]
  pairs = SentencePairs(DataSource(examples), ('en', 'de'), None).iterate_sentence_pairs()
  assert list(pairs) == [(side, side) for pair in ODD for side in pair]
  invalid = SentencePairs(DataSource([{'en': b'\xff', 'de': b'a'}]), ('en', 'de'), None)
  with pytest.raises(CorpusError, match=r"a sentence that is not UTF-8: b'\\xff'"):
    list(invalid.iterate_sentence_pairs())


def test_pairs_that_differ_in_white_space_only_are_in_the_same_split():
  for word in 'abcdefgh':
    expected = split_of_sentence_pair((f'{word}\u00a0b', f'{word}\n'))
    assert split_of_sentence_pair((f' {word}  b', word)) == expected


def test_a_table_reports_omitted_sentences_and_cut_off_translations():
  part = {
    'reference': ['a', 'b', 'c'], 'answers': {'0': ['a', 'b', 'c'], '1': ['a', 'b', 'x']},
    'left_out': {'of more than 256 tokens': 4, 'in later batches': 5}, 'cut_off': {'0': 2, '1': 0},
  }
  record = {'status': 'finished', 'run': {'layer': 'lstm'}, 'result': {'written': [part]}}
  assert translation_tables.describe_omitted_and_truncated_sentences({'wmt': [record]}) == (
    ' wmt: 9 of 12 test sentences are left out: 4 of more than 256 tokens, 5 in later batches.'
    ' wmt, lstm: 2 of 6 translations were cut off at the length of the longest target of their'
    ' batch.')
  part |= {'left_out': {}, 'cut_off': {'0': 0, '1': 0}}
  assert translation_tables.describe_omitted_and_truncated_sentences({'wmt': [record]}) == ''
  del part['left_out'], part['cut_off']  # as in records of versions that did not count them
  assert translation_tables.describe_omitted_and_truncated_sentences({'wmt': [record]}) == ''


def test_a_corpus_prepared_by_an_earlier_version_is_rejected_in_one_line(monkeypatch):
  corpus('tiny_lengths').batch('test', 0, 1)
  monkeypatch.setattr(reader, 'SENTENCES', 'another.jsonl')
  folder = pathlib.Path(os.environ['TFDS_DATA_DIR'])
  with pytest.raises(CorpusError, match='by an earlier version of this program: delete this'):
    reader._open_or_prepare_corpus.__wrapped__(folder, 'tiny_lengths', 'en', 'de', VOCABULARY_SIZE)


def test_batches_of_two_lengths_are_concatenated():
  task = corpus('tiny_lengths')
  batches = all_test_batches(task, 8)
  assert len({batch.target.shape for batch in batches}) > 1
  stored = translations_as_text(task, batches, lambda batch: batch.target[:, ::-1][:, :3])
  assert len(stored['source']) == TinyLengths.SIZES['test']
  assert {len(text.split()) for text in stored['source']} == {2, 9}
  total_loss = num_tokens = 0.0
  for position in range(max(batch.target.shape[1] for batch in batches)):
    column = [row[position] for batch in batches for row in batch.target
              if position < len(row) and row[position] != PAD]
    for token in set(column):
      frequency = column.count(token) / len(column)
      total_loss -= column.count(token) * math.log(frequency)
    num_tokens += len(column)
  baseline = artifacts.unigram_baseline(batches)
  assert baseline['unigram_loss'] == pytest.approx(total_loss / num_tokens)
  assert baseline['tokens'] == pytest.approx(num_tokens / TinyLengths.SIZES['test'])


def test_a_translation_without_an_end_token_counts_as_cut_off():
  task = corpus('tiny_lengths')
  batches = all_test_batches(task, 8)
  without_end = lambda batch: np.where(batch.target == END, UNKNOWN + 1, batch.target)  # noqa: E731
  stored = translations_as_text(task, batches, without_end)
  assert stored['cut_off'] == {'0': TinyLengths.SIZES['test']}


def test_step_flops_are_the_mean_over_batches_of_all_shapes(monkeypatch):
  task = corpus('tiny_lengths')
  monkeypatch.setattr(artifacts.work, 'flops', lambda step, state, batch: batch.source.size)
  sizes = [task.batch('train', i, 8).source.size for i in range(task.num_batches('train', 8))]
  assert len(set(sizes)) > 1
  for steps in (1, 5, 10**6):
    training = artifacts.Training(None, task, Recipe(steps=steps, batch_size=8))
    assert artifacts.training_step_flops(training, None) == round(np.mean(sizes[:steps]))


def test_alignments_are_computed_for_a_few_sentences_of_a_large_batch(monkeypatch):
  task, batch_sizes = corpus('tiny_lengths', batch_tokens=200), []

  def record_batch_size(model, parameters, source, past, mask):
    batch_sizes.append(len(source))
    return {}

  monkeypatch.setattr(artifacts.attention, 'attention_weights', record_batch_size)
  model = SimpleNamespace(decoder=SimpleNamespace(all_layers=()), reverse_source=False)
  assert len(task.batch('test', 0, 1).source) > artifacts.ALIGNED_SENTENCES
  assert artifacts.source_alignments(task, model, None) == []
  assert batch_sizes == [artifacts.ALIGNED_SENTENCES]


def test_a_split_without_sentences_is_reported_before_training():
  with pytest.raises(CorpusError, match='no pair of 1 to 2 tokens in its test split'):
    assert corpus('tiny_lengths', max_length=2).source_length


@pytest.mark.slow
def test_a_study_of_a_corpus_with_two_lengths_stores_all_translations(tmp_path):
  task = (f'corpus(dataset=tiny_lengths, vocabulary_size={VOCABULARY_SIZE}, batch_tokens=0, '
          'max_length=32)')
  done = command.run_command(
    translation, '--preset=smoke', f'--tasks={task}', '--layers=transformer', '--seeds=1',
    '--learning_rates=1e-2', '--test_batches=8', '--beam=1', f'--runs={tmp_path}', '--cache=')
  assert done.code == 0, done.err
  assert 'training FLOPs' in done.out and 'tiny_lengths, en to de 32' in done.out
  (record,) = Store(tmp_path).records()
  (part,) = record['result']['written']
  pairs = [tuple(pair.values()) for pair in tiny_corpus.make_sentence_pairs(
    TinyLengths.SIZES['test'], sorted(TinyLengths.SIZES).index('test'), (2, 9))]
  assert sorted(zip(part['source'], part['reference'], strict=True)) == sorted(pairs)
  assert len(part['answers']['0']) == len(pairs) and part['left_out'] == {}
  for alignment in record['result']['alignments']:
    for weights in alignment['layers'].values():
      assert np.shape(weights) == (len(alignment['target']), len(alignment['source']))
  assert math.isfinite(translation_scores.chrf(part).estimate)


# Texts that SentencePiece treats specially, and ordinary letters.
SPECIAL_TEXTS = [
  '<s>', '</s>', '<unk>', '<pad>', '▁', '▅', '\0', '\t', ' ', '  ', '\u00a0', 'a', 'b', 'é',
  'e\u0301', '⁇', 'Haus', '\u200b', '\n',
]
PLAIN_LINES = ['one two three', 'Haus Baum', 'a b é é <s> </s> <unk> <pad>']
SPECIAL_LINES = ['▁ x▁y ▅ z\0 \t ⁇ \u200b q', *PLAIN_LINES]


@pytest.fixture(scope='module')
def vocabularies():
  return Vocabulary.train(PLAIN_LINES * 3, 42), Vocabulary.train(SPECIAL_LINES * 3, 56)


@settings(deadline=None, max_examples=200)
@given(st.one_of(st.lists(st.sampled_from(SPECIAL_TEXTS)).map(''.join),
                 st.text(st.characters(exclude_categories=['Cs', 'Cn']))))
def test_detokenization_restores_a_line_without_unknown_tokens(vocabularies, line):
  for vocabulary in vocabularies:
    (tokens,) = vocabulary.encode([line])
    assert tokens[-1] == END and END not in tokens[:-1]
    assert UNKNOWN in tokens or vocabulary.decode(tokens) == normalize_whitespace(line)


def test_every_character_of_the_training_text_is_known(vocabularies):
  for vocabulary, lines in zip(vocabularies, (PLAIN_LINES, SPECIAL_LINES), strict=True):
    assert not any(UNKNOWN in tokens for tokens in vocabulary.encode(lines))


@pytest.mark.parametrize('long_line', [
  'xyz ' * 1100, 'xyz' * 1500, 'ü' * 3000 + ' x y z', 'xyz ü ' + 'one ' * 1100,
  '😀' * 1100 + 'xyzü', 'z' * 70_000,
])
def test_long_lines_of_the_training_text_are_not_skipped(long_line):
  """SentencePiece skips lines of more than 4192 bytes and reports this in its log only."""
  assert len(long_line.encode()) > 4192
  lines = [*['one two three ab cd'] * 9, long_line]
  size = len({*range(RESERVED), UNKNOWN, *''.join(lines)})  # room for single characters only
  vocabulary = Vocabulary.train(lines, size)
  assert not any(UNKNOWN in tokens for tokens in vocabulary.encode(lines))


def test_a_long_line_trains_the_same_vocabulary_as_its_words_in_short_lines():
  words = ['alpha', 'beta', 'gamma', 'delta'] * 400
  long, short = Vocabulary.train([' '.join(words)], 30), Vocabulary.train(words, 30)
  assert long == short
