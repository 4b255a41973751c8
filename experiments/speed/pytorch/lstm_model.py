"""A language model of stacked LSTM layers in PyTorch, an embedding, `torch.nn.LSTM` and a head."""

from typing import Any

from experiments.speed.pytorch.execution import load_torch


def build_lstm_model(vocabulary: int, width: int, depth: int) -> Any:
  """Builds the model.

  PyTorch adds two biases in each layer. The second of them stays zero and is not trained, because
  otherwise a step of the optimizer would change the sum twice as much as the bias of one parameter.

  Args:
    vocabulary: Number of token ids V.
    width: Channels D of the embedding and of the hidden states.
    depth: Number of LSTM layers.

  Returns:
    A `torch.nn.Module` that maps token ids [B, T] to logits [B, T, V].

  """
  nn = load_torch().nn

  class LSTMModel(nn.Module):
    def __init__(self):
      super().__init__()
      self.embedding = nn.Embedding(vocabulary, width)
      self.lstm = nn.LSTM(width, width, depth, batch_first=True)
      for level in range(depth):
        self.lstm.get_parameter(f'bias_hh_l{level}').requires_grad_(False)
      self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens):  # [B, T] -> [B, T, V]
      return self.head(self.lstm(self.embedding(tokens))[0])

  return LSTMModel()
