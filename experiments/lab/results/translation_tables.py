"""Tables, curves and attention maps of translations from experiment records."""

from collections.abc import Mapping, Sequence

from experiments.lab.results import scores, translation_scores
from experiments.lab.results.figures import HeatMap, Panel
from experiments.lab.results.table import Table

LENGTH_BINS = 4  # Number of bins of source lengths for studies without requested lengths.
ALIGNED_MODELS = ('additive', 'transformer')  # Models with published attention maps.

Columns = Mapping[str, list[dict]]


def select_columns_that_have_translations(columns: Columns) -> Columns:
  """Selects the finished records with translations and omits table columns without such records."""
  scored = {
    name: [r for r in group if r['status'] == 'finished' and r['result'].get('written')]
    for name, group in columns.items()
  }
  return {name: group for name, group in scored.items() if group}


def longest_training_source_length(record: dict) -> int:
  """Returns the longest source length in the test split whose lengths lie in the training range.

  The length is a number of tokens.
  """
  return max(record['result']['written'][0]['source_length'])


def translations_at_tested_source_lengths(record: dict) -> list[dict]:
  """Returns the translations of the test sources at each separately tested source length.

  Without separate tests of lengths these are the translations of the test split of the task.
  """
  test_split_translations, *translations_by_length = record['result']['written']
  return translations_by_length or [test_split_translations]


def length_bin_edges(records: Sequence[dict]) -> list[int]:
  """Returns the upper bounds, in tokens, of the bins of source lengths of one task."""
  parts = translations_at_tested_source_lengths(records[0])
  if len(parts) > 1:  # Each requested length, with its END token, has a bin.
    return [max(part['source_length']) for part in parts]
  lengths = sorted(parts[0]['source_length'])
  quantiles = (round(len(lengths) * (i + 1) / LENGTH_BINS) - 1 for i in range(LENGTH_BINS))
  return sorted({lengths[index] for index in quantiles})


def length_bin_labels(records: Sequence[dict]) -> list[str]:
  """Returns a label for each bin of source lengths, and marks lengths absent from training.

  The label of a bin of 1 to 8 tokens is "1 to 8".
  """
  edges, longest = length_bin_edges(records), longest_training_source_length(records[0])
  return [
    f'{low + 1} to {high}' + ('' if high <= longest else ', untrained')
    for low, high in zip((0, *edges), edges, strict=False)
  ]


def exact_match_tables(title: str, columns: Columns, layers: Sequence[str]) -> list[Table]:
  """Returns one table per task, with the exact-match rate at each source length and with BLEU.

  Args:
    title: The first part of each title.
    columns: The records of each task.
    layers: The models in the order of the rows.

  Returns:
    One table for each task with translations.
  """
  tables = []
  for task, group in select_columns_that_have_translations(columns).items():
    edges, rows = length_bin_edges(group), []
    for record in sorted(group, key=lambda r: layers.index(r['run']['layer'])):
      parts = translations_at_tested_source_lengths(record)
      bins = [
        translation_scores.exact_match_in_length_range(parts, low, high)
        for low, high in zip((0, *edges), edges, strict=False)
      ]
      bleu = translation_scores.bleu(record['result']['written'][0])
      half_length = translation_scores.source_length_at_50_percent_exact_match(record)
      rows.append((record['run']['layer'], *bins, bleu, half_length))
    names = *length_bin_labels(group), 'BLEU'
    tables.append(Table(
      f'{title}: {task}',
      ('model', *names, 'length at 50 % exact match'),
      rows,
      'Exact match of whole sentences by the source length in tokens, including the end token; '
      "mean over seeds with Student's 95 % interval. Untrained lengths exceed all lengths of the "
      'training data. BLEU is sacreBLEU on the test split of the trained lengths, with a '
      'bootstrap interval over sentences. The length at 50 % exact match is the midpoint of a '
      'logistic curve fitted for each seed; a midpoint outside the tested lengths is given '
      'as a bound.'
      + describe_omitted_and_truncated_sentences({task: group}),
      dict.fromkeys(names, 'higher') if len(rows) > 1 else {},
    ))
  return tables


def describe_omitted_and_truncated_sentences(columns: Columns) -> str:
  """Returns text for a caption with the numbers of omitted sources and truncated translations."""
  sentences = []
  for task, group in select_columns_that_have_translations(columns).items():
    part = group[0]['result']['written'][0]
    if left_out := part.get('left_out'):
      reasons = ', '.join(f'{count} {reason}' for reason, count in left_out.items())
      omitted, scored = sum(left_out.values()), len(part['reference'])
      sentences.append(f'{task}: {omitted} of {omitted + scored} test sentences are left out:'
                       f' {reasons}.')
    for record in group:
      part = record['result']['written'][0]
      if cut_off := sum(part.get('cut_off', {}).values()):
        total = sum(map(len, part['answers'].values()))
        sentences.append(
          f'{task}, {record["run"]["layer"]}: {cut_off} of {total} translations were cut off at '
          'the length of the longest target of their batch.')
  return ''.join(f' {sentence}' for sentence in sentences)


