"""PyTorch twins of the book's networks: modules whose state_dict has the keys of nnbook's parameters."""

from __future__ import annotations

from typing import Any


def gpt_twin(*, vocab_size: int, context: int, n_layer: int, n_head: int, n_embd: int, tie_weights: bool = True) -> Any:
    """A ``torch.nn.Module`` that computes :func:`nnbook.attention.gpt`: tokens (B, T) to logits (B, T, V).

    Built of ``torch.nn.Linear``, ``LayerNorm``, ``Embedding`` and
    ``torch.nn.functional.scaled_dot_product_attention``; the arguments are those of
    :func:`nnbook.attention.gpt_init`.
    """
    import torch
    from torch import nn

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.c_attn = nn.Linear(n_embd, 3 * n_embd)
            self.c_proj = nn.Linear(n_embd, n_embd)

        def forward(self, x):
            heads = (z.unflatten(-1, (n_head, -1)).transpose(1, 2) for z in self.c_attn(x).chunk(3, -1))
            y = nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
            return self.c_proj(y.transpose(1, 2).flatten(-2))

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


def translator_twin(
    *,
    source_size: int,
    target_size: int,
    nhead: int,
    d_model: int = 64,
    num_encoder_layers: int = 1,
    num_decoder_layers: int = 1,
    dim_feedforward: int | None = None,
    padding: int | None = None,
) -> Any:
    """A ``torch.nn.Module`` that computes :func:`nnbook.attention.translator`: source and target to logits.

    Built of ``torch.nn.TransformerEncoder`` and ``TransformerDecoder``; the arguments are those of
    :func:`nnbook.attention.translator_init` and :func:`nnbook.attention.translator`.
    """
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
