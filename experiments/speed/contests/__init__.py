"""What is compared for speed: a computation of ours, and others' forms of it on the same numbers.

CONTESTS names them. Each function draws its numbers from a seed and says how others lay them out. A
rival is taken as its users take it, in the layout in which it is fastest; laying out is not timed.
"""

from experiments.speed.contests.attention import attention
from experiments.speed.contests.convolution import convolution
from experiments.speed.contests.decoder import decoder
from experiments.speed.contests.gated_delta_rule import gated_delta_rule
from experiments.speed.contests.generation import generation
from experiments.speed.contests.recurrence import recurrence
from experiments.speed.contests.recurrent import gru, lstm
from experiments.speed.contests.ssd import ssd

CONTESTS = {
  'lstm': lstm,
  'gru': gru,
  'attention': attention,
  'recurrence': recurrence,
  'ssd': ssd,
  'gated_delta_rule': gated_delta_rule,
  'convolution': convolution,
  'decoder': decoder,
  'generation': generation,
}
