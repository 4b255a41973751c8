"""Claims on task scores of recurrent layers, and control experiments."""

from experiments.lab.evidence.claim import Claim, claims_about_oracle_and_baseline_scores
from experiments.lab.evidence.effects import (
  advantage_at_longest_distance,
  scores_beyond_or_within_receptive_field,
)

CONTROL = 'convolution'
CONTROLS = (
  *claims_about_oracle_and_baseline_scores('ladder'),
  Claim(
    'blind-ladder',
    'A convolution scores no better than chance on copy memory at a distance beyond its receptive '
    'field',
    'control', 'ladder',
    scores_beyond_or_within_receptive_field(
      'copy_memory', 'convolution', beyond_receptive_field=True),
    'copy memory score, 0 at chance and 1 if perfect', '<', 0.05,
  ),
)
CLAIMS = (
  Claim(
    'delta-recalls',
    'DeltaNet, which replaces the stored value of a key, scores higher on associative recall than '
    'RetNet, which adds values, at the longest distance and under the same budget',
    'Yang et al. 2024', 'ladder', advantage_at_longest_distance('recall', 'deltanet', ('retnet',)),
    'recall score of DeltaNet minus that of RetNet', '>', 0.1,
  ),
  Claim(
    'matrix-recalls',
    'Gated linear attention, whose state is a matrix, scores higher on associative recall than '
    'minGRU, whose state is a vector, at the longest distance and under the same budget',
    'Arora et al. 2024', 'ladder', advantage_at_longest_distance('recall', 'gla', ('mingru',)),
    'recall score of gated linear attention minus that of minGRU', '>', 0.1,
  ),
  Claim(
    'selection-copies',
    'Mamba, whose decays depend on the input, scores higher on selective copying than LRU and S5, '
    'whose decays are fixed, at the longest distance and under the same budget',
    'Gu and Dao 2023', 'ladder',
    advantage_at_longest_distance('selective_copying', 'mamba', ('lru', 's5')),
    'selective copying score of Mamba minus that of LRU or S5', '>', 0.1,
  ),
)
