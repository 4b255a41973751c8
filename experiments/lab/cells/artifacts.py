"""What is kept of trained models besides their scores: what they wrote, and where they looked.

A transduction's record has the sources and the references as they stand in the data, and every
chosen member's answers as text, so that a number that is doubted can be checked; how many sentences
of the test split were not judged, and why; and the weights with which the first of the members
aligned a few sentences. A task that says where its answer hangs has the weight that each head puts
there. And the work of a training step is counted.

Batches of a corpus have several shapes. Wherever rows of several batches are put together, they are
filled up to the longest of them (`joined`).
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.corpora.reserved import END, PAD
from experiments.lab.measure import attention, work
from experiments.lab.results.store import canonical
from experiments.lab.tasks.task import Batch, Task
from experiments.lab.training.ensemble import Ensemble
from experiments.lab.training.step import Training
from experiments.lab.weights import files

ALIGNED = 2  # sentences whose alignments are kept


def collect(ensemble: Ensemble, tasks: Sequence[Task], trained, states, active) -> dict:
  """What a record keeps of the active members.

  Args:
    ensemble: all members.
    tasks: what they are tested on, their own first.
    trained: what became of each of them; of translators, how they did elsewhere is noted there.
    states: theirs, on the devices.
    active: [members] which of them are observed.

  """
  task, training = tasks[0], ensemble.training
  first = jax.tree.map(lambda x: x[np.argmax(active)], ensemble.gather(states))
  parameters = training.tested(first)
  if task.answered_by == 'translator':
    return {
      **answered(ensemble, tasks, trained, states, active),
      'alignments': alignments(task, training.model, parameters),
      'step_flops': step_flops(training, first),
    }
  if task.places(task.batch('test', 0, 1).source):
    return {'looks': [looks(training, one, parameters) for one in tasks]}
  return {}


def save(path: pathlib.Path, ensemble: Ensemble, task: Task, run: dict, trained, states, active):
  """Writes the active members' parameters, with the run and the data that they are for."""
  training, states = ensemble.training, ensemble.gather(states)
  said = {'run': canonical(run), 'vocabulary': task.digest, 'model': str(training.model)}
  for i in np.flatnonzero(active):
    own = training.tested(jax.tree.map(lambda x: x[i], states))  # noqa: B023
    place = path.with_name(f'{path.name}-seed{trained[i].seed}.safetensors')
    place.parent.mkdir(parents=True, exist_ok=True)
    files.save(place, own, said)


def answered(ensemble: Ensemble, tasks: Sequence[Task], trained, states, active) -> dict:
  """What the active members wrote to every task's test split, and how good it is."""
  recipe, kept = ensemble.training.recipe, []
  sides = [max(lengths) for lengths in zip(*((t.source_length, t.target_length) for t in tasks),
                                           strict=True)]
  for task in tasks:
    batches = test_batches(task, recipe.batch_size, recipe.test_batches, *sides)
    answers = [ensemble.gather(ensemble.answer(states, batch, active)) for batch in batches]
    seeds = {str(trained[i].seed): i for i in np.flatnonzero(active)}
    kept.append(written(task, recipe.batch_size, seeds, batches, answers) | blind(batches))
    broken = np.any([answer.broken.any(1) for answer in answers], 0)
    sums = jax.tree.map(lambda *parts: np.sum(parts, 0), *(answer[:2] for answer in answers))
    for i in np.flatnonzero(active):
      metric, loss = (float(total[i] / max(count[i], 1)) for total, count in sums)
      usable = np.isfinite(loss) and not broken[i]
      if task is not tasks[0]:
        trained[i].extrapolation.append(metric if usable else np.nan)
        trained[i].extrapolation_loss.append(loss)
      elif not usable:
        trained[i].diverge()
  return {'written': kept}


@functools.cache
def test_batches(task: Task, batch_size: int, count: int, source_length: int, target_length: int):
  """Batches of the test split on the host, filled up to common lengths: one program serves all."""
  if task.streams:
    return [task.batch('test', i, batch_size)
            for i in range(min(count, task.batches('test', batch_size)))]
  batch = jax.jit(functools.partial(task.batch, 'test', batch_size=batch_size))

  def filled(x, length):
    return np.pad(x, ((0, 0), (0, length - x.shape[1])))

  lengths = source_length, target_length, target_length
  return [Batch(*map(filled, map(np.asarray, batch(i)), lengths)) for i in range(count)]


