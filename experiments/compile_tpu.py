"""Will it start on a TPU? Every layer's programs, compiled for chips that are not here.

  python -m experiments.compile_tpu --topology=v5e:4x4,v6e:4x4 --layers=attention,lstm,base

A launch on a pod or in a Colab is first of all a compilation: this is where it fails, for want of
memory or of an operation. The compiler needs no chip. So any machine can try: training with batches
that chips share and with a member a chip, reading a prompt, writing a token; of every layer, and of
the 2017 paper's base and big (experiments/launch/ahead.py). Shown are what the compiler plans to
hold on a chip, what chips say to each other, and how many operations a step has, which we count.
"""

import dataclasses
from typing import Any

from absl import flags as absl_flags

from experiments.launch import flags

STUDY = 'compile_tpu'
PAPERS = ('base', 'big')  # rows of Table 3, which bring their own sizes
UNUSED = ('seeds', 'learning_rates', 'test_lengths', 'host_devices', 'timeout')
STEPS = ('advance', 'step')  # programs that train
KIBI, MEBI, GIBI, GIGA = 2**10, 2**20, 2**30, 1e9


@dataclasses.dataclass(frozen=True)
class Preset:
  """Topologies, lengths of sequences, the layers' settings; the layers, of which none means all."""

  topologies: tuple[str, ...]
  lengths: tuple[int, ...]
  settings: dict[str, Any]
  layers: tuple[str, ...] = ()
  papers: tuple[str, ...] = ()


PRESETS = {
  # Every line that `paper` goes through, in the least time; 128 is what a Pallas kernel takes.
  'smoke': Preset(
    topologies=('v5e:2x2',), lengths=(128,), layers=('attention(num_heads=2)', 'lstm'),
    settings={'width': 16, 'depth': 1, 'batch_size': 4, 'steps': 2},
  ),
  # All of the catalogue, at sizes for two CPU cores: less than four minutes a topology.
  'quick': Preset(
    topologies=('v5e:4x4', 'v6e:4x4'), lengths=(128,),
    settings={'width': 64, 'depth': 1, 'batch_size': 16, 'match': 'none'},
  ),
  # The sizes of the other studies' paper presets, and the paper's own models, of which each takes
  # minutes a topology.
  'paper': Preset(
    topologies=('v5e:4x4', 'v6e:4x4', 'v5p:2x2x4'), lengths=(1024,), papers=PAPERS,
    settings={
      'width': 256, 'depth': 4, 'feedforward': 'gelu', 'expansion': 4.0, 'batch_size': 64,
      'dtype': 'bfloat16',
    },
  ),
}
# 24 576 tokens, which is about what section 5.1 of the paper has in a batch, out of its vocabulary.
# What is translated moves no shape, and the shapes of a copy are known without a corpus.
TRANSLATION = {
  'task': 'copy(max_length=127, min_length=127, alphabet_size=36997)', 'batch_size': 192,
  'dtype': 'bfloat16', 'optimizer': 'adam', 'beta2': 0.98, 'schedule': 'inverse_sqrt',
  'label_smoothing': 0.1,
}


def define() -> None:
  """The study's flags."""
  flags.define_study(
    PRESETS,
    steps='Training steps that a launch would have.',
    lengths="Lengths of sequences, instead of the preset's.",
  )
  flags.define_workers()
  absl_flags.DEFINE_string(
    'topology', None,
    "TPUs to compile for, separated by commas, such as v5e:4x4,v6e:2x2. Default: the preset's.",
  )


def grid() -> list:
  """The cells that the flags ask for: every model on every topology."""
  from experiments.launch import ahead
  from experiments.launch.errors import BadInput
  from experiments.launch.grid import Cell

  preset, cells = flags.preset(PRESETS), []
  asked = [(topology, run) for topology in topologies(preset) for run in runs(preset)]
  for name in UNUSED:
    if flags.given(name):
      raise BadInput(f'--{name} means nothing here: programs are compiled, and none is run')
  for topology, run in asked:
    ahead.check(run, topology)
    identity = run.identity() | {'topology': topology, 'parallel': flags.FLAGS.parallel}
    cells.append(Cell(STUDY, identity, f'{run.layer} on {topology}'))
  return cells


def topologies(preset: Preset) -> list[str]:
  """The topologies that the flags ask for, each once, and each known."""
  from experiments.launch.topologies import check

  asked = flags.FLAGS.topology.split(',') if flags.given('topology') else preset.topologies
  for name in asked:
    check(name)
  return list(dict.fromkeys(asked))


def runs(preset: Preset) -> list:
  """A run for each layer at each length, and one for each of the paper's models."""
  from baselines import LAYERS
  from experiments.launch import spec

  layers, papers = preset.layers or tuple(LAYERS), preset.papers
  if flags.given('layers'):
    named = spec.split(flags.FLAGS.layers)
    layers, papers = ([n for n in named if (n in PAPERS) == paper] for paper in (False, True))
  own = flags.settings()
  return [
    flags.make_run(**preset.settings | own | {'layer': layer, 'task': f'text(length={length})'})
    for length in flags.lengths() or preset.lengths
    for layer in spec.canonical(layers, 'layer')
  ] + [flags.make_run(**TRANSLATION | own | {'layer': paper}) for paper in papers]


