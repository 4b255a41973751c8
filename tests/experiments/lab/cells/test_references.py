"""Answers are judged by the data's own sentences, and what is not judged is counted."""

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
from experiments.lab.corpora.reserved import END, PAD, RESERVED
from experiments.lab.corpora.sets import CorpusError, Sentences, split_of
from experiments.lab.corpora.vocabulary import UNKNOWN, Vocabulary, spaced
from experiments.lab.results import translation_tables, translations
from experiments.lab.results.store import Store
from experiments.lab.tasks.corpus import Corpus
from experiments.lab.tasks.dates import Dates
from experiments.lab.tasks.number_words import NumberWords
from experiments.lab.tasks.sequence_copying import Reverse
from experiments.lab.tasks.task import certain
from experiments.lab.training.recipe import Recipe
from experiments.translation import study as translation
from tests.experiments.lab.corpora import tiny_corpus
from tests.experiments.lab.corpora.tiny_corpus import ODD, TinyLengths
from tests.support import command

SIZE = 80
JUDGED = [pair for pair in ODD if all(map(str.strip, pair))]


@pytest.fixture(autouse=True, scope='module')
def data(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('TFDS_DATA_DIR', str(tmp_path_factory.mktemp('data')))
    yield


def corpus(name='tiny_odd', **changed):
  return Corpus(name, **{'vocabulary_size': SIZE, 'batch_tokens': 0, 'max_length': 32} | changed)


def test_batches(task, batch_size=4):
  """The batches of a test split."""
  return [task.batch('test', i, batch_size) for i in range(task.batches('test', batch_size))]


test_batches.__test__ = False


def answered(task, batches, answer):
  """What is stored where `answer` gives the tokens [B, T] that are written to a batch."""
  answers = [SimpleNamespace(tokens=answer(batch)[None]) for batch in batches]
  return artifacts.written(task, len(batches[0].source), {'0': 0}, batches, answers)


def test_the_references_are_the_sets_own_sentences():
  task = corpus()
  stored = answered(task, test_batches(task), lambda batch: batch.target)
  assert sorted(zip(stored['source'], stored['reference'], strict=True)) == sorted(JUDGED)
  assert stored['left_out'] == {'with an empty side': len(ODD) - len(JUDGED)}
  assert stored['cut_off'] == {'0': 0}


def test_an_answer_with_the_unknown_token_is_wrong_in_words_and_in_tokens():
  """It is what a model writes that predicts every token of its target."""
  task = corpus()
  batches = test_batches(task)
  stored = answered(task, batches, lambda batch: batch.target)
  right = dict(zip(stored['reference'], translations.exact(stored)['0'].tolist(), strict=True))
  known = {target: UNKNOWN not in task.tokens(target) for _, target in JUDGED}
  assert right == known | {'blau ⁇': True}  # as the unknown token is written
  assert {target for target, kept in known.items() if kept} == {
    ' eins\u00a0zwei\u202f', 'drei\r\nvier'}
  sums = [task.measure(certain(jnp.asarray(batch.target), SIZE), batch) for batch in batches]
  assert np.sum(sums, 0).tolist() == [sum(known.values()), len(JUDGED)]


def test_the_figures_of_one_answer_that_writes_the_unknown_token():
  reference = 'Ærøskøbing  Haus'
  answer = corpus().text(corpus().tokens(reference))
  assert answer == ' ⁇ r ⁇ s ⁇ bing Haus'
  stored = {'reference': [reference] * 2, 'answers': {'0': [answer] * 2}}
  # One of 7 words is right; of longer n-grams none, which smoothing counts as 1/2, 1/4 and 1/8.
  bleu = 100 * (1 / 7 / (2 * 12) / (4 * 10) / (8 * 8)) ** 0.25
  assert translations.exact_match(stored).mean == 0
  assert translations.bleu(stored).mean == pytest.approx(bleu)
  assert translations.chrf(stored).mean == pytest.approx(49.87, abs=0.01)
  assert translations.exact_match(stored | {'reference': [answer] * 2}).mean == 1


@pytest.mark.parametrize('task', [
  NumberWords(digits=3, pairs=400), NumberWords('de', 'fr', digits=3, pairs=400),
  Dates(years=5, pairs=300), Reverse(max_length=5),
], ids=repr)
def test_every_tasks_references_are_the_sentences_of_its_batch(task):
  batches = [jax.tree.map(np.asarray, task.batch('test', i, 6)) for i in range(3)]
  stored = answered(task, batches, lambda batch: batch.target)
  assert translations.exact_match(stored).mean == 1 and stored['left_out'] == {}
  rows = [row for batch in batches for row in batch.source]
  assert stored['source'] == [task.text(row) for row in rows]
  assert stored['source_length'] == [int((row != PAD).sum()) for row in rows]
  if sentences := getattr(task, 'sentences', None):
    pairs = {(pair.source, pair.target) for pair in sentences()}
    assert set(zip(stored['source'], stored['reference'], strict=True)) <= pairs


def test_sentences_of_a_table_do_not_pass_through_its_vocabulary(monkeypatch):
  task = NumberWords(digits=3, pairs=300)
  monkeypatch.setattr(Vocabulary, 'decode', lambda *_: 'what the vocabulary keeps')
  assert task.test_sentences(0, 5) == NumberWords(digits=3, pairs=300).test_sentences(0, 5)
  assert not any('keeps' in side for pair in task.test_sentences(0, 5) for side in pair)


def test_a_guess_of_the_unknown_token_is_never_right(monkeypatch):
  task = NumberWords(digits=3, pairs=301)  # of no other test: what is counted of it is kept
  target = np.full_like(task.table.target, PAD)
  target[:, 0] = UNKNOWN
  table = task.table._replace(target=target)
  monkeypatch.setattr(NumberWords, 'table', property(lambda _: table))
  assert task.chance == 0


def test_what_is_in_no_batch_is_counted_by_reason():
  task = corpus('tiny_translation', min_length=6, max_length=20)
  lengths = task.data.splits['test'].lengths.max(1)
  size = 3
  for count in (1, 2, 1000):
    read = sum(len(task.test_sentences(i, size))
               for i in range(min(count, task.batches('test', size))))
    left_out = task.left_out(count, size)
    assert sum(left_out.values()) + read == len(lengths)
    assert left_out['of more than 20 tokens'] == (lengths > 20).sum() > 0
    assert left_out['of 6 tokens or fewer'] == (lengths <= 6).sum() > 0
    assert ('in later batches' in left_out) == (count < 1000)


class Source(list):
  """Examples as a data source of TensorFlow Datasets has them."""

  def __getitems__(self, places):
    return [self[place] for place in places]


def test_sentences_of_a_set_are_read_as_they_stand_there():
  examples = [{'en': side.encode(), 'de': side} for pair in ODD for side in pair]
  pairs = Sentences(Source(examples), ('en', 'de'), None).pairs()
  assert list(pairs) == [(side, side) for pair in ODD for side in pair]
  bad = Sentences(Source([{'en': b'\xff', 'de': b'a'}]), ('en', 'de'), None)
  with pytest.raises(CorpusError, match=r"a sentence that is not UTF-8: b'\\xff'"):
    list(bad.pairs())


def test_copies_that_differ_in_white_space_are_in_one_split():
  for word in 'abcdefgh':
    assert split_of((f' {word}  b', word)) == split_of((f'{word}\u00a0b', f'{word}\n'))


def test_left_out_and_cut_off_are_said_below_the_table():
  part = {
    'reference': ['a', 'b', 'c'], 'answers': {'0': ['a', 'b', 'c'], '1': ['a', 'b', 'x']},
    'left_out': {'of more than 256 tokens': 4, 'in later batches': 5}, 'cut_off': {'0': 2, '1': 0},
  }
  record = {'status': 'finished', 'run': {'layer': 'lstm'}, 'result': {'written': [part]}}
  assert translation_tables.omissions({'wmt': [record]}) == (
    ' wmt: 9 of 12 test sentences are left out: 4 of more than 256 tokens, 5 in later batches.'
    ' wmt, lstm: 2 of 6 answers were cut off, as long as the longest target of their batch.')
  part |= {'left_out': {}, 'cut_off': {'0': 0, '1': 0}}
  assert translation_tables.omissions({'wmt': [record]}) == ''
  del part['left_out'], part['cut_off']  # of records from before they were counted
  assert translation_tables.omissions({'wmt': [record]}) == ''


def test_what_an_earlier_version_prepared_is_refused_in_one_line(monkeypatch):
  corpus('tiny_lengths').batch('test', 0, 1)
  monkeypatch.setattr(reader, 'SENTENCES', 'another.jsonl')
  folder = pathlib.Path(os.environ['TFDS_DATA_DIR'])
  with pytest.raises(CorpusError, match='by an earlier version of this program: delete this'):
    reader._read.__wrapped__(folder, 'tiny_lengths', 'en', 'de', SIZE)


# Batches of two lengths


def test_batches_of_two_lengths_are_joined():
  task = corpus('tiny_lengths')
  batches = test_batches(task, 8)
  assert len({batch.target.shape for batch in batches}) > 1
  stored = answered(task, batches, lambda batch: batch.target[:, ::-1][:, :3])
  assert len(stored['source']) == TinyLengths.SIZES['test']
  assert {len(text.split()) for text in stored['source']} == {2, 9}
  expected = translated = 0.0
  for place in range(max(batch.target.shape[1] for batch in batches)):
    column = [row[place] for batch in batches for row in batch.target
              if place < len(row) and row[place] != PAD]
    for token in set(column):
      share = column.count(token) / len(column)
      expected -= column.count(token) * math.log(share)
    translated += len(column)
  blind = artifacts.blind(batches)
  assert blind['blind_loss'] == pytest.approx(expected / translated)
  assert blind['tokens'] == pytest.approx(translated / TinyLengths.SIZES['test'])


def test_an_answer_without_an_end_counts_as_cut_off():
  task = corpus('tiny_lengths')
  batches = test_batches(task, 8)
  unended = lambda batch: np.where(batch.target == END, UNKNOWN + 1, batch.target)  # noqa: E731
  stored = answered(task, batches, unended)
  assert stored['cut_off'] == {'0': TinyLengths.SIZES['test']}


def test_a_steps_work_is_the_mean_over_batches_of_all_shapes(monkeypatch):
  task = corpus('tiny_lengths')
  monkeypatch.setattr(artifacts.work, 'flops', lambda step, state, batch: batch.source.size)
  sizes = [task.batch('train', i, 8).source.size for i in range(task.batches('train', 8))]
  assert len(set(sizes)) > 1
  for steps in (1, 5, 10**6):
    training = artifacts.Training(None, task, Recipe(steps=steps, batch_size=8))
    assert artifacts.step_flops(training, None) == round(np.mean(sizes[:steps]))


def test_alignments_are_of_a_few_sentences_however_many_a_batch_has(monkeypatch):
  task, asked = corpus('tiny_lengths', batch_tokens=200), []

  def weights(model, parameters, source, past, mask):
    asked.append(len(source))
    return {}

  monkeypatch.setattr(artifacts.attention, 'weights', weights)
  model = SimpleNamespace(decoder=SimpleNamespace(levels=()), reverse_source=False)
  assert len(task.batch('test', 0, 1).source) > artifacts.ALIGNED
  assert artifacts.alignments(task, model, None) == [] and asked == [artifacts.ALIGNED]


def test_a_split_without_sentences_is_said_before_training():
  with pytest.raises(CorpusError, match='no pair of 1 to 2 tokens in its test split'):
    assert corpus('tiny_lengths', max_length=2).source_length


@pytest.mark.slow
def test_a_corpus_of_two_lengths_goes_from_flags_to_its_table(tmp_path):
  task = f'corpus(dataset=tiny_lengths, vocabulary_size={SIZE}, batch_tokens=0, max_length=32)'
  done = command.run(
    translation, '--preset=smoke', f'--tasks={task}', '--layers=transformer', '--seeds=1',
    '--learning_rates=1e-2', '--test_batches=8', '--beam=1', f'--runs={tmp_path}', '--cache=')
  assert done.code == 0, done.err
  assert 'training FLOPs' in done.out and 'tiny_lengths, en to de 32' in done.out
  (record,) = Store(tmp_path).records()
  (part,) = record['result']['written']
  pairs = [tuple(pair.values()) for pair in tiny_corpus.sentences(
    TinyLengths.SIZES['test'], sorted(TinyLengths.SIZES).index('test'), (2, 9))]
  assert sorted(zip(part['source'], part['reference'], strict=True)) == sorted(pairs)
  assert len(part['answers']['0']) == len(pairs) and part['left_out'] == {}
  for kept in record['result']['alignments']:
    for weights in kept['layers'].values():
      assert np.shape(weights) == (len(kept['target']), len(kept['source']))
  assert math.isfinite(translations.chrf(part).mean)


# What a vocabulary keeps


# What SentencePiece treats in ways of its own, and letters.
PARTS = ['<s>', '</s>', '<unk>', '<pad>', '▁', '▅', '\0', '\t', ' ', '  ', '\u00a0', 'a', 'b', 'é',
         'e\u0301', '⁇', 'Haus', '\u200b', '\n']
WORDS = ['one two three', 'Haus Baum', 'a b é é <s> </s> <unk> <pad>']
UNLIKE = ['▁ x▁y ▅ z\0 \t ⁇ \u200b q', *WORDS]


@pytest.fixture(scope='module')
def vocabularies():
  return Vocabulary.train(WORDS * 3, 42), Vocabulary.train(UNLIKE * 3, 56)


@settings(deadline=None, max_examples=200)
@given(st.one_of(st.lists(st.sampled_from(PARTS)).map(''.join),
                 st.text(st.characters(exclude_categories=['Cs', 'Cn']))))
def test_a_line_is_read_back_or_has_the_unknown_token_in_it(vocabularies, line):
  for vocabulary in vocabularies:
    (tokens,) = vocabulary.encode([line])
    assert tokens[-1] == END and END not in tokens[:-1]
    assert UNKNOWN in tokens or vocabulary.decode(tokens) == spaced(line)


def test_no_character_of_the_training_text_is_unknown(vocabularies):
  for vocabulary, lines in zip(vocabularies, (WORDS, UNLIKE), strict=True):
    assert not any(UNKNOWN in tokens for tokens in vocabulary.encode(lines))


@pytest.mark.parametrize('long', [
  'xyz ' * 1100, 'xyz' * 1500, 'ü' * 3000 + ' x y z', 'xyz ü ' + 'one ' * 1100,
  '😀' * 1100 + 'xyzü', 'z' * 70_000,
])
def test_long_lines_of_the_training_text_are_read(long):
  """SentencePiece leaves out lines of more than 4192 bytes and says so in its log alone."""
  assert len(long.encode()) > 4192
  lines = [*['one two three ab cd'] * 9, long]
  size = len({*range(RESERVED), UNKNOWN, *''.join(lines)})  # room for single characters only
  vocabulary = Vocabulary.train(lines, size)
  assert not any(UNKNOWN in tokens for tokens in vocabulary.encode(lines))


def test_a_long_line_counts_as_much_as_its_words_in_short_ones():
  words = ['alpha', 'beta', 'gamma', 'delta'] * 400
  long, short = Vocabulary.train([' '.join(words)], 30), Vocabulary.train(words, 30)
  assert long == short
