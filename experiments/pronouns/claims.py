"""Claims on how pronoun resolution depends on the distance between pronoun and antecedent.

The distance is the number of words between their clauses. The controls test an oracle, a baseline
and a convolution with a short receptive field.
"""

from experiments.lab.evidence.claim import VASWANI, Claim, claims_about_oracle_and_baseline_scores
from experiments.lab.evidence.effects import score_at_longest_distance, score_drop_with_distance

CONTROL = 'convolution'
DROP = 'pronoun resolution score at the shortest distance minus that at the longest'
CONTROLS = (
  *claims_about_oracle_and_baseline_scores('pronouns'),
  Claim(
    'blind-pronouns',
    'A convolution with a receptive field of a few words does not resolve pronouns at the longest '
    'distance',
    'control', 'pronouns', score_at_longest_distance('pronouns', 'convolution'),
    'pronoun resolution score at the longest distance, 0 at chance and 1 if perfect', '<', 0.1,
  ),
)
CLAIMS = (
  Claim(
    'attention-refers',
    'Attention, trained at each distance under the same budget, does not resolve fewer pronouns at '
    'the longest distance than at the shortest',
    VASWANI, 'pronouns', score_drop_with_distance('pronouns', ('attention',)), DROP, '<', 0.1,
  ),
  Claim(
    'recurrence-loses-reference',
    'An LSTM, trained at each distance under the same budget, resolves fewer pronouns at the '
    'longest distance than at the shortest',
    VASWANI, 'pronouns', score_drop_with_distance('pronouns', ('lstm',)), DROP, '>', 0.1,
  ),
)
