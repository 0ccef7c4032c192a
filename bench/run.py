#!/usr/bin/env python3
"""Interpose beside what a user would pick instead, on the same random 124M GPT-2 and as many threads
each, in one run, as one table of medians: `make bench`.

The rows of one measurement take turns, so that a disturbance of the machine meets all of them. Ours
includes the Python client and HTTP over loopback; the peers run inside this process. The physical
limits are measured in the same run by build/bench/limits: reads of memory larger than the caches, and
fused multiply-adds from registers.
"""
import argparse
import concurrent.futures
import contextlib
import os
import pathlib
import platform
import random
import re
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "clients/python"), str(ROOT / "tests")]

import numpy as np
import torch
import transformers

import interpose
import oracle

HEAD = "lm_head.output"


@contextlib.contextmanager
def running_server(folder, threads, isa):
    """A server on a free port; yields its address and its ready line."""
    command = [str(ROOT / "build/interposed"), "--model", str(folder), "--port", "0",
               "--threads", str(threads), "--isa", isa]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if found := re.search(r"http://[\d.]+:\d+", line):
                yield found[0], line.strip()
                return
        raise SystemExit("the server did not start")
    finally:
        process.terminate()
        process.wait()


def take_turns(rows, rounds, warmups=2):
    """label -> sorted seconds of each round; every round calls every row once."""
    for function in rows.values():
        for _ in range(warmups):
            function()
    seconds = {label: [] for label in rows}
    for _ in range(rounds):
        for label, function in rows.items():
            start = time.perf_counter()
            function()
            seconds[label].append(time.perf_counter() - start)
    return {label: sorted(s) for label, s in seconds.items()}


def measure_limits(threads, isa):
    """Bytes a second read from memory and floating-point operations a second from registers."""
    lines = subprocess.run([str(ROOT / "build/bench/limits"), str(threads)], check=True, text=True,
                           stdout=subprocess.PIPE).stdout.split("\n")
    found = {name: float(value) * 1e9 for name, value in (line.split() for line in lines if line)}
    widest = "avx512_gflop" if "avx512_gflop" in found and isa != "avx2" else "avx2_gflop"
    return found["read_gb"], found[widest]


