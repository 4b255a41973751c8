"""Will it start on a TPU? Every layer's programs, compiled for chips that are not here.

  python -m experiments.compile_tpu --topology=v5e:4x4,v6e:4x4 --layers=attention,lstm,base

A launch on a pod or in a Colab is first of all a compilation: this is where it fails, for want of
memory or of an operation. The compiler needs no chip. So any machine can try: training with batches
that chips share and with a member a chip, reading a prompt, writing a token; of every layer, and of
the 2017 paper's base and big (experiments/compile_tpu/programs.py). The tables show
the memory that the compiler plans to use on a chip, the collective operations of each program, and
the operations of a step, which we count.
"""

import dataclasses
from typing import Any

from absl import flags as absl_flags

from experiments.compile_tpu.claims import CLAIMS, CONTROLS
from experiments.compile_tpu.records import AHEAD
from experiments.compile_tpu.tables import PAPERS, report
from experiments.lab.launch import flags
from experiments.lab.launch.study import Study


@dataclasses.dataclass(frozen=True)
class CompilationPreset:
  """Topologies, lengths of sequences, the layers' settings; the layers, of which none means all."""

  topologies: tuple[str, ...]
  lengths: tuple[int, ...]
  settings: dict[str, Any]
  layers: tuple[str, ...] = ()
  papers: tuple[str, ...] = ()


PRESETS = {
  # Every line that `paper` goes through, in the least time; 128 is what a Pallas kernel takes.
  'smoke': CompilationPreset(
    topologies=('v5e:2x2',), lengths=(128,), layers=('attention(num_heads=2)', 'lstm'),
    settings={'width': 16, 'depth': 1, 'batch_size': 4, 'steps': 2},
  ),
  # All of the catalogue, at sizes for two CPU cores: less than four minutes a topology.
  'quick': CompilationPreset(
    topologies=('v5e:4x4', 'v6e:4x4'), lengths=(128,),
    settings={'width': 64, 'depth': 1, 'batch_size': 16, 'match': 'none'},
  ),
  # The sizes of the other studies' paper presets, and the paper's own models, of which each takes
  # minutes a topology.
  'paper': CompilationPreset(
    topologies=('v5e:4x4', 'v6e:4x4', 'v5p:2x2x4'), lengths=(1024,), papers=PAPERS,
    settings={
      'width': 256, 'depth': 4, 'feedforward': 'gelu', 'expansion': 4.0, 'batch_size': 64,
      'dtype': 'bfloat16',
    },
  ),
}


def define(presets) -> None:
  """The study's flags."""
  flags.define_study(
    presets,
    steps='Training steps that a launch would have.',
    lengths="Lengths of sequences, instead of the preset's.",
  )
  flags.define_workers()
  absl_flags.DEFINE_string(
    'topology', None,
    'TPUs to compile for, separated by commas, such as v5e:4x4,v6e:2x2. '
    f'{flags.of_presets(presets, "topologies")}',
  )


STUDY = Study(
  'compile_tpu', __doc__, PRESETS, report, CLAIMS, CONTROLS, define,
  cells='experiments.compile_tpu.cells', kinds=(AHEAD,), caches=False, devices=1,
)
