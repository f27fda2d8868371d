"""Double descent: random features on 500 images of MNIST, least squares, more and more features.

The test error rises towards the interpolation threshold, where there are as many features as images, and comes down
again behind it; a ridge takes the peak away. Five seeds, each with images, features and (in the second part) wrong
labels of its own. A tenth of the training labels is wrong there.

Nothing is chosen on the test images: every strength of the ridge is shown. "tuned" is the strength that did best, at
each number of features, on 1,000 other images.

Bars: the mean test error at the threshold is at least 1.5 times that of twenty times as many features; with the tuned
ridge nowhere more than 1.1 times that of any smaller number of features.
"""

from __future__ import annotations

from _common import Bar, main, spread

IMAGES, ASIDE = 500, 1000
COUNTS = [10, 20, 50, 100, 200, 300, 400, 450, 480, 500, 520, 550, 600, 700, 1000, 2000, 5000, 10000]
RIDGES = [0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0]
WRONG = [0.0, 0.1]


def draw(seed, wrong):
    """Training and validation images of one seed, as many training labels replaced by another as ``wrong`` says."""
    import numpy as np

    from nnbook.data import mnist_subset, split

    (images, labels), test = mnist_subset()
    rng = np.random.default_rng(seed)
    (x, y), aside, _ = split(images, labels, fractions=(0.05, 0.1, 0.85), rng=rng)
    assert len(y) == IMAGES
    other = (y + rng.integers(1, 10, len(y))) % 10
    y = np.where(rng.permutation(len(y)) < round(wrong * len(y)), other, y)
    centre, scale = x.mean(), x.std()
    return [((part - centre) / scale, target) for part, target in ((x, y), aside, test)], rng


def ridges(x, y, strengths):
    """``nnbook.regularization.ridge`` for several strengths, the singular values computed once."""
    import numpy as np

    from nnbook.regularization import ridge

    u, s, vt = np.linalg.svd(x, full_matrices=False)
    keep = s > max(x.shape) * np.finfo(s.dtype).eps * s.max()
    u, s, vt = u[:, keep], s[keep], vt[keep]
    weights = {lam: vt.T @ ((s / (s * s + lam))[:, None] * (u.T @ y)) for lam in strengths}
    if min(x.shape) <= 100:
        for lam, w in weights.items():
            assert np.allclose(w, ridge(x, y, lam=lam), rtol=1e-6, atol=1e-6 * np.abs(w).max())
    return weights


def one(seed, wrong, counts):
    """Errors of one seed: a row for each number of features and strength of the ridge."""
    import numpy as np

    from nnbook.regularization import random_features, random_features_init

    ((x, y), (x_aside, y_aside), (x_test, y_test)), rng = draw(seed, wrong)
    layer = random_features_init(rng, 784, max(counts))
    target, target_test = (np.eye(10)[labels] - 0.1 for labels in (y, y_test))
    rows = []
    for count in counts:
        part = {name: array[:count] for name, array in layer.items()}
        inside, aside, outside = (random_features(part, a) for a in (x, x_aside, x_test))
        for lam, w in ridges(inside, target, RIDGES).items():
            known, answer = inside @ w, outside @ w
            rows.append(
                {
                    "features": count,
                    "ridge": lam,
                    "training": float((known.argmax(1) != y).mean()),
                    "validation": float(((aside @ w).argmax(1) != y_aside).mean()),
                    "test": float((answer.argmax(1) != y_test).mean()),
                    "training_mse": float(((known - target) ** 2).mean()),
                    "test_mse": float(((answer - target_test) ** 2).mean()),
                    "norm": float(np.sqrt((w * w).sum())),
                }
            )
    return rows


def over_seeds(runs):
    """Mean and standard deviation over the seeds at each number of features; ``runs[seed][i]`` is a row."""
    curves = {}
    for key in ("training", "test", "training_mse", "test_mse", "norm"):
        points = [spread(row[key] for row in rows) for rows in zip(*runs, strict=True)]
        curves[key] = {part: [float(f"{point[part]:.5g}") for point in points] for part in ("mean", "sd")}
    return curves


def measure(quick):
    seeds = range(1 if quick else 5)
    counts = [100, 500, 2000] if quick else COUNTS
    parts, bars = {}, []
    for wrong in WRONG:
        runs = [one(seed, wrong, counts) for seed in seeds]
        curves = {
            f"{lam:g}": over_seeds([[row for row in run if row["ridge"] == lam] for run in runs]) for lam in RIDGES
        }
        at = [[[row for row in run if row["features"] == count] for count in counts] for run in runs]
        chosen = [[min(rows, key=lambda row: row["validation"]) for rows in run] for run in at]
        curves["tuned"] = over_seeds(chosen) | {"ridge": [[row["ridge"] for row in run] for run in chosen]}
        parts[f"{wrong:g}"] = curves
        for name, curve in curves.items():
            print(f"{100 * wrong:g} % wrong labels, ridge {name}: test error in %")
            means = zip(counts, curve["test"]["mean"], strict=True)
            print("  " + "  ".join(f"{count}: {100 * mean:.1f}" for count, mean in means))
        plain, tuned = (curves[name]["test"]["mean"] for name in ("0", "tuned"))
        label = f"{100 * wrong:g} % wrong labels"
        peak = plain[counts.index(IMAGES)] / plain[-1]
        rise = max(after / min(tuned[:i]) for i, after in enumerate(tuned) if i)
        bars += [
            Bar(f"{label}, test error at the threshold against the most features", peak, 1.5, at_least=True),
            Bar(f"{label}, tuned ridge: test error against that of fewer features", rise, 1.1),
        ]
    results = {
        "images": IMAGES,
        "validation_images": ASIDE,
        "features": counts,
        "ridges": RIDGES,
        "wrong_labels": WRONG,
        "seeds": list(seeds),
        "curves": parts,
    }
    return results, bars


if __name__ == "__main__":
    main(__file__, measure)
