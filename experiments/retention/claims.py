"""Claims on how scores in recall and copying change with the dependency distance.

The controls test an oracle, a baseline and a network with a short receptive field.
"""

from experiments.lab.evidence.claim import VASWANI, Claim, claims_about_oracle_and_baseline_scores
from experiments.lab.evidence.effects import (
  advantage_at_longest_distance,
  score_drop_with_distance,
  scores_beyond_or_within_receptive_field,
)

RECURRENT = ('lstm', 'gru')
RECALL_DROP = 'recall score at the shortest distance minus that at the longest'
COPY_DROP = 'copy memory score after the shortest delay minus that after the longest'
COPY_SCORE = 'copy memory score, 0 at chance and 1 if perfect'
CONTROLS = (
  *claims_about_oracle_and_baseline_scores('retention'),
  Claim(
    'blind',
    'A temporal convolutional network scores no better than chance on copy memory at a distance '
    'beyond its receptive field',
    'control', 'retention',
    scores_beyond_or_within_receptive_field('copy_memory', 'tcn', beyond_receptive_field=True),
    COPY_SCORE, '<', 0.05,
  ),
)
CLAIMS = (
  Claim(
    'recurrent-forget',
    'An LSTM and a GRU, trained at each distance under the same budget, score lower on associative '
    'recall at the longest distance than at the shortest',
    'Bengio et al. 1994; Arora et al. 2024', 'retention',
    score_drop_with_distance('recall', RECURRENT), RECALL_DROP, '>', 0.1,
  ),
  Claim(
    'recurrent-forget-copy',
    'An LSTM and a GRU, trained at each delay under the same budget, score lower on copy memory '
    'after the longest delay than after the shortest',
    'Arjovsky et al. 2016', 'retention',
    score_drop_with_distance('copy_memory', RECURRENT), COPY_DROP, '>', 0.1,
  ),
  Claim(
    'attention-remembers',
    'Attention, trained at each distance under the same budget, does not score lower on '
    'associative recall at the longest distance than at the shortest',
    VASWANI, 'retention', score_drop_with_distance('recall', ('attention',)), RECALL_DROP,
    '<', 0.1,
  ),
  Claim(
    'attention-remembers-copy',
    'Attention, trained at each delay under the same budget, does not score lower on copy memory '
    'after the longest delay than after the shortest',
    VASWANI, 'retention', score_drop_with_distance('copy_memory', ('attention',)), COPY_DROP,
    '<', 0.1,
  ),
  Claim(
    'attention-leads',
    'Attention scores higher than an LSTM and a GRU on associative recall at the longest distance, '
    'under the same budget',
    'Arora et al. 2024', 'retention',
    advantage_at_longest_distance('recall', 'attention', RECURRENT),
    'recall score of attention minus that of the LSTM or the GRU', '>', 0.1,
  ),
  Claim(
    'convolution-sees',
    'A temporal convolutional network, trained on copy memory, copies symbols at distances within '
    'its receptive field',
    'Bai et al. 2018', 'retention',
    scores_beyond_or_within_receptive_field('copy_memory', 'tcn', beyond_receptive_field=False),
    COPY_SCORE, '>', 0.5,
  ),
  Claim(
    'convolution-blind',
    'A temporal convolutional network, trained on copy memory, does not copy symbols at distances '
    'beyond its receptive field',
    'Luo et al. 2016', 'retention',
    scores_beyond_or_within_receptive_field('copy_memory', 'tcn', beyond_receptive_field=True),
    COPY_SCORE, '<', 0.05,
  ),
)
