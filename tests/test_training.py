"""The loop: what it computes, what it refuses, and that an interrupted run ends where an uninterrupted one does."""

import functools
import importlib.metadata
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import nnbook
from nnbook.backprop import by_number, flatten, stop_gradient, tree_map, value_and_grad
from nnbook.neurons import log_softmax, mlp, mlp_init, tanh
from nnbook.optimizers import (
    adadelta,
    adadelta_init,
    adagrad,
    adagrad_init,
    adam,
    adam_init,
    adamw,
    adamw_init,
    bias_or_scale,
    lion,
    lion_init,
    one_cycle,
    param_groups,
    rmsprop,
    rmsprop_init,
    sgd,
    sgd_init,
)
from nnbook.training import (
    evaluate,
    fit,
    from_torch,
    load,
    lockstep,
    predict,
    relative_difference,
    save,
    to_torch,
)


def squared_error(params, x, y):
    return ((mlp(params, x, tanh) - y) ** 2).mean()


def classification(params, x, y):
    return -(log_softmax(mlp(params, x)) * np.eye(3, dtype=x.dtype)[y]).sum() / len(x)


def wrong(params, x, y):
    return np.mean(mlp(params, x).argmax(1) != y)


def make_problem(n=50, dtype=np.float64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 4)).astype(dtype)
    y = np.asarray(np.sin(x[:, :1]), dtype)
    return mlp_init(np.random.default_rng(1), (4, 8, 1), dtype=dtype), x, y


def make_classes(n=90):
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=n)
    x = rng.normal(size=(n, 4)) + y[:, None]
    return mlp_init(np.random.default_rng(1), (4, 8, 3), dtype=np.float64), x, y


def identical(a, b):
    a, b = flatten(a), flatten(b)
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


# The loop


def test_fit_is_the_plain_loop():
    """Permute, cut into batches (the last one smaller), step: written out, the numbers are the same to the last bit."""
    params, x, y = make_problem(50)
    schedule = functools.partial(one_cycle, max_lr=0.1, total_steps=12)
    result = fit(
        params,
        squared_error,
        (x, y),
        optimizer=(sgd_init, sgd),
        lr=schedule,
        epochs=3,
        batch_size=16,
        rng=np.random.default_rng(7),
        momentum=0.9,
    )
    rng = np.random.default_rng(7)
    p, state, step, losses = params, sgd_init(params), 0, []
    for _ in range(3):
        order = rng.permutation(50)
        total = 0.0
        for rows in (order[:16], order[16:32], order[32:48], order[48:]):
            value, grads = value_and_grad(squared_error)(p, x[rows], y[rows])
            p, state = sgd(p, grads, state, lr=schedule(step), momentum=0.9)
            total += float(value) * len(rows)
            step += 1
        losses.append(total / 50)
    assert identical(result.params, p)
    assert result.history["train_loss"] == losses
    assert result.history["lr"] == [schedule(3), schedule(7), schedule(11)]
    assert result.best_epoch == 2


