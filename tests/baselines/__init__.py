"""Tests of the baseline layers and translators against their papers' equations."""
