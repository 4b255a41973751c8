"""The optimiser, for a learning rate that is data: members of one ensemble differ in it."""

import jax
import jax.numpy as jnp
import optax

from experiments.training.recipe import Recipe


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
  parts = [optax.clip_by_global_norm(recipe.clip)] if recipe.clip else []
  parts.append(optax.scale_by_adam(recipe.beta1, recipe.beta2, recipe.epsilon))
  if recipe.optimizer == 'adamw':
    parts.append(optax.add_decayed_weights(recipe.weight_decay, matrices))
  return optax.chain(*parts)


def matrices(parameters):
  """True for the parameters that are decayed: those with two axes or more."""
  return jax.tree.map(lambda p: p.ndim > 1, parameters)
