"""Puts what build/gpu/bench measures beside the limits and the peers, as bench/gpu.md. Without a GPU
the columns of times stay empty, and limits and predictions are of a data sheet.

    gpu.py PROGRAM        (make gpu-bench; EMULATE=1: a dry run, into build/)
"""
import math
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
BLOCK_WEIGHTS = sum(k * n for name, (k, n) in SHAPES.items() if name != "lm_head")
WEIGHTS = BLOCKS * BLOCK_WEIGHTS + D * V
# NVIDIA's data sheet of the H200, and PCI Express 5 in one direction.
SHEET = {"read_gb": 4800.0, "fma_gflop": 67000.0, "link_gb": 64.0}
# What else a prediction needs, until it is measured: how many processors there are, GB/s from the
# second cache to all of them and to one, the time that a launch takes by itself and in a graph
# (kernels/cuda/graphs.cu: of so many sequences), and GB/s of a copy on the host.
PROCESSORS, CACHE_GB, PROCESSOR_GB, LAUNCH_US = 132, 5500.0, 80.0, 2.0
GRAPH_US, GRAPH_ROWS, HOST_GB = 1.2, 64, 10.0
# On tensor cores: bytes of a stored weight and GFLOP/s of the data sheet, of which mma.sync reaches
# about half; how long memory takes to answer, and the bytes that a block of a few rows asks for.
TENSOR = {"tf32x3": (4, 494000.0 / 3), "tf32": (4, 494000.0), "bf16": (2, 989000.0)}
TENSOR_PART, LATENCY_US, FEW_ASKED = 0.5, 0.8, 8 * 6 * 8 * 16 * 4
# The kernels of kernels/cuda/matmul.cu: a block's rows and columns, and which part of the multiply-
# adds' rate its inner loop can reach. A quarter of a warp's multiply-adds wait for each load from
# shared memory: 12 loads for 128 of them where a thread has 8 x 4 sums, 12 for 32 where it has
# 8 x 1, 5 for 4 where it has one.
KERNELS = {"one": (1, 16, 0.2), "eight": (8, 16, 0.4), "many": (32, 32, 0.8),
           "large": (128, 64, 0.9)}
ROUNDS = 9


def measured(program, tiny):
    """{"device": text, ("limit", name): n, ("gemm", name, M): [ours, ...],
    ("decode" or "prefill", precision, n): ms}"""
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


def predicted_fast(precision, k, n, m, limits):
    """The same of kernels/cuda/fast.cu: tiles of 16 rows wait for what their blocks, at most three
    on a processor, have asked for at once; larger ones for the second cache."""
    size, gflop = TENSOR[precision]
    small = math.ceil(m / 16) * math.ceil(n / 16)
    tile = 16 if m <= 16 or small <= 2 * PROCESSORS else 64
    blocks = math.ceil(m / tile) * math.ceil(n / tile)
    busy = min(blocks, PROCESSORS)
    asked = min(3, math.ceil(blocks / PROCESSORS)) * FEW_ASKED if tile == 16 else math.inf
    each = min(PROCESSOR_GB, 1e-3 * asked / LATENCY_US)
    seconds = max(
        1e-9 * size * k * n / min(limits["read_gb"], busy * each),
        1e-9 * k * tile * (4 + size) * blocks / min(CACHE_GB, busy * PROCESSOR_GB),
        2e-9 * k * tile * tile * math.ceil(blocks / PROCESSORS)
        / (TENSOR_PART * gflop / PROCESSORS))
    return 1e-3 * LAUNCH_US + 1e3 * seconds


def tiles_of(kernel, n, m):
    rows, columns, _ = KERNELS[kernel]
    return math.ceil(m / rows) * math.ceil(n / columns)


def kernel_for(n, m):
    """As linear_rows in kernels/cuda/matmul.cu chooses."""
    if m == 1:
        return "one"
    if m <= 8 or tiles_of("eight", n, m) <= 2 * PROCESSORS:
        return "eight"
    return "many" if m < 96 or tiles_of("large", n, m) < 2 * PROCESSORS else "large"


def predicted_product(k, n, m, limits):
    """Milliseconds of (m, k) @ (k, n): a launch, and the largest of the weights' way from memory,
    all blocks' slices' way from the second cache, and the multiply-adds of the busiest
    processor."""
    kernel = kernel_for(n, m)
    rows, columns, part = KERNELS[kernel]
    blocks = tiles_of(kernel, n, m)
    busy = min(blocks, PROCESSORS)
    seconds = max(
        4e-9 * k * n / min(limits["read_gb"], busy * PROCESSOR_GB),
        4e-9 * k * (rows + columns) * blocks / min(CACHE_GB, busy * PROCESSOR_GB),
        2e-9 * k * rows * columns * math.ceil(blocks / PROCESSORS)
        / (part * limits["fma_gflop"] / PROCESSORS))
    return 1e-3 * LAUNCH_US + 1e3 * seconds


