"""Tests of the studies of encoder-decoders and of pronouns, from training to tables."""

import functools
import json
import math
import sys

import numpy as np
import pytest

from experiments.bottleneck import study as bottleneck
from experiments.lab.cells import training
from experiments.lab.cells.experiment import create_experiment
from experiments.lab.cells.run import Run
from experiments.lab.launch import grid
from experiments.lab.results import scores, translation_scores
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
def trained_record(layer, **settings):
  """The record of a small training, as the store contains it."""
  run = Run(layer=layer, **SMALL | settings)
  cell = training.create_training_grid_cell('bottleneck', create_experiment(run))
  outcome = training.training_executor('jit', math.inf, 'nowhere')(cell, lambda *_: None)
  return json.loads(json.dumps({
    'study': 'bottleneck', 'run': cell.run, 'status': outcome.status, 'result': outcome.result,
    **records.RUN_ENVIRONMENT,
  }))


@pytest.mark.parametrize(
  ('layer', 'settings'),
  [
    pytest.param('transformer', (), marks=pytest.mark.slow),
    pytest.param('transformer', (('beam', 2), ('average', 2)), marks=pytest.mark.slow),
    pytest.param('fixed_vector(reverse=True)', (), marks=pytest.mark.slow),
  ],
)
def test_exact_match_of_greedy_decoding_equals_that_of_teacher_forcing(
  layer, settings
):
  record = trained_record(layer, **dict(settings))
  result, members = record['result'], scores.results_at_best_learning_rate(record)
  at_trained_lengths, *at_test_lengths = result['written']
  assert [part['distance'] for part in at_test_lengths] == [2, 3, 5]
  for part in (at_trained_lengths, at_test_lengths[0]):
    assert translation_scores.exact_match_rate(part).estimate > 0.05
  if record['run']['beam'] == 1:  # a wider beam may generate a more likely sequence
    for i, member in enumerate(members):
      exact_match = [float(translation_scores.exact_matches_by_seed(part)[str(i)].mean())
                     for part in result['written']]
      expected = [member['test'], *member['extrapolation']]
      np.testing.assert_allclose(exact_match, expected, atol=1e-6)
  for part, lengths in zip(at_test_lengths, ((1, 2), (3,), (4, 5)), strict=True):
    assert {n - 1 for n in part['source_length']} == set(lengths)  # without END
    assert part['source'] == part['reference'] and len(part['source']) == 64
    assert part['unigram_loss'] > 0.5
  assert result['step_flops'] > 1e6
  if layer == 'transformer':
    (weights,) = result['alignments'][0]['layers'].values()
    assert np.shape(weights)[0] == len(result['alignments'][0]['target'])
    np.testing.assert_allclose(np.sum(weights, 1), 1, atol=1e-3)


@pytest.mark.slow
def test_report_contains_tables_length_panels_and_alignment_maps():
  tables, panels = bottleneck.report([trained_record('transformer')])
  assert len(tables) == 4 and all(table.rows for table in tables)
  assert sum('untrained' in column for column in tables[0].columns) == 1
  assert len(panels) == 2
  assert len(translation.report([trained_record('transformer')])[0]) == 4


@pytest.mark.slow
def test_stored_weights_translate_as_after_training(tmp_path):
  words = ['--layers=transformer', '--tasks=copy(max_length=3, alphabet_size=3)', '--width=16',
           '--test_lengths=3', '--steps=60', '--batch_size=32', '--learning_rates=1e-2',
           '--seeds=1']
  done = command.run_command(
    bottleneck, '--preset=smoke', *words, '--save_weights', f'--runs={tmp_path}', '--cache=')
  assert done.code == 0, done.err
  (path,) = (tmp_path / 'weights').iterdir()

  def run_translate(text, *words, weights=path):
    return command.run_command(translate, f'--weights={weights}', f'--text={text}', *words)

  (record,) = Store(tmp_path).records()
  outputs = record['result']['written'][0]
  for source, output in list(zip(outputs['source'], outputs['answers']['0'], strict=True))[:3]:
    assert run_translate(source, '--beam=1').out.split(maxsplit=1)[1].strip() == output
  beam_scores = [float(line.split()[0]) for line in run_translate('1 2').out.splitlines()]
  assert len(beam_scores) == 4 and beam_scores == sorted(beam_scores, reverse=True)
  content = path.read_bytes()
  damaged, other = tmp_path / 'damaged.safetensors', tmp_path / 'other.safetensors'
  damaged.write_bytes(content[:-7] + bytes([content[-7] ^ 1]) + content[-6:])
  files.save_parameters(other, {'a': np.zeros(2)}, {})
  for message, done in (
    ('numbers from 0 to 2', run_translate('1 7')),
    ('damaged', run_translate('1', weights=damaged)),
    ('not stored by a study', run_translate('1', weights=other)),
    ('cannot read', run_translate('1', weights=tmp_path / 'none')),
    ('--beam must be from 1', run_translate('1', '--beam=0')),
  ):
    assert done.code == 2 and message in done.err and done.err.count('\n') == 1, done