class Table:
    def __init__(self):
        self.lines = []

    def section(self, title, unit, seconds, convert, limit, better="lower"):
        """One block of rows; the first row is ours, ratios are of the others to it."""
        self.lines += ["", f"### {title}", "", f"| | {unit}, median | 10th - 90th | Interpose is |",
                       "| --- | --- | --- | --- |"]
        ours = None
        for label, s in seconds.items():
            middle = convert(statistics.median(s))
            low, high = sorted((convert(s[len(s) // 10]), convert(s[-1 - len(s) // 10])))
            ours = ours or middle
            ratio = middle / ours if better == "lower" else ours / middle
            words = "" if label.startswith("Interpose") else f"{ratio:.2f}x as fast"
            self.lines.append(f"| {label} | {middle:.4g} | {low:.4g} - {high:.4g} | {words} |")
        if limit:
            self.lines.append(f"| *limit: {limit[0]}* | {limit[1]:.4g} | | |")
        print("\n".join(self.lines[-len(seconds) - 5:]), flush=True)


class Bench:
    def __init__(self, folder, host, threads, rounds, isa):
        self.threads, self.rounds, self.table = threads, rounds, Table()
        self.ours = interpose.LanguageModel("random-124m", host=host)
        self.hf = oracle.Oracle(folder).model
        self.hf.set_attn_implementation("sdpa")
        self.nnsight = self.open_nnsight()
        self.rng = random.Random(0)
        self.vocab, self.n_blocks = self.hf.config.vocab_size, self.hf.config.n_layer
        weights = sum(p.numel() for p in self.hf.parameters())
        self.weight_bytes = 4 * weights
        self.flops_token = 2 * (weights - self.hf.transformer.wpe.weight.numel())
        head = 2 * self.vocab * self.hf.config.n_embd
        self.flops_token_headless = self.flops_token - head
        self.isa, self.bandwidth, self.flops = isa, 0.0, 0.0
        self.measure_limits()

    def open_nnsight(self):
        try:
            import nnsight
        except ImportError:
            print("nnsight is not installed: its rows are left out")
            return None
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(ROOT / "models/demo")
        tokenizer.pad_token = tokenizer.pad_token or "<|endoftext|>"
        return nnsight.LanguageModel(self.hf, tokenizer=tokenizer)

    def measure_limits(self):
        """The best seen so far: a neighbour on the machine can only take from a limit."""
        bandwidth, flops = measure_limits(self.threads, self.isa)
        self.bandwidth, self.flops = max(self.bandwidth, bandwidth), max(self.flops, flops)

    def prompt(self, length):
        return [self.rng.randrange(self.vocab) for _ in range(length)]

    # (a) one short trace, one save
    def trace(self):
        ids, block = self.prompt(10), self.n_blocks - 1
        tensor = torch.tensor([ids])
        module = self.hf.transformer.h[block]

        def ours():
            with self.ours.trace() as tracer:
                with tracer.invoke(ids):
                    hidden = self.ours.transformer.h[block].output[0].save()
            return hidden.value

        def hf():
            with torch.no_grad():
                return self.hf(tensor)

        def hf_hook():
            kept = []
            handle = module.register_forward_hook(lambda m, a, out: kept.append(out.clone()))
            hf()
            handle.remove()
            return kept

        def nnsight():
            with self.nnsight.trace(tensor):
                hidden = self.nnsight.transformer.h[block].output.save()
            return hidden

        rows = {"Interpose, over loopback": ours, "HF transformers": hf, "HF with a hook": hf_hook}
        if self.nnsight:
            rows["nnsight"] = nnsight
        limit = 1e3 * max(10 * self.flops_token_headless / self.flops,
                          (self.weight_bytes - 4 * self.vocab * 768) / self.bandwidth)
        self.table.section("10-token trace, one save at the last block", "ms",
                           take_turns(rows, self.rounds), lambda s: 1e3 * s,
                           ("the blocks' arithmetic or weights, no head", limit))

    # (b) decode
    def decode(self):
        ids, n = self.prompt(10), 32

        def ours(n):
            with self.ours.generate(max_new_tokens=n) as generator:
                with generator.invoke(ids):
                    pass
            return generator.output

        def hf(n):
            with torch.no_grad():
                return self.hf.generate(torch.tensor([ids]), max_new_tokens=n, min_new_tokens=n,
                                        do_sample=False, pad_token_id=0,
                                        attention_mask=torch.ones(1, 10, dtype=torch.long))

        rows = {"Interpose": lambda: ours(n + 1), "Interpose, first token": lambda: ours(1),
                "HF transformers": lambda: hf(n + 1), "HF, first token": lambda: hf(1)}
        s = take_turns(rows, self.rounds, 1)
        self.measure_limits()
        both = {"Interpose": [a - statistics.median(s["Interpose, first token"])
                              for a in s["Interpose"]],
                "HF transformers": [a - statistics.median(s["HF, first token"])
                                    for a in s["HF transformers"]]}
        self.table.section("Decode, one sequence, 32 tokens behind a prompt of 10", "ms a token",
                           both, lambda t: 1e3 * t / n,
                           ("weight bytes / memory bandwidth",
                            1e3 * self.weight_bytes / self.bandwidth))

    # (c) prefill
    def prefill(self, length, last_only):
        ids = self.prompt(length)
        tensor = torch.tensor([ids])

        def ours():
            with self.ours.trace() as tracer:
                with tracer.invoke(ids):
                    logits = self.ours.lm_head.output
                    # One number of each row: the rows are computed, not shipped.
                    (logits[:, -1, :8] if last_only else logits[:, :, :1]).save()

        def hf():
            with torch.no_grad():
                return self.hf(tensor, logits_to_keep=1 if last_only else 0, use_cache=False)

        flops = (self.flops_token_headless * length + (self.flops_token - self.flops_token_headless)
                 if last_only else self.flops_token * length)
        self.table.section(
            f"Prefill of {length} tokens, {'last logits' if last_only else 'all logits'}",
            "tokens / s", take_turns({"Interpose": ours, "HF transformers": hf},
                                     max(5, self.rounds // 2)),
            lambda s: length / s, ("arithmetic: multiply-adds from registers",
                                   length * self.flops / flops), better="higher")

    # (d) many users
    def users(self, n=32):
        users = [(self.prompt(self.rng.randint(8, 64)), self.rng.randrange(self.n_blocks),
                  self.rng.randrange(12)) for _ in range(n)]
        last = self.n_blocks - 1

        def one_of_ours(user):
            ids, block, head = user
            with self.ours.trace() as tracer:
                with tracer.invoke(ids):
                    self.ours.transformer.h[block].attn.value.output[:, head] = 0.0
                    saved = self.ours.lm_head.output[:, -1].save()
            return saved.value

        pool = concurrent.futures.ThreadPoolExecutor(n)

        def ours():
            return list(pool.map(one_of_ours, users))

        def ablate(head):
            def change(module, args, out):
                out = out.clone()
                out[..., 2 * 768 + 64 * head:2 * 768 + 64 * (head + 1)] = 0.0
                return out
            return change

        def hf():
            for ids, block, head in users:
                module = self.hf.transformer.h[block].attn.c_attn
                handle = module.register_forward_hook(ablate(head))
                with torch.no_grad():
                    self.hf(torch.tensor([ids]), logits_to_keep=1)
                handle.remove()

        def nnsight():
            with self.nnsight.trace() as tracer:
                for ids, block, head in users:
                    with tracer.invoke(torch.tensor([ids])):
                        columns = slice(2 * 768 + 64 * head, 2 * 768 + 64 * (head + 1))
                        self.nnsight.transformer.h[block].attn.c_attn.output[..., columns] = 0.0
                        self.nnsight.lm_head.output[:, -1].save()

        rows = {"Interpose, concurrent clients": ours, "HF with hooks, one after another": hf}
        if self.nnsight:
            rows["nnsight, one batch"] = nnsight
        tokens = sum(len(ids) for ids, _, _ in users)
        flops = tokens * self.flops_token_headless + n * (self.flops_token -
                                                          self.flops_token_headless)
        self.table.section(f"{n} users of 8 to 64 tokens, an edit each, last logits", "s",
                           take_turns(rows, max(3, self.rounds // 4), 1), lambda s: s,
                           ("arithmetic: multiply-adds from registers",
                            flops / self.flops))


def machine():
    names = re.findall(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    flags = re.search(r"flags\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())[1].split()
    vector = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
    return f"{names[0]}, {len(names)} cores, {vector}, {platform.system()}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--isa", default="auto", help="held to avx2, our kernels; torch is then "
                        "held to it by ATEN_CPU_CAPABILITY and MKL/oneDNN variables, set by you")
    parser.add_argument("--only", help="of trace, decode, prefill, users")
    parser.add_argument("--write", help="also write the table to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    folder = ROOT / "build/models/random-124m"
    if not (folder / "model.safetensors").exists():
        oracle.random_gpt2(folder)
    with running_server(folder, options.threads, options.isa) as (host, ready):
        bench = Bench(folder, host, options.threads, options.rounds, options.isa)
        parts = {"trace": bench.trace, "decode": bench.decode,
                 "prefill": lambda: [bench.prefill(n, last) for n in (128, 512)
                                     for last in (False, True)],
                 "users": bench.users}
        for name, part in parts.items():
            if options.only in (None, name):
                part()
        head = [f"{machine()}; {options.threads} threads each; torch {torch.__version__}, "
                f"transformers {transformers.__version__}, numpy {np.__version__}.",
                f"Limits measured in this run: reads {bench.bandwidth / 1e9:.1f} GB/s, multiply-adds "
                f"{bench.flops / 1e9:.0f} GFLOP/s; load average at the start {load:.1f}.",
                re.sub(r"on http\S+ ", "", ready), "",
                f"Command: `make bench`, {options.rounds} rounds that take turns."]
        print("\n" + "\n".join(head))
        if options.write:
            pathlib.Path(options.write).write_text("\n".join(head + bench.table.lines) + "\n")


if __name__ == "__main__":
    main()
