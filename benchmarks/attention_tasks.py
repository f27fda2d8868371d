"""What attention is worth for writing dates in one form.

The network is the translator of chapter 8, an encoder and a decoder of one block each. Its control is the same network,
trained in the same way, whose decoder sees the *mean* of the encoder's tokens, one vector, in place of all of them: the
bottleneck of a sequence-to-sequence network without attention. Padding does not count in the mean. Tested is on days
that the training has not seen; the learning rate was chosen on others. ``attention_reversal.py`` trains the same
networks.

Bar: dates at least 96 % right with attention, mean of three seeds.
"""

from __future__ import annotations

from _common import Bar, main, spread, timed

DATES = {"d_model": 48, "nhead": 4, "batch": 32, "steps": 900, "max_lr": 5e-3}
TEST = 1000


def one_vector(memory, source, padding):
    """The mean of the encoder's tokens, padding left out, as a memory of length one."""
    import numpy as np

    real = np.ones(np.shape(source)) if padding is None else np.asarray(source) != padding
    share = (real / real.sum(1, keepdims=True)).astype(memory.dtype)
    return (memory * share[:, :, None]).sum(axis=1, keepdims=True)


def logits_of(params, source, target, nhead, padding, bottleneck):
    from nnbook.attention import translator, translator_decode, translator_encode

    if not bottleneck:
        return translator(params, source, target, nhead=nhead, padding=padding)
    memory = one_vector(translator_encode(params, source, nhead=nhead, padding=padding), source, padding)
    return translator_decode(params, target, memory, nhead=nhead)


def written(params, source, setting, start, length, padding, bottleneck):
    """Greedy decoding, with and without the bottleneck."""
    import numpy as np

    from nnbook.attention import translate, translator_decode, translator_encode

    if not bottleneck:
        return translate(params, source, nhead=setting["nhead"], start=start, length=length, padding=padding)[0]
    memory = translator_encode(params, source, nhead=setting["nhead"], padding=padding)
    memory = one_vector(memory, source, padding)
    tokens = np.full((len(source), 1), start)
    for _ in range(length):
        new = translator_decode(params, tokens, memory, nhead=setting["nhead"])[:, -1].argmax(-1)
        tokens = np.concatenate([tokens, new[:, None]], axis=1)
    return tokens[:, 1:]


def train(draw, sizes, setting, seed, start, *, padding=None, bottleneck=False, every=100):
    """Adam with a one-cycle schedule and clipped gradients; the curve is the loss, averaged over ``every`` steps."""
    import numpy as np

    from nnbook.attention import translator_init
    from nnbook.backprop import value_and_grad
    from nnbook.losses import cross_entropy
    from nnbook.optimizers import adam, adam_init, clip_grad_norm, one_cycle

    rng = np.random.default_rng(seed)
    params = translator_init(rng, source_size=sizes[0], target_size=sizes[1], d_model=setting["d_model"])

    def loss(params, source, target):
        given = np.concatenate([np.full((len(target), 1), start), target[:, :-1]], axis=1)
        logits = logits_of(params, source, given, setting["nhead"], padding, bottleneck)
        return cross_entropy(logits.reshape(-1, sizes[1]), target.reshape(-1))

    gradient, state, losses = value_and_grad(loss), adam_init(params), []
    for step in range(setting["steps"]):
        value, grads = gradient(params, *draw(rng, setting["batch"]))
        grads, _ = clip_grad_norm(grads, max_norm=1.0)
        lr = one_cycle(step, max_lr=setting["max_lr"], total_steps=setting["steps"])
        params, state = adam(params, grads, state, lr=lr)
        losses.append(float(value))
    curve = [float(np.mean(losses[i : i + every])) for i in range(0, len(losses), every)]
    return params, curve


class Characters:
    """Both sides of the dates as arrays of characters; source 0 is padding, the last target is the start."""

    def __init__(self, written, wanted):
        self.source, self.target = sorted(set("".join(written))), sorted(set("".join(wanted)))
        self.width = max(map(len, written))

    def read(self, written, wanted):
        import numpy as np

        x = np.zeros((len(written), self.width), np.int64)
        for row, text in zip(x, written, strict=True):
            row[: len(text)] = [1 + self.source.index(c) for c in text]
        return x, np.array([[self.target.index(c) for c in text] for text in wanted])

    def write(self, tokens):
        return "".join(self.target[t] for t in tokens)


def dates(seeds, setting):
    import numpy as np

    from nnbook import data
    from nnbook.attention import translate

    texts = data.dates(20_000, rng=np.random.default_rng(1))
    characters = Characters(*texts)
    x, y = characters.read(*texts)
    days = np.array([int(text.replace("-", "")) for text in texts[1]])
    held_out = days % 7 == 3  # days of which the training sees no form at all
    x_train, y_train = x[~held_out], y[~held_out]
    x_test, y_test = x[held_out][:TEST], y[held_out][:TEST]
    start = len(characters.target)
    sizes = (len(characters.source) + 1, start + 1)

    def draw(rng, n):
        rows = rng.integers(len(x_train), size=n)
        return x_train[rows], y_train[rows]

    found = {"training": len(x_train), "test": len(x_test)}
    for name, bottleneck in (("attention", False), ("one vector", True)):
        right, places, curves, seconds = [], [], [], []
        for seed in range(seeds):
            duration, (params, curve) = timed(
                lambda seed=seed, bottleneck=bottleneck: train(
                    draw,
                    sizes,
                    setting,
                    seed,
                    start,
                    padding=0,
                    bottleneck=bottleneck,
                )
            )
            said = written(params, x_test, setting, start, 10, 0, bottleneck)
            right.append(float((said == y_test).all(1).mean()))
            places.append([float(p) for p in (said == y_test).mean(0)])
            curves.append(curve)
            seconds.append(duration)
            print(f"dates, {name}, seed {seed}: {100 * right[-1]:.1f} % right, {duration:.0f} s")
            if name == "attention" and seed == 0:
                chosen = ["Friday, 13 September 2024", "7-mar-61", "October 31, 1987"]
                tokens, weights = translate(
                    params,
                    characters.read(chosen, ["2000-01-01"] * 3)[0],
                    nhead=setting["nhead"],
                    start=start,
                    length=10,
                    padding=0,
                )
                found["pictures"] = [
                    {
                        "read": text,
                        "written": characters.write(out),
                        "weights": np.round(w[:, :, : len(text)], 3).tolist(),
                    }
                    for text, out, w in zip(chosen, tokens, weights, strict=True)
                ]
        found[name] = {
            "right": spread(right),
            "each": right,
            "places": places,
            "curves": curves,
            "seconds": spread(seconds),
        }
    return found


def measure(quick):
    forms = dates(1 if quick else 3, DATES | ({"steps": 20} if quick else {}))
    results = {"settings": {"dates": DATES}, "dates": forms}
    return results, [Bar("dates with attention, mean", forms["attention"]["right"]["mean"], 0.96, "", at_least=True)]


if __name__ == "__main__":
    main(__file__, measure, threads=1)
