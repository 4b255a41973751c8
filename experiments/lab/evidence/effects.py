"""Effects: the one number a seed, or a repetition, that a claim rests on, taken from records.

An effect is a function of a study's records; it is None where a record that it needs is missing.
Those below are made by functions of what they compare, so that a new claim is seldom new code.
"""

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from experiments.lab.results import times
from experiments.lab.results.scores import elsewhere_scores, farthest_scores, scores

Records = Sequence[dict]
Effect = Callable[[Records], list[float] | None]
Measure = Callable[[dict, str], list[float]]  # of a record, for a layer: times a token


def comparison(records: Records, family: str) -> dict[str, list[dict]]:
  """The records of a family of tasks that compare: layer -> records by distance.

  Runs compare if they differ in nothing but the layer and the distance; variants of a task do not.
  Of several comparisons in one store it is the one with the most records, then the most steps,
  then the most seeds; layers with options stand under their own names.
  """
  groups: dict[tuple, list[dict]] = {}
  for record in records:
    if record['status'] == 'finished' and record['result'].get('family') == family:
      same = {k: str(v) for k, v in record['run'].items() if k not in ('layer', 'task')}
      key = record['result']['title'], tuple(sorted(same.items()))
      groups.setdefault(key, []).append(record)
  if not groups:
    return {}
  largest = max(groups.values(), key=lambda g: (
    len(g), g[0]['run']['steps'], len(g[0]['run']['seeds'])))
  by_layer: dict[str, list[dict]] = {}
  for record in sorted(largest, key=lambda r: r['result']['distance']):
    by_layer.setdefault(record['run']['layer'], []).append(record)
  return by_layer


def loss_with_distance(family: str, layers: Iterable[str]) -> Effect:
  """Score at the shortest distance less score at the longest, for each layer and seed."""
  def effect(records: Records) -> list[float] | None:
    compared, lost = comparison(records, family), []
    for layer in layers:
      if len(compared.get(layer, ())) < 2:
        return None
      near, far = (scores(compared[layer][end]) for end in (0, -1))
      lost += [near[seed] - far[seed] for seed in near if seed in far]
    return lost

  return effect


def lead_at_distance(family: str, layer: str, rivals: Sequence[str]) -> Effect:
  """Score of a layer less that of each rival, by seed, at the longest distance of all."""
  def effect(records: Records) -> list[float] | None:
    compared = comparison(records, family)
    if not {layer, *rivals} <= set(compared):
      return None
    ours, *theirs = (compared[one][-1] for one in (layer, *rivals))
    if any(rival['run']['task'] != ours['run']['task'] for rival in theirs):
      return None
    by_seed = scores(ours)
    return [by_seed[seed] - score for rival in theirs for seed, score in scores(rival).items()]

  return effect


def lead_over_best(family: str, layer: str, rivals: Sequence[str]) -> Effect:
  """Score of a layer less that of the best of its rivals, by seed, at the longest distance."""
  leads = {rival: lead_at_distance(family, layer, (rival,)) for rival in rivals}

  def effect(records: Records) -> list[float] | None:
    found = [lead(records) for lead in leads.values()]
    return None if not all(found) else min(found, key=lambda lead: sum(lead) / len(lead))

  return effect


def score_at_distance(family: str, layer: str) -> Effect:
  """Score of a layer, by seed, at the longest distance."""
  def effect(records: Records) -> list[float] | None:
    found = comparison(records, family).get(layer)
    return list(scores(found[-1]).values()) if found else None

  return effect


def across_field(family: str, layer: str, beyond: bool) -> Effect:
  """Scores, by seed, at the distances that a layer's receptive field does not, or does, cover."""
  def effect(records: Records) -> list[float] | None:
    found = [
      score for record in comparison(records, family).get(layer, ())
      if (field := record['result']['receptive_field'])
      and (record['result']['distance'] >= field) == beyond
      for score in scores(record).values()
    ]
    return found or None

  return effect


