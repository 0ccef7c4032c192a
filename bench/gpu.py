"""Puts what build/gpu/bench measures beside the limits and the peers, as bench/gpu.md. Without a GPU
the columns of times stay empty, and the predictions are of a data sheet's limits.

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
DECODE, PREFILL = (1, 8, 32, 128), (16, 128, 512, 1024)
BLOCK_WEIGHTS = sum(k * n for name, (k, n) in SHAPES.items() if name != "lm_head")
WEIGHTS = BLOCKS * BLOCK_WEIGHTS + D * V
SHEET = {"read_gb": 4800.0, "fma_gflop": 67000.0}   # NVIDIA's data sheet of the H200
ROUNDS = 9


def measured(program, tiny):
    """{"device": text, ("limit", name): n, ("gemm", name, M): [ours, ...], ("decode", n): ms, ...}"""
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
            found[kind, int(words[0])] = float(words[1])
    return found


def predicted(weights, n_rows, limits):
    """Milliseconds: the larger of reading the weights and multiplying by them."""
    return 1e3 * max(4 * weights / (1e9 * limits["read_gb"]),
                     2 * weights * n_rows / (1e9 * limits["fma_gflop"]))


def peers():
    """{(name, "decode" or "prefill", n): ms} of torch on this GPU, or {} where there is none."""
    try:
        import torch
        import transformers
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}
    torch.backends.cuda.matmul.allow_tf32 = False
    config = transformers.GPT2Config()
    model = transformers.GPT2LMHeadModel(config).eval().cuda()
    compiled = torch.compile(model, mode="reduce-overhead", fullgraph=True)
    found = {}
    for name, run in (("HF eager", model), ("torch.compile", compiled)):
        for n in PREFILL:
            ids = torch.randint(V, (1, n), device="cuda")
            found[name, "prefill", n] = time_of(lambda: run(ids, use_cache=False))
        for n in DECODE:
            cache = transformers.StaticCache(config=config, max_batch_size=n, max_cache_len=64,
                                             device="cuda", dtype=torch.float32)
            model(torch.randint(V, (n, 20), device="cuda"), past_key_values=cache)
            ids, at = torch.randint(V, (n, 1), device="cuda"), torch.tensor([20], device="cuda")
            found[name, "decode", n] = time_of(
                lambda: run(ids, past_key_values=cache, cache_position=at))
    return found


def time_of(run):
    import torch
    seconds = []
    with torch.inference_mode():
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
            limit, ours = predicted(WEIGHTS, n, limits), found.get((kind, n))
            unit = "a token of each of" if kind == "decode" else "all logits of"
            yield [f"{kind}: {unit} {n}", cell(limit), cell(ours), part(limit, ours),
                   *(cell(others.get((name, kind, n))) for name in names)]


def gemms_of(found, limits):
    yield ["product", "rows", "limit, us", "Interpose exact, us", "of the limit",
           "cuBLAS fp32, us", "cuBLAS TF32, us"]
    for name, (k, n) in SHAPES.items():
        for m in GEMM_ROWS:
            limit = predicted(k * n, m, limits)
            ours, blas, tf32 = (found.get(("gemm", name, m), []) + [None] * 3)[:3]
            yield [name, str(m), micro(limit), micro(ours), part(limit, ours), micro(blas),
                   micro(tf32)]


def table(rows):
    rows = list(rows)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "| " + " | ".join("---" for _ in rows[0]) + " |", *lines[1:]])


def page(found, others):
    limits = {name: found.get(("limit", name), of_sheet) for name, of_sheet in SHEET.items()}
    whence = "measured in this run" if found else (
        "of the H200's data sheet: **no GPU was at hand, nothing below was measured**")
    return f"""# The CUDA backend's times

Written by `make gpu-bench`. GPT-2 small with made weights, float32, without HTTP; medians. The limit is the larger of two times:
reading the weights, and multiplying by them without tensor cores, at the limits {whence}.

- Device: {found.get("device", "none")}
- Limits: reads {limits["read_gb"]:.0f} GB/s, multiply-adds {limits["fma_gflop"]:.0f} GFLOP/s

{table(rows_of(found, others, limits))}

{table(gemms_of(found, limits))}
"""


def main():
    tiny = bool(os.environ.get("EMULATE"))
    found = measured(sys.argv[1], tiny)
    text = page(found, {} if tiny else peers())
    to = ROOT / ("build/gpu.md" if tiny else "bench/gpu.md")
    to.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
