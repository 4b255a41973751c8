"""A study as one value: its question, its presets, what it reports, and what is claimed of it.

Most studies train layers on tasks at distances. Of those a preset is the layers, the tasks with
their distances, and the settings that all runs have in common; a command's own values win over a
task's, which win over the preset's. A study that makes other cells names the module that does.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.lab.evidence.claim import Claim
from experiments.lab.launch import flags
from experiments.lab.results.figures import Panel
from experiments.lab.results.schema import Kind
from experiments.lab.results.table import Table
from experiments.lab.results.trained import TRAINING

# Settings of a preset that goes through every line in the least time, and settles nothing.
SMOKE = {
  'width': 8, 'depth': 1, 'steps': 4, 'batch_size': 8, 'validations': 2, 'validation_batches': 1,
  'test_batches': 1, 'seeds': (0, 1), 'learning_rates': (1e-3, 1e-2),
}


@dataclasses.dataclass(frozen=True)
class TaskGrid:
  """A task, the distances to ask it at, and what its runs need to be otherwise."""

  task: str
  distances: tuple[int, ...]
  settings: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Preset:
  """Layers (or translators), questions, and the settings of all their runs."""

  layers: tuple[str, ...]
  task_grids: tuple[TaskGrid, ...]
  settings: dict[str, Any]
  kind: str = 'layer'  # what answers: see `Task.answered_by`


def define_training(presets: Mapping[str, Any]) -> None:
  """The flags of a study that trains layers on tasks."""
  flags.define_study(
    presets,
    steps='Training steps.',
    lengths="Distances to ask every task at, separated by commas, instead of the preset's.",
  )
  flags.define_training()


@dataclasses.dataclass(frozen=True)
class Study:
  """A question, and all that it takes to answer it.

  Attributes:
    name: of the study, its command and its records.
    question: what it asks and how, in a line and in paragraphs.
    presets: sizes by name: `smoke`, `quick`, `paper`.
    report: makes tables and panels of the study's records.
    claims: what is claimed in advance.
    controls: what must hold for the claims to count.
    define: defines the study's flags, for its presets.
    cells: the module whose `jobs(study, preset)` are the grid; it is loaded when cells are made.
    kinds: what the study's records must have.
    caches: whether compiled programs are kept for the next launch.
    devices: into how many devices a CPU is split unless --host_devices says so; 0: one a core.

  """

  name: str
  question: str
  presets: Mapping[str, Any]
  report: Callable[[Sequence[dict]], tuple[list[Table], list[Panel]]]
  claims: tuple[Claim, ...] = ()
  controls: tuple[Claim, ...] = ()
  define: Callable[[Mapping[str, Any]], None] = define_training
  cells: str = 'experiments.lab.launch.training_grid'
  kinds: tuple[Kind, ...] = (TRAINING,)
  caches: bool = True
  devices: int = 0
