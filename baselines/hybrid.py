"""Hybrids: layers of different kinds that take turns, one a block.

A few layers that look back exactly, among many that remember in a state of fixed size: Griffin has
two recurrent blocks to one of local attention (De et al. 2024), Jamba seven Mamba blocks to one of
attention (Lieber et al. 2024).
"""

from baselines.linear_recurrence import RGLRU
from transformer.attention import SlidingWindow
from transformer.layer import SequenceLayer
from transformer.stack import Stack


class Interleave(Stack):
  """The layers in turn. In a model each stands in a block of its own; the default is Griffin's."""

  layers: tuple[SequenceLayer, ...] = (
    RGLRU(parent=None), RGLRU(parent=None), SlidingWindow(parent=None)
  )

  @property
  def pattern(self):
    """The layers, those of a hybrid among them in their turn."""
    return tuple(part for layer in self.layers for part in layer.pattern) * self.depth
