"""What translators wrote is judged as sacreBLEU, counting and a known curve say."""

import math

import numpy as np
import pytest
import sacrebleu

from experiments.lab.results import translation_tables, translations
from experiments.lab.results.figures import HeatMap

REFERENCE = ['the cat sat on the mat', 'a state-of-the-art model', 'three hundred and sixty-five']
GOOD = ['the cat sat on the mat', 'a state-of-the-art model', 'three hundred and sixty']
BAD = ['a dog', 'the model', 'five']


def written(answers, lengths=(6, 3, 4), reference=REFERENCE, distance=6):
  return {
    'distance': distance, 'source_length': list(lengths), 'source': list(reference),
    'reference': list(reference), 'answers': {str(i): own for i, own in enumerate(answers)},
    'blind_loss': 2.0, 'tokens': 5.0,
  }


def test_bleu_and_chrf_are_sacrebleus_over_all_seeds_with_their_intervals():
  found = translations.bleu(written([GOOD, BAD]))
  expected = sacrebleu.corpus_bleu(GOOD + BAD, [REFERENCE * 2]).score
  assert found.mean == pytest.approx(expected) and found.low < expected < found.high
  assert found.count == 6
  assert translations.bleu(written([REFERENCE])).mean == pytest.approx(100)
  assert translations.chrf(written([GOOD])).mean == pytest.approx(
    sacrebleu.corpus_chrf(GOOD, [REFERENCE]).score)
  assert math.isnan(translations.bleu(written([])).mean)


METRICS = translations.bleu, translations.chrf, lambda part: translations.bleu_2017(part, 'de')


@pytest.mark.parametrize('metric', METRICS, ids=('bleu', 'chrf', 'bleu_2017'))
@pytest.mark.parametrize(('reference', 'answer'), [
  (['ab', 'cd', 'ef'], ['ab', 'xx', 'yy']),  # some samples score exactly 0
  (['ab', 'cd', 'ef'], ['xx', 'yy', 'zz']),
  (['ab', 'cd', 'ef'], ['', '', '']),
  (['', '', ''], ['ab', 'cd', 'ef']),
  (['', '', ''], ['', '', '']),
  (['a b c d e', ''], ['', 'a b c d e']),
  (REFERENCE, REFERENCE),
  (REFERENCE, GOOD),
])
def test_any_answers_have_a_score_with_an_interval(metric, reference, answer):
  part = {'reference': reference, 'answers': {'0': answer, '1': answer}}
  for _ in range(2):  # the same every time
    score = metric(part)
    assert 0 <= score.low <= score.mean <= score.high <= 100 + 1e-9
    assert score.count == 2 * len(answer) and metric(part) == score
  assert score.mean > 0 or score.high == 0
  alone = metric({'reference': reference[:1], 'answers': {'0': answer[:1]}})
  assert math.isfinite(alone.mean) and not alone.known and alone.count == 1
  assert math.isnan(metric({'reference': [], 'answers': {'0': []}}).mean)


def test_an_interval_is_that_of_sacrebleus_bootstrap():
  draw = np.random.default_rng(0)
  reference = [' '.join(draw.choice(list('abcdefghij'), 12)) for _ in range(150)]
  answer = [''.join(c if draw.random() < 0.85 else 'q' for c in text) for text in reference]
  for metric, name in ((translations.bleu, 'BLEU'), (translations.chrf, 'CHRF')):
    score = metric({'reference': reference, 'answers': {'0': answer}})
    theirs = getattr(sacrebleu, name)().corpus_score(answer, [reference], n_bootstrap=1000)
    assert score.mean == pytest.approx(theirs.score)
    assert (score.high - score.low) / 2 == pytest.approx(theirs._ci, rel=0.15)


def test_exact_match_ignores_white_space_and_nothing_else():
  reference = ['a  b', ' a\u00a0b', 'a\tb\n', 'a b', 'ab', 'a b', 'é', 'Ab']
  answer = ['a b', 'a b', 'a b', 'a\u3000b ', 'a b', 'a ▁ b', 'e\u0301', 'ab']
  right = translations.exact({'reference': reference, 'answers': {'0': answer}})['0']
  assert right.tolist() == [True] * 4 + [False] * 4
  assert translations.exact_match({'reference': [''], 'answers': {'0': ['']}}).mean == 1


@pytest.mark.parametrize(('text', 'split'), [  # as Perl's substitution has it
  ('a-b-c', 'a - b-c'), ('a-b-c-d', 'a - b-c - d'), ('ä-ü-ö', 'ä - ü - ö'),
  ('ab-cd-ef', 'ab - cd - ef'), ('a--b', 'a - -b'), ('- a -b c-', '- a -b c-'),
])
def test_a_match_takes_the_bytes_beside_a_hyphen(text, split):
  assert translations.compounds_split(text) == split.replace(' - ', ' ##AT##-##AT## ')


def test_the_papers_bleu_is_of_moses_tokens_with_compounds_split():
  assert translations.compounds_split('state-of-the-art - a -b c-') == (
    'state ##AT##-##AT## of ##AT##-##AT## the ##AT##-##AT## art - a -b c-')
  text = "it's a state-of-the-art model, isn't it?"
  split = translations.compounds_split(translations.moses('en')(text))
  assert split.split()[-2:] == ['it', '?'] and split.count('##AT##') == 6
  found = translations.bleu_2017(written([GOOD]), 'en')
  tokens = [translations.compounds_split(translations.moses('en')(t)) for t in (*GOOD, *REFERENCE)]
  expected = sacrebleu.corpus_bleu(tokens[:3], [tokens[3:]], tokenize='none', smooth_method='none',
                                   force=True).score
  assert found.mean == pytest.approx(expected)
  assert found.mean != pytest.approx(translations.bleu(written([GOOD])).mean)


