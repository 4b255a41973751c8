"""The ledger: what is claimed, stated in advance, and what the stored records say of it.

  python -m experiments.claims --runs=runs/quick

A claim is data: a statement and its source, the study whose records settle it, an effect (one
number a seed or a round), and the relation to a threshold that is expected of it. One rule turns
the effect's mean, with its 95 % bootstrap interval, into a verdict:

  supported      the whole interval is on the expected side of the threshold
  contradicted   the whole interval is on the other side
  inconclusive   the threshold lies within the interval, or there is only one value
  not run        a record that the effect needs is missing
  void           a control of the study did not hold: what must fail did not fail, say

A control is a claim too, which must hold for any claim of its study to count.
"""

import dataclasses
import operator
from collections.abc import Iterable

from experiments import bottleneck, translation
from experiments.effects import (
  Effect,
  Records,
  across_field,
  beyond_training,
  calibration,
  growth,
  lead_at_distance,
  lead_over_best,
  loss_with_distance,
  loss_with_length,
  noise,
  score_at_distance,
  score_at_length,
)
from experiments.launch import flags
from experiments.state_tracking import LINEAR, SIGNED

RECURRENT = ('lstm', 'gru')
RELATIONS = {'>': operator.gt, '<': operator.lt}


@dataclasses.dataclass(frozen=True)
class Claim:
  """Stated before it is measured: `effect` is expected to be `relation` than `threshold`."""

  name: str
  statement: str
  source: str
  study: str
  effect: Effect
  unit: str
  relation: str
  threshold: float


VASWANI = 'Vaswani et al. 2017'


def calibrated(study: str) -> tuple[Claim, Claim]:
  """The controls of every study that trains: its oracle, and who does not look."""
  words = study.replace('_', ' ')
  return (
    Claim(
      f'oracle-{study}', f'Whoever computes the answer from the source is right in {words}',
      'control', study, calibration('oracle'), 'score', '>', 0.999,
    ),
    Claim(
      f'guess-{study}', f'Whoever does not look at the source scores chance in {words}',
      'control', study, calibration('guess'), 'score', '<', 0.05,
    ),
  )


