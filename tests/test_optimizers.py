"""The optimizers against torch.optim, step for step, and against their own equations."""

import functools
import inspect
import itertools
import math
import types
import warnings

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler as schedulers

import nnbook.optimizers
from nnbook.backprop import flatten, tree_map, unflatten
from nnbook.neurons import linear, mlp, mlp_init
from nnbook.optimizers import (
    adagrad_init,
    adam,
    adam_init,
    adamw,
    adamw_init,
    bias_or_scale,
    clip_grad_norm,
    clip_grad_value,
    cosine_annealing_lr,
    exponential_lr,
    linear_warmup,
    lr_finder,
    one_cycle,
    param_groups,
    reduce_lr_on_plateau,
    reduce_lr_on_plateau_init,
    rmsprop,
    rmsprop_init,
    sgd,
    sgd_init,
    step_lr,
)
from nnbook.training import load, save

TWINS = {
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
    "adadelta": torch.optim.Adadelta,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
NAMES = [*TWINS, "lion"]  # PyTorch has no Lion
BOUND = 1e-12
INF, NAN = math.inf, math.nan


def pair(name, module=nnbook.optimizers):
    return getattr(module, f"{name}_init"), getattr(module, name)


def start(rng, dtype=np.float64):
    shapes = {"0": {"weight": (4, 3), "bias": (4,)}, "scale": ()}
    return tree_map(lambda shape: np.asarray(rng.normal(size=shape), dtype), shapes)


# Step for step the same as PyTorch -----------------------------------------------------------------------------------


def compare(
    name, options, *, steps=200, shapes=((4, 3), (4,), ()), missing=0.0, dtype=np.float64, schedule=None, groups=(),
    module=nnbook.optimizers,
):  # fmt: skip
    """The largest difference from torch.optim over all steps, relative to the largest parameter so far.

    The gradient is that of a quadratic, evaluated by each side at its own parameters, plus noise. A leaf has none with
    probability ``missing``, drawn anew at every step. ``groups`` are those of param_groups.
    """
    init, step = pair(name, module)
    if groups:
        init, step = param_groups((init, step), *groups)
    rng = np.random.default_rng(3)
    params = unflatten({f"layer.{i}": np.asarray(rng.normal(size=shape), dtype) for i, shape in enumerate(shapes)})
    twin = {key: torch.tensor(leaf, requires_grad=True) for key, leaf in flatten(params).items()}
    ours = dict(options)
    accumulated = ours.pop("initial_accumulator_value", None)
    state = init(params) if accumulated is None else init(params, initial_accumulator_value=accumulated)
    optimizer, scales = make_twin(TWINS[name], twin, params, options, groups)
    sign = -1.0 if options.get("maximize") else 1.0
    found, size = [], 0.0
    for i in range(steps):
        lr = schedule(i) if schedule else options["lr"]
        for group, (own, scale) in zip(optimizer.param_groups, scales, strict=True):
            group["lr"] = (lr if own is None else own) * scale
        grads = {}
        for key, p in flatten(params).items():
            noise = np.asarray(rng.normal(size=p.shape), dtype)
            absent = missing > 0 and rng.random() < missing
            grads[key] = None if absent else sign * p + noise
            twin[key].grad = None if absent else sign * twin[key].detach() + torch.from_numpy(noise)
        params, state = step(params, unflatten(grads), state, **{**ours, "lr": lr})
        optimizer.step()
        pairs = [(leaf, twin[key].detach().numpy()) for key, leaf in flatten(params).items()]
        size = max(size, *(np.max(np.abs(b), initial=0.0) for _, b in pairs))
        found.append(np.max([np.max(np.abs(a - b), initial=0.0) for a, b in pairs]) / (size or 1.0))
    return float(np.max(found))  # np.max keeps a nan, max would lose it


def make_twin(torch_class, twin, params, options, groups):
    """torch's optimizer with one param group for each of ours and one for the rest; each group's own rate and scale."""
    members = [[] for _ in range(len(groups) + 1)]
    for key, leaf in flatten(params).items():
        belongs = [accepts(key, leaf) for accepts, _ in groups]
        members[belongs.index(True) if True in belongs else -1].append(twin[key])
    own = [dict(options) for _, options in groups] + [{}]
    scales = [(group.get("lr"), group.pop("lr_scale", 1.0)) for group in own]
    optimizer = torch_class([{"params": m, **group} for m, group in zip(members, own, strict=True)], **options)
    return optimizer, scales


RATES = st.floats(1e-4, 0.1)
DECAYS = st.sampled_from([0.0, 0.05])
EPS = st.sampled_from([1e-8, 1e-3])
BETAS = st.sampled_from([(0.9, 0.999), (0.5, 0.9), (0.0, 0.99), (0.9, 0.5), (0.0, 0.0)])
COMMON = {"lr": RATES, "weight_decay": DECAYS, "maximize": st.booleans()}
ADAM = {**COMMON, "betas": BETAS, "eps": EPS, "amsgrad": st.booleans()}
OPTIONS = {
    "sgd": st.fixed_dictionaries(
        {
            **COMMON,
            "momentum": st.sampled_from([0.0, 0.5, 0.9]),
            "dampening": st.sampled_from([0.0, 0.3]),
            "nesterov": st.booleans(),
        }
    ).filter(lambda o: not o["nesterov"] or (o["momentum"] > 0 and o["dampening"] == 0)),
    "adagrad": st.fixed_dictionaries(
        {
            **COMMON,
            "lr_decay": st.sampled_from([0.0, 0.1]),
            "eps": st.sampled_from([1e-10, 1e-3]),
            "initial_accumulator_value": st.sampled_from([0.0, 0.5]),
        }
    ),
    "rmsprop": st.fixed_dictionaries(
        {
            **COMMON,
            "alpha": st.sampled_from([0.5, 0.9, 0.99]),
            "eps": EPS,
            "momentum": st.sampled_from([0.0, 0.9]),
            "centered": st.booleans(),
        }
    ),
    "adadelta": st.fixed_dictionaries(  # with rho 0 one ulp at the start becomes 4e-7: no comparison
        {**COMMON, "lr": st.floats(1e-3, 1.0), "rho": st.sampled_from([0.5, 0.9, 0.99]), "eps": EPS}
    ),
    "adam": st.fixed_dictionaries(ADAM),
    "adamw": st.fixed_dictionaries(ADAM),
}
SHAPES = st.lists(st.sampled_from([(4, 3), (4,), (), (1,), (0,), (2, 0, 3), (2, 1, 3)]), min_size=1, max_size=4)
MISSING = st.sampled_from([0.0, 0.0, 0.3, 1.0])


@pytest.mark.parametrize("name", TWINS)
def test_every_option_is_that_of_torch_step_for_step(name):
    @given(options=OPTIONS[name], shapes=SHAPES, missing=MISSING)
    @settings(max_examples=15, deadline=None)
    def holds(options, shapes, missing):
        assert compare(name, options, shapes=shapes, missing=missing) < BOUND

    holds()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sgd", {"momentum": 0.9, "weight_decay": 0.05, "nesterov": True}),
        ("sgd", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.05, "maximize": True}),
        ("adagrad", {"lr_decay": 0.1, "weight_decay": 0.05, "initial_accumulator_value": 0.5, "maximize": True}),
        ("rmsprop", {"momentum": 0.9, "centered": True, "weight_decay": 0.05, "maximize": True}),
        ("adadelta", {"rho": 0.95, "weight_decay": 0.05, "maximize": True}),
        ("adam", {"amsgrad": True, "weight_decay": 0.05, "maximize": True}),
        ("adamw", {"amsgrad": True, "betas": (0.5, 0.9), "maximize": True}),
    ],
)
def test_all_options_together_are_those_of_torch(name, options):
    assert compare(name, {"lr": 0.05, **options}) < BOUND
    assert compare(name, {"lr": 0.05, **options}, missing=0.4) < BOUND


@pytest.mark.parametrize("name", TWINS)
def test_defaults_are_those_of_torch(name):
    assert compare(name, {"lr": 0.01}) < BOUND
    ours = inspect.signature(pair(name)[1]).parameters
    theirs = TWINS[name]([torch.zeros(1)], lr=0.1).defaults
    shared = set(ours) & set(theirs) - {"lr"}
    assert {key: ours[key].default for key in shared} == {key: theirs[key] for key in shared}
    mechanics = {"lr", "foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay"}
    assert set(theirs) - mechanics - {"initial_accumulator_value"} == shared  # nothing of theirs is left out


@pytest.mark.parametrize("name", TWINS)
def test_a_schedule_changes_the_step_as_in_torch(name):
    schedule = functools.partial(one_cycle, max_lr=0.05, total_steps=200)
    options = {"lr": 0.05, "momentum": 0.9} if name in ("sgd", "rmsprop") else {"lr": 0.05}
    assert compare(name, options, schedule=schedule) < BOUND


@pytest.mark.parametrize("name", NAMES)
def test_float32_stays_float32_and_close_to_torch(name):
    init, step = pair(name)
    params = start(np.random.default_rng(0), np.float32)
    state = init(params)
    for _ in range(2):  # a NumPy float64 as an option must not promote
        params, state = step(params, params, state, lr=np.float64(0.1), weight_decay=np.float64(0.01))
    assert {leaf.dtype for leaf in flatten(params).values()} == {np.dtype(np.float32)}
    assert {leaf.dtype for leaf in flatten(state).values() if not isinstance(leaf, int)} <= {np.dtype(np.float32)}
    assert {type(leaf) for leaf in flatten(state).values()} <= {np.ndarray, int}
    if name in TWINS:
        assert compare(name, {"lr": 0.01}, steps=100, dtype=np.float32) < 1e-5


# Parameter groups ----------------------------------------------------------------------------------------------------

SHAPES_OF_A_NETWORK = ((4, 3), (4,), (2, 4), (2,))
GROUPS = {
    "sgd": [{"weight_decay": 0.0}, {"momentum": 0.9, "lr_scale": 0.1}],
    "adagrad": [{"weight_decay": 0.0}, {"lr": 0.03, "lr_decay": 0.1}],
    "rmsprop": [{"weight_decay": 0.0, "centered": True}, {"momentum": 0.9, "lr_scale": 0.5}],
    "adadelta": [{"weight_decay": 0.0}, {"rho": 0.5, "lr_scale": 2.0}],
    "adam": [{"weight_decay": 0.0}, {"betas": (0.5, 0.9), "amsgrad": True, "lr_scale": 0.1}],
    "adamw": [{"weight_decay": 0.0}, {"lr": 0.02, "amsgrad": True}],
}


def is_last_weight(name, p):
    return name == "layer.2"


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_param_groups_are_those_of_torch(name, missing):
    groups = list(zip([bias_or_scale, is_last_weight], GROUPS[name], strict=True))
    schedule = functools.partial(one_cycle, max_lr=0.05, total_steps=200)
    options = {"lr": 0.05, "weight_decay": 0.1}
    error = compare(name, options, shapes=SHAPES_OF_A_NETWORK, groups=groups, schedule=schedule, missing=missing)
    assert error < BOUND


