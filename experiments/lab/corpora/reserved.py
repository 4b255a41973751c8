"""What all data have in common: the names of splits, and tokens with a meaning of their own."""

SPLITS = ('train', 'validation', 'test')
PAD, START, END = 0, 1, 2  # fills a row up; is what a first token is made from; closes a row
RESERVED = 3  # the first token that stands for something
