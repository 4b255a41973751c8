"""The cells of the study: every model on every topology."""

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
# What the rows of Table 3 bring themselves.
OF_PAPERS = (
  'lengths', 'width', 'depth', 'feedforward', 'expansion', 'block', 'dropout', 'match')
# 24 576 tokens, which is about what section 5.1 of the paper has in a batch, out of its vocabulary.
# What is translated moves no shape, and the shapes of a copy are known without a corpus.
TRANSLATION = {
  'task': 'copy(max_length=127, min_length=127, alphabet_size=36997)', 'batch_size': 192,
  'dtype': 'bfloat16', 'optimizer': 'adam', 'beta2': 0.98, 'schedule': 'inverse_sqrt',
  'label_smoothing': 0.1,
}


def jobs(study: Study, preset: CompilationPreset) -> list[Job]:
  """The cells that the flags ask for."""
  workers = environment.one_a_core(flags.FLAGS.workers)
  return [Job(grid(study.name, preset), programs.compile_cell, workers)]


def grid(study: str, preset: CompilationPreset) -> list[Cell]:
  """The cells that the flags ask for: every model on every topology."""
  cells = []
  where, experiments = asked_topologies(preset), runs(preset)
  for name in UNUSED:
    if flags.given(name):
      raise BadInput(f'--{name} means nothing here: programs are compiled, and none is run')
  flags.refuse_unused([checks.without_effect(one.run, one.task) for one in experiments])
  for topology in where:
    for one in experiments:
      programs.check(one, topology)
      identity = one.run.identity() | {'topology': topology, 'parallel': flags.FLAGS.parallel}
      cells.append(Cell(study, identity, f'{one.run.layer} on {topology}'))
  return cells


def asked_topologies(preset: CompilationPreset) -> list[str]:
  """The topologies that the flags ask for, each once, and each known."""
  asked = flags.FLAGS.topology.split(',') if flags.given('topology') else preset.topologies
  for name in asked:
    topologies.check(name)
  return list(dict.fromkeys(asked))


def runs(preset: CompilationPreset) -> list[Experiment]:
  """An experiment for each layer at each length, and one for each of the paper's models."""
  layers, papers = preset.layers or tuple(LAYERS), preset.papers
  if flags.given('layers'):
    named = spec.split(flags.FLAGS.layers)
    layers, papers = ([n for n in named if (n in PAPERS) == paper] for paper in (False, True))
  own = flags.settings()
  if papers and not layers:
    for name in OF_PAPERS:
      if flags.given(name):
        raise BadInput(f'--{name} changes nothing here: {" and ".join(papers)} have their own')
  of_papers = {name: value for name, value in own.items() if name not in OF_PAPERS}
  settings = [
    preset.settings | own | {'layer': layer, 'task': f'text(length={length})'}
    for length in flags.lengths() or preset.lengths
    for layer in spec.canonical(layers, 'layer')
  ] + [TRANSLATION | of_papers | {'layer': paper} for paper in papers]
  return [programs.resolved(flags.make_run(**values)) for values in settings]
