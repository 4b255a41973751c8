"""How fast are the layers? Computation time relative to PyTorch's and Flax's implementations.

  python -m experiments.speed --preset=quick --compare=lstm,attention --runs=runs/quick

Each implementation is first checked to compute the same results as ours. Then all of them are timed
in interleaved rounds in one process on one machine. The timed computations are the forward pass,
the forward and backward pass with the gradient of all inputs, and, for layers and models with
parameters, several steps of gradient descent or of training in a loop. A ratio below 1 means that
ours is faster.

The alternatives are Flax's layers and `jax.nn` as their users call them, plain loops, and PyTorch
where it is installed (extra `bench`) and supports the device that JAX runs on. Layers that PyTorch
does not have are compared with plain PyTorch forms, written as in the listings of the papers. No
time may exceed that of PyTorch on two CPU cores, which the column `required` states. PyTorch uses a
CPU as one device with several threads, while JAX implementations use one device per core. Large
matrix products are timed in the same rounds, so that a time is also reported as a share of this
machine's peak rate.

A cell is one repetition of one comparison. Finished cells are stored and skipped in later runs. The
device and PyTorch's version are part of a cell's key.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from absl import flags as absl_flags

from experiments.lab.launch import flags
from experiments.lab.launch.study import Study
from experiments.speed import tables
from experiments.speed.comparison import TITLES, Comparison, Target
from experiments.speed.records import BENCHMARK_RECORD


@dataclasses.dataclass(frozen=True)
class SpeedPreset:
  """Benchmarks to run, matrix sizes for the measurement of peak FLOP/s, and run settings."""

  comparisons: tuple[Comparison, ...]
  peak: tuple[int, ...]
  settings: Mapping[str, Any]  # rounds (`steps`) and seeds


FLAX_LSTM, TORCH_LSTM, TORCH_GRU = (
  'flax RNN(OptimizedLSTMCell)', 'torch.nn.LSTM', 'torch.nn.GRU')
TORCH_ATTENTION, JAX_ATTENTION = 'torch fused attention', 'jax.nn.dot_product_attention'
LOOP, RECURRENT, TORCH_CHUNKED = 'lax.scan, batch first', 'recurrent form', 'torch chunked form'
TORCH_MAMBA, TORCH_S4D = 'torch scan over time', 'torch FFT'
TORCH_CONVOLUTION, TORCH_TRAINING = 'torch conv1d', 'torch eager, fused AdamW'
NO_CACHE = 'no cache, recomputes the prefix'


def workload_sizes(batch: int, length: int, **sizes: int) -> dict[str, int]:
  """Returns a dict of the batch size, the sequence length and further sizes of a benchmark."""
  return {'batch': batch, 'length': length, **sizes}


def workload_sizes_with_four_heads(batch: int, length: int) -> dict[str, int]:
  """Returns a dict of benchmark sizes with 4 attention heads of width 32."""
  return workload_sizes(batch, length, heads=4, head_width=32)


KERNEL = {'width': 128, 'kernel': 3, 'dilation': 4}
LOOP_OF_STEPS = {'steps': 8}
# Sizes of the small language models of the preset `quick`.
MODELS = {
  'decoder': {'width': 128, 'depth': 2, 'heads': 4},
  'lstm_model': {'width': 128, 'depth': 2},
  'mamba2_model': {'width': 128, 'depth': 2, 'heads': 4, 'state_size': 64},
}
# Other implementations in JAX are limited in the gradient, which dominates the cost of training.
WITH_GRADIENT = ('gradient', 'steps')

PRESETS = {
  # This preset runs all code paths of the `paper` preset at the smallest sizes.
  'smoke': SpeedPreset(
    comparisons=(
      Comparison('lstm', workload_sizes(2, 6, width=4), {FLAX_LSTM: Target(1.0, 0.7)}),
      Comparison('lstm', workload_sizes(2, 6, width=4, steps=2)),
      Comparison('gru', workload_sizes(2, 6, width=4)),
      Comparison('gru', workload_sizes(2, 6, width=4, steps=2)),
      Comparison('attention', workload_sizes(1, 8, heads=2, head_width=4)),
      Comparison('attention', workload_sizes(1, 16, heads=2, head_width=4)),
      Comparison('attention', workload_sizes(1, 32, heads=2, head_width=4), timed=False),
      Comparison('recurrence', workload_sizes(2, 8, width=4)),
      *(
        Comparison(benchmark, workload_sizes(2, 8, width=4, state_size=4, **steps))
        for benchmark in ('mamba', 's4d') for steps in ({}, {'steps': 2})
      ),
      # The chunked forms split 96 tokens into three chunks.
      Comparison('ssd', workload_sizes(1, 96, heads=2, head_width=4)),
      Comparison('gated_delta_rule', workload_sizes(1, 96, heads=2, head_width=4)),
      Comparison('convolution', workload_sizes(2, 8, width=4, kernel=2, dilation=2)),
      Comparison('convolution', workload_sizes(2, 8, width=4, kernel=2, dilation=2, steps=2)),
      Comparison('decoder', workload_sizes(2, 8, width=8, depth=1, heads=2)),
      Comparison('decoder', workload_sizes(2, 8, width=8, depth=1, heads=2, steps=2)),
      Comparison('lstm_model', workload_sizes(2, 8, width=8, depth=1, steps=2)),
      Comparison('mamba2_model', workload_sizes(
        2, 8, width=8, depth=1, heads=2, state_size=4, steps=2)),
      Comparison('generation', workload_sizes(
        2, 8, width=8, depth=1, heads=2, num_generated_tokens=3)),
    ),
    peak=(32, 64),
    settings={'steps': 2, 'seeds': (0,)},
  ),
  # This preset runs all comparisons in about four minutes on two CPU cores.
  'quick': SpeedPreset(
    comparisons=(
      *(
        Comparison('lstm', workload_sizes(batch, 128, width=128, **steps), {
          FLAX_LSTM: Target(*flax_limits, WITH_GRADIENT), TORCH_LSTM: Target(1.0, 0.8)})
        for batch, steps, flax_limits in (
          (8, {}, (0.7, 0.4)), (32, {}, (1.0, 0.7)), (32, LOOP_OF_STEPS, (1.0, 0.7)))
      ),
      *(
        Comparison('gru', workload_sizes(batch, 128, width=128, **steps), {
          TORCH_GRU: Target(1.0, 0.5)})
        for batch, steps in ((8, {}), (32, {}), (32, LOOP_OF_STEPS))
      ),
      *(
        Comparison('attention', workload_sizes_with_four_heads(8192 // length, length), {
          TORCH_ATTENTION: Target(1.0, 0.8), **others})
        for length, others in (
          (512, {}), (2048, {JAX_ATTENTION: Target(0.25, 0.12, WITH_GRADIENT)}))
      ),
      Comparison('attention', workload_sizes_with_four_heads(1, 8192), timed=False),
      Comparison('recurrence', workload_sizes(32, 256, width=128), {
        LOOP: Target(0.7, 0.3, WITH_GRADIENT)}),
      *(
        Comparison('mamba', workload_sizes(batch, length, width=64, state_size=16, **steps), {
          TORCH_MAMBA: Target(1.0, 0.5)})
        for batch, length, steps in ((8, 256, {}), (2, 1024, {}), (8, 256, LOOP_OF_STEPS))
      ),
      *(
        Comparison('s4d', workload_sizes(batch, length, width=64, state_size=64, **steps), {
          TORCH_S4D: Target(1.0, 0.5)})
        for batch, length, steps in ((8, 1024, {}), (2, 4096, {}), (8, 1024, LOOP_OF_STEPS))
      ),
      *(
        Comparison(benchmark, workload_sizes_with_four_heads(4096 // length, length), {
          RECURRENT: Target(*limits, WITH_GRADIENT), TORCH_CHUNKED: Target(1.0, 0.7)})
        for benchmark, limits in (('ssd', (0.3, 0.15)), ('gated_delta_rule', (0.6, 0.25)))
        for length in (256, 1024)
      ),
      *(
        Comparison('convolution', workload_sizes(32, 256, **KERNEL, **steps), {
          TORCH_CONVOLUTION: Target(1.0, 0.8)})
        for steps in ({}, LOOP_OF_STEPS)
      ),
      *(
        Comparison(model, workload_sizes(batch, 256, **sizes, **steps), {
          TORCH_TRAINING: Target(1.0, 0.75)})
        for model, sizes in MODELS.items()
        for batch, steps in ((8 if model == 'mamba2_model' else 32, {}), (8, LOOP_OF_STEPS))
      ),
      Comparison(
        'generation',
        workload_sizes(8, 256, width=64, depth=2, heads=4, num_generated_tokens=32),
        {NO_CACHE: Target(0.1, 0.05)}),
    ),
    peak=(1024, 2048),
    settings={'steps': 7, 'seeds': (0,)},
  ),
  # The sizes of this preset keep a GPU fully occupied.
  'paper': SpeedPreset(
    comparisons=(
      *(
        Comparison(benchmark, workload_sizes(batch, 512, width=1024, **steps))
        for benchmark in ('lstm', 'gru')
        for batch, steps in ((32, {}), (256, {}), (256, LOOP_OF_STEPS))
      ),
      *(
        Comparison('attention', workload_sizes(65536 // length, length, heads=16, head_width=64))
        for length in (512, 1024, 2048, 4096)
      ),
      Comparison('attention', workload_sizes(1, 32768, heads=16, head_width=64), timed=False),
      Comparison('recurrence', workload_sizes(64, 1024, width=1024)),
      *(
        Comparison(
          benchmark,
          workload_sizes(tokens // length, length, width=512, state_size=size, **steps))
        for benchmark, tokens, size in (('mamba', 16384, 16), ('s4d', 65536, 64))
        for length, steps in ((1024, {}), (4096, {}), (1024, LOOP_OF_STEPS))
      ),
      *(
        Comparison(benchmark, workload_sizes(65536 // length, length, heads=16, head_width=64))
        for benchmark in ('ssd', 'gated_delta_rule') for length in (256, 1024, 4096)
      ),
      *(
        Comparison(
          'convolution', workload_sizes(64, 1024, width=1024, kernel=3, dilation=4, **steps))
        for steps in ({}, LOOP_OF_STEPS)
      ),
      *(
        Comparison(benchmark, workload_sizes(64, 512, width=512, depth=6, **sizes, **steps))
        for benchmark, sizes in (
          ('decoder', {'heads': 8}), ('lstm_model', {}),
          ('mamba2_model', {'heads': 8, 'state_size': 128}))
        for steps in ({}, LOOP_OF_STEPS)
      ),
      Comparison(
        'generation',
        workload_sizes(64, 512, width=512, depth=6, heads=8, num_generated_tokens=256)),
    ),
    peak=(2048, 4096, 8192),
    settings={'steps': 20, 'seeds': (0, 1, 2)},
  ),
}


def define_flags(presets) -> None:
  flags.define_study_flags(
    presets,
    steps_help='Timed rounds of a repetition; --seeds is the number of repetitions.',
    lengths_help='Not supported here, because each comparison fixes its sizes.',
  )
  absl_flags.DEFINE_string(
    'compare', None,
    f'Comparisons to run, separated by commas: {", ".join(TITLES)}. Default: all.',
  )


PRESET_COMPARISONS = tuple(
  comparison for preset in PRESETS.values() for comparison in preset.comparisons)
STUDY = Study(
  'speed', __doc__, PRESETS, functools.partial(tables.report, PRESET_COMPARISONS),
  define_flags=define_flags, cells='experiments.speed.cells', kinds=(BENCHMARK_RECORD,),
)
