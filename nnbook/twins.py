"""PyTorch twins of the book's networks: modules whose state_dict has the keys of nnbook's parameters."""

from __future__ import annotations

# Chapter 7: recurrent networks


def char_rnn(
    vocab_size: int, hidden_size: int, *, cell: str = "lstm", embedding_size: int | None = None, num_layers: int = 1
):
    """The twin of :func:`nnbook.rnn.char_rnn`: called on tokens (T, N) and a state, returns logits and the state."""
    import torch

    class CharRNN(torch.nn.Module):
        def __init__(self):
            super().__init__()
            size = embedding_size or hidden_size
            self.embedding = torch.nn.Embedding(vocab_size, size)
            self.rnn = getattr(torch.nn, cell.upper())(size, hidden_size, num_layers)
            self.linear = torch.nn.Linear(hidden_size, vocab_size)

        def forward(self, tokens, state=None):
            y, state = self.rnn(self.embedding(tokens), state)
            return self.linear(y), state

    return CharRNN()


def seq2seq(
    source_size: int,
    target_size: int,
    hidden_size: int,
    *,
    cell: str = "gru",
    embedding_size: int | None = None,
    num_layers: int = 1,
):
    """The twin of :func:`nnbook.rnn.seq2seq`: called on source (S, N) and target (T, N), returns logits."""
    import torch

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            size = embedding_size or hidden_size
            self.embedding = torch.nn.Embedding(source_size, size)
            self.rnn = getattr(torch.nn, cell.upper())(size, hidden_size, num_layers)

        def forward(self, source, lengths):
            x = self.embedding(source)
            if lengths is not None:
                x = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
            return self.rnn(x)[1]

    class Seq2Seq(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = Encoder()
            self.decoder = char_rnn(
                target_size, hidden_size, cell=cell, embedding_size=embedding_size, num_layers=num_layers
            )

        def forward(self, source, target, lengths=None):
            return self.decoder(target, self.encoder(source, lengths))[0]

    return Seq2Seq()


def recurrent_classifier(
    cell: str,
    input_size: int,
    hidden_size: int,
    outputs: int,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
):
    """The twin of :func:`nnbook.rnn.recurrent_classifier`: called on x (T, N, D), returns (N, outputs)."""
    import torch

    class RecurrentClassifier(torch.nn.Module):
        def __init__(self):
            super().__init__()
            layer = getattr(torch.nn, cell.upper())
            self.rnn = layer(input_size, hidden_size, num_layers, bidirectional=bidirectional)
            self.linear = torch.nn.Linear(hidden_size * (1 + bidirectional), outputs)

        def forward(self, x, lengths=None):
            if lengths is not None:
                x = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
            _, state = self.rnn(x)
            h = state[0] if cell == "lstm" else state
            return self.linear(torch.cat(list(h[-1 - bidirectional :]), dim=1))

    return RecurrentClassifier()