CONTROLS = (
  *calibrated('retention'),
  *calibrated('ladder'),
  *calibrated('state_tracking'),
  *calibrated('bottleneck'),
  *calibrated('translation'),
  *calibrated('pronouns'),
  Claim(
    'blind', 'A convolution scores chance beyond its receptive field', 'control', 'retention',
    across_field('copy_memory', 'tcn', beyond=True), 'score', '<', 0.05,
  ),
  Claim(
    'blind-ladder', 'A convolution of few tokens copies nothing from beyond them', 'control',
    'ladder', across_field('copy_memory', 'convolution', beyond=True), 'score', '<', 0.05,
  ),
  Claim(
    'blind-tracking', 'A convolution of few tokens keeps no parity of many', 'control',
    'state_tracking', beyond_training('parity', ('convolution',)), 'score', '<', 0.05,
  ),
  Claim(
    'blind-bottleneck', 'Whoever hands over its last few tokens translates no more than those',
    'control', 'bottleneck', score_at_length('copy', bottleneck.CONTROL), 'score', '<', 0.05,
  ),
  Claim(
    'blind-pronouns', 'A convolution of few words does not know what they refer to', 'control',
    'pronouns', score_at_distance('pronouns', 'convolution'), 'score', '<', 0.1,
  ),
  Claim(
    'repeat', 'The same step takes as long when it is measured twice', 'control', 'parallelism',
    noise, 'times itself', '<', 1.25,
  ),
)
CLAIMS = (
  Claim(
    'recurrent-forget', 'Recurrent networks forget with distance',
    'Bengio et al. 1994; Arora et al. 2024', 'retention',
    loss_with_distance('recall', RECURRENT), 'score lost in recall', '>', 0.1,
  ),
  Claim(
    'recurrent-forget-copy', 'Recurrent networks lose what they must copy as the delay grows',
    'Arjovsky et al. 2016', 'retention',
    loss_with_distance('copy_memory', RECURRENT), 'score lost in copying', '>', 0.1,
  ),
  Claim(
    'attention-remembers', 'Attention does not forget with distance', VASWANI, 'retention',
    loss_with_distance('recall', ('attention',)), 'score lost in recall', '<', 0.1,
  ),
  Claim(
    'attention-remembers-copy', 'Attention copies as well after a longer delay', VASWANI,
    'retention', loss_with_distance('copy_memory', ('attention',)), 'score lost in copying',
    '<', 0.1,
  ),
  Claim(
    'attention-leads', 'Attention recalls at a distance what recurrence does not',
    'Arora et al. 2024', 'retention',
    lead_at_distance('recall', 'attention', RECURRENT), 'score ahead', '>', 0.1,
  ),
  Claim(
    'convolution-sees', 'A convolution remembers what its receptive field covers',
    'Bai et al. 2018', 'retention',
    across_field('copy_memory', 'tcn', beyond=False), 'score', '>', 0.5,
  ),
  Claim(
    'convolution-blind', 'A convolution sees nothing beyond its receptive field',
    'Luo et al. 2016', 'retention',
    across_field('copy_memory', 'tcn', beyond=True), 'score', '<', 0.05,
  ),
  Claim(
    'recurrent-training-grows', 'Training time a token grows with length for recurrence', VASWANI,
    'parallelism', growth('train', RECURRENT), 'times the shortest length', '>', 1.25,
  ),
  Claim(
    'attention-training-flat', 'Training time a token does not grow with length for attention',
    VASWANI, 'parallelism', growth('train', ('attention',)), 'times the shortest length',
    '<', 1.25,
  ),
  Claim(
    'convolution-training-flat',
    'Training time a token does not grow with length for convolution', 'Bai et al. 2018',
    'parallelism', growth('train', ('tcn',)), 'times the shortest length', '<', 1.25,
  ),
  Claim(
    'attention-generation-grows', 'A token takes attention longer to generate the later it comes',
    'Katharopoulos et al. 2020', 'parallelism', growth('generate', ('attention',)),
    'times the first position', '>', 1.25,
  ),
  Claim(
    'recurrent-generation-flat', 'A token takes recurrence as long to generate wherever it comes',
    'Katharopoulos et al. 2020', 'parallelism', growth('generate', RECURRENT),
    'times the first position', '<', 1.25,
  ),
  Claim(
    'delta-recalls', 'Erasing what a key held before it is written again recalls more than adding',
    'Yang et al. 2024', 'ladder', lead_at_distance('recall', 'deltanet', ('retnet',)),
    'score ahead', '>', 0.1,
  ),
  Claim(
    'matrix-recalls', 'A matrix for a state recalls more than a vector', 'Arora et al. 2024',
    'ladder', lead_at_distance('recall', 'gla', ('mingru',)), 'score ahead', '>', 0.1,
  ),
  Claim(
    'selection-copies', 'Decays that depend on the input copy selectively what fixed ones do not',
    'Gu and Dao 2023', 'ladder', lead_at_distance('selective_copying', 'mamba', ('lru', 's5')),
    'score ahead', '>', 0.1,
  ),
  Claim(
    'recurrence-tracks', 'A recurrent network keeps parity far beyond the trained length',
    'Delétang et al. 2023', 'state_tracking', beyond_training('parity', ('lstm',)),
    'score beyond training', '>', 0.9,
  ),
  Claim(
    'tracking-fails-attention', 'Attention does not keep parity beyond the trained length',
    'Hahn 2020; Delétang et al. 2023', 'state_tracking', beyond_training('parity', ('attention',)),
    'score beyond training', '<', 0.1,
  ),
  Claim(
    'tracking-fails-positive',
    'Linear recurrence with eigenvalues in [0, 1] does not keep parity beyond the trained length',
    'Sarrof et al. 2024; Grazzi et al. 2025', 'state_tracking',
    beyond_training('parity', LINEAR), 'score beyond training', '<', 0.1,
  ),
  Claim(
    'tracking-signed',
    'Linear recurrence with eigenvalues in [-1, 1] keeps parity beyond the trained length',
    'Grazzi et al. 2025', 'state_tracking', beyond_training('parity', SIGNED),
    'score beyond training', '>', 0.9,
  ),
  Claim(
    'vector-falls', 'Through one fixed vector, translation falls with the length of the source',
    'Cho et al. 2014b; Bahdanau et al. 2015', 'bottleneck',
    loss_with_length('copy', bottleneck.FIXED[:1]), 'sentences lost', '>', 0.1,
  ),
  Claim(
    'attention-holds-length', 'With attention to the source it does not, up to the trained length',
    'Bahdanau et al. 2015', 'bottleneck',
    loss_with_length('copy', bottleneck.ATTENTIVE), 'sentences lost', '<', 0.1,
  ),
  Claim(
    'length-leads',
    'At the longest trained length the Transformer translates what one vector does not hold',
    VASWANI, 'bottleneck',
    score_at_length('copy', 'transformer', less=bottleneck.FIXED), 'sentences ahead', '>', 0.1,
  ),
  Claim(
    'reversal-helps', 'A fixed vector holds more of a source that is read from its end',
    'Sutskever et al. 2014', 'bottleneck',
    lead_at_distance('number_words', 'fixed_vector(reverse=True)', ('fixed_vector',)),
    'sentences ahead', '>', 0.02,
  ),
  Claim(
    'transformer-translates', 'At one budget the Transformer translates best of all',
    VASWANI, 'translation',
    lead_over_best('number_words', 'transformer', translation.TRANSLATORS[:-1]),
    'sentences ahead of the best other', '>', 0.0,
  ),
  Claim(
    'attention-refers', 'Attention finds what a pronoun refers to at any distance', VASWANI,
    'pronouns', loss_with_distance('pronouns', ('attention',)), 'score lost', '<', 0.1,
  ),
  Claim(
    'recurrence-loses-reference',
    'A recurrent network loses what a pronoun refers to with distance',
    VASWANI, 'pronouns', loss_with_distance('pronouns', ('lstm',)), 'score lost', '>', 0.1,
  ),
)


