"""What issue 4 asked of the engine's speed, and where a run finds the number."""
from report import Target
from workloads import (HF, HF_HEADLESS, HF_PLAIN, LENGTHS, LENS, LLAMA, NNSIGHT, NNSIGHT_STOP, OURS,
                       OURS_AVX2, PLAIN)

CLIENTS = ", concurrent clients"
HF_USERS, NNSIGHT_USERS = "HF with hooks, one after another", "nnsight, one batch"


def share_of_bandwidth(report):
    """The time that reading the weights takes, of the time of a decode step."""
    table = next((t for t in report.tables if t.key == "decode 1"), None)
    if table is None:
        raise LookupError("not measured in this run")
    return table.limit_of(report.limits) / (1e3 * report.median("decode 1", OURS))


def slowest_prefill(ours, which):
    """Of all lengths, the least advance."""
    return lambda report: min(report.faster(f"prefill {n} {which}", ours, HF_PLAIN)
                              for n in LENGTHS)


def share(key, label, whole):
    return lambda report: report.median(key, label) / report.median(key, whole)


def more(key, label, base):
    """How much more one row takes than another."""
    return lambda report: report.median(key, label) / report.median(key, base) - 1


FULL = "full forward, last logits"
TIMES, PERCENT = "{:.2f}x", "{:.1%}"

TARGETS = [
    Target("Decode, one sequence, beside HF", 2.4, TIMES,
           lambda r: r.faster("decode 1", OURS, HF_PLAIN)),
    Target("Decode, one sequence, of the memory-bandwidth limit", 0.6, PERCENT, share_of_bandwidth),
    Target("Decode, 8 sequences, beside llama.cpp", 1.0, TIMES,
           lambda r: r.faster("decode 8", OURS, LLAMA)),
    Target("Prefill beside HF, AVX2, all logits, the least of four lengths", 1.6, TIMES,
           slowest_prefill(OURS_AVX2, "all")),
    Target("Prefill beside HF, AVX2, last logits, the least of four lengths", 2.2, TIMES,
           slowest_prefill(OURS_AVX2, "last")),
    Target("Prefill beside HF, AVX-512, all logits, the least of four lengths", 2.3, TIMES,
           slowest_prefill(OURS, "all")),
    Target("Prefill beside HF, AVX-512, last logits, the least of four lengths", 3.2, TIMES,
           slowest_prefill(OURS, "last")),
    Target("10-token trace, one save, beside the fastest peer's whole pass", 2.8, TIMES,
           lambda r: r.faster("trace 1", OURS, HF, NNSIGHT, LENS)),
    Target("the same beside the fastest peer that leaves out its head", 2.8, TIMES,
           lambda r: r.faster("trace 1", OURS, HF_HEADLESS, NNSIGHT_STOP)),
    Target("32 users with different edits, AVX2, beside the fastest peer", 3.5, TIMES,
           lambda r: r.faster("users 32", OURS_AVX2 + CLIENTS, HF_USERS, NNSIGHT_USERS)),
    Target("32 users with different edits, AVX-512, beside the fastest peer", 5.0, TIMES,
           lambda r: r.faster("users 32", OURS + CLIENTS, HF_USERS, NNSIGHT_USERS)),
    *(Target(f"Reading one activation of block 0, of a full forward, {n} tokens", 0.15, PERCENT,
             share(f"read {n}", "block 0 read", FULL), at_least=False) for n in (10, 128, 512)),
    *(Target(f"Saving all 12 residual streams over one, {n} tokens{how or ', the Python client'}", 0.05,
             PERCENT, more(f"saves {n}", f"12 residual streams saved{how}",
                           f"1 residual stream saved{how}"), at_least=False)
      for n in (10, 128) for how in ("", PLAIN)),
    Target("A light user's p99 beside a flood, above that alone, in passes", 2.0, "{:.1f}",
           lambda r: r.value("fairness", "passes"), at_least=False),
]
