"""What a study asks by training: tasks at distances, of every layer, as a grid of runs.

A question is a task at several distances with what its runs need to be otherwise; a preset is the
layers to ask, the questions, and the settings that all have in common. A command's own values win
over a question's, which win over the preset's.
"""

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.launch import flags

NEAR = 1000  # distances in which one that a task has is looked for


@dataclasses.dataclass(frozen=True)
class Question:
  """A task, the distances to ask it at, and what its runs need to be otherwise."""

  task: str
  distances: tuple[int, ...]
  settings: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Preset:
  """Layers (or translators), questions, and the settings of all their runs."""

  layers: tuple[str, ...]
  questions: tuple[Question, ...]
  settings: dict[str, Any]
  kind: str = 'layer'  # what answers: see `Task.answered_by`


def define(presets: Mapping[str, Preset]) -> None:
  """The flags of a study that trains."""
  flags.define_study(
    presets,
    steps='Training steps.',
    lengths="Distances to ask every task at, separated by commas, instead of the preset's.",
  )
  flags.define_training()


def grid(presets: Mapping[str, Preset]) -> list:
  """The runs that the flags ask for."""
  from experiments.launch import spec

  preset = flags.preset(presets)
  asked_of = flags.FLAGS.layers if flags.given('layers') else preset.layers
  layers = spec.canonical(asked_of, preset.kind)
  return list(dict.fromkeys(  # a task may be named twice; each of its runs is one cell
    flags.make_run(**preset.settings | question.settings | flags.settings()
                   | {'layer': layer, 'task': task})
    for question in wanted(preset)
    for task in distances(question)
    for layer in layers
  ))


def wanted(preset: Preset) -> list[Question]:
  """The preset's questions, or those of --tasks."""
  from experiments.launch import spec

  if not flags.given('tasks'):
    return list(preset.questions)
  return [q for text in spec.split(flags.FLAGS.tasks) for q in asked(text, preset.questions)]


def asked(text: str, questions) -> list[Question]:
  """The questions of a task: the preset's if it is only named, else as the spec says."""
  from experiments.launch import spec

  task = spec.parse(text, 'task')
  same = [q for q in questions if q.task.partition('(')[0] == text]
  others = next((q.settings for q in questions if q.task.partition('(')[0] == task.family), {})
  return same or [Question(text, (task.distance,), others)]


def distances(question: Question) -> list[str]:
  """The specs of a question's task at all its distances, or at those of --lengths."""
  from experiments.launch import spec

  task, wanted = spec.parse(question.task, 'task'), flags.lengths() or question.distances
  return [spec.describe(at(task, distance), 'task') for distance in wanted]


def at(task, distance: int):
  """A task at a distance; a BadInput that says at which distances near it the task can be."""
  from experiments.launch import spec
  from experiments.launch.errors import BadInput

  try:
    return task.at(distance)
  except ValueError as error:
    near = [f'{value}' for step in (-1, 1) if (value := nearest(task, distance, step))]
    hint = f'; the nearest lengths that it has are {" and ".join(near)}' if near else ''
    raise BadInput(
      f'--lengths={distance} does not suit {spec.describe(task, "task")}, which keeps its '
      f'proportions at every length: {error}{hint}'
    ) from None


def nearest(task, distance: int, step: int) -> int | None:
  """The first distance, in steps from one that it does not have, that a task has; None: none."""
  for value in range(max(1, distance + step), max(0, distance + NEAR * step), step):
    with contextlib.suppress(ValueError):
      return task.at(value).distance
  return None


def train(study: str, runs: list, watch=None) -> list[dict]:
  """The records of a study's runs; those that the store lacks are trained, under `watch`."""
  from experiments.launch import build, cell, environment
  from experiments.launch import grid as grids
  from experiments.results import translations
  from experiments.results.store import Store

  environment.prepare(flags.FLAGS.host_devices, flags.FLAGS.cache)
  for run in runs:
    build.check(run)
  if any(build.task_of(run).answered_by == 'translator' for run in runs):
    translations.ready()  # scores in words are computed after training, for the tables
  return grids.launch(
    [cell.cell_of(study, run) for run in runs],
    cell.execute(
      flags.FLAGS.parallel, flags.FLAGS.timeout, flags.FLAGS.runs, flags.FLAGS.save_weights,
      watch,
    ),
    Store(flags.FLAGS.runs),
    flags.FLAGS.retry,
  )
