"""Calls of nnbook.attention."""

import numpy as np

from nnbook import attention
from nnbook.backprop import tree_map
from public_calls import call

MERGES = [(97, 98), (256, 97)]
TOKENS = np.array([[1, 2, 0], [3, 4, 1]])
LEFT_OUT = np.array([[False, False, True], [False, False, False]])


def _gpt(rng):
    return attention.gpt_init(rng, vocab_size=5, context=6, n_layer=1, n_head=2, n_embd=4, dtype=np.float64)


def _moved(params, rng):
    """Away from zero biases and tiny weights, which would hide much, and which integers would lose."""
    return tree_map(lambda a: a + rng.normal(size=a.shape), params)


def _translator(rng):
    return _moved(
        attention.translator_init(rng, source_size=5, target_size=5, d_model=4, dim_feedforward=3, dtype=np.float64),
        rng,
    )


def _heads(rng):
    return _moved(attention.multi_head_attention_init(rng, 4, dtype=np.float64), rng)


def _encoder(rng):
    return _moved(attention.transformer_encoder_layer_init(rng, 4, dim_feedforward=3, dtype=np.float64), rng)


def _decoder(rng):
    return _moved(attention.transformer_decoder_layer_init(rng, 4, dim_feedforward=3, dtype=np.float64), rng)


def _seq2seq(rng):
    return _moved(attention.seq2seq_attention_init(rng, 5, 5, 2, dtype=np.float64), rng)


def _pair(rng, *lead):
    return rng.normal(size=(*lead, 2, 4)), rng.normal(size=(*lead, 3, 4))


