"""Translations, attention weights and other artifacts that a record contains besides scores.

The record of a translation task contains the source and reference sentences as they are in the
data, and the translations of every member at the selected learning rate as text, so that each score
can be verified. It also contains the number of test sentences that were not scored with the
reasons, and the attention weights of the first of these members for a few sentences. A task that
annotates the token on which a prediction depends gets the attention weight of each head on this
token. The record of a translation task also contains the operations of a training step.

Batches of a corpus have several shapes. Arrays of several batches are padded to the longest of them
before they are concatenated.
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
from experiments.lab.results.store import canonical_json
from experiments.lab.tasks.task import Batch, Task
from experiments.lab.training.ensemble import Ensemble
from experiments.lab.training.step import Training
from experiments.lab.weights import files

ALIGNED_SENTENCES = 2  # sentences whose attention weights are stored


def collect_artifacts(
    ensemble: Ensemble, tasks: Sequence[Task], member_results, states, member_mask) -> dict:
  """Collects translations or attention weights of the ensemble members selected by a mask.

  Args:
    ensemble: all members.
    tasks: the task that was trained, followed by the tasks of extrapolation.
    member_results: the `Member` results. Scores of translations are added to them.
    states: training states [members, ...] on the devices.
    member_mask: [members] mask of the members whose artifacts are collected.

  Returns:
    Fields of the record by name; empty if the task has no artifacts.

  """
  task, trainer = tasks[0], ensemble.training
  first_state = jax.tree.map(
    lambda x: x[np.argmax(member_mask)], ensemble.gather_from_devices(states))
  parameters = trainer.parameters_for_test(first_state)
  if task.model_kind == 'translator':
    return {
      **collect_translations(ensemble, tasks, member_results, states, member_mask),
      'alignments': source_alignments(task, trainer.model, parameters),
      'step_flops': training_step_flops(trainer, first_state),
    }
  if task.positions_for_attention_analysis(task.batch('test', 0, 1).source):
    return {'antecedent_attention': [
      _mean_attention_to_pronoun_antecedents(trainer, tested_task, parameters)
      for tested_task in tasks]}
  return {}


def save_member_weights(
    path: pathlib.Path, ensemble: Ensemble, task: Task, run: dict, member_results, states,
    member_mask) -> None:
  """Saves the parameters of each selected ensemble member in a separate safetensors file.

  Args:
    path: path of the files, to which -seed<n>.safetensors is appended.
    ensemble: all members.
    task: the task, whose digest identifies the vocabulary in the file's metadata.
    run: settings of the run as JSON values, which the metadata contains.
    member_results: the `Member` results.
    states: training states [members, ...] on the devices.
    member_mask: [members] mask of the members to save.

  """
  trainer, states = ensemble.training, ensemble.gather_from_devices(states)
  metadata = {
    'run': canonical_json(run), 'vocabulary': task.digest, 'model': str(trainer.model)}
  for i in np.flatnonzero(member_mask):
    parameters = trainer.parameters_for_test(jax.tree.map(lambda x: x[i], states))  # noqa: B023
    member_path = path.with_name(f'{path.name}-seed{member_results[i].seed}.safetensors')
    member_path.parent.mkdir(parents=True, exist_ok=True)
    files.save_parameters(member_path, parameters, metadata)


def collect_translations(
    ensemble: Ensemble, tasks: Sequence[Task], member_results, states, member_mask) -> dict:
  """Translates and scores the test split of every task with the selected ensemble members.

  Args:
    ensemble: all members.
    tasks: the task that was trained, followed by the tasks of extrapolation.
    member_results: the `Member` results. The scores of extrapolation are added to them. A member
      that produced NaN on the trained task is marked as diverged.
    states: training states [members, ...] on the devices.
    member_mask: [members] mask of the members that translate.

  Returns:
    The field `written`, a list with the sentences of each task.

  """
  recipe, texts = ensemble.training.recipe, []
  max_lengths = [max(lengths) for lengths in zip(
    *((t.source_length, t.target_length) for t in tasks), strict=True)]
  for task in tasks:
    batches = _padded_test_batches(task, recipe.batch_size, recipe.test_batches, *max_lengths)
    decoded = [
      ensemble.gather_from_devices(ensemble.decode(states, batch, member_mask))
      for batch in batches]
    seeds = {str(member_results[i].seed): i for i in np.flatnonzero(member_mask)}
    sentences = translations_as_text(task, recipe.batch_size, seeds, batches, decoded)
    texts.append(sentences | unigram_baseline(batches))
    broken = np.any([output.broken.any(1) for output in decoded], 0)
    sums = jax.tree.map(lambda *parts: np.sum(parts, 0), *(output[:2] for output in decoded))
    for i in np.flatnonzero(member_mask):
      metric, loss = (float(total[i] / max(count[i], 1)) for total, count in sums)
      usable = np.isfinite(loss) and not broken[i]
      if task is not tasks[0]:
        member_results[i].extrapolation.append(metric if usable else np.nan)
        member_results[i].extrapolation_loss.append(loss)
      elif not usable:
        member_results[i].mark_diverged()
  return {'written': texts}


@functools.cache
def _padded_test_batches(
    task: Task, batch_size: int, num_batches: int, source_length: int, target_length: int):
  """Returns test batches as NumPy arrays, padded so that all tasks share one compiled program."""
  if task.streams:
    return [task.batch('test', i, batch_size)
            for i in range(min(num_batches, task.num_batches('test', batch_size)))]
  batch = jax.jit(functools.partial(task.batch, 'test', batch_size=batch_size))

  def pad_to_length(x, length):
    return np.pad(x, ((0, 0), (0, length - x.shape[1])))

  lengths = source_length, target_length, target_length
  return [Batch(*map(pad_to_length, map(np.asarray, batch(i)), lengths))
          for i in range(num_batches)]


def translations_as_text(
    task: Task, batch_size: int, seeds: dict[str, int], batches, decoded) -> dict:
  """Detokenizes translations, and returns them with their source and reference sentences.

  Rows of the batches without any weight are padding and are left out.

  Args:
    task: the task, which detokenizes the outputs.
    batch_size: rows of a batch; ignored by a corpus that limits its batches by tokens.
    seeds: index of each seed among the members.
    batches: the first batches of the test split.
    decoded: outputs of the members for each batch, with `tokens` [members, B, T].

  Returns:
    Sources, references and translations by seed, the number of translations by seed that were cut
    off before the END token, and the numbers of test sentences that were left out, by reason.

  """
  source, weight = (
    _concatenate_padded([getattr(batch, name) for batch in batches])
    for name in ('source', 'weight'))
  real = weight.any(1)
  tokens = _concatenate_padded([output.tokens for output in decoded])[:, real]  # [members, rows, T]
  pairs = [pair for i in range(len(batches))
           for pair in task.sentence_pairs_of_test_batch(i, batch_size)]
  sources, references = map(list, zip(*pairs, strict=True))
  return {
    'distance': task.dependency_distance,
    'source_length': (source[real] != PAD).sum(1).tolist(),
    'source': sources,
    'reference': references,
    'answers': {
      seed: [task.detokenize(row) for row in tokens[i]] for seed, i in seeds.items()
    },
    'cut_off': {seed: int((tokens[i] != END).all(1).sum()) for seed, i in seeds.items()},
    'left_out': task.count_excluded_test_pairs(len(batches), batch_size),
  }


def _concatenate_padded(arrays: Sequence[np.ndarray]) -> np.ndarray:
  """Concatenates arrays [..., rows, T] along the rows, each padded with zeros to the largest T."""
  length = max(array.shape[-1] for array in arrays)
  padded = [
    np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, length - array.shape[-1])])
    for array in arrays
  ]
  return np.concatenate(padded, -2)


def source_alignments(task: Task, model, parameters) -> list[dict]:
  """Computes the decoder's attention weights on the source tokens of a few test sentences.

  Args:
    task: a translation task.
    model: the encoder-decoder model.
    parameters: its parameters.

  Returns:
    For each sentence the `source` and `target` tokens as text, and for each decoder layer that
    attends to the source its weights [T, S], averaged over heads. The list is empty for a model
    that reverses the source, since padding then precedes the source tokens.

  """
  batch = Batch(*map(np.asarray, task.batch('test', 0, ALIGNED_SENTENCES)))
  batch = Batch(*(side[batch.weight.any(1)][:ALIGNED_SENTENCES] for side in batch))
  arguments, named = task.model_arguments(batch)
  weights = attention.attention_weights(model, parameters, *arguments, **named)
  source_levels = {
    f'level_{i}' for i, level in enumerate(model.decoder.all_layers) if level.source_projection
  }
  alignments = []
  for b, (source, target) in enumerate(zip(*batch[:2], strict=True)):
    source, target = source[source != PAD], target[target != PAD]
    layers = {
      name: np.asarray(weight[b].mean(0))[: len(target), : len(source)].round(4).tolist()
      for name, weight in weights.items()
      if name.startswith('decoder') and source_levels.intersection(name.split('.'))
    }
    if model.reverse_source:
      layers = {}
    if layers:
      source_texts, target_texts = (
        [task.detokenize(np.array([token])) for token in side] for side in (source, target))
      alignments.append({'source': source_texts, 'target': target_texts, 'layers': layers})
  return alignments


def _mean_attention_to_pronoun_antecedents(trainer: Training, task: Task, parameters) -> dict:
  """Returns each head's attention weight on pronoun antecedents, averaged over test sequences."""
  recipe = trainer.recipe

  @jax.jit
  def attention_to_pronoun_antecedents(batch_index):
    """Returns each head's weight on the antecedents, averaged over the sequences of a batch."""
    batch = task.batch('test', batch_index, recipe.batch_size)
    arguments, named = task.model_arguments(batch)
    weights = attention.attention_weights(trainer.model, parameters, *arguments, **named)
    row = jnp.arange(len(batch.source))
    positions = task.positions_for_attention_analysis(batch.source)
    return {
      name: weight[row, :, positions['prediction'], positions['antecedent']].mean(0)
      for name, weight in weights.items()
    }

  batches = [attention_to_pronoun_antecedents(index) for index in range(recipe.test_batches)]
  mean = jax.tree.map(lambda *heads: np.mean(heads, 0).tolist(), *batches)
  length = task.batch('test', 0, 1).source.shape[1]
  return {'distance': task.dependency_distance, 'tokens': length, 'heads': mean}