def test_row_of_table_3_is_recovered_from_the_settings_of_its_run():
  for name, row in TABLE_3.items():
    for width, depth in ((64, 3), (512, 6)):
      run = tables.settings_of_vaswani_table_3_row(row, width, depth, 500)
      assert tables.name_of_vaswani_table_3_row(run, (width, depth, 500)) == name
  runs = [tables.settings_of_vaswani_table_3_row(row, 64, 3, 500) for row in TABLE_3.values()]
  assert tables.infer_base_model_sizes(runs) == (64, 3, 500)
  other = runs[0] | {'dropout': 0.3}
  assert tables.name_of_vaswani_table_3_row(other, (64, 3, 500)) == other['layer']
  assert (*variations.ROWS, 'big') == tuple(TABLE_3)
  table = tables.parameter_count_table()
  assert [row[0] for row in table.rows] == list(TABLE_3)
  sizes = {row[0]: row for row in table.rows}
  assert sizes['base'][7:9] == (63.0, 65) and sizes['big'][7:9] == (214.2, 213)
  assert sizes['base'][10] == pytest.approx(41000, abs=1000)


def test_table_contains_measured_and_published_results_of_a_row():
  settings = tables.settings_of_vaswani_table_3_row(TABLE_3['B: d_k 16'], 64, 3, 500)
  layer, settings = settings.pop('layer'), {**settings, 'match': 'none', 'feedforward': 'relu'}
  record = records.training_record(layer, 'copy', 4, (0.5, 0.6), **settings)
  record['result']['written'] = [{
    'distance': 4, 'source_length': [3], 'source': ['1 2'], 'reference': ['1 2'],
    'answers': {'0': ['1 2'], '1': ['2 1']},
  }]
  (row,) = tables.variations_table([record]).rows
  assert (row[0], *row[-3:]) == ('B: d_k 16', 5.16, 25.1, 58)
  assert row[2].estimate == pytest.approx((math.exp(0.5) + math.exp(0.4)) / 2)


def test_table_names_the_head_with_the_largest_weight_on_the_antecedent():
  record = records.training_record('attention', 'pronouns', 20, (0.5, 0.6), study='pronouns')
  heads = {'stack.level_0.layer': [0.1, 0.2], 'stack.level_1.layer': [0.7, 0.3]}
  record['result']['antecedent_attention'] = [{'distance': 20, 'tokens': 40, 'heads': heads}]
  without_attention = records.training_record(
    'lstm', 'pronouns', 20, (0.5, 0.6), study='pronouns')
  (_, weights, _), panels = pronouns.report([record, without_attention])
  assert weights.rows == (('pronouns 20', 'attention', 'stack.level_1.layer, head 0', 0.7, 1 / 40),)
  assert panels[-1].series['attention'][0][1].estimate == 0.7


@pytest.mark.parametrize(
  ('script', 'words', 'message'),
  [
    (bottleneck, ['--layers=lstm'], "no translator 'lstm'"),
    (bottleneck, ['--tasks=recall'], "no layer 'fixed_vector'"),
    (pronouns, ['--layers=attention(causal=False)'], 'only an encoder'),
    (bottleneck, ['--layers=fixed_vector(attention)'], 'not of fixed size'),
    (bottleneck, ['--layers=transformer(lstm, gru)'], 'cannot parse'),
    (bottleneck, ['--tasks=number_words(source=xx)'], "num2words has no 'xx'"),
    (bottleneck, ['--test_lengths=9,3'], 'ascending'),
    (bottleneck, ['--beam=0'], 'beam must be positive'),
    (bottleneck, ['--label_smoothing=1'], 'label_smoothing must be in [0, 1)'),
    (translation, ['--tasks=copy(max_length=40)', '--layers='
                   'transformer(attention(positions=learned(max_length=20)))'],
     'supports at most 20'),
    (variations, ['--layers=F: more'], "no row 'F: more'"),
  ],
)
def test_bad_flags_are_refused_in_one_line(script, words, message, tmp_path):
  done = command.run_command(script, '--preset=smoke', f'--runs={tmp_path / "runs"}', *words)
  assert done.code == 2 and message in done.err and done.err.count('\n') == 1
  assert not (tmp_path / 'runs').exists()


@pytest.mark.parametrize('missing', ['sacrebleu', 'sacremoses'])
def test_a_missing_library_of_scores_is_reported_before_training(missing, monkeypatch, tmp_path):
  for name in (missing, f'{missing}.metrics'):
    monkeypatch.setitem(sys.modules, name, None)
  monkeypatch.setattr(grid, 'run_grid_cells', lambda *_: pytest.fail('training began'))
  done = command.run_command(bottleneck, '--preset=smoke', f'--runs={tmp_path}')
  assert done.code == 2
  assert done.err.startswith('BLEU scores need an optional library: pip install -e')


@pytest.mark.parametrize('flag', ['--dropout=0.5', '--expansion=3', '--label_smoothing=0.3'])
def test_flags_of_settings_that_rows_of_table_3_determine_are_refused(flag, tmp_path):
  done = command.run_command(variations, '--preset=smoke', flag, f'--runs={tmp_path}')
  assert (done.code, done.out) == (2, '')
  name = flag.partition('=')[0]
  assert done.err == (
    f'{name} has no effect here, because every row of Table 3 has its own value\n')
