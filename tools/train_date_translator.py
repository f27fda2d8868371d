"""Train the encoder and decoder behind the widget "What a trained head attends to".

    python tools/train_date_translator.py [--check]

It writes nnbook/_data/date_translator.safetensors and, with machine and seeds, benchmarks/results/date_translator.json.
``--check`` trains nothing: it measures what the package has, and fails if that is worse than the record.

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
from nnbook.attention import translate, translator, translator_init  # noqa: E402
from nnbook.cnn import parameter_count  # noqa: E402
from nnbook.explore.attention import NHEAD, SOURCE, TARGET, WEIGHTS, read_answers, read_dates  # noqa: E402
from nnbook.losses import cross_entropy  # noqa: E402
from nnbook.optimizers import adam, adam_init, clip_grad_norm, cosine_annealing_lr, linear_warmup  # noqa: E402

WIDTH, HIDDEN, DATES, EPOCHS, BATCH, RATE = 64, 128, 40_000, 4, 64, 2e-3
STEPS, WARM = EPOCHS * (DATES // BATCH), 200
SEEDS = {"parameters": 0, "training": 1, "validation": 2, "test": 3, "order": 4}
TARGET_FILE = ROOT / "nnbook" / "_data" / WEIGHTS
RECORD = ROOT / "benchmarks" / "results" / "date_translator.json"


def sample(n: int, seed: int):
    texts, wanted = data.dates(n, rng=np.random.default_rng(seed))
    return read_dates(texts, 28), read_answers(wanted)


def loss(params, x, y):
    logits = translator(params, x, y[:, :-1], nhead=NHEAD, padding=0)
    return cross_entropy(logits.reshape(-1, len(TARGET)), y[:, 1:].ravel())


def rate(step: int) -> float:
    falling = lambda s: cosine_annealing_lr(min(s, STEPS), lr=RATE, T_max=STEPS, eta_min=RATE / 100)  # noqa: E731
    return linear_warmup(step, lr=falling, total_iters=WARM, start_factor=0.01)


def clipped(params, grads, state, **options):
    grads, _ = clip_grad_norm(grads, max_norm=1.0)
    return adam(params, grads, state, **options)


def right(params, x, y) -> float:
    """Share of the dates that are written without a mistake."""
    answers = translate(params, x, nhead=NHEAD, start=TARGET.index("start"), length=10, padding=0)[0]
    return float((answers == y[:, 1:]).all(axis=1).mean())


def main() -> None:
    if "--check" in sys.argv:
        params = training.load(TARGET_FILE)
        found, wanted = right(params, *sample(1000, SEEDS["test"])), json.loads(RECORD.read_text())["test"]
        print(f"{found:.1%} of 1,000 test dates are right, recorded are {wanted:.1%}")
        sys.exit(int(found < wanted))
    start = time.perf_counter()
    params = translator_init(
        np.random.default_rng(SEEDS["parameters"]),
        source_size=len(SOURCE),
        target_size=len(TARGET),
        d_model=WIDTH,
        dim_feedforward=HIDDEN,
    )
    validation = sample(1000, SEEDS["validation"])
    result = training.fit(
        params,
        loss,
        sample(DATES, SEEDS["training"]),
        optimizer=(adam_init, clipped),
        lr=rate,
        epochs=EPOCHS,
        batch_size=BATCH,
        rng=np.random.default_rng(SEEDS["order"]),
        validation=validation,
    )
    seconds = time.perf_counter() - start
    training.save(TARGET_FILE, result.params)
    figures = {
        "validation_loss": [float(value) for value in result.history["validation_loss"]],
        "validation": right(result.params, *validation),
        "test": right(result.params, *sample(1000, SEEDS["test"])),
    }
    record = {
        "command": "python tools/train_date_translator.py",
        "machine": machine(),
        "seconds": round(seconds, 1),
        "seeds": SEEDS,
        "parameters": parameter_count(result.params),
        **figures,
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
