"""Tests of the studies, the commands and the lab."""