def training_step_flops(trainer: Training, state) -> int:
  """Counts the floating-point operations of the matrix products in a training step.

  If batches have several shapes, the count is the mean over the steps of training, but at most over
  the first epoch.
  """
  single_device = dataclasses.replace(trainer, num_devices=1, axis=None)
  task, size, steps = trainer.task, trainer.recipe.batch_size, trainer.recipe.steps
  shapes = [None]
  if task.streams:
    steps = min(steps, task.num_batches('train', size))
    shapes = [task.batch_shape('train', index, size) for index in range(steps)]
  first_index = {shape: shapes.index(shape) for shape in set(shapes)}
  flops = {
    shape: work.flops(single_device.train_step, state, task.batch('train', index, size))
    for shape, index in first_index.items()
  }
  return round(sum(flops[shape] for shape in shapes) / len(shapes))


def unigram_baseline(batches: Sequence[Batch]) -> dict[str, float]:
  """Computes the loss of a predictor that uses only token frequencies and ignores the input.

  Frequencies are those of the tokens at each target position in the same batches. The field
  `unigram_loss` is in nats per token, and `tokens` is the mean number of tokens of a target.
  """
  _, target, weight = map(_concatenate_padded, zip(*batches, strict=True))
  loss = 0.0
  for tokens, valid in zip(target.T, weight.T > 0, strict=True):
    counts = np.unique(tokens[valid], return_counts=True)[1]
    loss -= float(np.sum(counts * np.log(counts / max(counts.sum(), 1))))
  tokens = weight.sum() / weight.any(1).sum()
  return {'unigram_loss': float(loss / weight.sum()), 'tokens': float(tokens)}
