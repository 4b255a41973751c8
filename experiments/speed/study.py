"""Is it fast? Ratios of time: what the lab computes, against others' forms of the same.

  python -m experiments.speed --preset=quick --compare=lstm,attention --runs=runs/quick

Ours and theirs take turns in one process on one machine, after they were found to compute the same:
forward, and forward with the gradient of all that went in. Below 1, ours is the faster one. Theirs
are Flax's layers and `jax.nn` as their users take them, plain loops, and PyTorch where it is
installed (the extra `bench`) and runs on the device that JAX runs on. A CPU is one device to
PyTorch, which has its threads, and one a core to all that is written in JAX. Large matrix products
take turns with them all, so that a time is also a share of what this machine can do.

A cell is one repetition of one comparison. Finished cells are stored, and skipped next time; the
device is part of what a cell is stored under, and so is PyTorch's version.
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
from experiments.speed.records import CONTEST


@dataclasses.dataclass(frozen=True)
class SpeedPreset:
  """Comparisons, the sizes of the products that show the peak, rounds (`steps`) and seeds."""

  comparisons: tuple[Comparison, ...]
  peak: tuple[int, ...]
  settings: Mapping[str, Any]


FLAX_LSTM, TORCH_LSTM, TORCH_GRU = (
  'flax RNN(OptimizedLSTMCell)', 'torch.nn.LSTM', 'torch.nn.GRU')
TORCH_ATTENTION, JAX_ATTENTION = 'torch fused attention', 'jax.nn.dot_product_attention'
LOOP, RECURRENT = 'lax.scan, batch first', 'the recurrent form'
TORCH_CONVOLUTION, TORCH_DECODER = 'torch conv1d', 'torch eager, fused AdamW'
AGAIN = 'the whole prefix again'


def tokens(batch: int, length: int, **sizes: int) -> dict[str, int]:
  """Sizes of sequences."""
  return {'batch': batch, 'length': length, **sizes}


def heads(batch: int, length: int) -> dict[str, int]:
  """Sizes of sequences in heads."""
  return tokens(batch, length, heads=4, head_width=32)


KERNEL = {'width': 128, 'kernel': 3, 'dilation': 4}
DECODER = tokens(32, 256, width=128, depth=2, heads=4)

PRESETS = {
  # Every line that `paper` goes through, in the least time.
  'smoke': SpeedPreset(
    comparisons=(
      Comparison('lstm', tokens(2, 6, width=4), {FLAX_LSTM: Target(1.0, 0.7)}),
      Comparison('gru', tokens(2, 6, width=4)),
      Comparison('attention', tokens(1, 8, heads=2, head_width=4)),
      Comparison('attention', tokens(1, 16, heads=2, head_width=4)),
      Comparison('attention', tokens(1, 32, heads=2, head_width=4), timed=False),
      Comparison('recurrence', tokens(2, 8, width=4)),
      Comparison('ssd', tokens(1, 16, heads=2, head_width=4)),
      Comparison('gated_delta_rule', tokens(1, 16, heads=2, head_width=4)),
      Comparison('convolution', tokens(2, 8, width=4, kernel=2, dilation=2)),
      Comparison('convolution', tokens(2, 8, width=4, kernel=2, dilation=2, steps=2)),
      Comparison('decoder', tokens(2, 8, width=8, depth=1, heads=2)),
      Comparison('decoder', tokens(2, 8, width=8, depth=1, heads=2, steps=2)),
      Comparison('generation', tokens(2, 8, width=8, depth=1, heads=2, written=3)),
    ),
    peak=(32, 64),
    settings={'steps': 2, 'seeds': (0,)},
  ),
  # The whole story at sizes for two CPU cores: about three minutes.
  'quick': SpeedPreset(
    comparisons=(
      *(
        Comparison('lstm', tokens(batch, 128, width=128), {
          FLAX_LSTM: against_flax, TORCH_LSTM: Target(1.6, 1.2)})
        for batch, against_flax in ((8, Target(0.7, 0.4)), (32, Target(1.0, 0.7)))
      ),
      *(
        Comparison('gru', tokens(batch, 128, width=128), {TORCH_GRU: Target(0.6, 0.3)})
        for batch in (8, 32)
      ),
      *(
        Comparison('attention', heads(8192 // length, length), {
          TORCH_ATTENTION: Target(1.1, 0.8), **others})
        for length, others in (
          (512, {}), (1024, {}), (2048, {JAX_ATTENTION: Target(0.25, 0.12)}))
      ),
      Comparison('attention', heads(1, 8192), timed=False),
      Comparison('recurrence', tokens(32, 256, width=128), {LOOP: Target(0.7, 0.3)}),
      *(
        Comparison(what, heads(4096 // length, length), {RECURRENT: target})
        for what, target in (('ssd', Target(0.3, 0.15)), ('gated_delta_rule', Target(0.6, 0.25)))
        for length in (256, 1024)
      ),
      Comparison('convolution', tokens(32, 256, **KERNEL), {TORCH_CONVOLUTION: Target(0.8, 0.6)}),
      Comparison('convolution', tokens(32, 256, **KERNEL, steps=8), {
        TORCH_CONVOLUTION: Target(1.4, 1.0)}),
      Comparison('decoder', DECODER, {TORCH_DECODER: Target(1.0, 0.75)}),
      Comparison('decoder', DECODER | {'steps': 8}, {TORCH_DECODER: Target(1.0, 0.75)}),
      Comparison('generation', tokens(8, 256, width=64, depth=2, heads=4, written=32), {
        AGAIN: Target(0.1, 0.05)}),
    ),
    peak=(1024, 2048),
    settings={'steps': 7, 'seeds': (0,)},
  ),
  # Sizes that fill a GPU.
  'paper': SpeedPreset(
    comparisons=(
      *(
        Comparison(what, tokens(batch, 512, width=1024))
        for what in ('lstm', 'gru') for batch in (32, 256)
      ),
      *(
        Comparison('attention', tokens(65536 // length, length, heads=16, head_width=64))
        for length in (512, 1024, 2048, 4096)
      ),
      Comparison('attention', tokens(1, 32768, heads=16, head_width=64), timed=False),
      Comparison('recurrence', tokens(64, 1024, width=1024)),
      *(
        Comparison(what, tokens(65536 // length, length, heads=16, head_width=64))
        for what in ('ssd', 'gated_delta_rule') for length in (256, 1024, 4096)
      ),
      Comparison('convolution', tokens(64, 1024, width=1024, kernel=3, dilation=4)),
      Comparison('convolution', tokens(64, 1024, width=1024, kernel=3, dilation=4, steps=8)),
      Comparison('decoder', tokens(64, 512, width=512, depth=6, heads=8)),
      Comparison('decoder', tokens(64, 512, width=512, depth=6, heads=8, steps=8)),
      Comparison('generation', tokens(64, 512, width=512, depth=6, heads=8, written=256)),
    ),
    peak=(2048, 4096, 8192),
    settings={'steps': 20, 'seeds': (0, 1, 2)},
  ),
}


def define(presets) -> None:
  """The study's flags."""
  flags.define_study(
    presets,
    steps='Timed rounds of a repetition; --seeds is how many repetitions there are.',
    lengths='Means nothing here: a comparison has its sizes.',
  )
  absl_flags.DEFINE_string(
    'compare', None,
    f'Comparisons to make, separated by commas: {", ".join(TITLES)}. Default: all.',
  )


STATED = tuple(one for preset in PRESETS.values() for one in preset.comparisons)
STUDY = Study(
  'speed', __doc__, PRESETS, functools.partial(tables.report, STATED), define=define,
  cells='experiments.speed.cells', kinds=(CONTEST,),
)