@given(options=OPTIONS["adamw"], bias=OPTIONS["adamw"], last=OPTIONS["adamw"])
@settings(max_examples=10, deadline=None)
def test_any_option_may_differ_from_group_to_group(options, bias, last):
    bias, last = ({**o, "maximize": options["maximize"]} for o in (bias, last))  # the test's quadratic has one sign
    groups = [(bias_or_scale, bias), (is_last_weight, last)]
    assert compare("adamw", options, shapes=SHAPES_OF_A_NETWORK, groups=groups) < BOUND


def test_biases_and_norm_scales_need_not_decay():
    """Without a gradient only the decay moves a parameter: here only the weight, by lr * weight_decay = 0.01 of it."""
    params = {"0": {"weight": np.ones((2, 2)), "bias": np.ones(2)}, "norm": {"weight": np.ones(2)}}
    zero = tree_map(np.zeros_like, params)
    init, step = param_groups((adamw_init, adamw), (bias_or_scale, {"weight_decay": 0.0}))
    params, state = step(params, zero, init(params), lr=0.1, weight_decay=0.1)
    assert params["0"]["weight"] == pytest.approx(np.full((2, 2), 0.99))
    assert np.array_equal(params["0"]["bias"], [1, 1])
    assert np.array_equal(params["norm"]["weight"], [1, 1])
    assert state["step"] == {"0": {"weight": 1, "bias": 1}, "norm": {"weight": 1}}


def test_the_first_group_that_accepts_a_parameter_has_it():
    seen = []

    def everything(name, p):
        seen.append((name, p.shape))
        return True

    params = {"a": {"w": np.ones((1, 2))}, "b": np.ones(2)}
    groups = [(bias_or_scale, {"lr": 0.5}), (everything, {"lr_scale": 10.0}), (everything, {"lr": 77.0})]
    init, step = param_groups((sgd_init, sgd), *groups)
    new, _ = step(params, params, init(params), lr=0.01)
    assert seen == [("a.w", (1, 2))]
    assert new["a"]["w"] == pytest.approx(np.full((1, 2), 1 - 0.1))
    assert new["b"] == pytest.approx(np.full(2, 1 - 0.5))


def test_a_single_array_has_a_group_too():
    init, step = param_groups((sgd_init, sgd), (lambda name, p: name == "", {"lr_scale": 2.0}))
    assert step(np.ones(1), np.ones(1), init(np.ones(1)), lr=0.1)[0] == pytest.approx(0.8)


def test_groups_without_options_change_nothing():
    params = start(np.random.default_rng(0))
    plain, plain_state = adam(params, params, adam_init(params), lr=0.1)
    init, step = param_groups((adam_init, adam), (bias_or_scale, {}))
    grouped, state = step(params, params, init(params), lr=0.1)
    for ours, theirs in ((grouped, plain), (state, plain_state)):
        assert all(np.array_equal(a, b) for a, b in zip(*(flatten(t).values() for t in (ours, theirs)), strict=True))


def test_the_name_of_the_step_tells_the_groups():
    """A checkpoint knows its run by it."""
    _, step = param_groups((adamw_init, adamw), (bias_or_scale, {"weight_decay": 0.0}))
    assert step.__name__ == "adamw with groups [('bias_or_scale', {'weight_decay': 0.0})]"


def test_groups_pass_on_what_is_wrong():
    p = np.ones(2)
    for options, error, message in (
        ({"weight_decay": -1}, ValueError, "weight_decay must be >= 0, not -1"),
        ({"lr_scale": -1}, ValueError, "lr_scale must be >= 0, not -1"),
        ({"wieght_decay": 0.1}, TypeError, "wieght_decay"),
    ):
        init, step = param_groups((sgd_init, sgd), (bias_or_scale, options))
        with pytest.raises(error, match=message):
            step(p, p, init(p), lr=0.1)


# Planted errors ------------------------------------------------------------------------------------------------------

DECAY, AMSGRAD, NESTEROV = {"weight_decay": 0.1}, {"amsgrad": True}, {"momentum": 0.9, "nesterov": True}
CLIMB = {**DECAY, "maximize": True}
DAMPENING, MISSING_NOW = {"momentum": 0.9, "dampening": 0.3}, {"missing": 0.3}
VELOCITY = {"momentum": 0.9, "schedule": functools.partial(one_cycle, max_lr=0.05, total_steps=200)}
PLANTED = [  # what is wrong, in which optimizer, with which options; in which function what is replaced by what
    ("no bias correction of the first moment", "adam", {}, "_adam", "lr / (1 - beta1**t)", "lr"),
    ("no bias correction of the second moment", "adam", {}, "_adam", "math.sqrt(1 - beta2**t)", "1.0"),
    ("the counter starts from 0", "adam", {}, "_adam", "**t", "** max(t - 1, 1)"),
    ("the counter starts from 2", "adam", {}, "_adam", "t += 1", "t += 1 + (t == 0)"),
    ("one counter for all leaves", "adam", MISSING_NOW, "_update", "p, *old", "p, old[0] + 1, *old[1:]"),
    ("eps inside the root", "adam", {}, "_adam", "step += eps", "step = np.sqrt(step * step + eps)"),
    ("eps not corrected for", "adam", {}, "_adam", "step += eps", "step += eps / math.sqrt(1 - beta2**t)"),
    ("betas exchanged", "adam", {}, "_adam", "beta1, beta2 =", "beta2, beta1 ="),
    ("the other sign", "adam", {}, "_adam", "np.subtract", "np.add"),
    ("the gradient not squared", "adam", {}, "_adam", "g2 = g * g", "g2 = abs(g)"),
    ("decay fed to the moments", "adamw", DECAY, "_adam", "if decoupled else", "if False else"),
    ("decay beside the moments in Adam", "adam", DECAY, "_adam", "if decoupled else", "if True else"),
    ("decay without the learning rate", "adamw", DECAY, "_adam", "1 - lr * weight_decay", "1 - weight_decay"),
    ("decay after the step", "adamw", DECAY, "_adam", "np.subtract(p, ", "np.subtract(p, shrink * "),
    ("a maximum that forgets", "adam", AMSGRAD, "_adam", "np.maximum(w, v)", "v.copy()"),
    ("the maximum of the gradients", "adam", AMSGRAD, "_adam", "np.maximum(w, v)", "np.maximum(w, g * g)"),
    ("the penalty climbed as well", "adam", CLIMB, "_penalized", "weight_decay * p", "-weight_decay * p"),
    ("dampening at the first step", "sgd", DAMPENING, "sgd", "g.copy() if", "gain * g if"),
    ("no dampening", "sgd", DAMPENING, "sgd", "gain * g", "g"),
    ("a moving average as momentum", "sgd", {"momentum": 0.9}, "sgd", "gain * g", "(1 - momentum) * g"),
    ("Nesterov without the look ahead", "sgd", NESTEROV, "sgd", "g + momentum * b if", "b if"),
    ("classical momentum", "sgd", VELOCITY, "sgd", "lr * g", "1.0 * g", "gain * g", "lr * g", "g.copy()", "lr * g"),
    ("lr_decay from the first step on", "adagrad", {"lr_decay": 0.1}, "adagrad", "(t - 1) * lr_decay", "t * lr_decay"),
    ("eps inside the root", "adagrad", {}, "adagrad", "np.sqrt(s)", "np.sqrt(s + eps) - eps"),
    ("a sum that forgets", "adagrad", {}, "adagrad", "s = s + g * g", "s = 0.99 * s + g * g"),
    ("eps inside the root", "rmsprop", {}, "rmsprop", "d += eps", "d = np.sqrt(d * d + eps)"),
    ("the mean not squared", "rmsprop", {"centered": True}, "rmsprop", "v - a * a", "v - abs(a)"),
    ("bias correction", "rmsprop", {}, "rmsprop", "np.maximum(v - a * a, 0) if centered else v", "v / (1 - alpha)"),
    ("lr within the velocity", "rmsprop", VELOCITY, "rmsprop", "d += eps", "d = (d + eps) / lr", "lr * b", "1.0 * b"),
    ("eps outside the roots", "adadelta", {}, "adadelta", "root = v + eps", "root = (np.sqrt(v) + eps) ** 2"),
    ("no eps above", "adadelta", {}, "adadelta", "d = u + eps", "d = np.maximum(u, eps)"),
    ("lr within the squares", "adadelta", {}, "adadelta", "np.multiply(d, d, out=root)", "lr * lr * d * d"),
]  # fmt: skip


@pytest.mark.parametrize("planted", PLANTED, ids=[f"{p[1]}: {p[0]}" for p in PLANTED])
def test_the_comparison_with_torch_catches(planted):
    """The very comparison that finds the optimizers right finds a copy of them with one mistake wrong."""
    _, name, setting, function, *changes = planted
    whole = inspect.getsource(nnbook.optimizers)
    source = changed = inspect.getsource(getattr(nnbook.optimizers, function))
    for right, wrong in zip(changes[::2], changes[1::2], strict=True):
        assert right in changed, "the code has changed, and this mistake has to follow"
        changed = changed.replace(right, wrong)
    module = types.ModuleType("planted")
    exec(whole.replace(source, changed), vars(module))
    how = {key: value for key, value in setting.items() if key in ("missing", "schedule")}
    options = {"lr": 0.05, **{key: value for key, value in setting.items() if key not in how}}
    assert compare(name, options, **how) < BOUND
    with np.errstate(all="ignore"):
        assert not compare(name, options, **how, module=module) < 10 * BOUND


def test_the_comparison_with_torch_is_not_blind_to_nan():
    planted = types.ModuleType("planted")
    exec(inspect.getsource(nnbook.optimizers).replace("step = lr * g", "step = np.nan * g"), vars(planted))
    assert math.isnan(compare("sgd", {"lr": 0.1}, module=planted))


def test_classical_momentum_differs_only_while_the_rate_changes():
    """v = mu v - lr g; p = p + v is the same as PyTorch's form as long as lr stays the same."""
    gradients = np.random.default_rng(0).normal(size=20)
    path, _ = run("sgd", 1.0, gradients, lr=0.1, momentum=0.9)
    p, v = 1.0, 0.0
    for g in gradients:
        v = 0.9 * v - 0.1 * g
        p = p + v
    assert path[-1] == pytest.approx(p, rel=1e-13)


# The equations, one entry at a time ----------------------------------------------------------------------------------


def plain_sgd(p, gradients, lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False):
    b = None
    for g in gradients:
        g = (-g if maximize else g) + weight_decay * p
        b = g if b is None else momentum * b + (1 - dampening) * g
        p = p - lr * (g + momentum * b if nesterov else b if momentum else g)
    return p


