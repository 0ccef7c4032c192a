#!/usr/bin/env python3
"""Runs the tests and counts them: `run.py test` after a plain build, `run.py check` after the builds
with sanitizers. Two suites run at a time, then those of ALONE; each one's line, and the output of a
failure, is printed whole when it ends. The last line is "N passed, N failed" (and skipped ones, if
any). Everything that is run is listed in test() and check().
"""
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import time
import typing

ROOT = pathlib.Path(__file__).resolve().parent.parent
PYTEST = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-rs"]
N_AT_ONCE = 2

# What a neighbour would disturb, with the reason.
ALONE = {
    "tests/test_http.py": "replies within a second, and senders that are too slow by one",
    "tests/test_service.py": "the engine notices within two seconds",
}

# The longest first, so that no core waits for the other at the end. The rest come as they are listed.
LONGEST = [
    "build/thread/interposed", "build/address/interposed", "tests/test_bits.py",
    "tests/test_programs.py", "tests/test_cuda.py", "tests/test_bpe.py",
    "build/thread/tests/test_backend", "tests/test_schedules.py",
    "build/address/tests/test_backend_emulated", "tests/test_emulated.py",
]

# Files that share a process, since importing transformers takes it four seconds, and torch two.
TOGETHER = [
    ["test_oracle.py", "test_generation.py", "test_lens.py", "test_modules.py"],
    ["test_pass.py", "test_loading.py", "test_weights.py"],
    ["test_ops.py", "test_views.py", "test_contexts.py", "test_experiments.py", "test_wire.py"],
]

SANITIZER_SETTINGS = {
    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}


# Before a program for 64-bit ARM.
ARM = ["qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu"]


class Counts(typing.NamedTuple):
    passed: int
    failed: int
    skipped: int = 0


class Suite(typing.NamedTuple):
    name: str
    command: list
    counts: typing.Callable     # of the exit status and the output
    seconds: int                # after them it counts as hung
    environment: dict


class Result(typing.NamedTuple):
    suite: Suite
    counts: Counts
    output: str                 # both streams together
    seconds: float


def run(suite):
    start = time.monotonic()
    try:
        done = subprocess.run(suite.command, cwd=ROOT, env={**os.environ, **suite.environment},
                              text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=suite.seconds, errors="replace")
        status, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        output = (late.stdout or b"").decode(errors="replace")
        status, output = 124, output + f"\nstill running after {suite.seconds} s"
    return Result(suite, suite.counts(status, output), output, time.monotonic() - start)


def unit(program, command=None, **environment):
    def counts(status, output):
        passed = len(re.findall(r"^\[       OK \]", output, re.M))
        failed = len(set(re.findall(r"^\[  FAILED  \] (\w+)$", output, re.M)))
        skipped = len(re.findall(r"^\[  SKIPPED \] \w+$", output, re.M)) // 2
        is_odd = failed == 0 and (status != 0 or passed == 0)
        return Counts(passed, failed + is_odd, skipped)
    return Suite(str(program.relative_to(ROOT)), command or [str(program)], counts, 300, environment)


def pytest(name, files, **environment):
    def counts(status, output):
        last = output[output.rfind("\n", 0, len(output) - 1):]
        passed, failed, errors, skipped = (
            sum(map(int, re.findall(rf"(\d+) {word}", last)))
            for word in ("passed", "failed", "error", "skipped"))
        return Counts(passed, failed + errors + (status != 0 and failed + errors == 0), skipped)
    environment = {"PYTHONPATH": str(ROOT / "clients/python"), "OMP_NUM_THREADS": "1", **environment}
    return Suite(name, PYTEST + [f"tests/{file}" for file in files], counts, 1500, environment)


def command(name, words, **environment):
    return Suite(name, words, lambda status, _: Counts(int(status == 0), int(status != 0)), 300,
                 environment)


def unit_programs(build):
    return sorted(p for p in (ROOT / build / "tests").glob("test_*") if p.suffix == "")


def test():
    found = sorted(file.name for file in (ROOT / "tests").glob("test_*.py"))
    for files in TOGETHER + [[file] for file in found if file not in sum(TOGETHER, [])]:
        yield pytest("tests/" + ", ".join(files), files)
    yield from map(unit, unit_programs("build"))
    yield command("tests/tidy.py", [sys.executable, "tests/tidy.py"])


# The tests of the service and of its engine that run again under each sanitizer; the others compare
# numbers, which a sanitizer does not change.
SERVICE_TESTS = ["test_http.py", "test_service.py", "test_completions.py", "test_cases.py",
                 "test_schedules.py"]
# The emulated device takes the thread sanitizer's place, so that these are not built with it.
NOT_THREAD_TESTS = ["test_emulated.py"]


def check():
    for sanitizer in ("address", "thread"):
        build = f"build/{sanitizer}"
        for program in unit_programs(build):
            yield unit(program, **SANITIZER_SETTINGS)
        names = SERVICE_TESTS + (NOT_THREAD_TESTS if sanitizer != "thread" else [])
        yield pytest(f"{build}/interposed", names, INTERPOSED=f"{build}/interposed",
                     **SANITIZER_SETTINGS)
    for program in sorted(p for p in (ROOT / "build/arm/bare").iterdir() if p.is_file()):
        yield unit(program, [*ARM, str(program), "few"])
    seconds = os.environ.get("FUZZ_SECONDS", "10")
    for fuzzer in sorted(p for p in (ROOT / "build/fuzz").glob("fuzz_*") if p.suffix == ""):
        fresh = ROOT / "build/fuzz/corpus" / fuzzer.name
        fresh.mkdir(parents=True, exist_ok=True)
        kept = ROOT / "tests/fuzz/corpus" / fuzzer.name
        corpora = [str(fresh)] + ([str(kept)] if kept.exists() else [])
        yield command(f"{fuzzer.relative_to(ROOT)} for {seconds} s",
                      [str(fuzzer), f"-max_total_time={seconds}", "-timeout=10",
                       "-rss_limit_mb=2048", "-print_final_stats=1",
                       f"-artifact_prefix={fresh}/"] + corpora)


def results_of(suites, n_at_once):
    """Of each suite when it ends."""
    pool = concurrent.futures.ThreadPoolExecutor(n_at_once)
    try:
        for done in concurrent.futures.as_completed([pool.submit(run, suite) for suite in suites]):
            yield done.result()
    finally:    # also where somebody stops it
        pool.shutdown(cancel_futures=True)


def told(result):
    _, failed, skipped = result.counts
    note = f", {skipped} skipped" if skipped else ""
    print(f"{'FAIL' if failed else 'ok  '} {result.suite.name}: {result.counts.passed} passed, "
          f"{failed} failed{note} ({result.seconds:.1f} s)", flush=True)
    if failed or skipped:
        print(result.output.rstrip(), flush=True)
    return result.counts


def main():
    suites = list({"test": test, "check": check}[sys.argv[1]]())
    suites.sort(key=lambda s: LONGEST.index(s.name) if s.name in LONGEST else len(LONGEST))
    counts = [told(result) for n_at_once, is_alone in ((N_AT_ONCE, False), (1, True))
              for result in results_of([s for s in suites if (s.name in ALONE) == is_alone],
                                       n_at_once)]
    passed, failed, skipped = map(sum, zip(*counts))
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
