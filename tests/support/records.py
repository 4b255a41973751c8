"""Records in the format of the studies, with values that a test chooses."""

from experiments.claims.current_records import KINDS
from experiments.lab import source
from experiments.lab.cells import models, spec
from experiments.lab.cells.run import Run
from experiments.lab.results.store import Store
from experiments.lab.tasks import TASKS
from experiments.speed import study as speed

RATE = 3e-3
SEEDS = 3
PERFECT_SCORES, POOR_SCORES = (1.0, 0.99, 1.0), (0.2, 0.3, 0.1)
GOOD_SCORES, CHANCE_SCORES = (0.9, 0.95, 0.9), (0.0, 0.01, 0.0)
GROWING_TIMES = {('attention', 'generate'), ('lstm', 'train'), ('gru', 'train')}
SHORT_DISTANCE, LONG_DISTANCE = 20, 40
UNCOVERED_DISTANCE = 90  # A TCN of two blocks has a receptive field of 57 tokens.
RUN_ENVIRONMENT = {'device': 'a device', 'versions': {'jax': '1'}, 'commit': 'abc', 'seconds': 1.5}


def store_records(folder, records):
  """Writes records of the present code to a store in a folder, and returns the store."""
  store = Store(folder, KINDS)
  for record in records:
    store.write(record)
  return store


def simulate_edits(monkeypatch, *modules):
  """Changes the fingerprints of modules as if they had been edited."""
  fingerprint = source.module_fingerprint
  monkeypatch.setattr(source, 'module_fingerprint', lambda module: (
    'f' * 12 if module in modules else fingerprint(module)))


def training_record(
  layer, family, distance, scores, controls=None, task=None, study='retention', extrapolation=(),
  **settings,
):
  """Returns the finished record of a trained cell with the given normalised scores.

  Args:
    layer: The spec of the layer.
    family: The name of the task.
    distance: The trained distance.
    scores: The score of each seed, between 0 for chance and 1 for the oracle.
    controls: Scores of the oracle and the baseline that replace 1 and 0.
    task: The task, by default that of the family.
    study: The name of the study.
    extrapolation: The scores of each seed by further distance, or those at twice the distance.
    **settings: Further settings of the run.

  Returns:
    The record.
  """
  if not isinstance(extrapolation, dict):
    extrapolation = {2 * distance: extrapolation} if extrapolation else {}
  task = (task or TASKS[family]()).with_dependency_distance(distance)
  run = Run(
    layer=layer, task=f'{family} at {distance}', seeds=tuple(range(len(scores))),
    learning_rates=(RATE,), **settings,
  )
  outputs = {}
  if task.model_kind == 'translator':
    outputs = translation_outputs(distance, extrapolation, len(scores))
  model = models.build_model(run, spec.parse_spec(layer, task.model_kind), task, run.width)
  span = task.metric.perfect - task.chance_level
  return {
    'study': study,
    'run': run.to_json_values(),
    'status': 'finished',
    'reason': '',
    'result': {
      'family': family,
      'title': task.title,
      'axis': task.axis,
      'distance': task.dependency_distance,
      'metric': task.metric.name,
      'perfect': task.metric.perfect,
      'chance': task.chance_level,
      'settings': {'length': distance},
      'digest': '',
      'controls': {'oracle': 1.0, 'baseline': 0.0} | (controls or {}),
      'receptive_field': model.receptive_field,
      'state_bytes': 1024,
      **outputs,
      'extrapolation': [
        {'distance': further, 'chance': task.chance_level} for further in extrapolation],
      'width': run.width,
      'parameters': 1000,
      'budget': 1000,
      'learning_rate': RATE,
      'members': [
        {
          'seed': seed, 'learning_rate': RATE, 'status': 'finished', 'steps': run.steps,
          'validation_loss': 1 - score,
          'extrapolation_loss': [1 - further[seed] for further in extrapolation.values()],
          'validation': task.chance_level + span * score, 'test': task.chance_level + span * score,
          'test_loss': 1 - score, 'curve': [[run.steps, 1 - score, score]],
          'extrapolation': [
            task.chance_level + span * further[seed] for further in extrapolation.values()],
        }
        for seed, score in enumerate(scores)
      ],
    },
    **RUN_ENVIRONMENT,
  }


