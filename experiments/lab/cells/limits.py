"""How large a number may be that says how many of something there are.

The bounds lie far beyond every published model and within what can be traced: what is repeated has
equations of its own for each, and an axis is numbered in 32 bits. Within them the bytes of a run
are counted before anything is built (see `sizes`).
"""

FLOAT_BYTES = 4
AXIS = 2**31 - 1  # of an array, unless it is named below
STEPS = 10**8
# What a program is written out for, or run for, one by one.
REPEATED = {
  'depth': 1024, 'levels': 64, 'order': 64, 'blocks': 1024,
  'expansion': 1024, 'expand': 1024, 'key_expand': 1024, 'value_expand': 1024,
  'steps': STEPS, 'validations': STEPS, 'average': STEPS,
  'validation_batches': 2**20, 'test_batches': 2**20, 'beam': 4096,
}
LENGTH = 2**20  # of sequences
WORD = 200  # characters of an option that is a text, which may become the name of a folder
AXES = {
  'width': 2**18, 'key_width': 2**18, 'value_width': 2**18,  # angles are computed one by one
  'kernel_size': 1024, 'short_kernel_size': 1024,  # taps are shifted one by one
  'convolution.kernel_size': 2**16,  # but these are an axis of one product
  **{f'task.{name}': LENGTH
     for name in ('length', 'max_length', 'delay', 'num_symbols', 'words', 'pairs')},
}


def check(name: str, value: float, *owners: str) -> None:
  """Raises a ValueError if a number is greater than its like may be, in either direction.

  Args:
    name: of an option or a setting.
    value: the number.
    owners: names that a bound of its own may stand under, such as those of its component and of the
      component's kind; the first is named in the error.

  """
  if name in REPEATED:
    most, note = REPEATED[name], ''
  else:
    names = (*(f'{owner}.{name}' for owner in owners), name)
    default = AXIS if isinstance(value, int) else float('inf')
    most, note = next((AXES[each] for each in names if each in AXES), default), f': {row(value)}'
  if abs(value) > most:
    where = f' of {owners[0]}' if owners else ''
    raise ValueError(f'{name}{where} is at most {most}, not {written(value)}{note}')


def written(value: float) -> str:
  """A number as a line can show it."""
  digits = int(value.bit_length() * 0.30103) + 1 if isinstance(value, int) else 0
  return f'a number of {digits} digits' if digits > 30 else f'{value}'


def row(count: float) -> str:
  """What an array with so many numbers along an axis takes at least."""
  return f'so many numbers take {in_bytes(FLOAT_BYTES * abs(count))}'


def in_bytes(count: float) -> str:
  """A number of bytes, in the unit in which it is short."""
  units = ('bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB')
  if count >= 1024 ** len(units):
    return f'more than 1024 {units[-1]}'
  power = next(i for i in reversed(range(len(units))) if count >= 1024**i or i == 0)
  return f'{count / 1024**power:.4g} {units[power]}'
