"""Dilated and depthwise convolutions over time with gradients that are fast on a CPU.

  dilated     y_t = sum_j W_j x_{t - j d},    j = 0 .. k - 1     (kernel k, dilation d)
  depthwise   y_t = sum_j w_j * x_{t - j}     in each channel separately

The gradients are convolutions too. That of the input has the mirrored kernel, and that of the
kernel is a convolution of the input with the output gradient, or a product with k shifted copies of
the input. The convolution needs transposed copies, which for narrow outputs take longer than the
arithmetic. ByteNet with convolutions of width 24 takes 3.6 to 4.5 times as long with its gradients
as without, and with the product 3.4 to 3.7 times. For outputs of 64 channels the convolution takes
up to 25 % less time.
"""

import functools

import jax
import jax.numpy as jnp

from transformer import platform
from transformer.broadcasting import sum_over_tokens

FORMS = ('auto', 'direct', 'channels_last')
MAX_NARROW_WIDTH = 32  # output channels, up to which the kernel gradient is a product on a CPU


def _xla_convolution(x, kernel, dilation=1, padding=(0, 0), stride=1):
  """Computes a convolution of x [B, S, D] with a kernel [k, D, F] in XLA."""
  return jax.lax.conv_general_dilated(
    x, kernel, (stride,), [padding], rhs_dilation=(dilation,),
    dimension_numbers=('NWC', 'WIO', 'NWC'),
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _channels_last_convolution(x, kernel, dilation, padding):
  return _xla_convolution(x, kernel, dilation, (padding, 0))


def _channels_last_forward(x, kernel, dilation, padding):
  return _channels_last_convolution(x, kernel, dilation, padding), (x, kernel)


def _channels_last_backward(dilation, padding, residuals, gradient):
  x, kernel = residuals
  gradient = jax.lax.optimization_barrier(gradient)  # computed once, not for each use
  mirrored = kernel[::-1].swapaxes(1, 2)  # [k, F, D]
  reach = (len(kernel) - 1) * dilation
  x_gradient = _xla_convolution(gradient, mirrored, dilation, (reach - padding, reach))
  narrow = gradient.shape[2] <= MAX_NARROW_WIDTH
  compute = _kernel_gradient_by_product if narrow else _kernel_gradient_by_convolution
  return x_gradient, compute(x, gradient, len(kernel), dilation, padding)


def _kernel_gradient_by_product(x, gradient, size, dilation, padding):
  """The kernel gradient [k, D, F] as a product of the output gradient with k shifted inputs."""
  batch_size, length, width = gradient.shape
  shifted = [_shift(x, j * dilation - padding, length) for j in range(size)]
  columns = jnp.concatenate(shifted, -1).reshape(batch_size * length, -1)
  columns = jax.lax.optimization_barrier(columns)
  product = jax.lax.optimization_barrier(gradient.reshape(-1, width).T @ columns)  # [F, k D]
  return product.T.reshape(size, -1, width)


def _kernel_gradient_by_convolution(x, gradient, size, dilation, padding):
  """The kernel gradient [k, D, F] as a convolution over time of the output gradient with the input.

  Its batch axis is the channel axis F of the output, and its result [F, k, D] has the latest token
  first. If the input were transposed instead, XLA would compute the input again, in strided order.
  The output gradient is padded here because XLA has no fast convolution for filters that are longer
  than their input: for one sequence of 16,384 tokens and width 64, it took 100 times as long.
  A single sequence is padded at its end too. Without these zeros, the channels of its transposed
  copy often lie a power of two bytes apart, where they displace one another from the cache: a
  ConvS2S layer with its gradients took 4.6 instead of 2.9 forward passes at 16,384 tokens
  (`experiments.parallelism --preset=layers --layers=convs2s --lengths=16384`).
  """
  reach = (size - 1) * dilation
  end = reach if len(x) == 1 else 0
  gradient = jnp.pad(gradient, ((0, 0), (reach - padding, end), (0, 0)))
  kernel_gradient = _xla_convolution(
    gradient.transpose(2, 1, 0), x.swapaxes(0, 1), padding=(0, reach - end), stride=dilation)
  return kernel_gradient.transpose(1, 2, 0)[::-1]


_channels_last_convolution.defvjp(_channels_last_forward, _channels_last_backward)


def dilated_convolution(
  x: jax.Array, kernel: jax.Array, dilation: int, form: str = 'auto', padding: int = 0
) -> jax.Array:
  """Convolves x [B, S, D] with a dilated kernel, after `padding` zeros.

  The two forms differ in the computation of the gradients, whose values agree up to rounding.
  'direct' leaves the gradients to XLA. 'channels_last' computes them as two convolutions with the
  memory layout of the forward convolution. Training runs inside a compiled loop, and there XLA has
  a fast convolution on a CPU for this layout alone. The gradients that XLA derives are 20 to 150
  times slower there. 'auto' is 'channels_last' on a CPU, where it is as fast inside a loop as
  outside, and 'direct' elsewhere. Zeros counted by `padding` cost nothing, whereas the kernel
  gradient takes 1.4 times as long if the zeros are part of x.

  Args:
    x: the input [B, S, D].
    kernel: [k, D, F]. Its last entry multiplies the latest token.
    dilation: d, the distance in tokens between the entries of the kernel, at least 1.
    form: 'auto', 'direct' or 'channels_last'.
    padding: p, the number of zeros before the first token, at most (k - 1) d.

  Returns:
    The convolution [B, S + p - (k - 1) d, F].

  Examples:
    A moving sum of each token and the token 2 positions before it:

    >>> import jax.numpy as jnp
    >>> from baselines.causal_convolution import dilated_convolution
    >>> x = jnp.arange(6.0).reshape(1, 6, 1)  # [B, S, D]
    >>> y = dilated_convolution(x, jnp.ones((2, 1, 1)), dilation=2)
    >>> y.shape
    (1, 4, 1)
    >>> [float(value) for value in y.ravel()]
    [2.0, 4.0, 6.0, 8.0]

  """
  if x.shape[1] + padding == (len(kernel) - 1) * dilation:
    # XLA cannot differentiate a convolution with an empty output, so an empty array is returned.
    return jnp.zeros((x.shape[0], 0, kernel.shape[2]), x.dtype)
  if form == 'auto':
    form = 'channels_last' if platform.current_platform() == 'cpu' else 'direct'
  if form == 'channels_last':
    return _channels_last_convolution(x, kernel, dilation, padding)
  return _xla_convolution(x, kernel, dilation, (padding, 0))


def _shift(x, offset, length):
  """The tokens x[:, t + offset] of x [B, S, D] at t = 0 .. length - 1, or 0 if they are absent."""
  before = min(length, max(0, -offset))
  x = x[:, max(0, offset) : max(0, length + offset)]
  return jnp.pad(x, ((0, 0), (before, length - before - x.shape[1]), (0, 0)))


def _pad_start(x, padding):
  return jnp.pad(x, ((0, 0), (padding, 0), (0, 0)))


def _sum_of_shifted_products(x, kernel, padding):
  x = _pad_start(x, padding)
  length = x.shape[1] - len(kernel) + 1
  return sum(x[:, j : j + length] * kernel[j][None, None] for j in range(len(kernel)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise_convolution_on_cpu(x, kernel, padding):
  return _sum_of_shifted_products(x, kernel, padding)


def _depthwise_forward(x, kernel, padding):
  return _sum_of_shifted_products(x, kernel, padding), (x, kernel)


def _depthwise_backward(padding, residuals, gradient):
  x, kernel = residuals
  # Without the barrier, every term of the sums computes the output gradient again.
  gradient = jax.lax.optimization_barrier(gradient)
  x_gradient = sum(
    _shift(gradient, padding - j, x.shape[1]) * kernel[j][None, None] for j in range(len(kernel))
  )
  x, length = _pad_start(x, padding), gradient.shape[1]
  # A single sum over tokens of all products, because XLA would keep the products of k sums.
  products = jnp.concatenate([x[:, j : j + length] * gradient for j in range(len(kernel))], -1)
  return x_gradient, sum_over_tokens(products, (kernel.size,)).reshape(kernel.shape)


_depthwise_convolution_on_cpu.defvjp(_depthwise_forward, _depthwise_backward)


def depthwise_convolution(x: jax.Array, kernel: jax.Array, padding: int = 0) -> jax.Array:
  """Convolves each channel of x [B, S, D] with a separate kernel, after `padding` zeros.

  The result is a sum of shifted products. XLA's depthwise convolution is many times slower on a
  CPU, and elsewhere no faster for the few kernel entries used here. On a CPU the gradient is
  defined explicitly. For a single sequence of 4096 tokens and 128 channels, kernel 4 and a SiLU,
  the forward and the backward pass take 3.4 ms on a core, and 23 ms if JAX derives the gradient.
  The input is padded once. With a separate padded copy for each kernel entry, which XLA keeps for
  the backward pass, and separate sums, a training step with two layers of Mamba-2 took 22.9 instead
  of 18.2 KB a token (`experiments.parallelism --preset=layers`).

  Args:
    x: the input [B, S, D].
    kernel: [k, D]. Its last entry multiplies the latest token.
    padding: p, the number of zeros before the first token, at most k - 1.

  Returns:
    The convolution [B, S + p - k + 1, D].

  """
  if platform.current_platform() == 'cpu':
    return _depthwise_convolution_on_cpu(x, kernel, padding)
  return _sum_of_shifted_products(x, kernel, padding)
