"""Text made safe for the language it is put into."""

import re
import unicodedata

_LATEX = {
  '\\': r'\textbackslash{}',
  '{': r'\{',
  '}': r'\}',
  '$': r'\$',
  '&': r'\&',
  '#': r'\#',
  '%': r'\%',
  '_': r'\_',
  '^': r'\textasciicircum{}',
  '~': r'\textasciitilde{}',
  '<': r'\textless{}',
  '>': r'\textgreater{}',
  '|': r'\textbar{}',
  '\n': ' ',
  '−': '$-$',
  '±': r'$\pm$',
  '×': r'$\times$',
  '·': r'$\cdot$',
  '≈': r'$\approx$',
  '≠': r'$\neq$',
  '≤': r'$\leq$',
  '≥': r'$\geq$',
  '→': r'$\to$',
  '∞': r'$\infty$',
  '–': '--',
  '—': '---',
  '²': r'$^2$',
  '³': r'$^3$',
  '₂': r'$_2$',
  'ₖ': r'$_k$',
  '⌈': r'$\lceil$',
  '⌉': r'$\rceil$',
}  # one pass over the text, so that nothing is escaped twice


def latex(text: str) -> str:
  """Any text as LaTeX that prints it."""
  escaped = text.translate(str.maketrans(_LATEX))
  # At the start of a row, these two would be read as options of the \\ before them.
  return f'{{}}{escaped}' if text.startswith(('[', '*')) else escaped


def latex_number(text: str) -> str:
  """LaTeX of a number as `notation` writes it, its exponent as a power of ten."""
  mantissa, exponent = re.fullmatch(r'(.*?)(?:e(-?\d+))?', text).groups()
  power = rf'$\times 10^{{{exponent}}}$' if exponent else ''
  return latex(mantissa.replace('-', '−')) + power


def markdown(text: str) -> str:
  """Any text as one line of Markdown that shows it."""
  escaped = re.sub(r'([\\`|*<\[\]])', r'\\\1', ' '.join(text.split()))
  # Underscores inside a word mean nothing to Markdown; num_heads stays readable.
  return re.sub(r'(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])', r'\\_', escaped)


def slug(text: str) -> str:
  """Name in lower-case letters, digits and hyphens, for labels and anchors."""
  plain = unicodedata.normalize('NFKD', text).encode('ascii', 'ignore').decode().lower()
  return re.sub(r'[^a-z0-9]+', '-', plain).strip('-') or 'untitled'
