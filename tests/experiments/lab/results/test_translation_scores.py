"""Scores of translations, compared with sacreBLEU, direct counts and a known logistic curve."""

import math

import numpy as np
import pytest
import sacrebleu

from experiments.lab.results import translation_scores, translation_tables
from experiments.lab.results.figures import HeatMap

REFERENCE = ['the cat sat on the mat', 'a state-of-the-art model', 'three hundred and sixty-five']
CLOSE = ['the cat sat on the mat', 'a state-of-the-art model', 'three hundred and sixty']
WRONG = ['a dog', 'the model', 'five']


def make_outputs(translations, lengths=(6, 3, 4), reference=REFERENCE, distance=6):
  return {
    'distance': distance, 'source_length': list(lengths), 'source': list(reference),
    'reference': list(reference),
    'answers': {str(seed): texts for seed, texts in enumerate(translations)},
    'unigram_loss': 2.0, 'tokens': 5.0,
  }


def test_bleu_and_chrf_over_all_seeds_equal_sacrebleu():
  bleu = translation_scores.bleu(make_outputs([CLOSE, WRONG]))
  expected = sacrebleu.corpus_bleu(CLOSE + WRONG, [REFERENCE * 2]).score
  assert bleu.estimate == pytest.approx(expected) and bleu.low < expected < bleu.high
  assert bleu.count == 6
  assert translation_scores.bleu(make_outputs([REFERENCE])).estimate == pytest.approx(100)
  assert translation_scores.chrf(make_outputs([CLOSE])).estimate == pytest.approx(
    sacrebleu.corpus_chrf(CLOSE, [REFERENCE]).score)
  assert math.isnan(translation_scores.bleu(make_outputs([])).estimate)


METRICS = (
  translation_scores.bleu,
  translation_scores.chrf,
  lambda outputs: translation_scores.bleu_as_in_transformer_paper(outputs, 'de'),
)


@pytest.mark.parametrize('metric', METRICS, ids=('bleu', 'chrf', 'bleu_as_in_transformer_paper'))
@pytest.mark.parametrize(('reference', 'translation'), [
  (['ab', 'cd', 'ef'], ['ab', 'xx', 'yy']),  # Some resamples have a score of exactly 0.
  (['ab', 'cd', 'ef'], ['xx', 'yy', 'zz']),
  (['ab', 'cd', 'ef'], ['', '', '']),
  (['', '', ''], ['ab', 'cd', 'ef']),
  (['', '', ''], ['', '', '']),
  (['a b c d e', ''], ['', 'a b c d e']),
  (REFERENCE, REFERENCE),
  (REFERENCE, CLOSE),
])
def test_any_translations_have_a_score_with_an_interval(metric, reference, translation):
  outputs = {'reference': reference, 'answers': {'0': translation, '1': translation}}
  for _ in range(2):
    score = metric(outputs)
    assert 0 <= score.low <= score.estimate <= score.high <= 100 + 1e-9
    assert score.count == 2 * len(translation) and metric(outputs) == score
  assert score.estimate > 0 or score.high == 0
  single = metric({'reference': reference[:1], 'answers': {'0': translation[:1]}})
  assert math.isfinite(single.estimate) and not single.has_bounds and single.count == 1
  assert math.isnan(metric({'reference': [], 'answers': {'0': []}}).estimate)


def test_intervals_agree_with_the_bootstrap_of_sacrebleu():
  draw = np.random.default_rng(0)
  reference = [' '.join(draw.choice(list('abcdefghij'), 12)) for _ in range(150)]
  translation = [''.join(c if draw.random() < 0.85 else 'q' for c in text) for text in reference]
  for metric, name in ((translation_scores.bleu, 'BLEU'), (translation_scores.chrf, 'CHRF')):
    score = metric({'reference': reference, 'answers': {'0': translation}})
    expected = getattr(sacrebleu, name)().corpus_score(translation, [reference], n_bootstrap=1000)
    assert score.estimate == expected.score
    assert (score.high - score.low) / 2 == pytest.approx(expected._ci, rel=0.15)