def test_fit_learns_and_leaves_its_inputs_alone():
    params, x, y = make_classes()
    start = tree_map(np.copy, params)
    result = fit(params, classification, (x, y), lr=0.01, epochs=20, batch_size=16, rng=np.random.default_rng(0))
    assert identical(params, start)
    assert result.history["train_loss"][-1] < 0.6 * result.history["train_loss"][0]
    assert evaluate(result.params, wrong, (x, y)) < 0.4  # guessing: 0.67


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    params, x, y = make_problem()
    run = functools.partial(fit, params, squared_error, (x, y), epochs=2, batch_size=8)
    a, b, c = (run(rng=np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert identical(a.params, b.params)
    assert a.history == b.history
    assert not identical(a.params, c.params)


def test_float32_stays_float32():
    params, x, y = make_problem(dtype=np.float32)
    result = fit(params, squared_error, (x, y), lr=0.01, epochs=1, batch_size=8, rng=np.random.default_rng(0))
    assert {leaf.dtype for leaf in flatten(result.params).values()} == {np.dtype(np.float32)}


def test_zero_epochs_change_nothing():
    params, x, y = make_problem()
    result = fit(params, squared_error, (x, y), epochs=0, batch_size=8, rng=np.random.default_rng(0))
    assert identical(result.params, params)
    assert result.history == {"train_loss": [], "lr": []}
    assert result.best_epoch == -1


def test_one_array_is_enough_for_params():
    x = np.random.default_rng(0).normal(size=(40, 3))
    y = x @ np.array([1.0, -2.0, 0.5])
    rng = np.random.default_rng(0)
    result = fit(
        np.zeros(3), lambda w, x, y: ((x @ w - y) ** 2).mean(), (x, y), lr=0.1, epochs=40, batch_size=10, rng=rng
    )
    assert np.allclose(result.params, [1, -2, 0.5], atol=0.02)


def test_validation_loss_and_metric_are_means_over_all_examples():
    params, x, y = make_classes()
    result = fit(
        params,
        classification,
        (x[:60], y[:60]),
        epochs=3,
        batch_size=20,
        rng=np.random.default_rng(0),
        validation=(x[60:], y[60:]),
        metric=wrong,
    )
    assert len(result.history["validation_loss"]) == len(result.history["validation_metric"]) == 3
    assert result.history["validation_loss"][-1] == pytest.approx(classification(result.params, x[60:], y[60:]))
    assert result.history["validation_metric"][-1] == pytest.approx(wrong(result.params, x[60:], y[60:]))


def overfitting(**options):
    """Labels of pure noise: the validation loss rises after the first epochs."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)), rng.integers(3, size=60)
    params = mlp_init(np.random.default_rng(1), (4, 32, 3), dtype=np.float64)
    options = {"lr": 0.02, "epochs": 60, "batch_size": 10, "rng": np.random.default_rng(0), **options}
    return fit(params, classification, (x[:40], y[:40]), validation=(x[40:], y[40:]), **options), x[40:], y[40:]


def test_early_stopping_returns_the_best_parameters():
    result, x, y = overfitting(patience=4)
    losses = result.history["validation_loss"]
    assert len(losses) < 60
    assert result.best_epoch == int(np.argmin(losses)) == len(losses) - 1 - 4
    assert evaluate(result.params, classification, (x, y)) == losses[result.best_epoch]


def test_without_patience_the_last_parameters_are_returned():
    result, x, y = overfitting(epochs=20)
    assert result.best_epoch == 19
    assert evaluate(result.params, classification, (x, y)) == result.history["validation_loss"][-1]
    assert min(result.history["validation_loss"]) < result.history["validation_loss"][-1]


# Things that go wrong


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_its_step(bad):
    params, x, y = make_problem(40)
    calls = []

    def loss(params, x, y):
        calls.append(0)
        return squared_error(params, x, y) * (bad if len(calls) == 8 else 1.0)

    with pytest.raises(FloatingPointError, match=rf"loss is {bad} at step 7 in epoch 1"):
        fit(params, loss, (x, y), epochs=5, batch_size=8, rng=np.random.default_rng(0))


def test_a_validation_loss_that_is_not_finite_names_its_epoch():
    params, x, y = make_problem(40)

    def loss(params, x, y):
        return squared_error(params, x, y) * (math.nan if len(x) == 7 else 1.0)

    with pytest.raises(FloatingPointError, match="validation loss is nan after epoch 0"):
        fit(params, loss, (x, y), epochs=5, batch_size=8, rng=np.random.default_rng(0), validation=(x[:7], y[:7]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": (np.ones((5, 4)), np.ones((4, 1)))}, r"training data: x has shape \(5, 4\) and y \(4, 1\)"),
        ({"data": (np.ones((0, 4)), np.ones((0, 1)))}, r"training data: there are no examples, x has shape \(0, 4\)"),
        ({"data": (np.ones(()), np.ones((1, 1)))}, r"x has shape \(\)"),
        ({"validation": (np.ones((5, 4)), np.ones((4, 1)))}, "validation data"),
        ({"batch_size": 0}, "batch_size must be >= 1, not 0"),
        ({"epochs": -1}, "epochs must be >= 0, not -1"),
        ({"rng": 3}, "rng must be a numpy.random.Generator, not 3"),
        ({"patience": 2}, "need a validation set"),
        ({"metric": wrong}, "need a validation set"),
        ({"validation": (np.ones((5, 4)), np.ones((5, 1))), "patience": 0}, "patience must be >= 1, not 0"),
        ({"lr": -1.0}, "lr must be >= 0"),
    ],
)
def test_bad_arguments_are_named(options, message):
    params, x, y = make_problem(8)
    options = {"data": (x, y), "epochs": 1, "batch_size": 4, "rng": np.random.default_rng(0), **options}
    with pytest.raises(ValueError, match=message):
        fit(params, squared_error, options.pop("data"), **options)


# Evaluation in batches


def test_predict_and_evaluate_do_not_depend_on_the_batch_size():
    params, x, y = make_classes()
    whole = predict(params, mlp, x)
    for batch_size in (1, 7, 90, 1000):
        assert np.allclose(predict(params, mlp, x, batch_size=batch_size), whole, rtol=1e-13, atol=0)
        expected = classification(params, x, y)
        assert evaluate(params, classification, (x, y), batch_size=batch_size) == pytest.approx(expected, rel=1e-12)


def test_predict_and_evaluate_refuse_nothing_and_batches_of_zero():
    params, x, y = make_classes()
    with pytest.raises(ValueError, match="no examples"):
        predict(params, mlp, x[:0])
    with pytest.raises(ValueError, match="batch_size must be >= 1, not 0"):
        predict(params, mlp, x, batch_size=0)
    with pytest.raises(ValueError, match="no examples"):
        evaluate(params, wrong, (x[:0], y[:0]))


# Progress


def test_no_progress_bar_where_there_is_no_terminal(capsys):
    params, x, y = make_problem(8)
    fit(params, squared_error, (x, y), epochs=1, batch_size=4, rng=np.random.default_rng(0))
    assert capsys.readouterr().err == ""


def test_progress_can_be_forced(capsys):
    params, x, y = make_problem(8)
    fit(params, squared_error, (x, y), epochs=3, batch_size=4, rng=np.random.default_rng(0), progress=True)
    assert "6/6" in capsys.readouterr().err


# Files


def test_saved_parameters_come_back_and_torch_reads_them(tmp_path):
    params = mlp_init(np.random.default_rng(0), (4, 8, 3))
    params["4"] = {"weight": np.asfortranarray(np.random.default_rng(1).normal(size=(3, 2))), "count": np.array(3)}
    save(tmp_path / "p.safetensors", params)
    assert identical(load(tmp_path / "p.safetensors"), params)
    tensors = safetensors.torch.load_file(tmp_path / "p.safetensors")
    assert tensors.keys() == flatten(params).keys()
    twin = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    twin.load_state_dict({key: tensor for key, tensor in tensors.items() if not key.startswith("4.")})
    assert np.array_equal(twin[2].weight.detach().numpy(), params["2"]["weight"])
    assert tensors["4.weight"].numpy().tolist() == params["4"]["weight"].tolist()


def test_what_torch_saves_is_read(tmp_path):
    twin = torch.nn.Linear(3, 2)
    safetensors.torch.save_file(twin.state_dict(), tmp_path / "t.safetensors")
    assert identical(load(tmp_path / "t.safetensors"), from_torch(twin.state_dict()))


def test_load_names_a_file_that_is_damaged_or_missing(tmp_path):
    path = tmp_path / "p.safetensors"
    with pytest.raises(FileNotFoundError):
        load(path)
    save(path, {"w": np.ones(100)})
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"p.safetensors is damaged .* delete it to start afresh"):
        load(path)


def test_a_file_needs_names(tmp_path):
    with pytest.raises(ValueError, match="not ndarray"):
        save(tmp_path / "p.safetensors", np.ones(3))


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.replace"])
def test_a_failed_save_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch, failing):
    path = tmp_path / "p.safetensors"
    save(path, {"w": np.ones(3)})

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(failing, fail)
    with pytest.raises(OSError, match="disk full"):
        save(path, {"w": np.zeros(3)})
    assert identical(load(path), {"w": np.ones(3)})
    assert [p.name for p in tmp_path.iterdir()] == ["p.safetensors"]


# Interrupted and resumed


class Killed(BaseException):
    """Stands for the process ending: nothing in the package catches it."""


OPTIMIZERS = [
    ((sgd_init, sgd), {"momentum": 0.9}),
    ((sgd_init, sgd), {}),
    ((adam_init, adam), {"amsgrad": True}),
    ((adamw_init, adamw), {}),
    ((adagrad_init, adagrad), {"lr_decay": 0.1}),
    ((rmsprop_init, rmsprop), {"momentum": 0.9, "centered": True}),
    ((adadelta_init, adadelta), {}),
    ((lion_init, lion), {}),
    (param_groups((sgd_init, sgd), (bias_or_scale, {"momentum": 0.9})), {}),
]


def noisy_error(rng):
    """A loss with randomness of its own, drawn from the rng that the checkpoint keeps."""

    def loss(params, x, y):
        return squared_error(params, x + 0.1 * rng.normal(size=x.shape), y)

    return loss


def interrupted(tmp_path, optimizer, options, bit_generator, kill):
    """Run 6 epochs once in one go and once killed, then resumed with a fresh generator; return both results."""
    params, x, y = make_problem(50)

    def run(checkpoint=None, seed=5, epochs=6, loss=noisy_error):
        rng = np.random.Generator(bit_generator(seed))
        return fit(
            params,
            loss(rng),
            (x[:40], y[:40]),
            optimizer=optimizer,
            lr=functools.partial(one_cycle, max_lr=0.02, total_steps=30),
            epochs=epochs,
            batch_size=9,
            rng=rng,
            validation=(x[40:], y[40:]),
            checkpoint=checkpoint,
            **options,
        )

    whole = run()
    path = tmp_path / "run.safetensors"
    kill(run, path)
    return whole, run(path, seed=99), path


def kill_between_epochs(run, path):
    run(path, epochs=3)


def kill_within_an_epoch(run, path):
    def loss(rng):
        inner, calls = noisy_error(rng), []

        @functools.wraps(inner)
        def counted(*args):
            calls.append(0)
            if len(calls) == 20:
                raise Killed
            return inner(*args)

        return counted

    with pytest.raises(Killed):
        run(path, loss=loss)


def kill_while_saving(run, path):
    """The third save dies after half of the bytes; the process is gone, so the temporary file stays."""
    saves = []

    def die(file):
        saves.append(0)
        if len(saves) == 3:
            os.ftruncate(file, 100)
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", die)
        patch.setattr("pathlib.Path.unlink", lambda *_, **__: None)
        with pytest.raises(Killed):
            run(path)
    assert len(list(path.parent.iterdir())) == 2


@pytest.mark.parametrize("kill", [kill_between_epochs, kill_within_an_epoch, kill_while_saving])
@pytest.mark.parametrize(("optimizer", "options"), OPTIMIZERS)
def test_a_resumed_run_is_identical_to_the_last_bit(tmp_path, optimizer, options, kill):
    whole, resumed, path = interrupted(tmp_path, optimizer, options, np.random.PCG64, kill)
    assert identical(resumed.params, whole.params)
    assert resumed.history == whole.history
    assert resumed.best_epoch == whole.best_epoch
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == [path.name]


@pytest.mark.parametrize("bit_generator", [np.random.MT19937, np.random.Philox, np.random.SFC64, np.random.PCG64DXSM])
def test_every_bit_generator_can_be_resumed(tmp_path, bit_generator):
    whole, resumed, _ = interrupted(tmp_path, (adam_init, adam), {}, bit_generator, kill_between_epochs)
    assert identical(resumed.params, whole.params)


def test_early_stopping_survives_an_interruption(tmp_path):
    path = tmp_path / "run.safetensors"
    whole, _, _ = overfitting(patience=4)
    stopped = len(whole.history["lr"])
    overfitting(patience=4, epochs=stopped - 2, checkpoint=path)
    for _ in range(2):  # and once stopped, it stays stopped
        resumed, _, _ = overfitting(patience=4, checkpoint=path, rng=np.random.default_rng(99))
        assert identical(resumed.params, whole.params)
        assert resumed.history == whole.history
        assert resumed.best_epoch == whole.best_epoch


def test_torch_reads_a_checkpoint(tmp_path):
    path = tmp_path / "run.safetensors"
    params, x, y = make_problem(dtype=np.float32)
    result = fit(params, squared_error, (x, y), epochs=2, batch_size=8, rng=np.random.default_rng(0), checkpoint=path)
    assert identical(load(path), result.params)
    tensors = safetensors.torch.load_file(path)
    twin = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    twin.load_state_dict({key: tensor for key, tensor in tensors.items() if not key.startswith("training/")})
    assert np.allclose(twin(torch.tensor(x)).detach().numpy(), mlp(result.params, x, tanh), atol=1e-6)
    assert "training/optimizer/exp_avg.0.weight" in tensors


def resume(path, **changes):
    params, x, y = make_problem()
    options = {"epochs": 2, "batch_size": 8, "lr": 0.01, "rng": np.random.default_rng(0), "checkpoint": path, **changes}
    params = options.pop("params", params)
    return fit(params, squared_error, (x, y), **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 9}, "belongs to another run: batch_size was 8, here it is 9"),
        ({"lr": 0.02}, "lr was 0.01, here it is 0.02"),
        ({"optimizer": (sgd_init, sgd)}, "optimizer was adam, here it is sgd"),
        ({"optimizer": param_groups((adam_init, adam), (bias_or_scale, {"lr": 0.1}))}, "here it is adam with groups"),
        ({"eps": 1e-3}, "hyperparameters was {}"),
        ({"rng": np.random.Generator(np.random.MT19937(0))}, "random generator was PCG64, here it is MT19937"),
        ({"params": mlp_init(np.random.default_rng(0), (4, 9, 1), dtype=np.float64)}, "names, shapes or dtypes differ"),
        ({"epochs": 1}, "is at epoch 2, beyond the 1 asked for"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, changes, message):
    path = tmp_path / "run.safetensors"
    resume(path)
    with pytest.raises(ValueError, match=message):
        resume(path, **changes)


def test_a_file_without_training_state_or_a_damaged_one_is_no_checkpoint(tmp_path):
    path = tmp_path / "run.safetensors"
    save(path, make_problem()[0])
    with pytest.raises(ValueError, match="no training state"):
        resume(path)
    path.write_bytes(b"rubbish")
    with pytest.raises(ValueError, match="damaged"):
        resume(path)


# The PyTorch twin


def test_to_torch_and_back():
    params = mlp_init(np.random.default_rng(0), (4, 8, 3))
    tensors = to_torch(params)
    assert {key: tuple(t.shape) for key, t in tensors.items()} == {k: v.shape for k, v in flatten(params).items()}
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    back = from_torch(tensors)
    assert identical(back, params)
    tensors["0.weight"].zero_()
    assert identical(back, params)  # copies, both ways


def make_twins(dtype=np.float64):
    params = mlp_init(np.random.default_rng(1), (10, 64, 1), dtype=dtype)
    twin = torch.nn.Sequential(torch.nn.Linear(10, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
    return params, twin, lambda twin, x, y: torch.nn.functional.mse_loss(twin(x), y)


def make_batches(steps):
    rng = np.random.default_rng(2)
    return [(rng.normal(size=(32, 10)), rng.normal(size=(32, 1))) for _ in range(steps)]


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        ((sgd_init, sgd), {"momentum": 0.9}),
        ((adam_init, adam), {}),
        ((adamw_init, adamw), {"amsgrad": True}),
        ((adagrad_init, adagrad), {}),
        ((rmsprop_init, rmsprop), {"momentum": 0.9, "centered": True}),
        ((adadelta_init, adadelta), {}),
    ],
)
def test_numpy_and_torch_stay_together_for_500_steps(optimizer, options):
    params, twin, torch_loss = make_twins()
    differences = lockstep(
        params, squared_error, twin, torch_loss, make_batches(500), optimizer=optimizer, lr=1e-3, **options
    )
    assert differences.shape == (500,)
    assert differences.max() < 1e-8


def test_lockstep_notices_a_different_loss():
    params, twin, _ = make_twins()
    differences = lockstep(
        params, squared_error, twin, lambda t, x, y: 1.001 * ((t(x) - y) ** 2).mean(), make_batches(3), lr=0.1
    )
    assert differences[0] > 1e-5


def test_lockstep_compares_parameter_groups():
    params, twin, torch_loss = make_twins()

    def without_decay_of_biases(parameters, lr, weight_decay):
        weights, biases = [], []
        for p in parameters:
            (biases if p.ndim < 2 else weights).append(p)
        groups = [{"params": biases, "weight_decay": 0.0}, {"params": weights, "weight_decay": weight_decay}]
        return torch.optim.AdamW(groups, lr=lr)

    options = {"torch_optimizer": without_decay_of_biases, "lr": 1e-3, "weight_decay": 10.0}
    optimizer = param_groups((adamw_init, adamw), (bias_or_scale, {"weight_decay": 0.0}))
    batches = make_batches(50)
    grouped = lockstep(params, squared_error, twin, torch_loss, batches, optimizer=optimizer, **options)
    assert grouped.max() < 1e-10
    everywhere = lockstep(params, squared_error, twin, torch_loss, batches, optimizer=(adamw_init, adamw), **options)
    assert everywhere.max() > 1e-2


def test_lockstep_takes_labels_a_schedule_and_a_torch_optimizer():
    params = mlp_init(np.random.default_rng(1), (4, 8, 3), dtype=np.float64)
    twin = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    _, x, y = make_classes()
    differences = lockstep(
        params,
        classification,
        twin,
        lambda twin, x, y: torch.nn.functional.cross_entropy(twin(x), y),
        [(x, y)] * 20,
        torch_optimizer=torch.optim.SGD,
        lr=lambda step: 0.1 / (1 + step),
    )
    assert differences.max() < 1e-12


def test_lockstep_in_float32_uses_float32_batches():
    params, twin, torch_loss = make_twins(np.float32)
    differences = lockstep(params, squared_error, twin, torch_loss, make_batches(5), lr=0.01)
    assert 0 < differences.max() < 1e-4
    assert next(twin.parameters()).dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_numpy_and_torch_stay_together_on_the_gpu():
    params, twin, torch_loss = make_twins()
    differences = lockstep(params, squared_error, twin, torch_loss, make_batches(500), lr=1e-3, device="cuda")
    assert differences.max() < 1e-8


def test_lockstep_names_what_does_not_fit():
    params, twin, torch_loss = make_twins()
    other = mlp_init(np.random.default_rng(1), (10, 63, 1), dtype=np.float64)
    with pytest.raises(ValueError, match="params and twin do not fit"):
        lockstep(other, squared_error, twin, torch_loss, [])
    params["2"]["bias"] = params["2"]["bias"].astype(np.float32)
    with pytest.raises(ValueError, match=r"one dtype, not \['float32', 'float64'\]"):
        lockstep(params, squared_error, twin, torch_loss, [])
    params, twin, torch_loss = make_twins()
    with pytest.raises(ValueError, match="no 'partial' that is known here"):
        lockstep(params, squared_error, twin, torch_loss, [], optimizer=(sgd_init, functools.partial(sgd)))


def test_relative_difference_is_the_worst_leaf():
    a = {"u": np.array([1.0, 2.0]), "v": {"w": np.array([10.0])}, "empty": np.zeros(0)}
    b = {"u": np.array([1.0, 2.5]), "v": {"w": np.array([10.5])}, "empty": np.zeros(0)}
    assert relative_difference(a, b) == pytest.approx(0.5 / 2.5)
    assert relative_difference({"u": np.zeros(2)}, {"u": np.zeros(2)}) == 0
    assert np.isnan(relative_difference({"u": np.array([np.nan]), "v": np.ones(1)}, {"u": np.ones(1), "v": np.ones(1)}))


# The package


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_takes_no_torch_matplotlib_or_plotly():
    """Not the package, and none of its modules either: they import those when a function needs them."""
    code = (
        "import sys, nnbook\n"
        "for name in nnbook.__all__: getattr(nnbook, name)\n"
        "print(*sorted({'torch', 'matplotlib', 'plotly'} & set(sys.modules)))\n"
    )
    assert run_python(code).split() == []


def test_import_takes_less_than_a_quarter_of_a_second():
    """The best of five, because other processes may be running; the interpreter's own start is not counted."""
    code = "import time; t = time.perf_counter(); import nnbook; print(time.perf_counter() - t)"
    assert min(float(run_python(code)) for _ in range(5)) < 0.25


def test_modules_are_listed_and_loaded_on_first_use():
    assert nnbook.__getattr__("optimizers").adam is adam
    assert set(nnbook.__all__) <= set(dir(nnbook))
    files = Path(nnbook.__file__).parent.glob("[a-z]*.py")
    assert sorted(nnbook.__all__) == sorted(path.stem for path in files)
    with pytest.raises(AttributeError, match="nnbook has no module 'optimisers'"):
        _ = nnbook.optimisers


def test_the_version_is_the_same_wherever_it_stands():
    assert nnbook.__version__ == importlib.metadata.version("nnbook")
    citation = Path(nnbook.__file__).parents[1] / "CITATION.cff"
    assert f"version: {nnbook.__version__}" in citation.read_text(encoding="utf-8").splitlines()


def test_relative_difference_does_not_broadcast():
    with pytest.raises(ValueError, match=r"shape \(3, 1\) here and \(3,\) there"):
        relative_difference({"w": np.ones((3, 1))}, {"w": np.ones(3)})


def test_lockstep_sets_the_rate_of_every_group_and_leaves_cudnn_on():
    params, twin, torch_loss = make_twins()
    found = []

    def groups(parameters, lr):
        return torch.optim.SGD([{"params": [p]} for p in parameters], lr=lr)

    def loss(twin, x, y):
        found.append((torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32))
        return torch_loss(twin, x, y)

    differences = lockstep(params, squared_error, twin, loss, make_batches(3), torch_optimizer=groups, lr=0.1)
    assert differences.max() < 1e-12
    assert found == [(True, False)] * 3


def run_once(path, params=None, **options):
    params = {"w": np.zeros((2, 1))} if params is None else params
    x = np.random.default_rng(0).standard_normal((8, 2))

    def loss(params, x, y):
        return ((x @ params["w"] - y) ** 2).mean()

    options = {"data": (x, x[:, :1]), "epochs": 1, "batch_size": 4, "rng": np.random.default_rng(1), **options}
    return fit(params, loss, checkpoint=path, **options)


def test_a_checkpoint_belongs_to_one_dtype_and_to_data_of_one_shape(tmp_path):
    path = tmp_path / "run.safetensors"
    run_once(path, {"w": np.zeros((2, 1), np.float32)})
    with pytest.raises(ValueError, match="names, shapes or dtypes differ"):
        run_once(path, epochs=2)
    data = np.ones((8, 2)), np.ones((8, 1))
    with pytest.raises(ValueError, match="another run: validation was None"):
        run_once(path, validation=data)
    with pytest.raises(ValueError, match=r"another run: data was \(8, 2\) float64, \(8, 1\) float64"):
        run_once(path, data=(np.ones((8, 3)), np.ones((8, 1))))


def test_a_checkpoint_that_cannot_be_written_is_refused_before_the_first_step(tmp_path):
    def never(params, x, y):
        raise AssertionError("the loop began")

    data = np.ones((4, 2)), np.ones((4, 1))
    options = {"epochs": 1, "batch_size": 2, "rng": np.random.default_rng(0)}
    with pytest.raises(ValueError, match="a file needs names"):
        fit(np.zeros(2), never, data, checkpoint=tmp_path / "run", **options)
    with pytest.raises(ValueError, match="there is no directory"):
        fit({"w": np.zeros(2)}, never, data, checkpoint=tmp_path / "missing" / "run", **options)


def test_files_say_what_they_cannot_hold(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(ValueError, match="training/w is taken"):
        save(path, {"training/w": np.ones(2)})
    with pytest.raises(ValueError, match="w is NoneType: None"):
        save(path, {"w": None})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="is a directory"):
        load(tmp_path)
    safetensors.torch.save_file({"w": torch.ones(2, dtype=torch.bfloat16)}, path)
    with pytest.raises(ValueError, match="a dtype that NumPy lacks"):
        load(path)


def test_writing_leaves_the_neighbours_and_the_rights_alone(tmp_path):
    path, other = tmp_path / "model", tmp_path / "model.tmp"
    other.write_text("mine")
    save(path, {"w": np.ones(2)})
    assert other.read_text() == "mine"
    assert path.stat().st_mode == other.stat().st_mode
    assert sorted(tmp_path.iterdir()) == [path, other]


def test_a_broken_batch_size_is_refused_before_the_first_step():
    with pytest.raises(ValueError, match=r"batch_size must be an integer, not 2\.5"):
        run_once(None, batch_size=2.5)


# What users of a course run into


XS = np.linspace(-1, 1, 33)[:, None] * np.array([1.0, -0.5])
YS = XS[:, :1] * 2 + 0.25


def linear_loss(params, x, y):
    return ((x @ params["w"] + params["b"] - y) ** 2).mean()


def linear_params(dtype=np.float64):
    return {"w": np.zeros((2, 1), dtype), "b": np.zeros(1, dtype)}


def fit_linear(params=None, loss=linear_loss, **options):
    options = {"epochs": 2, "batch_size": 8, "rng": np.random.default_rng(0), **options}
    data = options.pop("data", (XS, YS))
    return fit(linear_params() if params is None else params, loss, data, **options)


def test_ctrl_c_returns_what_there_is_and_says_so(capsys):
    calls = []

    def loss(params, x, y):
        calls.append(0)
        if len(calls) == 13:  # in the third epoch of five steps
            raise KeyboardInterrupt
        return linear_loss(params, x, y)

    result = fit_linear(loss=loss, epochs=10)
    assert result.interrupted
    assert len(result.history["train_loss"]) == len(result.history["lr"]) == 2
    assert "after 2 of 10 epochs" in capsys.readouterr().err
    whole = fit_linear(epochs=2)
    assert not whole.interrupted
    assert whole.history == result.history
    assert not identical(whole.params, result.params)  # two steps further


def test_ctrl_c_during_validation_leaves_no_half_epoch(capsys):
    calls = []

    def validation_loss(params, x, y):
        calls.append(0)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return linear_loss(params, x, y)

    result = fit_linear(epochs=5, validation=(XS, YS), validation_loss=validation_loss, patience=3)
    assert {len(column) for column in result.history.values()} == {1}
    assert identical(result.params, fit_linear(epochs=1).params)  # the best there was
    assert "Ctrl-C" in capsys.readouterr().err


def test_drop_last_leaves_out_the_small_batch():
    sizes = []

    def loss(params, x, y):
        sizes.append(len(x))
        return linear_loss(params, x, y)

    fit_linear(loss=loss, batch_size=32, drop_last=True)
    assert sizes == [32, 32]
    fit_linear(loss=loss, batch_size=32)
    assert sizes[2:] == [32, 1, 32, 1]
    with pytest.raises(ValueError, match="drop_last leaves no batch: 33 examples are fewer than batch_size 40"):
        fit_linear(batch_size=40, drop_last=True)


def test_a_mean_over_tokens_needs_their_numbers():
    """Rows of 1 or 3 tokens; the loss of a batch is a mean over tokens."""
    tokens = np.array([1.0, 3.0, 3.0, 1.0, 1.0])
    x, y = np.ones((5, 1)), np.array([10.0, 0.0, 0.0, 10.0, 10.0])[:, None]

    def mean_over_tokens(params, x, y):
        count = np.where(y[:, 0] == 0, 3.0, 1.0)
        return (count * y[:, 0]).sum() / count.sum() + 0 * params["b"].sum()

    params = {"b": np.zeros(1)}
    right = (tokens * y[:, 0]).sum() / tokens.sum()
    options = {"batch_size": 2, "sample_weight": tokens}
    assert evaluate(params, mean_over_tokens, (x, y), **options) == pytest.approx(right)
    assert evaluate(params, mean_over_tokens, (x, y), batch_size=2) != pytest.approx(right)
    result = fit(params, mean_over_tokens, (x, y), epochs=1, lr=0.0, rng=np.random.default_rng(0), **options)
    assert result.history["train_loss"] == pytest.approx([right])
    for wrong_weights in (np.ones(4), -np.ones(5), np.zeros(5), np.full(5, np.nan)):
        with pytest.raises(ValueError, match="sample_weight must be 5 finite numbers >= 0"):
            evaluate(params, mean_over_tokens, (x, y), sample_weight=wrong_weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"params": {"w": np.zeros((2, 1)), "b": 0}}, r"the parameter 'b' has dtype int64.*write 0\.0"),
        ({"params": [np.zeros(2)]}, "params must be a dict of arrays"),
        ({"loss": lambda p, x, y: None}, "returned None; does it end without a return"),
        ({"loss": lambda p, x, y: float(linear_loss(stop_gradient(p), x, y))}, "does not depend on the parameters"),
        ({"loss": lambda p, x, y: "0.5"}, "returned is a str, expected numbers"),
        ({"lr": lambda step: float("nan")}, "the learning rate of step 0 is nan"),
        ({"lr": float("inf")}, "the learning rate of step 0 is inf"),
        ({"lr": lambda step: None}, "the learning rate of step 0 is no number"),
        ({"lr": float("nan")}, "lr must be a number, not nan|lr must be .*not nan"),
        ({"optimizer": adam}, "optimizer must be a sequence"),
        ({"state": {}, "loss": lambda p, s, x, y: linear_loss(p, x, y)}, r"returns \(value, state\)"),
    ],
)
def test_training_that_would_do_nothing_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        fit_linear(**options)


