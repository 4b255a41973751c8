"""Do the models compile for a TPU and fit into its memory? The compilation needs no TPU.

  python -m experiments.compile_tpu --topology=v5e:4x4,v6e:4x4 --layers=attention,lstm,base

A launch on a TPU pod or in a Colab begins with a compilation, which fails if the programs need too
much memory or an unsupported operation. The compiler needs no TPU, so any machine can test it. The
study compiles training with batches shared by all chips and with one model per chip, the encoding
of a prompt, and the generation of a token, for every layer and for the models base and big of
"Attention Is All You Need" (experiments/compile_tpu/programs.py). The tables show the memory per
chip that the compiler plans, the collective operations of each program, and the operations of a
step, counted from the jaxpr.
"""

import dataclasses
from typing import Any

from absl import flags as absl_flags

from experiments.compile_tpu.claims import CLAIMS, CONTROLS
from experiments.compile_tpu.records import AOT_PROGRAMS
from experiments.compile_tpu.tables import PAPERS, report
from experiments.lab.launch import flags
from experiments.lab.launch.study import Study


@dataclasses.dataclass(frozen=True)
class CompilationPreset:
  """Topologies, models, sequence lengths and run settings of a preset."""

  topologies: tuple[str, ...]
  lengths: tuple[int, ...]
  settings: dict[str, Any]
  layers: tuple[str, ...] = ()  # all layers if empty
  papers: tuple[str, ...] = ()  # rows of Table 3 of "Attention Is All You Need"


PRESETS = {
  # This preset runs all code paths of the `paper` preset at the smallest sizes.
  # The Pallas attention kernel requires that the sequence length is a multiple of 128.
  'smoke': CompilationPreset(
    topologies=('v5e:2x2',), lengths=(128,), layers=('attention(num_heads=2)', 'lstm'),
    settings={'width': 16, 'depth': 1, 'batch_size': 4, 'steps': 2},
  ),
  # This preset compiles all layers at small sizes.
  # The compilation for one topology takes at most four minutes on two CPU cores.
  'quick': CompilationPreset(
    topologies=('v5e:4x4', 'v6e:4x4'), lengths=(128,),
    settings={'width': 64, 'depth': 1, 'batch_size': 16, 'match': 'none'},
  ),
  # The layers have the same sizes as in the `paper` presets of the other studies.
  # Compilation of Transformer base or big takes minutes per topology.
  'paper': CompilationPreset(
    topologies=('v5e:4x4', 'v6e:4x4', 'v5p:2x2x4'), lengths=(1024,), papers=PAPERS,
    settings={
      'width': 256, 'depth': 4, 'feedforward': 'gelu', 'expansion': 4.0, 'batch_size': 64,
      'dtype': 'bfloat16',
    },
  ),
}


def define_flags(presets) -> None:
  flags.define_study_flags(
    presets,
    steps_help='Number of training steps for which the training programs are compiled.',
    lengths_help="Sequence lengths, instead of the preset's.",
  )
  flags.define_workers_flag()
  absl_flags.DEFINE_string(
    'topology', None,
    'TPUs to compile for, separated by commas, such as v5e:4x4,v6e:2x2. '
    f'{flags.format_preset_values(presets, "topologies")}',
  )


STUDY = Study(
  'compile_tpu', __doc__, PRESETS, report, CLAIMS, CONTROLS, define_flags,
  cells='experiments.compile_tpu.cells', kinds=(AOT_PROGRAMS,), caches=False, devices=1,
)
