"""The tables of a run as Markdown, each with its physical limit, and the targets that it met."""
import dataclasses
import re
import subprocess

OURS = "Interpose"


class Limits:
    """What this machine can do at most, by build/bench/limits: the best seen during the run, since
    a neighbour on the machine can only take from a limit."""

    def __init__(self, program, threads):
        self.program, self.threads, self.best = program, threads, {}

    def measure(self):
        text = subprocess.run([str(self.program), str(self.threads)], check=True, text=True,
                              stdout=subprocess.PIPE).stdout
        self.take({name: float(value) * 1e9
                   for name, value in (line.split() for line in text.splitlines())})

    def take(self, found):
        for name, value in found.items():
            self.best[name] = max(self.best.get(name, 0.0), value)

    def near(self):
        """Those of this moment alone, for a table that memory bandwidth decides: it moves."""
        limits = Limits(self.program, self.threads)
        limits.measure()
        self.take(limits.best)
        return limits

    @property
    def bandwidth(self):
        return self.best["read_gb"]

    @property
    def flops(self):
        return max(self.best["avx2_gflop"], self.best.get("avx512_gflop", 0.0))

    def __str__(self):
        return "reads {:.1f} GB/s, multiply-adds {}".format(self.bandwidth / 1e9, ", ".join(
            f"{value / 1e9:.0f} GFLOP/s ({name.split('_')[0].upper()})"
            for name, value in self.best.items() if "gflop" in name))


@dataclasses.dataclass
class Table:
    """One table: cells are numbers, texts, or functions of no argument that give one at the end."""
    key: str
    title: str
    columns: list
    lines: list = dataclasses.field(default_factory=list)
    limit: tuple = None         # (words, function of the Limits -> a number in the table's unit)
    notes: list = dataclasses.field(default_factory=list)
    limits: object = None       # those of its moment, where they are not the run's

    def limit_of(self, limits):
        return self.limit[1](self.limits or limits)

    def markdown(self, limits):
        out = [f"### {self.title}", "", "| | " + " | ".join(self.columns) + " |",
               "| --- |" + " --- |" * len(self.columns)]
        for label, *cells in self.lines:
            out.append(f"| {label} | " + " | ".join(number(c) for c in cells) + " |")
        if self.limit:
            blanks = " |" * (len(self.columns) - 1)
            out.append(f"| *limit: {self.limit[0]}* | {number(self.limit_of(limits))} |{blanks}")
        return out + [line for note in self.notes for line in ("", note)]


def number(x):
    if isinstance(x, str):
        return x
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.4g}"


class Report:
    def __init__(self, limits):
        self.limits, self.tables = limits, []
        self.rows = {}          # (key of a table, label) -> the Row measured, for ratios and plots
        self.values = {}        # (key, name) -> a number, for targets and plots

    def add(self, table):
        self.tables.append(table)
        print("\n" + "\n".join(table.markdown(self.limits)), flush=True)

    def timings(self, key, title, unit, rows, convert, limit, last="peers", notes=(), limits=None):
        """Medians with the 10th and 90th percentile of rows: label -> Row. The last column compares
        with the first row: how many times as fast as each of the "peers" that one is, each row as
        "share" of its time, or "" for rows that are no rivals."""
        heading = {"peers": f"{OURS} is", "share": "of the first row", "": ""}[last]
        table = Table(key, title, [f"{unit}, median", "10th - 90th", heading], limit=limit,
                      notes=list(notes), limits=limits)
        first = next(iter(rows.values()))
        for label, row in rows.items():
            self.rows[key, label] = row
            if row.failed:
                table.lines.append((label, "failed", row.failed, ""))
                continue
            low, high = sorted((convert(row.at(0.1)), convert(row.at(0.9))))
            self.values[key, label] = (convert(row.median), low, high)
            compared = ""
            if last and row is not first and not first.failed:
                times = row.median / first.median
                is_peer = last == "peers" and not label.startswith(OURS)
                compared = (f"{times:.2f}x as fast" if is_peer else
                            f"{times:.1%}" if times < 2 else f"{times:.1f} times")
            table.lines.append((label, convert(row.median), f"{number(low)} - {number(high)}",
                                compared))
        self.add(table)

    def failed(self, key, title, why):
        """A table that could not be measured at all."""
        self.add(Table(key, title, ["not measured"], [("", why)]))

    def markdown(self):
        return [line for table in self.tables for line in ("", *table.markdown(self.limits))]

    # The targets.

    def median(self, key, label):
        row = self.rows.get((key, label))
        if row is None:
            raise LookupError("not measured in this run")
        if row.failed:
            raise LookupError(f"{label} failed")
        return row.median

    def faster(self, key, ours, *peers):
        """How many times as fast ours is as the fastest of the peers."""
        found = []
        for peer in peers:
            try:
                found.append(self.median(key, peer))
            except LookupError:
                pass
        if not found:
            raise LookupError(f"no peer was measured: {', '.join(peers)}")
        return min(found) / self.median(key, ours)

    def value(self, key, name):
        try:
            return self.values[key, name]
        except KeyError:
            raise LookupError("not measured in this run") from None


@dataclasses.dataclass
class Target:
    what: str
    bound: float
    form: str               # how its numbers are written
    measure: object         # function of the Report -> a number; LookupError says why there is none
    at_least: bool = True

    def line(self, report):
        bound = ("at least " if self.at_least else "at most ") + self.form.format(self.bound)
        try:
            value = self.measure(report)
        except LookupError as e:
            return f"| {self.what} | {bound} | {e.args[0]} | not measured |"
        reached = value >= self.bound if self.at_least else value <= self.bound
        return (f"| {self.what} | {bound} | {self.form.format(value)} | "
                f"{'reached' if reached else '**missed**'} |")


def targets_markdown(targets, report):
    return ["| target | asked | measured | |", "| --- | --- | --- | --- |",
            *(target.line(report) for target in targets)]


def measured(lines):
    """Of a summary, what a part of a run has numbers for."""
    return [line for line in lines if not line.endswith("| not measured |")]


def fill(path, name, lines):
    """Replaces what stands between the two marks of that name in a Markdown file."""
    begin, end = f"<!-- {name}: written by make bench -->", f"<!-- end of {name} -->"
    filled = "\n".join([begin, "", *lines, "", end])
    text, n = re.subn(f"{re.escape(begin)}.*?{re.escape(end)}", lambda m: filled, path.read_text(),
                      flags=re.S)
    if n != 1:
        raise SystemExit(f"{path.name} has no place for {name}")
    path.write_text(text)
