"""Rotary positions for sequences that are longer than the training sequences.

Pair i of the K/2 pairs of channels rotates by f_i = base^(-2i/K) per token, and completes
f_i L / 2 pi rotations within the trained length L. Pairs with many rotations distinguish nearby
tokens. Pairs with less than one rotation reach, beyond L, angles that did not occur in training.
`Rotary(stretch=s)` divides all frequencies by s (Chen et al. 2023). The variants here divide the
frequencies of fast pairs by less. They leave a fraction r_i of each frequency unstretched and
divide the remaining fraction 1 - r_i by s.

  Llama 3.1   r_i is linear in the number of rotations of pair i     (Grattafiori et al. 2024)
  YaRN        r_i is linear in i between the pairs with a maximum and a minimum number of
              rotations, as in its authors' code (in their paper it is linear in the number of
              rotations); queries and keys are multiplied by 0.1 log(s) + 1   (Peng et al. 2023)
  dynamic     the base is b (1 + s (n / L - 1))^(K / (K - 2)) in a text of n > L tokens; the angle
              of the slowest pair is then that of a pair stretched by 1 + s (n / L - 1)
              (bloc97 and emozilla 2023)
"""

import math

import jax.numpy as jnp

from transformer.positions import Rotary


class StretchedRotary(Rotary):
  """Rotary positions with interpolated frequencies, which extend the context length.

  The base class of Llama3Rotary and YarnRotary. Each frequency is interpolated between the original
  frequency w_i = base^(-2i/K) and w_i / stretch.
  """

  stretch: float = 8.0
  trained_length: int = 8192

  def __post_init__(self):
    super().__post_init__()
    if self.trained_length < 1:
      raise ValueError(f'trained_length must be at least 1, not {self.trained_length}')

  def rotations_in_trained_length(self, frequency: float) -> float:
    """Returns the number of rotations that a frequency completes within the trained length."""
    return self.trained_length * frequency / (2 * math.pi)

  def interpolation_weight_of_unstretched_frequency(self, pair_index: int, num_pairs: int) -> float:
    """Returns the weight of the original frequency in a weighted mean with the stretched one.

    The weight is between 0 and 1.
    """
    raise TypeError(f'{type(self).__name__} does not implement '
                    'interpolation_weight_of_unstretched_frequency')

  def rotation_frequencies(self, num_pairs):
    """Returns the frequency of each channel pair i, a weighted mean of w_i and w_i / stretch."""
    weights = (self.interpolation_weight_of_unstretched_frequency(pair, num_pairs)
               for pair in range(num_pairs))
    return [(weight + (1 - weight) / self.stretch) * self.base ** (-pair / num_pairs)
            for pair, weight in enumerate(weights)]


class Llama3Rotary(StretchedRotary):
  """Rotary positions of Llama 3.1, which rescale only the low rotation frequencies.

  The weight of the original frequency is linear in the number of rotations of the pair.
  """

  min_rotations: float = 1.0  # pairs with fewer rotations are stretched by the full factor
  max_rotations: float = 4.0  # pairs with more rotations are not stretched

  def __post_init__(self):
    super().__post_init__()
    if not 0 < self.min_rotations < self.max_rotations < math.inf:
      raise ValueError('min_rotations must be above 0 and below max_rotations, not '
                       f'{self.min_rotations:g} and {self.max_rotations:g}')

  def interpolation_weight_of_unstretched_frequency(self, pair_index, num_pairs):
    """Returns the weight of the original frequency in a weighted mean with the stretched one.

    The weight depends on the number of rotations of the pair within the trained length. It is 0 up
    to `min_rotations` rotations, 1 from `max_rotations` rotations, and linear in between.
    """
    rotations = self.rotations_in_trained_length(self.base ** (-pair_index / num_pairs))
    return _clip_to_unit_interval(
      (rotations - self.min_rotations) / (self.max_rotations - self.min_rotations))


