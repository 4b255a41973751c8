"""What translators wrote, as tables, curves and pictures of where they looked."""

from collections.abc import Mapping, Sequence

from experiments.lab.results import scores, translations
from experiments.lab.results.figures import HeatMap, Panel
from experiments.lab.results.table import Table

BINS = 4  # of source lengths, where a study asks for none
MAPS = ('additive', 'transformer')  # whose alignments are drawn

Columns = Mapping[str, list[dict]]


def finished(columns: Columns) -> Columns:
  """The columns' records of members that can be read."""
  kept = {
    name: [r for r in group if r['status'] == 'finished' and r['result'].get('written')]
    for name, group in columns.items()
  }
  return {name: group for name, group in kept.items() if group}


def trained_length(record: dict) -> int:
  """The longest source that was trained on, in tokens, as far as the test split shows."""
  return max(record['result']['written'][0]['source_length'])


def parts_of(record: dict) -> list[dict]:
  """What was written at the lengths that the study asks for; else to the task's own test split."""
  own, *elsewhere = record['result']['written']
  return elsewhere or [own]


def edges_of(group: Sequence[dict]) -> list[int]:
  """The upper ends of the bins of source lengths of one question."""
  parts = parts_of(group[0])
  if len(parts) > 1:  # a bin for each length that was asked, END included
    return [max(part['source_length']) for part in parts]
  lengths = sorted(parts[0]['source_length'])
  places = (round(len(lengths) * (i + 1) / BINS) - 1 for i in range(BINS))
  return sorted({lengths[place] for place in places})


def ranges(group: Sequence[dict]) -> list[str]:
  """The bins as text; those beyond what was trained on are marked."""
  edges, longest = edges_of(group), trained_length(group[0])
  return [
    f'{low + 1} to {high}' + ('' if high <= longest else ', untrained')
    for low, high in zip((0, *edges), edges, strict=False)
  ]


def length_tables(title: str, columns: Columns, layers: Sequence[str]) -> list[Table]:
  """Exact match by the length of the source, BLEU, and where half of the answers are right."""
  made = []
  for question, group in finished(columns).items():
    edges, rows = edges_of(group), []
    for record in sorted(group, key=lambda r: layers.index(r['run']['layer'])):
      parts = parts_of(record)
      bins = [translations.within(parts, *ends) for ends in zip((0, *edges), edges, strict=False)]
      bleu = translations.bleu(record['result']['written'][0])
      rows.append((record['run']['layer'], *bins, bleu, translations.half_length(record)))
    names = *ranges(group), 'BLEU'
    made.append(Table(
      f'{title}: {question}',
      ('model', *names, 'half right at'),
      rows,
      'Whole sentences right, by the tokens of the source with its end; mean over seeds with '
      "Student's 95 % interval; untrained: longer than any that was trained on. BLEU is sacreBLEU "
      'on the test split of the trained lengths, with a bootstrap interval over sentences. Half '
      'right at: the length in tokens where a logistic curve falls through a half, by seed; beyond '
      'what was asked only a bound.' + omissions({question: group}),
      dict.fromkeys(names, 'higher') if len(rows) > 1 else {},
    ))
  return made


def omissions(columns: Columns) -> str:
  """What the scores of each question do not rest on, in sentences; '' where nothing is left out."""
  said = []
  for question, group in finished(columns).items():
    part = group[0]['result']['written'][0]
    if left_out := part.get('left_out'):
      reasons = ', '.join(f'{count} {reason}' for reason, count in left_out.items())
      missing, judged = sum(left_out.values()), len(part['reference'])
      said.append(f'{question}: {missing} of {missing + judged} test sentences are left out:'
                  f' {reasons}.')
    for record in group:
      part = record['result']['written'][0]
      if cut_off := sum(part.get('cut_off', {}).values()):
        answers = sum(map(len, part['answers'].values()))
        said.append(f'{question}, {record["run"]["layer"]}: {cut_off} of {answers} answers were cut'
                    ' off, as long as the longest target of their batch.')
  return ''.join(f' {sentence}' for sentence in said)


