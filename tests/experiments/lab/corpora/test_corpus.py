"""Tests of corpora, from bucketing and reading to training, and of their error messages."""

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
from experiments.lab.corpora import datasets, reader
from experiments.lab.corpora.buckets import (
  BOUNDARY_MULTIPLE,
  Buckets,
  batch_shapes,
  bucket_boundaries,
)
from experiments.lab.corpora.datasets import CorpusError, split_of_sentence_pair
from experiments.lab.corpora.network import unreachable_hosts_that_prevent_download
from experiments.lab.corpora.reserved import END, PAD
from experiments.lab.results.store import Store
from experiments.lab.tasks.corpus import Corpus
from experiments.lab.tasks.task import SPLITS
from experiments.lab.training.checkpoints import Checkpoints
from experiments.lab.training.recipe import Recipe
from experiments.lab.training.step import Training
from experiments.lab.training.streaming import StreamingEnsemble, train_from_stream
from experiments.translation import study as translation
from tests.experiments.lab.corpora import tiny_corpus
from tests.experiments.lab.corpora.tiny_corpus import (
  TinyTranslation,
  TinyUnsplit,
  make_sentence_pairs,
)
from tests.experiments.lab.training.test_checkpoints import Table
from tests.support import command

ROOT = pathlib.Path(__file__).parents[4]
SIZE = 80
LENGTHS = st.lists(st.integers(1, 70), min_size=1, max_size=60).map(np.array)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  return tmp_path_factory.mktemp('data')


@pytest.fixture(autouse=True)
def data_folder(data, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(data))


def corpus(name='tiny_translation', **changed):
  return Corpus(name, **{'vocabulary_size': SIZE, 'batch_tokens': 100, 'max_length': 64} | changed)


def count_padded_tokens(lengths, boundaries):
  """The number of tokens of all rows with padding."""
  return sum(min(boundary for boundary in boundaries if boundary >= n) for n in lengths)


@settings(deadline=None, max_examples=25)
@given(LENGTHS, st.integers(1, 4))
def test_bucket_boundaries_minimise_padding(lengths, max_buckets):
  boundaries = bucket_boundaries(lengths, max_buckets)
  assert len(boundaries) <= max_buckets
  assert all(boundary % BOUNDARY_MULTIPLE == 0 for boundary in boundaries)
  last = BOUNDARY_MULTIPLE * math.ceil(max(lengths) / BOUNDARY_MULTIPLE)
  candidates = range(BOUNDARY_MULTIPLE, last, BOUNDARY_MULTIPLE)
  subsets = itertools.combinations(candidates, min(max_buckets - 1, len(candidates)))
  least = min(count_padded_tokens(lengths, (*subset, last)) for subset in subsets)
  assert count_padded_tokens(lengths, boundaries) == least


@settings(deadline=None, max_examples=25)
@given(LENGTHS, st.integers(0, 200), st.integers(0, 2))
def test_an_epoch_has_every_example_once_in_the_given_batch_shapes(lengths, tokens, epoch):
  shapes = batch_shapes(lengths, tokens, batch_size=3)
  buckets = Buckets(lengths, shapes, seed=1)
  indices = range(epoch * buckets.count, (epoch + 1) * buckets.count)
  batches = [buckets.batch(index) for index in indices]
  assert sorted(np.concatenate([rows for _, rows in batches])) == list(range(len(lengths)))
  for shape, rows in batches:
    assert shape in shapes and 1 <= len(rows) <= shape.rows
    assert max(lengths[rows]) <= shape.tokens
  for shape in shapes:
    members = np.concatenate([lengths[rows] for other, rows in batches if other == shape])
    assert shape.rows == (max(1, round(tokens / members.mean())) if tokens else 3)
    assert sum(other == shape for other, _ in batches) == math.ceil(len(members) / shape.rows)