def test_exact_match_ignores_only_white_space():
  reference = ['a  b', ' a\u00a0b', 'a\tb\n', 'a b', 'ab', 'a b', 'é', 'Ab']
  translation = ['a b', 'a b', 'a b', 'a\u3000b ', 'a b', 'a ▁ b', 'e\u0301', 'ab']
  outputs = {'reference': reference, 'answers': {'0': translation}}
  assert translation_scores.exact_matches_by_seed(outputs)['0'].tolist() == [True] * 4 + [False] * 4
  empty = {'reference': [''], 'answers': {'0': ['']}}
  assert translation_scores.exact_match_rate(empty).estimate == 1


@pytest.mark.parametrize(('text', 'split'), [
  ('a-b-c', 'a - b-c'), ('a-b-c-d', 'a - b-c - d'), ('ä-ü-ö', 'ä - ü - ö'),
  ('ab-cd-ef', 'ab - cd - ef'), ('a--b', 'a - -b'), ('- a -b c-', '- a -b c-'),
])
def test_compounds_are_split_as_by_the_perl_script(text, split):
  assert translation_scores.split_compounds(text) == split.replace(' - ', ' ##AT##-##AT## ')


def test_bleu_as_in_the_transformer_paper_uses_moses_tokens_with_compounds_split():
  assert translation_scores.split_compounds('state-of-the-art - a -b c-') == (
    'state ##AT##-##AT## of ##AT##-##AT## the ##AT##-##AT## art - a -b c-')
  text = "it's a state-of-the-art model, isn't it?"
  tokenize = translation_scores.moses_tokenizer('en')
  split = translation_scores.split_compounds(tokenize(text))
  assert split.split()[-2:] == ['it', '?'] and split.count('##AT##') == 6
  score = translation_scores.bleu_as_in_transformer_paper(make_outputs([CLOSE]), 'en')
  tokens = [
    translation_scores.split_compounds(tokenize(text)) for text in (*CLOSE, *REFERENCE)]
  expected = sacrebleu.corpus_bleu(tokens[:3], [tokens[3:]], tokenize='none', smooth_method='none',
                                   force=True).score
  assert score.estimate == pytest.approx(expected)
  bleu = translation_scores.bleu(make_outputs([CLOSE]))
  assert score.estimate != pytest.approx(bleu.estimate)


def test_exact_match_is_per_seed_and_per_length():
  outputs = make_outputs([CLOSE, WRONG])
  assert translation_scores.exact_match_rate(outputs).estimate == pytest.approx((2 / 3 + 0) / 2)
  points = translation_scores.exact_match_by_source_length([outputs], [3, 4, 5, 6])
  assert [(length, value.estimate) for length, value in points] == [(3, 0.5), (4, 0.0), (6, 0.5)]


@pytest.mark.parametrize('half', [8.0, 14.5])
def test_the_logistic_midpoint_is_recovered_from_samples(half):
  generator = np.random.default_rng(0)
  lengths = generator.integers(1, 25, 4000).astype(float)
  correct = generator.random(4000) < 1 / (1 + np.exp(0.8 * (lengths - half)))
  midpoint = translation_scores.fit_source_length_at_50_percent_accuracy(lengths, correct)
  assert midpoint == pytest.approx(half, abs=0.3)


def test_the_length_at_50_percent_accuracy_outside_the_tested_lengths_is_a_bound():
  def length_at_50_percent(*translations):
    record = {'result': {'written': [make_outputs(translations)]}}
    return translation_scores.source_length_at_50_percent_exact_match(record)

  assert length_at_50_percent(REFERENCE, REFERENCE) == '> 6'
  assert length_at_50_percent(WRONG) == '< 3'
  assert length_at_50_percent() is None
  # The mean of the bounds of two seeds.
  assert length_at_50_percent(REFERENCE, WRONG).estimate == pytest.approx((6 + 3) / 2)


