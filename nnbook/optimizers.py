"""Optimizers: from a gradient to the next parameters (chapter 4).

An optimizer is two pure functions. ``adam_init(params)`` makes the state, a dict that holds what the method remembers;
``adam(params, grads, state, lr=...)`` returns the next parameters and the next state and changes none of its inputs::

    state = adam_init(params)
    for x, y in batches:
        value, grads = value_and_grad(loss)(params, x, y)
        params, state = adam(params, grads, state, lr=1e-3)

``params`` and ``grads`` are arrays or nested dicts of arrays of equal structure, and so is every entry of a state. A
leaf whose gradient is ``None`` (an integer array, say, or a frozen layer) stays as it is, with all that the state holds
on it. For parameters in float16 the state is kept, and the step computed, in float32: the square of a gradient of 1e-4
is 0 in float16. PyTorch keeps such a state in float16. Names of options, defaults and numbers are those of
``torch.optim``, step for step.

A schedule is a pure function of the step, which counts from 0. Fix its options, and it is what ``fit(lr=...)`` takes::

    rate = functools.partial(cosine_annealing_lr, lr=0.1, T_max=1000)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from nnbook._arrays import HALF, SINGLE, Array, Parameters, Tree, checked, numeric, to_dtype
from nnbook.backprop import tree_map, value_and_grad

State = dict[str, Any]
Optimizer = tuple[Callable[..., State], Callable[..., tuple[Tree, State]]]


# ---------------------------------------------------------------------------------------------------------------------
# Stochastic gradient descent
# ---------------------------------------------------------------------------------------------------------------------


@checked
def sgd_init(params: Parameters) -> State:
    """Nothing to remember yet: with momentum, the first step adds ``momentum_buffer``."""
    return {}


@checked
def sgd(
    params: Parameters,
    grads: Parameters,
    state: State,
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
) -> tuple[Tree, State]:
    """One step of stochastic gradient descent with momentum (:eq:`eq-sgd`).

    With gradient ``g`` and parameter ``p``, leaf by leaf::

        g = -g                                if maximize
        g = g + weight_decay * p
        b = g                                 at the leaf's first step with momentum
        b = momentum * b + (1 - dampening) * g        afterwards
        g = g + momentum * b                  if nesterov, else g = b
        p = p - lr * g

    Args:
        params: the parameters.
        grads: their gradients, of the same structure and shapes.
        state: from :func:`sgd_init` or from the step before.
        lr: learning rate, >= 0.
        momentum: how much of the velocity ``b`` survives a step, >= 0; 0 is plain gradient descent.
        dampening: what part of the new gradient the velocity leaves out.
        weight_decay: strength of the L2 penalty, >= 0, added to the gradient.
        nesterov: look ahead along the velocity; needs momentum > 0 and no dampening.
        maximize: climb instead of descend.

    Returns:
        ``(params, state)``, new; each parameter keeps its dtype. State: ``momentum_buffer``, once there is momentum.

    Raises:
        ValueError: an option outside its range, a gradient of another shape than its parameter, or one for a
            parameter that is no float.

    PyTorch: ``torch.optim.SGD``. The velocity contains no learning rate, unlike the classical form
    ``v = momentum * v - lr * g``; the two agree only while ``lr`` stays the same. Source: :cite:`sutskever2013`.
    """
    _at_least_zero(lr=lr, momentum=momentum, weight_decay=weight_decay)
    if not math.isfinite(dampening):
        raise ValueError(f"dampening must be finite, not {dampening}")
    if nesterov and (momentum == 0 or dampening != 0):
        raise ValueError(f"nesterov needs momentum > 0 and dampening 0, not {momentum} and {dampening}")
    gain = 1 - dampening

    def leaf(p, g, b):
        g = _penalized(p, g, weight_decay, maximize)
        if momentum:
            b = g.copy() if b is None else momentum * b + gain * g
            g = g + momentum * b if nesterov else b
        step = lr * g
        return np.subtract(p, step, out=step), b

    return _update(leaf, params, grads, state, {"momentum_buffer": momentum > 0})


# ---------------------------------------------------------------------------------------------------------------------
# Steps that adapt to each parameter: AdaGrad, RMSProp, Adadelta
# ---------------------------------------------------------------------------------------------------------------------


@checked
def adagrad_init(params: Parameters, *, initial_accumulator_value: float = 0.0) -> State:
    """Step counters 0 (``step``) and sums of squares (``sum``) that begin at ``initial_accumulator_value``, >= 0."""
    _at_least_zero(initial_accumulator_value=initial_accumulator_value)
    return {"step": _zero_steps(params), "sum": _full(params, initial_accumulator_value)}


@checked
def adagrad(
    params: Parameters,
    grads: Parameters,
    state: State,
    *,
    lr: float,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    eps: float = 1e-10,
    maximize: bool = False,
) -> tuple[Tree, State]:
    """One step of AdaGrad: the more a parameter has been pulled so far, the less it moves (:eq:`eq-adagrad`).

    With gradient ``g``, parameter ``p`` and step number ``t = 1, 2, ...``, leaf by leaf::

        g = -g                                if maximize
        g = g + weight_decay * p
        s = s + g^2
        p = p - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(s) + eps)

    Args:
        params: the parameters.
        grads: their gradients, of the same structure and shapes.
        state: from :func:`adagrad_init` or from the step before.
        lr: learning rate, >= 0. PyTorch's default is 1e-2; here it is always stated.
        lr_decay: how fast the learning rate falls on top of that, >= 0.
        weight_decay: strength of the L2 penalty, >= 0, added to the gradient.
        eps: added to the root, outside of it, >= 0.
        maximize: climb instead of descend.

    Returns:
        ``(params, state)``, new; each parameter keeps its dtype. State: ``step`` (ints) and ``sum`` (s).

    Raises:
        ValueError: an option outside its range, a state of another optimizer, a gradient of another shape than its
            parameter, or one for a parameter that is no float.

    PyTorch: ``torch.optim.Adagrad``; its ``initial_accumulator_value`` is an option of :func:`adagrad_init`. Source:
    :cite:`duchi2011`.
    """
    _at_least_zero(lr=lr, lr_decay=lr_decay, weight_decay=weight_decay, eps=eps)
    _made_by("adagrad_init", state, "step", "sum")

    def leaf(p, g, t, s):
        g = _penalized(p, g, weight_decay, maximize)
        t += 1
        s = s + g * g
        step = np.sqrt(s)
        step += eps
        np.divide(g, step, out=step)
        step *= lr / (1 + (t - 1) * lr_decay)
        return np.subtract(p, step, out=step), t, s

    return _update(leaf, params, grads, state, {"step": True, "sum": True})


@checked
def rmsprop_init(params: Parameters) -> State:
    """Zeros for ``square_avg``. The first step adds ``grad_avg`` if centered and ``momentum_buffer`` with momentum."""
    return {"square_avg": _full(params)}


@checked
def rmsprop(
    params: Parameters,
    grads: Parameters,
    state: State,
    *,
    lr: float,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
    maximize: bool = False,
) -> tuple[Tree, State]:
    """One step of RMSProp: the gradient divided by its recent root mean square (:eq:`eq-rmsprop`).

    With gradient ``g`` and parameter ``p``, leaf by leaf; ``v``, ``a`` and ``b`` start at 0::

        g = -g                                if maximize
        g = g + weight_decay * p
        v = alpha * v + (1 - alpha) * g^2
        a = alpha * a + (1 - alpha) * g       if centered, else a = 0
        d = g / (sqrt(v - a^2) + eps)
        b = momentum * b + d
        p = p - lr * b

    Args:
        params: the parameters.
        grads: their gradients, of the same structure and shapes.
        state: from :func:`rmsprop_init` or from the step before.
        lr: learning rate, >= 0. PyTorch's default is 1e-2; here it is always stated.
        alpha: decay of the two averages, in [0, 1).
        eps: added to the root, outside of it, >= 0.
        weight_decay: strength of the L2 penalty, >= 0, added to the gradient.
        momentum: how much of the velocity ``b`` survives a step, >= 0.
        centered: divide by the standard deviation, that is, subtract the squared mean gradient.
        maximize: climb instead of descend.

    Returns:
        ``(params, state)``, new; each parameter keeps its dtype. State: ``square_avg`` (v), ``grad_avg`` (a) if
        centered and ``momentum_buffer`` (b) with momentum.

    Raises:
        ValueError: an option outside its range, a state of another optimizer, a gradient of another shape than its
            parameter, or one for a parameter that is no float.

    PyTorch: ``torch.optim.RMSprop``, which lets alpha be 1 or more, and which takes the root of a negative number, nan,
    where rounding has made ``v - a^2`` negative; here it is 0 then. Sources: :cite:`tieleman2012`, for the centered
    form :cite:`graves2013`, whose eps stands inside the root.
    """
    _at_least_zero(lr=lr)
    _below_one(alpha=alpha)
    _at_least_zero(eps=eps, weight_decay=weight_decay, momentum=momentum)
    _made_by("rmsprop_init", state, "square_avg")

    def leaf(p, g, v, a, b):
        g = _penalized(p, g, weight_decay, maximize)
        v = _average(alpha, v, g * g)
        a = _average(alpha, a, g) if centered else None
        d = np.sqrt(np.maximum(v - a * a, 0) if centered else v)
        d += eps
        np.divide(g, d, out=d)
        b = d if b is None else momentum * b + d
        step = lr * b
        return np.subtract(p, step, out=step), v, a, b

    memory = {"square_avg": True, "grad_avg": centered, "momentum_buffer": momentum > 0}
    return _update(leaf, params, grads, state, memory)


@checked
def adadelta_init(params: Parameters) -> State:
    """Zeros for the mean squares of the gradients, ``square_avg``, and of the steps, ``acc_delta``."""
    return {"square_avg": _full(params), "acc_delta": _full(params)}


@checked
def adadelta(
    params: Parameters,
    grads: Parameters,
    state: State,
    *,
    lr: float,
    rho: float = 0.9,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> tuple[Tree, State]:
    """One step of Adadelta: steps that have the units of the parameters, because past steps set their size
    (:eq:`eq-adadelta`).

    With gradient ``g`` and parameter ``p``, leaf by leaf; ``v`` and ``u`` start at 0::

        g = -g                                if maximize
        g = g + weight_decay * p
        v = rho * v + (1 - rho) * g^2
        d = sqrt(u + eps) / sqrt(v + eps) * g
        u = rho * u + (1 - rho) * d^2
        p = p - lr * d

    Args:
        params: the parameters.
        grads: their gradients, of the same structure and shapes.
        state: from :func:`adadelta_init` or from the step before.
        lr: learning rate, >= 0. PyTorch's default is 1, which is the paper's method; here it is always stated.
        rho: decay of the two averages, in [0, 1).
        eps: added under both roots, >= 0. It sets the size of the first step: with 0 nothing ever moves.
        weight_decay: strength of the L2 penalty, >= 0, added to the gradient.
        maximize: climb instead of descend.

    Returns:
        ``(params, state)``, new; each parameter keeps its dtype. State: ``square_avg`` (v) and ``acc_delta`` (u).

    Raises:
        ValueError: an option outside its range, a state of another optimizer, a gradient of another shape than its
            parameter, or one for a parameter that is no float.

    PyTorch: ``torch.optim.Adadelta``, which lets rho be 1. Source: :cite:`zeiler2012`.
    """
    _at_least_zero(lr=lr)
    _below_one(rho=rho)
    _at_least_zero(eps=eps, weight_decay=weight_decay)
    _made_by("adadelta_init", state, "square_avg", "acc_delta")

    def leaf(p, g, v, u):
        g = _penalized(p, g, weight_decay, maximize)
        v = _average(rho, v, g * g)
        root = v + eps
        np.sqrt(root, out=root)
        d = u + eps
        np.sqrt(d, out=d)
        d /= root
        d *= g
        u = _average(rho, u, np.multiply(d, d, out=root))
        d *= lr
        return np.subtract(p, d, out=d), v, u

    return _update(leaf, params, grads, state, {"square_avg": True, "acc_delta": True})


# ---------------------------------------------------------------------------------------------------------------------
# Adam and AdamW
# ---------------------------------------------------------------------------------------------------------------------


@checked
def adam_init(params: Parameters) -> State:
    """Step counters 0 (``step``) and zero moments ``exp_avg`` and ``exp_avg_sq``, of the shapes of ``params``."""
    return {"step": _zero_steps(params), "exp_avg": _full(params), "exp_avg_sq": _full(params)}


@checked
def adam(
    params: Parameters,
    grads: Parameters,
    state: State,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    maximize: bool = False,
) -> tuple[Tree, State]:
    """One step of Adam: steps of size about ``lr``, whatever the scale of the gradient (:eq:`eq-adam`).

    With gradient ``g``, parameter ``p`` and step number ``t = 1, 2, ...``, leaf by leaf::

        g = -g                                if maximize
        g = g + weight_decay * p
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g^2
        w = max(w, v)                         if amsgrad, else w = v
        p = p - lr * (m / (1 - beta1^t)) / (sqrt(w / (1 - beta2^t)) + eps)

    Args:
        params: the parameters.
        grads: their gradients, of the same structure and shapes.
        state: from :func:`adam_init` or from the step before.
        lr: learning rate, >= 0. PyTorch's default is 1e-3; here it is always stated.
        betas: decay of the first and of the second moment, each in [0, 1).
        eps: added to the root, outside of it, >= 0.
        weight_decay: strength of the L2 penalty, >= 0. It passes through the moments; :func:`adamw` decays the weights
            themselves.
        amsgrad: divide by the largest second moment so far, which repairs a case where Adam does not converge.
        maximize: climb instead of descend.

    Returns:
        ``(params, state)``, new; each parameter keeps its dtype. State: ``step`` (ints, one a leaf, because the bias of
        a leaf's moments depends on how many gradients it has seen), ``exp_avg`` (m), ``exp_avg_sq`` (v) and, with
        amsgrad, ``max_exp_avg_sq`` (w).

    Raises:
        ValueError: an option outside its range, a state of another optimizer, a gradient of another shape than its
            parameter, or one for a parameter that is no float.

    PyTorch: ``torch.optim.Adam``. Sources: :cite:`kingma2015`, for amsgrad :cite:`reddi2018`, whose moments are not
    corrected for their bias.
    """
    return _adam(params, grads, state, lr, betas, eps, weight_decay, amsgrad, maximize, decoupled=False)


@checked
def adamw_init(params: Parameters) -> State:
    """The same as :func:`adam_init`."""
    return adam_init(params)


@checked
def adamw(
    params: Parameters,
    grads: Parameters,
    state: State,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
    maximize: bool = False,
) -> tuple[Tree, State]:
    """One step of AdamW: Adam that decays the weights directly, at a rate that no gradient's scale changes
    (:eq:`eq-adamw`).

    As :func:`adam`, but the line ``g = g + weight_decay * p`` gives way to::

        p = p - lr * weight_decay * p         before the step, not seen by the moments

    Arguments, result and errors are those of :func:`adam`; the default of ``weight_decay`` is 0.01.

    PyTorch: ``torch.optim.AdamW``, which also multiplies the decay by ``lr``; the paper keeps the two apart. Source:
    :cite:`loshchilov2019`.
    """
    return _adam(params, grads, state, lr, betas, eps, weight_decay, amsgrad, maximize, decoupled=True)


def _adam(params, grads, state, lr, betas, eps, weight_decay, amsgrad, maximize, *, decoupled):
    _at_least_zero(lr=lr)
    beta1, beta2 = _both_below_one("betas", betas)
    _at_least_zero(eps=eps, weight_decay=weight_decay)
    _made_by("adam_init", state, "step", "exp_avg", "exp_avg_sq")
    penalty, shrink = (0.0, 1 - lr * weight_decay) if decoupled else (weight_decay, 1.0)

    # The lines of the docstring, with += and *= on fresh arrays: they save half of the time by saving memory traffic.
    def leaf(p, g, t, m, v, w):
        g = _penalized(p, g, penalty, maximize)
        t += 1
        m = beta1 * m
        m += (1 - beta1) * g
        g2 = g * g
        g2 *= 1 - beta2
        v = beta2 * v
        v += g2
        if amsgrad:  # second moments are >= 0: a maximum that starts from 0 is the maximum of what was seen
            w = v.copy() if w is None else np.maximum(w, v)
        step = np.sqrt(w if amsgrad else v, out=g2)
        step /= math.sqrt(1 - beta2**t)
        step += eps
        np.divide(m, step, out=step)
        step *= lr / (1 - beta1**t)
        p = shrink * p if shrink != 1 else p
        return np.subtract(p, step, out=step), t, m, v, w

    memory = {"step": True, "exp_avg": True, "exp_avg_sq": True, "max_exp_avg_sq": amsgrad}
    return _update(leaf, params, grads, state, memory)


# ---------------------------------------------------------------------------------------------------------------------
# Lion
# ---------------------------------------------------------------------------------------------------------------------


@checked
def lion_init(params: Parameters) -> State:
    """Zeros for the moving average of the gradients, ``exp_avg``."""
    return {"exp_avg": _full(params)}


@checked
def lion(
    params: Parameters,
    grads: Parameters,
    state: State,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> tuple[Tree, State]:
    """One step of Lion: every parameter moves by exactly ``lr``, only the direction is asked for (:eq:`eq-lion`).

    With gradient ``g`` and parameter ``p``, leaf by leaf; ``m`` starts at 0::

        g = -g                                if maximize
        c = beta1 * m + (1 - beta1) * g
        p = p - lr * (sign(c) + weight_decay * p)
        m = beta2 * m + (1 - beta2) * g

    Args:
        params: the parameters.
        grads: their gradients, of the same structure and shapes.
        state: from :func:`lion_init` or from the step before.
        lr: learning rate, >= 0.
        betas: weight of the past in the direction of this step, and in what is remembered, each in [0, 1).
        weight_decay: how fast the weights decay, >= 0, decoupled from the gradient as in :func:`adamw`.
        maximize: climb instead of descend.

    Returns:
        ``(params, state)``, new; each parameter keeps its dtype. State: ``exp_avg`` (m). Where ``c`` is 0, the sign is
        0, and nothing but the decay moves the parameter.

    Raises:
        ValueError: an option outside its range, a state of another optimizer, a gradient of another shape than its
            parameter, or one for a parameter that is no float.

    PyTorch has no counterpart. Source: :cite:`chen2023lion`, algorithm 2.
    """
    _at_least_zero(lr=lr)
    beta1, beta2 = _both_below_one("betas", betas)
    _at_least_zero(weight_decay=weight_decay)
    _made_by("lion_init", state, "exp_avg")

    def leaf(p, g, m):
        g = -g if maximize else g
        step = np.sign(_average(beta1, m, g))  # into a new array: in place, NumPy takes ten times as long
        if weight_decay:
            step += weight_decay * p
        step *= lr
        return np.subtract(p, step, out=step), _average(beta2, m, g)

    return _update(leaf, params, grads, state, {"exp_avg": True})


# ---------------------------------------------------------------------------------------------------------------------
# Parameter groups
# ---------------------------------------------------------------------------------------------------------------------


@checked
def param_groups(optimizer: Optimizer, *groups: tuple[Callable[[str, Array], bool], dict[str, Any]]) -> Optimizer:
    """The same optimizer, with options that differ from parameter to parameter: no decay of biases, say.

    ::

        optimizer = param_groups((adamw_init, adamw), (bias_or_scale, {"weight_decay": 0.0}))
        result = fit(params, loss, data, optimizer=optimizer, lr=1e-3, weight_decay=0.1, ...)

    Args:
        optimizer: ``(init, step)``.
        *groups: pairs ``(belongs, options)``. ``belongs(name, p)`` says whether the parameter ``p`` belongs to the
            group; ``name`` is its key in the ``state_dict``, such as ``"0.bias"`` (the empty string if the parameters
            are one array). A parameter takes the options of the first group that it belongs to, and those of the call
            for the rest. Among them, ``lr`` replaces the learning rate of the call, and ``lr_scale``, >= 0, multiplies
            it, so that a schedule goes through all groups.

    Returns:
        ``(init, step)`` with the states of the optimizer alone.

    Raises:
        ValueError: in a step, an option of a group is outside its range.
        TypeError: in a step, the optimizer has no such option.

    PyTorch: the list of dicts that ``torch.optim``'s constructors take. There is no ``lr_scale`` in it, but each group
    has an ``lr`` of its own, from which the schedulers start.
    """
    init, step = optimizer

    def group_of(name, p):
        return next((i for i, (belongs, _) in enumerate(groups) if belongs(name, p)), len(groups))

    def grouped(params, grads, state, *, lr, **options):
        numbers = tree_map(group_of, _names(params), params)
        for i, own in enumerate([*(options for _, options in groups), {}]):
            own = {"lr": lr, **options, **own}
            own["lr"] = _scaled(own["lr"], lr_scale=own.pop("lr_scale", 1.0))
            in_this_group = tree_map(lambda g, number, i=i: g if number == i else None, grads, numbers)
            if in_this_group is not None:  # of parameters that are a single array
                params, state = step(params, in_this_group, state, **own)  # no gradient: all other leaves stay
        return params, state

    described = [(_name(belongs), options) for belongs, options in groups]
    grouped.__name__ = f"{_name(step)} with groups {described}"  # by which a checkpoint knows its own run
    return init, grouped


@checked
def _scaled(lr: float, *, lr_scale: float) -> float:
    """The rate times a factor, both as somebody else's options or function gave them."""
    _at_least_zero(lr=lr, lr_scale=lr_scale)
    return lr * lr_scale


@checked
def bias_or_scale(name: str, p) -> bool:
    """True for a parameter of fewer than two axes, a bias or the scale of a normalization; for :func:`param_groups`."""
    return np.ndim(p) < 2


def _names(tree, prefix=""):
    """The tree of the leaves' dotted names."""
    if not isinstance(tree, dict):
        return prefix
    return {key: _names(branch, f"{prefix}.{key}" if prefix else key) for key, branch in tree.items()}


def _name(function):
    return getattr(function, "__name__", type(function).__name__)


# ---------------------------------------------------------------------------------------------------------------------
# Learning-rate schedules
# ---------------------------------------------------------------------------------------------------------------------


@checked
def step_lr(step: int, *, lr: float, step_size: int, gamma: float = 0.1) -> float:
    """Learning rate that is multiplied by ``gamma`` after every ``step_size`` steps (:eq:`eq-step_lr`).

    ::

        lr * gamma^floor(step / step_size)

    Args:
        step: number of the step, from 0.
        lr: the rate at the start, >= 0.
        step_size: steps of equal rate, >= 1.
        gamma: the factor, >= 0.

    Returns:
        a Python float. Fix the options with ``functools.partial`` to get a function of the step alone.

    Raises:
        ValueError: an argument outside its range.

    PyTorch: ``torch.optim.lr_scheduler.StepLR``.
    """
    _at_least_zero(lr=lr, gamma=gamma)
    _at_least(0, step=step)
    _at_least(1, step_size=step_size)
    return float(lr * gamma ** (step // step_size))


@checked
def exponential_lr(step: int, *, lr: float, gamma: float) -> float:
    """Learning rate that is multiplied by ``gamma`` after every step (:eq:`eq-exponential_lr`).

    ::

        lr * gamma^step

    Args:
        step: number of the step, from 0.
        lr: the rate at the start, >= 0.
        gamma: the factor, >= 0; above 1 the rate grows, as :func:`lr_finder` needs it.

    Returns:
        a Python float.

    Raises:
        ValueError: an argument outside its range.

    PyTorch: ``torch.optim.lr_scheduler.ExponentialLR``.
    """
    _at_least_zero(lr=lr, gamma=gamma)
    _at_least(0, step=step)
    return float(lr * gamma**step)


@checked
def cosine_annealing_lr(step: int, *, lr: float, T_max: int, eta_min: float = 0.0) -> float:
    """Learning rate that falls from ``lr`` to ``eta_min`` along half a cosine (:eq:`eq-cosine_annealing_lr`).

    ::

        eta_min + (lr - eta_min) * (1 + cos(pi * step / T_max)) / 2

    Args:
        step: number of the step, from 0. Beyond ``T_max`` the rate rises again, back to ``lr`` at ``2 * T_max``.
        lr: the rate at the start, >= 0.
        T_max: the step that has the rate ``eta_min``, >= 1.
        eta_min: the rate at the end, >= 0.

    Returns:
        a Python float.

    Raises:
        ValueError: an argument outside its range.

    PyTorch: ``torch.optim.lr_scheduler.CosineAnnealingLR``, which gets from step to step by a recursion with the same
    values. Source: :cite:`loshchilov2017sgdr`, without its restarts.
    """
    _at_least_zero(lr=lr, eta_min=eta_min)
    _at_least(0, step=step)
    _at_least(1, T_max=T_max)
    return eta_min + (lr - eta_min) * (1 + math.cos(math.pi * step / T_max)) / 2


@checked
def linear_warmup(
    step: int, *, lr: float | Callable[[int], float], total_iters: int, start_factor: float = 1 / 3
) -> float:
    """Learning rate that rises along a line to where another schedule, or a constant, begins (:eq:`eq-linear_warmup`).

    ::

        (start_factor + (1 - start_factor) * step / total_iters) * lr(0)      if step < total_iters
        lr(step - total_iters)                                                afterwards

    Args:
        step: number of the step, from 0.
        lr: what follows the warm-up: a rate, >= 0, or a schedule, which begins then at its own step 0.
        total_iters: steps of the warm-up, >= 0.
        start_factor: the part of the full rate at step 0, in [0, 1].

    Returns:
        a Python float.

    Raises:
        ValueError: an argument outside its range.

    PyTorch: ``torch.optim.lr_scheduler.LinearLR``, whose ``start_factor`` must not be 0, and with a schedule
    ``SequentialLR([LinearLR(...), schedule], milestones=[total_iters])``. Source: :cite:`goyal2017`.
    """
    _at_least(0, step=step, total_iters=total_iters)
    if not 0 <= start_factor <= 1:
        raise ValueError(f"start_factor must be in [0, 1], not {start_factor}")
    rate = lr(max(step - total_iters, 0)) if callable(lr) else lr
    part = 1.0 if step >= total_iters else start_factor + (1 - start_factor) * step / total_iters
    return float(_scaled(rate, lr_scale=part))


@checked
def one_cycle(
    step: int,
    *,
    max_lr: float,
    total_steps: int,
    pct_start: float = 0.3,
    anneal_strategy: Literal["cos", "linear"] = "cos",
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
) -> float:
    """Learning rate of the one-cycle schedule: up to ``max_lr``, then down to almost nothing (:eq:`eq-one_cycle`).

    The rate starts at ``initial = max_lr / div_factor`` and ends at ``minimal = initial / final_div_factor``::

        two phases:    initial -> max_lr at step pct_start * total_steps - 1 -> minimal at the last step
        three phases:  initial -> max_lr at the same step -> initial at step 2 * pct_start * total_steps - 2 -> minimal

    Within a phase from ``a`` to ``b``, at the part ``s`` of its way: ``b + (a - b) * (1 + cos(pi * s)) / 2`` for
    ``"cos"``, ``a + (b - a) * s`` for ``"linear"``.

    Args:
        step: number of the step, 0 <= step < total_steps.
        max_lr: the peak, >= 0.
        total_steps: how many steps there will be (epochs times batches in an epoch), >= 1.
        pct_start: the part of the steps spent rising, in [0, 1].
        anneal_strategy: ``"cos"`` or ``"linear"``.
        div_factor, final_div_factor: see above, > 0.
        three_phase: fall back to the initial rate as slowly as it rose, and only then to the minimal one.

    Returns:
        a Python float. Fix the options with ``functools.partial`` to get a function of the step alone.

    Raises:
        ValueError: an argument outside its range.

    PyTorch: ``torch.optim.lr_scheduler.OneCycleLR`` with ``cycle_momentum=False``. A phase of length 0, where PyTorch
    divides by zero, is at its end here; and there is no rate for ``step = total_steps``. Source:
    :cite:`smith2017superconvergence`, with two straight lines of the same length and a last drop; a rise over 30 % of
    the steps and half cosines are the defaults of the libraries fastai and PyTorch.
    """
    _at_least(1, total_steps=total_steps)
    _at_least(0, step=step)
    if step >= total_steps:
        raise ValueError(f"step must be in [0, {total_steps}), not {step}")
    if not 0 <= pct_start <= 1:
        raise ValueError(f"pct_start must be in [0, 1], not {pct_start}")
    if not (div_factor > 0 and final_div_factor > 0):
        raise ValueError(f"div_factor and final_div_factor must be > 0, not {div_factor} and {final_div_factor}")
    _at_least_zero(max_lr=max_lr)
    initial = max_lr / div_factor
    minimal = initial / final_div_factor

    rise = pct_start * total_steps - 1
    phases = [(rise, initial, max_lr)]
    if three_phase:
        phases.append((2 * rise, max_lr, initial))
        phases.append((total_steps - 1, initial, minimal))
    else:
        phases.append((total_steps - 1, max_lr, minimal))
    begins = (0.0, *(phase[0] for phase in phases))
    begin, (end, a, b) = next(pair for pair in zip(begins, phases, strict=False) if step <= pair[1][0])
    s = (step - begin) / (end - begin) if end != begin else 1.0
    if anneal_strategy == "linear":
        return a + (b - a) * s
    return b + (a - b) * (1 + math.cos(math.pi * s)) / 2


@checked
def reduce_lr_on_plateau_init(lr: float) -> State:
    """The learning rate ``lr`` to start from, no ``best`` metric yet, and the counters ``num_bad_epochs`` and
    ``cooldown_counter`` at 0."""
    _at_least_zero(lr=lr)
    return {"lr": float(lr), "best": None, "num_bad_epochs": 0, "cooldown_counter": 0}


@checked
def reduce_lr_on_plateau(
    metric,
    state: State,
    *,
    mode: Literal["min", "max"] = "min",
    factor: float = 0.1,
    patience: int = 10,
    threshold: float = 1e-4,
    threshold_mode: Literal["rel", "abs"] = "rel",
    cooldown: int = 0,
    min_lr: float = 0.0,
    eps: float = 1e-8,
) -> tuple[float, State]:
    """Learning rate that falls when a metric has stopped improving (:eq:`eq-reduce_lr_on_plateau`).

    Called once an epoch with what was measured after it. For ``mode="min"``::

        if metric < best * (1 - threshold):   or best - threshold, for threshold_mode="abs"
            best, bad = metric, 0
        else:
            bad = bad + 1
        if wait > 0:
            wait, bad = wait - 1, 0           bad epochs do not count while cooling down
        if bad > patience:
            lr = max(factor * lr, min_lr)     unless that changes it by eps or less
            wait, bad = cooldown, 0

    For ``mode="max"``, better means ``metric > best * (1 + threshold)``, or ``best + threshold``.

    Args:
        metric: the loss (or, with ``mode="max"``, the accuracy) on the validation set. nan is never better.
        state: from :func:`reduce_lr_on_plateau_init` or from the call before.
        mode: ``"min"`` or ``"max"``: what is better.
        factor: by which the rate falls, in [0, 1).
        patience: how many bad epochs in a row are tolerated, >= 0.
        threshold: by how much better counts as better, >= 0.
        threshold_mode: ``"rel"`` or ``"abs"``: whether the threshold is a part of the best metric or a difference.
        cooldown: epochs after a fall in which bad ones are not counted, >= 0.
        min_lr: the rate falls no further, >= 0.
        eps: smaller falls are left out, >= 0.

    Returns:
        ``(lr, state)``: the rate of the next epoch, a Python float, and the new state: ``lr``, ``best``,
        ``num_bad_epochs`` (bad) and ``cooldown_counter`` (wait).

    Raises:
        ValueError: an option outside its range.

    PyTorch: ``torch.optim.lr_scheduler.ReduceLROnPlateau``. With ``"rel"`` and metrics below 0, as the negative
    logarithm of a density may be, one that is a little *worse* counts as better, there and here: use ``"abs"``.
    """
    if np.shape(metric) != ():
        raise ValueError(f"the metric must be a number, not an array of shape {np.shape(metric)}")
    _below_one(factor=factor)
    _at_least(0, patience=patience, cooldown=cooldown)
    _at_least_zero(threshold=threshold, min_lr=min_lr, eps=eps)
    _made_by("reduce_lr_on_plateau_init", state, "lr", "best", "num_bad_epochs", "cooldown_counter")
    lr, best, bad, wait = (state[key] for key in ("lr", "best", "num_bad_epochs", "cooldown_counter"))

    metric = float(metric)
    sign = 1 if mode == "min" else -1
    best = sign * math.inf if best is None else best
    bound = best * (1 - sign * threshold) if threshold_mode == "rel" else best - sign * threshold
    if sign * metric < sign * bound:
        best, bad = metric, 0
    else:
        bad += 1
    if wait > 0:
        wait, bad = wait - 1, 0
    if bad > patience:
        reduced = max(factor * lr, min_lr)
        lr = reduced if lr - reduced > eps else lr
        wait, bad = cooldown, 0
    return lr, {"lr": lr, "best": best, "num_bad_epochs": bad, "cooldown_counter": wait}


# ---------------------------------------------------------------------------------------------------------------------
# Clipping
# ---------------------------------------------------------------------------------------------------------------------


@checked
def clip_grad_norm(
    grads: Parameters, *, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> tuple[Tree, float]:
    """Shorten all gradients by one factor, so that together they are no longer than ``max_norm``
    (:eq:`eq-clip_grad_norm`).

    With the norm ``n`` of all entries of all leaves, ``n = (sum |g|^p)^(1/p)`` or, for ``p = inf``, ``max |g|``::

        g * min(1, max_norm / (n + 1e-6))

    To train with it, put it before the optimizer's step::

        def clipped(params, grads, state, **options):
            grads, _ = clip_grad_norm(grads, max_norm=1.0)
            return adam(params, grads, state, **options)

        result = fit(params, loss, data, optimizer=(adam_init, clipped), ...)

    Args:
        grads: an array or a nested dict of arrays; leaves that are ``None`` stay so.
        max_norm: >= 0; with ``math.inf`` the gradients are only measured.
        norm_type: p, > 0, ``math.inf`` for the largest entry.
        error_if_nonfinite: refuse gradients whose norm is infinite or nan. Otherwise they become 0 and infinite entries
            nan, or all of them nan if one is.

    Returns:
        ``(grads, total_norm)``: the gradients, each with its dtype, and the norm before clipping, a Python float.

    Raises:
        ValueError: an option outside its range.
        FloatingPointError: the norm is not finite, with ``error_if_nonfinite``.

    The norm is found wherever a float64 can hold it, also where the squares of the entries overflow.

    PyTorch: ``torch.nn.utils.clip_grad_norm_``, which changes the gradients in place, and makes all of them nan if both
    ``max_norm`` and the norm are infinite. The 1e-6 is its own: a clipped gradient is a little shorter than
    ``max_norm``. Source: :cite:`pascanu2013`, without the 1e-6.
    """
    if not max_norm >= 0:
        raise ValueError(f"max_norm must be >= 0, not {max_norm}")
    if not norm_type > 0:
        raise ValueError(f"norm_type must be > 0, not {norm_type}")
    arrays = tree_map(lambda g: None if g is None else _computed(g), grads)
    with np.errstate(over="ignore", invalid="ignore"):  # 0 times infinity is nan, as PyTorch leaves it
        norms = np.array([_norm(leaf, norm_type) for leaf in _leaves(arrays) if leaf is not None])
        total_norm = _norm(np.sort(norms), norm_type)  # sorted: the order of a dict does not change the last bit
        if error_if_nonfinite and not math.isfinite(total_norm):
            raise FloatingPointError(f"the norm of the gradients is {total_norm}, which no factor can shorten")
        factor: Any = math.nan if math.isnan(total_norm) else min(1.0, max_norm / (total_norm + 1e-6))
        if 0 < factor < 1e-30:
            factor = np.float64(factor)  # as a float32 it would have fewer digits, or none
        return tree_map(lambda g, a: None if g is None else _as_given(factor * a, g), grads, arrays), total_norm


@checked
def clip_grad_value(grads: Parameters, *, clip_value: float) -> Tree:
    """Cut every entry of every gradient off at ``clip_value`` and ``-clip_value`` (:eq:`eq-clip_grad_value`).

    ::

        min(max(g, -clip_value), clip_value)

    Unlike :func:`clip_grad_norm` this changes the direction of the gradient.

    Args:
        grads: an array or a nested dict of arrays; leaves that are ``None`` stay so.
        clip_value: >= 0.

    Returns:
        the gradients, each with its dtype.

    Raises:
        ValueError: ``clip_value`` is below 0.

    PyTorch: ``torch.nn.utils.clip_grad_value_``, which changes the gradients in place.
    """
    if not clip_value >= 0:
        raise ValueError(f"clip_value must be >= 0, not {clip_value}")

    def cut(g):
        if g is None:
            return None
        a = _computed(g)
        beyond = clip_value > float(np.finfo(a.dtype).max)  # where NumPy would refuse the bound
        return _as_given(a.copy() if beyond else np.clip(a, -clip_value, clip_value), g)

    return tree_map(cut, grads)


def _as_given(result, g):
    """As an array of the dtype of ``g``, if that is one of floats."""
    dtype = np.result_type(g)
    return np.asarray(result, dtype if dtype.kind == "f" else result.dtype)


def _norm(array, p) -> float:
    """The p-norm, wherever it can be held itself: where its powers cannot, it is that of ``array / max|array|``."""
    if p == 2:
        flat = np.ravel(array)
        square = float(flat @ flat)
        if 1e-30 < square < math.inf:  # for less, a float32 has lost what underflowed
            return math.sqrt(square)
    magnitudes = np.abs(array)
    largest = float(np.max(magnitudes, initial=0.0))
    if p == math.inf or largest in (0, math.inf) or math.isnan(largest):
        return largest
    return largest * float(np.sum((magnitudes / largest) ** p)) ** (1 / p)


def _leaves(tree):
    return [leaf for branch in tree.values() for leaf in _leaves(branch)] if isinstance(tree, dict) else [tree]


# ---------------------------------------------------------------------------------------------------------------------
# Learning-rate finder
# ---------------------------------------------------------------------------------------------------------------------


class RangeTest(NamedTuple):
    """What :func:`lr_finder` returns."""

    lrs: Array
    """The learning rates, (steps,)."""
    losses: Array
    """The loss on each batch, before the step, (steps,)."""
    smoothed: Array
    """Its moving average, (steps,)."""
    suggestion: float
    """A learning rate to start a search from."""


@checked
def lr_finder(
    params: Parameters,
    loss: Callable[..., Any],
    data: tuple[Any, Any],
    *,
    optimizer: Optimizer = (sgd_init, sgd),
    start_lr: float = 1e-5,
    end_lr: float = 10.0,
    num_iter: int = 100,
    batch_size: int,
    rng: np.random.Generator,
    smoothing: float = 0.9,
    stop_factor: float = 4.0,
    **hyperparameters: Any,
) -> RangeTest:
    """Learning-rate range test: train while the rate grows, and watch where the loss falls and where it blows up
    (:eq:`eq-lr_finder`).

    Step ``i = 0, 1, ..., num_iter - 1`` measures the loss on a batch and then moves with the rate ``lr_i``::

        lr_i = start_lr * (end_lr / start_lr)^(i / (num_iter - 1))
        a = smoothing * a + (1 - smoothing) * loss
        smoothed_i = a / (1 - smoothing^(i + 1))

    The test ends early as soon as the smoothed loss exceeds ``stop_factor`` times its lowest value (if that is above
    0), or when the loss is no longer finite.

    The suggestion is a tenth of the rate at which the smoothed loss is lowest: there the rate is about to be too large,
    and the average lags behind, so that the edge lies further down. It is a place to start a search from, not its
    result. (Where the smoothed loss falls most steeply, which is a common rule, is often a matter of the noise in its
    first values.)

    Args:
        params: where to start; not modified.
        loss: returns a scalar, the mean over the examples of a batch, as for :func:`~nnbook.training.fit`.
        data: ``(x, y)``, arrays with one row per example.
        optimizer: ``(init, step)``: the suggestion is for this one.
        start_lr, end_lr: the range, 0 < start_lr < end_lr.
        num_iter: how many rates, >= 2.
        batch_size: examples in a batch, >= 1: the suggestion is for this one, too.
        rng: shuffles the examples.
        smoothing: decay of the moving average, in [0, 1); 0 takes the losses as they are.
        stop_factor: > 1.
        **hyperparameters: handed to the optimizer's step.

    Returns:
        a :class:`RangeTest`: ``lrs``, ``losses`` and ``smoothed``, each (steps,), and ``suggestion``.

    Raises:
        ValueError: an argument outside its range, ``x`` and ``y`` of different lengths or empty, or a loss that is not
            finite before the first step.

    PyTorch has no counterpart. Source: :cite:`smith2017cyclical`, section 3.3, with a rate that grows along a line; the
    exponential growth and the smoothing are common practice.
    """
    x, y = (numeric(f"lr_finder: {name}", array) for name, array in zip("xy", data, strict=True))
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y) or len(x) == 0:
        raise ValueError(f"x has shape {x.shape} and y {y.shape}; they need the same number of rows, at least one")
    if not 0 < start_lr < end_lr < math.inf:
        raise ValueError(f"the range needs 0 < start_lr < end_lr, not {start_lr} and {end_lr}")
    _at_least(2, num_iter=num_iter)
    _at_least(1, batch_size=batch_size)
    _below_one(smoothing=smoothing)
    if not stop_factor > 1:
        raise ValueError(f"stop_factor must be > 1, not {stop_factor}")
    init, step = optimizer
    state, gradient = init(params), value_and_grad(loss)
    epochs = math.ceil(num_iter * batch_size / len(x))
    order = np.concatenate([rng.permutation(len(x)) for _ in range(epochs)])
    average = 0.0
    lrs: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # a divergence is what the test is looking for
        for i in range(num_iter):
            rows = order[i * batch_size : (i + 1) * batch_size]
            value, grads = gradient(params, x[rows], y[rows])
            average = smoothing * average + (1 - smoothing) * float(value)
            if not math.isfinite(average):
                break
            lrs.append(start_lr * (end_lr / start_lr) ** (i / (num_iter - 1)))
            losses.append(float(value))
            smoothed.append(average / (1 - smoothing ** (i + 1)))
            if smoothed[-1] > stop_factor * min(smoothed) > 0:
                break
            params, state = step(params, grads, state, lr=lrs[-1], **hyperparameters)
    if not losses:
        raise ValueError(f"the loss is {float(value)} before the first step")
    return RangeTest(np.array(lrs), np.array(losses), np.array(smoothed), lrs[int(np.argmin(smoothed))] / 10)


# ---------------------------------------------------------------------------------------------------------------------
# Leaf by leaf
# ---------------------------------------------------------------------------------------------------------------------


def _update(f, params, grads, state, memory):
    """Apply ``f(p, g, *old)``, which returns the new ``p`` and what to remember of it, to every leaf.

    ``memory`` names the trees of the state that ``old`` comes from, and says which of them the method needs now. Those
    that it does not need come in as None, and so do those that have not begun.
    """

    def leaf(p, g, *old):
        if g is None:
            return p, *old
        dtype = np.result_type(p)
        if dtype.kind != "f":
            raise ValueError(
                f"a parameter has dtype {dtype}; only floats can follow a gradient: write 0.0 for 0, or .astype(float)"
            )
        if np.shape(g) != np.shape(p):
            raise ValueError(f"the gradient has shape {np.shape(g)}, the parameter {np.shape(p)}")
        computed = SINGLE if dtype == HALF else dtype
        arrays = (np.asarray(p, computed), np.asarray(g, computed), *map(_count_or_array, old))
        p, *new = f(*(a if a is None or isinstance(a, int) else np.atleast_1d(a) for a in arrays))
        if dtype == HALF:
            with np.errstate(over="ignore"):  # beyond 65504 float16 knows infinity only
                p = p.astype(dtype)
        return tuple(a.reshape(np.shape(g)) if isinstance(a, Array) else a for a in (p, *new))

    nothing = tree_map(lambda p: None, params)
    old = [state.get(name, nothing) if needed else nothing for name, needed in memory.items()]
    results = tree_map(leaf, params, grads, *old)
    params, *new = (tree_map(lambda result, i=i: result[i], results) for i in range(1 + len(memory)))
    return params, {**state, **{name: tree for (name, needed), tree in zip(memory.items(), new, strict=True) if needed}}


def _penalized(p, g, weight_decay, maximize):
    g = -g if maximize else g
    return g + weight_decay * p if weight_decay else g


def _average(beta, average, x):
    """``beta * average + (1 - beta) * x``; an average that has not begun is 0."""
    new = (1 - beta) * x
    if average is not None:
        new += beta * average
    return new


def _count_or_array(a):
    """A counter that comes back from a file is an array of one integer."""
    return int(a) if isinstance(a, (Array, np.generic)) and a.dtype.kind in "iu" and a.size == 1 else a


def _zero_steps(params):
    return tree_map(lambda p: 0, params)


def _full(params, number=0.0):
    """The memory of a method: arrays like the parameters, full of one number; for float16 in float32."""
    return tree_map(lambda p: None if p is None else np.full_like(_computed(p), number), params)


def _computed(x):
    """As an array of floats: integers in float64, float16 in float32."""
    return to_dtype(x := np.asarray(x), SINGLE if x.dtype == HALF else np.float64)


# ---------------------------------------------------------------------------------------------------------------------
# Options in their range
# ---------------------------------------------------------------------------------------------------------------------


def _at_least_zero(**options: float) -> None:
    for name, value in options.items():
        if not value >= 0:
            raise ValueError(f"{name} must be >= 0, not {value}")
        if math.isinf(value):
            raise ValueError(f"{name} must be finite, not {value}")


def _at_least(least: int, **options: int) -> None:
    for name, value in options.items():
        if value < least:
            raise ValueError(f"{name} must be >= {least}, not {value}")


def _below_one(**options: float) -> None:
    for name, value in options.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be in [0, 1), not {value}")


def _both_below_one(name: str, values) -> tuple[float, float]:
    first, second = values
    if not (0 <= first < 1 and 0 <= second < 1):
        raise ValueError(f"{name} must both be in [0, 1), not {values}")
    return first, second


def _made_by(init: str, state: State, *names: str) -> None:
    if not set(names) <= set(state):
        raise ValueError(f"the state must come from {init}(params); this one holds {sorted(map(str, state))}")
