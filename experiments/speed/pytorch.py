"""PyTorch's forms of what is compared for speed, the only place that knows PyTorch.

It is an extra: nothing but a comparison needs it, and it is loaded when one does. Where JAX runs on
a GPU, PyTorch has to run on the same one, or it is left out.
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
from experiments.speed.contest import RATE, Contestant, LeftOut

INSTALL = optional.install('bench')


def version() -> str:
  """PyTorch's version; '' where it is not installed."""
  try:
    return importlib.metadata.version('torch')
  except importlib.metadata.PackageNotFoundError:
    return ''


@functools.cache
def load() -> Any:
  """PyTorch, on all cores, or on the GPU with the digits that JAX multiplies with there."""
  try:
    torch = importlib.import_module('torch')
  except ModuleNotFoundError as error:
    if error.name != 'torch':
      raise
    raise LeftOut(f'a dash where PyTorch is not installed: {INSTALL}') from None
  platform = jax.default_backend()
  if platform != 'cpu' and not (platform == 'gpu' and torch.cuda.is_available()):
    raise LeftOut(f'JAX runs on a {platform}, and this PyTorch does not')
  torch.set_num_threads(environment.cores())
  torch.set_float32_matmul_precision('high')  # says nothing to a CPU
  return torch


def place() -> str:
  """Where tensors live: beside JAX's arrays."""
  return 'cpu' if jax.default_backend() == 'cpu' else 'cuda'


def tensor(array: Any) -> Any:
  """An array as a tensor of PyTorch's own."""
  return load().tensor(np.array(array), device=place())


def array(tensor: Any) -> np.ndarray:
  """A tensor as an array."""
  return tensor.detach().cpu().numpy().copy()


def waited(call: Callable[[], Any]) -> Callable[[], Any]:
  """A call that ends when the device has done its work."""
  if place() == 'cpu':
    return call
  torch = load()

  def waiting():
    result = call()
    torch.cuda.synchronize()
    return result

  return waiting


def enter(function: Callable, arguments: tuple, pull: Any, steps: int) -> Contestant:
  """A contestant that is a function of PyTorch, as `contest.in_jax` is one that is of JAX.

  Args:
    function: of parameters in the places of the arguments; returns a call for the output.
    arguments: trees of arrays.
    pull: what the output is multiplied with for the scalar whose gradient is taken.
    steps: as in `contest.contest`.

  """
  torch = load()
  starts, tree = jax.tree.flatten(arguments)
  leaves = [torch.nn.Parameter(tensor(leaf)) for leaf in starts]
  call, pull = function(*jax.tree.unflatten(tree, leaves)), tensor(pull)

  def forward():
    with torch.no_grad():
      return call()

  def gradient():
    output = call()
    return output, torch.autograd.grad(output, leaves, pull)

  def descend():
    for _ in range(steps):
      _, slopes = gradient()
      with torch.no_grad():
        for leaf, slope in zip(leaves, slopes, strict=True):
          leaf -= RATE * slope

  def found(tensors: Sequence) -> Any:
    return jax.tree.unflatten(tree, [array(one) for one in tensors])

  def descended():
    descend()
    return {'gradient': found(leaves)}

  def results():
    output, slopes = gradient()
    return {'output': array(output), 'gradient': found(slopes)}

  if steps:
    return Contestant({'gradient': waited(descend)}, descended)
  return Contestant({'forward': waited(forward), 'gradient': waited(gradient)}, results)


def rnn(kind: str, weights: dict, x: Any) -> Callable[[], Any]:
  """`torch.nn.LSTM` or `torch.nn.GRU` with these weights, batch first."""
  width = x.shape[-1]
  layer = getattr(load().nn, kind)(width, width, batch_first=True, device=place())
  for name, weight in weights.items():
    setattr(layer, name, weight)
  return lambda: layer(x)[0]


