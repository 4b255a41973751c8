"""BLEU, chrF and exact match of translations, and exact match as a function of source length.

  BLEU         sacreBLEU with its own tokens (Papineni et al. 2002; Post 2018)
  BLEU, 2017   BLEU of Moses tokens with compounds split at hyphens, as Vaswani et al. 2017 computed
               it for English to German, one or two points above BLEU and not comparable with it
  chrF         F-score of character n-grams (Popovic 2015)
  exact match  fraction of translations that equal the reference in every character

A reference is the sentence as it is stored in the data. Exact match treats white space as the other
metrics do. Any run of white space counts as one space, and white space at the ends is ignored. No
other normalisation takes place, so that a composed and a decomposed e with an accent differ.

BLEU and chrF are computed for all sentences of all seeds together, and their intervals resample
sentences (Koehn 2004). The interval of exact match is Student's interval over seeds.
"""

import functools
import math
import re
from collections.abc import Callable, Iterable, Sequence

from experiments.lab import optional
from experiments.lab.results import scores
from experiments.lab.results.statistics import CONFIDENCE, Interval, mean_with_confidence_interval

np = optional.lazy_module('numpy')
optimize = optional.lazy_module('scipy.optimize')
SCORING_EXTRA = ('BLEU scores', 'translation')
RESAMPLES = 1000
SEED = 20170612  # The seed is fixed so that equal translations have equal intervals.
BLEU_ORDER, CHRF_ORDER, CHRF_BETA = 4, 6, 2  # The defaults of sacreBLEU.

SentenceCounts = Callable[[str, str], list[int]]  # of a translation and its reference
CountsScore = Callable[[list[int]], float]


def translations_by_seed(outputs: dict) -> dict[str, list[str]]:
  """Maps each seed to the translations of all source sentences."""
  return outputs['answers']


def exact_matches_by_seed(translations_and_references: dict) -> 'dict[str, np.ndarray]':
  """Maps each seed to a Boolean array that marks the translations equal to their references.

  Runs of white space count as one space, and white space at the ends is ignored.
  """
  references = [text.split() for text in translations_and_references['reference']]
  return {
    seed: np.array(
      [text.split() == reference for text, reference in zip(texts, references, strict=True)], bool)
    for seed, texts in translations_by_seed(translations_and_references).items()
  }


def exact_match_rate(translations_and_references: dict) -> Interval:
  """Returns the fraction of translations that equal their reference, averaged over seeds."""
  matches = exact_matches_by_seed(translations_and_references).values()
  rates = [float(correct.mean()) for correct in matches if correct.size]
  return mean_with_confidence_interval(rates or [math.nan])


def bleu(translations_and_references: dict) -> Interval:
  """Returns the sacreBLEU score of the translations, between 0 and 100."""
  functions = _make_ngram_counter_and_bleu_scorer({})
  return _score_with_bootstrap(translations_and_references, lambda text: text, *functions)


def bleu_as_in_transformer_paper(translations_and_references: dict, language: str) -> Interval:
  """Returns BLEU as in the 2017 Transformer paper, with Moses tokens and split compounds."""
  tokenize = functools.cache(lambda text: split_compounds(moses_tokenizer(language)(text)))
  functions = _make_ngram_counter_and_bleu_scorer(
    {'tokenize': 'none', 'smooth_method': 'none', 'force': True})
  return _score_with_bootstrap(translations_and_references, tokenize, *functions)


def chrf(translations_and_references: dict) -> Interval:
  """Returns the chrF score of the translations, between 0 and 100."""
  functions = _make_ngram_counter_and_chrf_scorer()
  return _score_with_bootstrap(translations_and_references, lambda text: text, *functions)


def split_compounds(tokens: str) -> str:
  """Splits compound words at hyphens and replaces each hyphen by the token ##AT##-##AT##.

  The substitution is that of tensor2tensor's get_ende_bleu.sh, in Perl, on bytes. A match consumes
  the bytes on both sides of a hyphen, so that only the first hyphen of a-b-c is split.
  """
  return re.sub(rb'(\S)-(\S)', rb'\1 ##AT##-##AT## \2', tokens.encode()).decode()


def require_scoring_libraries() -> None:
  """Raises an error, before any training, if a library for translation scores is missing.

  Raises:
    MissingExtra: A library is missing.
  """
  for library in ('sacrebleu', 'sacremoses'):
    optional.import_optional(library, *SCORING_EXTRA)


