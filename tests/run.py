#!/usr/bin/env python3
"""Runs the tests and counts them: `run.py test` after a plain build, `run.py check` after the builds
with sanitizers. The last line is "N passed, N failed" (and skipped ones, if any); each failure's
output stands above it. Everything that is run is listed in suites_of().
"""
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PYTEST = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"]

SANITIZER_SETTINGS = {
    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}


class Tally:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def add(self, name, passed, failed, skipped, seconds, output=""):
        self.passed += passed
        self.failed += failed
        self.skipped += skipped
        mark = "FAIL" if failed else "ok  "
        note = f", {skipped} skipped" if skipped else ""
        print(f"{mark} {name}: {passed} passed, {failed} failed{note} ({seconds:.1f} s)", flush=True)
        if failed or skipped:
            print(output.rstrip(), flush=True)


def run(command, seconds, **environment):
    """The exit status and the output, both streams together; a hang counts as a failure."""
    start = time.monotonic()
    try:
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds,
                              errors="replace")
        status, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        output = (late.stdout or b"").decode(errors="replace")
        status, output = 124, output + f"\nstill running after {seconds} s"
    return status, output, time.monotonic() - start


def run_unit(tally, program, **environment):
    status, output, seconds = run([str(program)], 300, **environment)
    passed = len(re.findall(r"^\[       OK \]", output, re.M))
    failed = len(set(re.findall(r"^\[  FAILED  \] (\w+)$", output, re.M)))
    skipped = len(re.findall(r"^\[  SKIPPED \] \w+$", output, re.M)) // 2
    if status != 0 and failed == 0:
        failed = 1
    if passed + failed == 0:
        failed = 1
    tally.add(program.relative_to(ROOT), passed, failed, skipped, seconds, output)


def run_pytest(tally, name, files, **environment):
    environment.setdefault("PYTHONPATH", str(ROOT / "clients/python"))
    status, output, seconds = run(PYTEST + ["-rs"] + [str(f) for f in files], 1500, **environment)
    def count(word):
        found = re.search(rf"(\d+) {word}", output[output.rfind("\n", 0, len(output) - 1):])
        return int(found[1]) if found else 0
    failed = count("failed") + count("error")
    if status != 0 and failed == 0:
        failed = 1
    tally.add(name, count("passed"), failed, count("skipped"), seconds, output)


def run_command(tally, name, command, seconds=300, **environment):
    status, output, took = run(command, seconds, **environment)
    tally.add(name, int(status == 0), int(status != 0), 0, took, output)


def unit_programs(build):
    return sorted(p for p in (ROOT / build / "tests").glob("test_*") if p.suffix == "")


def test(tally):
    run_command(tally, "tests/tidy.py", [sys.executable, "tests/tidy.py"])
    for program in unit_programs("build"):
        run_unit(tally, program)
    for file in sorted((ROOT / "tests").glob("test_*.py")):
        run_pytest(tally, file.relative_to(ROOT), [file])


# The tests of the service and of its engine that run again under each sanitizer; the others compare
# numbers, which a sanitizer does not change.
SERVICE_TESTS = ["test_http.py", "test_service.py", "test_completions.py", "test_cases.py",
                 "test_schedules.py"]
# The emulated device takes the thread sanitizer's place, so that these are not built with it.
NOT_THREAD_TESTS = ["test_emulated.py"]


def check(tally):
    for sanitizer in ("address", "thread"):
        build = f"build/{sanitizer}"
        for program in unit_programs(build):
            if sanitizer == "address" or program.name in ("test_queue", "test_backend", "test_batch"):
                run_unit(tally, program, **SANITIZER_SETTINGS)
        names = SERVICE_TESTS + (NOT_THREAD_TESTS if sanitizer != "thread" else [])
        files = [ROOT / "tests" / name for name in names]
        run_pytest(tally, f"{build}/interposed", files, INTERPOSED=f"{build}/interposed",
                   **SANITIZER_SETTINGS)
    seconds = os.environ.get("FUZZ_SECONDS", "10")
    for fuzzer in sorted(p for p in (ROOT / "build/fuzz").glob("fuzz_*") if p.suffix == ""):
        fresh = ROOT / "build/fuzz/corpus" / fuzzer.name
        fresh.mkdir(parents=True, exist_ok=True)
        kept = ROOT / "tests/fuzz/corpus" / fuzzer.name
        corpora = [str(fresh)] + ([str(kept)] if kept.exists() else [])
        command = [str(fuzzer), f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048",
                   "-print_final_stats=1", f"-artifact_prefix={fresh}/"] + corpora
        run_command(tally, f"{fuzzer.relative_to(ROOT)} for {seconds} s", command)


def main():
    tally = Tally()
    {"test": test, "check": check}[sys.argv[1]](tally)
    skipped = f", {tally.skipped} skipped" if tally.skipped else ""
    print(f"{tally.passed} passed, {tally.failed} failed{skipped}")
    return tally.failed > 0


if __name__ == "__main__":
    sys.exit(main())