def plain_adagrad(p, gradients, lr, lr_decay=0.0, weight_decay=0.0, eps=1e-10, maximize=False):
    s = 0.0
    for t, g in enumerate(gradients, 1):
        g = (-g if maximize else g) + weight_decay * p
        s = s + g**2
        p = p - lr / (1 + (t - 1) * lr_decay) * g / (math.sqrt(s) + eps)
    return p


def plain_rmsprop(
    p, gradients, lr, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False, maximize=False
):
    v = a = b = 0.0
    for g in gradients:
        g = (-g if maximize else g) + weight_decay * p
        v = alpha * v + (1 - alpha) * g**2
        a = alpha * a + (1 - alpha) * g if centered else 0.0
        b = momentum * b + g / (math.sqrt(v - a**2) + eps)
        p = p - lr * b
    return p


def plain_adadelta(p, gradients, lr, rho=0.9, eps=1e-6, weight_decay=0.0, maximize=False):
    v = u = 0.0
    for g in gradients:
        g = (-g if maximize else g) + weight_decay * p
        v = rho * v + (1 - rho) * g**2
        d = math.sqrt(u + eps) / math.sqrt(v + eps) * g
        u = rho * u + (1 - rho) * d**2
        p = p - lr * d
    return p


def plain_adam(
    p, gradients, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False, maximize=False, decay=0.0
):
    m = v = w = 0.0
    for t, g in enumerate(gradients, 1):
        p = p - lr * decay * p
        g = (-g if maximize else g) + weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        w = max(w, v) if amsgrad else v
        p = p - lr * (m / (1 - betas[0] ** t)) / (math.sqrt(w / (1 - betas[1] ** t)) + eps)
    return p


def plain_adamw(p, gradients, lr, weight_decay=1e-2, **options):
    return plain_adam(p, gradients, lr, decay=weight_decay, **options)


def plain_lion(p, gradients, lr, betas=(0.9, 0.99), weight_decay=0.0, maximize=False):
    """Algorithm 2 of the paper: update with an interpolation, then remember another one."""
    m = 0.0
    for g in gradients:
        g = -g if maximize else g
        c = betas[0] * m + (1 - betas[0]) * g
        sign = (c > 0) - (c < 0)
        p = p - lr * (sign + weight_decay * p)
        m = betas[1] * m + (1 - betas[1]) * g
    return p


PLAIN = {name.removeprefix("plain_"): f for name, f in list(globals().items()) if name.startswith("plain_")}
OPTIONS["lion"] = st.fixed_dictionaries({**COMMON, "betas": BETAS})


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_follows_the_equation(name):
    """Entry by entry in Python's floats: leaves, broadcasting and reused buffers can mix nothing up."""
    init, step = pair(name)

    @given(options=OPTIONS[name], seed=st.integers(0, 99))
    @settings(max_examples=20, deadline=None)
    def holds(options, seed):
        options = {key: value for key, value in options.items() if key != "initial_accumulator_value"}
        rng = np.random.default_rng(seed)
        params = {"weight": rng.normal(size=(2, 3)), "scale": np.asarray(rng.normal())}
        gradients = [{"weight": rng.normal(size=(2, 3)), "scale": np.asarray(rng.normal())} for _ in range(30)]
        now, state = params, init(params)
        for grads in gradients:
            now, state = step(now, grads, state, **options)
        for key, leaf in params.items():
            for index in np.ndindex(leaf.shape):
                expected = PLAIN[name](float(leaf[index]), [float(g[key][index]) for g in gradients], **options)
                assert now[key][index] == pytest.approx(expected, rel=BOUND, abs=BOUND)

    holds()


def test_every_optimizer_has_its_transcription():
    inits = [name for name in vars(nnbook.optimizers) if name.endswith("_init") and not name.startswith("reduce")]
    assert sorted(inits) == sorted(f"{name}_init" for name in NAMES) == sorted(f"{name}_init" for name in PLAIN)


# Cases with two numbers ----------------------------------------------------------------------------------------------


def run(name, p, gradients, **options):
    """Parameters after each step, and the last state; one number stands for the parameters."""
    init, step = pair(name)
    p, path = np.array(p), []
    state = init(p)
    for g in gradients:
        p, state = step(p, np.array(g), state, **options)
        path.append(float(p))
    return path, state


def test_two_momentum_steps_by_hand():
    """Gradient 1 twice: velocity 1, then 0.9 * 1 + 1 = 1.9; from 0 with lr 0.1 to -0.1 and -0.29."""
    path, state = run("sgd", 0.0, [1.0, 1.0], lr=0.1, momentum=0.9)
    assert path == pytest.approx([-0.1, -0.29])
    assert state["momentum_buffer"] == pytest.approx(1.9)


def test_two_nesterov_steps_by_hand():
    """The same velocities 1 and 1.9, but the steps are 1 + 0.9 * 1 = 1.9 and 1 + 0.9 * 1.9 = 2.71."""
    path, _ = run("sgd", 0.0, [1.0, 1.0], lr=0.1, momentum=0.9, nesterov=True)
    assert path == pytest.approx([-0.19, -0.461])


def test_two_adagrad_steps_by_hand():
    """Gradients 3 and 4: the sums are 9 and 25, so the steps are 3/3 = 1 and 4/5 of the learning rate."""
    path, state = run("adagrad", 0.0, [3.0, 4.0], lr=0.1, eps=0.0)
    assert path == pytest.approx([-0.1, -0.18])
    assert state["sum"] == pytest.approx(25)
    assert state["step"] == 2


def test_adagrad_slows_down_by_lr_decay_from_the_second_step_on():
    path, _ = run("adagrad", 0.0, [3.0, 4.0], lr=0.1, lr_decay=1.0, eps=0.0)
    assert path == pytest.approx([-0.1, -0.1 - 0.1 / 2 * 4 / 5])


def test_two_rmsprop_steps_by_hand():
    """Gradients 2 and 0, alpha 0.75: v = 1 and 0.75; steps 2/1 and 0. The first is 1 / sqrt(1 - alpha) = 2 times lr."""
    path, state = run("rmsprop", 0.0, [2.0, 0.0], lr=0.1, alpha=0.75, eps=0.0)
    assert path == pytest.approx([-0.2, -0.2])
    assert state["square_avg"] == pytest.approx(0.75)


def test_centered_rmsprop_by_hand():
    """Gradient 4, alpha 0.5: v = 8 and a = 2, so v - a^2 = 4 and the step is 4 / 2."""
    path, state = run("rmsprop", 0.0, [4.0], lr=0.1, alpha=0.5, eps=0.0, centered=True)
    assert path == pytest.approx([-0.2])
    assert state["grad_avg"] == pytest.approx(2)


def test_two_adadelta_steps_by_hand():
    """rho 0.5, eps 1, gradient 4: v = 8, d = sqrt(1) / sqrt(9) * 4 = 4/3, u = 8/9. Then gradient 0: v and u halve."""
    path, state = run("adadelta", 0.0, [4.0, 0.0], lr=1.0, rho=0.5, eps=1.0)
    assert path == pytest.approx([-4 / 3, -4 / 3])
    assert state["square_avg"] == pytest.approx(4)
    assert state["acc_delta"] == pytest.approx(4 / 9)


def test_first_adam_step_by_hand():
    """From 1 with gradient 4: m = 0.4 and v = 0.016 are corrected to 4 and 16, so the step is lr * 4 / 4 = lr."""
    path, state = run("adam", 1.0, [4.0], lr=0.1, eps=0.0)
    assert path == pytest.approx([0.9])
    assert state["exp_avg"] == pytest.approx(0.4)
    assert state["exp_avg_sq"] == pytest.approx(0.016)
    assert state["step"] == 1


def test_amsgrad_remembers_the_largest_second_moment_by_hand():
    """betas (0, 0.5), gradients 2 and 0 and 1: v = 2, 1, 1; its maximum stays 2; corrected by 1 - 0.5^t."""
    path, state = run("adam", 0.0, [2.0, 0.0, 1.0], lr=1.0, betas=(0.0, 0.5), eps=0.0, amsgrad=True)
    assert path == pytest.approx([-1.0, -1.0, -1.0 - 1 / math.sqrt(2 / 0.875)])
    assert state["max_exp_avg_sq"] == pytest.approx(2)
    assert state["exp_avg_sq"] == pytest.approx(1)


def test_adamw_is_not_adam_with_l2():
    """Without a gradient AdamW shrinks a weight by lr * decay, Adam with L2 moves it by a whole lr."""
    decayed, _ = run("adamw", 0.5, [0.0], lr=0.1, weight_decay=0.01)
    penalized, _ = run("adam", 0.5, [0.0], lr=0.1, weight_decay=0.01)
    assert decayed == pytest.approx([0.5 * (1 - 0.1 * 0.01)])
    assert penalized == pytest.approx([0.5 - 0.1], rel=1e-5)


def test_two_lion_steps_by_hand():
    """Gradients 1 and -0.05: c = 0.1, then 0.9 * 0.01 - 0.1 * 0.05 = 0.004, still positive: two whole steps down.
    With gradient -0.1 instead, c = 0.009 - 0.01 = -0.001: up again."""
    path, state = run("lion", 0.0, [1.0, -0.05], lr=0.1)
    assert path == pytest.approx([-0.1, -0.2])
    assert state["exp_avg"] == pytest.approx(0.99 * 0.01 - 0.01 * 0.05)
    path, _ = run("lion", 0.0, [1.0, -0.1], lr=0.1)
    assert path == pytest.approx([-0.1, 0.0])


def test_lion_decays_the_weight_whatever_the_gradient():
    path, _ = run("lion", 2.0, [0.0, 7.0], lr=0.1, weight_decay=0.5)
    assert path == pytest.approx([2 - 0.1 * 0.5 * 2, 1.9 - 0.1 * (1 + 0.5 * 1.9)])


# What the methods promise --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "eps"), [("adagrad", 0), ("rmsprop", 0), ("adam", 0), ("adamw", 0), ("lion", None)])
def test_adaptive_steps_do_not_depend_on_the_scale_of_the_gradient(name, eps):
    options = {"lr": 0.1} if eps is None else {"lr": 0.1, "eps": eps}
    gradients = np.random.default_rng(0).normal(size=10)
    small, _ = run(name, 1.0, 1e-3 * gradients, **options)
    large, _ = run(name, 1.0, 1e3 * gradients, **options)
    assert small == pytest.approx(large, rel=1e-9)


