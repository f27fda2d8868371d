"""Sunspots, one to eleven years ahead: a GRU beside a linear autoregression, persistence and the mean.

Years up to 1849 are for training, 1850 to 1899 for choosing (the order of the autoregression; the width and the number
of steps of the GRU), 1900 to 2008 for one look. What was chosen is trained again on everything before 1900. A forecast
k years ahead feeds the model with its own forecasts k - 1 times. Errors are root mean squares in sunspots.

Bars: the autoregression beats persistence one year ahead; so does the mean of the GRUs.
"""

from __future__ import annotations

from _common import Bar, main, spread

TRAIN_END, TEST_START = 1850, 1900
HORIZON = 11
ORDERS = list(range(1, 16))
WIDTHS, CHECKS, STEPS, LR = [4, 8, 16], 20, 400, 1e-2
SEEDS, SELECTION = [0, 1, 2, 3, 4], [10, 11, 12]


def errors(forecasts, numbers, first):
    """Root mean square error for each horizon; ``forecasts[i, k]`` is for year ``first + i + k``."""
    import numpy as np

    n = len(numbers) - first
    table = []
    for k in range(forecasts.shape[1]):
        made = forecasts[: n - k, k]
        table.append(float(np.sqrt(np.mean((made - numbers[first + k : first + k + len(made)]) ** 2))))
    return table


def autoregression(numbers, order, stop, first):
    """Forecasts (years from ``first`` on, horizon) of a model fitted to everything before index ``stop``."""
    import numpy as np

    from nnbook.rnn import ar_fit, ar_forecast

    params = ar_fit(numbers[:stop], order=order)
    return np.array([ar_forecast(params, numbers[:i], HORIZON) for i in range(first, len(numbers))])


def gru(numbers, width, stop, first, seed, steps, watch=None):
    """Forecasts as above; with ``watch`` only the error on the years from ``stop`` to it, every CHECKS steps."""
    import numpy as np

    from nnbook.backprop import value_and_grad
    from nnbook.losses import mse_loss
    from nnbook.neurons import linear, linear_init
    from nnbook.optimizers import adam, adam_init, clip_grad_norm
    from nnbook.rnn import recurrent, recurrent_init

    rng = np.random.default_rng(seed)
    params = {"rnn": recurrent_init(rng, "gru", 1, width), "linear": linear_init(rng, width, 1)}
    series = (np.asarray(numbers, np.float32) / 100)[:, None, None]

    def model(params, x, state=None):
        output, state = recurrent(params["rnn"], x, state)
        # The layer says by how much the next year differs from this one.
        return x[:, :, 0] + linear(output, **params["linear"])[:, :, 0], state

    def loss(params, x):
        return mse_loss(model(params, x[:-1])[0], x[1:, :, 0])

    gradient, state, curve = value_and_grad(loss), adam_init(params), []
    for step in range(1, steps + 1):
        _, grads = gradient(params, series[:stop])
        grads, _ = clip_grad_norm(grads, max_norm=1.0)
        params, state = adam(params, grads, state, lr=LR)
        if watch is not None and step % CHECKS == 0:
            made = model(params, series[: watch - 1])[0][stop - 1 :, 0]
            curve.append(float(np.sqrt(np.mean((100 * made - numbers[stop:watch]) ** 2))))
    if watch is not None:
        return curve
    forecasts = []
    for i in range(first, len(numbers)):
        made, memory = model(params, series[:i])
        made, path = made[-1:, :, None], []
        for _ in range(HORIZON):
            path.append(100 * float(made[0, 0, 0]))
            made, memory = model(params, made, memory)
            made = made[:, :, None]
        forecasts.append(path)
    return np.array(forecasts)


def measure(quick):
    import numpy as np

    from nnbook import data
    from nnbook.rnn import ar_fit, ar_predict

    years, numbers = data.sunspots()
    numbers = numbers.astype(np.float64)
    stop, first = int(np.searchsorted(years, TRAIN_END)), int(np.searchsorted(years, TEST_START))
    steps = 40 if quick else STEPS

    on_validation = {}
    for order in ORDERS:
        made = ar_predict(ar_fit(numbers[:stop], order=order), numbers[:first])[stop - order :]
        on_validation[order] = float(np.sqrt(np.mean((made - numbers[stop:first]) ** 2)))
    order = min(on_validation, key=on_validation.get)

    curves = {}
    for width in WIDTHS[:1] if quick else WIDTHS:
        runs = [gru(numbers, width, stop, first, seed, steps, watch=first) for seed in SELECTION]
        curves[width] = np.mean(runs, 0)
    width = min(curves, key=lambda w: curves[w].min())
    chosen = CHECKS * (1 + int(curves[width].argmin()))

    test = numbers[first:]
    n = len(test)
    forecasts = {
        "mean": np.full((n, HORIZON), numbers[:first].mean()),
        "persistence": np.repeat(numbers[first - 1 : -1, None], HORIZON, 1),
        "Yule, order 2": autoregression(numbers, 2, first, first),
        "autoregression": autoregression(numbers, order, first, first),
    }
    networks = [gru(numbers, width, first, first, seed, chosen) for seed in SEEDS[: 1 if quick else None]]
    table = {name: errors(made, numbers, first) for name, made in forecasts.items()}
    of_networks = [errors(made, numbers, first) for made in networks]
    results = {
        "orders": on_validation,
        "order": order,
        "widths": {str(w): curve.tolist() for w, curve in curves.items()},
        "width": width,
        "steps": chosen,
        "lr": LR,
        "seeds": SEEDS,
        "selection_seeds": SELECTION,
        "test_years": [int(years[first]), int(years[-1])],
        "rms": table,
        "rms_gru": [spread([run[k] for run in of_networks]) for k in range(HORIZON)],
        "rms_gru_mean_forecast": errors(np.mean(networks, 0), numbers, first),
        "one_year_ahead": {
            "autoregression": forecasts["autoregression"][:, 0].round(2).tolist(),
            "gru": networks[0][:, 0].round(2).tolist(),
        },
    }
    for name, row in table.items():
        print(f"{name:16}", np.round(row, 1))
    print(f"GRU {width:12}", np.round([row["mean"] for row in results["rms_gru"]], 1))
    return results, [
        Bar("autoregression over persistence, one year", table["autoregression"][0] / table["persistence"][0], 1),
        Bar("GRU over persistence, one year", results["rms_gru"][0]["mean"] / table["persistence"][0], 1),
    ]


if __name__ == "__main__":
    main(__file__, measure)
