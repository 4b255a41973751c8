"""Claims on encoder-decoders with one fixed-size source vector, and control experiments."""

from experiments.lab.evidence.claim import VASWANI, Claim, claims_about_oracle_and_baseline_scores
from experiments.lab.evidence.effects import (
  advantage_at_longest_distance,
  advantage_at_longest_training_length,
  score_at_longest_training_length,
  score_drop_with_source_length,
)

FIXED = ('fixed_vector', 'fixed_vector(reverse=True)')
ATTENTIVE = ('additive', 'multiplicative', 'transformer')
CONTROL = 'fixed_vector(convolution)'
DROP = 'exact-match score at the shortest length minus that at the longest trained length'
CONTROLS = (
  *claims_about_oracle_and_baseline_scores('bottleneck'),
  Claim(
    'blind-bottleneck',
    'An encoder-decoder whose fixed vector depends on the last few tokens of the source alone '
    'copies no source of the longest trained length without error',
    'control', 'bottleneck', score_at_longest_training_length('copy', CONTROL),
    'exact-match score at the longest trained length', '<', 0.05,
  ),
)
CLAIMS = (
  Claim(
    'vector-falls',
    'An encoder-decoder with one fixed vector copies fewer sources of the longest trained length '
    'without error than of the shortest tested length',
    'Cho et al. 2014b; Bahdanau et al. 2015', 'bottleneck',
    score_drop_with_source_length('copy', FIXED[:1]), DROP, '>', 0.1,
  ),
  Claim(
    'attention-holds-length',
    'Encoder-decoders with attention to the source do not copy fewer sources of the longest '
    'trained length without error than of the shortest tested length',
    'Bahdanau et al. 2015', 'bottleneck',
    score_drop_with_source_length('copy', ATTENTIVE), DROP, '<', 0.1,
  ),
  Claim(
    'length-leads',
    'The Transformer copies more sources of the longest trained length without error than '
    'encoder-decoders with one fixed vector, under the same budget',
    VASWANI, 'bottleneck',
    advantage_at_longest_training_length('copy', 'transformer', FIXED),
    'exact-match score of the Transformer minus that with a fixed vector', '>', 0.1,
  ),
  Claim(
    'reversal-helps',
    'An encoder-decoder with one fixed vector translates more spelled-out numbers without error if '
    'the source is reversed, under the same budget',
    'Sutskever et al. 2014', 'bottleneck',
    advantage_at_longest_distance('number_words', 'fixed_vector(reverse=True)', ('fixed_vector',)),
    'exact-match score with a reversed source minus that without reversal', '>', 0.02,
  ),
)