@dataclasses.dataclass(frozen=True)
class Finding:
  """A claim with what the records say of it."""

  claim: Claim
  verdict: str
  samples: tuple[float, ...] = ()
  seeds: int = 0
  failed: tuple[str, ...] = ()  # controls

  @property
  def interval(self):
    """The effect's mean with its bootstrap interval; None: not run."""
    import numpy as np

    from experiments.results.statistics import bootstrap_interval

    return bootstrap_interval(np.mean, self.samples) if self.samples else None


def judge(claim: Claim, records: Records) -> Finding:
  """One claim by the rule above, controls aside."""
  own = [record for record in records if record['study'] == claim.study]
  samples = claim.effect(own)
  if not samples:
    return Finding(claim, 'not run')
  finding = Finding(claim, 'inconclusive', tuple(samples), seeds_of(own))
  interval, holds = finding.interval, RELATIONS[claim.relation]
  if interval.known:
    sides = {holds(bound, claim.threshold) for bound in (interval.low, interval.high)}
    if len(sides) == 1:
      verdict = 'supported' if sides.pop() else 'contradicted'
      return dataclasses.replace(finding, verdict=verdict)
  return finding


def seeds_of(records: Records) -> int:
  """How many seeds the records of a study rest on, at least."""
  counts = [len(r['run']['seeds']) for r in records if 'seeds' in r['run']]
  return min(counts, default=len({r['run'].get('seed') for r in records}))


def findings(records: Records, claims=CLAIMS, controls=CONTROLS) -> list[Finding]:
  """All claims; those of a study are void if one of its controls was run and did not hold."""
  failed: dict[str, list[str]] = {}
  for control in controls:
    if judge(control, records).verdict not in ('supported', 'not run'):
      failed.setdefault(control.study, []).append(control.name)
  found = (judge(claim, records) for claim in claims)
  return [
    dataclasses.replace(f, verdict='void', failed=tuple(failed[f.claim.study]))
    if f.claim.study in failed and f.verdict != 'not run' else f
    for f in found
  ]


def verdicts(found: Iterable[Finding]):
  """Rows of the report's scoreboard."""
  from experiments.results.page import Verdict

  return [
    Verdict(
      f.claim.statement,
      f.verdict,
      expectation(f),
      f.interval,
      f.seeds or None,
      f.claim.source,
    )
    for f in found
  ]


def expectation(finding: Finding) -> str:
  """The effect in words: its unit and what was expected of it, or which control failed."""
  claim = finding.claim
  void = f'; control failed: {", ".join(finding.failed)}' if finding.failed else ''
  return f'{claim.unit}, expected {claim.relation} {claim.threshold:g}{void}'


def table(found: Iterable[Finding]):
  """The ledger as a table."""
  from experiments.results.table import Table

  return Table(
    'Claims',
    ('claim', 'verdict', 'effect', 'expected', 'seeds', 'source'),
    [
      (f.claim.statement, f.verdict, f.interval, expectation(f), f.seeds or None, f.claim.source)
      for f in found
    ],
    'Effects are means over seeds (of times: over repetitions) with 95 % bootstrap intervals. With '
    'few seeds such an interval is narrow: it spans what was seen, not what could have been.',
  )


def main() -> None:
  """Prints the ledger, and the controls that it rests on."""
  from experiments.results import publish
  from experiments.results.store import Store

  records = Store(flags.FLAGS.runs).records()
  controls = [judge(control, records) for control in CONTROLS]
  ledger = [table(findings(records)), dataclasses.replace(table(controls), title='Controls')]
  publish.tables('claims', ledger, flags.FLAGS.runs)


if __name__ == '__main__':
  flags.main(main, flags.define_store, __doc__)
