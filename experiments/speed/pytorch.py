"""PyTorch implementations of the benchmarked computations.

PyTorch is an optional dependency that only the benchmarks need, and only this module imports it for
them. It is imported when the first benchmark requests it. Where JAX runs on a GPU, PyTorch must
support the same GPU, or its implementations are left out.
"""

import functools
import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from experiments.lab import optional
from experiments.lab.cells import environment
from experiments.speed.benchmark import STEP_SIZE, Implementation, Unavailable

INSTALL = optional.install_command('bench')


def installed_torch_version() -> str:
  """Returns the version of PyTorch, or an empty string if PyTorch is not installed."""
  try:
    return importlib.metadata.version('torch')
  except importlib.metadata.PackageNotFoundError:
    return ''


@functools.cache
def load_torch() -> Any:
  """Imports PyTorch, and sets the number of CPU threads and the float32 precision on a GPU."""
  try:
    torch = importlib.import_module('torch')
  except ModuleNotFoundError as error:
    if error.name != 'torch':
      raise
    raise Unavailable(
      f'PyTorch is not installed, so its rows show dashes (to install: {INSTALL})') from None
  platform = jax.default_backend()
  if platform != 'cpu' and not (platform == 'gpu' and torch.cuda.is_available()):
    raise Unavailable(f'JAX runs on a {platform}, which this installation of PyTorch cannot use')
  torch.set_num_threads(environment.available_cores())
  torch.set_float32_matmul_precision('high')  # has no effect on a CPU
  return torch


def torch_device() -> str:
  """Returns the PyTorch device that corresponds to JAX's default device."""
  return 'cpu' if jax.default_backend() == 'cpu' else 'cuda'


def to_tensor(array: Any) -> Any:
  """Copies an array into a PyTorch tensor on the benchmark's device."""
  return load_torch().tensor(np.array(array), device=torch_device())


def to_array(tensor: Any) -> np.ndarray:
  """Copies a PyTorch tensor into a NumPy array."""
  return tensor.detach().cpu().numpy().copy()


def synchronized_call(call: Callable[[], Any]) -> Callable[[], Any]:
  """Wraps a call so that it returns only after the device has finished the computation."""
  if torch_device() == 'cpu':
    return call
  torch = load_torch()

  def call_and_synchronize():
    result = call()
    torch.cuda.synchronize()
    return result

  return call_and_synchronize


def prepare_torch_implementation(
  function: Callable, arguments: tuple, cotangent: Any, steps: int
) -> Implementation:
  """Prepares timed calls of a PyTorch function and its gradient.

  If `steps` is positive, gradient descent steps are timed instead.

  Args:
    function: Function of the arguments, which are passed as PyTorch parameters. It returns a call
      that computes the output.
    arguments: Trees of arrays.
    cotangent: Array that is multiplied with the output to give the scalar whose gradient is taken.
    steps: Number of gradient descent steps, as in `benchmark.make_benchmark`.

  Returns:
    The calls and their results, without a memory plan.

  """
  torch = load_torch()
  initial_leaves, tree = jax.tree.flatten(arguments)
  leaves = [torch.nn.Parameter(to_tensor(leaf)) for leaf in initial_leaves]
  call, cotangent = function(*jax.tree.unflatten(tree, leaves)), to_tensor(cotangent)

  def forward_without_gradient():
    with torch.no_grad():
      return call()

  def output_and_gradient():
    output = call()
    return output, torch.autograd.grad(output, leaves, cotangent)

  def run_gradient_descent():
    for _ in range(steps):
      _, gradients = output_and_gradient()
      with torch.no_grad():
        for leaf, gradient in zip(leaves, gradients, strict=True):
          leaf -= STEP_SIZE * gradient

  def tensors_to_array_pytree(tensors: Sequence) -> Any:
    return jax.tree.unflatten(tree, [to_array(tensor) for tensor in tensors])

  def run_gradient_descent_and_return_parameters():
    run_gradient_descent()
    return {'gradient': tensors_to_array_pytree(leaves)}

  def results_of_forward_and_backward_pass():
    output, gradients = output_and_gradient()
    return {'output': to_array(output), 'gradient': tensors_to_array_pytree(gradients)}

  if steps:
    return Implementation(
      {'gradient': synchronized_call(run_gradient_descent)},
      run_gradient_descent_and_return_parameters)
  return Implementation(
    {
      'forward': synchronized_call(forward_without_gradient),
      'gradient': synchronized_call(output_and_gradient),
    },
    results_of_forward_and_backward_pass,
  )


def create_recurrent_layer_closure(class_name: str, weights: dict, x: Any) -> Callable[[], Any]:
  """Returns a function that applies PyTorch's LSTM or GRU layer to the given input.

  Args:
    class_name: 'LSTM' or 'GRU', the name of the class in `torch.nn`.
    weights: Weights by attribute name of the PyTorch layer.
    x: Input [B, T, D].

  Returns:
    A function without arguments that computes the output [B, T, D].

  """
  width = x.shape[-1]
  layer_class = getattr(load_torch().nn, class_name)
  layer = layer_class(width, width, batch_first=True, device=torch_device())
  for name, weight in weights.items():
    setattr(layer, name, weight)
  return lambda: layer(x)[0]