@settings(deadline=None, max_examples=10)
@given(st.permutations(range(40)))
def test_a_batch_depends_only_on_its_index_and_epochs_differ(order):
  lengths = np.arange(1, 61)
  shapes = batch_shapes(lengths, 60, 1)
  sequential, shuffled = Buckets(lengths, shapes, 1), Buckets(lengths, shapes, 1)
  count = sequential.count
  expected = [sequential.batch(index) for index in range(40)]
  for index in order:
    shape, rows = shuffled.batch(index)
    assert shape == expected[index][0] and rows.tolist() == expected[index][1].tolist()
  first, second = ([sequential.batch(epoch * count + i)[1].tolist() for i in range(count)]
                   for epoch in (0, 1))
  assert first != second
  assert first != [Buckets(lengths, shapes, 2).batch(i)[1].tolist() for i in range(count)]


def read_epoch(task, split):
  """Returns the pairs of an epoch as text, and verifies the padding and weights of each batch."""
  pairs = []
  for index in range(task.num_batches(split, 1)):
    batch = task.batch(split, index, 1)
    assert batch.source.shape == batch.target.shape and batch.source.dtype == np.int32
    np.testing.assert_array_equal(batch.weight, batch.target != PAD)
    for source, target in zip(batch.source, batch.target, strict=True):
      assert (source == END).sum() == 1 and source[source != PAD][-1] == END
      if target.any():
        assert (target == END).sum() == 1 and target[target != PAD][-1] == END
        pairs.append((task.detokenize(source), task.detokenize(target)))
      else:
        assert source[0] == END  # a row that pads an incomplete batch
  return pairs


@pytest.mark.parametrize('split', SPLITS)
def test_an_epoch_contains_the_whole_data_set(split):
  seed = sorted(SPLITS).index(split)
  pairs = [(p['en'], p['de']) for p in make_sentence_pairs(TinyTranslation.SIZES[split], seed)]
  assert sorted(read_epoch(corpus(), split)) == sorted(pairs)
  assert corpus().source_length == corpus().target_length <= 64


def test_a_data_set_of_one_split_is_divided_by_pair():
  pairs = {split: read_epoch(corpus('tiny_unsplit'), split) for split in SPLITS}
  expected = [(p['en'], p['de']) for p in make_sentence_pairs(TinyUnsplit.SIZES['train'], 0)]
  assert sorted(itertools.chain(*pairs.values())) == sorted([*expected, *[expected[0]] * 9])
  assert all(split_of_sentence_pair(pair) == split for split in SPLITS for pair in pairs[split])
  assert all(pairs.values())


def test_corpus_tasks_select_sentences_by_length():
  task = corpus(batch_tokens=0, max_length=16)
  assert len(task.batch('train', 0, 7).source) == 7
  longer_task = task.extrapolation_task(40)
  assert (task.dependency_distance, longer_task.dependency_distance) == (16, 40)
  assert longer_task.input_space == task.input_space
  tasks = task, longer_task, task.with_dependency_distance(40)
  counts = [len(read_epoch(any_task, 'test')) for any_task in tasks]
  assert min(counts) > 0 and counts[0] + counts[1] == counts[2]
  for any_task, shortest, longest in ((task, 1, 16), (longer_task, 17, 40)):
    batch = any_task.batch('train', 0, 5)
    longer = np.maximum((batch.source != PAD).sum(1), (batch.target != PAD).sum(1))
    longer = longer[batch.weight.any(1)]
    assert shortest <= longer.min() and longer.max() <= longest
  assert task.chance_level == 0 and task.streams and task.digest == longer_task.digest
  with pytest.raises(TypeError, match='there is no oracle'):
    task.oracle_outputs(np.zeros((1, 2)))
  metric = task.metric_sums(task.baseline_outputs(batch.source), batch)
  assert metric[0] == 0 and metric[1] == batch.weight.any(1).sum()


@pytest.mark.parametrize(('changed', 'message'), [
  ({'target': 'en'}, 'source=en'), ({'batch_tokens': -1}, 'batch_tokens=-1'),
  ({'min_length': 64}, 'min_length=64'), ({'max_length': 0}, 'max_length=0'),
])
def test_invalid_corpus_settings_raise_an_error(changed, message):
  with pytest.raises(ValueError, match=message):
    corpus(**changed)