def table_of_source_information_reaching_decoder(
  title: str, columns: Columns, layers: Sequence[str]
) -> Table:
  """Returns a table of state sizes and bounds on the decoders' information about the source.

  Args:
    title: The title of the table.
    columns: The records of each task.
    layers: The models in the order of the rows.

  Returns:
    The table, with a row for each task and model.
  """
  rows = []
  for task, group in select_columns_that_have_translations(columns).items():
    for record in sorted(group, key=lambda r: layers.index(r['run']['layer'])):
      retained = translation_scores.estimate_source_bits_reaching_decoder(record)
      size = record['result']['state_bytes']
      if retained is None:
        continue
      bits, length = retained
      per_byte = type(bits)(*(x / size for x in bits[:3]), bits.count) if size else None
      rows.append((task, record['run']['layer'], size, bits, length, per_byte))
  return Table(
    title,
    ('task', 'model', 'state bytes', 'source bits', 'source length', 'bits per byte'),
    rows,
    'Source bits: a lower bound on the information of the decoder about the source, namely the '
    'cross-entropy of the target under the token frequencies at each position minus the '
    'cross-entropy under the model, at the source length where the bound is largest. The bound '
    'holds if the symbols of a target are independent. '
    'State bytes: the size of the encoder output and the decoder state for a source and a target '
    'of the longest length; a fixed-size encoder vector does not grow with the length.',
  )


def panels_of_exact_match_by_source_length(columns: Columns) -> list[Panel]:
  """Returns a figure panel for each task, with curves of exact match against source length."""
  panels = []
  for task, group in select_columns_that_have_translations(columns).items():
    edges = length_bin_edges(group)
    series = {
      record['run']['layer']: translation_scores.exact_match_by_source_length(
        translations_at_tested_source_lengths(record), edges)
      for record in group
    }
    labels = 'source length in tokens', 'exact match'
    panels.append(Panel(task, *labels, series, y_range=(-0.03, 1.03)))
  return panels


def alignment_maps(records: Sequence[dict], max_maps: int = 4) -> list[HeatMap]:
  """Returns heat maps of the attention weights of target tokens over source tokens."""
  maps = []
  for name in ALIGNED_MODELS:
    for record in records:
      alignments = record['result'].get('alignments') if record['status'] == 'finished' else None
      if not alignments or record['run']['layer'].partition('(')[0] != name:
        continue
      alignment = alignments[0]
      for layer, weights in alignment['layers'].items():
        title = f'{record["run"]["layer"]}, {layer.removeprefix("decoder.")}'
        labels = [
          [*(piece or '_' for piece in alignment[side][:-1]), 'end']
          for side in ('target', 'source')
        ]
        maps.append(HeatMap(title, 'source', 'target', *labels, weights))
  return maps[:max_maps]


def example_translation_tables(columns: Columns, max_examples: int = 4) -> list[Table]:
  """Returns a table for each task with a few source sentences, references and translations."""
  tables = []
  for task, group in select_columns_that_have_translations(columns).items():
    outputs = [(record['run']['layer'], record['result']['written'][0]) for record in group]
    texts = [(f'({name})', outputs[0][1][name]) for name in ('source', 'reference')]
    texts += [
      (layer, part['answers'][min(part['answers'])]) for layer, part in outputs if part['answers']
    ]
    rows = [
      (i + 1, name, ' '.join(sentences[i].split()))  # A sentence is shown in one line.
      for i in range(min(max_examples, len(texts[0][1]))) for name, sentences in texts
    ]
    tables.append(Table(
      f'Example translations: {task}', ('sentence', 'model', 'text'), rows,
      'The first sentences of the test split with the translations of the first seed. Any run of '
      'white space is shown as one space.',
    ))
  return tables


def translation_quality_table(title: str, columns: Columns, layers: Sequence[str]) -> Table:
  """Returns a table of translation quality and training cost, as in Table 2 of the 2017 paper.

  Args:
    title: The title of the table.
    columns: The records of each corpus.
    layers: The models in the order of the rows.

  Returns:
    The table, with a row for each corpus and model.
  """
  rows = []
  for corpus, group in select_columns_that_have_translations(columns).items():
    for record in sorted(group, key=lambda r: layers.index(r['run']['layer'])):
      result, outputs = record['result'], record['result']['written'][0]
      steps = [member['steps'] for member in scores.results_at_best_learning_rate(record)]
      language = result['settings'].get('target', 'en')[:2]
      rows.append((
        corpus, record['run']['layer'], translation_scores.bleu(outputs),
        translation_scores.bleu_as_in_transformer_paper(outputs, language),
        translation_scores.chrf(outputs),
        translation_scores.exact_match_rate(outputs),
        result['step_flops'] * sum(steps) / len(steps),
        result['parameters'],
      ))
  best = dict.fromkeys(('BLEU', 'BLEU, 2017', 'chrF', 'exact match'), 'higher')
  return Table(
    title,
    ('corpus', 'model', 'BLEU', 'BLEU, 2017', 'chrF', 'exact match', 'training FLOPs',
     'parameters'),
    rows,
    'Scores on the test split with greedy decoding. BLEU is sacreBLEU. BLEU, 2017 uses Moses '
    'tokens with compounds split, as the 2017 paper. Intervals of BLEU and chrF are bootstrap '
    'intervals over sentences, those of exact match are over seeds. Training FLOPs count the '
    'matrix products of all steps of one seed.' + describe_omitted_and_truncated_sentences(columns),
    best if len(rows) > 1 else {},
  )
