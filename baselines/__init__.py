"""Baseline sequence layers and encoder-decoders, with a module for each family.

Every layer implements the interface of `transformer.layer`. LAYERS maps names to layers, and
TRANSLATORS maps names to constructions of an encoder and a decoder.
"""

from baselines.convolution import TCN, Convolution
from baselines.deep_convolution import ByteNet, ConvS2S
from baselines.delta_rule import DeltaNet, GatedDeltaNet
from baselines.hybrid import Interleave
from baselines.linear_attention import GLA, LinearAttention, RetNet
from baselines.linear_recurrence import LRU, RGLRU, MinGRU, MinLSTM
from baselines.long_convolution import Hyena
from baselines.mamba2 import Mamba2
from baselines.recurrent import GRU, LSTM, Elman
from baselines.rwkv import RWKV7
from baselines.seq2seq import (
  Additive,
  ByteNetTranslator,
  ConvS2STranslator,
  FixedVector,
  Multiplicative,
  Transformer,
)
from baselines.state_space import S4D, S5, Mamba
from baselines.xlstm import MLSTM, SLSTM
from transformer.attention import Attention, SlidingWindow

LAYERS = {
  'attention': Attention,
  'sliding_window': SlidingWindow,
  'elman': Elman,
  'lstm': LSTM,
  'gru': GRU,
  'slstm': SLSTM,
  'mingru': MinGRU,
  'minlstm': MinLSTM,
  'lru': LRU,
  's4d': S4D,
  's5': S5,
  'rglru': RGLRU,
  'mamba': Mamba,
  'linear_attention': LinearAttention,
  'retnet': RetNet,
  'gla': GLA,
  'mamba2': Mamba2,
  'mlstm': MLSTM,
  'deltanet': DeltaNet,
  'gated_deltanet': GatedDeltaNet,
  'rwkv7': RWKV7,
  'convolution': Convolution,
  'tcn': TCN,
  'bytenet': ByteNet,
  'convs2s': ConvS2S,
  'hyena': Hyena,
  'interleave': Interleave,
}

TRANSLATORS = {
  'transformer': Transformer,
  'fixed_vector': FixedVector,
  'additive': Additive,
  'multiplicative': Multiplicative,
  'convs2s': ConvS2STranslator,
  'bytenet': ByteNetTranslator,
}
