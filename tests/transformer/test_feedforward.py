"""Activations of the feed-forward network match their equations."""

import math

import numpy as np
import pytest

from experiments.lab.cells.run import FEEDFORWARDS
from transformer.feedforward import ACTIVATIONS

X = np.linspace(-6, 6, 481)
EQUATIONS = {
  'relu': np.maximum(X, 0),
  'gelu': X * (1 + np.tanh(np.sqrt(2 / np.pi) * (X + 0.044715 * X**3))) / 2,
  'gelu_exact': X * (1 + np.vectorize(math.erf)(X / np.sqrt(2))) / 2,
  'swiglu': X / (1 + np.exp(-X)),
}


@pytest.mark.parametrize('name', ACTIVATIONS)
def test_activations_match_their_equations(name):
  np.testing.assert_allclose(ACTIVATIONS[name](X.astype(np.float32)), EQUATIONS[name], atol=2e-6)


def test_the_forms_of_gelu_differ_by_less_than_5e_4():
  difference = np.abs(EQUATIONS['gelu'] - EQUATIONS['gelu_exact']).max()
  assert 4e-4 < difference < 5e-4


def test_every_activation_is_a_choice_of_a_run():
  assert set(FEEDFORWARDS) == {'none', *ACTIVATIONS}
