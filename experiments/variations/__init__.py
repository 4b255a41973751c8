"""Table 3 at a scale that fits; parameters beside the paper's."""
