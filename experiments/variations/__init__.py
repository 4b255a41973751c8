"""Table 3 of "Attention is all you need", repeated at reduced size, with parameter counts."""