@pytest.mark.parametrize(('name', 'languages', 'message'), [
  ('wmt14_translat', 'en de', "has no data set 'wmt14_translat'; did you mean wmt14_translate"),
  ('wmt14_translate/de-xx', 'en de',
   "wmt14_translate has no configuration 'de-xx': it has cs-en, de-en"),
  ('wmt14_translate:9.9.9', 'en cs', 'cannot be loaded at version 9.9.9, only: 1.0.0'),
  ('wmt14_translate/de-en', 'en fr', "has no language 'fr': its languages are de, en"),
  ('mnist', 'en de', 'mnist is not a translation data set: its features are image, label'),
  ('tiny_titles', 'en de', 'is not a translation data set: its features are title'),
  ('tiny_untrained', 'en de', 'has no training split, only test'),
  ('../x', 'en de', "cannot read '../x'"),
])
def test_an_unusable_data_set_raises_a_one_line_error(name, languages, message, capfd):
  with pytest.raises(CorpusError) as caught:
    reader.load_corpus(name, *languages.split(), SIZE)
  assert message in str(caught.value) and '\n' not in str(caught.value)


def test_a_missing_network_raises_an_error_within_seconds(monkeypatch):
  monkeypatch.setattr(
    datasets, 'unreachable_hosts_that_prevent_download', lambda urls: sorted(urls)[:1])
  start = time.monotonic()
  message = r'no network to download it: no connection to http.*statmt.org'
  with pytest.raises(CorpusError, match=message):
    reader.load_corpus('wmt14_translate/de-en', 'en', 'de', SIZE)
  assert time.monotonic() - start < 5


def test_hosts_are_unreachable_if_none_accepts_a_connection(monkeypatch):
  monkeypatch.setattr('urllib.request.getproxies', dict)
  with socket.create_server(('127.0.0.1', 0)) as server:
    open_url = f'http://127.0.0.1:{server.getsockname()[1]}/a'
    with socket.create_server(('127.0.0.1', 0)) as other:
      closed_url = f'http://127.0.0.1:{other.getsockname()[1]}/b'
    assert unreachable_hosts_that_prevent_download([closed_url]) == ['127.0.0.1']
    for urls in ([closed_url, open_url], [], ['file:///x']):
      assert unreachable_hosts_that_prevent_download(urls) == []
    monkeypatch.setattr('urllib.request.getproxies', lambda: {'https': open_url})
    assert unreachable_hosts_that_prevent_download(['https://nowhere.invalid/x']) == []


def test_a_missing_library_or_unsuitable_size_raises_a_one_line_error(monkeypatch, capfd):
  with pytest.raises(CorpusError, match=r'tiny_translation/1.0.0: vocabulary_size=8000 does not'):
    reader.load_corpus('tiny_translation', 'en', 'de', 8000)
  with pytest.raises(CorpusError, match='has no pair of 60 to 64 tokens in its test split'):
    corpus(min_length=59).batch('test', 0, 1)
  with pytest.raises(CorpusError, match='has no pair of 1 to 1 tokens in its test split'):
    assert corpus(max_length=1).source_length
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
  with pytest.raises(optional.MissingExtra, match=r'pip install .*\[translation\]'):
    reader.load_corpus('tiny_unsplit', 'en', 'de', SIZE + 1)


@pytest.mark.parametrize('file', ['vocabulary.model', 'train.lengths.npy', 'test.tokens'])
def test_the_error_for_a_damaged_corpus_names_the_file(tmp_path, monkeypatch, file, capfd):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  load_uncached = reader._open_or_prepare_corpus.__wrapped__
  load_uncached(tmp_path, 'tiny_translation', 'en', 'de', SIZE)
  (path,) = tmp_path.rglob(file)
  content = bytearray(path.read_bytes())
  content[-1] ^= 1
  path.write_bytes(content)
  with pytest.raises(CorpusError, match=f'has a damaged {file}: delete this folder'):
    load_uncached(tmp_path, 'tiny_translation', 'en', 'de', SIZE)
  (path.parent / sealed_folder.NAME).unlink()
  with pytest.raises(CorpusError, match='was not finished'):
    load_uncached(tmp_path, 'tiny_translation', 'en', 'de', SIZE)


def test_a_data_set_with_missing_examples_raises_an_error(monkeypatch):
  builder = datasets.find_dataset_builder(
    pathlib.Path(os.environ['TFDS_DATA_DIR']), 'tiny_translation', ('en', 'de')
  )
  monkeypatch.setattr(type(builder), 'as_data_source', lambda self, split: [1, 2])
  with pytest.raises(CorpusError, match='its train split has 2 examples, not 300; delete'):
    datasets.read_splits(builder, ('en', 'de'))


