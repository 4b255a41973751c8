"""The `Study` type, which combines a research question with presets, a report and claims.

Most studies train layers on tasks at several distances. A preset of such a study contains the
layers, the tasks with their distances, and the settings that all runs share. Settings of the
command override those of a task, which override those of the preset. A study with other cells names
the module that creates them.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.lab.evidence.claim import Claim
from experiments.lab.launch import flags
from experiments.lab.results.figures import Panel
from experiments.lab.results.schema import RecordKind
from experiments.lab.results.table import Table
from experiments.lab.results.training_schema import TRAINING

# Minimal settings that test all code quickly, but whose results are not evidence.
SMOKE = {
  'width': 8, 'depth': 1, 'steps': 4, 'batch_size': 8, 'validations': 2, 'validation_batches': 1,
  'test_batches': 1, 'seeds': (0, 1), 'learning_rates': (1e-3, 1e-2),
}


@dataclasses.dataclass(frozen=True)
class TaskGrid:
  """A task with its dependency distances in tokens and the settings of its runs.

  Attributes:
    task: spec of the task.
    distances: numbers of tokens between the tokens that must be related; one run per distance.
    settings: settings that override those of the preset.

  """

  task: str
  distances: tuple[int, ...]
  settings: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Preset:
  """The layers and tasks of a preset, and the settings that all its runs share.

  Attributes:
    layers: specs of the layers or translators.
    task_grids: the tasks with their distances.
    settings: settings of a `Run` by name.
    kind: 'layer' or 'translator', the kind of model that the tasks require (`Task.model_kind`).

  """

  layers: tuple[str, ...]
  task_grids: tuple[TaskGrid, ...]
  settings: dict[str, Any]
  kind: str = 'layer'


def define_training_flags(presets: Mapping[str, Any]) -> None:
  """Defines the flags of a study that trains layers on tasks."""
  flags.define_study_flags(
    presets,
    steps_help='Number of training steps.',
    lengths_help='Distances of every task, in tokens and separated by commas, instead of those of '
                 'the preset.',
  )
  flags.define_task_flags()


@dataclasses.dataclass(frozen=True)
class Study:
  """A study of one research question, with its presets, its report and its claims.

  Attributes:
    name: name of the study, which its command and its records share.
    question: the question in one line, followed by paragraphs about the method.
    presets: sizes of the study by name, which are `smoke`, `quick` and `paper`.
    report: function that creates tables and figure panels from the study's records.
    claims: claims that were stated before the records were made.
    controls: conditions under which the claims are valid.
    define_flags: function that defines the study's flags for its presets.
    cells: name of the module whose function `jobs(study, preset)` creates the grid. It is imported
      when cells are created.
    kinds: schemas of the study's records.
    caches: whether compiled programs are kept for later commands.
    devices: number of devices into which a CPU is split unless --host_devices is set; 0 uses one
      per core.

  """

  name: str
  question: str
  presets: Mapping[str, Any]
  report: Callable[[Sequence[dict]], tuple[list[Table], list[Panel]]]
  claims: tuple[Claim, ...] = ()
  controls: tuple[Claim, ...] = ()
  define_flags: Callable[[Mapping[str, Any]], None] = define_training_flags
  cells: str = 'experiments.lab.launch.training_grid'
  kinds: tuple[RecordKind, ...] = (TRAINING,)
  caches: bool = True
  devices: int = 0
