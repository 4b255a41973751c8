"""The layer contract: every entry of LAYERS, and every part that layers are built of, keeps it."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from baselines import LAYERS
from baselines.convolution import TCN, Convolution
from baselines.deep_convolution import ByteNet
from baselines.delta_rule import DeltaNet, GatedDeltaNet
from baselines.linear_attention import GLA, LinearAttention, RetNet
from baselines.linear_recurrence import LRU, MinLSTM
from baselines.long_convolution import Hyena
from baselines.mamba2 import Mamba2
from baselines.recurrent import LSTM
from baselines.rwkv import RWKV7
from baselines.scans import EIGENVALUES
from baselines.state_space import Mamba
from baselines.xlstm import MLSTM, SLSTM
from transformer.attention import Attention, SlidingWindow
from transformer.block import NORMS, Block
from transformer.feedforward import ACTIVATIONS, FeedForward
from transformer.laws import LawViolations
from transformer.layer import SequenceLayer
from transformer.layer_laws import LAWS, verify_layer
from transformer.positions import POSITIONS, AddLearned, AddSinusoid
from transformer.stack import Stack

SIGNED = EIGENVALUES[1]
CATALOGUE = {name: layer() for name, layer in LAYERS.items()}
PARTS = {  # that layers and models are built of
  **{f'feedforward({name})': FeedForward(name, expansion=2) for name in ACTIVATIONS},
  'sinusoid': AddSinusoid(),
  'learned': AddLearned(1024),
  **{f'block({norm})': Block(Convolution(3), norm=norm) for norm in NORMS},
  'classic': Stack((Block(LSTM(), norm='none', residual=False),), depth=2),
  'hybrid': Stack((Block(Attention(2)), Block(Convolution(2)), Block(FeedForward())), depth=2),
}
LONG = {  # to compile: they are tried where there is time
  (name, law)
  for law in ('streaming', 'padding', 'training', 'sizes', 'large_inputs', 'large_biases')
  for name in (
    'bytenet', 'interleave', 'hybrid', 'mlstm', 'slstm', 'retnet', 'gla', 'mamba', 'mamba2',
    'deltanet', 'gated_deltanet', 'rwkv7', 'rglru', 'hyena', 's4d', 's5', 'lru', 'linear_attention',
    'tcn', 'convs2s',
  )
} | {(name, 'long_bfloat16') for name in (*CATALOGUE, *PARTS)}
OF_FORMS = ('streaming', 'causality', 'padding', 'state', 'training', 'receptive_field')
OLD = pytest.mark.skipif(
  jax.version.__version_info__ < (0, 8),
  reason='jaxlib 0.7 cannot multiply small matrices of bfloat16 in a loop on a CPU',
)
MARKS = {('elman', 'training'): [OLD], ('elman', 'long_bfloat16'): [OLD]}
VARIANTS = {
  **{f'attention({name})': Attention(2, make()) for name, make in POSITIONS.items()},
  'attention(blocked)': Attention(2, form='blocked'),
  'attention(grouped)': Attention(
    4, num_key_value_heads=2, soft_cap=2.0, query_key_norm=True, form='naive'),
  'sliding_window(shaw)': SlidingWindow(
    2, window=4, num_key_value_heads=1, positions=POSITIONS['shaw'](3)),
  'sliding_window(banded)': SlidingWindow(window=4, form='banded'),
  'slstm(no convolution)': SLSTM(2, kernel_size=0),
  'minlstm(wide)': MinLSTM(2, candidate='linear'),
  'lru(no readout)': LRU(5, readout='none'),
  'mamba(signed)': Mamba(state_size=4, eigenvalues=SIGNED),
  'convolution(direct)': Convolution(3, dilation=2, form='direct'),
  'tcn(2 levels)': TCN(2, levels=2),
  'bytenet(small)': ByteNet(2, levels=3, max_dilation=2),
  # A few tokens a chunk, so that a sequence of the contract has several.
  'retnet(chunks)': RetNet(2, chunk_size=4),
  'gla(chunks)': GLA(2, chunk_size=4),
  'mamba2(chunks)': Mamba2(state_size=4, chunk_size=4, eigenvalues=SIGNED),
  'linear_attention(chunks)': LinearAttention(2, feature_map='softmax', chunk_size=4),
  'mlstm(chunks)': MLSTM(2, chunk_size=4),
  'deltanet(chunks)': DeltaNet(2, chunk_size=4, eigenvalues=SIGNED),
  'gated_deltanet(chunks)': GatedDeltaNet(2, chunk_size=4),
  'rwkv7(chunks)': RWKV7(2, chunk_size=4),
  'hyena(chunks)': Hyena(order=1, block_size=4),
}


@pytest.mark.parametrize(('name', 'law'), [
  pytest.param(name, law, marks=[
    *MARKS.get((name, law), ()), *[pytest.mark.slow] * ((name, law) in LONG)])
  for name in CATALOGUE for law in LAWS
])
def test_a_layer_keeps_the_law(name, law):
  verify_layer(CATALOGUE[name], [law])


@pytest.mark.parametrize(('name', 'law'), [
  pytest.param(name, law, marks=[pytest.mark.slow] * ((name, law) in LONG))
  for name in PARTS for law in LAWS
])
def test_a_part_keeps_the_law(name, law):
  verify_layer(PARTS[name], [law])


@pytest.mark.slow
@pytest.mark.parametrize('law', OF_FORMS)
@pytest.mark.parametrize('name', VARIANTS)
def test_a_variant_keeps_the_law(name, law):
  verify_layer(VARIANTS[name], [law])


class Broken(SequenceLayer):
  """A convolution of two tokens that keeps every law; the fault of each subclass is its own."""

  field = 2
  padding_occupies_positions = True

  @property
  def receptive_field(self):
    return self.field

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    return jnp.zeros((batch_size, 1, width), dtype)

  def read(self, x, state, mask):
    x = x if mask is None else jnp.where(mask[..., None], x, 0)
    state = self.initial_state(x.shape[0], 0, x.shape[2], x.dtype) if state is None else state
    read = jnp.concatenate([state.astype(x.dtype), x], 1)
    return read[:, 1:], read[:, :-1], read[:, -1:].astype(state.dtype)

  def result(self, now, before):
    return nn.Dense(now.shape[-1], dtype=now.dtype)(now) + jnp.tanh(before)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):
    now, before, state = self.read(x, state, mask)
    return self.result(now, before), state


class ForgetsTheState(Broken):
  def read(self, x, state, mask):
    now, before, _ = super().read(x, None, mask)
    return now, before, super().read(x, state, mask)[2]


class StopsTheGradient(Broken):
  """Right outputs, but no gradient through the state that it carries."""

  def read(self, x, state, mask):
    now, before, state = super().read(x, state, mask)
    return now, before, jax.lax.stop_gradient(state)


class LooksAhead(Broken):
  def result(self, now, before):
    return super().result(now, before) + 1e-3 * jnp.roll(now, -1, 1)


class IgnoresInput(Broken):
  def result(self, now, before):
    return super().result(now, before).at[:, 3].set(0).at[:, 4].set(0)


class MasksByProduct(Broken):
  """Zero times NaN is NaN."""

  def read(self, x, state, mask):
    x = x if mask is None else x * mask[..., None].astype(x.dtype)
    return super().read(x, state, None)


class IgnoresTheMask(Broken):
  def read(self, x, state, mask):
    return super().read(x, state, None)


class RemembersPadding(Broken):
  """Right outputs, but a state that holds what stood under the mask."""

  def read(self, x, state, mask):
    now, before, _ = super().read(x, state, mask)
    return now, before, super().read(x, state, None)[2]


class MovesItsStateAtPadding(Broken):
  padding_occupies_positions = False


class GrowsItsState(Broken):
  def read(self, x, state, mask):
    now, before, after = super().read(x, state, mask)
    return now, before, jnp.concatenate([after, after[:, :1]], 1)


class ChangesItsDtype(Broken):
  def read(self, x, state, mask):
    now, before, after = super().read(x, state, mask)
    return now, before, after.astype(jnp.float32)


class StartsElsewhere(Broken):
  """Without a state it does not start from the initial state."""

  def read(self, x, state, mask):
    now, before, after = super().read(x, state, mask)
    return now, (before + 1 if state is None else before), after


class DeadParameter(Broken):
  def result(self, now, before):
    dead = self.param('dead', nn.initializers.ones, now.shape[-1:])
    return super().result(now, before) + jax.lax.stop_gradient(dead).astype(now.dtype)[None, None]


class InfiniteGradient(Broken):
  def result(self, now, before):
    return super().result(now, before + 0 * jnp.sqrt(0 * self.param('p', nn.initializers.ones, ())))


class DependsOnTracing(Broken):
  def result(self, now, before):
    traced = isinstance(now, jax.core.Tracer)
    return super().result(now, before) * (1 if traced else 2)


class TracesAgain(Broken):
  """Copies that are not equal."""

  def __eq__(self, other):
    return self is other

  __hash__ = object.__hash__


class WidensBfloat16(Broken):
  def result(self, now, before):
    return super().result(now, before).astype(jnp.float32)


class LosesPrecision(Broken):
  def result(self, now, before):
    y = super().result(now, before)
    return y + y if y.dtype == jnp.bfloat16 else y


class DeclaresTooLittle(Broken):
  field = 1


class DeclaresTooMuch(Broken):
  field = 3


class DeclaresUnbounded(Broken):
  field = None


class NeedsAToken(Broken):
  """Its state is its latest input, of which there has to be one."""

  def read(self, x, state, mask):
    now, before, _ = super().read(x, state, mask)
    return now, before, now[:, jnp.array([x.shape[1] - 1])] if x.shape[1] else jnp.zeros_like(now)


class LosesItsStateWithoutAToken(Broken):
  def read(self, x, state, mask):
    return super().read(x, state if x.shape[1] else None, mask)


class CentresOverTheBatch(Broken):
  def result(self, now, before):
    return super().result(now - 0.1 * now.mean(0, keepdims=True), before)


class Overflows(Broken):
  """A softplus of which the exponential is infinite from 89 on."""

  def result(self, now, before):
    return super().result(now, before) + jnp.log(1 + jnp.exp(now))


class OverflowsInTheGradient(Broken):
  def result(self, now, before):
    return super().result(now, before) + jnp.where(now > 80, now, jnp.exp(now))


class DividesByWhatVanishes(Broken):
  """exp(b) x / exp(b), which is 0 / 0 for b = -100."""

  def result(self, now, before):
    gate = jnp.exp(self.param('gate_bias', nn.initializers.zeros, ())).astype(now.dtype)
    return super().result(now, before + gate * now / gate)


class SumsInBfloat16(Broken):
  """A sum of numbers around 1 that stops at 256, where the next number of its dtype is 258."""

  def result(self, now, before):
    def step(total, now):
      total += 1 + now / 100
      return total, total

    _, total = jax.lax.scan(step, jnp.zeros_like(now[:, 0]), now.swapaxes(0, 1))
    return super().result(now, before) + total.swapaxes(0, 1)


FAULTS = {
  'streaming': (ForgetsTheState, StopsTheGradient),
  'causality': (LooksAhead, IgnoresInput),
  'padding': (MasksByProduct, IgnoresTheMask, RemembersPadding, MovesItsStateAtPadding),
  'state': (GrowsItsState, ChangesItsDtype, StartsElsewhere),
  'training': (
    DeadParameter, InfiniteGradient, DependsOnTracing, TracesAgain, WidensBfloat16, LosesPrecision,
  ),
  'receptive_field': (DeclaresTooLittle, DeclaresTooMuch, DeclaresUnbounded),
  'sizes': (NeedsAToken, LosesItsStateWithoutAToken, CentresOverTheBatch),
  'large_inputs': (Overflows, OverflowsInTheGradient),
  'large_biases': (DividesByWhatVanishes,),
  'long_bfloat16': (SumsInBfloat16, LosesPrecision),
}


ADVICE = {  # a part of what is advised, of faults that users make most
  ForgetsTheState: 'state that it is given', StopsTheGradient: 'stop_gradient',
  LooksAhead: 'causal mask', MasksByProduct: 'not by a product', IgnoresTheMask: 'pass mask.T to a',
  MovesItsStateAtPadding: 'padding_occupies_positions', GrowsItsState: 'initial_state',
  DeadParameter: 'whether the parameter is used', TracesAgain: 'hashable',
  WidensBfloat16: 'dtype of the input', DeclaresTooLittle: 'receptive_field',
  CentresOverTheBatch: 'batch axis', Overflows: 'subtract a maximum',
  SumsInBfloat16: 'kept in float32',
}


@pytest.mark.parametrize('law', LAWS)
def test_the_unbroken_layer_keeps_every_law(law):
  assert verify_layer(Broken(), [law]) == (law,)


@pytest.mark.parametrize(
  ('law', 'fault'), [(law, fault) for law, faults in FAULTS.items() for fault in faults]
)
def test_the_contract_rejects(law, fault):
  with pytest.raises(LawViolations) as error:
    verify_layer(fault(), [law])
  (violation,) = error.value.violations
  message = str(error.value)
  assert violation.law_name == law and fault.__name__ in message and 'B=2, T=10, D=8' in message
  assert ADVICE.get(fault, '') in violation.hint


class LooksAheadAndGrows(LooksAhead, GrowsItsState):
  """Two faults at once."""


def test_all_broken_laws_are_reported_at_once():
  with pytest.raises(LawViolations) as error:
    verify_layer(LooksAheadAndGrows(), ['causality', 'large_inputs', 'state'])
  assert [violation.law_name for violation in error.value.violations] == ['causality', 'state']


def test_an_unknown_law_is_refused():
  with pytest.raises(ValueError, match="unknown law 'speed'; the laws are streaming, causality"):
    verify_layer(Broken(), ['speed'])
