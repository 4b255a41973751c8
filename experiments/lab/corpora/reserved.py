"""The names of the splits and the reserved tokens, which all tasks share."""

SPLITS = ('train', 'validation', 'test')
PAD, START, END = 0, 1, 2  # padding, the first decoder input, and the last token of a sequence
RESERVED = 3  # number of reserved tokens, and the first token with content
