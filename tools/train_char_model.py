"""Train the character model behind the widget "A character model writes at a temperature".

    python tools/train_char_model.py [--check]

A GRU is trained on the training part of nnbook.data.python_topics by truncated backpropagation through time; the epoch
that is best on the validation part is kept. It writes nnbook/_data/char_model.safetensors and, with machine and seeds,
benchmarks/results/char_model.json. ``--check`` trains nothing: it measures what the package has, and fails if that is
not the recorded perplexity.

The shipped weights were made by one thread of BLAS (OMP_NUM_THREADS=1); another number of threads or another processor
rounds otherwise, and comes to slightly other weights.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from _common import machine  # noqa: E402

from nnbook import data, training  # noqa: E402
from nnbook.cnn import parameter_count  # noqa: E402
from nnbook.optimizers import adam, adam_init, clip_grad_norm, cosine_annealing_lr  # noqa: E402
from nnbook.rnn import (  # noqa: E402
    bits_per_character,
    char_rnn,
    char_rnn_init,
    chunks,
    encode,
    ngram_search,
    perplexity,
    sequence_cross_entropy,
    streams,
    value_and_grad_with_state,
    vocabulary,
)

HIDDEN, EMBEDDING, COLUMNS, STEPS, EPOCHS, RATE, SEED = 208, 32, 16, 64, 14, 3e-3, 0
TARGET = ROOT / "nnbook" / "_data" / "char_model.safetensors"
RECORD = ROOT / "benchmarks" / "results" / "char_model.json"


def loss(params, x, y, state):
    logits, state = char_rnn(params, x, state)
    return sequence_cross_entropy(logits, y), state


def nats(params, tokens) -> float:
    """Mean loss of a whole text, read from its beginning to its end."""
    return float(loss(params, tokens[:-1, None], tokens[1:, None], None)[0])


def train(parts, vocab_size: int):
    """The parameters of the best epoch, and the validation loss after every epoch."""
    training_text, validation = parts[:2]
    params = char_rnn_init(np.random.default_rng(SEED), vocab_size, HIDDEN, cell="gru", embedding_size=EMBEDDING)
    columns, state, step = streams(training_text, COLUMNS), adam_init(params), 0
    total = EPOCHS * -(-(len(columns) - 1) // STEPS)
    g, best, history = value_and_grad_with_state(loss), params, []
    for _ in range(EPOCHS):
        h = None
        for x, y in chunks(STEPS, columns[:-1], columns[1:]):
            _, grads, h = g(params, x, y, h)
            grads, _ = clip_grad_norm(grads, max_norm=1.0)
            lr = cosine_annealing_lr(step, lr=RATE, T_max=total, eta_min=RATE / 100)
            params, state = adam(params, grads, state, lr=lr)
            step += 1
        history.append(nats(params, validation))
        print(f"epoch {len(history)}: validation perplexity {perplexity(history[-1]):.3f}", flush=True)
        if history[-1] == min(history):
            best = params
    return best, history


def main() -> None:
    text = data.python_topics()
    tokens = vocabulary(text)
    parts = [encode(part, tokens) for part in data.text_split(text)]
    if "--check" in sys.argv:
        found, recorded = (
            perplexity(nats(training.load(TARGET), parts[1])),
            json.loads(RECORD.read_text())["perplexity"],
        )
        print(f"validation perplexity {found:.4f}, recorded {recorded:.4f}")
        sys.exit(int(abs(found - recorded) > 1e-3))
    start = time.perf_counter()
    params, history = train(parts, len(tokens))
    seconds = time.perf_counter() - start
    training.save(TARGET, params)
    chosen = ngram_search(parts[0], parts[1], vocab_size=len(tokens))
    record = {
        "command": "python tools/train_char_model.py",
        "machine": machine(),
        "seconds": round(seconds, 1),
        "seed": SEED,
        "parameters": parameter_count(params),
        "validation_nats": history,
        "perplexity": float(perplexity(min(history))),
        "bits_per_character": float(bits_per_character(min(history))),
        "ngram": {key: float(chosen[key]) for key in ("order", "concentration", "nll")},
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