def test_adadelta_has_the_units_of_the_parameter():
    """Measured in another unit, p and the gradient change by c and 1 / c, and the path changes by c (if eps does)."""
    gradients = np.random.default_rng(0).normal(size=10)
    c, eps = 100.0, 1e-6
    path, _ = run("adadelta", 1.0, gradients, lr=1.0, eps=eps)

    p, v, u, scaled = c, 0.0, 0.0, []
    for g in gradients / c:  # the equations with an eps for each root, in its unit
        v = 0.9 * v + 0.1 * g**2
        d = math.sqrt(u + eps * c**2) / math.sqrt(v + eps / c**2) * g
        u = 0.9 * u + 0.1 * d**2
        p -= d
        scaled.append(p / c)
    assert path == pytest.approx(scaled, rel=1e-12)


def test_bias_correction_makes_the_first_steps_full_length():
    """A constant gradient: every step of Adam is lr; of RMSProp the first is lr / sqrt(1 - alpha), the rest falls."""
    path, _ = run("adam", 0.0, [3.0] * 5, lr=0.1, eps=0.0)
    assert -np.diff([0.0, *path]) == pytest.approx([0.1] * 5)
    path, _ = run("rmsprop", 0.0, [3.0] * 5, lr=0.1, alpha=0.99, eps=0.0)
    assert -np.diff([0.0, *path]) == pytest.approx([0.1 / math.sqrt(1 - 0.99**t) for t in range(1, 6)])


def test_rmsprop_with_a_fixed_rate_leaves_the_minimum_that_it_reached_and_adagrad_stays():
    """Its denominator forgets, until the step is longer than 2 / curvature; so a first crossing is no arrival."""
    for curvature, lr in ((1.0, 1.0), (100.0, 0.1), (0.1, 3.0)):
        losses = {}
        for name in ("rmsprop", "adagrad"):
            init, step = pair(name)
            p = np.array(1.0)
            state, path = init(p), []
            for _ in range(1500):
                p, state = step(p, curvature * p, state, lr=lr)
                path.append(float(curvature * p * p / 2))
            losses[name] = np.array(path)
        target = 1e-4 * curvature / 2
        arrived = int(np.argmax(losses["rmsprop"] < target))
        assert losses["rmsprop"][arrived] < target
        assert losses["rmsprop"][arrived:].max() > 100 * target
        there = int(np.argmax(losses["adagrad"] < target))
        assert losses["adagrad"][there:].max() < target


def rate_of_nesterov(lr, momentum, curvatures):
    """The largest root, over all modes, of a step's matrix in (position, velocity), made from the step itself."""
    worst = 0.0
    for curvature in curvatures:
        p, state = sgd(
            np.array([1.0, 0.0]),
            curvature * np.array([1.0, 0.0]),
            {"momentum_buffer": np.array([0.0, 1.0])},
            lr=lr,
            momentum=momentum,
            nesterov=True,
        )
        matrix = np.stack([p, state["momentum_buffer"]])
        worst = max(worst, float(np.abs(np.linalg.eigvals(matrix)).max()))
    return worst


@pytest.mark.parametrize("kappa", [4.0, 9.0, 100.0, 10_000.0])
def test_the_best_nesterov_parameters_on_a_quadratic_are_not_the_usual_ones(kappa):
    """:eq:`nesterov-best` of chapter 4: 1 - 2 / sqrt(3 kappa + 1), and nothing near it is better."""
    root, curvatures = math.sqrt(3 * kappa + 1), np.linspace(1, kappa, 31)
    lr, momentum, best = 4 / (3 * kappa + 1), (root - 2) / (root + 2), 1 - 2 / root
    assert rate_of_nesterov(lr, momentum, curvatures) == pytest.approx(best, abs=1e-6)  # a double root
    usual = (math.sqrt(kappa) - 1) / (math.sqrt(kappa) + 1)
    assert rate_of_nesterov(1 / kappa, usual, curvatures) == pytest.approx(1 - 1 / math.sqrt(kappa), abs=1e-6)
    assert best < 1 - 1 / math.sqrt(kappa)
    gap = 1 - best
    for stretch, shift in itertools.product((0.9, 0.97, 1, 1.03, 1.1), (-0.2, -0.05, 0, 0.05, 0.2)):
        if (stretch, shift) != (1, 0):
            other = rate_of_nesterov(stretch * lr, momentum + shift * gap, curvatures)
            assert other > best + 1e-6 * gap


def test_centered_rmsprop_survives_a_gradient_that_never_changes():
    """v and a^2 become equal up to rounding; PyTorch takes the root of a negative number."""
    p, state = np.array([1.0, 2.0]), rmsprop_init(np.zeros(2))
    for _ in range(300):
        p, state = rmsprop(p, np.array([0.1, 0.7]), state, lr=1e-9, alpha=0.5, centered=True)
    assert np.isfinite(p).all()
    twin = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.RMSprop([twin], lr=1e-9, alpha=0.5, centered=True)
    for _ in range(300):
        twin.grad = torch.tensor([0.1, 0.7], dtype=torch.float64)
        optimizer.step()
    assert torch.isnan(twin).any()


@pytest.mark.parametrize("name", NAMES)
def test_maximizing_a_function_is_minimizing_its_negative(name):
    gradients = np.random.default_rng(0).normal(size=10)
    up, _ = run(name, 1.0, gradients, lr=0.1, weight_decay=0.1, maximize=True)
    down, _ = run(name, 1.0, -gradients, lr=0.1, weight_decay=0.1)
    assert up == down


# Contract ------------------------------------------------------------------------------------------------------------

VARIANTS = [
    *((name, {}) for name in NAMES),
    ("sgd", {"momentum": 0.9}),
    ("sgd", {"momentum": 0.9, "nesterov": True, "maximize": True}),
    ("rmsprop", {"momentum": 0.9, "centered": True}),
    ("adam", {"amsgrad": True}),
    ("adamw", {"amsgrad": True, "maximize": True}),
    ("lion", {"maximize": True}),
]


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_step_changes_none_of_its_inputs(name, options, weight_decay):
    """Read-only inputs are accepted, and nothing that comes out shares memory with what went in."""
    init, step = pair(name)
    params = start(np.random.default_rng(0))
    grads = start(np.random.default_rng(1))
    state = init(params)
    for _ in range(3):
        inputs = [*flatten(params).values(), *flatten(grads).values()]
        inputs += [leaf for leaf in flatten(state).values() if isinstance(leaf, np.ndarray)]
        for leaf in inputs:
            leaf.flags.writeable = False
        before = set(state)
        new_params, new_state = step(params, grads, state, lr=0.1, weight_decay=weight_decay, **options)
        assert set(state) == before
        outputs = [*flatten(new_params).values(), *flatten(new_state).values()]
        outputs = [leaf for leaf in outputs if isinstance(leaf, np.ndarray)]
        assert all(leaf.flags.writeable for leaf in outputs)
        assert not any(np.shares_memory(a, b) for a in inputs for b in outputs)
        assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(outputs, 2))
        params, state = new_params, new_state


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_every_entry_of_a_state_has_the_structure_of_the_parameters(name, options):
    init, step = pair(name)
    params = start(np.random.default_rng(0))
    _, state = step(params, params, init(params), lr=0.1, **options)
    for tree in state.values():
        assert flatten(tree).keys() == flatten(params).keys()
        for key, leaf in flatten(tree).items():
            assert isinstance(leaf, int) or leaf.shape == flatten(params)[key].shape


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_a_single_array_is_a_tree_too(name, options):
    init, step = pair(name)
    p = np.array([1.0, -2.0])
    in_a_dict, inside, alone, outside = {"w": p}, init({"w": p}), p, init(p)
    for _ in range(3):
        in_a_dict, inside = step(in_a_dict, {"w": 2 * in_a_dict["w"]}, inside, lr=0.1, **options)
        alone, outside = step(alone, 2 * alone, outside, lr=0.1, **options)
    assert np.array_equal(alone, in_a_dict["w"])


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,)])
def test_shapes_are_kept(name, options, shape):
    init, step = pair(name)
    p = np.ones(shape, np.float32)
    new, state = step(p, p, init(p), lr=0.1, **options)
    new, state = step(new, p, state, lr=0.1, **options)
    assert isinstance(new, np.ndarray)
    assert new.shape == shape
    assert new.dtype == np.float32


@pytest.mark.parametrize("name", NAMES)
def test_layout_does_not_matter(name):
    init, step = pair(name)
    p = np.random.default_rng(0).normal(size=(6, 4))
    g = np.random.default_rng(1).normal(size=(6, 4))
    expected, _ = step(p, g, init(p), lr=0.1)
    fortran, _ = step(p, np.asfortranarray(g), init(p), lr=0.1)
    assert np.array_equal(fortran, expected)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_a_leaf_without_gradient_stays(name, options):
    init, step = pair(name)
    params = {"index": np.array([3, 1]), "w": np.ones(2)}
    state = init(params)
    for _ in range(2):
        gradient = np.full(2, -1.0 if options.get("maximize") else 1.0)
        params, state = step(params, {"index": None, "w": gradient}, state, lr=0.1, **options)
    assert np.array_equal(params["index"], [3, 1])
    assert params["index"].dtype == np.array([3, 1]).dtype
    assert (params["w"] < 1).all()
    assert state.get("step", {"index": 0, "w": 2}) == {"index": 0, "w": 2}


def test_a_layer_that_thaws_late_starts_its_own_count():
    """Adam's first step is lr for every leaf, also for one that gets its first gradient at step 3."""
    params = {"frozen": np.array([1.0]), "w": np.array([1.0])}
    state = adam_init(params)
    for i in range(3):
        grads = {"frozen": np.array([5.0]) if i == 2 else None, "w": np.array([5.0])}
        params, state = adam(params, grads, state, lr=0.1, eps=0.0)
    assert params["frozen"] == pytest.approx(0.9)
    assert params["w"] == pytest.approx(0.7)


def test_the_first_real_gradient_fills_the_momentum_buffer():
    params, twin = {"w": np.ones(2)}, torch.ones(2, dtype=torch.float64, requires_grad=True)
    state, optimizer = sgd_init(params), torch.optim.SGD([twin], lr=0.1, momentum=0.9, dampening=0.5)
    for g in (None, np.array([1.0, 2.0]), np.array([3.0, 1.0])):
        params, state = sgd(params, {"w": g}, state, lr=0.1, momentum=0.9, dampening=0.5)
        twin.grad = None if g is None else torch.tensor(g)
        optimizer.step()
        np.testing.assert_allclose(params["w"], twin.detach().numpy(), rtol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_integers_cannot_follow_a_gradient(name):
    """Nor complex numbers, whose squares are not what Adam means by a square."""
    init, step = pair(name)
    for params in ({"w": np.array([1, 2])}, {"w": np.array([1j, 2.0])}):
        with pytest.raises(ValueError, match=f"a parameter has dtype {params['w'].dtype}"):
            step(params, {"w": np.array([0.5, 0.5])}, init(params), lr=0.1)
    params = {"w": np.array([1, 2])}
    assert step(params, {"w": None}, init(params), lr=0.1)[0]["w"].dtype == np.int64


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_of_another_shape_is_refused(name):
    init, step = pair(name)
    p = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"\(3,\), the parameter \(2, 3\)"):
        step({"w": p}, {"w": np.ones(3)}, init({"w": p}), lr=0.1)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "sgd"])