def vector_table(title: str, columns: Columns, layers: Sequence[str]) -> Table:
  """The bits that each model was seen to hold of a source, and its bytes of state."""
  rows = []
  for question, group in finished(columns).items():
    for record in sorted(group, key=lambda r: layers.index(r['run']['layer'])):
      held, size = translations.bits_held(record), record['result']['state_bytes']
      if held is None:
        continue
      bits, length = held
      each = type(bits)(*(x / size for x in bits[:3]), bits.count) if size else None
      rows.append((question, record['run']['layer'], size, bits, length, each))
  return Table(
    title,
    ('question', 'model', 'bytes of state', 'bits held', 'at length', 'bits a byte'),
    rows,
    'Bits: what a target costs whoever only knows how often each token stands at each place, less '
    'what it costs the model: a lower bound on what the decoder knows of the source where its '
    'symbols are independent; at the length where it is largest. '
    'State: what the decoder starts from and keeps, for a source and a target of the longest '
    'length; that of a fixed vector does not grow with them.',
  )


def length_panels(columns: Columns) -> list[Panel]:
  """Exact match against the length of the source, a panel a question."""
  drawn = []
  for question, group in finished(columns).items():
    series = {
      record['run']['layer']: translations.by_length(parts_of(record), edges_of(group))
      for record in group
    }
    labels = 'tokens of the source', 'exact match'
    drawn.append(Panel(question, *labels, series, y_range=(-0.03, 1.03)))
  return drawn


def alignment_maps(records: Sequence[dict], most: int = 4) -> list[HeatMap]:
  """Where decoders look while they write, of the models whose pictures the papers show."""
  drawn = []
  for name in MAPS:
    for record in records:
      kept = record['result'].get('alignments') if record['status'] == 'finished' else None
      if not kept or record['run']['layer'].partition('(')[0] != name:
        continue
      picture = kept[0]
      for layer, weights in picture['layers'].items():
        title = f'{record["run"]["layer"]}, {layer.removeprefix("decoder.")}'
        labels = [
          [*(piece or '_' for piece in picture[side][:-1]), 'end'] for side in ('target', 'source')
        ]
        drawn.append(HeatMap(title, 'source', 'target', *labels, weights))
  return drawn[:most]


def example_tables(columns: Columns, most: int = 4) -> list[Table]:
  """A few sources with the reference and what the first seed of each model wrote."""
  tables = []
  for question, group in finished(columns).items():
    written = [(record['run']['layer'], record['result']['written'][0]) for record in group]
    texts = [(f'({name})', written[0][1][name]) for name in ('source', 'reference')]
    texts += [
      (layer, part['answers'][min(part['answers'])]) for layer, part in written if part['answers']
    ]
    rows = [
      (i + 1, name, ' '.join(sentences[i].split()))  # in one line, whatever the data have
      for i in range(min(most, len(texts[0][1]))) for name, sentences in texts
    ]
    tables.append(Table(
      f'Examples: {question}', ('sentence', 'model', 'text'), rows,
      'The first sentences of the test split, and what the first seed wrote; any run of white '
      'space is shown as one space.',
    ))
  return tables


def quality_table(title: str, columns: Columns, layers: Sequence[str]) -> Table:
  """The columns of the 2017 paper's Table 2, quality and training cost, for every model."""
  rows = []
  for question, group in finished(columns).items():
    for record in sorted(group, key=lambda r: layers.index(r['run']['layer'])):
      result, written = record['result'], record['result']['written'][0]
      steps = [member['steps'] for member in scores.chosen(record)]
      language = result['settings'].get('target', 'en')[:2]
      rows.append((
        question, record['run']['layer'], translations.bleu(written),
        translations.bleu_2017(written, language), translations.chrf(written),
        translations.exact_match(written), result['step_flops'] * sum(steps) / len(steps),
        result['parameters'],
      ))
  best = dict.fromkeys(('BLEU', 'BLEU, 2017', 'chrF', 'exact match'), 'higher')
  return Table(
    title,
    ('corpus', 'model', 'BLEU', 'BLEU, 2017', 'chrF', 'exact match', 'training FLOPs',
     'parameters'),
    rows,
    'Test split, greedy decoding. BLEU: sacreBLEU; BLEU, 2017: Moses tokens with compounds split, '
    'as the paper counted; intervals by the bootstrap over sentences, of exact match over seeds. '
    'Training FLOPs: products of matrices in all steps of one seed, counted.' + omissions(columns),
    best if len(rows) > 1 else {},
  )