def written(task: Task, batch_size: int, seeds: dict[str, int], batches, answers) -> dict:
  """The answers beside the sources and the references, as text; rows without weight left out.

  Args:
    task: what was asked.
    batch_size: rows of a batch, where tokens do not count.
    seeds: each seed's place among the members.
    batches: the first batches of the test split.
    answers: what the members wrote to each of them.

  """
  source, weight = (joined([getattr(b, name) for b in batches]) for name in ('source', 'weight'))
  real = weight.any(1)
  tokens = joined([answer.tokens for answer in answers])[:, real]  # [members, rows, T]
  pairs = [pair for i in range(len(batches)) for pair in task.test_sentences(i, batch_size)]
  sources, references = map(list, zip(*pairs, strict=True))
  return {
    'distance': task.distance,
    'source_length': (source[real] != PAD).sum(1).tolist(),
    'source': sources,
    'reference': references,
    'answers': {seed: [task.text(row) for row in tokens[place]] for seed, place in seeds.items()},
    'cut_off': {seed: int((tokens[place] != END).all(1).sum()) for seed, place in seeds.items()},
    'left_out': task.left_out(len(batches), batch_size),
  }


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
  """Arrays [..., rows, places] one after another, each filled up to the most places with zeros."""
  places = max(part.shape[-1] for part in parts)
  filled = [
    np.pad(part, [(0, 0)] * (part.ndim - 1) + [(0, places - part.shape[-1])]) for part in parts
  ]
  return np.concatenate(filled, -2)


def alignments(task: Task, model, parameters) -> list[dict]:
  """The weights of the decoder on the source, heads averaged, for a few sentences of the test."""
  batch = Batch(*map(np.asarray, task.batch('test', 0, ALIGNED)))
  batch = Batch(*(side[batch.weight.any(1)][:ALIGNED] for side in batch))
  arguments, named = task.arguments(batch)
  found = attention.weights(model, parameters, *arguments, **named)
  looking = {
    f'level_{i}' for i, level in enumerate(model.decoder.levels) if level.source_projection
  }
  kept = []
  for b, (source, target) in enumerate(zip(*batch[:2], strict=True)):
    source, target = source[source != PAD], target[target != PAD]
    layers = {
      name: np.asarray(weight[b].mean(0))[: len(target), : len(source)].round(4).tolist()
      for name, weight in found.items()
      if name.startswith('decoder') and looking.intersection(name.split('.'))
    }
    if model.reverse_source:  # what fills a row up stands in front then
      layers = {}
    if layers:
      pieces = [[task.text(np.array([token])) for token in side] for side in (source, target)]
      kept.append({'source': pieces[0], 'target': pieces[1], 'layers': layers})
  return kept


def looks(training: Training, task: Task, parameters) -> dict:
  """The mean weight that each head of each layer puts from the question on the antecedent."""
  recipe = training.recipe

  @jax.jit
  def weigh(index):
    batch = task.batch('test', index, recipe.batch_size)
    arguments, named = task.arguments(batch)
    found = attention.weights(training.model, parameters, *arguments, **named)
    row, at = jnp.arange(len(batch.source)), task.places(batch.source)
    return {
      name: weight[row, :, at['question'], at['antecedent']].mean(0)
      for name, weight in found.items()
    }

  batches = [weigh(index) for index in range(recipe.test_batches)]
  mean = jax.tree.map(lambda *heads: np.mean(heads, 0).tolist(), *batches)
  length = task.batch('test', 0, 1).source.shape[1]
  return {'distance': task.distance, 'tokens': length, 'heads': mean}


def step_flops(training: Training, state) -> int:
  """The products of a training step, counted in operations.

  Where batches have several shapes it is the mean over the steps, of the first epoch if there are
  more.
  """
  whole = dataclasses.replace(training, parts=1, axis=None)
  task, size, steps = training.task, training.recipe.batch_size, training.recipe.steps
  shapes = [None]
  if task.streams:
    steps = min(steps, task.batches('train', size))
    shapes = [task.shape('train', index, size) for index in range(steps)]
  first = {shape: shapes.index(shape) for shape in set(shapes)}
  counted = {
    shape: work.flops(whole.train_step, state, task.batch('train', index, size))
    for shape, index in first.items()
  }
  return round(sum(counted[shape] for shape in shapes) / len(shapes))


def blind(batches: Sequence[Batch]) -> dict[str, float]:
  """Nats a token that targets cost a model that only knows each token's frequency at each place.

  Also the mean tokens of a target. Frequencies are those of the same batches.
  """
  _, target, weight = map(joined, zip(*batches, strict=True))
  cost = 0.0
  for tokens, counts in zip(target.T, weight.T > 0, strict=True):
    often = np.unique(tokens[counts], return_counts=True)[1]
    cost -= float(np.sum(often * np.log(often / max(often.sum(), 1))))
  tokens = weight.sum() / weight.any(1).sum()
  return {'blind_loss': float(cost / weight.sum()), 'tokens': float(tokens)}