class YarnRotary(StretchedRotary):
  """Rotary positions of YaRN, which also multiply queries and keys by a constant factor.

  The weight of the original frequency is linear in the index of the pair of channels.
  """

  # The YaRN paper calls these bounds alpha and beta. Its code calls them beta_slow and beta_fast.
  min_rotations: float = 1.0  # pairs with fewer rotations are stretched by the full factor
  max_rotations: float = 32.0  # pairs with more rotations are not stretched
  round_boundaries: bool = True  # rounds to outer pairs, as the authors' code does
  attention_factor: float = 0.0  # multiplies queries and keys; 0: the factor of the paper

  def __post_init__(self):
    super().__post_init__()
    if self.base <= 1:
      raise ValueError(f'YaRN needs a base above 1, not {self.base:g}')
    if not 0 < self.min_rotations <= self.max_rotations < math.inf:
      raise ValueError('min_rotations must be above 0 and at most max_rotations, not '
                       f'{self.min_rotations:g} and {self.max_rotations:g}')
    if not 0 <= self.attention_factor < math.inf:
      raise ValueError('attention_factor must be finite and not negative, not '
                       f'{self.attention_factor:g}')

  @property
  def query_key_scale(self):
    """The factor that multiplies queries and keys, by default 0.1 log(stretch) + 1.

    A non-zero `attention_factor` replaces the default. In the paper this factor is the
    square root of 1 / temperature.
    """
    return self.attention_factor or yarn_query_key_scale(self.stretch)

  def interpolation_weight_of_unstretched_frequency(self, pair_index, num_pairs):
    """Returns the weight of the original frequency in a weighted mean with the stretched one.

    The weight depends on the index of the channel pair. It is 1 up to the pair with
    `max_rotations`, 0 from the pair with `min_rotations`, and linear in between.
    """
    first, last = (self.channel_pair_index_for_num_rotations(rotations, num_pairs)
                   for rotations in (self.max_rotations, self.min_rotations))
    if self.round_boundaries:
      first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * num_pairs - 1)
    if first == last:
      last += 0.001  # as in the authors' code
    return 1 - _clip_to_unit_interval((pair_index - first) / (last - first))

  def channel_pair_index_for_num_rotations(self, num_rotations: float, num_pairs: int) -> float:
    """Returns the real number i for which channel pair i would complete `num_rotations` rotations.

    The rotations are counted within the trained length. The index i is the solution of an equation,
    so it can lie between the indices of two channel pairs.
    """
    ratio = math.log(self.rotations_in_trained_length(1.0)) - math.log(num_rotations)
    return num_pairs * ratio / math.log(self.base)


def yarn_query_key_scale(context_scaling_factor: float, log_coefficient: float = 1.0) -> float:
  """Returns the YaRN factor 0.1 * log_coefficient * log(s) + 1 for queries and keys.

  Here s is the context scaling factor. The YaRN factor is 1 if s <= 1.
  """
  if context_scaling_factor <= 1:
    return 1.0
  return 0.1 * log_coefficient * math.log(context_scaling_factor) + 1


class DynamicRotary(Rotary):
  """NTK-aware rotary positions, whose base grows with the position beyond the trained length.

  A token at position t rotates as in a text of t + 1 tokens, independently of later tokens, so that
  a text processed in chunks has the same outputs as in one call.
  """

  stretch: float = 1.0  # stretch of the slowest pair per additional trained length
  trained_length: int = 2048

  def __post_init__(self):
    super().__post_init__()
    if self.trained_length < 1:
      raise ValueError(f'trained_length must be at least 1, not {self.trained_length}')

  def rotation_frequencies(self, num_pairs):
    """Returns each channel pair's rotation angle per token at positions below `trained_length`.

    Pair i of the K/2 channel pairs of a head rotates by base^(-2i/K) radians per token.
    """
    return [self.base ** (-pair / num_pairs) for pair in range(num_pairs)]

  def rotation_angles(self, token_positions, num_pairs):
    """Returns the rotation angles, with lower frequencies at positions beyond the trained length.

    Divides the angles of pair i by the growth to the power i / (K/2 - 1). The exponent is that of
    the grown base, K / (K - 2) 2i / K.
    """
    excess = jnp.maximum((token_positions + 1).astype(jnp.float32) / self.trained_length, 1) - 1
    growth = 1 + self.stretch * excess[:, None]
    power = jnp.arange(num_pairs, dtype=jnp.float32) / max(num_pairs - 1, 1)
    return super().rotation_angles(token_positions, num_pairs) * growth ** -power[None]


def _clip_to_unit_interval(fraction: float) -> float:
  return min(max(fraction, 0.0), 1.0)
