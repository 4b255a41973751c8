"""Claims on how time grows with sequence length.

A control experiment checks whether repeated timings agree.
"""

from experiments.lab.evidence.claim import MEASURE_AGAIN, VASWANI, Claim
from experiments.lab.evidence.effects import (
  ratios_between_repeated_timings,
  time_per_token_growth_with_length,
)
from experiments.lab.results.times import MAX_REPETITION_DRIFT

RECURRENT = ('lstm', 'gru')
GROWTH_WITH_LENGTH = 'times the time at the shortest length'
GROWTH_WITH_POSITION = 'times the time at the first position'
CONTROLS = (
  Claim(
    'repeat', 'On this device two measurements of the time of the same training step agree',
    'control', 'parallelism', ratios_between_repeated_timings,
    'longer of both measured times divided by the shorter', '<', MAX_REPETITION_DRIFT,
    remedy=MEASURE_AGAIN,
  ),
)
CLAIMS = (
  Claim(
    'recurrent-training-grows',
    'On this device the training time per token of an LSTM and of a GRU grows with the sequence '
    'length', VASWANI,
    'parallelism', time_per_token_growth_with_length('train', RECURRENT), GROWTH_WITH_LENGTH,
    '>', 1.25,
  ),
  Claim(
    'attention-training-flat',
    'On this device the training time per token of attention does not grow with the sequence '
    'length', VASWANI,
    'parallelism', time_per_token_growth_with_length('train', ('attention',)), GROWTH_WITH_LENGTH,
    '<', 1.25,
  ),
  Claim(
    'convolution-training-flat',
    'On this device the training time per token of a temporal convolutional network does not grow '
    'with the sequence length', 'Bai et al. 2018',
    'parallelism', time_per_token_growth_with_length('train', ('tcn',)), GROWTH_WITH_LENGTH,
    '<', 1.25,
  ),
  Claim(
    'attention-generation-grows',
    'On this device the time to generate a token with attention grows with the position of the '
    'token', 'Katharopoulos et al. 2020',
    'parallelism', time_per_token_growth_with_length('generate', ('attention',)),
    GROWTH_WITH_POSITION, '>', 1.25,
  ),
  Claim(
    'recurrent-generation-flat',
    'On this device the time to generate a token with an LSTM or a GRU does not grow with the '
    'position of the token', 'Katharopoulos et al. 2020',
    'parallelism', time_per_token_growth_with_length('generate', RECURRENT), GROWTH_WITH_POSITION,
    '<', 1.25,
  ),
)