def predicted_attention(n, limits):
    """Milliseconds of a prompt of n: 16 rows share each page of keys and values, and 6 loads from
    shared memory come with 32 multiply-adds of a warp."""
    seen = n * (n + 64) / 2
    seconds = max(2e-9 * 2 * D * seen / (0.7 * limits["fma_gflop"]),
                  4e-9 * 2 * D * seen / 16 / CACHE_GB)
    return 1e-3 * LAUNCH_US + 1e3 * seconds


def predicted_pass(kind, n, limits, precision="exact"):
    """Milliseconds: the products, attention, and what else is launched in each block (two norms,
    the cache) and around them (two embeddings, an addition, the last norm)."""
    products = {name: predicted_product(*shape, n, limits) if precision == "exact"
                else predicted_fast(precision, *shape, n, limits) for name, shape in SHAPES.items()}
    head = products.pop("lm_head")
    attention = predicted_attention(n if kind == "prefill" else 1, limits)
    launches = BLOCKS * (len(products) + 4) + 5
    is_graph = kind == "decode" and n <= GRAPH_ROWS
    return BLOCKS * (sum(products.values()) + attention + 3e-3 * LAUNCH_US) + head \
        + 4e-3 * LAUNCH_US - is_graph * launches * 1e-3 * (LAUNCH_US - GRAPH_US)


def saves_limit(n, limits):
    """Milliseconds: the pass, and beside it every block's output on its way to the host."""
    return max(limit_of(WEIGHTS, n, limits), 4e-6 * BLOCKS * n * D / limits["link_gb"])


def predicted_saves(n, limits):
    """Milliseconds: each output is packed by a launch of its own. The way to the host and a copy
    there take place beside the pass, but for the last one's."""
    megabytes = 4e-6 * n * D
    packing = BLOCKS * (1e-3 * LAUNCH_US + 2 * megabytes / limits["read_gb"])
    return max(predicted_pass("prefill", n, limits) + packing,
               BLOCKS * megabytes / min(limits["link_gb"], HOST_GB)) \
        + megabytes / limits["link_gb"] + megabytes / HOST_GB


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
    yield ["", "limit, ms", "predicted, ms", "Interpose exact, ms", "of the limit", *names]
    for kind, counts in (("decode", DECODE), ("prefill", PREFILL)):
        for n in counts:
            limit, ours = limit_of(WEIGHTS, n, limits), found.get((kind, "exact", n))
            yield [pass_named(kind, n), cell(limit), cell(predicted_pass(kind, n, limits)),
                   cell(ours), part(limit, ours),
                   *(cell(others.get((name, kind, n))) for name in names)]
    for n in SAVES:
        limit, ours = saves_limit(n, limits), found.get(("saves", "exact", n))
        yield [f"prefill, every block's output saved: {n}", cell(limit),
               cell(predicted_saves(n, limits)), cell(ours), part(limit, ours), *("" for _ in names)]


def pass_named(kind, n):
    return f"{kind}: {'a token of each of' if kind == 'decode' else 'all logits of'} {n}"


def fast_of(found, limits):
    yield ["", *(f"{precision} {what}" for precision in TENSOR
                 for what in ("limit, ms", "predicted, ms", "Interpose, ms"))]
    for kind, counts in (("decode", DECODE), ("prefill", PREFILL)):
        for n in counts:
            yield [pass_named(kind, n), *(cell(ms) for precision in TENSOR for ms in (
                limit_of(WEIGHTS, n, limits, precision),
                predicted_pass(kind, n, limits, precision), found.get((kind, precision, n))))]


def gemms_of(found, limits):
    yield ["product", "rows", "limit, us", "predicted, us", "Interpose exact, us", "of the limit",
           "cuBLAS fp32, us", "cuBLAS TF32, us"]
    for name, (k, n) in SHAPES.items():
        for m in GEMM_ROWS:
            limit = limit_of(k * n, m, limits)
            ours, blas, tf32 = (found.get(("gemm", name, m), []) + [None] * 3)[:3]
            yield [name, str(m), micro(limit), micro(predicted_product(k, n, m, limits)),
                   micro(ours), part(limit, ours), micro(blas), micro(tf32)]


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

A prediction adds what the kernels of `kernels/cuda/` are made of: how many blocks there are for {PROCESSORS} processors ({PROCESSOR_GB:.0f} GB/s to
one, {CACHE_GB:.0f} from the second cache to all), what share of an inner loop is multiply-adds ({", ".join(f"{name} {part:.0%}" for name, (_, _, part) in KERNELS.items())}),
and {LAUNCH_US:.0f} us for a launch, {GRAPH_US} in a graph. Copies run beside the arithmetic, so the largest of these times counts. Saves leave while
the pass goes on; on the host they are copied once more, at {HOST_GB:.0f} GB/s. On tensor cores mma.sync
reaches half of the data sheet's rate, and a block of few rows has {FEW_ASKED // 1024} KB of weights on their way, which take {LATENCY_US} us.

- Device: {found.get("device", "none")}
- Limits: reads {limits["read_gb"]:.0f} GB/s, multiply-adds {limits["fma_gflop"]:.0f} GFLOP/s, to the host {limits["link_gb"]:.0f} GB/s

{table(rows_of(found, others, limits))}

{table(fast_of(found, limits))}

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
