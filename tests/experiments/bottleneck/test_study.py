"""The studies of translation: a translator's cell from its run to its table, and who is who."""

import functools
import json
import math
import sys

import numpy as np
import pytest

from experiments.bottleneck import study as bottleneck
from experiments.lab.cells import training as cell
from experiments.lab.cells.experiment import resolve
from experiments.lab.cells.run import Run
from experiments.lab.launch import grid
from experiments.lab.results import scores, translations
from experiments.lab.results.store import Store
from experiments.lab.weights import files
from experiments.pronouns import study as pronouns
from experiments.translate import __main__ as translate
from experiments.translation import study as translation
from experiments.variations import study as variations
from experiments.variations import tables
from tests.support import command, records
from transformer.presets import TABLE_3

SMALL = {
  'task': 'copy(max_length=3, alphabet_size=3)', 'test_lengths': (2, 3, 5), 'width': 16, 'depth': 1,
  'steps': 60, 'batch_size': 32, 'validations': 2, 'validation_batches': 1, 'test_batches': 2,
  'seeds': (0, 1), 'learning_rates': (3e-3, 1e-2), 'feedforward': 'relu', 'match': 'none',
}


@functools.cache
def trained(layer, **settings):
  """A cell, as the store has it."""
  run = Run(layer=layer, **SMALL | settings)
  made = cell.cell_of('bottleneck', resolve(run))
  outcome = cell.train_cell('jit', math.inf, 'nowhere')(made, lambda *_: None)
  return json.loads(json.dumps({
    'study': 'bottleneck', 'run': made.run, 'status': outcome.status, 'result': outcome.result,
    **records.WHERE,
  }))


@pytest.mark.parametrize(
  ('layer', 'settings'),
  [
    pytest.param('transformer', (), marks=pytest.mark.slow),
    pytest.param('transformer', (('beam', 2), ('average', 2)), marks=pytest.mark.slow),
    pytest.param('fixed_vector(reverse=True)', (), marks=pytest.mark.slow),
  ],
)
def test_greedy_answers_are_right_exactly_where_the_likeliest_tokens_after_the_truth_are(
  layer, settings
):
  record = trained(layer, **dict(settings))
  result, members = record['result'], scores.chosen(record)
  own, *elsewhere = result['written']
  assert [part['distance'] for part in elsewhere] == [2, 3, 5]
  assert all(translations.exact_match(part).mean > 0.05 for part in (own, elsewhere[0]))
  if record['run']['beam'] == 1:  # a beam may find what is likelier as a whole
    for i, member in enumerate(members):
      right = [float(translations.exact(part)[str(i)].mean()) for part in result['written']]
      np.testing.assert_allclose(right, [member['test'], *member['extrapolation']], atol=1e-6)
  for part, lengths in zip(elsewhere, ((1, 2), (3,), (4, 5)), strict=True):
    assert {n - 1 for n in part['source_length']} == set(lengths)  # but for END
    assert part['source'] == part['reference'] and len(part['source']) == 64
    assert part['blind_loss'] > 0.5
  assert result['step_flops'] > 1e6
  looks = [kept['layers'] for kept in result['alignments']]
  if layer == 'transformer':
    (weights,) = looks[0].values()
    assert np.shape(weights)[0] == len(result['alignments'][0]['target'])
    np.testing.assert_allclose(np.sum(weights, 1), 1, atol=1e-3)


@pytest.mark.slow
def test_a_cell_becomes_tables_curves_and_pictures():
  tables, panels = bottleneck.report([trained('transformer')])
  assert len(tables) == 4 and all(table.rows for table in tables)
  assert sum('untrained' in column for column in tables[0].columns) == 1
  assert len(panels) == 2  # the curve and the alignment
  assert len(translation.report([trained('transformer')])[0]) == 4


@pytest.mark.slow
def test_a_translator_is_kept_and_translates_what_it_learnt(tmp_path):
  words = ['--layers=transformer', '--tasks=copy(max_length=3, alphabet_size=3)', '--width=16',
           '--test_lengths=3', '--steps=60', '--batch_size=32', '--learning_rates=1e-2',
           '--seeds=1']
  done = command.run(
    bottleneck, '--preset=smoke', *words, '--save_weights', f'--runs={tmp_path}', '--cache=')
  assert done.code == 0, done.err
  (path,) = (tmp_path / 'weights').iterdir()

  def translated(text, *words, weights=path):
    return command.run(translate, f'--weights={weights}', f'--text={text}', *words)

  (record,) = Store(tmp_path).records()
  own = record['result']['written'][0]
  for source, answer in list(zip(own['source'], own['answers']['0'], strict=True))[:3]:
    assert translated(source, '--beam=1').out.split(maxsplit=1)[1].strip() == answer
  scores_of = [float(line.split()[0]) for line in translated('1 2').out.splitlines()]
  assert len(scores_of) == 4 and scores_of == sorted(scores_of, reverse=True)
  whole = path.read_bytes()
  damaged, other = tmp_path / 'damaged.safetensors', tmp_path / 'other.safetensors'
  damaged.write_bytes(whole[:-7] + bytes([whole[-7] ^ 1]) + whole[-6:])
  files.save(other, {'a': np.zeros(2)}, {})
  for said, found in (
    ('numbers from 0 to 2', translated('1 7')),
    ('damaged', translated('1', weights=damaged)),
    ('not kept by a study', translated('1', weights=other)),
    ('cannot read', translated('1', weights=tmp_path / 'none')),
    ('--beam is 1 or more', translated('1', '--beam=0')),
  ):
    assert found.code == 2 and said in found.err and found.err.count('\n') == 1, found


