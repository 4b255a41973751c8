"""Libraries that are loaded when they are used."""

import sys

import pytest

from experiments.lab import optional


def test_a_library_is_loaded_when_something_of_it_is_first_used(monkeypatch):
  monkeypatch.delitem(sys.modules, 'colorsys', raising=False)
  colours = optional.later('colorsys')
  assert 'colorsys' not in sys.modules
  assert colours.rgb_to_hsv(0, 0, 0) == (0.0, 0.0, 0)
  assert colours.rgb_to_hls is sys.modules['colorsys'].rgb_to_hls


def test_what_a_library_lacks_is_an_attribute_error():
  with pytest.raises(AttributeError):
    optional.later('colorsys').no_such_name  # noqa: B018


def test_a_library_that_is_missing_is_an_import_error():
  with pytest.raises(ModuleNotFoundError):
    optional.later('no_such_library').name  # noqa: B018