def test_a_state_that_depends_on_the_parameters_comes_off_the_tape():
    def loss(params, state, x, y):
        prediction = x @ params["w"] + params["b"]
        assert isinstance(state["mean"], (np.ndarray, np.generic))
        return ((prediction - y + 0 * state["mean"]) ** 2).mean(), {"mean": prediction.mean()}

    result = fit_linear(loss=loss, state={"mean": np.zeros(())})
    assert isinstance(result.state["mean"], (np.ndarray, np.generic))


def branched():
    """Twelve layers, more than ten, and a branch without leaves."""
    rng = np.random.default_rng(0)
    return {str(i): {"weight": rng.normal(size=(2, 2)) / 2, "norm": {}} for i in range(12)}


def branched_loss(params, x, y):
    for name in by_number(params):
        x = tanh(x @ params[name]["weight"].T)
        assert params[name]["norm"] == {}
    return ((x - y) ** 2).mean()


def test_branches_without_leaves_survive_a_file(tmp_path):
    params = {"a": {"norm": {}, "w": np.ones(2)}, "b": {"c": {}}, "d": np.zeros(3)}
    save(tmp_path / "p.safetensors", params)
    found = load(tmp_path / "p.safetensors")
    assert identical(found, params)
    assert set(safetensors.torch.load_file(tmp_path / "p.safetensors")) == {"a.w", "d"}


