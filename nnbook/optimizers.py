"""Optimizers: from a gradient to the next parameters.

An optimizer is two pure functions. ``adam_init(params)`` makes the state, a dict that holds what the method remembers;
``adam(params, grads, state, lr=...)`` returns the next parameters and the next state and changes none of its inputs::

    state = adam_init(params)
    for x, y in batches:
        value, grads = value_and_grad(loss)(params, x, y)
        params, state = adam(params, grads, state, lr=1e-3)

``params`` and ``grads`` are arrays or nested dicts of arrays of equal structure. A leaf whose gradient is ``None`` (an
integer array, say) stays as it is. Names of options, defaults and numbers are those of ``torch.optim``, step for step.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nnbook.backprop import tree_map

Array = np.ndarray
Tree = Any
State = dict[str, Any]


# ---------------------------------------------------------------------------------------------------------------------
# Stochastic gradient descent
# ---------------------------------------------------------------------------------------------------------------------


def sgd_init(params: Tree) -> State:
    """Nothing to remember yet: with momentum, the first step adds ``momentum_buffer``."""
    return {}


def sgd(
    params: Tree,
    grads: Tree,
    state: State,
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
) -> tuple[Tree, State]:
    """One step of stochastic gradient descent with momentum.

    With gradient ``g`` and parameter ``p``, leaf by leaf::

        g = -g                                if maximize
        g = g + weight_decay * p
        b = g                                 at the first step with momentum
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
    lr = _at_least_zero("lr", lr)
    momentum = _at_least_zero("momentum", momentum)
    weight_decay = _at_least_zero("weight_decay", weight_decay)
    dampening = float(dampening)
    if nesterov and (momentum == 0 or dampening != 0):
        raise ValueError(f"nesterov needs momentum > 0 and dampening 0, not {momentum} and {dampening}")

    def leaf(p, g, *b):
        g = -g if maximize else g
        g = g + weight_decay * p if weight_decay else g
        if momentum:
            b = (momentum * b[0] + (1 - dampening) * g if b else g.copy(),)
            g = g + momentum * b[0] if nesterov else b[0]
        step = lr * g
        return np.subtract(p, step, out=step), *b

    if momentum == 0:
        return _update(leaf, params, grads)[0], dict(state)
    memory = [state["momentum_buffer"]] if "momentum_buffer" in state else []
    params, buffer = _update(leaf, params, grads, *memory, count=2, blank=lambda p: None)
    return params, {**state, "momentum_buffer": buffer}


# ---------------------------------------------------------------------------------------------------------------------
# Adam and AdamW
# ---------------------------------------------------------------------------------------------------------------------


def adam_init(params: Tree) -> State:
    """Step counter 0 and zero moments ``exp_avg`` and ``exp_avg_sq`` of the shapes and dtypes of ``params``."""
    return {"step": 0, "exp_avg": tree_map(np.zeros_like, params), "exp_avg_sq": tree_map(np.zeros_like, params)}


def adam(
    params: Tree,
    grads: Tree,
    state: State,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    maximize: bool = False,
) -> tuple[Tree, State]:
    """One step of Adam: steps of size about ``lr``, whatever the scale of the gradient.

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
        ``(params, state)``, new; each parameter keeps its dtype. State: ``step`` (an int), ``exp_avg`` (m),
        ``exp_avg_sq`` (v) and, with amsgrad, ``max_exp_avg_sq`` (w).

    Raises:
        ValueError: an option outside its range, a gradient of another shape than its parameter, or one for a
            parameter that is no float.

    PyTorch: ``torch.optim.Adam``. Sources: :cite:`kingma2015`, for amsgrad :cite:`reddi2018`.
    """
    return _adam(params, grads, state, lr, betas, eps, weight_decay, amsgrad, maximize, decoupled=False)


def adamw_init(params: Tree) -> State:
    """The same as :func:`adam_init`."""
    return adam_init(params)


def adamw(
    params: Tree,
    grads: Tree,
    state: State,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
    maximize: bool = False,
) -> tuple[Tree, State]:
    """One step of AdamW: Adam that decays the weights directly, at a rate that no gradient's scale changes.

    As :func:`adam`, but the line ``g = g + weight_decay * p`` gives way to::

        p = p - lr * weight_decay * p         before the step, not seen by the moments

    Arguments, result and errors are those of :func:`adam`; the default of ``weight_decay`` is 0.01.

    PyTorch: ``torch.optim.AdamW``, which also multiplies the decay by ``lr``; the paper keeps the two apart. Source:
    :cite:`loshchilov2019`.
    """
    return _adam(params, grads, state, lr, betas, eps, weight_decay, amsgrad, maximize, decoupled=True)