CALLS = {
    "dot_score": lambda rng: call(*_pair(rng)),
    "scaled_dot_score": lambda rng: call(*_pair(rng), scale=0.5),
    "cosine_score": lambda rng: call(*_pair(rng), eps=1e-5),
    "bilinear_score_init": lambda rng: call(rng, 2, 3, dtype=np.float32),
    "bilinear_score": lambda rng: call(*_pair(rng), rng.normal(size=(4, 4))),
    "additive_score_init": lambda rng: call(rng, 2, 3, 4, dtype=np.float32),
    "additive_score": lambda rng: call(
        *_pair(rng), _moved(attention.additive_score_init(rng, 4, 4, 2, dtype=np.float64), rng)
    ),
    "causal_mask": lambda rng: call(2, 3, offset=1),
    "padding_mask": lambda rng: call(np.array([1, 3]), 3),
    "attention_weights": lambda rng: call(*_pair(rng), np.array([True, False, True]), is_causal=True, scale=0.5),
    "split_heads": lambda rng: call(rng.normal(size=(2, 3, 4)), 2),
    "merge_heads": lambda rng: call(rng.normal(size=(2, 2, 3, 2))),
    "grouped_query_attention": lambda rng: call(
        rng.normal(size=(4, 3, 2)),
        rng.normal(size=(2, 3, 2)),
        rng.normal(size=(2, 3, 2)),
        np.array([True, False, True]),
        is_causal=True,
        scale=0.5,
    ),
    "multi_head_attention_init": lambda rng: call(rng, 4, dtype=np.float32),
    "multi_head_attention": lambda rng: call(
        _heads(rng),
        rng.normal(size=(2, 3, 4)),
        rng.normal(size=(2, 3, 4)),
        rng.normal(size=(2, 3, 4)),
        num_heads=2,
        key_padding_mask=LEFT_OUT,
        attn_mask=~np.tri(3, dtype=bool),
        is_causal=True,
        need_weights=True,
    ),
    "sinusoidal_positions": lambda rng: call(3, 4, base=100.0, offset=1, dtype=np.float32),
    "alibi_slopes": lambda rng: call(4),
    "alibi_bias": lambda rng: call(2, 3, 4, offset=1, dtype=np.float32),
    "transformer_encoder_layer_init": lambda rng: call(rng, 4, dim_feedforward=3, dtype=np.float32),
    "transformer_encoder_layer": lambda rng: call(
        _encoder(rng),
        rng.normal(size=(2, 3, 4)),
        nhead=2,
        src_mask=~np.tri(3, dtype=bool),
        src_key_padding_mask=LEFT_OUT,
        is_causal=True,
        norm_first=True,
        activation="gelu",
        layer_norm_eps=1e-3,
        need_weights=True,
    ),
    "transformer_decoder_layer_init": lambda rng: call(rng, 4, dim_feedforward=3, dtype=np.float32),
    "transformer_decoder_layer": lambda rng: call(
        _decoder(rng),
        rng.normal(size=(2, 3, 4)),
        rng.normal(size=(2, 3, 4)),
        nhead=2,
        tgt_mask=~np.tri(3, dtype=bool),
        memory_mask=np.zeros((3, 3), bool),
        tgt_key_padding_mask=LEFT_OUT,
        memory_key_padding_mask=LEFT_OUT,
        tgt_is_causal=True,
        norm_first=True,
        activation="gelu",
        layer_norm_eps=1e-3,
        need_weights=True,
    ),
    "seq2seq_attention_init": lambda rng: call(rng, 5, 5, 2, embedding_size=3, dtype=np.float32),
    "seq2seq_attention": lambda rng: call(_seq2seq(rng), TOKENS.T, TOKENS.T, ~LEFT_OUT.T, need_weights=True),
    "seq2seq_attention_decode": lambda rng: call(_seq2seq(rng), TOKENS.T, 2, start=1, source_mask=~LEFT_OUT.T),
    "translator_init": lambda rng: call(
        rng,
        source_size=5,
        target_size=5,
        d_model=4,
        num_encoder_layers=1,
        num_decoder_layers=1,
        dim_feedforward=3,
        dtype=np.float32,
    ),
    "translator": lambda rng: call(_translator(rng), TOKENS, TOKENS, nhead=2, padding=0, need_weights=True),
    "translator_encode": lambda rng: call(_translator(rng), TOKENS, nhead=2, padding=0),
    "translator_decode": lambda rng: call(
        _translator(rng), TOKENS, rng.normal(size=(2, 3, 4)), nhead=2, left_out=LEFT_OUT, need_weights=True
    ),
    "translate": lambda rng: call(_translator(rng), TOKENS, nhead=2, start=1, length=2, end=3, padding=0),
    "gpt_init": lambda rng: call(
        rng, vocab_size=5, context=6, n_layer=1, n_head=2, n_embd=4, tie_weights=False, dtype=np.float32
    ),
    "gpt": lambda rng: call(_moved(_gpt(rng), rng), TOKENS, n_head=2, need_weights=True, ablate=((0, 1),)),
    "gpt_loss": lambda rng: call(_moved(_gpt(rng), rng), TOKENS, TOKENS, n_head=2),
    "gpt_cache": lambda rng: call(_moved(_gpt(rng), rng), 2, n_head=2),
    "gpt_step": lambda rng: _step(_moved(_gpt(rng), rng)),
    "top_k_filter": lambda rng: call(rng.normal(size=(2, 5)), 2),
    "top_p_filter": lambda rng: call(rng.normal(size=(2, 5)), 0.5),
    "generate": lambda rng: call(
        _moved(_gpt(rng), rng),
        TOKENS,
        n_head=2,
        length=2,
        rng=rng,
        temperature=0.5,
        top_k=3,
        top_p=0.75,
        cache=True,
    ),
    "gpt_flops": lambda rng: call(_gpt(rng), 3),
    "training_flops": lambda rng: call(3.0, 4.0),
    "bpe_train": lambda rng: call("ababab", 258),
    "bpe_encode": lambda rng: call("ababab", MERGES),
    "bpe_vocabulary": lambda rng: call(MERGES),
    "bpe_decode": lambda rng: call(np.array([97, 256]), MERGES),
}


def _step(params):
    _, cache = attention.gpt_step(params, TOKENS[:, :2], attention.gpt_cache(params, 2, n_head=2), n_head=2)
    return call(params, TOKENS[:, 2:], cache, n_head=2)
