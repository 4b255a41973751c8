"""What is claimed of the time that length costs, and what the claims rest on."""

from experiments.lab.evidence.claim import MEASURE_AGAIN, VASWANI, Claim
from experiments.lab.evidence.effects import growth, noise
from experiments.lab.results.times import STEADY

RECURRENT = ('lstm', 'gru')
CONTROLS = (
  Claim(
    'repeat', 'The same step takes as long when it is measured twice', 'control', 'parallelism',
    noise, 'times itself', '<', STEADY, remedy=MEASURE_AGAIN,
  ),
)
CLAIMS = (
  Claim(
    'recurrent-training-grows', 'Training time a token grows with length for recurrence', VASWANI,
    'parallelism', growth('train', RECURRENT), 'times the shortest length', '>', 1.25,
  ),
  Claim(
    'attention-training-flat', 'Training time a token does not grow with length for attention',
    VASWANI, 'parallelism', growth('train', ('attention',)), 'times the shortest length',
    '<', 1.25,
  ),
  Claim(
    'convolution-training-flat',
    'Training time a token does not grow with length for convolution', 'Bai et al. 2018',
    'parallelism', growth('train', ('tcn',)), 'times the shortest length', '<', 1.25,
  ),
  Claim(
    'attention-generation-grows', 'A token takes attention longer to generate the later it comes',
    'Katharopoulos et al. 2020', 'parallelism', growth('generate', ('attention',)),
    'times the first position', '>', 1.25,
  ),
  Claim(
    'recurrent-generation-flat', 'A token takes recurrence as long to generate wherever it comes',
    'Katharopoulos et al. 2020', 'parallelism', growth('generate', RECURRENT),
    'times the first position', '<', 1.25,
  ),
)