@pytest.mark.parametrize("optimizer", [(sgd_init, sgd), (adam_init, adam), (rmsprop_init, rmsprop)])
def test_order_and_bare_branches_survive_a_checkpoint(tmp_path, optimizer):
    x = np.random.default_rng(1).normal(size=(8, 2))
    options = {"batch_size": 4, "optimizer": optimizer, "lr": 0.01}
    options |= {"validation": (x, x), "patience": 5} | ({"momentum": 0.9} if optimizer[1] is sgd else {})
    whole = fit(branched(), branched_loss, (x, x), epochs=4, rng=np.random.default_rng(0), **options)
    path = tmp_path / "run.safetensors"
    for epochs in (2, 4, 4):  # the last only reads what is finished
        result = fit(
            branched(), branched_loss, (x, x), epochs=epochs, rng=np.random.default_rng(0), checkpoint=path, **options
        )
    assert list(result.params) == list(branched())
    assert identical(result.params, whole.params)
    assert result.history == whole.history
    assert branched_loss(load(path), x, x) == branched_loss({k: whole.params[k] for k in whole.params}, x, x)


def resumed(path, **options):
    rng = np.random.default_rng(5)
    before = rng.bit_generator.state
    try:
        fit_linear(checkpoint=path, rng=rng, **{"epochs": 3, **options})
    except ValueError as problem:
        assert rng.bit_generator.state == before  # a refused run leaves the caller's generator alone
        return str(problem)
    return ""


