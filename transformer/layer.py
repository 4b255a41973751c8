"""The one interface that every sequence layer keeps, and the laws that come with it.

  y, state = layer(x, state, mask=mask, train=train)    x, y: [B, T, D]

The same method trains on whole sequences, reads a prompt, goes on in chunks and generates one
token at a time; only the state that is handed in differs.

1. Streaming.  Cut the input anywhere and carry the state: outputs and gradients stay the same.
2. Causality.  Changing token t moves nothing before t, and something at or after t.
3. Padding.    What stands under the mask changes no valid output, no gradient and no later state,
               were it NaN. Padding leaves the state as it is, unless `padding_takes_time`.
4. State.      A step returns the state's own tree, shapes and dtypes; its arrays have the batch
               first, or are scalars that all share.
5. Training.   Every parameter gets a finite, non-zero gradient; compiled = not compiled; one
               trace a shape; bfloat16 agrees with float32 to its precision, over 1024 tokens too.
6. Field.      The declared receptive field is the one that the Jacobian shows.
7. Sizes.      Sequences of no token (the output is [B, 0, D], the state stays) and of one token,
               and a batch of one, are read as any others.
8. Range.      Inputs of 1e4 and biases of +-100 give finite outputs, states and gradients.

A layer computes in the dtype of its input; parameters are float32. Training decays the weights
that multiply the input, which are called `kernel`, `<something>_kernel` or `embedding` (of tokens).
All other names are for what is not decayed: biases, scales, gains, rates, skips, positions.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

State = Any  # a pytree of arrays; () for a layer that remembers nothing


class SequenceLayer(nn.Module):
  """A map from sequences to sequences with a memory of what it has read."""

  def initial_state(self, batch_size: int, capacity: int, width: int, dtype=jnp.float32) -> State:
    """The memory before the first token; needs hyper-parameters only, no parameters.

    Args:
      batch_size: B, the number of sequences.
      capacity: the most tokens that will ever be read; a layer whose state grows keeps room for it.
      width: D, the width of the input.
      dtype: what a state that stores inputs (not sums over them) stores them in.

    """
    del batch_size, capacity, width, dtype
    return ()

  @property
  def receptive_field(self) -> int | None:
    """How many of the latest tokens, itself included, an output can depend on; None: all."""
    return None

  @property
  def padding_takes_time(self) -> bool:
    """Whether padding moves what came before it further back, as it does in a convolution."""
    return False

  @property
  def input_layer(self) -> 'SequenceLayer | None':
    """What this layer asks its model to apply once to the embeddings, below the first block."""
    return None

  @property
  def source_projection(self) -> nn.Module | None:
    """What this layer asks its model to apply to what an encoder read: its state to start from.

    bridge(memory [B, S, D], mask [B, S] or None) -> state; None: it does not look at a source.
    """
    return None

  @property
  def bidirectional(self) -> 'SequenceLayer | None':
    """The layer in a form of its own that also reads what comes after a token, for encoders.

    None: it has no such form, and reads once in each direction (`bidirectional.bidirectional_of`).
    """
    return None

  @property
  def width_multiple(self) -> int:
    """The widths that this layer can take are the multiples of this."""
    return 1

  @property
  def pattern(self) -> 'tuple[SequenceLayer, ...]':
    """The layers that a model's blocks hold in turn: this one, or the parts of a hybrid."""
    return (self,)

  def __call__(
    self, x: jax.Array, state: State = None, *, mask: jax.Array | None = None, train: bool = False
  ) -> tuple[jax.Array, State]:
    """Reads x [B, T, D] after what `state` remembers.

    Args:
      x: [B, T, D] inputs.
      state: what came before; None: nothing did, and the state returned has room for no more.
      mask: [B, T] true where a token is valid; None: everywhere.
      train: whether dropout is on (it draws from the 'dropout' random stream).

    Returns:
      y [B, T, D] and the state after the last token.

    """
    raise TypeError(f'{type(self).__name__} does not say how it reads a sequence')


def masked(x: jax.Array, mask: jax.Array | None) -> jax.Array:
  """X [B, T, ...] with zeros where the mask [B, T] is false, in value and in gradient."""
  if mask is None:
    return x
  return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), x, 0)
