"""Next-byte prediction on real text that every machine with Python has: its standard library.

The corpus is the source of the library's top-level modules, about 4.5 MB. Files, not crops, are
dealt to the splits, by a hash of their name, so that no passage is in two of them:

  sha256(name) mod 10 = 0: validation, 1: test, 2 to 9: train.

A score is in bits per byte, -log2 p(next byte), and depends on the version of Python: `digest`
names the bytes that were read, and numbers compare only under the same digest.

Shannon 1951, "Prediction and entropy of printed English", for the measure.
"""

import dataclasses
import functools
import hashlib
import math
import sys
import sysconfig
from pathlib import Path
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.tasks.task import SPLITS, Batch, Metric, Space, Task, certain

NUM_BYTES = 256
SMALLEST_SPLIT = 2**16  # bytes; with less, a split says little


class Corpus(NamedTuple):
  """The bytes of each split, and the files that they came from."""

  data: dict[str, np.ndarray]  # split -> uint8 [N]
  files: dict[str, tuple[str, ...]]  # split -> names, in the order of the bytes
  digest: str  # of all bytes: two corpora with the same digest are the same


def split_of(name: str) -> str:
  """The split that a file belongs to, by its name alone: about 8, 1 and 1 in 10."""
  residue = int.from_bytes(hashlib.sha256(name.encode()).digest(), 'big') % 10
  return {0: 'validation', 1: 'test'}.get(residue, 'train')


@functools.cache
def read_corpus(folder: str) -> Corpus:
  """The top-level modules in `folder` that are the standard library's own, in order of name."""
  # The list of names leaves out what an installation adds, such as its build configuration.
  paths = [path for path in sorted(Path(folder).glob('*.py'))
           if path.stem in sys.stdlib_module_names]
  files = {split: tuple(path.name for path in paths if split_of(path.name) == split)
           for split in SPLITS}
  text = {split: b''.join(Path(folder, name).read_bytes() for name in names)
          for split, names in files.items()}
  sizes = ', '.join(f'{split} {len(text[split])}' for split in SPLITS)
  if min(map(len, text.values())) < SMALLEST_SPLIT:
    raise OSError(
      f'the source of the Python standard library in {folder} has too few bytes ({sizes}; each'
      f' split needs {SMALLEST_SPLIT}): install Python with its library as .py files'
    )
  data = {split: np.frombuffer(text[split], np.uint8) for split in SPLITS}
  digest = hashlib.sha256(b''.join(text[split] for split in SPLITS)).hexdigest()[:12]
  return Corpus(data, files, digest)


@functools.cache
def unigram(folder: str) -> np.ndarray:
  """Log-probability [256] of each byte of the training split, every byte counted once more."""
  counts = 1 + np.bincount(read_corpus(folder).data['train'], minlength=NUM_BYTES)
  return np.log(counts / counts.sum())


@dataclasses.dataclass(frozen=True)
class Text(Task):
  """Predict the next byte of Python source, in crops of `length` bytes.

  The last byte of a crop has no weight: what follows it is in the text but not in the source, so
  that no oracle could know it. Two examples (`.` has no weight), the bytes of `import` and `x = 0`:

    text(length=6)
      source  105 109 112 111 114 116
      target  109 112 111 114 116   .

    text(length=5)
      source  120 32 61 32 48
      target   32 61 32 48  .

  There is no published setting: the corpus is this repository's own.
  """

  length: int = 256

  family: ClassVar[str] = 'text'
  axis: ClassVar[str] = 'context'
  metric: ClassVar[Metric] = Metric('bits per byte', perfect=0.0)

  def __post_init__(self):
    if not 2 <= self.length < SMALLEST_SPLIT:
      raise ValueError(f'length={self.length}: text needs 2 to {SMALLEST_SPLIT - 1} bytes')

  @property
  def inputs(self) -> Space:
    """Bytes."""
    return Space('tokens', NUM_BYTES)

  @property
  def distance(self) -> int:
    """The context: how many bytes a prediction can look back over."""
    return self.length

  @property
  def corpus(self) -> Corpus:
    """What is read, kept in memory after the first time."""
    return read_corpus(sysconfig.get_path('stdlib'))

  @property
  def digest(self) -> str:
    """Names the corpus: scores compare only under the same digest."""
    return self.corpus.digest

  @property
  def chance(self) -> float:
    """Cross-entropy, in bits, of the test split under the training split's byte frequencies."""
    surprise = -unigram(sysconfig.get_path('stdlib')) / math.log(2)
    return float(np.mean(surprise[self.corpus.data['test']]))

  def at(self, distance: int) -> 'Text':
    """Another context."""
    return dataclasses.replace(self, length=distance)

  def batch(self, split: str, index, batch_size: int) -> Batch:
    """Crops that begin anywhere in the split."""
    key = self.key(split, index)
    # A constant of the compiled step: 4 MB add 50 ms to its compilation and nothing to its run.
    data = jnp.asarray(self.corpus.data[split])
    starts = jax.random.randint(key, (batch_size, 1), 0, data.size - self.length)
    crop = data[starts + jnp.arange(self.length + 1)[None, :]].astype(jnp.int32)
    weight = jnp.ones((batch_size, self.length)).at[:, -1].set(0.0)
    return Batch(crop[:, :-1], crop[:, 1:], weight)

  def oracle(self, source: jax.Array) -> jax.Array:
    """The source, one byte ahead; the last prediction is void, as its weight says."""
    return certain(jnp.roll(source, -1, axis=1), NUM_BYTES)

  def baseline(self, source: jax.Array) -> jax.Array:
    """Byte frequencies of the training split."""
    frequencies = jnp.asarray(unigram(sysconfig.get_path('stdlib')), jnp.float32)
    return jnp.broadcast_to(frequencies, (*source.shape, NUM_BYTES))

  def measure(self, outputs: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy in bits where it counts."""
    nats = jnp.sum(batch.weight * self.loss(outputs, batch))
    return nats / math.log(2), jnp.sum(batch.weight)
