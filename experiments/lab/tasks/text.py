"""Next-byte prediction on the source code of the Python standard library.

The corpus is the source of the top-level modules of the library, about 4.5 MB, which is available
wherever Python is installed. A hash of the file name assigns whole files to the splits, so that no
passage is in two splits:

  sha256(name) mod 10 = 0: validation, 1: test, 2 to 9: train.

The metric is in bits per byte, -log2 p(next byte). It depends on the version of Python. `digest` is
a hash of the corpus, and only results with the same digest are comparable.

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

from experiments.lab.tasks.task import SPLITS, Batch, Metric, Space, Task, one_hot_logits

NUM_BYTES = 256
SMALLEST_SPLIT = 2**16  # bytes; results on a smaller split would be too noisy


class ByteCorpus(NamedTuple):
  """The bytes of each split, and the names of the files that contain them."""

  data: dict[str, np.ndarray]  # split -> uint8 [N]
  files: dict[str, tuple[str, ...]]  # split -> file names, in the order of the bytes
  digest: str  # hash of all bytes


def split_of_file(name: str) -> str:
  """Assigns a file or a sentence pair to a split by the hash of its name.

  About 80 % of all names are in the training split.
  """
  residue = int.from_bytes(hashlib.sha256(name.encode()).digest(), 'big') % 10
  return {0: 'validation', 1: 'test'}.get(residue, 'train')


@functools.cache
def read_standard_library_code(folder: str) -> ByteCorpus:
  """Reads the top-level standard library modules in a folder, and divides them into splits."""
  # The corpus is the source code of Python's standard library.
  # Files that a Python installation adds, such as its build configuration, are excluded.
  paths = [path for path in sorted(Path(folder).glob('*.py'))
           if path.stem in sys.stdlib_module_names]
  files = {split: tuple(path.name for path in paths if split_of_file(path.name) == split)
           for split in SPLITS}
  text = {split: b''.join(Path(folder, name).read_bytes() for name in names)
          for split, names in files.items()}
  sizes = ', '.join(f'{split} {len(text[split])}' for split in SPLITS)
  if min(map(len, text.values())) < SMALLEST_SPLIT:
    raise OSError(
      f'the source of the Python standard library in {folder} has too few bytes ({sizes}; each'
      f' split needs {SMALLEST_SPLIT}); install Python with its library as .py files'
    )
  data = {split: np.frombuffer(text[split], np.uint8) for split in SPLITS}
  digest = hashlib.sha256(b''.join(text[split] for split in SPLITS)).hexdigest()[:12]
  return ByteCorpus(data, files, digest)


@functools.cache
def log_frequencies_of_training_bytes(corpus_folder: str) -> np.ndarray:
  """The log-frequency [256] of each byte value in the training split, with add-one smoothing."""
  training_bytes = read_standard_library_code(corpus_folder).data['train']
  counts = 1 + np.bincount(training_bytes, minlength=NUM_BYTES)
  return np.log(counts / counts.sum())


@dataclasses.dataclass(frozen=True)
class Text(Task):
  """Prediction of the next byte at each position of `length` bytes of Python source code.

  The last position of a crop has no weight, because its target is not in the source and the oracle
  could not predict it. Two examples (`.` has no weight), the bytes of `import` and `x = 0`:

    text(length=6)
      source  105 109 112 111 114 116
      target  109 112 111 114 116   .

    text(length=5)
      source  120 32 61 32 48
      target   32 61 32 48  .

  There is no published setting, because only this repository uses the corpus.
  """

  length: int = 256

  family: ClassVar[str] = 'text'
  axis: ClassVar[str] = 'context'
  metric: ClassVar[Metric] = Metric('bits per byte', perfect=0.0)

  def __post_init__(self):
    if not 2 <= self.length < SMALLEST_SPLIT:
      raise ValueError(f'length={self.length}: text needs 2 to {SMALLEST_SPLIT - 1} bytes')

  @property
  def input_space(self) -> Space:
    return Space('tokens', NUM_BYTES)

  @property
  def dependency_distance(self) -> int:
    """The sequence length in bytes, which is the longest context of a prediction."""
    return self.length

  @property
  def corpus(self) -> ByteCorpus:
    """The bytes of all splits, which are cached in memory."""
    return read_standard_library_code(sysconfig.get_path('stdlib'))

  @property
  def digest(self) -> str:
    """A hash of the corpus.

    Scores are comparable only if they are computed on corpora with the same hash.
    """
    return self.corpus.digest

  @property
  def chance_level(self) -> float:
    """The cross-entropy of test bytes, in bits, under the byte frequencies of training data."""
    surprise = -log_frequencies_of_training_bytes(sysconfig.get_path('stdlib')) / math.log(2)
    return float(np.mean(surprise[self.corpus.data['test']]))

  def with_dependency_distance(self, distance: int) -> 'Text':
    return dataclasses.replace(self, length=distance)

  def batch(self, split: str, index, batch_size: int) -> Batch:
    """Byte sequences cropped at uniform random offsets in the data of a split."""
    key = self.batch_key(split, index)
    # Storing the corpus as a constant of the program adds 50 ms of compilation and no run time.
    data = jnp.asarray(self.corpus.data[split])
    starts = jax.random.randint(key, (batch_size, 1), 0, data.size - self.length)
    crop = data[starts + jnp.arange(self.length + 1)[None, :]].astype(jnp.int32)
    weight = jnp.ones((batch_size, self.length)).at[:, -1].set(0.0)
    return Batch(crop[:, :-1], crop[:, 1:], weight)

  def oracle_outputs(self, source: jax.Array) -> jax.Array:
    """Logits that predict the next byte of the source at each position except the last."""
    return one_hot_logits(jnp.roll(source, -1, axis=1), NUM_BYTES)

  def baseline_outputs(self, source: jax.Array) -> jax.Array:
    """Logits that are the log-frequencies of the training bytes, equal at all positions."""
    log_frequencies = log_frequencies_of_training_bytes(sysconfig.get_path('stdlib'))
    logits = jnp.asarray(log_frequencies, jnp.float32)
    return jnp.broadcast_to(logits, (*source.shape, NUM_BYTES))

  def metric_values(self, outputs: jax.Array, batch: Batch) -> jax.Array:
    """The cross-entropy at each position, in bits."""
    return self.loss(outputs, batch) / math.log(2)
