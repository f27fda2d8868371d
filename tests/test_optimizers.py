"""The optimizers against torch.optim, step for step, and against their own equations."""

import functools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nnbook.backprop import flatten, tree_map, unflatten
from nnbook.optimizers import adam, adam_init, adamw, adamw_init, one_cycle, sgd, sgd_init

OPTIMIZERS = {
    "sgd": (sgd_init, sgd, torch.optim.SGD),
    "adam": (adam_init, adam, torch.optim.Adam),
    "adamw": (adamw_init, adamw, torch.optim.AdamW),
}
RATES = st.floats(1e-4, 0.1)

sgd_options = st.fixed_dictionaries(
    {
        "lr": RATES,
        "momentum": st.sampled_from([0.0, 0.5, 0.9]),
        "dampening": st.sampled_from([0.0, 0.3]),
        "weight_decay": st.sampled_from([0.0, 0.05]),
        "nesterov": st.booleans(),
        "maximize": st.booleans(),
    }
).filter(lambda o: not o["nesterov"] or (o["momentum"] > 0 and o["dampening"] == 0))

adam_options = st.fixed_dictionaries(
    {
        "lr": RATES,
        "betas": st.sampled_from([(0.9, 0.999), (0.5, 0.9), (0.0, 0.99), (0.9, 0.5), (0.0, 0.0)]),
        "eps": st.sampled_from([1e-8, 1e-3]),
        "weight_decay": st.sampled_from([0.0, 0.05]),
        "amsgrad": st.booleans(),
        "maximize": st.booleans(),
    }
)


def start(rng, dtype=np.float64):
    shapes = {"0": {"weight": (4, 3), "bias": (4,)}, "scale": ()}
    return tree_map(lambda shape: np.asarray(rng.normal(size=shape), dtype), shapes)


def compare(name, options, steps, dtype=np.float64, schedule=None):
    """The largest difference from torch.optim over all steps, relative to the largest parameter of that step.

    The gradient is that of a quadratic, evaluated by each side at its own parameters, plus noise.
    """
    init, step, torch_class = OPTIMIZERS[name]
    rng = np.random.default_rng(3)
    params = start(rng, dtype)
    twin = {key: torch.tensor(leaf, requires_grad=True) for key, leaf in flatten(params).items()}
    optimizer = torch_class(list(twin.values()), **options)
    state = init(params)
    worst = 0.0
    sign = -1.0 if options.get("maximize") else 1.0
    for i in range(steps):
        lr = schedule(i) if schedule else options["lr"]
        optimizer.param_groups[0]["lr"] = lr
        noise = {key: np.asarray(rng.normal(size=leaf.shape), dtype) for key, leaf in flatten(params).items()}
        grads = tree_map(lambda p, e: sign * p + e, params, unflatten(noise))
        for key, p in twin.items():
            p.grad = sign * p.detach() + torch.tensor(noise[key])
        params, state = step(params, grads, state, **{**options, "lr": lr})
        optimizer.step()
        pairs = [(leaf, twin[key].detach().numpy()) for key, leaf in flatten(params).items()]
        scale = max(np.abs(b).max() for _, b in pairs)
        worst = max(worst, max(np.abs(a - b).max() for a, b in pairs) / scale)
    return worst


