"""The plots of a run, as small PNG files beside its tables."""
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from workloads import (BATCHES, HF, HF_HEADLESS, HF_PLAIN, LENGTHS, LENS, LLAMA, NNSIGHT,
                       NNSIGHT_STOP, OURS, OURS_AVX2)

COLOURS = {OURS: "#1b6ca8", OURS_AVX2: "#7fb3d5", HF_PLAIN: "#d9822b", HF: "#d9822b",
           HF_HEADLESS: "#f0bc84", NNSIGHT: "#5b9a4a", NNSIGHT_STOP: "#a9cf9f", LENS: "#8e5ea2",
           LLAMA: "#b03a2e"}


def points(report, label, places):
    """(x, median, low, high) where that row was measured: places are (x, table's key)."""
    return [(x, *report.values[key, label]) for x, key in places if (key, label) in report.values]


def line(axes, report, label, places):
    if found := points(report, label, places):
        x, middle, low, high = zip(*found)
        axes.fill_between(x, low, high, color=COLOURS.get(label), alpha=0.2, linewidth=0)
        axes.plot(x, middle, "o-", label=label, color=COLOURS.get(label), markersize=4)


def limit_line(axes, report, places):
    keys = {table.key: table for table in report.tables}
    found = [(x, keys[key].limit_of(report.limits)) for x, key in places if key in keys]
    if found:
        axes.plot(*zip(*found), ":", color="black", label="physical limit")


def by_powers(axes, values, xlabel):
    axes.set_xscale("log", base=2)
    axes.set_xticks(values, [str(v) for v in values])
    axes.minorticks_off()
    axes.set_xlabel(xlabel)


def trace(report):
    figure, both = plt.subplots(1, 2, figsize=(9, 3), sharey=True, sharex=True)
    for axes, n in zip(both, (1, 12)):
        labels = [label for label in (LENS, NNSIGHT_STOP, NNSIGHT, HF_HEADLESS, HF, OURS)
                  if (f"trace {n}", label) in report.values]
        for label in labels:
            middle, low, high = report.values[f"trace {n}", label]
            axes.barh(label, middle, xerr=[[middle - low], [high - middle]],
                      color=COLOURS[label], error_kw={"elinewidth": 1})
            axes.text(high, label, f"  {middle:.1f}", va="center", fontsize=8)
        axes.set_title(f"10-token trace, {n} save{'s' * (n > 1)}", fontsize=10)
        axes.set_xlabel("milliseconds")
        axes.margins(x=0.15)
    return figure


def decode(report):
    figure, axes = plt.subplots(figsize=(5, 3.4))
    places = [(n, f"decode {n}") for n in BATCHES]
    for label in (HF_PLAIN, LLAMA, OURS):
        line(axes, report, label, places)
    limit_line(axes, report, places)
    by_powers(axes, BATCHES, "sequences")
    axes.set_ylabel("milliseconds a step")
    axes.set_ylim(bottom=0)
    axes.set_title("Decode", fontsize=10)
    axes.legend(fontsize=8)
    return figure


def prefill(report):
    figure, both = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    for axes, which in zip(both, ("all", "last")):
        places = [(n, f"prefill {n} {which}") for n in LENGTHS]
        for label in (OURS, OURS_AVX2, HF_PLAIN, NNSIGHT, LENS):
            line(axes, report, label, places)
        limit_line(axes, report, places)
        by_powers(axes, LENGTHS, "tokens of the prompt")
        axes.set_title(f"Prefill, {which} logits", fontsize=10)
    both[0].set_ylim(bottom=0)
    both[0].set_ylabel("tokens a second")
    both[0].legend(fontsize=8, loc="lower right")
    return figure


def latency(report):
    """How the answers of the open loop and of the light user are spread."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    for (key, label), value in report.values.items():
        if key == "open loop" and "HF's" not in label:
            colour = COLOURS[OURS if label.startswith(OURS) else HF]
            style = "-" if "90%" in label else "--"
            spread(left, [1e3 * s for s in value.latency.seconds], label, colour, style)
    left.set_title("Open loop, Poisson arrivals", fontsize=10)
    for label, colour in (("alone", COLOURS[OURS_AVX2]), ("beside the flood", COLOURS[OURS])):
        if row := report.rows.get(("fairness", label)):
            spread(right, [1e3 * s for s in row.seconds], f"light user {label}", colour, "-")
    right.set_title("10-token traces of a light user", fontsize=10)
    left.set_xlim(left=0)
    right.set_xscale("log")
    for axes in (left, right):
        axes.set_xlabel("milliseconds from arrival to answer")
        axes.set_ylim(0, 1)
        if axes.lines:
            axes.legend(fontsize=6.5, loc="lower right")
    left.set_ylabel("share of answers that came within")
    return figure


def spread(axes, values, label, colour, style):
    shares = [(i + 1) / len(values) for i in range(len(values))]
    axes.step(values, shares, where="post", label=label, color=colour, linestyle=style)


def scaling(report):
    figure, four = plt.subplots(2, 2, figsize=(9, 6.4))
    series(four[0][0], report, "read 128", "block {n} read", range(12), "block that is read",
           "One position of 128 tokens is read")
    series(four[0][1], report, "saves 128", "{n} residual stream{s} saved", (1, 4, 12),
           "residual streams saved", "Saves of 128 tokens, 393 kB each")
    series(four[1][0], report, "at once", "{n} user{s}", [2 ** k for k in range(8)], "",
           "10-token traces, until all are answered")
    series(four[1][1], report, "rows", "{n} token{s}", [2 ** k for k in range(11)], "",
           "One pass, last logits")
    if ("read 128", "full forward, last logits") in report.values:
        four[0][0].axhline(report.values["read 128", "full forward, last logits"][0], color="black",
                           linestyle=":", label="full forward, last logits")
        four[0][0].legend(fontsize=8)
    by_powers(four[1][0], [2 ** k for k in range(8)], "users at once")
    by_powers(four[1][1], [2 ** k for k in range(0, 11, 2)], "tokens of the prompt")
    for axes in four[1]:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:,.0f}")
    for axes in four[0]:
        axes.set_ylim(bottom=0)
    figure.tight_layout()
    return figure


def series(axes, report, key, form, numbers, xlabel, title):
    """One table's rows as a line."""
    found = [(n, *report.values[key, label]) for n in numbers
             if (key, label := form.format(n=n, s="s" * (n > 1))) in report.values]
    if found:
        x, middle, low, high = zip(*found)
        axes.fill_between(x, low, high, color=COLOURS[OURS], alpha=0.2, linewidth=0)
        axes.plot(x, middle, "o-", color=COLOURS[OURS], markersize=4)
    axes.set_xlabel(xlabel)
    axes.set_ylabel("milliseconds")
    axes.set_title(title, fontsize=10)


# Each plot, and the tables of which at least one must be there.
PLOTS = {"trace": (trace, ("trace 1", "trace 12")), "decode": (decode, ("decode 1",)),
         "prefill": (prefill, ("prefill 128 all",)),
         "latency": (latency, ("open loop", "fairness")), "scaling": (scaling, ("read 128",))}


def draw(report, folder):
    """Writes those plots that were measured; their names."""
    keys, drawn = {key for key, _ in report.values}, []
    for name, (function, needs) in PLOTS.items():
        if not keys.intersection(needs):
            continue
        figure = function(report)
        figure.savefig(folder / f"{name}.png", dpi=90, bbox_inches="tight")
        plt.close(figure)
        drawn.append(name)
    return drawn