def test_a_state_of_another_optimizer_is_refused(name):
    params = {"w": np.ones(2)}
    init = "adam_init" if name == "adamw" else f"{name}_init"
    with pytest.raises(ValueError, match=rf"must come from {init}\(params\); this one holds \['rubbish'\]"):
        pair(name)[1](params, params, {"rubbish": params}, lr=0.1)


# Options outside their range -----------------------------------------------------------------------------------------

AT_LEAST_ZERO = {
    "sgd": ("lr", "momentum", "weight_decay"),
    "adagrad": ("lr", "lr_decay", "weight_decay", "eps"),
    "rmsprop": ("lr", "momentum", "weight_decay", "eps"),
    "adadelta": ("lr", "weight_decay", "eps"),
    "adam": ("lr", "weight_decay", "eps"),
    "adamw": ("lr", "weight_decay", "eps"),
    "lion": ("lr", "weight_decay"),
}
BELOW_ONE = {"rmsprop": "alpha", "adadelta": "rho"}


def refused(name, message, **options):
    init, step = pair(name)
    p = np.ones(2)
    with pytest.raises(ValueError, match=message):
        step(p, p, init(p), **{"lr": 0.1, **options})


@pytest.mark.parametrize(("name", "option"), [(name, o) for name, options in AT_LEAST_ZERO.items() for o in options])
def test_options_that_must_not_be_negative_say_so(name, option):
    refused(name, f"{option} must be >= 0, not -0.1", **{option: -0.1})
    refused(name, f"{option} must be a number, not nan", **{option: NAN})
    refused(name, f"{option} must be finite, not inf", **{option: INF})


@pytest.mark.parametrize("name", BELOW_ONE)
@pytest.mark.parametrize("value", [1.0, 1.5, -0.1, NAN])
def test_a_decay_of_one_or_more_is_refused(name, value):
    what = "a number" if math.isnan(value) else r"in \[0, 1\)"
    refused(name, rf"{BELOW_ONE[name]} must be {what}, not {value}", **{BELOW_ONE[name]: value})


@pytest.mark.parametrize("name", ["adam", "adamw", "lion"])
@pytest.mark.parametrize("betas", [(1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9, 2.0), (NAN, 0.9), (0.9, NAN)])
def test_a_beta_of_one_or_more_is_refused(name, betas):
    if np.isnan(betas).any():
        refused(name, rf"betas\[{np.argmax(np.isnan(betas))}\] must be a number, not nan", betas=betas)
    else:
        refused(name, rf"betas must both be in \[0, 1\), not \({betas[0]}, {betas[1]}\)", betas=betas)


def test_what_sgd_cannot_combine_is_refused():
    refused("sgd", "nesterov needs momentum > 0 and dampening 0, not 0.0 and 0.0", nesterov=True)
    refused("sgd", "nesterov needs momentum > 0 and dampening 0, not 0.9 and 0.1", **NESTEROV, dampening=0.1)
    refused("sgd", "dampening must be a number, not nan", momentum=0.9, dampening=NAN)


def test_adagrad_starts_from_no_negative_sum():
    with pytest.raises(ValueError, match="initial_accumulator_value must be >= 0, not -1"):
        adagrad_init(np.ones(2), initial_accumulator_value=-1)


def test_every_range_is_tested():
    """Whoever adds an option finds this test, and adds its range to those above."""
    for name in NAMES:
        known = {*AT_LEAST_ZERO[name], BELOW_ONE.get(name, "betas"), "params", "grads", "state"}
        known |= {"nesterov", "dampening", "maximize", "amsgrad", "centered"}  # switches, and what sgd combines
        assert set(inspect.signature(pair(name)[1]).parameters) <= known


# Schedules -----------------------------------------------------------------------------------------------------------


def torch_rates(make, steps, *, lr):
    """The rates that the scheduler ``make(optimizer)`` sets, step by step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch wants the optimizer to step before its schedule
        schedule = make(optimizer)
        for i in range(steps):
            if i > 0:
                schedule.step()
            rates.append(optimizer.param_groups[0]["lr"])
    return rates


def same_rates(schedule, make, steps, *, lr):
    ours = [schedule(i) for i in range(steps)]
    assert {type(rate) for rate in ours} == {float}
    assert ours == pytest.approx(torch_rates(make, steps, lr=lr), rel=BOUND, abs=BOUND * lr)


@given(step_size=st.integers(1, 60), gamma=st.sampled_from([0.1, 0.5, 1.0, 1.1]))
@settings(max_examples=20, deadline=None)
def test_step_lr_is_torch(step_size, gamma):
    ours = functools.partial(step_lr, lr=0.3, step_size=step_size, gamma=gamma)
    same_rates(ours, lambda o: schedulers.StepLR(o, step_size, gamma=gamma), 200, lr=0.3)


@pytest.mark.parametrize("gamma", [0.5, 0.99, 1.0, 1.02])
def test_exponential_lr_is_torch(gamma):
    ours = functools.partial(exponential_lr, lr=0.3, gamma=gamma)
    same_rates(ours, lambda o: schedulers.ExponentialLR(o, gamma), 200, lr=0.3)


@given(T_max=st.integers(1, 120), eta_min=st.sampled_from([0.0, 0.01, 0.5]))
@settings(max_examples=20, deadline=None)
def test_cosine_annealing_lr_is_torch(T_max, eta_min):
    """Also beyond T_max, where it rises again."""
    ours = functools.partial(cosine_annealing_lr, lr=0.3, T_max=T_max, eta_min=eta_min)
    same_rates(ours, lambda o: schedulers.CosineAnnealingLR(o, T_max, eta_min=eta_min), 200, lr=0.3)


@given(total_iters=st.integers(1, 120), start_factor=st.sampled_from([1e-3, 1 / 3, 1.0]))
@settings(max_examples=20, deadline=None)
def test_linear_warmup_is_torch(total_iters, start_factor):
    options = {"total_iters": total_iters, "start_factor": start_factor}
    ours = functools.partial(linear_warmup, lr=0.3, **options)
    same_rates(ours, lambda o: schedulers.LinearLR(o, **options), 200, lr=0.3)


@pytest.mark.parametrize("total_iters", [1, 10, 37])
def test_a_warm_up_before_another_schedule_is_torch(total_iters):
    """SequentialLR, whose second schedule starts from its own step 0 when the first is over."""

    def after(step):
        return cosine_annealing_lr(step, lr=0.3, T_max=160, eta_min=0.01)

    def both(optimizer):
        warmup = schedulers.LinearLR(optimizer, start_factor=0.1, total_iters=total_iters)
        cosine = schedulers.CosineAnnealingLR(optimizer, 160, eta_min=0.01)
        return schedulers.SequentialLR(optimizer, [warmup, cosine], milestones=[total_iters])

    ours = functools.partial(linear_warmup, lr=after, total_iters=total_iters, start_factor=0.1)
    same_rates(ours, both, 200, lr=0.3)


def test_warm_up_is_that_of_the_paper():
    """Goyal et al., section 2.2: from eta to k eta by a constant amount at each step; here k = 8 and 5 steps."""
    eta, k, steps = 0.1, 8, 5
    rate, expected = eta, []
    for _ in range(steps):
        expected.append(rate)
        rate += (k * eta - eta) / steps
    expected += [k * eta] * 3
    ours = [linear_warmup(i, lr=k * eta, total_iters=steps, start_factor=1 / k) for i in range(8)]
    assert ours == pytest.approx(expected, rel=BOUND)


def test_one_cycle_is_that_of_the_paper():
    """Smith and Topin: up along a line, down along a line of the same length to where it began, and then, for the rest
    of the run, down to far below."""
    up, rest, low, high, last = 10, 5, 0.1, 1.0, 0.001
    expected = [low + (high - low) * i / up for i in range(up)]
    expected += [high - (high - low) * i / up for i in range(up)]
    expected += [low - (low - last) * i / rest for i in range(rest + 1)]
    total = len(expected)
    options = {"pct_start": (up + 1) / total, "div_factor": high / low, "final_div_factor": low / last}
    options |= {"anneal_strategy": "linear", "three_phase": True}
    ours = [one_cycle(i, max_lr=high, total_steps=total, **options) for i in range(total)]
    assert ours == pytest.approx(expected, rel=1e-9)


def test_cosine_annealing_is_that_of_the_paper():
    """Loshchilov and Hutter, equation 5, with the minimum at T_max, and half of the way in the middle."""
    rate = functools.partial(cosine_annealing_lr, lr=1.0, T_max=4, eta_min=0.2)
    assert [rate(i) for i in range(9)] == pytest.approx(
        [0.2 + 0.5 * (1.0 - 0.2) * (1 + math.cos(i / 4 * math.pi)) for i in range(9)]
    )
    assert [rate(0), rate(2), rate(4), rate(8)] == pytest.approx([1.0, 0.6, 0.2, 1.0])


def test_schedules_by_hand():
    assert [step_lr(i, lr=1.0, step_size=2, gamma=0.1) for i in range(5)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    assert [exponential_lr(i, lr=1.0, gamma=0.5) for i in range(3)] == [1, 0.5, 0.25]
    warm = functools.partial(linear_warmup, total_iters=4, start_factor=0.0)
    assert [warm(i, lr=2.0) for i in range(6)] == [0, 0.5, 1, 1.5, 2, 2]
    assert [warm(i, lr=lambda step: 2.0 - step) for i in range(6)] == [0, 0.5, 1, 1.5, 2, 1]
    assert linear_warmup(0, lr=2.0, total_iters=0) == 2.0


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        (step_lr, {"step_size": 0}, "step_size must be >= 1, not 0"),
        (step_lr, {"step_size": 1.5}, r"step_size must be an integer, not 1\.5"),
        (step_lr, {"step_size": 1, "gamma": -0.1}, "gamma must be >= 0, not -0.1"),
        (step_lr, {"step_size": 1, "lr": -1}, "lr must be >= 0, not -1"),
        (exponential_lr, {"gamma": NAN}, "gamma must be a number, not nan"),
        (exponential_lr, {"gamma": INF}, "gamma must be finite, not inf"),
        (exponential_lr, {"gamma": 1, "step": -1}, "step must be >= 0, not -1"),
        (exponential_lr, {"gamma": 1, "step": 0.5}, r"step must be an integer, not 0\.5"),
        (exponential_lr, {"gamma": 1, "step": NAN}, "step must be an integer, not nan"),
        (exponential_lr, {"gamma": 1, "step": INF}, "step must be an integer, not inf"),
        (cosine_annealing_lr, {"T_max": 0}, "T_max must be >= 1, not 0"),
        (cosine_annealing_lr, {"T_max": 1, "eta_min": -1}, "eta_min must be >= 0, not -1"),
        (linear_warmup, {"total_iters": -1}, "total_iters must be >= 0, not -1"),
        (linear_warmup, {"total_iters": 2, "start_factor": 1.1}, r"start_factor must be in \[0, 1\], not 1\.1"),
        (linear_warmup, {"total_iters": 2, "start_factor": NAN}, "start_factor must be a number, not nan"),
        (linear_warmup, {"total_iters": 2, "lr": lambda step: -1.0}, r"lr must be >= 0, not -1\.0"),
    ],
)
def test_schedules_name_bad_arguments(schedule, options, message):
    with pytest.raises(ValueError, match=message):
        schedule(**{"step": 0, "lr": 1.0, **options})


def torch_one_cycle(max_lr, total_steps, **options):
    """The rates that OneCycleLR sets, step by step."""
    options = {"total_steps": total_steps, "cycle_momentum": False, **options}
    return torch_rates(lambda optimizer: schedulers.OneCycleLR(optimizer, max_lr, **options), total_steps, lr=1.0)


@given(
    total_steps=st.integers(1, 120),
    pct_start=st.floats(0.0, 1.0),
    anneal_strategy=st.sampled_from(["cos", "linear"]),
    div_factor=st.sampled_from([2.0, 25.0]),
    final_div_factor=st.sampled_from([1.0, 1e4]),
    three_phase=st.booleans(),
)
@settings(max_examples=60, deadline=None)
@example(100, 0.3, "cos", 25.0, 1e4, False)
@example(100, 0.3, "linear", 25.0, 1e4, True)
@example(2, 1.0, "cos", 2.0, 1.0, False)
@example(1, 1.0, "cos", 2.0, 1.0, False)
@example(20, 0.9, "cos", 2.0, 1.0, True)
def test_one_cycle_is_torch(total_steps, pct_start, anneal_strategy, div_factor, final_div_factor, three_phase):
    options = {
        "pct_start": pct_start,
        "anneal_strategy": anneal_strategy,
        "div_factor": div_factor,
        "final_div_factor": final_div_factor,
        "three_phase": three_phase,
    }
    ours = [one_cycle(i, max_lr=0.7, total_steps=total_steps, **options) for i in range(total_steps)]
    assert {type(rate) for rate in ours} == {float}
    try:
        theirs = torch_one_cycle(0.7, total_steps, **options)
    except ZeroDivisionError:
        assert ours[0] == pytest.approx(0.7)  # a rise of length 0 is already at its end
        return
    assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-12 * 0.7)


def test_one_cycle_by_hand():
    """Ten steps, three of them rising: at step 0.3 * 10 - 1 = 2 the peak, at step 9 the end."""
    rate = functools.partial(one_cycle, max_lr=1.0, total_steps=10, div_factor=10, final_div_factor=100)
    assert rate(0) == pytest.approx(0.1)
    assert rate(1) == pytest.approx((0.1 + 1.0) / 2)
    assert rate(2) == pytest.approx(1.0)
    assert rate(9) == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        (step_lr, {"lr": 1.0, "step_size": 2, "gamma": 0.5}),
        (exponential_lr, {"lr": 1.0, "gamma": 0.5}),
        (cosine_annealing_lr, {"lr": 1.0, "T_max": 10, "eta_min": 0.1}),
        (linear_warmup, {"lr": 1.0, "total_iters": 5, "start_factor": 0.1}),
        (linear_warmup, {"lr": lambda step: np.float64(1.0), "total_iters": 1, "start_factor": 0.1}),
        (one_cycle, {"max_lr": 1.0, "total_steps": 10, "pct_start": 0.3, "div_factor": 2.0, "final_div_factor": 4.0}),
    ],
)
def test_a_rate_is_a_python_float(schedule, options):
    """NumPy's numbers as options would make it one of theirs, which promotes float32 parameters."""
    numpys = {key: value if callable(value) else np.asarray(value)[()] for key, value in options.items()}
    assert {type(schedule(np.int64(step), **numpys)) for step in range(4)} == {float}


