"""Import of PyTorch, and calls of PyTorch functions and of their gradients that can be timed.

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
      {'steps': synchronized_call(run_gradient_descent)},
      run_gradient_descent_and_return_parameters)
  return Implementation(
    {
      'forward': synchronized_call(forward_without_gradient),
      'gradient': synchronized_call(output_and_gradient),
    },
    results_of_forward_and_backward_pass,
  )
