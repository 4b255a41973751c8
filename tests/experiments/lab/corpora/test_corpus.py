"""Real corpora: plans lose nothing, what is read is what is there, and what goes wrong is said."""

import itertools
import math
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.lab import optional, sealed_folder
from experiments.lab.corpora import reader, sets
from experiments.lab.corpora.buckets import MULTIPLE, Buckets, least_padded, shapes_of
from experiments.lab.corpora.network import unreachable
from experiments.lab.corpora.reserved import END, PAD
from experiments.lab.corpora.sets import CorpusError, split_of
from experiments.lab.results.store import Store
from experiments.lab.tasks.corpus import Corpus
from experiments.lab.tasks.task import SPLITS
from experiments.lab.training.checkpoints import Checkpoints
from experiments.lab.training.recipe import Recipe
from experiments.lab.training.step import Training
from experiments.lab.training.streaming import Streamed, train
from experiments.translation import study as translation
from tests.experiments.lab.corpora import tiny_corpus
from tests.experiments.lab.corpora.tiny_corpus import TinyTranslation, TinyUnsplit, sentences
from tests.experiments.lab.training.test_checkpoints import Table
from tests.support import command

ROOT = pathlib.Path(__file__).parents[4]
SIZE = 80
LENGTHS = st.lists(st.integers(1, 70), min_size=1, max_size=60).map(np.array)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  return tmp_path_factory.mktemp('data')


@pytest.fixture(autouse=True)
def here(data, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(data))


def corpus(name='tiny_translation', **changed):
  return Corpus(name, **{'vocabulary_size': SIZE, 'batch_tokens': 100, 'max_length': 64} | changed)


def padded(lengths, edges):
  """The tokens of all rows."""
  return sum(min(edge for edge in edges if edge >= n) for n in lengths)


@settings(deadline=None, max_examples=25)
@given(LENGTHS, st.integers(1, 4))
def test_no_other_edges_pad_less(lengths, number):
  edges = least_padded(lengths, number)
  assert len(edges) <= number and all(edge % MULTIPLE == 0 for edge in edges)
  last = MULTIPLE * math.ceil(max(lengths) / MULTIPLE)
  below = range(MULTIPLE, last, MULTIPLE)
  others = itertools.combinations(below, min(number - 1, len(below)))
  assert padded(lengths, edges) == min(padded(lengths, (*other, last)) for other in others)


@settings(deadline=None, max_examples=25)
@given(LENGTHS, st.integers(0, 200), st.integers(0, 2))
def test_an_epoch_has_every_example_once_in_batches_of_few_shapes(lengths, tokens, epoch):
  shapes = shapes_of(lengths, tokens, batch_size=3)
  buckets = Buckets(lengths, shapes, seed=1)
  indices = range(epoch * buckets.count, (epoch + 1) * buckets.count)
  batches = [buckets.batch(index) for index in indices]
  assert sorted(np.concatenate([rows for _, rows in batches])) == list(range(len(lengths)))
  for shape, rows in batches:
    assert shape in shapes and 1 <= len(rows) <= shape.rows
    assert max(lengths[rows]) <= shape.tokens
  for shape in shapes:  # about as many tokens as were asked for, or as many rows
    own = np.concatenate([lengths[rows] for other, rows in batches if other == shape])
    assert shape.rows == (max(1, round(tokens / own.mean())) if tokens else 3)
    assert sum(other == shape for other, _ in batches) == math.ceil(len(own) / shape.rows)


@settings(deadline=None, max_examples=10)
@given(st.permutations(range(40)))
def test_a_batch_depends_on_its_number_alone_and_epochs_differ(order):
  lengths = np.arange(1, 61)
  shapes = shapes_of(lengths, 60, 1)
  whole, some = Buckets(lengths, shapes, 1), Buckets(lengths, shapes, 1)
  expected = [whole.batch(index) for index in range(40)]
  for index in order:
    shape, rows = some.batch(index)
    assert shape == expected[index][0] and rows.tolist() == expected[index][1].tolist()
  first, second = ([whole.batch(epoch * whole.count + i)[1].tolist() for i in range(whole.count)]
                   for epoch in (0, 1))
  assert first != second
  assert first != [Buckets(lengths, shapes, 2).batch(i)[1].tolist() for i in range(whole.count)]


