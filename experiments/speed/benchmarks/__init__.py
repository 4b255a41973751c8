"""Benchmarks of computations in this repository against other implementations on equal inputs.

BENCHMARKS lists them by name. Each function draws its inputs from a seed and states how the other
libraries arrange them in memory. The other implementations are called as their users call them, in
the memory layout in which they are fastest. Conversions of the layout are not timed. SSD and the
gated delta rule have the layout [B, T, H, K] in all implementations, in which a layer's projections
produce the queries, keys and values.
"""

from experiments.speed.benchmarks.attention import attention_benchmark
from experiments.speed.benchmarks.convolution import convolution_benchmark
from experiments.speed.benchmarks.decoder import decoder_benchmark
from experiments.speed.benchmarks.gated_delta_rule import gated_delta_rule_benchmark
from experiments.speed.benchmarks.generation import generation_benchmark
from experiments.speed.benchmarks.language_models import (
  lstm_model_benchmark,
  mamba2_model_benchmark,
)
from experiments.speed.benchmarks.linear_recurrence import linear_recurrence_benchmark
from experiments.speed.benchmarks.mamba import mamba_benchmark
from experiments.speed.benchmarks.recurrent import gru_benchmark, lstm_benchmark
from experiments.speed.benchmarks.s4d import s4d_benchmark
from experiments.speed.benchmarks.ssd import ssd_benchmark

BENCHMARKS = {
  'lstm': lstm_benchmark,
  'gru': gru_benchmark,
  'attention': attention_benchmark,
  'recurrence': linear_recurrence_benchmark,
  'mamba': mamba_benchmark,
  's4d': s4d_benchmark,
  'ssd': ssd_benchmark,
  'gated_delta_rule': gated_delta_rule_benchmark,
  'convolution': convolution_benchmark,
  'decoder': decoder_benchmark,
  'lstm_model': lstm_model_benchmark,
  'mamba2_model': mamba2_model_benchmark,
  'generation': generation_benchmark,
}
