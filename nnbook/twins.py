"""PyTorch twins of the book's networks: modules whose state_dict has the keys of nnbook's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from nnbook._arrays import Size, checked

# Chapter 6: convolutional networks


@checked
def small_cnn(*, channels: Size = 32, hidden: Size = 64, classes: Size = 10) -> Any:
    """The twin of :func:`nnbook.cnn.small_cnn`, a ``torch.nn.Sequential``."""
    from torch import nn

    return _sequential(
        conv=nn.Conv2d(1, channels, 3),
        relu=nn.ReLU(),
        pool=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(channels * 13 * 13, hidden),
        relu1=nn.ReLU(),
        fc2=nn.Linear(hidden, classes),
    )


@checked
def lenet5(*, classes: Size = 10) -> Any:
    """The twin of :func:`nnbook.cnn.lenet5`, a ``torch.nn.Sequential``."""
    from torch import nn

    return _sequential(
        conv1=nn.Conv2d(1, 6, 5, padding=2),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(6, 16, 5),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(400, 120),
        relu3=nn.ReLU(),
        fc2=nn.Linear(120, 84),
        relu4=nn.ReLU(),
        fc3=nn.Linear(84, classes),
    )


def _sequential(**layers) -> Any:
    from collections import OrderedDict

    from torch import nn

    return nn.Sequential(OrderedDict(layers))


@checked
def inception(
    in_channels: Size,
    *,
    out1: Size = 16,
    reduce3: Size = 16,
    out3: Size = 24,
    reduce5: Size = 4,
    out5: Size = 8,
    out_pool: Size = 8,
) -> Any:
    """The twin of :func:`nnbook.cnn.inception`."""
    import torch
    from torch import nn

    class Inception(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch1 = nn.Conv2d(in_channels, out1, 1)
            self.reduce3 = nn.Conv2d(in_channels, reduce3, 1)
            self.branch3 = nn.Conv2d(reduce3, out3, 3, padding=1)
            self.reduce5 = nn.Conv2d(in_channels, reduce5, 1)
            self.branch5 = nn.Conv2d(reduce5, out5, 5, padding=2)
            self.branch_pool = nn.Conv2d(in_channels, out_pool, 1)

        def forward(self, x):
            one = torch.relu(self.branch1(x))
            three = torch.relu(self.branch3(torch.relu(self.reduce3(x))))
            five = torch.relu(self.branch5(torch.relu(self.reduce5(x))))
            pool = torch.relu(self.branch_pool(nn.functional.max_pool2d(x, 3, stride=1, padding=1)))
            return torch.cat([one, three, five, pool], dim=1)

    return Inception()


@checked
def resnet(
    *,
    widths: Sequence[Size] = (16, 32, 64),
    blocks: Size = 1,
    in_channels: Size = 1,
    classes: Size = 10,
) -> Any:
    """The twin of :func:`nnbook.cnn.resnet`; its ``state_dict`` also has the running statistics."""
    if not widths:
        raise ValueError("resnet: widths must have one entry or more")
    import torch
    from torch import nn

    def conv(into, out, kernel_size, stride=1):
        return nn.Conv2d(into, out, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)

    class Block(nn.Module):
        def __init__(self, into, out, stride):
            super().__init__()
            self.conv1, self.bn1 = conv(into, out, 3, stride), nn.BatchNorm2d(out)
            self.conv2, self.bn2 = conv(out, out, 3), nn.BatchNorm2d(out)
            if stride != 1 or into != out:
                self.downsample = nn.Sequential(conv(into, out, 1, stride), nn.BatchNorm2d(out))

        def forward(self, x):
            h = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(h + (self.downsample(x) if hasattr(self, "downsample") else x))

    class ResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = conv(in_channels, widths[0], 3), nn.BatchNorm2d(widths[0])
            self.stages, into = [], widths[0]
            for number, out in enumerate(widths, 1):
                chain = []
                for k in range(blocks):
                    chain.append(Block(into, out, 2 if number > 1 and k == 0 else 1))
                    into = out
                self.stages.append(f"layer{number}")
                self.add_module(f"layer{number}", nn.Sequential(*chain))
            self.fc = nn.Linear(into, classes)

        def forward(self, x):
            x = torch.relu(self.bn1(self.conv1(x)))
            for stage in self.stages:
                x = self.get_submodule(stage)(x)
            return self.fc(x.mean((2, 3)))

    return ResNet()


# Chapter 7: recurrent networks


@checked
def char_rnn(
    vocab_size: Size,
    hidden_size: Size,
    *,
    cell: Literal["rnn", "gru", "lstm"] = "lstm",
    embedding_size: Size | None = None,
    num_layers: Size = 1,
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


@checked
def seq2seq(
    source_size: Size,
    target_size: Size,
    hidden_size: Size,
    *,
    cell: Literal["rnn", "gru", "lstm"] = "gru",
    embedding_size: Size | None = None,
    num_layers: Size = 1,
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


@checked
def seq2seq_attention(source_size: Size, target_size: Size, hidden_size: Size, *, embedding_size: Size | None = None):
    """The twin of :func:`nnbook.attention.seq2seq_attention`: called on source (S, N), target (T, N) and a mask.

    Returns logits (T, N, K) and weights (N, T, S); ``mask`` (S, N) is true for real tokens.
    """
    import torch

    size = embedding_size or hidden_size

    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.query = torch.nn.Linear(hidden_size, hidden_size, bias=False)
            self.key = torch.nn.Linear(hidden_size, hidden_size, bias=False)
            self.score = torch.nn.Linear(hidden_size, 1, bias=False)

        def forward(self, h, memory, mask):
            """The weights (N, S) of one state h (N, H)."""
            scores = self.score(torch.tanh(self.query(h)[:, None] + self.key(memory)))[..., 0]
            return torch.softmax(scores if mask is None else scores.masked_fill(~mask.T, -torch.inf), -1)

    class Attentive(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = torch.nn.ModuleDict(
                {"embedding": torch.nn.Embedding(source_size, size), "rnn": torch.nn.GRU(size, hidden_size)}
            )
            self.attention = Attention()
            self.decoder = torch.nn.ModuleDict(
                {
                    "embedding": torch.nn.Embedding(target_size, size),
                    "rnn": torch.nn.GRU(size + hidden_size, hidden_size),
                    "linear": torch.nn.Linear(hidden_size, target_size),
                }
            )

        def forward(self, source, target, mask=None):
            x = self.encoder["embedding"](source)
            if mask is None:
                memory, state = self.encoder["rnn"](x)
            else:
                packed = torch.nn.utils.rnn.pack_padded_sequence(x, mask.sum(0), enforce_sorted=False)
                packed, state = self.encoder["rnn"](packed)
                memory, _ = torch.nn.utils.rnn.pad_packed_sequence(packed, total_length=len(source))
            memory, logits, looks = memory.transpose(0, 1), [], []
            for token in target:
                weights = self.attention(state[0], memory, mask)
                context = torch.einsum("ns,nsh->nh", weights, memory)
                x = torch.cat([self.decoder["embedding"](token), context], 1)
                h, state = self.decoder["rnn"](x[None], state)
                logits.append(self.decoder["linear"](h[0]))
                looks.append(weights)
            return torch.stack(logits), torch.stack(looks, 1)

    return Attentive()


@checked
def recurrent_classifier(
    cell: Literal["rnn", "gru", "lstm"],
    input_size: Size,
    hidden_size: Size,
    outputs: Size,
    *,
    num_layers: Size = 1,
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


# Chapter 8: attention


@checked
def gpt(*, vocab_size: Size, context: Size, n_layer: Size, n_head: Size, n_embd: Size, tie_weights: bool = True) -> Any:
    """A ``torch.nn.Module`` that computes :func:`nnbook.attention.gpt`: tokens (B, T) to logits (B, T, V).

    Built of ``torch.nn.Linear``, ``LayerNorm``, ``Embedding`` and
    ``torch.nn.functional.scaled_dot_product_attention``; the arguments are those of
    :func:`nnbook.attention.gpt_init`.
    """
    if n_embd % n_head:
        raise ValueError(f"gpt: n_embd {n_embd} cannot be divided among {n_head} heads")
    import torch
    from torch import nn

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.c_attn = nn.Linear(n_embd, 3 * n_embd)
            self.c_proj = nn.Linear(n_embd, n_embd)

        def forward(self, x):
            q, k, v = (z.unflatten(-1, (n_head, -1)).transpose(-3, -2) for z in self.c_attn(x).chunk(3, -1))
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.c_proj(y.transpose(-3, -2).flatten(-2))

    class Perceptron(nn.Module):
        def __init__(self):
            super().__init__()
            self.c_fc = nn.Linear(n_embd, 4 * n_embd)
            self.c_proj = nn.Linear(4 * n_embd, n_embd)

        def forward(self, x):
            return self.c_proj(nn.functional.gelu(self.c_fc(x), approximate="tanh"))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln_1 = nn.LayerNorm(n_embd)
            self.attn = Attention()
            self.ln_2 = nn.LayerNorm(n_embd)
            self.mlp = Perceptron()

        def forward(self, x):
            x = x + self.attn(self.ln_1(x))
            return x + self.mlp(self.ln_2(x))

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte = nn.Embedding(vocab_size, n_embd)
            self.wpe = nn.Embedding(context, n_embd)
            self.h = nn.ModuleList(Block() for _ in range(n_layer))
            self.ln_f = nn.LayerNorm(n_embd)
            if not tie_weights:
                self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)

        def forward(self, tokens):
            x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[-1], device=tokens.device))
            for block in self.h:
                x = block(x)
            head = self.wte.weight if tie_weights else self.lm_head.weight
            return nn.functional.linear(self.ln_f(x), head)

    return GPT()


@checked
def translator(
    *,
    source_size: Size,
    target_size: Size,
    nhead: Size,
    d_model: Size = 64,
    num_encoder_layers: Size = 1,
    num_decoder_layers: Size = 1,
    dim_feedforward: Size | None = None,
    padding: int | None = None,
) -> Any:
    """A ``torch.nn.Module`` that computes :func:`nnbook.attention.translator`: source and target to logits.

    Built of ``torch.nn.TransformerEncoder`` and ``TransformerDecoder``; the arguments are those of
    :func:`nnbook.attention.translator_init` and :func:`nnbook.attention.translator`.
    """
    if d_model % nhead:
        raise ValueError(f"translator: d_model {d_model} cannot be divided among {nhead} heads")
    import torch
    from torch import nn

    from nnbook.attention import sinusoidal_positions

    hidden = 4 * d_model if dim_feedforward is None else dim_feedforward
    options: dict[str, Any] = {"dropout": 0.0, "batch_first": True, "norm_first": True}

    class Translator(nn.Module):
        def __init__(self):
            super().__init__()
            self.source_embedding = nn.Embedding(source_size, d_model)
            self.target_embedding = nn.Embedding(target_size, d_model)
            encoder = nn.TransformerEncoderLayer(d_model, nhead, hidden, **options)
            decoder = nn.TransformerDecoderLayer(d_model, nhead, hidden, **options)
            self.encoder = nn.TransformerEncoder(
                encoder, num_encoder_layers, nn.LayerNorm(d_model), enable_nested_tensor=False
            )
            self.decoder = nn.TransformerDecoder(decoder, num_decoder_layers, nn.LayerNorm(d_model))
            self.head = nn.Linear(d_model, target_size)

        def forward(self, source, target):
            left_out = None if padding is None else source == padding
            future = nn.Transformer.generate_square_subsequent_mask(target.shape[1], dtype=torch.bool)
            memory = self.encoder(self.placed(self.source_embedding, source), src_key_padding_mask=left_out)
            x = self.decoder(
                self.placed(self.target_embedding, target),
                memory,
                tgt_mask=future.to(target.device),
                memory_key_padding_mask=left_out,
            )
            return self.head(x)

        def placed(self, embedding, tokens):
            positions = torch.tensor(sinusoidal_positions(tokens.shape[1], d_model, dtype=float))
            return embedding(tokens) + positions.to(embedding.weight)

    return Translator()
