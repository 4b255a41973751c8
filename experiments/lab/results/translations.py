"""What translators wrote, judged: BLEU, chrF and exact match, also by the length of the source.

  BLEU         sacreBLEU with its own tokens (Papineni et al. 2002; Post 2018)
  BLEU, 2017   of Moses tokens, compounds split at hyphens, as Vaswani et al. 2017 counted for
               English to German: a point or two higher, and not to be compared with the other
  chrF         of characters (Popovic 2015)
  exact match  the whole sentence, in every character

A reference is the sentence as it stands in the data. White space is compared in exact match as in
the other metrics: any run of it counts as one space, and none at the ends counts. Nothing else is
normalised: letters that look alike, such as a composed and a decomposed e with an accent, differ.

The first three are of all sentences together; their intervals resample sentences (Koehn 2004), of
all seeds together. The interval of exact match is Student's over seeds.
"""

import functools
import math
import re
from collections.abc import Callable, Iterable, Sequence

from experiments.lab import optional
from experiments.lab.results import scores
from experiments.lab.results.statistics import CONFIDENCE, Interval, mean_interval

np = optional.later('numpy')
optimize = optional.later('scipy.optimize')
EXTRA = ('BLEU scores', 'translation')
RESAMPLES = 1000
SEED = 20170612  # fixed: the same answers get the same interval


def answers(written: dict) -> dict[str, list[str]]:
  """Seed -> what its model wrote to each source."""
  return written['answers']


def exact(written: dict) -> 'dict[str, np.ndarray]':
  """Seed -> whether each answer is the reference but for white space."""
  references = [text.split() for text in written['reference']]
  return {
    seed: np.array([a.split() == b for a, b in zip(texts, references, strict=True)], bool)
    for seed, texts in answers(written).items()
  }


def exact_match(written: dict) -> Interval:
  """The part of the answers that are the reference, over seeds."""
  parts = [float(right.mean()) for right in exact(written).values() if right.size]
  return mean_interval(parts or [math.nan])


def bleu(written: dict) -> Interval:
  """sacreBLEU, 0 to 100."""
  return _scored('BLEU', written, lambda text: text)


def bleu_2017(written: dict, language: str) -> Interval:
  """BLEU as the 2017 paper counted it, for text in a language."""
  split = functools.cache(lambda text: compounds_split(moses(language)(text)))
  return _scored('BLEU', written, split, tokenize='none', smooth_method='none', force=True)


def chrf(written: dict) -> Interval:
  """chrF, 0 to 100."""
  return _scored('CHRF', written, lambda text: text)


def compounds_split(tokens: str) -> str:
  """Tokens with the hyphens within words as tokens of their own.

  tensor2tensor's get_ende_bleu.sh has the same substitution, in Perl, on bytes. A match takes the
  bytes on both sides of a hyphen, so that of a-b-c only the first hyphen is split.
  """
  return re.sub(rb'(\S)-(\S)', rb'\1 ##AT##-##AT## \2', tokens.encode()).decode()


def ready() -> None:
  """MissingExtra if a library that scores answers is not there, before anything is trained."""
  for library in ('sacrebleu.metrics', 'sacremoses'):
    optional.load(library, *EXTRA)


@functools.cache
def moses(language: str) -> Callable[[str], str]:
  """Moses' tokenizer of a language."""
  library = optional.load('sacremoses', *EXTRA)
  tokenizer = library.MosesTokenizer(lang=language)
  return lambda text: tokenizer.tokenize(text, return_str=True, escape=False)


def _scored(name: str, written: dict, prepare: Callable[[str], str], **options) -> Interval:
  """A metric of sacreBLEU on the answers of all seeds, with a bootstrap interval.

  The counts that the metric is made of are kept by sentence; sentences are drawn with replacement,
  their counts summed, and a score made of each sum. One sentence has no interval. (sacreBLEU's own
  bootstrap of chrF raises a TypeError where a sample scores exactly 0.)
  """
  metric = getattr(optional.load('sacrebleu.metrics', *EXTRA), name)(**options)
  systems = list(answers(written).values())
  hypotheses = [prepare(text) for own in systems for text in own]
  references = [prepare(text) for text in written['reference']] * len(systems)
  if not hypotheses:
    return Interval.bare(math.nan)
  counts = np.array(metric._extract_corpus_statistics(hypotheses, [references]), np.int64)

  def score(sums: 'np.ndarray') -> float:
    return float(metric._compute_score_from_stats(sums.tolist()).score)

  estimate, count = score(counts.sum(0)), len(counts)
  if count < 2:
    return Interval.bare(estimate, count)
  draw = np.random.default_rng(SEED).integers
  drawn = [score(counts[draw(count, size=count)].sum(0)) for _ in range(RESAMPLES)]
  low, high = np.quantile(drawn, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)).tolist()
  return Interval(estimate, min(low, estimate), max(high, estimate), count)


