"""What programs for a TPU take: tables of training and of generation, and a panel."""

from experiments.compile_tpu import topologies
from experiments.lab.results.figures import Panel
from experiments.lab.results.statistics import Interval
from experiments.lab.results.table import Table

PAPERS = ('base', 'big')  # rows of Table 3, which bring their own sizes
STEPS = ('advance', 'step')  # programs that train
KIBI, MEBI, GIBI, GIGA = 2**10, 2**20, 2**30, 1e9


def report(records: list[dict]) -> tuple[list, list]:
  """Of every topology and setting: tables of training and of generation, and what a step takes."""
  settings = {}
  for record in records:
    settings.setdefault(setting(record['run']), []).append(record)
  tables = [make(*group) for group in settings.items() for make in (training, generation)]
  return tables, [panel for group in settings.items() for panel in panels(*group)]


def setting(run: dict) -> str:
  """What the programs of a table have in common."""
  chips = f'{run["topology"]} with {topologies.memory(run["topology"]) // GIBI} GiB a chip'
  sizes = '' if run['layer'] in PAPERS else f'width {run["width"]}, depth {run["depth"]}, '
  return f'{chips}, {sizes}{run["batch_size"]} of {run["task"]} in {run["dtype"]}'


def training(where: str, records: list[dict]):
  """The table of training."""
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
  """The collective operations of a program: how many of each kind, and the bytes of a chip."""
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
  series = {
    record['run']['layer']: [(memory, Interval.bare(record['seconds']))]
    for record in records if (memory := held(program(record, 'shared', *STEPS)))
  }
  if not series:
    return []
  topology = records[0]['run']['topology']
  axes = 'MiB of a chip, training with the batch shared', 'seconds to compile'
  return [Panel(f'Programs for {topology}', *axes, series, log_x=True, log_y=True)]