def read_all(task, split):
  """The pairs of an epoch as text; checks each batch on the way."""
  found = []
  for index in range(task.batches(split, 1)):
    batch = task.batch(split, index, 1)
    assert batch.source.shape == batch.target.shape and batch.source.dtype == np.int32
    np.testing.assert_array_equal(batch.weight, batch.target != PAD)
    for source, target in zip(batch.source, batch.target, strict=True):
      assert (source == END).sum() == 1 and source[source != PAD][-1] == END
      if target.any():
        assert (target == END).sum() == 1 and target[target != PAD][-1] == END
        found.append((task.text(source), task.text(target)))
      else:
        assert source[0] == END  # a row left over
  return found


@pytest.mark.parametrize('split', SPLITS)
def test_an_epoch_is_the_set_itself(split):
  seed = sorted(SPLITS).index(split)
  pairs = [(p['en'], p['de']) for p in sentences(TinyTranslation.SIZES[split], seed)]
  assert sorted(read_all(corpus(), split)) == sorted(pairs)
  assert corpus().source_length == corpus().target_length <= 64


def test_a_set_of_one_split_is_dealt_by_its_pairs():
  pairs = {split: read_all(corpus('tiny_unsplit'), split) for split in SPLITS}
  whole = [(p['en'], p['de']) for p in sentences(TinyUnsplit.SIZES['train'], 0)]
  assert sorted(itertools.chain(*pairs.values())) == sorted([*whole, *[whole[0]] * 9])
  assert all(split_of(pair) == split for split in SPLITS for pair in pairs[split])
  assert all(pairs.values())


def test_lengths_are_asked_for_and_what_lies_beyond_is_longer():
  task = corpus(batch_tokens=0, max_length=16)
  assert len(task.batch('train', 0, 7).source) == 7
  beyond = task.beyond(40)
  assert (task.distance, beyond.distance) == (16, 40) and beyond.inputs == task.inputs
  counts = [len(read_all(one, 'test')) for one in (task, beyond, task.at(40))]
  assert min(counts) > 0 and counts[0] + counts[1] == counts[2]
  for one, shortest, longest in ((task, 1, 16), (beyond, 17, 40)):
    batch = one.batch('train', 0, 5)
    longer = np.maximum((batch.source != PAD).sum(1), (batch.target != PAD).sum(1))
    longer = longer[batch.weight.any(1)]
    assert shortest <= longer.min() and longer.max() <= longest
  assert task.chance == 0 and task.streams and task.digest == beyond.digest
  with pytest.raises(TypeError, match='nobody knows'):
    task.oracle(np.zeros((1, 2)))
  metric = task.measure(task.baseline(batch.source), batch)
  assert metric[0] == 0 and metric[1] == batch.weight.any(1).sum()


@pytest.mark.parametrize(('changed', 'words'), [
  ({'target': 'en'}, 'source=en'), ({'batch_tokens': -1}, 'batch_tokens=-1'),
  ({'min_length': 64}, 'min_length=64'), ({'max_length': 0}, 'max_length=0'),
])
def test_settings_that_make_no_task_are_refused(changed, words):
  with pytest.raises(ValueError, match=words):
    corpus(**changed)


