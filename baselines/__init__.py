"""The rivals, one family a file, behind the interface of `transformer.layer`; LAYERS names all."""

from baselines.convolution import TCN, Convolution
from baselines.recurrent import GRU, LSTM, Elman
from transformer.attention import Attention

LAYERS = {
  'attention': Attention,
  'elman': Elman,
  'lstm': LSTM,
  'gru': GRU,
  'convolution': Convolution,
  'tcn': TCN,
}
