"""What is claimed of one vector that holds a sentence, and what the claims rest on."""

from experiments.lab.evidence.claim import VASWANI, Claim, calibrated
from experiments.lab.evidence.effects import (
  lead_at_distance,
  loss_with_length,
  score_at_length,
)

FIXED = ('fixed_vector', 'fixed_vector(reverse=True)')
ATTENTIVE = ('additive', 'multiplicative', 'transformer')
CONTROL = 'fixed_vector(convolution)'
CONTROLS = (
  *calibrated('bottleneck'),
  Claim(
    'blind-bottleneck', 'Whoever hands over its last few tokens translates no more than those',
    'control', 'bottleneck', score_at_length('copy', CONTROL), 'score', '<', 0.05,
  ),
)
CLAIMS = (
  Claim(
    'vector-falls', 'Through one fixed vector, translation falls with the length of the source',
    'Cho et al. 2014b; Bahdanau et al. 2015', 'bottleneck',
    loss_with_length('copy', FIXED[:1]), 'sentences lost', '>', 0.1,
  ),
  Claim(
    'attention-holds-length', 'With attention to the source it does not, up to the trained length',
    'Bahdanau et al. 2015', 'bottleneck',
    loss_with_length('copy', ATTENTIVE), 'sentences lost', '<', 0.1,
  ),
  Claim(
    'length-leads',
    'At the longest trained length the Transformer translates what one vector does not hold',
    VASWANI, 'bottleneck',
    score_at_length('copy', 'transformer', less=FIXED), 'sentences ahead', '>', 0.1,
  ),
  Claim(
    'reversal-helps', 'A fixed vector holds more of a source that is read from its end',
    'Sutskever et al. 2014', 'bottleneck',
    lead_at_distance('number_words', 'fixed_vector(reverse=True)', ('fixed_vector',)),
    'sentences ahead', '>', 0.02,
  ),
)