@pytest.mark.parametrize(('name', 'languages', 'words'), [
  ('wmt14_translat', 'en de', "has no set 'wmt14_translat'; did you mean wmt14_translate"),
  ('wmt14_translate/de-xx', 'en de', "wmt14_translate has no 'de-xx': there is cs-en, de-en"),
  ('wmt14_translate:9.9.9', 'en cs', 'cannot be loaded at version 9.9.9, only: 1.0.0'),
  ('wmt14_translate/de-en', 'en fr', "has no 'fr': its languages are de, en"),
  ('mnist', 'en de', 'mnist is no translation set: its features are image, label'),
  ('tiny_titles', 'en de', 'is no translation set: its features are title'),
  ('tiny_untrained', 'en de', 'has no split to train on, only test'),
  ('../x', 'en de', "cannot read '../x'"),
])
def test_a_set_that_will_not_do_is_refused_in_one_line(name, languages, words, capfd):
  with pytest.raises(CorpusError) as caught:
    reader.read(name, *languages.split(), SIZE)
  assert words in str(caught.value) and '\n' not in str(caught.value)


def test_where_there_is_no_network_it_is_said_at_once(monkeypatch):
  monkeypatch.setattr(sets, 'unreachable', lambda urls: sorted(urls)[:1])
  start = time.monotonic()
  with pytest.raises(CorpusError, match=r'no network to fetch it: no answer from http.*statmt.org'):
    reader.read('wmt14_translate/de-en', 'en', 'de', SIZE)
  assert time.monotonic() - start < 5


def test_a_host_answers_or_does_not(monkeypatch):
  monkeypatch.setattr('urllib.request.getproxies', dict)
  with socket.create_server(('127.0.0.1', 0)) as server:
    there = f'http://127.0.0.1:{server.getsockname()[1]}/a'
    with socket.create_server(('127.0.0.1', 0)) as other:
      gone = f'http://127.0.0.1:{other.getsockname()[1]}/b'
    assert unreachable([gone]) == ['127.0.0.1']
    assert unreachable([gone, there]) == unreachable([]) == unreachable(['file:///x']) == []
    monkeypatch.setattr('urllib.request.getproxies', lambda: {'https': there})
    assert unreachable(['https://nowhere.invalid/x']) == []


def test_what_is_missing_or_too_much_is_said_in_one_line(monkeypatch, capfd):
  with pytest.raises(CorpusError, match=r'tiny_translation/1.0.0: vocabulary_size=8000 does not'):
    reader.read('tiny_translation', 'en', 'de', 8000)
  with pytest.raises(CorpusError, match='has no pair of 60 to 64 tokens in its test split'):
    corpus(min_length=59).batch('test', 0, 1)
  with pytest.raises(CorpusError, match='has no pair of 1 to 1 tokens in its test split'):
    assert corpus(max_length=1).source_length
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
  with pytest.raises(optional.MissingExtra, match=r'pip install .*\[translation\]'):
    reader.read('tiny_unsplit', 'en', 'de', SIZE + 1)


@pytest.mark.parametrize('file', ['vocabulary.model', 'train.lengths.npy', 'test.tokens'])
def test_a_damaged_file_is_named(tmp_path, monkeypatch, file, capfd):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  read = reader._read.__wrapped__  # which remembers nothing
  read(tmp_path, 'tiny_translation', 'en', 'de', SIZE)
  (found,) = tmp_path.rglob(file)
  content = bytearray(found.read_bytes())
  content[-1] ^= 1
  found.write_bytes(content)
  with pytest.raises(CorpusError, match=f'has a damaged {file}: delete this folder'):
    read(tmp_path, 'tiny_translation', 'en', 'de', SIZE)
  (found.parent / sealed_folder.NAME).unlink()
  with pytest.raises(CorpusError, match='was not finished'):
    read(tmp_path, 'tiny_translation', 'en', 'de', SIZE)


def test_a_set_that_lost_examples_is_refused(monkeypatch):
  builder = sets.find(pathlib.Path(os.environ['TFDS_DATA_DIR']), 'tiny_translation',
                                  ('en', 'de'))
  monkeypatch.setattr(type(builder), 'as_data_source', lambda self, split: [1, 2])
  with pytest.raises(CorpusError, match='its train split has 2 examples, not 300; delete'):
    sets.read(builder, ('en', 'de'))


