"""Training steps of a language model in eager PyTorch, with the fused AdamW optimizer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.speed.benchmark import Implementation
from experiments.speed.pytorch.execution import (
  load_torch,
  synchronized_call,
  to_array,
  to_tensor,
  torch_device,
)


def prepare_eager_training(
  build_model: Callable[[], Any], initial_weights: Mapping[str, Any], timed_batches: Sequence,
  verification_batches: Sequence, learning_rate: float, weight_decay: float,
) -> Implementation:
  """Prepares the timed training steps of a model in eager PyTorch with fused AdamW.

  Args:
    build_model: Builds the `torch.nn.Module`, which maps token ids [B, T] to logits [B, T, V].
    initial_weights: Initial weights by their names in the model.
    timed_batches: Pairs (source, target) of token ids [B, T], one per step of a timed call.
    verification_batches: Pairs of the same kind for the steps whose results are compared.
    learning_rate: Learning rate of AdamW.
    weight_decay: Decay of all weights except vectors, such as biases and norms.

  Returns:
    The timed call, and results that consist of the losses and of the weights by name.

  """
  torch = load_torch()

  def make_training_function_and_model(batches):
    """Returns a function that trains on all batches, and the new model that it trains."""
    model = build_model().to(torch_device())
    model.load_state_dict(
      {name: to_tensor(weight) for name, weight in initial_weights.items()})
    batches = [(to_tensor(source).long(), to_tensor(target).long()) for source, target in batches]
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [[p for p in trained if (p.ndim > 1) == decays] for decays in (True, False)]
    optimizer = torch.optim.AdamW(
      [{'params': groups[0], 'weight_decay': weight_decay},
       {'params': groups[1], 'weight_decay': 0.0}],
      lr=learning_rate, fused=True,
    )

    def train_on_all_batches():
      losses = []
      for source, target in batches:
        optimizer.zero_grad(set_to_none=True)
        logits = model(source)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
      return losses

    return train_on_all_batches, model

  def train_and_return_losses_and_weights():
    train_on_all_batches, model = make_training_function_and_model(verification_batches)
    losses = train_on_all_batches()
    trained_weights = {name: to_array(weight) for name, weight in model.state_dict().items()}
    return [to_array(loss) for loss in losses], trained_weights

  train_on_all_batches, _ = make_training_function_and_model(timed_batches)
  return Implementation(
    {'steps': synchronized_call(train_on_all_batches)}, train_and_return_losses_and_weights)
