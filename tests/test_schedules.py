"""Random schedules (tests/schedules_tool.c): whoever comes and goes beside a request, and however
the engine is set up, it gives the bits that it gives alone; and an engine through which thousands
of jobs went holds no more memory than one through which hundreds did."""
import re
import subprocess
import sys

import pytest

from conftest import BINARY, IS_SLOW, ROOT

TOOL = BINARY.parent / "tests/schedules_tool"
N_REQUESTS, N_SCHEDULES, N_JOBS = (40, 40, 400) if IS_SLOW else (200, 600, 4000)
GROWTH_KB = 4096  # what the allocator holds back, a page of 2 MB too, and what is touched late


def files_in(folder, tool, n_requests):
    """(a model, a file of requests for it), made there."""
    subprocess.run([tool, "make", folder], check=True, timeout=60)
    made = subprocess.run([sys.executable, ROOT / "tests/random_requests.py", folder, "0",
                           str(n_requests)], check=True, timeout=60, stdout=subprocess.PIPE)
    requests = folder / "requests"
    requests.write_bytes(made.stdout)
    return folder, requests


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return files_in(tmp_path_factory.mktemp("schedules"), TOOL, N_REQUESTS)


def counts_of(command, files, *numbers, tool=TOOL):
    """What the tool counted, by the words of its last line."""
    done = subprocess.run([tool, command, *files, *map(str, numbers)], capture_output=True,
                          text=True, timeout=600)
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    last = done.stdout.splitlines()[-1]
    print(last)
    return {words: int(number) for number, words in re.findall(r"(-?\d+) ([a-zA-Z][^,;:]*)", last)}


def test_a_request_gives_the_bits_that_it_gives_alone(files):
    counts = counts_of("run", files, 1, N_SCHEDULES)
    assert counts["differences"] == 0
    assert counts["jobs"] == counts["done"] + counts["cancelled"] + counts["aborted"]
    # What makes the schedules worth running did happen.
    least = {"done": 8 * N_SCHEDULES, "saves": 16 * N_SCHEDULES, "cancelled": 1,
             "pauses": 100, "came in one": 10, "cancels inside a pass": 1, "positions shared": 64,
             "copies": N_SCHEDULES // 4, "followers": N_SCHEDULES // 4, "forks": N_SCHEDULES // 4,
             "of later positions": N_SCHEDULES // 8,
             "absent": N_SCHEDULES, "ended early": N_SCHEDULES}
    assert {name: counts[name] for name in least if counts[name] < least[name]} == {}


def test_an_engine_holds_no_more_after_thousands_of_jobs(files):
    counts = counts_of("soak", files, 1, N_JOBS)
    assert counts["differences"] == 0
    assert counts["jobs"] == N_JOBS
    assert counts["positions shared"] > 0
    if not IS_SLOW: # sanitizers keep what was freed
        assert counts["kB more than when a tenth was through"] <= GROWTH_KB


def test_what_cannot_be_read_is_refused(files, tmp_path):
    bad = tmp_path / "requests"
    bad.write_text('{"prompt": [1]}\n{"prompt": [53]}\n')
    done = subprocess.run([TOOL, "run", files[0], bad, "1", "1"], capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("line 2: ")