def test_a_checkpoint_resumes_only_its_own_run(tmp_path):
    path = tmp_path / "run.safetensors"
    schedule = functools.partial(one_cycle, max_lr=0.1, total_steps=15)
    assert resumed(path, lr=schedule, epochs=2) == ""
    content = path.read_bytes()
    other = functools.partial(one_cycle, max_lr=0.1, total_steps=30)

    def another_loss(params, x, y):
        return linear_loss(params, x, y) * 2

    for options, message in (
        ({"lr": other}, "epoch 0 ended with the learning rate"),
        ({"lr": schedule, "loss": another_loss}, "another run: loss was linear_loss"),
        ({"lr": schedule, "data": (XS, YS + 1e-9)}, "another run: data was"),
        ({"lr": schedule, "data": (XS[::-1], YS[::-1])}, "another run: data was"),
        ({"lr": schedule, "sample_weight": np.arange(1.0, 34.0)}, "another run: data was"),
        ({"lr": schedule, "drop_last": True}, "another run: drop_last was False"),
        ({"lr": schedule, "epochs": 1}, "beyond the 1 asked for"),
    ):
        assert message in resumed(path, **options), options
        assert path.read_bytes() == content
    assert resumed(path, lr=schedule) == ""


def penalized(strength):
    def loss(params, x, y):
        return linear_loss(params, x, y) + strength * (params["w"] ** 2).sum()

    return loss


