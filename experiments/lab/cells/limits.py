"""Upper bounds of the counts and sizes in run settings and component options.

The bounds are far above every published model but small enough for JAX to trace the program. Each
repetition of a block adds equations to the program, and an array axis has a 32-bit index. Within
the bounds, the module `sizes` estimates the bytes of a run before anything is allocated.
"""

FLOAT_BYTES = 4
MAX_AXIS = 2**31 - 1  # length of an array axis, unless MAX_AXES has a smaller bound
MAX_STEPS = 10**8
# Upper bounds of settings and options that increase program size or running time linearly.
MAX_REPETITIONS = {
  'depth': 1024, 'levels': 64, 'order': 64, 'blocks': 1024,
  'expansion': 1024, 'expand': 1024, 'key_expand': 1024, 'value_expand': 1024,
  'steps': MAX_STEPS, 'validations': MAX_STEPS, 'average': MAX_STEPS,
  'validation_batches': 2**20, 'test_batches': 2**20, 'beam': 4096,
}
MAX_LENGTH = 2**20  # tokens of a sequence
MAX_TEXT_CHARACTERS = 200  # in a text option, which may become the name of a folder
MAX_AXES = {
  'width': 2**18, 'key_width': 2**18, 'value_width': 2**18,  # one equation per rotary angle
  'kernel_size': 1024, 'short_kernel_size': 1024,  # one shift of the input per tap
  'convolution.kernel_size': 2**16,  # its taps are an axis of a single product
  **{f'task.{name}': MAX_LENGTH
     for name in ('length', 'max_length', 'delay', 'num_symbols', 'words', 'pairs')},
}


def check_limit(name: str, value: float, *owners: str) -> None:
  """Raises ValueError if the absolute value of a setting or option exceeds its upper bound.

  Args:
    name: name of the setting or option.
    value: its value.
    *owners: component, and kind of component, that may have a bound of their own for this name. The
      error message names the first of them.

  Raises:
    ValueError: if the value exceeds the bound.

  """
  if name in MAX_REPETITIONS:
    bound, note = MAX_REPETITIONS[name], ''
  else:
    names = (*(f'{owner}.{name}' for owner in owners), name)
    default = MAX_AXIS if isinstance(value, int) else float('inf')
    bound = next((MAX_AXES[key] for key in names if key in MAX_AXES), default)
    note = f': {describe_float32_vector_memory(value)}'
  if abs(value) > bound:
    owner = f' of {owners[0]}' if owners else ''
    raise ValueError(f'{name}{owner} is at most {bound}, not {format_number(value)}{note}')


def format_number(value: float) -> str:
  """Formats a number, or only its number of digits if it is an integer of more than 30 digits."""
  digits = int(value.bit_length() * 0.30103) + 1 if isinstance(value, int) else 0
  return f'a number of {digits} digits' if digits > 30 else f'{value}'


def describe_float32_vector_memory(num_elements: float) -> str:
  """Describes the memory of a float32 vector with the given number of elements."""
  return f'an axis of this length takes {format_bytes(FLOAT_BYTES * abs(num_elements))}'


def format_bytes(num_bytes: float) -> str:
  """Formats a number of bytes in the largest binary unit that does not exceed it."""
  units = ('bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB')
  if num_bytes >= 1024 ** len(units):
    return f'more than 1024 {units[-1]}'
  power = next(i for i in reversed(range(len(units))) if num_bytes >= 1024**i or i == 0)
  return f'{num_bytes / 1024**power:.4g} {units[power]}'
