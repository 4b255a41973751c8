"""The optimiser, and the schedule of the learning rate relative to its peak.

The peak learning rate is an argument of the training step, because the members of an ensemble
differ in their learning rate and share one compiled program.

Weight decay applies to a parameter according to its name alone, and every layer follows Flax's
convention for names. A matrix or filter that multiplies the input is called `kernel` or
`<something>_kernel`, and a token embedding table is called `embedding`. A new layer that follows
this convention needs no entry in this module.
"""

import jax
import jax.numpy as jnp
import optax

from experiments.lab.training.recipe import Recipe

MAX_FLATTENED_SIZE = 2**22  # parameters that are transformed as a single vector
MAX_NORM = 2.0**60  # the largest gradient norm that Adam can square in float32
RESCALING = 2.0**-100  # multiplied by it, any float32 number can be squared and summed


def learning_rate_schedule(recipe: Recipe):
  """Returns a schedule that maps a step to the learning rate divided by its peak."""
  warmup = max(1, round(recipe.warmup * recipe.steps))
  after_warmup = {
    'constant': optax.constant_schedule(1.0),
    'cosine': optax.cosine_decay_schedule(1.0, max(1, recipe.steps - warmup)),
    'inverse_sqrt': lambda step: jnp.sqrt(warmup / (step + warmup + 1)),
  }[recipe.schedule]
  return optax.join_schedules([lambda step: (step + 1) / warmup, after_warmup], [warmup])


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
  """Returns Adam or AdamW with gradient clipping, without multiplication by a learning rate.

  The caller multiplies the updates by the negative learning rate.
  """
  adam = flatten_small_trees(optax.chain(
    clip_by_global_norm(min(recipe.clip or MAX_NORM, MAX_NORM)),
    optax.scale_by_adam(recipe.beta1, recipe.beta2, recipe.epsilon),
  ))
  if recipe.optimizer == 'adam':
    return adam
  return optax.chain(adam, optax.add_decayed_weights(recipe.weight_decay, weight_decay_mask))


def flatten_small_trees(inner: optax.GradientTransformation) -> optax.GradientTransformation:
  """Applies a transformation to a single vector of all parameters, if there are few of them.

  The operations of Adam on each of 25 arrays are a third of the compile time of a training step
  (on two CPU cores 1.8 of 6 s for Mamba-2, and 0.3 s for a vector). Large models are transformed
  array by array, because a vector of all gradients would be a further copy of them.
  """
  flat = optax.flatten(inner)

  def select_transformation(parameters):
    size = sum(leaf.size for leaf in jax.tree.leaves(parameters))
    return flat if size <= MAX_FLATTENED_SIZE else inner

  def init(parameters):
    return select_transformation(parameters).init(parameters)

  def update(gradients, state, parameters=None):
    return select_transformation(gradients).update(gradients, state, parameters)

  return optax.GradientTransformation(init, update)


def weight_decay_mask(parameters):
  """A tree of booleans, true for the kernels and embeddings to which weight decay applies.

  Weight decay does not apply to biases, scales of norms and of weight normalisation, skips and
  other gains, rates and steps of state spaces, and learned positions, which are added as biases
  are.
  """
  def has_weight_decay(path, _):
    name = str(path[-1].key)
    return name in ('kernel', 'embedding') or name.endswith('_kernel')

  return jax.tree_util.tree_map_with_path(has_weight_decay, parameters)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
  """Clips gradients to a global norm, even if their squares overflow in float32.

  `optax.clip_by_global_norm` squares gradients without rescaling. Above about 2e19, their norm is
  then infinite and the update is 0. Here such gradients are rescaled before their norm is computed.
  Where no square overflows, the update equals that of optax to the last bit. NaN and infinity
  become NaN.
  """
  def clip_gradients(gradients, state, parameters=None):
    del parameters

    def norm_of_scaled_gradients(gradients, scale):
      return jnp.sqrt(sum(jnp.sum(jnp.square(scale * g)) for g in jax.tree.leaves(gradients)))

    plain_norm = norm_of_scaled_gradients(gradients, 1.0)
    fits = jnp.isfinite(plain_norm)
    scale = jnp.where(fits, 1.0, RESCALING)
    norm = jax.lax.cond(
      fits, lambda: plain_norm, lambda: norm_of_scaled_gradients(gradients, RESCALING))
    return jax.tree.map(
      lambda g: jnp.where(norm < scale * max_norm, g, scale * g / norm * max_norm), gradients
    ), state

  return optax.GradientTransformation(lambda _: optax.EmptyState(), clip_gradients)