def beyond_training(family: str, layers: Iterable[str]) -> Effect:
  """Scores of each layer and seed at the greatest distance beyond the trained one."""
  def effect(records: Records) -> list[float] | None:
    compared, found = comparison(records, family), []
    for layer in layers:
      farthest = [farthest_scores(record) for record in compared.get(layer, ())[-1:]]
      if not any(farthest):
        return None
      found += farthest[0].values()
    return found

  return effect


def at_longest(record: dict) -> tuple[dict[int, float], dict[int, float]] | None:
  """Scores by seed at the shortest asked and at the longest trained length; None: not asked."""
  asked = elsewhere_scores(record)
  trained = [length for length in asked if length <= record['result']['distance']]
  return (asked[min(trained)], asked[max(trained)]) if len(trained) > 1 else None


def loss_with_length(family: str, layers: Iterable[str]) -> Effect:
  """Score at the shortest length less score at the longest that was trained on, by seed."""
  def effect(records: Records) -> list[float] | None:
    compared, lost = comparison(records, family), []
    for layer in layers:
      ends = [at_longest(record) for record in compared.get(layer, ())[-1:]]
      if not any(ends):
        return None
      short, long = ends[0]
      lost += [short[seed] - long[seed] for seed in short]
    return lost

  return effect


def score_at_length(family: str, layer: str, less: Sequence[str] = ()) -> Effect:
  """Score by seed at the longest trained length, less that of each of some others there."""
  def effect(records: Records) -> list[float] | None:
    compared = comparison(records, family)
    ends = [at_longest(r) for one in (layer, *less) for r in compared.get(one, ())[-1:]]
    if len(ends) < 1 + len(less) or None in ends:
      return None
    ours, *theirs = (long for _, long in ends)
    if not theirs:
      return list(ours.values())
    return [ours[seed] - score for rival in theirs for seed, score in rival.items() if seed in ours]

  return effect


def calibration(answer: str) -> Effect:
  """What an answer that must be right, or must be wrong, scores in every cell."""
  def effect(records: Records) -> list[float] | None:
    controls = (r['result'].get('controls', {}) for r in records)
    return [own[answer] for own in controls if answer in own] or None

  return effect


def ratio(over: Measure, under: Measure, layers: Iterable[str]) -> Effect:
  """Median time a token at one measure over that at another, for each layer and repetition.

  The rounds of a repetition share its parameters, its data and what else the machine did then, so
  that a repetition counts once.
  """
  def effect(records: Records) -> list[float] | None:
    grids: dict[str, list[dict]] = {}
    for record in filter(times.is_timed, records):
      grids.setdefault(str({**record['run'], 'seed': None}), []).append(record)
    largest = max(grids.values(), key=lambda g: (len(g), len(g[0]['run']['lengths'])), default=())
    medians = [
      [measure(record, layer) for measure in (over, under)]
      for layer in layers for record in largest
    ]
    known = all(times for pair in medians for times in pair)
    return [median(a) / median(b) for a, b in medians] or None if known else None

  return effect


def at_length(quantity: str, choose: Callable) -> Measure:
  """Times a token at the shortest (`min`) or the longest (`max`) of two lengths or more."""
  def measure(record: dict, layer: str) -> list[float]:
    found = times.per_token(record, layer, quantity)
    return found[choose(found)] if len(found) > 1 else []

  return measure


def growth(quantity: str, layers: Iterable[str]) -> Effect:
  """Time a token at the longest length over that at the shortest."""
  return ratio(at_length(quantity, max), at_length(quantity, min), layers)


def noise(records: Records) -> list[float] | None:
  """What the same step, measured twice, seems to differ by: the larger time over the smaller."""
  def again(record: dict, layer: str) -> list[float]:
    return next(iter(times.per_token(record, layer, 'repeat').values()), [])

  # Layer by layer: one that another grid had, or that had no memory, hides no other's noise.
  timed = list(filter(times.is_timed, records))
  layers = dict.fromkeys(layer for record in timed for layer in record['run']['layers'])
  found = (ratio(again, at_length('train', min), (layer,))(timed) for layer in layers)
  return [max(r, 1 / r) for ratios in found if ratios for r in ratios] or None
