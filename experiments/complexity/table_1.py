"""What the paper says of each layer in Table 1, and in which forms layers are counted beside it."""

FORMS = {'gpu': 'for an accelerator', 'cpu': 'for a CPU'}
# Layers that choose a form by the length, in one that suits what the paper counts.
COUNTED = {
  'attention': 'attention(form=naive)',
  'sliding_window': 'sliding_window(form=banded)',
  'interleave': 'interleave(rglru, rglru, sliding_window(form=banded))',
}
# Vaswani et al. 2017, Table 1, and the sentences after it on contiguous and dilated kernels.
PAPER = {
  'attention': ('Self-Attention', 'O(n² · d)', 'O(1)', 'O(1)'),
  'elman': ('Recurrent', 'O(n · d²)', 'O(n)', 'O(n)'),
  'lstm': ('Recurrent', 'O(n · d²)', 'O(n)', 'O(n)'),
  'gru': ('Recurrent', 'O(n · d²)', 'O(n)', 'O(n)'),
  'convolution': ('Convolutional', 'O(k · n · d²)', 'O(1)', 'O(n/k)'),
  'tcn': ('Convolutional (dilated)', 'O(k · n · d²)', 'O(1)', 'O(logₖ(n))'),
  'sliding_window': ('Self-Attention (restricted)', 'O(r · n · d)', 'O(1)', 'O(n/r)'),
}
SYMBOLS = {'window': 'r', 'kernel_size': 'k'}
