"""What one vector holds of a sentence, and who translates best: claims and their controls."""

from experiments import bottleneck, translation
from experiments.ledger.claim import VASWANI, Claim, calibrated
from experiments.ledger.effects import (
  lead_at_distance,
  lead_over_best,
  loss_with_length,
  score_at_length,
)

CONTROLS = (
  *calibrated('bottleneck'),
  *calibrated('translation'),
  Claim(
    'blind-bottleneck', 'Whoever hands over its last few tokens translates no more than those',
    'control', 'bottleneck', score_at_length('copy', bottleneck.CONTROL), 'score', '<', 0.05,
  ),
)
CLAIMS = (
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
)
