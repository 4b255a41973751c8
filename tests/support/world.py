"""Records of all studies in which every claim holds, or none does."""

from experiments.bottleneck import claims as bottleneck
from experiments.complexity import counting, table_1
from experiments.gradient_flow import flow
from experiments.lab.cells import experiment, spec
from experiments.lab.cells.run import Run
from experiments.receptive_field import fields
from experiments.state_tracking.claims import LINEAR, SIGNED
from experiments.translation import claims as translation
from experiments.variations import tables as variations
from tests.support.records import (
  BEYOND,
  BLIND,
  FAR,
  FORGETS,
  GROWS,
  NEAR,
  REMEMBERS,
  SEEDS,
  SEES,
  WHERE,
  timed,
  trained,
)
from transformer.presets import TABLE_3

FLOW = (0, 1, 2, 4, 8)
FIELD = 17  # of two convolutions of nine tokens each
LENGTHS = (8, 16, 32, 64)


def translated(kept, lost, seen, unseen):
  """Records of the studies of translation: what attention keeps, what one vector loses."""
  def copied(layer, there):
    return trained(
      layer, 'copy', NEAR, there, study='bottleneck',
      extrapolation={NEAR // 4: REMEMBERS, NEAR: there},
    )

  def numbers(study, layer, scores):
    return trained(layer, 'number_words', 6, scores, study=study)

  def row(name):
    own = variations.variation(TABLE_3[name], 64, 1, 10)
    return trained(
      own.pop('layer'), 'copy', NEAR, REMEMBERS, study='variations', match='none', **own)

  fixed, turned = bottleneck.FIXED
  return [
    *(copied(layer, kept) for layer in bottleneck.ATTENTIVE),
    *(copied(layer, lost) for layer in bottleneck.FIXED),
    copied(bottleneck.CONTROL, unseen),
    numbers('bottleneck', fixed, unseen),
    numbers('bottleneck', turned, seen),
    *(row('base'), row('B: d_k 16')),
    *(numbers('translation', layer, kept if layer == 'transformer' else lost)
      for layer in translation.TRANSLATORS),
    *(trained(layer, 'pronouns', distance, scores, study='pronouns')
      for layer, near, far in (('attention', REMEMBERS, kept), ('lstm', REMEMBERS, lost),
                               ('convolution', unseen, unseen))
      for distance, scores in ((NEAR, near), (FAR, far))),
  ]


def flowing(layer, falls, beyond=0.0, **settings):
  """A cell at initialisation whose gradient falls by these powers of ten, by seed; no task.

  Of a layer with a receptive field it ends there, but for `beyond`.
  """
  run = Run(layer=layer, width=8, match='none', seeds=tuple(range(len(falls))),
            **{'block': 'plain', 'depth': 1} | settings)
  field = spec.parse(layer, 'layer').receptive_field
  norms = [[10 ** (-fall * max(0, k - 1) / (FLOW[-1] - 1)) for k in FLOW] for fall in falls]
  if field is not None:
    norms = [[n if k < field else beyond for k, n in zip(FLOW, row, strict=False)] for row in norms]
  return {
    'study': 'gradient_flow', 'run': flow.asked(run, FLOW[-1] + 1), 'status': 'finished',
    'reason': '',
    'result': {'receptive_field': field, 'distances': list(FLOW), 'norms': norms,
               'stretches': norms},
    **WHERE,
  }


def flowing_trained(layer, falls, **settings):
  """The same of a cell that trained: nothing falls before its training, and so it does after."""
  record = trained(layer, 'adding', FLOW[-1] + 1, [0.5] * len(falls), study='gradient_flow',
                   **{'block': 'plain', 'match': 'none'} | settings)
  after = flowing(layer, falls)['result']['norms']
  record['result']['watched'] = [
    {'step': step, 'distances': list(FLOW), 'norms': norms, 'stretches': norms}
    for step, norms in ((0, [[1.0] * len(FLOW)] * len(falls)), (record['run']['steps'], after))
  ]
  return record


def gradients(opposite):
  """Records of gradient_flow in which every claim holds, or none does."""
  steep, flat, rising = (9.0, 9.1, 9.2), (0.1, 0.0, 0.2), (-1.0, -1.1, -1.2)
  if opposite:
    steep, flat, rising = flat, steep, (1.0, 1.1, 1.2)
  lose, keep = ('elman(recurrent_init=normal)', 'lstm(forget_bias=0.0)'), 'lstm(forget_bias=3.0)'
  return [
    flowing('elman', [fall - 1 if not opposite else fall + 1 for fall in steep]),
    *(flowing(layer, steep) for layer in lose), flowing(keep, flat), flowing('attention', flat),
    flowing('elman(recurrent_gain=2.0)', rising), flowing('convolution', flat, 1e-3 * opposite),
    flowing('elman', [5 * opposite + 1, 5.1 * opposite + 1, 5.2 * opposite + 1], depth=4),
    flowing('elman', (1.0, 1.1, 1.2), depth=4, block='no_norm'),
    flowing_trained('elman', steep, clip=1.0), flowing_trained('gru', steep),
    flowing_trained('lstm', steep),
  ]


def field_stack(depth, effective, spread, layer='convolution(kernel_size=3)', block='plain'):
  """A stack of convolutions of these effective fields, by seed, that shows what it declares."""
  declared = 1 + 2 * depth
  run = Run(layer=layer, depth=depth, block=block, seeds=tuple(range(len(effective))))
  run = fields.cell_of('receptive_field', experiment.resolve(run), length=64, sequences=2).run
  return {
    'study': 'receptive_field', 'run': run, 'status': 'finished', 'reason': '',
    'result': {'declared': declared, 'length': declared + 3, 'shown': [declared] * len(effective),
               'effective': list(effective), 'spread': list(spread),
               'energy': [[1.0]] * len(effective)},
  } | WHERE


def watched_field(distance, scores, before, after):
  """Two trained convolutions whose gradient spreads over so many tokens before and after."""
  made = trained(
    'convolution(kernel_size=9)', 'copy_memory', distance, scores, depth=2,
    study='receptive_field')
  made['run']['task'] = f'copy_memory at {distance}'
  many = len(scores)
  made['result']['watched'] = [
    {'step': step, 'effective': [size] * many, 'spread': [size] * many,
     'shown': [FIELD] * many, 'energy': [[1 / FIELD] * FIELD] * many}
    for step, size in ((0, before), (100, after))
  ]
  return made


def reaching(opposite):
  """Records of receptive_field in which every claim holds, or none does."""
  power = 0.9 if opposite else 0.5
  share = {1: 0.5, 4: 0.7, 16: 0.95} if opposite else {1: 0.9, 4: 0.6, 16: 0.4}
  noise = (1.0, 1.01, 1.02)
  inside, before, after = (FORGETS, 6.0, 3.0) if opposite else (REMEMBERS, 3.0, 6.0)
  return [
    *(field_stack(depth, [part * (1 + 2 * depth) * n for n in noise],
                  [depth**power * n for n in noise]) for depth, part in share.items()),
    watched_field(FIELD - 1, inside, before, after), watched_field(FIELD, BLIND, before, after),
  ]


def counted(layer, platform='gpu', products=1, depth=0, operations=0, layers=0):
  """The counts of a layer, which grow with these powers of the length."""
  asked = counting.asked(
    table_1.COUNTED.get(layer, layer), platform, LENGTHS, (8, 16, 32), LENGTHS)
  counts = [
    {'phase': phase, 'length': n, 'width': d, 'option': None,
     'products': 4 * n**products * d**2, 'elementwise': n * d, 'bytes': 4 * n * d,
     'depth': 3 * n**depth, 'logarithmic_depth': 5 * n**depth, 'state_bytes': 4 * d}
    for n, d in counting.grid(LENGTHS, (8, 16, 32)) for phase in counting.PHASES
  ]
  paths = [{'length': n, 'layers': n**layers, 'operations': 3 * n**operations} for n in LENGTHS]
  return {
    'study': 'complexity', 'run': asked, 'status': 'finished', 'reason': '',
    'result': {'option': None, 'receptive_field': None, 'counts': counts, 'paths': paths},
  } | WHERE


def counts(opposite):
  """Records of complexity in which every claim holds, or none does."""
  grows, stays = (0, 1) if opposite else (1, 0)
  laws = {
    'attention': {'depth': stays, 'operations': stays, 'products': 1 + grows},
    **{key: {'depth': grows, 'operations': grows} for key in ('elman', 'lstm', 'gru')},
    'convolution': {'depth': stays, 'layers': grows},
    'tcn': {'depth': stays, 'layers': stays},
    'sliding_window': {'layers': grows},
    **{key: {'depth': stays} for key in ('mingru', 'lru', 's5', 'rglru')},
  }
  return [counted(layer, platform, **law) for layer, law in laws.items()
          for platform in table_1.FORMS]


def compiled(layer, opposite):
  """A layer's programs for a TPU, which compile, or not."""
  part = {'status': 'finished', 'reason': '', 'arguments': 2**20, 'temporary': 2**21, 'kernels': 0}
  programs = [
    part | {'part': where, 'name': name, 'collectives': said}
    for where, name, said in (
      ('ensemble', 'advance', {}), ('shared', 'advance', {'all-reduce': [1, 2**10]}),
      ('generate', 'prompt', {}), ('generate', 'token', {}))
  ]
  run = Run(layer=layer, task='text(length=128)').identity()
  return {
    'study': 'compile_tpu', 'run': run | {'topology': 'v5e:2x2', 'parallel': 'jit'},
    'status': 'failed' if opposite else 'finished', 'reason': '',
    'result': {'chips': 4, 'memory': 16 * 2**30, 'programs': programs,
               'operations': {'train': 3, 'prompt': 2, 'token': 1}},
  } | WHERE


def world(opposite=False):
  """Records of all studies in which every claim holds, or none does."""
  kept, lost = (FORGETS, REMEMBERS) if opposite else (REMEMBERS, FORGETS)
  seen, unseen = (BLIND, SEES) if opposite else (SEES, BLIND)
  seen_beyond = FORGETS if opposite else REMEMBERS
  made = []
  for family, distances in (('recall', (NEAR, FAR)), ('copy_memory', (NEAR, BEYOND))):
    near, far = distances
    made += [trained(layer, family, near, REMEMBERS) for layer in ('attention', 'lstm', 'gru')]
    made.append(trained('attention', family, far, kept))
    made += [trained(layer, family, far, lost) for layer in ('lstm', 'gru')]
    made += [trained('tcn', family, near, seen), trained('tcn', family, far, unseen)]

  rungs = (
    ('recall', NEAR, ('deltanet', 'gla'), ('retnet', 'mingru')),
    ('selective_copying', FAR, ('mamba',), ('lru', 's5')),
    ('copy_memory', NEAR, (), ('convolution',)),
  )
  for family, distance, above, below in rungs:
    made += [trained(layer, family, distance, kept, study='ladder') for layer in above]
    low = lost if above else unseen
    made += [trained(layer, family, distance, low, study='ladder') for layer in below]
  keep, lose = ('lstm', *SIGNED), ('attention', 'convolution', *LINEAR)
  for layers, there in ((keep, seen_beyond), (lose, unseen)):
    made += [
      trained(layer, 'parity', NEAR, REMEMBERS, study='state_tracking', extrapolation=there)
      for layer in layers
    ]

  made += [*translated(kept, lost, seen, unseen), *gradients(opposite), *reaching(opposite),
           *counts(opposite), *(compiled(layer, opposite) for layer in ('s4d', 'hyena'))]

  def growth(layer, quantity):
    return 4.0 if ((layer, quantity) in GROWS) != opposite else 1.0

  layers = ('attention', 'lstm', 'gru', 'tcn')
  return made + [
    timed(seed, layers, (64, 256), growth, study=study)
    for study in ('parallelism', 'complexity') for seed in range(SEEDS)
  ]
