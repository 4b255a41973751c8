"""Who is faster at the same: our computations against others', in turns, once found to be equal."""