def report(records: list[dict]) -> tuple[list, list]:
  """Of every topology and setting: tables of training and of generation, and what a step takes."""
  settings = {}
  for record in records:
    settings.setdefault(setting(record['run']), []).append(record)
  tables = [make(*group) for group in settings.items() for make in (training, generation)]
  return tables, [panel for group in settings.items() for panel in panels(*group)]


def setting(run: dict) -> str:
  """What the programs of a table have in common."""
  from experiments.launch import topologies

  chips = f'{run["topology"]} with {topologies.memory(run["topology"]) // GIBI} GiB a chip'
  sizes = '' if run['layer'] in PAPERS else f'width {run["width"]}, depth {run["depth"]}, '
  return f'{chips}, {sizes}{run["batch_size"]} of {run["task"]} in {run["dtype"]}'


def training(where: str, records: list[dict]):
  """The table of training."""
  from experiments.results.table import Table

  rows = []
  for record in records:
    shared, ensemble = (program(record, part, *STEPS) for part in ('shared', 'ensemble'))
    rows.append((
      record['run']['layer'], held(shared), exchanged(shared), held(ensemble), exchanged(ensemble),
      operations(record, 'train'), shared.get('kernels'), verdict(record),
    ))
  return Table(
    f'Training on {where}',
    ('model', 'MiB, batch shared', 'chips exchange', 'MiB, a member a chip', 'exchange',
     '10^9 operations', 'Pallas kernels', 'compiles and fits'),
    rows,
    'MiB of a chip: arguments and temporary memory as the compiler plans them. Exchanges are those '
    'of one step, counted in the compiled program. Operations are those of a whole batch of one '
    'member, counted by us in the forms that are compiled, but for attention\'s kernels: it is '
    'counted as it is computed without them. A translator has no members side by side.',
  )


def generation(where: str, records: list[dict]):
  """The table of generation."""
  from experiments.results.table import Table

  rows = []
  for record in records:
    prompt, token = (program(record, 'generate', name) for name in ('prompt', 'token'))
    rows.append((
      record['run']['layer'], held(prompt), held(token), exchanged(token),
      operations(record, 'prompt'), operations(record, 'token'), record['seconds'],
    ))
  return Table(
    f'Generation on {where}',
    ('model', 'MiB, prompt', 'MiB, token', 'chips exchange', '10^9 operations, prompt',
     '10^9 operations, token', 'seconds'),
    rows,
    'A prompt is all that a sequence has but its last token, which is the token: of as many '
    'sequences as a batch has, shared by the chips. Seconds are those in which all programs of '
    'both tables were traced and compiled, one after another, on the machine that did it, with '
    'those of other models beside them where there were several workers.',
  )


def program(record: dict, part: str, *names: str) -> dict:
  """What became of a cell's program; nothing is known of one that was not lowered."""
  found = record['result'].get('programs', ())
  return next((one for one in found if one['part'] == part and one['name'] in names), {})


def held(program: dict) -> float | None:
  """MiB of a chip: a program's arguments and what it needs beside them."""
  if program.get('temporary') is None:
    return None
  return (program['arguments'] + program['temporary']) / MEBI


def exchanged(program: dict) -> str | None:
  """What chips say to each other: how often, and how much each has in the end."""
  if program.get('temporary') is None:
    return None
  said = (f'{count} {kind}, {size / KIBI:.1f} KiB'
          for kind, (count, size) in program['collectives'].items())
  return '; '.join(said) or 'nothing'


def operations(record: dict, name: str) -> float | None:
  """Of a whole batch, in units of 10^9."""
  return record['result']['operations'][name] / GIGA if record['result'] else None


def verdict(record: dict) -> str:
  """Whether all programs of a cell compile; else which is the first that does not, and why."""
  return 'yes' if record['status'] == 'finished' else f'{record["status"]}: {record["reason"]}'


def panels(where: str, records: list[dict]) -> list:
  """Seconds to compile against the memory of a training step, a point a model."""
  from experiments.results.figures import Panel
  from experiments.results.statistics import Interval

  series = {
    record['run']['layer']: [(memory, Interval.bare(record['seconds']))]
    for record in records if (memory := held(program(record, 'shared', *STEPS)))
  }
  if not series:
    return []
  topology = records[0]['run']['topology']
  axes = 'MiB of a chip, training with the batch shared', 'seconds to compile'
  return [Panel(f'Programs for {topology}', *axes, series, log_x=True, log_y=True)]


def main() -> None:
  """Compiles what the store lacks, prints the tables and saves them with their figure."""
  from experiments.launch import topologies

  topologies.prepare()
  from experiments.launch import ahead, environment
  from experiments.launch import grid as grids
  from experiments.results import publish
  from experiments.results.store import Store

  environment.prepare(1, '')  # --cache is of no use: no program is run, and none is for here
  records = grids.launch(
    grid(), ahead.execute, Store(flags.FLAGS.runs), flags.FLAGS.retry,
    environment.one_a_core(flags.FLAGS.workers),
  )
  publish.study(STUDY, *report(records), flags.FLAGS.runs)


if __name__ == '__main__':
  flags.main(main, define, __doc__)