def test_a_corpus_that_cannot_be_had_ends_a_command_with_two():
  def script():
    reader.read('mnist', 'en', 'de', SIZE)

  done = command.run(sys.modules[__name__], define=lambda: None, main=script)
  assert (done.code, done.out) == (2, '')
  assert done.err == 'mnist is no translation set: its features are image, label\n'


def main():
  """Replaced by the test of commands."""


PREPARING = """
import os, pathlib, signal, sys, time
import tests.conftest
from experiments.lab.corpora import reader
from experiments.lab.tasks.corpus import Corpus

assert 'tensorflow_datasets' not in sys.modules
import tests.experiments.lab.corpora.tiny_corpus
data = pathlib.Path(os.environ['TFDS_DATA_DIR'])
draft = data / 'sequence-lab/tiny_translation/en-de-80.incomplete'

def killed(*_):
  time.sleep(1)
  os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[1] == 'killed':
  reader._encode = killed
else:
  while not draft.exists():
    time.sleep(0.01)
print(Corpus('tiny_translation', vocabulary_size=80).digest)
"""


def test_of_two_that_prepare_at_once_one_waits_and_takes_over_when_the_other_is_killed(tmp_path):
  left = tmp_path / 'tiny_translation' / 'incomplete.AB_1.0.0'
  left.mkdir(parents=True)
  environment = os.environ | {'TFDS_DATA_DIR': str(tmp_path)}
  first, second = (
    subprocess.Popen([sys.executable, '-c', PREPARING, how], cwd=ROOT, env=environment, text=True,
                     stdout=subprocess.PIPE, stderr=subprocess.PIPE) for how in ('killed', 'waits'))
  out, said = second.communicate(timeout=60)
  first.communicate()
  assert first.returncode == -signal.SIGKILL and second.returncode == 0, said
  assert 'is being prepared by another process: waiting' in said
  assert out.strip() == corpus().digest
  assert not left.exists() and not list(tmp_path.rglob('*.incomplete'))


@pytest.mark.slow
def test_a_study_goes_from_a_corpus_to_its_table_and_on_from_where_it_was_left(tmp_path):
  sizes = f'vocabulary_size={SIZE}, batch_tokens=200, max_length=16'
  spec = f'corpus(dataset=tiny_translation, {sizes})'
  words = [f'--tasks={spec}', '--layers=transformer', '--seeds=1', f'--runs={tmp_path}', '--cache=']
  done = command.run(translation, '--preset=smoke', *words)
  assert done.code == 0, done.err
  assert 'tiny_translation, en to de 16' in done.out and 'training FLOPs' in done.out
  (first,) = Store(tmp_path).records()
  written = first['result']['written'][0]
  assert 0 < len(written['source']) == len(written['answers']['0'])
  words_of = {word for text in written['reference'] for word in text.split()}
  assert words_of and words_of <= set(tiny_corpus.WORDS.values())
  assert first['result']['controls'] == {} and first['result']['chance'] == 0
  for cell in tmp_path.glob('cells/*.json'):
    cell.unlink()
  again = command.run(translation, '--preset=smoke', *words)  # from the last checkpoints
  assert again.code == 0
  (same,) = Store(tmp_path).records()
  assert same['result']['members'] == first['result']['members']


def test_a_model_trains_on_a_corpus_and_goes_on_from_its_checkpoint(tmp_path):
  task = corpus(batch_tokens=200, max_length=16)
  recipe = Recipe(steps=4, batch_size=8, validations=2, validation_batches=1, test_batches=1)
  training = Training(Table(size=SIZE), task, recipe)
  ensemble = Streamed(training, [(0, 0.01)], devices=jax.devices()[:1])
  checkpoints = Checkpoints(tmp_path, {'digest': task.digest})
  run = lambda: train(ensemble, task, recipe, progress=lambda *_: None, checkpoints=checkpoints)  # noqa: E731
  members = run()
  assert [member.status for member in members] == ['finished']
  assert all(math.isfinite(member.test_loss) for member in members)
  assert run() == members
