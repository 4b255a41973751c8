"""The subject: the Transformer, from one interface for every sequence layer up to whole models."""
