"""Puts what build/gpu/bench measures beside the limits and the peers, as bench/gpu.md. Without a GPU
the columns of times stay empty, the limits are a data sheet's, and the page is build/gpu.md.

    gpu.py PROGRAM        (make gpu-bench; EMULATE=1: a dry run, into build/)
"""
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
D, F, V, BLOCKS, HEADS = 768, 3072, 50257, 12, 12
SHAPES = {"qkv": (D, 3 * D), "proj": (D, D), "fc": (D, F), "mlp_proj": (F, D), "lm_head": (D, V)}
GEMM_ROWS = (1, 8, 64, 512)
DECODE, PREFILL, SAVES = (1, 8, 32, 128), (16, 128, 512, 1024), (16, 512)
PEERS = {"HF eager": [*(("decode", n) for n in DECODE), *(("prefill", n) for n in PREFILL)],
         "torch.compile": [("decode", 1), ("prefill", 512)]}  # each takes long to compile
BLOCK_WEIGHTS = sum(k * n for name, (k, n) in SHAPES.items() if name != "lm_head")
WEIGHTS = BLOCKS * BLOCK_WEIGHTS + D * V
# NVIDIA's data sheet of the H200, and PCI Express 5 in one direction.
SHEET = {"read_gb": 4800.0, "fma_gflop": 67000.0, "link_gb": 64.0}
# On tensor cores: bytes of a stored weight and the data sheet's GFLOP/s.
TENSOR = {"tf32x3": (4, 494000.0 / 3), "tf32": (4, 494000.0), "bf16": (2, 989000.0)}
LIMITS = (("read_gb", "reads", 0, "GB/s"), ("fma_gflop", "multiply-adds", 0, "GFLOP/s"),
          ("link_gb", "to the host", 0, "GB/s"), ("launch_us", "a small kernel", 1, "us"),
          ("graph_us", "in a graph", 1, "us"))
ROUNDS = 9


def measured(program, tiny):
    """{"device": text, ("limit", name): n, ("gemm", name, M): [ours, ...],
    (precision, name, M): ours, ("decode" or "prefill", precision, n): ms}"""
    if not pathlib.Path(program).exists():
        return {}
    done = subprocess.run([program, *(["tiny"] if tiny else [])], capture_output=True, text=True)
    if done.returncode != 0:
        print(f"{program}: {done.stderr.strip()}", file=sys.stderr)
        return {}
    found = {}
    for line in done.stdout.splitlines():
        kind, rest = line.split(" ", 1)
        words = rest.split()
        if kind == "device":
            found["device"] = rest
        elif kind == "limit":
            found[kind, words[0]] = float(words[1])
        elif kind == "gemm":
            found[kind, words[0], int(words[1])] = [float(word) for word in words[2:]]
        else:
            found[kind, words[0], int(words[1])] = float(words[2])
    return found


def limit_of(weights, n_rows, limits, precision="exact"):
    """Milliseconds: the larger of reading the weights and multiplying by them."""
    size, gflop = TENSOR.get(precision, (4, limits["fma_gflop"]))
    return 1e3 * max(size * weights / (1e9 * limits["read_gb"]),
                     2 * weights * n_rows / (1e9 * gflop))


def saves_limit(n, limits):
    """Milliseconds: the pass, and beside it every block's output on its way to the host."""
    return max(limit_of(WEIGHTS, n, limits), 4e-6 * BLOCKS * n * D / limits["link_gb"])


def peers():
    """{(name, "decode" or "prefill", n): ms} of torch on this GPU, or {} where there is none. Each in
    a process of its own: whatever becomes of it, what it has said is kept."""
    found = {}
    for name in PEERS:
        done = subprocess.run([sys.executable, __file__, "--peer", name], capture_output=True,
                              text=True, timeout=600)
        if done.returncode != 0:
            print(f"{name}: {done.stderr.strip()[-300:]}", file=sys.stderr)
        for line in done.stdout.splitlines():
            kind, n, ms = line.split()
            found[name, kind, int(n)] = float(ms)
    return found


def peer(name):
    """Prints "decode 1 5.9" and so on, in ms."""
    try:
        import torch
        import transformers
    except ImportError:
        return
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = False
        peer_on("cuda", name, torch, transformers, transformers.GPT2Config())


def peer_on(device, name, torch, transformers, config):
    run = transformers.GPT2LMHeadModel(config).eval().to(device)
    if name == "torch.compile":
        run = torch.compile(run, dynamic=False)
    for kind, n in PEERS[name]:
        with torch.inference_mode():
            ms = time_of(passes(run, kind, n, device, torch, transformers), torch)
        print(kind, n, f"{ms:.5f}", flush=True)


