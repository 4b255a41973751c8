"""The interface of every sequence layer, and the properties (laws) that every layer must have.

  y, state = layer(x, state, mask=mask, train=train)    x, y: [B, T, D]

The same method serves training on complete sequences, prefill of a prompt, processing in chunks and
generation of one token at a time. Only the state that is passed in differs.

1. Streaming.  A sequence cut into chunks at any positions, with the state passed on, has the same
               outputs and gradients.
2. Causality.  A change of token t changes no output before t, and some output at or after t.
3. Padding.    Values under the mask, even NaN, change no valid output, no gradient and no later
               state. Padding leaves the state unchanged, unless the layer sets
               `padding_occupies_positions`.
4. State.      A step returns a state of the same tree, shapes and dtypes. Its arrays have the batch
               as their first axis, or are scalars that all sequences share.
5. Training.   Every parameter has a finite, non-zero gradient. Compiled and uncompiled outputs are
               equal. There is one trace per shape. Results in bfloat16 agree with float32 to the
               precision of bfloat16, also over 1024 tokens.
6. Field.      The property `receptive_field` equals the receptive field of the Jacobian.
7. Sizes.      Sequences of no token (the output is [B, 0, D], the state does not change), sequences
               of one token and batches of one sequence are valid inputs.
8. Range.      Inputs of 1e4 and biases of +-100 give finite outputs, states and gradients.

A layer computes in the dtype of its input, and its parameters are float32. Weight decay applies to
the weights that multiply the input, which are named `kernel`, `<something>_kernel` or `embedding`
(of tokens). All other names denote parameters without decay, such as biases, scales, gains, rates,
skip weights and positions.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

State = Any  # a pytree of arrays; () for a layer without state


class SequenceLayer(nn.Module):
  """Base class of layers that map a sequence to a sequence and carry a state between calls."""

  def initial_state(self, batch_size: int, capacity: int, width: int, dtype=jnp.float32) -> State:
    """Creates the state before the first token, which does not depend on parameters.

    Args:
      batch_size: B, the number of sequences.
      capacity: the maximum number of tokens in total, for which a growing state reserves memory.
      width: D, the width of the input.
      dtype: the dtype of a state that stores inputs (not sums over inputs).

    Returns:
      A pytree of arrays, the `state` for the first call.

    """
    del batch_size, capacity, width, dtype
    return ()

  @property
  def receptive_field(self) -> int | None:
    """The number of input tokens that each output depends on, or None if unbounded."""
    return None

  @property
  def padding_occupies_positions(self) -> bool:
    """Whether padding between two valid tokens increases their distance, as in a convolution."""
    return False

  @property
  def input_layer(self) -> 'SequenceLayer | None':
    """A layer that the model applies to its embeddings before the first block, or None."""
    return None

  @property
  def source_projection(self) -> nn.Module | None:
    """A module that maps encoder outputs to the initial state of this layer in a decoder.

    source_projection(encoder_outputs [B, S, D], mask [B, S] or None) -> state. None for a layer
    that does not attend to a source.
    """
    return None

  @property
  def bidirectional_version(self) -> 'SequenceLayer | None':
    """The non-causal variant of this layer for encoders, or None if there is none.

    Without it, encoders apply the layer once in each direction (`bidirectional.Bidirectional`).
    """
    return None

  @property
  def required_width_divisor(self) -> int:
    """The number by which the model width D must be divisible."""
    return 1

  @property
  def layer_pattern(self) -> 'tuple[SequenceLayer, ...]':
    """The layers of the successive blocks, repeated in order if the model has more blocks.

    Only a hybrid has more than one layer.
    """
    return (self,)

  def __call__(
    self, x: jax.Array, state: State = None, *, mask: jax.Array | None = None, train: bool = False
  ) -> tuple[jax.Array, State]:
    """Maps inputs x [B, T, D] and the state after all earlier tokens to outputs and a new state.

    Args:
      x: [B, T, D] inputs.
      state: the state after the earlier tokens. None means that there are no earlier tokens, and
        the returned state then has no capacity for further tokens.
      mask: [B, T] true at valid tokens; None if all are valid.
      train: whether dropout is active (it uses the 'dropout' random stream).

    Returns:
      The outputs y [B, T, D] and the state after the last token.

    """
    raise TypeError(f'{type(self).__name__} does not implement __call__')


def apply_mask(x: jax.Array, mask: jax.Array | None) -> jax.Array:
  """Sets x [B, T, ...] and its gradients to zero where the mask [B, T] is false."""
  if mask is None:
    return x
  return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), x, 0)