@given(sgd_options)
@settings(max_examples=20, deadline=None)
@example({"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.05, "nesterov": True, "maximize": False})
@example({"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.05, "nesterov": False, "maximize": True})
def test_sgd_is_torch_step_for_step(options):
    assert compare("sgd", options, 200) < 1e-12


@given(st.sampled_from(["adam", "adamw"]), adam_options)
@settings(max_examples=25, deadline=None)
def test_adam_and_adamw_are_torch_step_for_step(name, options):
    assert compare(name, options, 200) < 1e-12


@pytest.mark.parametrize(("name", "decay"), [("sgd", 0.0), ("adam", 0.0), ("adamw", 0.01)])
def test_defaults_are_those_of_torch(name, decay):
    assert compare(name, {"lr": 0.01}, 50) < 1e-12
    assert OPTIMIZERS[name][2]([torch.zeros(1)]).defaults["weight_decay"] == decay


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_schedule_changes_the_step_as_in_torch(name):
    schedule = functools.partial(one_cycle, max_lr=0.05, total_steps=200)
    options = {"lr": 0.05, "momentum": 0.9} if name == "sgd" else {"lr": 0.05}
    assert compare(name, options, 200, schedule=schedule) < 1e-12


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_float32_stays_float32_and_close_to_torch(name):
    init, step, _ = OPTIMIZERS[name]
    rng = np.random.default_rng(0)
    params = start(rng, np.float32)
    state = init(params)
    for _ in range(2):  # a NumPy float64 as learning rate must not promote
        params, state = step(params, params, state, lr=np.float64(0.1), weight_decay=np.float64(0.01))
    assert {leaf.dtype for leaf in flatten(params).values()} == {np.dtype(np.float32)}
    assert {leaf.dtype for leaf in flatten(state).values() if np.ndim(leaf)} <= {np.dtype(np.float32)}
    assert compare(name, {"lr": 0.01}, 100, np.float32) < 1e-5


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "maximize": True}])
def test_sgd_changes_none_of_its_inputs(options):
    unchanged_inputs(sgd_init, functools.partial(sgd, lr=0.1, weight_decay=0.1, **options))


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_changes_none_of_its_inputs(name, amsgrad):
    init, step, _ = OPTIMIZERS[name]
    unchanged_inputs(init, functools.partial(step, lr=0.1, weight_decay=0.1, amsgrad=amsgrad))


def unchanged_inputs(init, step):
    """Read-only inputs are accepted, and nothing that comes out shares memory with what went in."""
    params = start(np.random.default_rng(0))
    grads = start(np.random.default_rng(1))
    state = init(params)
    for _ in range(2):
        inputs = [*flatten(params).values(), *flatten(grads).values()]
        inputs += [leaf for leaf in flatten(state).values() if isinstance(leaf, np.ndarray)]
        for leaf in inputs:
            leaf.flags.writeable = False
        before = set(state)
        new_params, new_state = step(params, grads, state)
        assert set(state) == before
        outputs = [*flatten(new_params).values(), *flatten(new_state).values()]
        outputs = [leaf for leaf in outputs if isinstance(leaf, np.ndarray)]
        assert all(leaf.flags.writeable for leaf in outputs)
        assert not any(np.shares_memory(a, b) for a in inputs for b in outputs)
        params, state = new_params, new_state


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_single_array_is_a_tree_too(name):
    init, step, _ = OPTIMIZERS[name]
    p = np.array([1.0, -2.0])
    in_a_dict, _ = step({"w": p}, {"w": 2 * p}, init({"w": p}), lr=0.1)
    alone, _ = step(p, 2 * p, init(p), lr=0.1)
    assert np.array_equal(alone, in_a_dict["w"])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,)])
def test_shapes_are_kept(name, shape):
    init, step, _ = OPTIMIZERS[name]
    p = np.ones(shape, np.float32)
    new, _ = step(p, p, init(p), lr=0.1)
    assert new.shape == shape


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_layout_does_not_matter(name):
    init, step, _ = OPTIMIZERS[name]
    p = np.random.default_rng(0).normal(size=(6, 4))
    g = np.random.default_rng(1).normal(size=(6, 4))
    expected, _ = step(p, g, init(p), lr=0.1)
    fortran, _ = step(p, np.asfortranarray(g), init(p), lr=0.1)
    assert np.array_equal(fortran, expected)


@pytest.mark.parametrize(("name", "options"), [("sgd", {}), ("sgd", {"momentum": 0.9}), ("adam", {"amsgrad": True})])
def test_a_leaf_without_gradient_stays(name, options):
    init, step, _ = OPTIMIZERS[name]
    params = {"index": np.array([3, 1]), "w": np.ones(2)}
    state = init(params)
    for _ in range(2):
        params, state = step(params, {"index": None, "w": np.ones(2)}, state, lr=0.1, **options)
    assert np.array_equal(params["index"], [3, 1])
    assert params["index"].dtype == np.array([3, 1]).dtype
    assert (params["w"] < 1).all()


def test_first_adam_step_by_hand():
    """From 1 with gradient 4: m = 0.4 and v = 0.016 are corrected to 4 and 16, so the step is lr * 4 / 4 = lr."""
    params, state = adam(np.array([1.0]), np.array([4.0]), adam_init(np.array([1.0])), lr=0.1, eps=0.0)
    assert params == pytest.approx(0.9)
    assert state["exp_avg"] == pytest.approx(0.4)
    assert state["exp_avg_sq"] == pytest.approx(0.016)
    assert state["step"] == 1


def test_two_momentum_steps_by_hand():
    """Gradient 1 twice: velocity 1, then 0.9 * 1 + 1 = 1.9; from 0 with lr 0.1 to -0.1 and -0.29."""
    p, state = sgd(np.array([0.0]), np.array([1.0]), sgd_init(0), lr=0.1, momentum=0.9)
    assert p == pytest.approx(-0.1)
    p, state = sgd(p, np.array([1.0]), state, lr=0.1, momentum=0.9)
    assert p == pytest.approx(-0.29)
    assert state["momentum_buffer"] == pytest.approx(1.9)


