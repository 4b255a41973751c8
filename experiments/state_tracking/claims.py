"""Claims on state tracking at lengths beyond training, and control experiments."""

from experiments.lab.evidence.claim import Claim, claims_about_oracle_and_baseline_scores
from experiments.lab.evidence.effects import score_beyond_longest_training_dependency

LINEAR = ('mamba', 'deltanet', 'gated_deltanet')  # with eigenvalues in [0, 1] by default
SIGNED = tuple(f"{layer}(eigenvalues='[-1,1]')" for layer in LINEAR)
SCORE = 'parity score at the longest tested length, 0 at chance and 1 if perfect'
CONTROLS = (
  *claims_about_oracle_and_baseline_scores('state_tracking'),
  Claim(
    'blind-tracking',
    'A convolution with a receptive field of a few tokens, trained on the parity of short '
    'sequences, scores no better than chance at the longest tested length',
    'control', 'state_tracking',
    score_beyond_longest_training_dependency('parity', ('convolution',)), SCORE, '<', 0.05,
  ),
)
CLAIMS = (
  Claim(
    'recurrence-tracks',
    'An LSTM, trained on the parity of short sequences, computes parity at the longest tested '
    'length',
    'Delétang et al. 2023', 'state_tracking',
    score_beyond_longest_training_dependency('parity', ('lstm',)), SCORE, '>', 0.9,
  ),
  Claim(
    'tracking-fails-attention',
    'Attention, trained on the parity of short sequences, does not compute parity at the longest '
    'tested length',
    'Hahn 2020; Delétang et al. 2023', 'state_tracking',
    score_beyond_longest_training_dependency('parity', ('attention',)), SCORE, '<', 0.1,
  ),
  Claim(
    'tracking-fails-positive',
    'Mamba, DeltaNet and gated DeltaNet with eigenvalues in [0, 1], trained on the parity of short '
    'sequences, do not compute parity at the longest tested length',
    'Sarrof et al. 2024; Grazzi et al. 2025', 'state_tracking',
    score_beyond_longest_training_dependency('parity', LINEAR), SCORE, '<', 0.1,
  ),
  Claim(
    'tracking-signed',
    'Mamba, DeltaNet and gated DeltaNet with eigenvalues in [-1, 1], trained on the parity of '
    'short sequences, compute parity at the longest tested length',
    'Grazzi et al. 2025', 'state_tracking',
    score_beyond_longest_training_dependency('parity', SIGNED), SCORE, '>', 0.9,
  ),
)
