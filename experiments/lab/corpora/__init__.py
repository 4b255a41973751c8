"""Natural text corpora, from download and tokenisation to batches."""
