"""Speed of attention and of a small GPT against PyTorch on the same CPU thread; memory of block-wise attention.

Attention forward and backward in float32 at two sizes, without a mask and causal; one training step (forward, all
gradients, AdamW) of a GPT of 4 layers, 4 heads and 128 features on 16 texts of 128 tokens; the peak memory of
attention forward and backward, in one piece and block by block, as the text grows. Both frameworks run in this process,
on one thread, and take turns; the best turn of each counts.
"""

from __future__ import annotations

import tracemalloc

from _common import Bar, alternate, main

SIZES = {(8, 8, 256, 64): 2.0, (2, 8, 1024, 64): 1.5}
GPT = {"vocab_size": 96, "context": 128, "n_layer": 4, "n_head": 4, "n_embd": 128}
BATCH = 16
LENGTHS = (512, 1024, 2048, 4096)


def attention(size, is_causal, rounds):
    """Milliseconds of the best turn of each framework."""
    import numpy as np
    import torch

    from nnbook.attention import scaled_dot_product_attention
    from nnbook.backprop import vjp

    rng = np.random.default_rng(0)
    q, k, v, dy = (rng.normal(size=size).astype(np.float32) for _ in range(4))
    tensors = [torch.tensor(a, requires_grad=True) for a in (q, k, v)]
    upstream = torch.tensor(dy)

    def ours():
        _, pull = vjp(scaled_dot_product_attention, q, k, v, is_causal=is_causal)
        return pull(dy)

    def theirs():
        y = torch.nn.functional.scaled_dot_product_attention(*tensors, is_causal=is_causal)
        return torch.autograd.grad(y, tensors, upstream)

    for a, b in zip(ours(), theirs(), strict=True):
        assert np.abs(a - b.numpy()).max() < 1e-4 * np.abs(a).max()
    return best({"numpy_ms": ours, "torch_ms": theirs}, rounds)


def training_step(rounds):
    import numpy as np
    import torch

    from nnbook import twins
    from nnbook.attention import gpt_init, gpt_loss
    from nnbook.backprop import value_and_grad
    from nnbook.optimizers import adamw, adamw_init
    from nnbook.training import to_torch

    rng = np.random.default_rng(0)
    params = gpt_init(rng, **GPT)
    text = rng.integers(GPT["vocab_size"], size=(BATCH, GPT["context"] + 1))
    x, y = text[:, :-1], text[:, 1:]
    now = {"params": params, "state": adamw_init(params)}
    gradient = value_and_grad(gpt_loss)
    twin = twins.gpt(**GPT)
    twin.load_state_dict(to_torch(params))
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-3)
    tokens, labels = torch.tensor(x), torch.tensor(y)

    def ours():
        loss, grads = gradient(now["params"], x, y, n_head=GPT["n_head"])
        now["params"], now["state"] = adamw(now["params"], grads, now["state"], lr=1e-3)
        return float(loss)

    def theirs():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(twin(tokens).flatten(0, 1), labels.flatten())
        loss.backward()
        optimizer.step()
        return loss.item()

    assert abs(ours() - theirs()) < 1e-4
    return best({"numpy_ms": ours, "torch_ms": theirs}, rounds)


def best(functions, rounds):
    times = alternate(functions, rounds=rounds)
    row = {name: 1e3 * min(each) for name, each in times.items()}
    return {**row, "ratio": row["numpy_ms"] / row["torch_ms"], "rounds": rounds}


def memory(T):
    """Peak bytes of one head of width 64, forward and backward, beside the inputs."""
    import numpy as np

    from nnbook.attention import blockwise_attention, scaled_dot_product_attention
    from nnbook.backprop import vjp

    rng = np.random.default_rng(0)
    q, k, v, dy = (rng.normal(size=(1, 1, T, 64)).astype(np.float32) for _ in range(4))
    peaks = {"T": T}
    for name, f in (("plain", scaled_dot_product_attention), ("blockwise", blockwise_attention)):
        tracemalloc.start()
        _, pull = vjp(f, q, k, v, is_causal=True)
        pull(dy)
        peaks[name] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peaks


def measure(quick):
    rounds = 5 if quick else 30
    results, bars = {"attention": [], "memory": []}, []
    for size, bound in SIZES.items():
        for is_causal in (False, True):
            row = {"size": size, "is_causal": is_causal, **attention(size, is_causal, rounds)}
            results["attention"].append(row)
            name = "B{} h{} T{} d{}".format(*size) + (", causal" if is_causal else "")
            print(f"{name}: NumPy {row['numpy_ms']:.1f} ms, PyTorch {row['torch_ms']:.1f} ms")
            bars.append(Bar(f"attention {name} against PyTorch", row["ratio"], bound, "times"))
    row = results["gpt"] = {**GPT, "batch": BATCH, **training_step(rounds)}
    print(f"GPT step: NumPy {row['numpy_ms']:.1f} ms, PyTorch {row['torch_ms']:.1f} ms")
    bars.append(Bar("GPT training step against its twin", row["ratio"], 2.0, "times"))
    results["memory"] = [memory(T) for T in LENGTHS]
    for row in results["memory"]:
        print("memory at T = {T}: {plain:.3g} bytes in one piece, {blockwise:.3g} block by block".format(**row))
    first, last = results["memory"][0], results["memory"][-1]
    growth = last["blockwise"] / first["blockwise"] / (last["T"] / first["T"])
    bars.append(Bar("block-wise memory against a growth in proportion to T", growth, 1.1, "times"))
    return results, bars


if __name__ == "__main__":
    main(__file__, measure)
