"""What is claimed of tracking a state beyond the trained length, and the controls."""

from experiments.lab.evidence.claim import Claim, calibrated
from experiments.lab.evidence.effects import beyond_training

LINEAR = ('mamba', 'deltanet', 'gated_deltanet')  # each with eigenvalues in [0, 1]
SIGNED = tuple(f"{layer}(eigenvalues='[-1,1]')" for layer in LINEAR)
CONTROLS = (
  *calibrated('state_tracking'),
  Claim(
    'blind-tracking', 'A convolution of few tokens keeps no parity of many', 'control',
    'state_tracking', beyond_training('parity', ('convolution',)), 'score', '<', 0.05,
  ),
)
CLAIMS = (
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
)
