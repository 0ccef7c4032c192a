"""Puts what build/gpu/bench measures beside the limits and the peers, as bench/gpu.md. Each part is a
process of its own under a time limit, the peers last: whatever becomes of one, it costs its own
cells, where the reason is then. FOLDER/gpu.md and gpu_bench.log have each number as soon as it is
there, bench/gpu.md once all of ours are. Without a GPU the columns of times stay empty and the
limits are a data sheet's: what is predicted from them stands beside.

    gpu.py PROGRAM FOLDER       (make gpu-bench; EMULATE=1: a dry run, into FOLDER alone)
    gpu.py --peer NAME          prints lines as PROGRAM does
"""
import contextlib
import importlib.util
import os
import pathlib
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import typing

ROOT = pathlib.Path(__file__).resolve().parent.parent
D, F, V, BLOCKS, HEADS = 768, 3072, 50257, 12, 12
SHAPES = {"qkv": (D, 3 * D), "proj": (D, D), "fc": (D, F), "mlp_proj": (F, D), "lm_head": (D, V)}
GEMM_ROWS = (1, 8, 64, 512)
DECODE, PREFILL, SAVES = (1, 8, 32, 128), (16, 128, 512, 1024), (16, 512)
PEERS = {"hf": [*(("decode", n) for n in DECODE), *(("prefill", n) for n in PREFILL)],
         "compiled": [("decode", 1), ("prefill", 512)]}  # each takes long to compile
PEER_NAMES = {"hf": "HF eager, ms", "compiled": "torch.compile, ms"}
BLOCK_WEIGHTS = sum(k * n for name, (k, n) in SHAPES.items() if name != "lm_head")
WEIGHTS = BLOCKS * BLOCK_WEIGHTS + D * V
# NVIDIA's data sheet of the H200, PCI Express 5 in one direction, and a small kernel on an H100.
SHEET = {"read_gb": 4800.0, "fma_gflop": 67000.0, "link_gb": 64.0, "graph_us": 1.2}
# On tensor cores: bytes of a stored weight and the data sheet's GFLOP/s.
TENSOR = {"tf32x3": (4, 494000.0 / 3), "tf32": (4, 494000.0), "bf16": (2, 989000.0)}
LIMITS = (("read_gb", "reads", 0, "GB/s"), ("fma_gflop", "multiply-adds", 0, "GFLOP/s"),
          ("link_gb", "to the host", 0, "GB/s"), ("launch_us", "a small kernel", 1, "us"),
          ("graph_us", "in a graph", 1, "us"))
# Kernels of a pass: two embeddings and their sum, the last norm, the rows of the logits and their
# product; of a block two norms, four products, appending and attention (tests/unit/engine.c counts).
# For bf16 one more for each product whose rows are rounded first, as fast.cu chooses it on 132
# processors: that of the logits, and so many of a block's by the number of rows.
KERNELS, BLOCK_KERNELS = 6, 8
ROUNDED = {128: 2, 512: 4, 1024: 4}
PAST = 20       # positions behind which a step decodes
ROUNDS = 9
# In all less than ten minutes. Ours come first, and what is worth most first of all.
OWN_SECONDS = {"exact": 150, "tf32x3": 60, "tf32": 60, "bf16": 60}
PEER_SECONDS = {"cublas": 60, "hf": 70, "compiled": 110}


class Part(typing.NamedTuple):
    name: str           # whose cells these are
    command: list
    seconds: float


class Found:
    """What the parts said: `device`; `limits` by name; `times` {("decode", "exact", n): ms, ("exact",
    product, rows): ms, ...}; and of each part that came to no end, why: in a word, and in full."""

    def __init__(self):
        self.device, self.limits, self.times, self.troubles = None, {}, {}, {}

    def hear(self, line):
        kind, rest = line.split(" ", 1)
        words = rest.split()
        if kind == "device":
            self.device = rest
        elif kind == "limit":
            self.limits[words[0]] = float(words[1])
        else:
            self.times[kind, words[0], int(words[1])] = float(words[2])

    def cell(self, part, key, text):
        """A time by `text`, or why it is missing."""
        if key in self.times:
            return text(self.times[key])
        return self.troubles.get(part, [""])[0]


def parts_of(program, is_tiny):
    """None of the peers in a dry run; nothing at all without the program."""
    if not pathlib.Path(program).exists():
        return
    tiny = ["tiny"] if is_tiny else []
    for precision, seconds in OWN_SECONDS.items():
        yield Part(precision, [program, precision, *tiny], seconds)
    for name, seconds in PEER_SECONDS.items() if not is_tiny else ():
        peer = [sys.executable, __file__, "--peer", name]
        yield Part(name, [program, name] if name == "cublas" else peer, seconds)


