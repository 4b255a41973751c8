"""Tables of memory use and collective operations on a TPU, and a figure of compilation times."""

from experiments.compile_tpu import topologies
from experiments.lab.results.figures import Panel
from experiments.lab.results.statistics import Interval
from experiments.lab.results.table import Table

PAPERS = ('base', 'big')  # rows of Table 3, which fix their own sizes
STEPS = ('advance', 'step')  # names of the programs that train
KIBI, MEBI, GIBI, GIGA = 2**10, 2**20, 2**30, 1e9


def report(records: list[dict]) -> tuple[list, list]:
  """Returns, per topology and setting, a training table, a generation table and a figure panel."""
  groups = {}
  for record in records:
    groups.setdefault(format_run_settings_as_title(record['run']), []).append(record)
  tables = [
    make_table(*group) for group in groups.items()
    for make_table in (training_table, token_generation_table)]
  return tables, [panel for _, group in groups.items() for panel in compile_time_panels(group)]


def format_run_settings_as_title(run: dict) -> str:
  """Returns a title with the settings that all models of a table share."""
  gibibytes = topologies.chip_memory_in_bytes(run['topology']) // GIBI
  sizes = '' if run['layer'] in PAPERS else f'width {run["width"]}, depth {run["depth"]}, '
  return (
    f'{run["topology"]} with {gibibytes} GiB per chip, {sizes}batch of {run["batch_size"]}, '
    f'task {run["task"]}, {run["dtype"]}')


def training_table(title: str, records: list[dict]):
  """Makes the table of memory use and collective operations during training, by model."""
  rows = []
  for record in records:
    shared, ensemble = (
      compilation_result_of_program(record, part, *STEPS) for part in ('shared', 'ensemble'))
    rows.append((
      record['run']['layer'],
      argument_and_temporary_memory_in_mebibytes(shared), describe_collectives(shared),
      argument_and_temporary_memory_in_mebibytes(ensemble), describe_collectives(ensemble),
      program_operations_in_billions(record, 'train'), shared.get('kernels'),
      compilation_status_text(record),
    ))
  return Table(
    f'Training on {title}',
    ('model', 'MiB, batch shared', 'collectives, batch shared', 'MiB, one model per chip',
     'collectives, one model per chip', '10^9 operations', 'Pallas kernels', 'compiles and fits'),
    rows,
    'Either all chips share each batch of one model, or each chip trains its own model. MiB is the '
    'memory per chip that the compiler plans for arguments and temporary values. Collectives are '
    'the collective operations of one training step, counted in the compiled program. Operations '
    'are those of a training step of one model on a full batch. They are counted in the '
    'implementation forms that accelerators run, except that attention is counted without Pallas '
    'kernels. Translators are compiled only with shared batches.',
  )


def token_generation_table(title: str, records: list[dict]):
  """Makes the table of memory use and collective operations during token generation, by model."""
  rows = []
  for record in records:
    prompt, token = (
      compilation_result_of_program(record, 'generate', name) for name in ('prompt', 'token'))
    rows.append((
      record['run']['layer'],
      argument_and_temporary_memory_in_mebibytes(prompt),
      argument_and_temporary_memory_in_mebibytes(token),
      describe_collectives(token), program_operations_in_billions(record, 'prompt'),
      program_operations_in_billions(record, 'token'),
      record['seconds'],
    ))
  return Table(
    f'Generation on {title}',
    ('model', 'MiB, prompt', 'MiB, token', 'collectives, token', '10^9 operations, prompt',
     '10^9 operations, token', 'seconds to compile'),
    rows,
    'The prompt consists of all tokens of a sequence except the last, and the token is the last '
    'token. The sequences of a batch are split over the chips. The seconds are the time to trace '
    'and compile all programs of both tables in sequence on the compiling machine. With several '
    'workers, other models are compiled at the same time.',
  )


def compilation_result_of_program(
  record: dict, execution_mode: str, *program_names: str
) -> dict:
  """Returns the recorded compilation result of a program, or an empty dict if there is none.

  Args:
    record: Record of a model and a topology.
    execution_mode: Mode of the program, which is 'shared' if all chips share each training batch,
      'ensemble' if each chip trains its own model, or 'generate'.
    *program_names: Accepted names of the program, such as 'advance' or 'token'.

  Returns:
    The entry of the first program with one of the names.

  """
  programs = record['result'].get('programs', ())
  return next(
    (
      program for program in programs
      if program['part'] == execution_mode and program['name'] in program_names
    ),
    {},
  )


def argument_and_temporary_memory_in_mebibytes(program: dict) -> float | None:
  """Returns the sum of the argument and temporary memory of a program in MiB per chip."""
  if program.get('temporary') is None:
    return None
  return (program['arguments'] + program['temporary']) / MEBI


def describe_collectives(program: dict) -> str | None:
  """Lists the collective operations of a program by kind, with their bytes per chip."""
  if program.get('temporary') is None:
    return None
  descriptions = (f'{count} {kind}, {size / KIBI:.1f} KiB'
                  for kind, (count, size) in program['collectives'].items())
  return '; '.join(descriptions) or 'none'


def program_operations_in_billions(record: dict, program_name: str) -> float | None:
  """Returns the billions of operations that a program executes per batch, or None if uncounted."""
  return record['result']['operations'][program_name] / GIGA if record['result'] else None


def compilation_status_text(record: dict) -> str:
  """Returns 'yes' if all programs of a model compile and fit, or else the reason for failure."""
  return 'yes' if record['status'] == 'finished' else f'{record["status"]}: {record["reason"]}'


def compile_time_panels(records: list[dict]) -> list:
  """Makes a figure panel of compilation time against training memory, one point per model."""
  series = {
    record['run']['layer']: [(mebibytes, Interval.without_confidence_bounds(record['seconds']))]
    for record in records
    if (mebibytes := argument_and_temporary_memory_in_mebibytes(
      compilation_result_of_program(record, 'shared', *STEPS)))
  }
  if not series:
    return []
  topology = records[0]['run']['topology']
  axes = 'MiB per chip, training with the batch shared', 'seconds to compile'
  return [Panel(f'Programs for {topology}', *axes, series, log_x=True, log_y=True)]