def _adam(params, grads, state, lr, betas, eps, weight_decay, amsgrad, maximize, *, decoupled):
    lr = _at_least_zero("lr", lr)
    eps = _at_least_zero("eps", eps)
    weight_decay = _at_least_zero("weight_decay", weight_decay)
    beta1, beta2 = (float(beta) for beta in betas)
    if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
        raise ValueError(f"betas must both be in [0, 1), not {betas}")
    if "step" not in state:
        raise ValueError(f"the state must come from adam_init(params); this one holds {sorted(state)}")
    t = int(state["step"]) + 1
    step_size = lr / (1 - beta1**t)
    root_correction = math.sqrt(1 - beta2**t)
    shrink = 1 - lr * weight_decay

    # The lines of the docstring, with += and *= on fresh arrays: they save half of the time by saving memory traffic.
    def leaf(p, g, m, v, *w):
        g = -g if maximize else g
        g = g + weight_decay * p if weight_decay and not decoupled else g
        m = beta1 * m
        m += (1 - beta1) * g
        g2 = g * g
        g2 *= 1 - beta2
        v = beta2 * v
        v += g2
        w = (np.maximum(w[0], v),) if w else ()
        step = np.sqrt(w[0] if w else v, out=g2)
        step /= root_correction
        step += eps
        np.divide(m, step, out=step)
        step *= step_size
        p = shrink * p if decoupled else p
        return np.subtract(p, step, out=step), m, v, *w

    moments = [state["exp_avg"], state["exp_avg_sq"]]
    if amsgrad:  # second moments are >= 0, so a maximum that starts from zeros is the maximum of what was seen
        moments.append(state["max_exp_avg_sq"] if "max_exp_avg_sq" in state else tree_map(np.zeros_like, params))
    params, *moments = _update(leaf, params, grads, *moments, count=1 + len(moments))
    names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    return params, {**state, "step": t, **dict(zip(names, moments, strict=False))}


# ---------------------------------------------------------------------------------------------------------------------
# Learning-rate schedule
# ---------------------------------------------------------------------------------------------------------------------


def one_cycle(
    step: int,
    *,
    max_lr: float,
    total_steps: int,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
) -> float:
    """Learning rate of the one-cycle schedule: up to ``max_lr``, then down to almost nothing.

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
    :cite:`smith2017superconvergence`.
    """
    if total_steps < 1:
        raise ValueError(f"total_steps must be >= 1, not {total_steps}")
    if step != int(step):
        raise ValueError(f"step must be a whole number, not {step}")
    if not 0 <= step < total_steps:
        raise ValueError(f"step must be in [0, {total_steps}), not {step}")
    if not 0 <= pct_start <= 1:
        raise ValueError(f"pct_start must be in [0, 1], not {pct_start}")
    if anneal_strategy not in ("cos", "linear"):
        raise ValueError(f"anneal_strategy must be 'cos' or 'linear', not {anneal_strategy!r}")
    if not (div_factor > 0 and final_div_factor > 0):
        raise ValueError(f"div_factor and final_div_factor must be > 0, not {div_factor} and {final_div_factor}")
    max_lr = _at_least_zero("max_lr", max_lr)
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


# ---------------------------------------------------------------------------------------------------------------------
# Leaf by leaf
# ---------------------------------------------------------------------------------------------------------------------


def _update(f, params, grads, *memory, count=1, blank=np.zeros_like):
    """Apply ``f(p, g, *memory)`` to every leaf; return its ``count`` results (the new ``p`` and memory) as trees.

    ``blank(p)`` is the memory of a leaf that has had no gradient yet.
    """

    def leaf(p, g, *old):
        if g is None:
            return p, *old, *(blank(p) for _ in range(count - 1 - len(old)))
        if np.result_type(p).kind not in "fc":
            raise ValueError(f"a parameter has dtype {np.result_type(p)}; only floats can follow a gradient")
        if np.shape(g) != np.shape(p):
            raise ValueError(f"the gradient has shape {np.shape(g)}, the parameter {np.shape(p)}")
        arrays = (
            np.atleast_1d(array) for array in (p, np.asarray(g, np.result_type(p)), *(b for b in old if b is not None))
        )
        return tuple(result.reshape(np.shape(p)) for result in f(*arrays))

    results = tree_map(leaf, params, grads, *memory)
    return tuple(tree_map(lambda result, i=i: result[i], results) for i in range(count))


def _at_least_zero(name: str, value) -> float:
    if not value >= 0:
        raise ValueError(f"{name} must be >= 0, not {value}")
    return float(value)  # a NumPy scalar would promote float32 parameters
