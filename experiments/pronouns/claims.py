"""What is claimed of what a pronoun refers to, and what the claims rest on."""

from experiments.lab.evidence.claim import VASWANI, Claim, calibrated
from experiments.lab.evidence.effects import loss_with_distance, score_at_distance

CONTROL = 'convolution'
CONTROLS = (
  *calibrated('pronouns'),
  Claim(
    'blind-pronouns', 'A convolution of few words does not know what they refer to', 'control',
    'pronouns', score_at_distance('pronouns', 'convolution'), 'score', '<', 0.1,
  ),
)
CLAIMS = (
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