def test_a_rise_of_length_zero_starts_at_the_peak():
    assert one_cycle(0, max_lr=2.0, total_steps=10, pct_start=0.1) == 2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"total_steps": 0}, "total_steps must be >= 1, not 0"),
        ({"total_steps": 2.5}, r"total_steps must be an integer, not 2\.5"),
        ({"step": 9.5}, r"step must be an integer, not 9\.5"),
        ({"step": 10}, r"step must be in \[0, 10\), not 10"),
        ({"step": -1}, "step must be"),
        ({"pct_start": 1.5}, r"pct_start must be in \[0, 1\], not 1.5"),
        ({"anneal_strategy": "sin"}, "'sin'"),
        ({"div_factor": 0}, "div_factor and final_div_factor must be > 0, not 0"),
        ({"max_lr": -1}, "max_lr must be >= 0"),
    ],
)
def test_one_cycle_names_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        one_cycle(**{"step": 0, "max_lr": 1.0, "total_steps": 10, **options})


# Plateau -------------------------------------------------------------------------------------------------------------

PLATEAU = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["min", "max"]),
        "factor": st.sampled_from([0.0, 0.1, 0.5]),
        "patience": st.integers(0, 4),
        "threshold": st.sampled_from([0.0, 1e-4, 0.2]),
        "threshold_mode": st.sampled_from(["rel", "abs"]),
        "cooldown": st.integers(0, 4),
        "min_lr": st.sampled_from([0.0, 0.01]),
        "eps": st.sampled_from([1e-8, 0.03]),
    }
)


@given(options=PLATEAU, metrics=st.lists(st.sampled_from([-1.0, 0.0, 0.5, 0.9, 1.0, 1.2, 3.0, NAN]), max_size=60))
@settings(max_examples=200, deadline=None)
def test_reduce_lr_on_plateau_is_torch(options, metrics):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    theirs = schedulers.ReduceLROnPlateau(optimizer, **options)
    state = reduce_lr_on_plateau_init(0.3)
    for metric in metrics:
        lr, state = reduce_lr_on_plateau(metric, state, **options)
        theirs.step(metric)
        assert lr == state["lr"] == pytest.approx(optimizer.param_groups[0]["lr"], rel=BOUND)
        assert state["num_bad_epochs"] == theirs.num_bad_epochs
        assert state["cooldown_counter"] == theirs.cooldown_counter
        assert state["best"] == theirs.best


def test_reduce_lr_on_plateau_has_the_defaults_of_torch():
    ours, theirs = (
        {name: p.default for name, p in inspect.signature(f).parameters.items()}
        for f in (reduce_lr_on_plateau, schedulers.ReduceLROnPlateau)
    )
    assert {key: ours[key] for key in ours.keys() & theirs.keys()} == {
        key: value for key, value in theirs.items() if key != "optimizer"
    }


def test_a_plateau_by_hand():
    """patience 1: the second bad epoch in a row is one too many; the best loss stays 1."""
    state, rates = reduce_lr_on_plateau_init(1.0), []
    for loss in (1.0, 1.1, 1.1, 1.1, 0.5):
        lr, state = reduce_lr_on_plateau(loss, state, factor=0.5, patience=1)
        rates.append(lr)
    assert rates == [1, 1, 0.5, 0.5, 0.5]
    assert state == {"lr": 0.5, "best": 0.5, "num_bad_epochs": 0, "cooldown_counter": 0}


def test_below_zero_a_relative_threshold_takes_a_little_worse_for_better():
    bests = {}
    for threshold_mode in ("rel", "abs"):
        state = reduce_lr_on_plateau_init(1.0)
        for loss in (-100.0, -99.995):
            _, state = reduce_lr_on_plateau(loss, state, threshold_mode=threshold_mode)
        bests[threshold_mode] = state["best"]
    assert bests == {"rel": -99.995, "abs": -100.0}


def test_the_state_of_a_plateau_is_not_changed():
    state = reduce_lr_on_plateau_init(1.0)
    before = dict(state)
    reduce_lr_on_plateau(1.0, state, patience=0)
    assert state == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "low"}, "mode must be 'min' or 'max', not 'low'"),
        ({"threshold_mode": "relative"}, "threshold_mode must be 'rel' or 'abs', not 'relative'"),
        ({"factor": 1.0}, r"factor must be in \[0, 1\), not 1\.0"),
        ({"factor": -0.1}, r"factor must be in \[0, 1\), not -0\.1"),
        ({"patience": -1}, "patience must be >= 0, not -1"),
        ({"patience": 1.5}, r"patience must be an integer, not 1\.5"),
        ({"cooldown": -1}, "cooldown must be >= 0, not -1"),
        ({"threshold": -1}, "threshold must be >= 0, not -1"),
        ({"min_lr": NAN}, "min_lr must be a number, not nan"),
        ({"eps": -1}, "eps must be >= 0, not -1"),
    ],
)
def test_a_plateau_names_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        reduce_lr_on_plateau(1.0, reduce_lr_on_plateau_init(0.1), **options)


def test_a_plateau_starts_from_no_negative_rate():
    with pytest.raises(ValueError, match="lr must be >= 0, not -1"):
        reduce_lr_on_plateau_init(-1)


# Clipping ------------------------------------------------------------------------------------------------------------


def torch_clipped(grads, clip):
    """What a function of torch.nn.utils makes of the gradients, and what it returns."""
    twins = {}
    for key, g in flatten(grads).items():
        twins[key] = torch.zeros(() if g is None else g.shape, dtype=torch.float64, requires_grad=True)
        twins[key].grad = None if g is None else torch.tensor(g)
    returned = clip(list(twins.values()))
    return {key: None if p.grad is None else p.grad.numpy() for key, p in twins.items()}, returned


def same_gradients(ours, theirs):
    for key, g in flatten(ours).items():
        if g is None:
            assert theirs[key] is None
        else:
            np.testing.assert_allclose(g, theirs[key], rtol=BOUND)


def some_gradients(seed, shapes, scale):
    rng = np.random.default_rng(seed)
    grads = {f"layer.{i}": scale * rng.normal(size=shape) for i, shape in enumerate(shapes)}
    return unflatten({**grads, "frozen": None})


@given(
    seed=st.integers(0, 99),
    shapes=st.lists(st.sampled_from([(4, 3), (4,), (), (1,), (2, 1, 3)]), min_size=1, max_size=4),
    scale=st.sampled_from([0.0, 1e-7, 1.0, 1e3]),
    max_norm=st.sampled_from([0.0, 1e-3, 1.0, 50.0, INF]),
    norm_type=st.sampled_from([0.5, 1.0, 2.0, 3.0, INF]),
)
@settings(max_examples=100, deadline=None)
def test_clip_grad_norm_is_torch(seed, shapes, scale, max_norm, norm_type):
    grads = some_gradients(seed, shapes, scale)
    ours, norm = clip_grad_norm(grads, max_norm=max_norm, norm_type=norm_type)
    theirs, twin = torch_clipped(grads, lambda p: torch.nn.utils.clip_grad_norm_(p, max_norm, norm_type))
    same_gradients(ours, theirs)
    assert type(norm) is float
    assert norm == pytest.approx(twin.item(), rel=BOUND)


