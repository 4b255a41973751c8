"""Records as the studies store them, of numbers that a test chooses."""

from experiments.claims.stored import KINDS
from experiments.lab import source
from experiments.lab.cells import models, spec
from experiments.lab.cells.run import Run
from experiments.lab.results.store import Store
from experiments.lab.tasks import TASKS
from experiments.speed import study as speed

RATE = 3e-3
SEEDS = 3
REMEMBERS, FORGETS = (1.0, 0.99, 1.0), (0.2, 0.3, 0.1)
SEES, BLIND = (0.9, 0.95, 0.9), (0.0, 0.01, 0.0)
GROWS = {('attention', 'generate'), ('lstm', 'train'), ('gru', 'train')}
NEAR, FAR, BEYOND = 20, 40, 90  # a TCN of two blocks sees 57 tokens
WHERE = {'device': 'a device', 'versions': {'jax': '1'}, 'commit': 'abc', 'seconds': 1.5}


def stored(folder, made):
  """A store of all studies in a folder, with records of today's code."""
  store = Store(folder, KINDS)
  for record in made:
    store.write(record)
  return store


def edited(monkeypatch, *modules):
  """As if these modules had been edited."""
  fingerprint = source.fingerprint
  monkeypatch.setattr(source, 'fingerprint', lambda module: (
    'f' * 12 if module in modules else fingerprint(module)))


def trained(
  layer, family, distance, scores, controls=None, task=None, study='retention', extrapolation=(),
  **settings,
):
  """A finished cell of a study, whose seeds have these scores on the common scale.

  `extrapolation` are their scores at other distances, by distance, or those at twice their own.
  """
  if not isinstance(extrapolation, dict):
    extrapolation = {2 * distance: extrapolation} if extrapolation else {}
  task = (task or TASKS[family]()).at(distance)
  run = Run(
    layer=layer, task=f'{family} at {distance}', seeds=tuple(range(len(scores))),
    learning_rates=(RATE,), **settings,
  )
  wrote = written(distance, extrapolation, len(scores)) if task.answered_by == 'translator' else {}
  model = models.model_of(run, spec.parse(layer, task.answered_by), task, run.width)
  span = task.metric.perfect - task.chance
  return {
    'study': study,
    'run': run.identity(),
    'status': 'finished',
    'reason': '',
    'result': {
      'family': family,
      'title': task.title,
      'axis': task.axis,
      'distance': task.distance,
      'metric': task.metric.name,
      'perfect': task.metric.perfect,
      'chance': task.chance,
      'settings': {'length': distance},
      'digest': '',
      'controls': {'oracle': 1.0, 'guess': 0.0} | (controls or {}),
      'receptive_field': model.receptive_field,
      'state_bytes': 1024,
      **wrote,
      'extrapolation': [{'distance': there, 'chance': task.chance} for there in extrapolation],
      'width': run.width,
      'parameters': 1000,
      'budget': 1000,
      'learning_rate': RATE,
      'members': [
        {
          'seed': seed, 'learning_rate': RATE, 'status': 'finished', 'steps': run.steps,
          'validation_loss': 1 - score,
          'extrapolation_loss': [1 - there[seed] for there in extrapolation.values()],
          'validation': task.chance + span * score, 'test': task.chance + span * score,
          'test_loss': 1 - score, 'curve': [[run.steps, 1 - score, score]],
          'extrapolation': [task.chance + span * there[seed] for there in extrapolation.values()],
        }
        for seed, score in enumerate(scores)
      ],
    },
    **WHERE,
  }


def written(distance, extrapolation, seeds):
  """What a translator's record has besides: a sentence of each length that is right, one wrong."""
  parts = [
    {
      'distance': length, 'source_length': [length, length], 'source': ['1 2', '2 1'],
      'reference': ['a b c d e', 'e d c b a'], 'blind_loss': 2.0, 'tokens': 5.0,
      'answers': {str(seed): ['a b c d e', 'a b c d e'] for seed in range(seeds)},
    }
    for length in (distance, *extrapolation)
  ]
  return {'written': parts, 'alignments': [], 'step_flops': 1000}


def timed(seed, layers, lengths, growth, repeat=1.0, study='parallelism', **settings):
  """A finished repetition of parallelism; `growth` is how a token's time grows to the last length.

  Args:
    seed: of the repetition; it shifts all times a little.
    layers: the layers.
    lengths: the lengths, ascending.
    growth: (layer, quantity) -> time at the last length over that at the first.
    repeat: how many times as long the same step takes when it is measured again.
    study: whose.
    **settings: of the run, beside those.

  """
  tokens = 2 * lengths[-1]

  def point(layer, length, quantity, factor):
    times = [1e-6 * tokens * factor * (1 + 0.01 * seed + 0.001 * i) for i in range(3)]
    return {
      'layer': layer, 'length': length, 'quantity': quantity, 'tokens': tokens,
      'status': 'finished', 'reason': '', 'bytes': 2**20, 'seconds': times,
    }

  points = [
    point(layer, length, quantity,
          1 + (growth(layer, quantity) - 1) * (length - lengths[0]) / (lengths[-1] - lengths[0]))
    for length in lengths for layer in layers for quantity in ('train', 'forward', 'generate')
  ]
  points += [point(layer, lengths[0], 'repeat', repeat) for layer in layers]
  return {
    'study': study,
    'run': {
      'layers': list(layers), 'lengths': list(lengths), 'tokens': tokens, 'sequences': 2,
      'generated': 3, 'rounds': 3, 'learning_rate': RATE, 'device': WHERE['device'], 'seed': seed,
      'settings': {'width': 64, 'depth': 2, 'match': 'params', 'dtype': 'float32'},
    } | settings,
    'status': 'finished',
    'reason': '',
    'result': {
      'layers': {layer: {'width': 64, 'parameters': 1, 'budget': 1} for layer in layers},
      'points': points,
    },
    **WHERE,
  }


CONTEST = {
  'what': 'line', 'sizes': {'length': 6}, 'timed': True, 'peak': [8, 16], 'rounds': 3, 'seed': 0,
  'torch': '', 'large_pages': True, 'devices': 2, 'device': 'this one',
}


def contested(
  what='attention', sizes=None, seed=0, ours=(2.0, 4.0), theirs=(4.0, 4.0), **changes,
):
  """A finished contest of chosen times, whose peak does 100 operations a second."""
  def one(name, seconds, planned):
    return {'name': name, 'status': 'finished', 'reason': '', 'bytes': planned,
            'seconds': {'forward': list(seconds), 'gradient': list(seconds)}}

  sizes = sizes or {'batch': 16, 'length': 512, 'heads': 4, 'head_width': 32}
  return {
    'study': 'speed',
    'run': CONTEST | {'what': what, 'sizes': sizes, 'seed': seed} | changes,
    'status': 'finished',
    'reason': '',
    'result': {
      'platform': 'cpu', 'work': {'gradient': 90.0},
      'contestants': [one('ours', ours, 2**20), one(speed.TORCH_ATTENTION, theirs, None)],
      'peak': [{'work': 200.0, 'seconds': [2.0, 2.0]}, {'work': 10.0, 'seconds': [1.0, 1.0]}],
    },
    **WHERE,
  }
