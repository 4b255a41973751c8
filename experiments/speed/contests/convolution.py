"""A causal dilated convolution, against XLA's and PyTorch's."""

import functools

import jax

from baselines.convolution import Convolution
from experiments.speed import pytorch
from experiments.speed.contest import Contest, Rival, contest
from experiments.speed.contests.numbers import of_layer


def convolution(
  seed: int, batch: int, length: int, width: int, kernel: int, dilation: int, steps: int = 0
) -> Contest:
  """A causal dilated convolution, by itself or in so many gradient steps of one loop."""
  ours, arguments = of_layer(Convolution(kernel, dilation), seed, (batch, length, width))
  past = (kernel - 1) * dilation

  def plain(parameters, x):
    y = jax.lax.conv_general_dilated(
      x, parameters['kernel'], (1,), [(past, 0)], rhs_dilation=(dilation,),
      dimension_numbers=('NWC', 'WIO', 'NWC'),
    )
    return y + parameters['bias'][None, None]

  def adapt(parameters, x):
    return parameters['kernel'].transpose(2, 1, 0), parameters['bias'], x.swapaxes(1, 2)

  rivals = {
    'lax.conv': Rival(plain),
    'torch conv1d': Rival(
      functools.partial(pytorch.convolution, dilation),
      adapt, lambda y: y.swapaxes(1, 2), pytorch.enter,
    ),
  }
  if steps and jax.default_backend() == 'cpu':
    del rivals['lax.conv']  # some fifty times slower in a loop: nobody would wait for it
  work = 2 * batch * length * kernel * width**2
  return contest(ours, arguments, (None, 0, 0), rivals, work, steps)