@given(seed=st.integers(0, 99), clip_value=st.sampled_from([0.0, 0.1, 1.0, INF]))
@settings(max_examples=30, deadline=None)
def test_clip_grad_value_is_torch(seed, clip_value):
    grads = some_gradients(seed, [(4, 3), (), (0,), (2, 1, 3)], 1.0)
    theirs, _ = torch_clipped(grads, lambda p: torch.nn.utils.clip_grad_value_(p, clip_value))
    same_gradients(clip_grad_value(grads, clip_value=clip_value), theirs)


@pytest.mark.parametrize("bad", [INF, NAN])
def test_a_gradient_that_is_not_finite_is_clipped_as_in_torch(bad):
    grads = {"a": np.array([1.0, bad]), "b": np.array([-2.0])}
    with np.errstate(invalid="ignore"):
        ours, norm = clip_grad_norm(grads, max_norm=1.0)
    theirs, twin = torch_clipped(grads, lambda p: torch.nn.utils.clip_grad_norm_(p, 1.0))
    same_gradients(ours, theirs)
    assert np.array_equal(norm, twin.item(), equal_nan=True)
    with pytest.raises(FloatingPointError, match=f"the norm of the gradients is {bad}"):
        clip_grad_norm(grads, max_norm=1.0, error_if_nonfinite=True)
    theirs, _ = torch_clipped(grads, lambda p: torch.nn.utils.clip_grad_value_(p, 1.5))
    same_gradients(clip_grad_value(grads, clip_value=1.5), theirs)


def test_clipping_by_hand():
    """The norm of (3, 4) is 5; clipped to 1 it is (0.6, 0.8), but for PyTorch's 1e-6. By value only the 4 is cut."""
    grads = {"a": np.array([3.0]), "b": np.array([4.0])}
    clipped, norm = clip_grad_norm(grads, max_norm=1.0)
    assert norm == 5
    assert clipped["a"] == pytest.approx(3 / 5.000001, rel=1e-15)
    assert clipped["b"] == pytest.approx(4 / 5.000001, rel=1e-15)
    assert clip_grad_norm(grads, max_norm=10.0)[0] == grads
    assert clip_grad_value(grads, clip_value=3.5) == {"a": np.array([3.0]), "b": np.array([3.5])}
    assert clip_grad_norm({"a": None}, max_norm=1.0) == ({"a": None}, 0.0)


def test_clipping_before_the_step_is_that_of_torch():
    """A loop with clip_grad_norm_ between backward and step, and its counterpart: an optimizer that clips first."""

    def clipped(params, grads, state, **options):
        return adam(params, clip_grad_norm(grads, max_norm=0.5)[0], state, **options)

    rng = np.random.default_rng(0)
    params = {"0": {"weight": rng.normal(size=(4, 3)), "bias": rng.normal(size=4)}}
    twins = [torch.tensor(leaf, requires_grad=True) for leaf in flatten(params).values()]
    optimizer, state = torch.optim.Adam(twins, lr=0.1), adam_init(params)
    for _ in range(200):
        params, state = clipped(params, params, state, lr=0.1)  # the gradient of half the squared norm
        for p in twins:
            p.grad = p.detach().clone()
        torch.nn.utils.clip_grad_norm_(twins, 0.5)
        optimizer.step()
        for leaf, p in zip(flatten(params).values(), twins, strict=True):
            assert np.allclose(leaf, p.detach().numpy(), rtol=0, atol=BOUND)


def test_clipping_by_norm_keeps_the_direction_and_by_value_does_not():
    g = np.array([3.0, 4.0])
    by_norm, by_value = clip_grad_norm(g, max_norm=1.0)[0], clip_grad_value(g, clip_value=1.0)
    assert by_norm[1] / by_norm[0] == pytest.approx(4 / 3)
    assert by_value[1] / by_value[0] == 1


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, INF])
def test_the_norm_is_that_of_all_entries(norm_type):
    """One sum over the entries of all leaves, whatever their shapes; a leaf without entries adds nothing."""
    grads = some_gradients(0, [(4, 3), (0,), (), (2, 0, 3)], 1.0)
    entries = [abs(float(e)) for g in flatten(grads).values() if g is not None for e in g.ravel()]
    expected = max(entries) if norm_type == INF else sum(e**norm_type for e in entries) ** (1 / norm_type)
    assert clip_grad_norm(grads, max_norm=1.0, norm_type=norm_type)[1] == pytest.approx(expected, rel=BOUND)


def test_clipping_keeps_dtypes_shapes_and_its_inputs():
    grads = {"a": np.full((2, 3), 9, np.float32), "b": np.full((), 9, np.float32)}
    for leaf in grads.values():
        leaf.flags.writeable = False
    for new in (
        clip_grad_norm(grads, max_norm=np.float64(1.0))[0],
        clip_grad_norm(grads, max_norm=100.0, norm_type=INF)[0],
        clip_grad_value(grads, clip_value=np.float64(1.0)),
    ):
        for key, leaf in new.items():
            assert isinstance(leaf, np.ndarray)
            assert (leaf.dtype, leaf.shape) == (np.float32, grads[key].shape)
            assert not np.shares_memory(leaf, grads[key])


@pytest.mark.parametrize(
    ("clip", "options", "message"),
    [
        (clip_grad_norm, {"max_norm": -1}, "max_norm must be >= 0, not -1"),
        (clip_grad_norm, {"max_norm": NAN}, "max_norm must be a number, not nan"),
        (clip_grad_norm, {"max_norm": 1, "norm_type": 0}, "norm_type must be > 0, not 0"),
        (clip_grad_norm, {"max_norm": 1, "norm_type": NAN}, "norm_type must be a number, not nan"),
        (clip_grad_value, {"clip_value": -1}, "clip_value must be >= 0, not -1"),
        (clip_grad_value, {"clip_value": NAN}, "clip_value must be a number, not nan"),
    ],
)
def test_clipping_names_bad_options(clip, options, message):
    with pytest.raises(ValueError, match=message):
        clip(np.ones(2), **options)


# Learning-rate finder ------------------------------------------------------------------------------------------------


def half_square(params, x, y):
    """Half the mean squared error of a linear model: a quadratic whose curvature is the mean of x^2."""
    return ((linear(x, params["weight"]) - y) ** 2).mean() * 0.5


def line(n=64, noise=0.0):
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], size=(n, 1))
    return {"weight": np.zeros((1, 1))}, (x, 3 * x + noise * rng.normal(size=(n, 1)))


def test_the_range_test_follows_its_equations():
    """On the quadratic (w - 3)^2 / 2, where x^2 = 1 in every batch, each loss has a closed form."""
    params, data = line()
    found = lr_finder(
        params, half_square, data, start_lr=1e-3, end_lr=1.0, num_iter=31, batch_size=8, rng=np.random.default_rng(0),
        smoothing=0.8,
    )  # fmt: skip
    w, a = 0.0, 0.0
    for i in range(31):
        lr = 1e-3 * 1000 ** (i / 30)
        loss = (w - 3) ** 2 / 2
        a = 0.8 * a + 0.2 * loss
        assert found.lrs[i] == pytest.approx(lr, rel=BOUND)
        assert found.losses[i] == pytest.approx(loss, rel=1e-9)
        assert found.smoothed[i] == pytest.approx(a / (1 - 0.8 ** (i + 1)), rel=1e-9)
        w -= lr * (w - 3)
    assert len(found.lrs) == 31


def test_the_suggestion_is_a_tenth_of_the_rate_of_the_lowest_loss():
    params, data = line(noise=0.5)
    found = lr_finder(params, half_square, data, end_lr=100.0, batch_size=8, rng=np.random.default_rng(0))
    assert found.suggestion == pytest.approx(found.lrs[np.argmin(found.smoothed)] / 10)
    assert 0.01 < found.suggestion < 2  # descent on this quadratic converges below 2 / curvature = 2


def test_the_range_test_stops_where_the_loss_blows_up():
    params, data = line(noise=0.5)
    found = lr_finder(params, half_square, data, end_lr=1e6, batch_size=8, rng=np.random.default_rng(0))
    assert len(found.lrs) == len(found.losses) == len(found.smoothed) < 100
    assert found.smoothed[-1] > 4 * found.smoothed.min()
    assert (found.smoothed[:-1] <= 4 * np.minimum.accumulate(found.smoothed)[:-1]).all()
    assert 2 < found.lrs[-1] < 1e3


def test_the_range_test_stops_at_an_infinite_loss_without_a_warning():
    params, data = line()
    options = {"batch_size": 8, "rng": np.random.default_rng(0), "stop_factor": INF}
    found = lr_finder(params, half_square, data, start_lr=1e150, end_lr=1e300, **options)
    assert 1 <= len(found.lrs) < 100
    assert np.isfinite(found.losses).all()


def test_a_loss_below_zero_does_not_stop_the_range_test():
    params, data = line()

    def shifted(params, x, y):
        return half_square(params, x, y) - 100.0

    found = lr_finder(params, shifted, data, end_lr=0.5, batch_size=8, rng=np.random.default_rng(0))
    assert len(found.lrs) == 100


def test_the_range_test_is_reproducible_and_leaves_its_inputs_alone():
    params = mlp_init(np.random.default_rng(0), (3, 4, 1))
    before = tree_map(np.copy, params)
    x = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    data = x, np.sin(x[:, :1])

    def loss(params, x, y):
        return ((mlp(params, x) - y) ** 2).mean()

    options = {"optimizer": (adam_init, adam), "batch_size": 7, "betas": (0.5, 0.9)}
    first, again, other = (
        lr_finder(params, loss, data, rng=np.random.default_rng(seed), **options) for seed in (0, 0, 1)
    )
    assert np.array_equal(first.losses, again.losses)
    assert not np.array_equal(first.losses[:10], other.losses[:10])
    assert all(np.array_equal(a, b) for a, b in zip(flatten(params).values(), flatten(before).values(), strict=True))


