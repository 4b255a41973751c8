"""Records of times and bytes that are power laws of the length, with noise that a test chooses."""

import numpy as np

LENGTHS = (64, 256, 1024)
TOKENS = 4096
GENERATED = 32


def record(laws, seed=0, lengths=LENGTHS, rounds=9, noise=0.0, weather=0.2, missing=()):
  """A repetition in which a layer's values a token are a n^p, in length n.

  Args:
    laws: layer -> (a, p) of everything, or quantity -> (a, p) with 'memory' and 'state' for bytes;
      a state's length is all that it has room for.
    seed: of the repetition, and of its noise.
    lengths: the lengths.
    rounds: how many.
    noise: standard deviation of the log of each time.
    weather: that of what a round does to all its times alike.
    missing: points (layer, length, quantity) that are out of memory, with bytes but without times.

  """
  draws = np.random.default_rng(seed)
  shared = np.exp(weather * draws.normal(size=rounds))
  points = []
  for layer, law in laws.items():
    for quantity, held in (('train', 'memory'), ('generate', 'state')):
      for length in lengths:
        known = (layer, length, quantity) not in missing
        seconds, room = value(law, quantity, length), GENERATED if held == 'state' else 0
        planned = value(law, held, length + room)
        times = TOKENS * seconds * shared * np.exp(noise * draws.normal(size=rounds))
        points.append({
          'layer': layer, 'length': length, 'quantity': quantity, 'tokens': TOKENS,
          'status': 'finished' if known else 'out of memory', 'reason': '',
          'bytes': round(1e9 * planned), 'seconds': times.tolist() if known else [],
        })
  return {
    'run': {
      'layers': list(laws), 'lengths': list(lengths), 'tokens': TOKENS, 'sequences': 2,
      'generated': GENERATED, 'rounds': rounds, 'device': 'a device', 'seed': seed,
      'settings': {'width': 64, 'depth': 2, 'match': 'params', 'dtype': 'float32'},
    },
    'result': {'points': points},
    'status': 'finished',
  }


def value(law, quantity, length):
  """What a law says at a length."""
  factor, power = law[quantity] if isinstance(law, dict) else law
  return factor * length**power
