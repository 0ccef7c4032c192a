"""Measuring: rows of a table that take turns, each checked before it is timed, and arrivals at a
rate.

A row is a function that does its job once and returns what came out of it, for the check. One that
looks at the clock itself returns Timed. A row that fails, or whose answer is wrong, says why in the
table; the others go on.
"""
import collections
import concurrent.futures
import dataclasses
import random
import statistics
import time

import numpy as np

TOLERANCE = 1e-4        # of a peer's or our numbers beside Hugging Face's, of the largest of them
REST_SECONDS = 0.01     # between turns: threads of the last row may still spin behind its end

Timed = collections.namedtuple("Timed", "seconds answer")


@dataclasses.dataclass
class Row:
    """What was measured of one row: seconds of each turn, sorted, or why there are none."""
    seconds: list = dataclasses.field(default_factory=list)
    failed: str = ""

    def at(self, share):
        """The percentile, by the nearest rank."""
        return self.seconds[min(len(self.seconds) - 1, int(share * len(self.seconds)))]

    @property
    def median(self):
        return statistics.median(self.seconds)


def reason(exception):
    """An exception as a cell of a table."""
    lines = str(exception).strip().splitlines() or [""]
    return f"{type(exception).__name__}: {lines[0][:160]}".replace("|", "/")


def difference(answer, expected, tolerance):
    """Why the answer is not the expected one, or ''."""
    answer, expected = np.asarray(answer), np.asarray(expected)
    if answer.shape != expected.shape:
        return f"wrong: shape {answer.shape}, expected {expected.shape}"
    if answer.dtype.kind in "iu":
        n = int((answer != expected).sum())
        return f"wrong: {n} of {answer.size} ids differ" if n else ""
    apart = float(np.abs(answer - expected).max())
    bound = tolerance * max(1.0, float(np.abs(expected).max()))
    return "" if apart <= bound else f"wrong: {apart:.2g} from Hugging Face's numbers"


def once(function):
    """One turn, timed by the clock here or by its own."""
    start = time.perf_counter()
    answer = function()
    seconds = time.perf_counter() - start
    return answer if isinstance(answer, Timed) else Timed(seconds, answer)


def take_turns(functions, rounds, expected, tolerances=None, warmups=1):
    """label -> Row. The first call of each is checked; neither it nor the warm-ups behind it count,
    but with -1 warm-ups the first call counts too. The expected answer is one for all rows, or
    label -> answer."""
    rows = {label: Row() for label in functions}

    def turn(label, is_first, counts):
        row = rows[label]
        if row.failed:
            return
        try:
            done = once(functions[label])
        except Exception as e:      # of a peer, of whatever kind
            row.failed = reason(e)
            return
        if counts:
            row.seconds.append(done.seconds)
        if is_first:
            wanted = expected[label] if isinstance(expected, dict) else expected
            tolerance = (tolerances or {}).get(label, TOLERANCE)
            row.failed = difference(done.answer, wanted, tolerance)
        time.sleep(REST_SECONDS)

    for i in range(-1 - warmups, rounds):
        for label in functions:
            turn(label, i == -1 - warmups, i >= 0)
    for row in rows.values():
        row.seconds.sort()
    return rows


@dataclasses.dataclass
class Arrivals:
    """What came of jobs that arrived at a rate: seconds from arrival to answer."""
    rate: float
    latency: Row = dataclasses.field(default_factory=Row)
    elapsed: float = 0.0        # from the first arrival to the last answer

    @property
    def throughput(self):
        return len(self.latency.seconds) / self.elapsed


def arrive(arrivals, job, n, workers, seed):
    """Adds n jobs whose arrivals are a Poisson process of that rate; `workers` jobs at most are
    under way, the others wait. A job's clock starts when it arrives, not when it is taken up."""
    rng = random.Random(seed)
    start = time.perf_counter() + 0.05
    at, times = start, []
    for _ in range(n):
        at += rng.expovariate(arrivals.rate)
        times.append(at)

    def one(i):
        job(i)
        return time.perf_counter() - times[i]

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        futures = []
        for i in range(n):
            time.sleep(max(0.0, times[i] - time.perf_counter()))
            futures.append(pool.submit(one, i))
        try:
            arrivals.latency.seconds += [f.result() for f in futures]
        except Exception as e:
            arrivals.latency.failed = reason(e)
    arrivals.latency.seconds.sort()
    arrivals.elapsed += time.perf_counter() - times[0]
