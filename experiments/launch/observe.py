"""What is kept of trained models besides their scores: what they wrote, and where they looked.

A transduction's record has the sources, the references and every chosen member's answers as text,
so that whoever doubts a number can read what it is about, and the weights with which the first of
the members aligned a few sentences. A task that says where its answer hangs has the weight that
each head puts there. And the work of a training step is counted.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.corpora.reserved import PAD
from experiments.measure import attention, work
from experiments.results.store import canonical
from experiments.tasks.task import Batch, Task
from experiments.training.ensemble import Ensemble
from experiments.training.step import Training
from experiments.weights import files

ALIGNED = 2  # sentences whose alignments are kept


def observe(ensemble: Ensemble, tasks: Sequence[Task], trained, states, active) -> dict:
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
    kept.append(written(task, trained, active, batches, answers) | blind(batches))
    if task is not tasks[0]:
      sums = jax.tree.map(lambda *parts: np.sum(parts, 0), *(answer[:2] for answer in answers))
      for i in np.flatnonzero(active):
        metric, loss = (float(total[i] / max(count[i], 1)) for total, count in sums)
        trained[i].farther.append(metric)
        trained[i].farther_loss.append(loss)
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


def written(task: Task, trained, active, batches, answers) -> dict:
  """The answers beside the sources and the references, as text; rows without weight left out."""
  rows = [row for batch in batches for row in zip(*batch, strict=True)]
  real = [i for i, (_, _, weight) in enumerate(rows) if weight.any()]
  tokens = np.concatenate([_as_wide(a.tokens, answers) for a in answers], 1)  # [members, rows, T]
  return {
    'distance': task.distance,
    'source_length': [int((rows[i][0] != PAD).sum()) for i in real],
    'source': [task.text(rows[i][0]) for i in real],
    'reference': [task.text(rows[i][1]) for i in real],
    'answers': {
      str(trained[m].seed): [task.text(tokens[m, i]) for i in real] for m in np.flatnonzero(active)
    },
  }


def _as_wide(tokens, answers):
  """Tokens [members, B, T] filled up to the widest of the answers."""
  widest = max(answer.tokens.shape[2] for answer in answers)
  return np.pad(tokens, ((0, 0), (0, 0), (0, widest - tokens.shape[2])), constant_values=PAD)


def alignments(task: Task, model, parameters) -> list[dict]:
  """The weights of the decoder on the source, heads averaged, for a few sentences of the test."""
  batch = task.batch('test', 0, ALIGNED)
  arguments, named = task.arguments(batch)
  found = attention.weights(model, parameters, *arguments, **named)
  looking = {f'level_{i}' for i, level in enumerate(model.decoder.levels) if level.bridge}
  kept = []
  for b, (source, target) in enumerate(zip(*map(np.asarray, batch[:2]), strict=True)):
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
  """The products of one training step, counted in operations; of the first batch, if they vary."""
  whole = dataclasses.replace(training, parts=1, axis=None)
  batch = training.task.batch('train', 0, training.recipe.batch_size)
  return work.flops(whole.train_step, state, batch)


def blind(batches: Sequence[Batch]) -> dict[str, float]:
  """Nats a token that targets cost whoever knows how often each token stands at each place only.

  Also the mean tokens of a target. Frequencies are those of the same batches.
  """
  target, weight = (np.concatenate(parts) for parts in list(zip(*batches, strict=True))[1:])
  cost = 0.0
  for tokens, counts in zip(target.T, weight.T > 0, strict=True):
    often = np.unique(tokens[counts], return_counts=True)[1]
    cost -= float(np.sum(often * np.log(often / max(often.sum(), 1))))
  tokens = weight.sum() / weight.any(1).sum()
  return {'blind_loss': float(cost / weight.sum()), 'tokens': float(tokens)}