def passes(run, kind, n, device, torch, transformers):
    """A function that runs one: a prompt of n, or the next token of n sequences behind 20."""
    vocab = run.config.vocab_size
    if kind == "prefill":
        ids = torch.randint(vocab, (1, n), device=device)
        return lambda: run(ids, use_cache=False)
    cache = transformers.StaticCache(config=run.config, max_cache_len=64)
    run(torch.randint(vocab, (n, 20), device=device), past_key_values=cache)
    ids = torch.randint(vocab, (n, 1), device=device)
    return lambda: run(ids, past_key_values=cache)


def time_of(run, torch):
    seconds = []
    for i in range(-3, ROUNDS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        if i >= 0:
            seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds)


def cell(milliseconds):
    return "" if milliseconds is None else f"{milliseconds:.3f}"


def micro(milliseconds):
    return "" if milliseconds is None else f"{1e3 * milliseconds:.1f}"


def part(limit, milliseconds):
    return "" if milliseconds is None else f"{100 * limit / milliseconds:.0f} %"


def rows_of(found, others, limits):
    names = sorted({name for name, _, _ in others})
    yield ["", "limit, ms", "Interpose exact, ms", "of the limit", *names]
    for kind, counts in (("decode", DECODE), ("prefill", PREFILL)):
        for n in counts:
            limit, ours = limit_of(WEIGHTS, n, limits), found.get((kind, "exact", n))
            yield [pass_named(kind, n), cell(limit), cell(ours), part(limit, ours),
                   *(cell(others.get((name, kind, n))) for name in names)]
    for n in SAVES:
        limit, ours = saves_limit(n, limits), found.get(("saves", "exact", n))
        yield [f"prefill, every block's output saved: {n}", cell(limit), cell(ours),
               part(limit, ours), *("" for _ in names)]


def pass_named(kind, n):
    return f"{kind}: {'a token of each of' if kind == 'decode' else 'all logits of'} {n}"


def fast_of(found, limits):
    yield ["", *(f"{precision} {what}" for precision in TENSOR
                 for what in ("limit, ms", "Interpose, ms"))]
    for kind, counts in (("decode", DECODE), ("prefill", PREFILL)):
        for n in counts:
            yield [pass_named(kind, n), *(cell(ms) for precision in TENSOR for ms in (
                limit_of(WEIGHTS, n, limits, precision), found.get((kind, precision, n))))]


def gemms_of(found, limits):
    yield ["product", "rows", "limit, us", "Interpose exact, us", "of the limit",
           "cuBLAS fp32, us", "cuBLAS TF32, us", *(f"Interpose {name}, us" for name in TENSOR)]
    for name, (k, n) in SHAPES.items():
        for m in GEMM_ROWS:
            limit = limit_of(k * n, m, limits)
            ours, blas, tf32 = (found.get(("gemm", name, m), []) + [None] * 3)[:3]
            yield [name, str(m), micro(limit), micro(ours), part(limit, ours), micro(blas),
                   micro(tf32), *(micro(found.get((precision, name, m))) for precision in TENSOR)]


def table(rows):
    rows = list(rows)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "| " + " | ".join("---" for _ in rows[0]) + " |", *lines[1:]])


def page(found, others):
    limits = SHEET | {name: found["limit", name] for name, *_ in LIMITS if ("limit", name) in found}
    whence = "measured in this run" if found else (
        "of the H200's data sheet: **no GPU was at hand, nothing below was measured**")
    return f"""# The CUDA backend's times

Written by `make gpu-bench`. GPT-2 small with made weights, float32, without HTTP; medians. The limit is the larger of two times:
reading the weights, and multiplying by them without tensor cores, at the limits {whence};
for the faster precisions on tensor cores, at the data sheet's rate. Products are timed behind one another with other weights each
time, as in a pass, and queued as a graph, ours and cuBLAS's.

- Device: {found.get("device", "none")}
- Limits: {", ".join(f"{text} {limits[name]:.{digits}f} {unit}" for name, text, digits, unit in LIMITS if name in limits)}

{table(rows_of(found, others, limits))}

{table(fast_of(found, limits))}

{table(gemms_of(found, limits))}
"""


def main():
    tiny = bool(os.environ.get("EMULATE"))
    if sys.argv[1] == "--peer":
        peer(sys.argv[2])
        return
    found = measured(sys.argv[1], tiny)
    to = ROOT / ("bench/gpu.md" if found and not tiny else "build/gpu.md")
    to.write_text(page(found, {}))
    text = page(found, {} if tiny else peers())
    to.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