def test_every_example_is_seen_once_before_any_is_seen_twice():
    seen = []

    def loss(params, x, y):
        seen.extend(int(e) for e in y)
        return (params["w"] * x).sum()

    x = np.ones((10, 1))
    options = {"batch_size": 4, "num_iter": 10, "rng": np.random.default_rng(0), "stop_factor": INF}
    lr_finder({"w": np.zeros(1)}, loss, (x, np.arange(10)), **options)
    assert len(seen) == 40
    assert all(sorted(seen[i : i + 10]) == list(range(10)) for i in range(0, 40, 10))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_lr": 0.0}, r"0 < start_lr < end_lr, not 0\.0 and 10\.0"),
        ({"start_lr": 10.0}, "0 < start_lr < end_lr"),
        ({"end_lr": INF}, "0 < start_lr < end_lr"),
        ({"end_lr": NAN}, "end_lr must be a number, not nan"),
        ({"num_iter": 1}, "num_iter must be >= 2, not 1"),
        ({"batch_size": 0}, "batch_size must be >= 1, not 0"),
        ({"batch_size": 2.5}, r"batch_size must be an integer, not 2\.5"),
        ({"smoothing": 1.0}, r"smoothing must be in \[0, 1\), not 1\.0"),
        ({"stop_factor": 1.0}, r"stop_factor must be > 1, not 1\.0"),
        ({"data": (np.ones((3, 1)), np.ones((2, 1)))}, r"x has shape \(3, 1\) and y \(2, 1\)"),
        ({"data": (np.ones((0, 1)), np.ones((0, 1)))}, "at least one"),
        ({"data": (np.full((3, 1), NAN), np.ones((3, 1)))}, "the loss is nan before the first step"),
        ({"rng": 0}, "rng must be a numpy.random.Generator, not 0"),
    ],
)
def test_the_range_test_names_bad_arguments(options, message):
    params, data = line()
    options = {"data": data, "batch_size": 2, "rng": np.random.default_rng(0), **options}
    with pytest.raises(ValueError, match=message):
        lr_finder(params, half_square, **options)


# The order of a dict, files, and half precision ----------------------------------------------------------------------


def shuffled(tree, rng):
    """The same tree, with the keys of every branch in another order."""
    if not isinstance(tree, dict):
        return tree
    return {key: shuffled(tree[key], rng) for key in rng.permutation(list(tree)).tolist()}


def deep(rng, dtype=np.float64):
    """Twelve layers, whose names sort as 0, 1, 10, 11, 2."""
    return {
        "h": {str(i): {"weight": rng.normal(size=(2, 3)).astype(dtype), "bias": np.zeros(2, dtype)} for i in range(12)},
        "scale": np.asarray(rng.normal(), dtype),
    }


def same_tree(ours, theirs):
    ours, theirs = flatten(ours), flatten(theirs)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)


def written_and_read(tree, path):
    save(path, tree)
    return load(path)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("grouped", [False, True])
def test_the_order_of_a_dict_carries_no_meaning(name, options, grouped, tmp_path):
    """Neither shuffled dicts nor a file between two steps change a bit of parameters and state."""
    rng = np.random.default_rng(3)
    init, step = pair(name)
    if grouped:
        init, step = param_groups(
            (init, step), (bias_or_scale, {"lr_scale": 0.5}), (lambda name, p: name.startswith("h.1"), {"lr": 0.03})
        )
    params = deep(rng)
    others = shuffled(params, rng)
    state, other_state = init(params), init(others)
    for i in range(3):
        grads = tree_map(lambda p: rng.normal(size=p.shape), params)
        clipped, norm = clip_grad_norm(grads, max_norm=1.0)
        other_clipped, other_norm = clip_grad_norm(shuffled(grads, rng), max_norm=1.0)
        assert norm == other_norm
        params, state = step(params, clipped, state, lr=0.1, **options)
        others, other_state = step(others, other_clipped, shuffled(other_state, rng), lr=0.1, **options)
        same_tree(others, params)
        same_tree(other_state, state)
        if i == 1:
            others = written_and_read(others, tmp_path / "p.safetensors")
            if other_state:
                other_state = written_and_read(other_state, tmp_path / "s.safetensors")


@pytest.mark.parametrize("name", ["adagrad", "adam", "adamw"])
def test_a_counter_from_a_file_is_not_written_into(name, tmp_path):
    """It comes back as an array, which a step that counts in place would change under its owner."""
    init, step = pair(name)
    params = {"w": np.ones(2)}
    state = written_and_read(step(params, params, init(params), lr=0.1)[1], tmp_path / "s.safetensors")
    _, after = step(params, params, state, lr=0.1)
    assert state["step"]["w"] == 1
    assert after["step"]["w"] == 2
    assert type(after["step"]["w"]) is int


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_parameters_in_half_precision_have_their_state_in_single(name, options):
    """Ten steps from gradients of 1e-4, whose squares float16 cannot hold: the steps of float32, rounded once each."""
    init, step = pair(name)
    half, single = {"w": np.full(3, 0.5, np.float16)}, {"w": np.full(3, 0.5, np.float32)}
    half_state, single_state = init(half), init(single)
    grad = np.float16(1e-4)
    for _ in range(10):
        half, half_state = step(half, {"w": np.full(3, grad)}, half_state, lr=0.01, **options)
        single, single_state = step(single, {"w": np.full(3, grad, np.float32)}, single_state, lr=0.01, **options)
        assert half["w"].dtype == np.float16
        np.testing.assert_allclose(half["w"], single["w"], rtol=1e-3 * 10)
        single = {"w": half["w"].astype(np.float32)}  # so that the roundings do not add up
        assert flatten(half_state).keys() == flatten(single_state).keys()
        for key, leaf in flatten(half_state).items():
            assert isinstance(leaf, int) or leaf.dtype == np.float32
            assert np.array_equal(leaf, flatten(single_state)[key])


@pytest.mark.parametrize("name", NAMES)
def test_an_integer_parameter_says_what_to_do(name):
    init, step = pair(name)
    for params in ({"w": {"b": 0}}, {"w": {"b": np.zeros(2, np.int32)}}, {"w": {"b": np.zeros(2, bool)}}):
        grads = tree_map(lambda p: np.ones(np.shape(p)), params)
        with pytest.raises(ValueError, match=r"write 0\.0 for 0, or \.astype\(float\)"):
            step(params, grads, init(params), lr=0.1)


def test_the_norm_of_half_precision_by_hand():
    """A thousand tens: the squares sum to 100,000, which is more than float16 can hold; the norm is not."""
    clipped, norm = clip_grad_norm({"w": np.full(1000, 10, np.float16)}, max_norm=1.0)
    assert norm == pytest.approx(math.sqrt(1e5), rel=1e-6)
    assert np.float16(norm) == np.float16(316.25)
    assert clipped["w"].dtype == np.float16
    np.testing.assert_allclose(clipped["w"], 0.0316, atol=5e-5)
    theirs, twin = torch_clipped({"w": np.full(1000, 10.0)}, lambda p: torch.nn.utils.clip_grad_norm_(p, 1.0))
    np.testing.assert_allclose(clipped["w"], theirs["w"], rtol=1e-3)
    assert norm == pytest.approx(twin.item(), rel=1e-6)


RANGES = {np.float16: (-7, 4), np.float32: (-44, 38), np.float64: (-320, 307)}
"""Powers of ten that a dtype can hold, the smallest of them without full precision."""


@given(
    dtype=st.sampled_from(list(RANGES)),
    place=st.floats(0, 1),
    spread=st.floats(0, 1),
    norm_type=st.sampled_from([0.5, 1.0, 2.0, 3.0, 7.5, INF]),
    max_norm=st.sampled_from([0.0, 1e-3, 1.0, 1e5, INF]),
    seed=st.integers(0, 99),
)
@settings(max_examples=300, deadline=None)
@example(dtype=np.float32, place=0.9, spread=0.0, norm_type=2.0, max_norm=1.0, seed=0)
@example(dtype=np.float32, place=0.1, spread=0.0, norm_type=2.0, max_norm=0.0, seed=0)
def test_a_norm_is_found_wherever_it_can_be_held(dtype, place, spread, norm_type, max_norm, seed):
    """The norm of entries of any size, against the same sum in extended precision after scaling by the largest."""
    low, high = RANGES[dtype]
    rng = np.random.default_rng(seed)
    top = low + place * (high - low)
    powers = np.maximum(top - spread * rng.uniform(0, 30, size=(2, 5)), low)
    arrays = [(rng.choice([-1, 1], size=5) * 10.0**p).astype(dtype) for p in powers]
    entries = np.abs(np.concatenate(arrays).astype(np.longdouble))
    largest = entries.max()
    scaled = entries / largest if largest else entries
    expected = largest * (1 if norm_type == INF else (scaled**norm_type).sum() ** (1 / np.longdouble(norm_type)))
    clipped, norm = clip_grad_norm(dict(zip("ab", arrays, strict=True)), max_norm=max_norm, norm_type=norm_type)
    assert norm == pytest.approx(float(expected), rel=1e-12 if dtype is np.float64 else 1e-5, abs=1e-300)
    factor = min(1, max_norm / (expected + 1e-6))
    for ours, array in zip(clipped.values(), arrays, strict=True):
        assert ours.dtype == dtype
        tiny = float(np.finfo(dtype).smallest_subnormal)
        tolerance = {np.float16: 2e-3, np.float32: 1e-5, np.float64: 1e-12}[dtype]
        np.testing.assert_allclose(
            ours.astype(np.longdouble), array.astype(np.longdouble) * factor, rtol=tolerance, atol=2 * tiny
        )


@pytest.mark.parametrize("bad", [INF, -INF, NAN])
@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, INF])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_norms_that_are_not_finite_are_those_of_torch(bad, norm_type, dtype):
    """Infinite: finite entries become 0, infinite ones nan. A nan anywhere: nan everywhere."""
    grads = {"a": np.array([1.0, bad], dtype), "b": np.array([-2.0], dtype), "c": np.array([bad, NAN], dtype)}
    for chosen in ("ab", "abc"):
        some = {key: grads[key] for key in chosen}
        ours, norm = clip_grad_norm(some, max_norm=1.0, norm_type=norm_type)
        wide = tree_map(lambda g: g.astype(np.float64), some)
        theirs, twin = torch_clipped(wide, lambda p: torch.nn.utils.clip_grad_norm_(p, 1.0, norm_type))
        assert np.array_equal(norm, twin.item(), equal_nan=True)
        for key in some:
            assert np.array_equal(ours[key], theirs[key], equal_nan=True)


def test_measuring_only_leaves_infinite_gradients_as_they_are():
    """PyTorch divides infinity by infinity here and makes all of them nan."""
    grads = {"a": np.array([1.0, INF])}
    ours, norm = clip_grad_norm(grads, max_norm=INF)
    assert norm == INF
    assert np.array_equal(ours["a"], grads["a"])
    theirs, _ = torch_clipped(grads, lambda p: torch.nn.utils.clip_grad_norm_(p, INF))
    assert np.isnan(theirs["a"]).all()


def test_a_value_beyond_the_dtype_cuts_nothing_off():
    for dtype in (np.float16, np.float32):
        g = np.array([1.0, INF, -INF, NAN], dtype)
        cut = clip_grad_value({"g": g}, clip_value=1e300)["g"]
        assert cut.dtype == dtype
        assert np.array_equal(cut, g, equal_nan=True)
        assert not np.shares_memory(cut, g)
