"""Functions that escape text for LaTeX and Markdown, and that convert titles to identifiers."""

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
}  # All are replaced in one pass, so that no character is escaped twice.


def to_latex(text: str) -> str:
  """Escapes text for LaTeX."""
  escaped = text.translate(str.maketrans(_LATEX))
  # At the start of a row, LaTeX would parse [ or * as an option of the preceding line break.
  return f'{{}}{escaped}' if text.startswith(('[', '*')) else escaped


def number_to_latex(text: str) -> str:
  """Converts the text of a number, such as 5.8e-5, to LaTeX with a power of ten."""
  mantissa, exponent = re.fullmatch(r'(.*?)(?:e(-?\d+))?', text).groups()
  power = rf'$\times 10^{{{exponent}}}$' if exponent else ''
  return to_latex(mantissa.replace('-', '−')) + power


def to_markdown(text: str) -> str:
  """Escapes text for Markdown, and joins its lines into a single line."""
  escaped = re.sub(r'([\\`|*<\[\]])', r'\\\1', ' '.join(text.split()))
  # An underscore inside a word, such as num_heads, is literal in Markdown and needs no escape.
  return re.sub(r'(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])', r'\\_', escaped)


def to_slug(text: str) -> str:
  """Converts text to lower-case letters, digits and hyphens, for LaTeX labels and HTML anchors."""
  plain = unicodedata.normalize('NFKD', text).encode('ascii', 'ignore').decode().lower()
  return re.sub(r'[^a-z0-9]+', '-', plain).strip('-') or 'untitled'
