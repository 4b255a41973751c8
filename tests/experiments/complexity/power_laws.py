"""Records of times and bytes that follow power laws of the length, with optional noise."""

import numpy as np

LENGTHS = (64, 256, 1024)
TOKENS = 4096
GENERATED = 32


def power_law_record(
  laws, seed=0, lengths=LENGTHS, rounds=9, noise=0.0, round_noise=0.2, missing=()
):
  """The record of one repetition, in which values per token are a n^p at length n.

  Args:
    laws: (a, p) by layer, or for a layer (a, p) by quantity, where 'memory' and 'state' are bytes;
      the length of a state is its capacity.
    seed: the seed of the repetition and of its noise.
    lengths: the sequence lengths.
    rounds: the number of rounds.
    noise: the standard deviation of the log of each time.
    round_noise: the standard deviation of a factor, as a log, that all times of a round share.
    missing: points (layer, length, quantity) that are out of memory, with bytes but without times.

  Returns:
    The record.

  """
  random = np.random.default_rng(seed)
  shared = np.exp(round_noise * random.normal(size=rounds))
  points = []
  for layer, law in laws.items():
    for quantity, stored in (('train', 'memory'), ('generate', 'state')):
      for length in lengths:
        known = (layer, length, quantity) not in missing
        seconds, extra = law_value(law, quantity, length), GENERATED if stored == 'state' else 0
        planned = law_value(law, stored, length + extra)
        times = TOKENS * seconds * shared * np.exp(noise * random.normal(size=rounds))
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


def law_value(law, quantity, length):
  """The value of a power law at a length."""
  factor, power = law[quantity] if isinstance(law, dict) else law
  return factor * length**power
