"""Experiment grid of the TPU compilation study, with one grid cell per model and topology."""

from baselines import LAYERS
from experiments.compile_tpu import programs, topologies
from experiments.compile_tpu.study import CompilationPreset
from experiments.compile_tpu.tables import PAPERS
from experiments.lab.cells import checks, environment, spec
from experiments.lab.cells.cell import Cell
from experiments.lab.cells.experiment import Experiment
from experiments.lab.errors import BadInput
from experiments.lab.launch import flags
from experiments.lab.launch.grid import Job
from experiments.lab.launch.study import Study

UNUSED = (
  'seeds', 'learning_rates', 'test_lengths', 'host_devices', 'timeout',
  'beam', 'length_penalty',
)
# A row of Table 3 of "Attention Is All You Need" fixes these settings, so no flag changes them.
FIXED_BY_TABLE_3 = (
  'lengths', 'width', 'depth', 'feedforward', 'expansion', 'block', 'dropout', 'match')
# Vocabulary and tokens per batch (24 576) approximate section 5.1 of "Attention Is All You Need".
# The copy task has the same array shapes as translation but does not require a corpus.
TRANSLATION = {
  'task': 'copy(max_length=127, min_length=127, alphabet_size=36997)', 'batch_size': 192,
  'dtype': 'bfloat16', 'optimizer': 'adam', 'beta2': 0.98, 'schedule': 'inverse_sqrt',
  'label_smoothing': 0.1,
}


def jobs(study: Study, preset: CompilationPreset) -> list[Job]:
  """Returns the job that compiles the requested models for the requested topologies."""
  workers = environment.degree_of_parallelism(flags.FLAGS.workers)
  cells = create_compilation_grid_cells(study.name, preset)
  return [Job(cells, programs.compile_model_for_topology, workers)]


def create_compilation_grid_cells(study: str, preset: CompilationPreset) -> list[Cell]:
  """Creates a grid cell for every requested model and topology.

  Raises a BadInput if a flag was set that has no effect in this study.
  """
  cells = []
  selected, experiments = requested_topologies(preset), requested_experiments(preset)
  for name in UNUSED:
    if flags.flag_was_set(name):
      raise BadInput(f'--{name} has no effect here, because programs are compiled but not executed')
  flags.reject_flags_without_effect([
    checks.settings_without_effect(experiment.run, experiment.task) for experiment in experiments])
  for topology in selected:
    for experiment in experiments:
      programs.check_compilable(experiment, topology)
      identity = experiment.run.to_json_values() | {
        'topology': topology, 'parallel': flags.FLAGS.parallel}
      cells.append(Cell(study, identity, f'{experiment.run.layer} on {topology}'))
  return cells


def requested_topologies(preset: CompilationPreset) -> list[str]:
  """Returns the topologies of the flag --topology, or of the preset if the flag is not set."""
  names = flags.FLAGS.topology.split(',') if flags.flag_was_set('topology') else preset.topologies
  for name in names:
    topologies.tpu_generation(name)
  return list(dict.fromkeys(names))


def requested_experiments(preset: CompilationPreset) -> list[Experiment]:
  """Creates one experiment per requested layer and length, and per model of Vaswani 2017.

  The models of Vaswani 2017 are 'base' and 'big' of Table 3, if they are requested.
  """
  layers, papers = preset.layers or tuple(LAYERS), preset.papers
  if flags.flag_was_set('layers'):
    names = spec.split_specs(flags.FLAGS.layers)
    layers, papers = (
      [name for name in names if (name in PAPERS) == is_paper] for is_paper in (False, True))
  command_settings = flags.requested_settings()
  if papers and not layers:
    for name in FIXED_BY_TABLE_3:
      if flags.flag_was_set(name):
        raise BadInput(f'--{name} has no effect here: {" and ".join(papers)} fix its value')
  paper_settings = {
    name: value for name, value in command_settings.items() if name not in FIXED_BY_TABLE_3}
  settings = [
    preset.settings | command_settings | {'layer': layer, 'task': f'text(length={length})'}
    for length in flags.requested_lengths() or preset.lengths
    for layer in spec.remove_default_options_from_specs(layers, 'layer')
  ] + [TRANSLATION | paper_settings | {'layer': paper} for paper in papers]
  return [programs.experiment_of_run(flags.create_run(values)) for values in settings]