def test_exact_match_counts_whole_sentences_by_seed_and_by_length():
  both = written([GOOD, BAD])
  assert translations.exact_match(both).mean == pytest.approx((2 / 3 + 0) / 2)
  points = translations.by_length([both], [3, 4, 5, 6])
  assert [(length, value.mean) for length, value in points] == [(3, 0.5), (4, 0.0), (6, 0.5)]


@pytest.mark.parametrize('half', [8.0, 14.5])
def test_the_fitted_length_is_where_answers_that_fail_by_a_known_curve_are_half_right(half):
  generator = np.random.default_rng(0)
  lengths = generator.integers(1, 25, 4000).astype(float)
  right = generator.random(4000) < 1 / (1 + np.exp(0.8 * (lengths - half)))
  assert translations.crossing(lengths, right) == pytest.approx(half, abs=0.3)


def test_outside_of_the_lengths_that_were_asked_there_is_only_a_bound():
  record = lambda *answers: {'result': {'written': [written(answers)]}}  # noqa: E731
  assert translations.half_length(record(REFERENCE, REFERENCE)) == '> 6'
  assert translations.half_length(record(BAD)) == '< 3'
  assert translations.half_length(record()) is None
  mixed = translations.half_length(record(REFERENCE, BAD))  # bounds of the two seeds
  assert mixed.mean == pytest.approx((6 + 3) / 2)


def member(seed, *losses):
  return {'seed': seed, 'learning_rate': 0.1, 'extrapolation_loss': list(losses), 'steps': 10,
          'extrapolation': [1.0] * len(losses), 'test': 1.0, 'test_loss': 0.1}


def record(layer='transformer', **result):
  """A finished cell that was asked at lengths 3, 4 and 6."""
  parts = [written([GOOD, BAD]), *(
    written([[GOOD[i]], [BAD[i]]], [n], [REFERENCE[i]], n) for i, n in ((1, 3), (2, 4), (0, 6))
  )]
  return {
    'run': {'layer': layer}, 'status': 'finished',
    'result': {
      'learning_rate': 0.1, 'written': parts, 'state_bytes': 16, 'parameters': 7,
      'step_flops': 1000, 'settings': {'target': 'de'},
      'members': [member(0, 1.5, 1.0, 1.2), member(1, 1.7, 1.0, 1.4)],
      'extrapolation': [{'distance': d, 'chance': 0.0} for d in (3, 4, 6)],
      'alignments': [{'source': ['', 'b', ''], 'target': ['c', ''], 'layers': {
        'decoder.level_1': [[0.2, 0.8, 0], [0, 0, 1]]}}],
    } | result,
  }


def test_bits_held_are_what_the_loss_spares_at_the_length_where_it_spares_most():
  (bits, length) = translations.bits_held(record())
  assert length == 4 and bits.mean == pytest.approx((2.0 - 1.0) * 5 / math.log(2))
  (table,) = [translation_tables.vector_table('t', {'copy': [record()]}, ['transformer'])]
  assert table.rows[0][2] == 16 and table.rows[0][5].mean == pytest.approx(bits.mean / 16)


def test_the_table_by_length_marks_what_is_longer_than_what_was_trained_on():
  made = record()
  made['result']['written'][0] |= {'source_length': [3, 4, 4]}
  unrun = record('lstm') | {'status': 'timeout'}
  columns = {'copy 4': [unrun, made], 'none': [unrun]}
  (table,) = translation_tables.length_tables('t', columns, ['lstm', 'transformer'])
  assert table.title == 't: copy 4'
  assert table.columns[1:4] == ('1 to 3', '4 to 4', '5 to 6, untrained')
  ((layer, *values),) = table.rows
  assert layer == 'transformer' and [value.mean for value in values[:3]] == [0.5, 0.0, 0.5]
  (panel,) = translation_tables.length_panels({'copy 4': [made]})
  assert [length for length, _ in panel.series['transformer']] == [3, 4, 6]


def test_cost_is_the_steps_work_and_pictures_are_of_who_looks():
  columns = {'numbers': [record(), record('fixed_vector', alignments=[])]}
  table = translation_tables.quality_table('t', columns, ['transformer', 'fixed_vector'])
  assert [row[1] for row in table.rows] == ['transformer', 'fixed_vector']
  assert table.rows[0][6] == 10 * 1000
  (picture,) = translation_tables.alignment_maps(columns['numbers'])
  assert isinstance(picture, HeatMap)
  assert (picture.rows, picture.columns) == (['c', 'end'], ['_', 'b', 'end'])
  (examples,) = translation_tables.example_tables(columns)
  assert examples.rows[0][1:] == ('(source)', REFERENCE[0])
  assert examples.rows[3][1:] == ('fixed_vector', GOOD[0])
  columns['numbers'][0]['result']['written'][0]['reference'] = ['a\tb\r\nc ', *REFERENCE[1:]]
  (examples,) = translation_tables.example_tables(columns)
  assert examples.rows[1][1:] == ('(reference)', 'a b c')  # a cell of a table is one line
