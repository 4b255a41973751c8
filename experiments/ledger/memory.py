"""What is remembered over a distance, and what is kept track of: claims and their controls."""

from experiments.ledger.claim import VASWANI, Claim, calibrated
from experiments.ledger.effects import (
  across_field,
  beyond_training,
  lead_at_distance,
  loss_with_distance,
  score_at_distance,
)
from experiments.state_tracking import LINEAR, SIGNED

RECURRENT = ('lstm', 'gru')

CONTROLS = (
  *calibrated('retention'),
  *calibrated('ladder'),
  *calibrated('state_tracking'),
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
    'blind-pronouns', 'A convolution of few words does not know what they refer to', 'control',
    'pronouns', score_at_distance('pronouns', 'convolution'), 'score', '<', 0.1,
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
    'attention-refers', 'Attention finds what a pronoun refers to at any distance', VASWANI,
    'pronouns', loss_with_distance('pronouns', ('attention',)), 'score lost', '<', 0.1,
  ),
  Claim(
    'recurrence-loses-reference',
    'A recurrent network loses what a pronoun refers to with distance',
    VASWANI, 'pronouns', loss_with_distance('pronouns', ('lstm',)), 'score lost', '>', 0.1,
  ),
)
