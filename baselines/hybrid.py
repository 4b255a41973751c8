"""Hybrid models, which alternate layers of different kinds across their blocks.

A few attention layers, which store all recent tokens exactly, are combined with many layers that
have a state of fixed size. Griffin has two recurrent blocks per block of local attention (De et al.
2024), Jamba seven Mamba blocks per block of attention (Lieber et al. 2024).
"""

from baselines.linear_recurrence import RGLRU
from transformer.attention import SlidingWindow
from transformer.layer import SequenceLayer
from transformer.stack import Stack


class Interleave(Stack):
  """Alternates layers of different kinds over the blocks of a model, by default as in Griffin."""

  layers: tuple[SequenceLayer, ...] = (
    RGLRU(parent=None), RGLRU(parent=None), SlidingWindow(parent=None)
  )

  @property
  def layer_pattern(self):
    """The layer of each block in order, where a nested hybrid is expanded into its layers."""
    return tuple(part for layer in self.layers for part in layer.layer_pattern) * self.depth
