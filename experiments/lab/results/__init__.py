"""Records and what is made of them: the store, statistics, tables, figures."""