def attention(query: Any, key: Any, value: Any) -> Callable[[], Any]:
  """The fused kernel, on [B, H, T, K]."""
  fused = load().nn.functional.scaled_dot_product_attention
  return lambda: fused(query, key, value, is_causal=True)


def convolution(dilation: int, kernel: Any, bias: Any, x: Any) -> Callable[[], Any]:
  """A causal convolution: a kernel [F, D, k] over x [B, D, T] with zeros before the first token."""
  functional, past = load().nn.functional, (kernel.shape[-1] - 1) * dilation
  return lambda: functional.conv1d(
    functional.pad(x, (past, 0)), kernel, bias, dilation=dilation
  )


def decoder(
  weights: dict, timed: Sequence, tried: Sequence, depth: int, heads: int, rate: float, decay: float
) -> Contestant:
  """The training step of a decoder in eager PyTorch with its fused AdamW.

  Args:
    weights: by the names of `decoder_module`.
    timed: (source, target) [B, T] of the steps of a timed call.
    tried: those of the steps whose result must agree.
    depth: blocks.
    heads: H.
    rate: AdamW's learning rate.
    decay: AdamW's decay, of all weights but biases and norms.

  """
  torch = load()

  def training(batches):
    """A call that makes one step a batch, from the parameters as they are; and those."""
    vocabulary, width = weights['embedding.weight'].shape
    model = decoder_module(vocabulary, width, depth, heads).to(place())
    model.load_state_dict({name: tensor(weight) for name, weight in weights.items()})
    batches = [(tensor(source).long(), tensor(target).long()) for source, target in batches]
    groups = [[p for p in model.parameters() if (p.ndim > 1) == matrix] for matrix in (True, False)]
    change = torch.optim.AdamW(
      [{'params': groups[0], 'weight_decay': decay}, {'params': groups[1], 'weight_decay': 0.0}],
      lr=rate, fused=True,
    )

    def steps():
      losses = []
      for source, target in batches:
        change.zero_grad(set_to_none=True)
        scores = model(source)
        loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), target.flatten())
        loss.backward()
        change.step()
        losses.append(loss.detach())
      return losses

    return steps, model

  def results():
    steps, model = training(tried)
    losses = steps()
    moved = {name: array(weight) for name, weight in model.state_dict().items()}
    return [array(loss) for loss in losses], moved

  return Contestant({'gradient': waited(training(timed)[0])}, results)


def decoder_module(vocabulary: int, width: int, depth: int, heads: int) -> Any:
  """Pre-norm blocks of fused attention and a GELU network, as PyTorch's users write them."""
  torch = load()
  nn = torch.nn

  def norm():
    return nn.LayerNorm(width, eps=1e-6)  # Flax's

  class Block(nn.Module):
    def __init__(self):
      super().__init__()
      self.norms = nn.ModuleList([norm(), norm()])
      self.project = nn.Linear(width, 3 * width, bias=False)
      self.output = nn.Linear(width, width, bias=False)
      self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):  # [B, T, D]
      heads_apart = self.project(self.norms[0](x)).unflatten(-1, (3, heads, -1))
      query, key, value = heads_apart.permute(2, 0, 3, 1, 4)  # each [B, H, T, K]
      y = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
      x = x + self.output(y.transpose(1, 2).flatten(2))
      y = nn.functional.gelu(self.expand(self.norms[1](x)), approximate='tanh')
      return x + self.contract(y)

  class Decoder(nn.Module):
    def __init__(self):
      super().__init__()
      self.embedding = nn.Embedding(vocabulary, width)
      self.blocks = nn.ModuleList([Block() for _ in range(depth)])
      self.last_norm, self.head = norm(), nn.Linear(width, vocabulary)

    def forward(self, tokens):  # [B, T] -> [B, T, V]
      x = self.embedding(tokens)
      for block in self.blocks:
        x = block(x)
      return self.head(self.last_norm(x))

  return Decoder()