def library_path():
    """Where cuBLAS may also be: torch brings one along."""
    spec = importlib.util.find_spec("nvidia")
    folders = [str(folder) for place in (spec.submodule_search_locations if spec else [])
               for folder in pathlib.Path(place).glob("*/lib")]
    return ":".join([*filter(None, [os.environ.get("LD_LIBRARY_PATH")]), *folders,
                     os.environ.get("CUDA_HOME", "/usr/local/cuda") + "/lib64"])


def run(part, hear):
    """Calls hear with each line that it prints. Gives why it came to no end, in a word and in full, or
    None."""
    lines = queue.Queue()
    until = time.monotonic() + part.seconds
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(part.command, stdout=subprocess.PIPE, stderr=errors, text=True,
                                   errors="replace", start_new_session=True,
                                   env={**os.environ, "LD_LIBRARY_PATH": library_path()})
        threading.Thread(target=read, args=(process.stdout, lines), daemon=True).start()
        try:
            while (line := lines.get(timeout=max(0, until - time.monotonic()))) is not None:
                hear(line)
            status = process.wait(max(0, until - time.monotonic()))
        except (queue.Empty, subprocess.TimeoutExpired):
            return "not finished", f"not finished after {part.seconds} s"
        finally:    # with what it has started; and on, should even that not end it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
        if status == 0:
            return None
        how = signal.Signals(-status).name if status < 0 else f"exit {status}"
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().splitlines()
        return how, how + (f": {said[-1][:200]}" if said else "")


def read(stream, lines):
    for line in stream:
        lines.put(line.rstrip("\n"))
    lines.put(None)


def measure(parts, folder):
    """Yields what was found so far, after each part. The page and the log are written line by line."""
    found = Found()
    with open(folder / "gpu_bench.log", "w", buffering=1) as log:
        for part in parts:
            def hear(line):
                log.write(line + "\n")
                try:
                    found.hear(line)
                except (ValueError, IndexError):
                    return      # not one of ours
                (folder / "gpu.md").write_text(page(found))
            if trouble := run(part, hear):
                found.troubles[part.name] = trouble
                log.write(f"{part.name}: {trouble[1]}\n")
            (folder / "gpu.md").write_text(page(found))
            yield part, found


def limit_of(weights, n_rows, limits, precision="exact"):
    """Milliseconds: the larger of reading the weights and multiplying by them."""
    size, gflop = TENSOR.get(precision, (4, limits["fma_gflop"]))
    return 1e3 * max(size * weights / (1e9 * limits["read_gb"]),
                     2 * weights * n_rows / (1e9 * gflop))


def kernels_of(n, precision="exact"):
    rounded = 1 + BLOCKS * ROUNDED.get(n, 0) if precision == "bf16" else 0
    return KERNELS + BLOCKS * BLOCK_KERNELS + rounded


def predicted(kind, n, limits, precision="exact"):
    """Milliseconds: the limit, attention, which is exact in every precision, and all kernels."""
    seen = n * (n + 1) / 2 if kind == "prefill" else n * (PAST + 1)     # keys by queries
    return (limit_of(WEIGHTS, n, limits, precision) + 4e-6 * BLOCKS * D * seen / limits["fma_gflop"]
            + 1e-3 * kernels_of(n, precision) * limits["graph_us"])


def saves_limit(n, limits):
    """Milliseconds: the pass, and beside it every block's output on its way to the host."""
    return max(limit_of(WEIGHTS, n, limits), 4e-6 * BLOCKS * n * D / limits["link_gb"])


def predicted_saves(n, limits):
    """The same, with a kernel for each output that packs it."""
    return max(predicted("prefill", n, limits) + 1e-3 * BLOCKS * limits["graph_us"],
               saves_limit(n, limits))


def peer(name):
    """Prints "decode hf 1 5.9" and so on, in ms."""
    import torch
    import transformers
    if not torch.cuda.is_available():
        sys.exit("torch sees no GPU")
    torch.backends.cuda.matmul.allow_tf32 = False
    peer_on("cuda", name, torch, transformers, transformers.GPT2Config())


def peer_on(device, name, torch, transformers, config):
    run = transformers.GPT2LMHeadModel(config).eval().to(device)
    if name == "compiled":
        run = torch.compile(run, dynamic=False)
    for kind, n in PEERS[name]:
        with torch.inference_mode():
            ms = time_of(passes(run, kind, n, device, torch, transformers), torch)
        print(kind, name, n, f"{ms:.5f}", flush=True)


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


def milli(milliseconds):
    return f"{milliseconds:.3f}"


def micro(milliseconds):
    return f"{1e3 * milliseconds:.1f}"