def test_adamw_is_not_adam_with_l2():
    """Without a gradient AdamW shrinks a weight by lr * decay, Adam with L2 moves it by a whole lr."""
    p, zero = np.array([0.5]), np.array([0.0])
    decayed, _ = adamw(p, zero, adamw_init(p), lr=0.1, weight_decay=0.01)
    penalized, _ = adam(p, zero, adam_init(p), lr=0.1, weight_decay=0.01)
    assert decayed == pytest.approx(0.5 * (1 - 0.1 * 0.01))
    assert penalized == pytest.approx(0.5 - 0.1, rel=1e-5)


NAN = float("nan")


@pytest.mark.parametrize(
    ("step", "options", "message"),
    [
        (sgd, {"lr": -1}, "lr must be >= 0, not -1"),
        (sgd, {"lr": NAN}, "lr must be >= 0, not nan"),
        (sgd, {"lr": 1, "momentum": -0.1}, "momentum must be >= 0, not -0.1"),
        (sgd, {"lr": 1, "weight_decay": -0.1}, "weight_decay must be >= 0"),
        (sgd, {"lr": 1, "nesterov": True}, "nesterov needs momentum > 0 and dampening 0, not 0.0 and 0.0"),
        (sgd, {"lr": 1, "nesterov": True, "momentum": 0.9, "dampening": 0.1}, "nesterov"),
        (adam, {"lr": -1}, "lr must be >= 0"),
        (adam, {"lr": 1, "eps": -1e-8}, "eps must be >= 0"),
        (adam, {"lr": 1, "betas": (1.0, 0.9)}, r"betas must both be in \[0, 1\), not \(1.0, 0.9\)"),
        (adam, {"lr": 1, "betas": (0.9, -0.1)}, "betas"),
        (adamw, {"lr": 1, "weight_decay": NAN}, "weight_decay must be >= 0, not nan"),
    ],
)
def test_options_outside_their_range_are_named(step, options, message):
    p = np.ones(2)
    state = sgd_init(p) if step is sgd else adam_init(p)
    with pytest.raises(ValueError, match=message):
        step(p, p, state, **options)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_gradient_of_another_shape_is_refused(name):
    init, step, _ = OPTIMIZERS[name]
    p = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"\(3,\), the parameter \(2, 3\)"):
        step({"w": p}, {"w": np.ones(3)}, init({"w": p}), lr=0.1)


def torch_one_cycle(max_lr, total_steps, **options):
    """The rates that OneCycleLR sets, step by step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr, total_steps=total_steps, cycle_momentum=False, **options
    )
    rates = schedule.get_last_lr()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch wants the optimizer to step before its schedule
        for _ in range(1, total_steps):
            schedule.step()
            rates += schedule.get_last_lr()
    return rates


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


def test_a_rise_of_length_zero_starts_at_the_peak():
    assert one_cycle(0, max_lr=2.0, total_steps=10, pct_start=0.1) == 2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"total_steps": 0}, "total_steps must be >= 1, not 0"),
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


def test_adam_does_not_depend_on_the_scale_of_the_gradient():
    p = np.array([1.0, 2.0])
    small, _ = adam(p, np.array([1e-3, 2e-3]), adam_init(p), lr=0.1, eps=0.0)
    large, _ = adam(p, np.array([1e3, 2e3]), adam_init(p), lr=0.1, eps=0.0)
    assert np.allclose(small, large, rtol=1e-12, atol=0)
    assert math.isclose(small[0], 0.9)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_integers_cannot_follow_a_gradient(name):
    init, step, _ = OPTIMIZERS[name]
    params = {"w": np.array([1, 2])}
    with pytest.raises(ValueError, match="a parameter has dtype int64"):
        step(params, {"w": np.array([0.5, 0.5])}, init(params), lr=0.1)
    assert step(params, {"w": None}, init(params), lr=0.1)[0]["w"].dtype == np.int64


def test_the_first_real_gradient_fills_the_momentum_buffer():
    params, twin = {"w": np.ones(2)}, torch.ones(2, dtype=torch.float64, requires_grad=True)
    state, optimizer = sgd_init(params), torch.optim.SGD([twin], lr=0.1, momentum=0.9, dampening=0.5)
    for g in (None, np.array([1.0, 2.0]), np.array([3.0, 1.0])):
        params, state = sgd(params, {"w": g}, state, lr=0.1, momentum=0.9, dampening=0.5)
        twin.grad = None if g is None else torch.tensor(g)
        optimizer.step()
        np.testing.assert_allclose(params["w"], twin.detach().numpy(), rtol=1e-15)


def test_a_foreign_state_and_a_broken_step_are_named():
    with pytest.raises(ValueError, match="must come from adam_init"):
        adam({"w": np.ones(2)}, {"w": np.ones(2)}, {}, lr=0.1)
    with pytest.raises(ValueError, match=r"whole number, not 9\.5"):
        one_cycle(9.5, max_lr=1.0, total_steps=10)
