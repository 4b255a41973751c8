"""Records that violate the controls of a study."""

import copy

from experiments.bottleneck.claims import CONTROL
from tests.support import study_records

BLIND_CELLS = {  # For each control the layer and the task of its cells.
  'blind': ('tcn', 'copy_memory'),
  'blind-ladder': ('convolution', 'copy_memory'),
  'blind-tracking': ('convolution', 'parity'),
  'blind-bottleneck': (CONTROL, 'copy'),
  'blind-pronouns': ('convolution', 'pronouns'),
}


def break_control(all_records, control):
  """Returns copies of the records that violate a control."""
  all_records = copy.deepcopy(all_records)
  for index, record in enumerate(all_records):
    result = record['result']
    prefix, _, study = control.partition('-')
    cell = record['run'].get('layer'), result.get('family')
    if prefix in ('oracle', 'baseline') and record['study'] == study and 'controls' in result:
      result['controls'][prefix] = 0.5
    elif control == 'blind-gradient' and record['run'].get('layer') == 'convolution':
      if 'at' in record['run']:
        result['norms'] = [[1.0] * len(row) for row in result['norms']]
    elif control == 'theoretical-field' and 'theoretical' in result:
      result['measured'] = [tokens + 1 for tokens in result['measured']]
    elif control == 'blind-field' and record['study'] == 'receptive_field':
      if result.get('distance') == study_records.FIELD:
        for member in result['members']:
          member['test'] = result['perfect']
    elif control == 'independent-members' and record['study'] == 'compile_tpu':
      result['programs'][0]['collectives'] = {'all-reduce': [2, 8]}
    elif control == 'hand-count' and 'counts' in result:
      for point in result['counts']:
        point['products'] += 1
    elif cell == BLIND_CELLS.get(control) and (
        result['distance'] >= (result['receptive_field'] or 0)):
      for member in result['members']:
        member['test'] = result['chance'] + 0.9 * (result['perfect'] - result['chance'])
        member['extrapolation'] = [member['test']] * max(1, len(result['extrapolation']))
    elif prefix == 'repeat' and record['study'] == (study or 'parallelism'):
      for point in result.get('points', ()):
        # Half of the repetitions are faster, so that the mean of the ratios is not affected.
        if point['quantity'] == 'repeat':
          point['seconds'] = [s * (2 if index % 2 else 0.5) for s in point['seconds']]
  return all_records
