"""The interface of a model that is split into features and a head, for models made for tests."""

from flax import linen as nn


class SplitModel(nn.Module):
  """A model that applies its head, `outputs`, to `features`. Subclasses may define either."""

  def __call__(self, *arguments, **named):
    features, state = self.features(*arguments, **named)
    return self.outputs(features), state

  def features(self, source, state=None, *, mask=None, train=False):
    """The inputs of the head and a state, by default the source itself."""
    return source, ()

  def outputs(self, features):
    """The outputs for features, by default the features themselves."""
    return features

  def select_head_parameters(self, parameters):
    """All parameters, although `outputs` may use only a part of them."""
    return parameters