def create_fused_attention_closure(query: Any, key: Any, value: Any) -> Callable[[], Any]:
  """Returns a function that applies PyTorch's fused causal attention to the given tensors.

  Args:
    query: Queries [B, H, T, K].
    key: Keys [B, H, T, K].
    value: Values [B, H, T, K].

  Returns:
    A function without arguments that computes the output [B, H, T, K].

  """
  attend = load_torch().nn.functional.scaled_dot_product_attention
  return lambda: attend(query, key, value, is_causal=True)


def create_causal_convolution_closure(
  dilation: int, kernel: Any, bias: Any, x: Any
) -> Callable[[], Any]:
  """Returns a function that applies PyTorch's convolution to an input padded with zeros in front.

  Args:
    dilation: Distance in tokens between neighbouring kernel taps.
    kernel: Kernel [F, D, k].
    bias: Bias [F].
    x: Input [B, D, T].

  Returns:
    A function without arguments that computes the output [B, F, T].

  """
  functional, padding = load_torch().nn.functional, (kernel.shape[-1] - 1) * dilation
  return lambda: functional.conv1d(
    functional.pad(x, (padding, 0)), kernel, bias, dilation=dilation
  )


def prepare_eager_decoder_training(
  initial_weights: dict, timed_batches: Sequence, verification_batches: Sequence, depth: int,
  heads: int, learning_rate: float, weight_decay: float,
) -> Implementation:
  """Prepares the timed training steps of a decoder in eager PyTorch with fused AdamW.

  Args:
    initial_weights: Initial weights by their names in `build_torch_decoder`.
    timed_batches: Pairs (source, target) of token ids [B, T], one per step of a timed call.
    verification_batches: Pairs of the same kind for the steps whose results are compared.
    depth: Number of blocks.
    heads: Number of attention heads H.
    learning_rate: Learning rate of AdamW.
    weight_decay: Decay of all weights except biases and norms.

  Returns:
    The timed call, and results that consist of the losses and of the weights by name.

  """
  torch = load_torch()

  def make_training_function_and_model(batches):
    """Returns a function that trains on all batches, and the new decoder that it trains."""
    vocabulary, width = initial_weights['embedding.weight'].shape
    model = build_torch_decoder(vocabulary, width, depth, heads).to(torch_device())
    model.load_state_dict(
      {name: to_tensor(weight) for name, weight in initial_weights.items()})
    batches = [(to_tensor(source).long(), to_tensor(target).long()) for source, target in batches]
    groups = [[p for p in model.parameters() if (p.ndim > 1) == matrix] for matrix in (True, False)]
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
    {'gradient': synchronized_call(train_on_all_batches)}, train_and_return_losses_and_weights)


def build_torch_decoder(vocabulary: int, width: int, depth: int, heads: int) -> Any:
  """Builds a PyTorch decoder of pre-norm blocks with fused attention and a GELU MLP.

  Args:
    vocabulary: Number of token ids V.
    width: Channels D of the residual stream.
    depth: Number of blocks.
    heads: Number of attention heads H.

  Returns:
    A `torch.nn.Module` that maps token ids [B, T] to logits [B, T, V].

  """
  torch = load_torch()
  nn = torch.nn

  def make_layer_norm():
    return nn.LayerNorm(width, eps=1e-6)  # the default epsilon of Flax

  class Block(nn.Module):
    def __init__(self):
      super().__init__()
      self.norms = nn.ModuleList([make_layer_norm(), make_layer_norm()])
      self.project = nn.Linear(width, 3 * width, bias=False)
      self.output = nn.Linear(width, width, bias=False)
      self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):  # [B, T, D]
      projected = self.project(self.norms[0](x)).unflatten(-1, (3, heads, -1))
      query, key, value = projected.permute(2, 0, 3, 1, 4)  # each [B, H, T, K]
      y = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
      x = x + self.output(y.transpose(1, 2).flatten(2))
      y = nn.functional.gelu(self.expand(self.norms[1](x)), approximate='tanh')
      return x + self.contract(y)

  class Decoder(nn.Module):
    def __init__(self):
      super().__init__()
      self.embedding = nn.Embedding(vocabulary, width)
      self.blocks = nn.ModuleList([Block() for _ in range(depth)])
      self.last_norm, self.head = make_layer_norm(), nn.Linear(width, vocabulary)

    def forward(self, tokens):  # [B, T] -> [B, T, V]
      x = self.embedding(tokens)
      for block in self.blocks:
        x = block(x)
      return self.head(self.last_norm(x))

  return Decoder()