@functools.cache
def moses_tokenizer(language: str) -> Callable[[str], str]:
  """Returns the Moses tokenizer of a language as a function from a sentence to tokenized text."""
  library = optional.import_optional('sacremoses', *SCORING_EXTRA)
  tokenizer = library.MosesTokenizer(lang=language)
  return lambda text: tokenizer.tokenize(text, return_str=True, escape=False)


def _make_ngram_counter_and_bleu_scorer(
  sacrebleu_options: dict
) -> tuple[SentenceCounts, CountsScore]:
  """Returns a function that counts n-grams, and a function that computes BLEU from the counts."""
  metric = optional.import_optional('sacrebleu', *SCORING_EXTRA).BLEU(**sacrebleu_options)

  def count_bleu_ngrams(translation: str, reference: str) -> list[int]:
    score = metric.corpus_score([translation], [[reference]])
    return [score.sys_len, score.ref_len, *score.counts, *score.totals]

  def bleu_from_counts(counts: list[int]) -> float:
    translation_length, reference_length, *ngrams = counts
    return float(metric.compute_bleu(
      ngrams[:BLEU_ORDER], ngrams[BLEU_ORDER:], translation_length, reference_length,
      smooth_method=metric.smooth_method).score)

  return count_bleu_ngrams, bleu_from_counts


def _make_ngram_counter_and_chrf_scorer() -> tuple[SentenceCounts, CountsScore]:
  """Returns a function that counts character n-grams, and a function that computes chrF.

  sacreBLEU scores counts only in a private method, so that the F-score is computed here.
  """
  extract = optional.import_optional('sacrebleu', *SCORING_EXTRA).extract_char_ngrams

  def count_chrf_ngrams(translation: str, reference: str) -> list[int]:
    counts = []
    for order in range(1, CHRF_ORDER + 1):
      candidates, targets = (extract(text, order) for text in (translation, reference))
      matches = sum(min(count, targets[ngram]) for ngram, count in candidates.items())
      counts += [candidates.total() if targets else 0, targets.total(), matches]
    return counts

  def chrf_from_counts(counts: list[int]) -> float:
    triples = [counts[i:i + 3] for i in range(0, len(counts), 3)]
    known = [triple for triple in triples if triple[0] and triple[1]]
    precision = sum(matches / candidates for candidates, _, matches in known) / max(1, len(known))
    recall = sum(matches / targets for _, targets, matches in known) / max(1, len(known))
    if not precision + recall:
      return 0.0
    weight = CHRF_BETA**2
    return 100 * ((1 + weight) * precision * recall / (weight * precision + recall))

  return count_chrf_ngrams, chrf_from_counts


def _score_with_bootstrap(
  translations_and_references: dict, tokenize: Callable[[str], str], count_ngrams: SentenceCounts,
  score_from_counts: CountsScore,
) -> Interval:
  """Returns BLEU or chrF over the translations of all seeds, with a bootstrap interval.

  The counts of each sentence are computed once. A resample draws sentences with replacement and
  scores the sum of their counts. A single sentence has no interval. (The bootstrap of sacreBLEU
  raises a TypeError if the chrF of a sample is exactly 0.)
  """
  seeds = list(translations_by_seed(translations_and_references).values())
  translations = [tokenize(text) for texts in seeds for text in texts]
  references = [tokenize(text) for text in translations_and_references['reference']] * len(seeds)
  if not translations:
    return Interval.without_confidence_bounds(math.nan)
  pairs = zip(translations, references, strict=True)
  counts = np.array([count_ngrams(*pair) for pair in pairs], np.int64)
  estimate, size = score_from_counts(counts.sum(0).tolist()), len(counts)
  if size < 2:
    return Interval.without_confidence_bounds(estimate, size)
  draw = np.random.default_rng(SEED).integers
  resampled = [
    score_from_counts(counts[draw(size, size=size)].sum(0).tolist()) for _ in range(RESAMPLES)]
  low, high = np.quantile(resampled, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)).tolist()
  return Interval(estimate, min(low, estimate), max(high, estimate), size)