def share_of(limit):
    return lambda milliseconds: f"{100 * limit / milliseconds:.0f} %"


def passes_named():
    for kind, counts, of in (("decode", DECODE, "a token of each of"),
                             ("prefill", PREFILL, "all logits of")):
        for n in counts:
            yield kind, n, f"{kind}: {of} {n}"


def rows_of(found, limits):
    yield ["", "limit, ms", "predicted, ms", "Interpose exact, ms", "of the limit",
           *PEER_NAMES.values()]
    for kind, n, name in passes_named():
        limit, key = limit_of(WEIGHTS, n, limits), (kind, "exact", n)
        yield [name, milli(limit), milli(predicted(kind, n, limits)),
               found.cell("exact", key, milli),
               found.cell("exact", key, share_of(limit)),
               *(found.cell(peer, (kind, peer, n), milli) if (kind, n) in PEERS[peer] else ""
                 for peer in PEER_NAMES)]
    for n in SAVES:
        limit, key = saves_limit(n, limits), ("saves", "exact", n)
        yield [f"prefill, every block's output saved: {n}", milli(limit),
               milli(predicted_saves(n, limits)), found.cell("exact", key, milli), found.cell("exact", key, share_of(limit)),
               *("" for _ in PEER_NAMES)]


def fast_of(found, limits):
    yield ["", *(f"{precision} {what}" for precision in TENSOR
                 for what in ("limit, ms", "predicted, ms", "Interpose, ms"))]
    for kind, n, name in passes_named():
        yield [name, *(text for precision in TENSOR for text in (
            milli(limit_of(WEIGHTS, n, limits, precision)),
            milli(predicted(kind, n, limits, precision)),
            found.cell(precision, (kind, precision, n), milli)))]


def gemms_of(found, limits):
    yield ["product", "rows", "limit, us", "Interpose exact, us", "of the limit",
           "cuBLAS fp32, us", "cuBLAS TF32, us", *(f"Interpose {name}, us" for name in TENSOR)]
    for name, (k, n) in SHAPES.items():
        for m in GEMM_ROWS:
            limit, key = limit_of(k * n, m, limits), ("exact", name, m)
            yield [name, str(m), micro(limit), found.cell("exact", key, micro),
                   found.cell("exact", key, share_of(limit)),
                   *(found.cell("cublas", (kind, name, m), micro)
                     for kind in ("cublas", "cublas_tf32")),
                   *(found.cell(kind, (kind, name, m), micro) for kind in TENSOR)]


def table(rows):
    rows = list(rows)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "| " + " | ".join("---" for _ in rows[0]) + " |", *lines[1:]])


def page(found):
    limits = SHEET | found.limits
    whence = "measured in this run" if found.limits else (
        "of the H200's data sheet: **no GPU was at hand, nothing below was measured**, but for the "
        "time of a small kernel, on an H100")
    troubles = "".join(f"- Not all of {part}: {why}\n" for part, (_, why) in found.troubles.items())
    return f"""# The CUDA backend's times

Written by `make gpu-bench`. GPT-2 small with made weights, float32, without HTTP; medians. The limit is the larger of two times:
reading the weights, and multiplying by them without tensor cores, at the limits {whence};
for the faster precisions on tensor cores, at the data sheet's rate. Predicted is, before it is measured, the limit of the pass, plus
attention's multiply-adds without tensor cores, plus the time of a small kernel in a graph for each of its {kernels_of(1)} kernels (up to
{kernels_of(512, "bf16")} with bf16): as if each kernel reached its limit, one behind the other. Products are timed behind one another with other weights each
time, as in a pass, and queued as a graph, ours and cuBLAS's.

- Device: {found.device or "none"}
- Limits: {", ".join(f"{text} {limits[name]:.{digits}f} {unit}" for name, text, digits, unit in LIMITS if name in limits)}
{troubles}
{table(rows_of(found, limits))}

{table(fast_of(found, limits))}

{table(gemms_of(found, limits))}
"""


def main():
    if sys.argv[1] == "--peer":
        peer(sys.argv[2])
        return 0
    program, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    is_tiny = bool(os.environ.get("EMULATE"))
    found = Found()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.md").write_text(page(found))
    for part, found in measure(parts_of(program, is_tiny), folder):
        print(f"{part.name}: {found.troubles.get(part.name, ['', 'done'])[1]}", flush=True)
        is_ours = found.device and not is_tiny and "exact" not in found.troubles
        if is_ours and part.name not in list(OWN_SECONDS)[:-1]:
            (ROOT / "bench/gpu.md").write_text(page(found))
    print(page(found))
    return int(pathlib.Path(program).exists() and not found.device)


if __name__ == "__main__":
    sys.exit(main())
