"""What is claimed of who translates best, and what the claim rests on."""

from experiments.lab.evidence.claim import VASWANI, Claim, calibrated
from experiments.lab.evidence.effects import lead_over_best

TRANSLATORS = (
  'fixed_vector', 'fixed_vector(reverse=True)', 'fixed_vector(gru)', 'additive', 'multiplicative',
  'bytenet', 'convs2s', 'transformer',
)
CONTROLS = (
  *calibrated('translation'),
)
CLAIMS = (
  Claim(
    'transformer-translates', 'At one budget the Transformer translates best of all',
    VASWANI, 'translation',
    lead_over_best('number_words', 'transformer', TRANSLATORS[:-1]),
    'sentences ahead of the best other', '>', 0.0,
  ),
)
