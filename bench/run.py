#!/usr/bin/env python3
"""Interpose beside what a user would pick instead, on the same random 124M GPT-2 and as many
threads each, in one run: `make bench`, or a part of it: `make bench ONLY=decode,prefill`.

The rows of one table take turns, so that a disturbance of the machine meets all of them. A whole
run writes results.md, the plots and the summary in README.md beside this file; a part of one writes
into build/bench/report.
"""
import argparse
import contextlib
import datetime
import gc
import os
import pathlib
import platform
import re
import signal
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "clients/python"), str(ROOT / "tests")]

import numpy as np
import torch
import transformers

import oracle
import peers
import plots
import report
import targets
import turns
import workloads

PARTS = {"trace": workloads.Bench.trace, "decode": workloads.Bench.decode,
         "prefill": workloads.Bench.prefill, "users": workloads.Bench.many_users,
         "sweep": workloads.Bench.sweep, "fairness": workloads.Bench.fairness,
         "lens": workloads.Bench.logit_lens, "first-byte": workloads.Bench.first_byte,
         "scaling": workloads.Bench.scaling}


def machine():
    text = pathlib.Path("/proc/cpuinfo").read_text()
    names = re.findall(r"model name\s*: (.*)", text)
    flags = re.search(r"flags\s*: (.*)", text)[1].split()
    vector = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
    ids = [re.search(rf"{name}\s*: (\d+)", text)[1] for name in ("cpu family", "model\t")]
    return (f"{names[0]} (family {ids[0]}, model {ids[1]}), {len(names)} cores, {vector}, "
            f"{platform.system()}")


def head(bench, options, limits, load, began):
    """What a reader must know beside the tables."""
    versions = [f"torch {torch.__version__}", f"transformers {transformers.__version__}",
                f"numpy {np.__version__}"]
    for name in ("nnsight", "lens", "llama"):
        peer = getattr(bench, name)
        kind = {"nnsight": "nnsight", "lens": "TransformerLens",
                "llama": "llama-cpp-python"}[name]
        versions.append(f"{kind} absent" if isinstance(peer, peers.Absent)
                        else f"{kind} {peer.version}")
    command = "make bench" + (f" ONLY={options.only}" if options.only else "")
    return [f"- Machine: {machine()}; load average at the start {load:.1f}.",
            f"- Threads: {options.threads} each. Everything in float32.",
            f"- Versions: {', '.join(versions)}, Python {platform.python_version()}.",
            f"- Limits measured in this run: {limits}.",
            f"- {bench.ours.what}",
            f"- Command: `{command}`, {options.rounds} rounds, "
            f"{(time.monotonic() - began) / 60:.1f} minutes, "
            f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}."]


def open_bench(stack, folder, options, result):
    """The servers and the peers. A peer that cannot be opened is told in the tables."""
    def server(isa):
        return peers.Interpose(*stack.enter_context(
            peers.running_server(folder, options.threads, isa)))

    hf = peers.hugging_face(folder)
    ours = server("auto")
    ours_avx2 = server("avx2") if "avx512" in ours.what else None
    return workloads.Bench(
        ours, ours_avx2, hf, peers.opened(peers.NNsight, hf),
        peers.opened(peers.TransformerLens, folder),
        peers.opened(peers.LlamaCpp, folder.with_suffix(".gguf"), hf, options.threads),
        options.rounds, result)


def write(result, lines, folder):
    """The tables and the plots."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.md").write_text("\n".join(
        ["# Results of make bench", "", *lines, *result.markdown()]) + "\n")
    drawn = plots.draw(result, folder)
    print(f"\nwritten into {folder}: {', '.join(['results.md', *(f'{n}.png' for n in drawn)])}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help=f"of {', '.join(PARTS)}, separated by commas")
    options = parser.parse_args()
    chosen = [name for name in options.only.split(",") if name] or list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"there is no part {', '.join(unknown)}: there are {', '.join(PARTS)}")
    # Told to stop, it still stops its servers.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit("stopped"))
    began, load = time.monotonic(), os.getloadavg()[0]
    torch.set_num_threads(options.threads)
    folder = ROOT / "build/models" / peers.NAME
    if not (folder / "model.safetensors").exists():
        oracle.random_gpt2(folder)
    limits = report.Limits(ROOT / "build/bench/limits", options.threads)
    result = report.Report(limits)
    with contextlib.ExitStack() as stack:
        bench = open_bench(stack, folder, options, result)
        gc.freeze()     # walks over what all the peers hold are the time of none of them
        for name in chosen:
            limits.measure()
            try:
                PARTS[name](bench)
            except Exception as e:      # one part's failure leaves the others
                result.failed(name, f"Part {name}", turns.reason(e))
        limits.measure()
        lines = head(bench, options, limits, load, began)
    summary = report.targets_markdown(targets.TARGETS, result)
    print("\n" + "\n".join([*lines, "", *report.measured(summary)]))
    if options.only:
        write(result, lines, ROOT / "build/bench/report")
    else:
        write(result, lines, ROOT / "bench")
        report.fill(ROOT / "bench/README.md", "targets", [*lines, "", *summary])


if __name__ == "__main__":
    main()
