"""What is claimed of the rungs, and what the claims rest on."""

from experiments.lab.evidence.claim import Claim, calibrated
from experiments.lab.evidence.effects import across_field, lead_at_distance

CONTROL = 'convolution'
CONTROLS = (
  *calibrated('ladder'),
  Claim(
    'blind-ladder', 'A convolution of few tokens copies nothing from beyond them', 'control',
    'ladder', across_field('copy_memory', 'convolution', beyond=True), 'score', '<', 0.05,
  ),
)
CLAIMS = (
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
)
