"""The optimiser, for a learning rate that is data: members of one ensemble differ in it.

What is decayed is decided by a parameter's name alone, which every layer gives by Flax's custom:
a matrix or filter that multiplies what is read is called `kernel` or `<something>_kernel`, the
table that tokens are looked up in `embedding`. A new layer that keeps to it needs no entry here.
"""

import jax
import jax.numpy as jnp
import optax

from experiments.lab.training.recipe import Recipe

LONGEST = 2.0**60  # the norm of a gradient that Adam can square
SMALL = 2.0**-100  # times a float32 number, its square and a sum of many of them are such numbers


def schedule(recipe: Recipe):
  """Step -> the part of the peak learning rate that holds there, in [0, 1]."""
  warmup = max(1, round(recipe.warmup * recipe.steps))
  after = {
    'constant': optax.constant_schedule(1.0),
    'cosine': optax.cosine_decay_schedule(1.0, max(1, recipe.steps - warmup)),
    'inverse_sqrt': lambda step: jnp.sqrt(warmup / (step + warmup + 1)),
  }[recipe.schedule]
  return optax.join_schedules([lambda step: (step + 1) / warmup, after], [warmup])


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
  """What turns gradients into updates for a learning rate of -1: the caller scales them."""
  parts = [shortened(min(recipe.clip or LONGEST, LONGEST))]
  parts.append(optax.scale_by_adam(recipe.beta1, recipe.beta2, recipe.epsilon))
  if recipe.optimizer == 'adamw':
    parts.append(optax.add_decayed_weights(recipe.weight_decay, decayed))
  return optax.chain(*parts)


def decayed(parameters):
  """True for the parameters that are decayed: kernels and embeddings, by their names.

  Not decayed is all else: biases, scales of norms and of weight normalisation, skips and other
  gains, rates and steps of state spaces, learned positions, which are added as biases are.
  """
  def weight(path, _):
    name = str(path[-1].key)
    return name in ('kernel', 'embedding') or name.endswith('_kernel')

  return jax.tree_util.tree_map_with_path(weight, parameters)


def shortened(longest: float) -> optax.GradientTransformation:
  """Scales gradients down to a global norm, also those whose squares float32 cannot hold.

  `optax.clip_by_global_norm` squares gradients as they are: from about 2e19 on their norm is
  infinite and the update 0. Here the norm is then taken of a small multiple of them; where no
  square overflows, the update is optax's to the last bit. NaN and infinity become NaN.
  """
  def update(gradients, state, parameters=None):
    del parameters

    def norm(unit):
      return jnp.sqrt(sum(jnp.sum(jnp.square(unit * g)) for g in jax.tree.leaves(gradients)))

    plain = norm(1.0)
    fits = jnp.isfinite(plain)
    unit = jnp.where(fits, 1.0, SMALL)
    length = jax.lax.cond(fits, lambda: plain, lambda: norm(SMALL))  # in multiples of 1 / unit
    return jax.tree.map(
      lambda g: jnp.where(length < unit * longest, g, unit * g / length * longest), gradients
    ), state

  return optax.GradientTransformation(lambda _: optax.EmptyState(), update)
