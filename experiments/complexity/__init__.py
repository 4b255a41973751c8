"""Table 1 counted and measured; who overtakes whom at which length."""
