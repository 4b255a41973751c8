"""Tests of modules that are imported on first use."""

import sys

import pytest

from experiments.lab import optional


def test_a_lazy_module_is_imported_when_an_attribute_is_first_used(monkeypatch):
  monkeypatch.delitem(sys.modules, 'colorsys', raising=False)
  colorsys = optional.lazy_module('colorsys')
  assert 'colorsys' not in sys.modules
  assert colorsys.rgb_to_hsv(0, 0, 0) == (0.0, 0.0, 0)
  assert colorsys.rgb_to_hls is sys.modules['colorsys'].rgb_to_hls


def test_a_missing_attribute_of_a_lazy_module_is_an_attribute_error():
  with pytest.raises(AttributeError):
    optional.lazy_module('colorsys').no_such_name  # noqa: B018


def test_a_lazy_module_that_is_not_installed_is_an_import_error():
  with pytest.raises(ModuleNotFoundError):
    optional.lazy_module('no_such_library').name  # noqa: B018