def exact_match_by_source_length(
  outputs: Iterable[dict], bin_edges: Sequence[int]
) -> list[tuple[float, Interval]]:
  """Returns the mean source length and the exact-match rate of each bin of source lengths.

  A bin contains the lengths above the preceding edge, up to and including its own edge. Bins
  without a source are omitted.
  """
  outputs, points = list(outputs), []
  for low, high in zip((0, *bin_edges), bin_edges, strict=False):
    lengths = [n for part in outputs for n in part['source_length'] if low < n <= high]
    if lengths:
      points.append((float(np.mean(lengths)), exact_match_in_length_range(outputs, low, high)))
  return points


def exact_match_in_length_range(outputs: Iterable[dict], low: int, high: int) -> Interval | None:
  """Returns the exact-match rate, averaged over seeds, for source sentences in a length range.

  Args:
    outputs: Parts of the field `written` of a record.
    low: The largest length in tokens below the range.
    high: The largest length in tokens of the range.

  Returns:
    The mean over seeds with its interval, or None without such a source.
  """
  correct_by_seed = {}
  for part in outputs:
    indices = [i for i, n in enumerate(part['source_length']) if low < n <= high]
    for seed, correct in exact_matches_by_seed(part).items():
      correct_by_seed.setdefault(seed, []).extend(correct[indices])
  rates = [float(np.mean(correct)) for correct in correct_by_seed.values() if correct]
  return mean_with_confidence_interval(rates) if rates else None


def source_length_at_50_percent_exact_match(record: dict) -> Interval | str | None:
  """Returns the source length at which the exact-match rate falls to 50 % in a logistic fit.

  For each seed, p(correct) = 1 / (1 + exp(b (n - n_half))) is fitted to single translations, and
  the interval is over seeds. Outside the tested lengths the result is only a bound, as text.
  """
  outputs = record['result']['written']
  lengths = np.concatenate([part['source_length'] for part in outputs]).astype(float)
  seeds = translations_by_seed(outputs[0])
  if not seeds or not lengths.size:
    return None
  midpoints = [
    fit_source_length_at_50_percent_accuracy(
      lengths, np.concatenate([exact_matches_by_seed(part)[seed] for part in outputs]))
    for seed in seeds
  ]
  shortest, longest = lengths.min(), lengths.max()
  if all(n > longest for n in midpoints):
    return f'> {longest:.0f}'
  if all(n < shortest for n in midpoints):
    return f'< {shortest:.0f}'
  return mean_with_confidence_interval([float(np.clip(n, shortest, longest)) for n in midpoints])


def fit_source_length_at_50_percent_accuracy(
  lengths: 'np.ndarray', is_correct: 'np.ndarray'
) -> float:
  """Returns the source length at which the fitted probability of a correct translation is 50 %."""
  if is_correct.all():
    return math.inf
  if not is_correct.any():
    return -math.inf
  centre, spread = lengths.mean(), lengths.std() or 1.0
  x, sign = (lengths - centre) / spread, np.where(is_correct, 1.0, -1.0)

  def regularized_logistic_loss(parameters):
    # A weak prior keeps the parameters of the logistic regression finite for separable data.
    level, slope = parameters
    return np.logaddexp(0, -sign * (level - slope * x)).sum() + 1e-3 * (level**2 + slope**2)

  level, slope = optimize.minimize(regularized_logistic_loss, np.zeros(2)).x
  if slope <= 0:  # The accuracy does not fall with the length.
    return math.inf if is_correct.mean() > 0.5 else -math.inf
  return centre + spread * level / slope


def estimate_source_bits_reaching_decoder(record: dict) -> tuple[Interval, int] | None:
  """Estimates the bits of information about the source sentence that the decoder can access.

  The result is a lower bound in bits per sequence and the source length in tokens for which this
  bound is largest. The bound is the cross-entropy of the target sentence under the frequency of
  each token at each position, minus the cross-entropy under the model. The bound holds if the
  tokens of a target sentence are independent, as in copying (Barber and Agakov 2003).
  """
  result, members = record['result'], scores.results_at_best_learning_rate(record)
  bounds = []
  for i, tested in enumerate(result['extrapolation']):
    part = result['written'][1 + i]
    losses = [m['extrapolation_loss'][i] if m['extrapolation_loss'] else math.nan for m in members]
    bits = [(part['unigram_loss'] - loss) * part['tokens'] / math.log(2) for loss in losses]
    bounds.append((mean_with_confidence_interval(bits), tested['distance']))
  finite = [bound for bound in bounds if math.isfinite(bound[0].estimate)]
  return max(finite, key=lambda bound: bound[0].estimate, default=None)
