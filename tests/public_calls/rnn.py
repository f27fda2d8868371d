"""Calls of nnbook.rnn."""

import numpy as np

from nnbook import rnn
from public_calls import call

TOKENS = np.array([[0, 3], [1, 2], [4, 0]])
MASK = np.array([[True, True], [True, True], [True, False]])


def cell(name, rng, D=3, H=2):
    return rnn.recurrent_init(rng, name, D, H, dtype=np.float64)


def language_model(rng):
    return rnn.char_rnn_init(rng, 5, 2, embedding_size=3, dtype=np.float64)


def translator(rng):
    return rnn.seq2seq_init(rng, 5, 6, 2, dtype=np.float64)


def chunk_loss(params, x, y, state):
    """Of any tree, so that what a wrong one raises is not the loss's own error."""
    h = rnn.linear_recurrence(x * 0 + params["a"], x, state)
    return ((h - y) ** 2).mean(), h[len(h) - 1]


def text_model(rng):
    return rnn.ngram_fit(np.array([0, 1, 2, 0, 1, 1]), order=2, vocab_size=3)


CALLS = {
    "rnn_cell": lambda rng: call(
        rng.normal(size=(2, 3)), rng.normal(size=(2, 2)), *cell("rnn", rng).values(), nonlinearity="tanh"
    ),
    "lstm_cell": lambda rng: call(
        rng.normal(size=(2, 3)), rng.normal(size=(2, 2)), rng.normal(size=(2, 2)), *cell("lstm", rng).values()
    ),
    "gru_cell": lambda rng: call(
        rng.normal(size=(2, 3)), rng.normal(size=(2, 2)), *cell("gru", rng).values(), reset_after=False
    ),
    "recurrent_init": lambda rng: call(
        rng, "lstm", 3, 2, num_layers=2, bias=True, bidirectional=True, forget_bias=1.0, dtype=np.float32
    ),
    "cell_of": lambda rng: call(cell("gru", rng)),
    "recurrent": lambda rng: call(
        rnn.recurrent_init(rng, "lstm", 3, 2, num_layers=2, dtype=np.float64),
        rng.normal(size=(3, 2, 3)),
        (rng.normal(size=(2, 2, 2)), rng.normal(size=(2, 2, 2))),
        MASK,
        dropout_masks=[rng.random((3, 2, 2)) < 0.5],
        p=0.5,
    ),
    "recurrent_classifier_init": lambda rng: call(rng, "lstm", 3, 2, 4, num_layers=1, forget_bias=1.0),
    "recurrent_classifier": lambda rng: call(
        rnn.recurrent_classifier_init(rng, "gru", 3, 2, 4, dtype=np.float64), rng.normal(size=(3, 2, 3)), MASK
    ),
    "length_mask": lambda rng: call(np.array([2, 3]), 4),
    "value_and_grad_with_state": lambda rng: call(lambda p: ((p * p).sum(), p)),
    "chunks": lambda rng: call(2, rng.normal(size=(5, 2)), rng.normal(size=(5, 2))),
    "truncated_bptt": lambda rng: call(
        chunk_loss, {"a": np.array(0.5)}, rng.normal(size=(5, 2)), rng.normal(size=(5, 2)), np.zeros(2), length=2
    ),
    "gradients_through_time": lambda rng: call(
        cell("lstm", rng),
        rng.normal(size=(3, 2, 3)),
        rng.normal(size=(2, 2)),
        (rng.normal(size=(2, 2)), rng.normal(size=(2, 2))),
    ),
    "sequence_cross_entropy": lambda rng: call(rng.normal(size=(3, 2, 5)), TOKENS, MASK, reduction="mean"),
    "perplexity": lambda rng: call(np.array(1.5)),
    "bits_per_character": lambda rng: call(np.array(1.5)),
    "vocabulary": lambda rng: call("abcab"),
    "encode": lambda rng: call("ab", ["a", "b"]),
    "decode": lambda rng: call(np.array([0, 1, 0]), ["a", "b"]),
    "streams": lambda rng: call(np.array([0, 1, 2, 0, 1]), 2),
    "char_rnn_init": lambda rng: call(rng, 5, 2, cell="lstm", embedding_size=3, num_layers=1, forget_bias=1.0),
    "char_rnn": lambda rng: call(
        language_model(rng), TOKENS, (rng.normal(size=(1, 2, 2)), rng.normal(size=(1, 2, 2))), MASK, p=0.5
    ),
    "sample": lambda rng: call(np.random.default_rng(0), rng.normal(size=(2, 5)), temperature=0.5),
    "generate": lambda rng: call(np.random.default_rng(0), language_model(rng), np.array([0, 3]), 3, temperature=0.5),
    "seq2seq_init": lambda rng: call(rng, 5, 6, 2, cell="lstm", embedding_size=3, num_layers=1, forget_bias=1.0),
    "seq2seq": lambda rng: call(translator(rng), TOKENS, TOKENS[:2], MASK),
    "greedy_decode": lambda rng: call(translator(rng), TOKENS, 3, start=1, source_mask=MASK),
    "ngram_fit": lambda rng: call(np.array([0, 1, 2, 0, 1, 1]), order=2, vocab_size=3),
    "ngram_probabilities": lambda rng: call(text_model(rng), np.array([0, 1]), concentration=2.0),
    "ngram_nll": lambda rng: call(text_model(rng), np.array([0, 1, 2]), concentration=2.0),
    "ngram_search": lambda rng: call(
        np.array([0, 1, 2, 0, 1, 1]), np.array([0, 1]), vocab_size=3, orders=(1, 2), concentrations=(0.5, 2.0)
    ),
    "windows": lambda rng: call(rng.normal(size=6), 2),
    "ar_fit": lambda rng: call(rng.normal(size=9), order=2),
    "ar_predict": lambda rng: call({"weight": np.array([0.5, 0.25]), "bias": np.array(1.0)}, rng.normal(size=6)),
    "ar_forecast": lambda rng: call({"weight": np.array([0.5, 0.25]), "bias": np.array(1.0)}, rng.normal(size=6), 3),
    "skip_gram_pairs": lambda rng: call(np.array([0, 1, 2, 0]), window=2),
    "negative_samples": lambda rng: call(np.random.default_rng(0), np.array([1, 0, 2]), (4,), power=0.75),
    "skip_gram_init": lambda rng: call(rng, 5, 3, dtype=np.float32),
    "skip_gram_loss": lambda rng: call(
        {"input": {"weight": rng.normal(size=(5, 3))}, "output": {"weight": rng.normal(size=(5, 3))}},
        np.array([0, 1]),
        np.array([2, 3]),
        np.array([[1, 4], [0, 0]]),
    ),
    "most_similar": lambda rng: call(rng.normal(size=(5, 3)), 1, count=2),
    "spectral_radius": lambda rng: call(rng.normal(size=(3, 3))),
    "with_spectral_radius": lambda rng: call(rng.normal(size=(3, 3)), 0.9),
}
