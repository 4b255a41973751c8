"""Download, tokenisation and batching of natural text corpora."""