def training_member(seed, *losses):
  return {'seed': seed, 'learning_rate': 0.1, 'extrapolation_loss': list(losses), 'steps': 10,
          'extrapolation': [1.0] * len(losses), 'test': 1.0, 'test_loss': 0.1}


def translator_record(layer='transformer', **result):
  """Returns a finished record of a translation model that was tested at lengths 3, 4 and 6."""
  outputs = [make_outputs([CLOSE, WRONG])]
  outputs += [
    make_outputs([[CLOSE[i]], [WRONG[i]]], [length], [REFERENCE[i]], length)
    for i, length in ((1, 3), (2, 4), (0, 6))
  ]
  return {
    'run': {'layer': layer}, 'status': 'finished',
    'result': {
      'learning_rate': 0.1, 'written': outputs, 'state_bytes': 16, 'parameters': 7,
      'step_flops': 1000, 'settings': {'target': 'de'},
      'members': [training_member(0, 1.5, 1.0, 1.2), training_member(1, 1.7, 1.0, 1.4)],
      'extrapolation': [{'distance': d, 'chance': 0.0} for d in (3, 4, 6)],
      'alignments': [{'source': ['', 'b', ''], 'target': ['c', ''], 'layers': {
        'decoder.level_1': [[0.2, 0.8, 0], [0, 0, 1]]}}],
    } | result,
  }


def test_bits_of_information_about_the_source_are_the_largest_loss_reduction():
  (bits, length) = translation_scores.estimate_source_bits_reaching_decoder(translator_record())
  assert length == 4 and bits.estimate == pytest.approx((2.0 - 1.0) * 5 / math.log(2))
  table = translation_tables.table_of_source_information_reaching_decoder(
    't', {'copy': [translator_record()]}, ['transformer'])
  assert table.rows[0][2] == 16 and table.rows[0][5].estimate == pytest.approx(bits.estimate / 16)


def test_the_length_table_marks_untrained_lengths():
  record = translator_record()
  record['result']['written'][0] |= {'source_length': [3, 4, 4]}
  unfinished = translator_record('lstm') | {'status': 'timeout'}
  columns = {'copy 4': [unfinished, record], 'none': [unfinished]}
  (table,) = translation_tables.exact_match_tables('t', columns, ['lstm', 'transformer'])
  assert table.title == 't: copy 4'
  assert table.columns[1:4] == ('1 to 3', '4 to 4', '5 to 6, untrained')
  ((layer, *values),) = table.rows
  assert layer == 'transformer' and [value.estimate for value in values[:3]] == [0.5, 0.0, 0.5]
  (panel,) = translation_tables.panels_of_exact_match_by_source_length({'copy 4': [record]})
  assert [length for length, _ in panel.series['transformer']] == [3, 4, 6]


def test_the_quality_table_alignment_maps_and_examples():
  columns = {'numbers': [translator_record(), translator_record('fixed_vector', alignments=[])]}
  layers = ['transformer', 'fixed_vector']
  table = translation_tables.translation_quality_table('t', columns, layers)
  assert [row[1] for row in table.rows] == ['transformer', 'fixed_vector']
  assert table.rows[0][6] == 10 * 1000
  (alignment,) = translation_tables.alignment_maps(columns['numbers'])
  assert isinstance(alignment, HeatMap)
  assert (alignment.rows, alignment.columns) == (['c', 'end'], ['_', 'b', 'end'])
  (examples,) = translation_tables.example_translation_tables(columns)
  assert examples.rows[0][1:] == ('(source)', REFERENCE[0])
  assert examples.rows[3][1:] == ('fixed_vector', CLOSE[0])
  columns['numbers'][0]['result']['written'][0]['reference'] = ['a\tb\r\nc ', *REFERENCE[1:]]
  (examples,) = translation_tables.example_translation_tables(columns)
  assert examples.rows[1][1:] == ('(reference)', 'a b c')  # White space is reduced to one line.
