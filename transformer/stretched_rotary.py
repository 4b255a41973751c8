"""Rotary positions for texts that are longer than those of training.

A pair i of K/2 pairs of channels turns by f_i = base^(-2i/K) from one token to the next, and comes
around f_i L / 2 pi times in a text of the trained length L. Pairs that come around often tell near
tokens apart; those that never come around have angles beyond L that training never showed.
`Rotary(stretch=s)` divides all frequencies by s (Chen et al. 2023). The forms here spare the fast
pairs; r_i is the share of the frequency that is kept, and (1 - r_i) / s of it is added:

  Llama 3.1   r_i is linear in how often pair i comes around         (Grattafiori et al. 2024)
  YaRN        r_i is linear in i between the pairs that come around so and so often, as in its
              authors' code (in their paper it is linear in how often);
              queries and keys are multiplied by 0.1 log(s) + 1      (Peng et al. 2023)
  dynamic     the base is b (1 + s (n / L - 1))^(K / (K - 2)) in a text of n > L tokens: the slowest
              pair then turns as far as if it were stretched         (bloc97 and emozilla 2023)
"""

import math

import jax.numpy as jnp

from transformer.positions import Rotary


class StretchedRotary(Rotary):
  """Keeps a share of each pair's frequency, and stretches the rest of it."""

  stretch: float = 8.0
  trained_length: int = 8192

  def __post_init__(self):
    super().__post_init__()
    if self.trained_length < 1:
      raise ValueError(f'a trained_length is at least 1, not {self.trained_length}')

  def turns(self, frequency: float) -> float:
    """How often a pair comes around within the trained length."""
    return self.trained_length * frequency / (2 * math.pi)

  def kept(self, pair: int, pairs: int) -> float:
    """The share of a pair's frequency that is not stretched, from 0 to 1."""
    raise TypeError(f'{type(self).__name__} does not say which frequencies it keeps')

  def frequencies(self, pairs):
    """A mixture of each frequency and of the stretched one."""
    shares = (self.kept(pair, pairs) for pair in range(pairs))
    return [(share + (1 - share) / self.stretch) * self.base ** (-pair / pairs)
            for pair, share in enumerate(shares)]


class Llama3Rotary(StretchedRotary):
  """Stretched as Llama 3.1 is: the mixture is linear in how often a pair comes around."""

  few_turns: float = 1.0  # pairs with fewer are stretched in full
  many_turns: float = 4.0  # pairs with more are kept

  def __post_init__(self):
    super().__post_init__()
    if not 0 < self.few_turns < self.many_turns < math.inf:
      raise ValueError(f'few_turns are above 0 and below many_turns, not {self.few_turns:g} and '
                       f'{self.many_turns:g}')

  def kept(self, pair, pairs):
    """Linear between few and many turns."""
    turns = self.turns(self.base ** (-pair / pairs))
    return _clipped((turns - self.few_turns) / (self.many_turns - self.few_turns))


class YarnRotary(StretchedRotary):
  """YaRN: the mixture is linear in the pair's number; the scores of attention are sharpened."""

  few_turns: float = 1.0  # beta_slow, alpha of the paper: pairs with fewer are stretched in full
  many_turns: float = 32.0  # beta_fast, beta of the paper: pairs with more are kept
  whole_pairs: bool = True  # the ends of the mixture are rounded outwards, as by the authors' code
  sharpening: float = 0.0  # the factor on queries and on keys; 0: that of the paper

  def __post_init__(self):
    super().__post_init__()
    if self.base <= 1:
      raise ValueError(f'YaRN needs a base above 1, not {self.base:g}')
    if not 0 < self.few_turns <= self.many_turns < math.inf:
      raise ValueError(f'few_turns are above 0 and at most many_turns, not {self.few_turns:g} and '
                       f'{self.many_turns:g}')
    if not 0 <= self.sharpening < math.inf:
      raise ValueError(f'a sharpening is finite and not negative, not {self.sharpening:g}')

  @property
  def magnitude(self):
    """The square root of the paper's 1 / temperature: 0.1 log(stretch) + 1."""
    return self.sharpening or yarn_magnitude(self.stretch)

  def kept(self, pair, pairs):
    """Linear between the pairs that come around many and few times."""
    first, last = (self.pair_with(turns, pairs) for turns in (self.many_turns, self.few_turns))
    if self.whole_pairs:
      first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * pairs - 1)
    if first == last:
      last += 0.001  # as in the authors' code
    return 1 - _clipped((pair - first) / (last - first))

  def pair_with(self, turns: float, pairs: int) -> float:
    """The pair, between whole numbers, that comes around so often within the trained length."""
    return pairs * (math.log(self.turns(1.0)) - math.log(turns)) / math.log(self.base)


def yarn_magnitude(stretch: float, slope: float = 1.0) -> float:
  """YaRN's factor on queries and on keys, 0.1 slope log(stretch) + 1; 1 for what is not longer."""
  return 1.0 if stretch <= 1 else 0.1 * slope * math.log(stretch) + 1


class DynamicRotary(Rotary):
  """NTK-aware turns that adapt to the length: plain up to the trained length, then ever slower.

  A token at position t turns as in a text of t + 1 tokens, whatever comes after it, so that a text
  read in pieces is answered as one read at once.
  """

  stretch: float = 1.0  # by how much the slowest pair is stretched per trained length beyond it
  trained_length: int = 2048

  def __post_init__(self):
    super().__post_init__()
    if self.trained_length < 1:
      raise ValueError(f'a trained_length is at least 1, not {self.trained_length}')

  def frequencies(self, pairs):
    """Those within the trained length."""
    return [self.base ** (-pair / pairs) for pair in range(pairs)]

  def angles(self, index, pairs):
    """Plain angles, divided by a power of the growth: K / (K - 2) 2i / K = i / (K/2 - 1)."""
    beyond = jnp.maximum((index + 1).astype(jnp.float32) / self.trained_length, 1) - 1
    growth = 1 + self.stretch * beyond[:, None]
    power = jnp.arange(pairs, dtype=jnp.float32) / max(pairs - 1, 1)
    return super().angles(index, pairs) * growth ** -power[None]


def _clipped(share: float) -> float:
  return min(max(share, 0.0), 1.0)