def by_length(written: Iterable[dict], edges: Sequence[int]) -> list[tuple[float, Interval]]:
  """Exact match against the source's length in tokens: (mean length, interval) a bin.

  A bin holds the lengths above the edge before it, up to its own.
  """
  written, points = list(written), []
  for low, high in zip((0, *edges), edges, strict=False):
    lengths = [n for part in written for n in part['source_length'] if low < n <= high]
    if lengths:
      points.append((float(np.mean(lengths)), within(written, low, high)))
  return points


def within(written: Iterable[dict], low: int, high: int) -> Interval | None:
  """Exact match for sources longer than `low`, up to `high` tokens, over seeds; None: no source."""
  seeds = {}
  for part in written:
    chosen = [i for i, n in enumerate(part['source_length']) if low < n <= high]
    for seed, right in exact(part).items():
      seeds.setdefault(seed, []).extend(right[chosen])
  found = [float(np.mean(right)) for right in seeds.values() if right]
  return mean_interval(found) if found else None


def half_length(record: dict) -> Interval | str | None:
  """The length of a source at which half of the answers are right, by a logistic fit.

  Fitted for each seed to single answers, p(right) = 1 / (1 + exp(b (n - n_half))); the interval is
  over seeds. Outside of the lengths that were asked there is only a bound, as text.
  """
  written = record['result']['written']
  lengths = np.concatenate([part['source_length'] for part in written]).astype(float)
  seeds = answers(written[0])
  if not seeds or not lengths.size:
    return None
  found = [
    crossing(lengths, np.concatenate([exact(part)[seed] for part in written])) for seed in seeds
  ]
  shortest, longest = lengths.min(), lengths.max()
  if all(n > longest for n in found):
    return f'> {longest:.0f}'
  if all(n < shortest for n in found):
    return f'< {shortest:.0f}'
  return mean_interval([float(np.clip(n, shortest, longest)) for n in found])


def crossing(lengths: 'np.ndarray', right: 'np.ndarray') -> float:
  """Where a logistic curve fitted to right or wrong at lengths falls through a half."""
  if right.all():
    return math.inf
  if not right.any():
    return -math.inf
  centre, spread = lengths.mean(), lengths.std() or 1.0
  x, sign = (lengths - centre) / spread, np.where(right, 1.0, -1.0)

  def loss(parameters):  # with a little of a prior, so that separable answers have a fit
    level, slope = parameters
    return np.logaddexp(0, -sign * (level - slope * x)).sum() + 1e-3 * (level**2 + slope**2)

  level, slope = optimize.minimize(loss, np.zeros(2)).x
  if slope <= 0:  # no worse where it is longer
    return math.inf if right.mean() > 0.5 else -math.inf
  return centre + spread * level / slope


def bits_held(record: dict) -> tuple[Interval, int] | None:
  """Bits of a source that a model was seen to hold, at the length where it held most.

  What the target costs whoever knows how often each token stands at each place, less what it costs
  the model, in bits a sequence. Where the tokens of a target are independent, as in copying, it is
  a lower bound on what the decoder knows of the source (Barber and Agakov 2003).
  """
  result, members = record['result'], scores.chosen(record)
  held = []
  for i, there in enumerate(result['extrapolation']):
    part = result['written'][1 + i]
    losses = [m['extrapolation_loss'][i] if m['extrapolation_loss'] else math.nan for m in members]
    bits = [(part['blind_loss'] - loss) * part['tokens'] / math.log(2) for loss in losses]
    held.append((mean_interval(bits), there['distance']))
  known = [one for one in held if math.isfinite(one[0].mean)]
  return max(known, key=lambda one: one[0].mean, default=None)