def translation_outputs(distance, extrapolation, seeds):
  """Returns result fields of a translation model with one correct and one incorrect sentence."""
  parts = [
    {
      'distance': length, 'source_length': [length, length], 'source': ['1 2', '2 1'],
      'reference': ['a b c d e', 'e d c b a'], 'unigram_loss': 2.0, 'tokens': 5.0,
      'answers': {str(seed): ['a b c d e', 'a b c d e'] for seed in range(seeds)},
    }
    for length in (distance, *extrapolation)
  ]
  return {'written': parts, 'alignments': [], 'step_flops': 1000}


TIMED_QUANTITIES = ('train', 'forward', 'layer', 'layer_gradient', 'generate')


def timing_record(
  seed, layers, lengths, time_growth_with_length, repetition_factor=1.0, study='parallelism',
  **settings,
):
  """Returns the finished record of one repetition of a timing study.

  Args:
    seed: The seed of the repetition, which shifts all times slightly.
    layers: The layers.
    lengths: The lengths in ascending order.
    time_growth_with_length: A function of a layer and a quantity that returns the time per token
      at the last length divided by that at the first.
    repetition_factor: The time of the repeated step divided by that of the first.
    study: The name of the study.
    **settings: Further settings of the run.

  Returns:
    The record.
  """
  tokens = 2 * lengths[-1]

  def point(layer, length, quantity, factor):
    times = [1e-6 * tokens * factor * (1 + 0.01 * seed + 0.001 * i) for i in range(3)]
    return {
      'layer': layer, 'length': length, 'quantity': quantity, 'tokens': tokens,
      'status': 'finished', 'reason': '', 'bytes': 2**20, 'seconds': times,
      'operations': 1000 * tokens, 'compile_seconds': 1.0,
    }

  span = lengths[-1] - lengths[0]
  points = [
    point(layer, length, quantity,
          1 + (time_growth_with_length(layer, quantity) - 1) * (length - lengths[0]) / span)
    for length in lengths for layer in layers for quantity in TIMED_QUANTITIES
  ]
  points += [point(layer, lengths[0], 'repeat', repetition_factor) for layer in layers]
  return {
    'study': study,
    'run': {
      'layers': list(layers), 'lengths': list(lengths), 'quantities': list(TIMED_QUANTITIES),
      'tokens': tokens, 'sequences': 2, 'generated': 3, 'rounds': 3, 'learning_rate': RATE,
      'device': RUN_ENVIRONMENT['device'], 'seed': seed,
      'settings': {'width': 64, 'depth': 2, 'match': 'params', 'dtype': 'float32'},
    } | settings,
    'status': 'finished',
    'reason': '',
    'result': {
      'layers': {layer: {'width': 64, 'parameters': 1, 'budget': 1} for layer in layers},
      'points': points,
    },
    **RUN_ENVIRONMENT,
  }


BENCHMARK_RUN = {
  'benchmark': 'line', 'sizes': {'length': 6}, 'timed': True, 'peak': [8, 16], 'rounds': 3,
  'seed': 0, 'torch': '', 'large_pages': True, 'devices': 2, 'device': 'a device',
}


def benchmark_record(
  benchmark='attention', sizes=None, seed=0, ours=(2.0, 4.0), theirs=(4.0, 4.0), **changes,
):
  """Returns the finished record of a benchmark, at a peak of 100 FLOP/s.

  Args:
    benchmark: The name of the benchmark.
    sizes: The sizes of its inputs.
    seed: The seed of the repetition.
    ours: The times of this repository's implementation in seconds.
    theirs: The times of the alternative implementation in seconds.
    **changes: Further settings of the run.

  Returns:
    The record.
  """
  def implementation(name, seconds, planned_bytes):
    return {'name': name, 'status': 'finished', 'reason': '', 'bytes': planned_bytes,
            'seconds': {'forward': list(seconds), 'gradient': list(seconds)}}

  sizes = sizes or {'batch': 16, 'length': 512, 'heads': 4, 'head_width': 32}
  return {
    'study': 'speed',
    'run': BENCHMARK_RUN | {'benchmark': benchmark, 'sizes': sizes, 'seed': seed} | changes,
    'status': 'finished',
    'reason': '',
    'result': {
      'platform': 'cpu', 'matmul_flops': {'gradient': 90.0},
      'implementations': [
        implementation('ours', ours, 2**20), implementation(speed.TORCH_ATTENTION, theirs, None)],
      'peak': [{'flops': 200.0, 'seconds': [2.0, 2.0]}, {'flops': 10.0, 'seconds': [1.0, 1.0]}],
    },
    **RUN_ENVIRONMENT,
  }
