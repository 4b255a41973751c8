"""Complexities in Table 1 of Vaswani 2017, and layer implementations to compare with them."""

IMPLEMENTATIONS = {'gpu': 'for an accelerator', 'cpu': 'for a CPU'}
# The layer option `form` selects the implementation, whose default depends on the length.
COUNTED = {  # with the implementation that the paper describes
  'attention': 'attention(form=naive)',
  'sliding_window': 'sliding_window(form=banded)',
  'interleave': 'interleave(rglru, rglru, sliding_window(form=banded))',
}
# The columns are layer type, complexity per layer, sequential operations, maximum path length.
# The path lengths of contiguous and dilated kernels are stated in the text below Table 1.
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
