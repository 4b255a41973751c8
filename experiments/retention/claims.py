"""What is claimed of memory over a distance, and what the claims rest on."""

from experiments.lab.evidence.claim import VASWANI, Claim, calibrated
from experiments.lab.evidence.effects import across_field, lead_at_distance, loss_with_distance

RECURRENT = ('lstm', 'gru')
CONTROLS = (
  *calibrated('retention'),
  Claim(
    'blind', 'A convolution scores chance beyond its receptive field', 'control', 'retention',
    across_field('copy_memory', 'tcn', beyond=True), 'score', '<', 0.05,
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
)