def test_every_run_of_the_variations_knows_its_row():
  for name, row in TABLE_3.items():
    for width, depth in ((64, 3), (512, 6)):
      own = tables.variation(row, width, depth, 500)
      assert tables.row_of(own, (width, depth, 500)) == name
  runs = [tables.variation(row, 64, 3, 500) for row in TABLE_3.values()]
  assert tables.base_of(runs) == (64, 3, 500)
  other = runs[0] | {'dropout': 0.3}
  assert tables.row_of(other, (64, 3, 500)) == other['layer']
  assert (*variations.ROWS, 'big') == tuple(TABLE_3)
  table = tables.parameter_table()
  assert [row[0] for row in table.rows] == list(TABLE_3)
  sizes = {row[0]: row for row in table.rows}
  assert sizes['base'][7:9] == (63.0, 65) and sizes['big'][7:9] == (214.2, 213)
  assert sizes['base'][10] == pytest.approx(41000, abs=1000)


def test_a_row_stands_beside_the_papers():
  own = tables.variation(TABLE_3['B: d_k 16'], 64, 3, 500)
  layer, settings = own.pop('layer'), {**own, 'match': 'none', 'feedforward': 'relu'}
  record = records.trained(layer, 'copy', 4, (0.5, 0.6), **settings)
  record['result']['written'] = [{
    'distance': 4, 'source_length': [3], 'source': ['1 2'], 'reference': ['1 2'],
    'answers': {'0': ['1 2'], '1': ['2 1']},
  }]
  (row,) = tables.variations_table([record]).rows
  assert (row[0], *row[-3:]) == ('B: d_k 16', 5.16, 25.1, 58)
  assert row[2].mean == pytest.approx((math.exp(0.5) + math.exp(0.4)) / 2)


def test_the_head_that_looks_most_at_the_antecedent_is_named():
  record = records.trained('attention', 'pronouns', 20, (0.5, 0.6), study='pronouns')
  heads = {'stack.level_0.layer': [0.1, 0.2], 'stack.level_1.layer': [0.7, 0.3]}
  record['result']['looks'] = [{'distance': 20, 'tokens': 40, 'heads': heads}]
  blind = records.trained('lstm', 'pronouns', 20, (0.5, 0.6), study='pronouns')
  (_, weights, _), panels = pronouns.report([record, blind])
  assert weights.rows == (('pronouns 20', 'attention', 'stack.level_1.layer, head 0', 0.7, 1 / 40),)
  assert panels[-1].series['attention'][0][1].mean == 0.7


@pytest.mark.parametrize(
  ('script', 'words', 'said'),
  [
    (bottleneck, ['--layers=lstm'], "no translator 'lstm'"),
    (bottleneck, ['--tasks=recall'], "no layer 'fixed_vector'"),
    (pronouns, ['--layers=attention(causal=False)'], 'for encoders'),
    (bottleneck, ['--layers=fixed_vector(attention)'], 'no vector of fixed size'),
    (bottleneck, ['--layers=transformer(lstm, gru)'], 'cannot read'),
    (bottleneck, ['--tasks=number_words(source=xx)'], "no number words in 'xx'"),
    (bottleneck, ['--test_lengths=9,3'], 'ascending'),
    (bottleneck, ['--beam=0'], 'beam must be positive'),
    (bottleneck, ['--label_smoothing=1'], 'label_smoothing is from 0 to below 1'),
    (translation, ['--tasks=copy(max_length=40)', '--layers='
                   'transformer(attention(positions=learned(max_length=20)))'], 'positions for 20'),
    (variations, ['--layers=F: more'], "no row 'F: more'"),
  ],
)
def test_bad_input_is_said_in_one_line(script, words, said, tmp_path):
  done = command.run(script, '--preset=smoke', f'--runs={tmp_path / "runs"}', *words)
  assert done.code == 2 and said in done.err and done.err.count('\n') == 1
  assert not (tmp_path / 'runs').exists()


@pytest.mark.parametrize('missing', ['sacrebleu', 'sacremoses'])
def test_a_library_that_scores_answers_is_missed_before_anything_is_trained(
  missing, monkeypatch, tmp_path
):
  for name in (missing, f'{missing}.metrics'):
    monkeypatch.setitem(sys.modules, name, None)
  monkeypatch.setattr(grid, 'launch', lambda *_: pytest.fail('training began'))
  done = command.run(bottleneck, '--preset=smoke', f'--runs={tmp_path}')
  assert done.code == 2 and done.err.startswith('BLEU scores need the extra: pip install -e')


@pytest.mark.parametrize('flag', ['--dropout=0.5', '--expansion=3', '--label_smoothing=0.3'])
def test_what_the_rows_of_table_3_bring_is_refused_as_a_flag(flag, tmp_path):
  done = command.run(variations, '--preset=smoke', flag, f'--runs={tmp_path}')
  assert (done.code, done.out) == (2, '')
  name = flag.partition('=')[0]
  assert done.err == f'{name} changes nothing here: every row of the table has its own\n'