def test_a_command_with_an_unusable_corpus_exits_with_status_two():
  def load_unusable_corpus():
    reader.load_corpus('mnist', 'en', 'de', SIZE)

  done = command.run_command(
    sys.modules[__name__], define_flags=lambda: None, main=load_unusable_corpus
  )
  assert (done.code, done.out) == (2, '')
  assert done.err == 'mnist is not a translation data set: its features are image, label\n'


def main():
  """A placeholder that the test of commands replaces."""


PREPARING = """
import os, pathlib, signal, sys, time
import tests.conftest
from experiments.lab.corpora import reader
from experiments.lab.tasks.corpus import Corpus

assert 'tensorflow_datasets' not in sys.modules
import tests.experiments.lab.corpora.tiny_corpus
data = pathlib.Path(os.environ['TFDS_DATA_DIR'])
draft = data / 'sequence-lab/tiny_translation/en-de-80.incomplete'

def kill_after_a_second(*_):
  time.sleep(1)
  os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[1] == 'killed':
  reader._write_encoded_pairs = kill_after_a_second
else:
  while not draft.exists():
    time.sleep(0.01)
print(Corpus('tiny_translation', vocabulary_size=80).digest)
"""


def test_a_waiting_process_prepares_the_corpus_after_the_first_is_killed(tmp_path):
  incomplete = tmp_path / 'tiny_translation' / 'incomplete.AB_1.0.0'
  incomplete.mkdir(parents=True)
  environment = os.environ | {'TFDS_DATA_DIR': str(tmp_path)}
  first, second = (
    subprocess.Popen([sys.executable, '-c', PREPARING, role], cwd=ROOT, env=environment, text=True,
                     stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for role in ('killed', 'waits'))
  out, err = second.communicate(timeout=60)
  first.communicate()
  assert first.returncode == -signal.SIGKILL and second.returncode == 0, err
  assert 'is being prepared by another process; waiting' in err
  assert out.strip() == corpus().digest
  assert not incomplete.exists() and not list(tmp_path.rglob('*.incomplete'))


@pytest.mark.slow
def test_a_study_trains_on_a_corpus_and_resumes_from_checkpoints(tmp_path):
  sizes = f'vocabulary_size={SIZE}, batch_tokens=200, max_length=16'
  spec = f'corpus(dataset=tiny_translation, {sizes})'
  flags = [f'--tasks={spec}', '--layers=transformer', '--seeds=1', f'--runs={tmp_path}', '--cache=']
  done = command.run_command(translation, '--preset=smoke', *flags)
  assert done.code == 0, done.err
  assert 'tiny_translation, en to de 16' in done.out and 'training FLOPs' in done.out
  (first,) = Store(tmp_path).records()
  written = first['result']['written'][0]
  assert 0 < len(written['source']) == len(written['answers']['0'])
  words = {word for text in written['reference'] for word in text.split()}
  assert words and words <= set(tiny_corpus.WORDS.values())
  assert first['result']['controls'] == {} and first['result']['chance'] == 0
  for cell in tmp_path.glob('cells/*.json'):
    cell.unlink()
  resumed = command.run_command(translation, '--preset=smoke', *flags)  # from the checkpoints
  assert resumed.code == 0
  (same,) = Store(tmp_path).records()
  assert same['result']['members'] == first['result']['members']


def test_a_model_trains_on_a_corpus_and_resumes_from_its_checkpoint(tmp_path):
  task = corpus(batch_tokens=200, max_length=16)
  recipe = Recipe(steps=4, batch_size=8, validations=2, validation_batches=1, test_batches=1)
  training = Training(Table(size=SIZE), task, recipe)
  ensemble = StreamingEnsemble(training, [(0, 0.01)], devices=jax.devices()[:1])
  checkpoints = Checkpoints(tmp_path, {'digest': task.digest})

  def run():
    return train_from_stream(
      ensemble, task, recipe, progress=lambda *_: None, checkpoints=checkpoints
    )

  members = run()
  assert [member.status for member in members] == ['finished']
  assert all(math.isfinite(member.test_loss) for member in members)
  assert run() == members
