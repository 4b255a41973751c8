"""The claim that the Transformer translates best.

The control experiments test an oracle and a baseline.
"""

from experiments.lab.evidence.claim import VASWANI, Claim, claims_about_oracle_and_baseline_scores
from experiments.lab.evidence.effects import advantage_over_best_alternative

TRANSLATORS = (
  'fixed_vector', 'fixed_vector(reverse=True)', 'fixed_vector(gru)', 'additive', 'multiplicative',
  'bytenet', 'convs2s', 'transformer',
)
CONTROLS = (
  *claims_about_oracle_and_baseline_scores('translation'),
)
CLAIMS = (
  Claim(
    'transformer-translates',
    'The Transformer translates more spelled-out numbers without error than every other '
    'encoder-decoder under the same budget',
    VASWANI, 'translation',
    advantage_over_best_alternative('number_words', 'transformer', TRANSLATORS[:-1]),
    'exact-match score of the Transformer minus that of the best other encoder-decoder', '>', 0.0,
  ),
)