def test_a_constant_that_the_loss_closes_over_belongs_to_it(tmp_path):
    path = tmp_path / "run.safetensors"
    assert resumed(path, loss=penalized(0.1), epochs=1) == ""
    assert "another run: loss was" in resumed(path, loss=penalized(0.2))
    assert resumed(path, loss=penalized(0.1)) == ""


def with_default(strength):
    def loss(params, x, y, *, strength=strength):
        return linear_loss(params, x, y) + strength * (params["w"] ** 2).sum()

    return loss


def test_a_default_of_the_loss_belongs_to_it(tmp_path):
    path = tmp_path / "run.safetensors"
    assert resumed(path, loss=with_default(0.1), epochs=1) == ""
    assert "another run: loss was" in resumed(path, loss=with_default(0.2))
    assert resumed(path, loss=with_default(0.1)) == ""


def test_every_flipped_bit_is_noticed(tmp_path):
    """One bit in each byte of a small file: in the header, in its text, in the numbers."""
    path = tmp_path / "p.safetensors"
    save(path, {"w": np.arange(3.0), "norm": {}})
    content = path.read_bytes()
    assert identical(load(path), {"w": np.arange(3.0), "norm": {}})
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ (1 << (i % 8))]) + content[i + 1 :])
        with pytest.raises(ValueError, match=r"damaged|dtype that NumPy lacks"):
            load(path)


def test_what_is_left_of_a_killed_writer_goes_after_an_hour(tmp_path):
    old, new = tmp_path / ".p.safetensors.0123.tmp", tmp_path / ".p.safetensors.4567.tmp"
    for file in (old, new, tmp_path / ".q.safetensors.0123.tmp"):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    os.utime(tmp_path / ".q.safetensors.0123.tmp", (0, 0))
    save(tmp_path / "p.safetensors", {"w": np.ones(1)})
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == [
        ".p.safetensors.4567.tmp",
        ".q.safetensors.0123.tmp",
        "p.safetensors",
    ]
