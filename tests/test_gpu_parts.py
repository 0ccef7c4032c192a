"""What make gpu-check and make gpu-bench do where a part crashes, hangs or fails: the others' results
are there, and the reason stands where its own would."""
import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

spec = importlib.util.spec_from_file_location("bench_gpu", ROOT / "bench/gpu.py")
gpu = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gpu)

OURS = """
print("device a card")
print("limit read_gb 3000.0")
print("decode exact 1 0.25")
print("exact qkv 8 0.004")
"""
CRASHES = 'import os; print("decode hf 1 6.5", flush=True); os.abort()'
HANGS = 'import time; print("prefill compiled 512 3.5", flush=True); time.sleep(1000)'
REFUSES = "import sys; sys.exit('libcublas.so is not found')"


def python(code):
    return [sys.executable, "-c", code]


def rows_of(page, name):
    """The cells of the first row of that name."""
    return re.search(rf"^\| {re.escape(name)} \| (.*) \|$", page, re.M)[1].split(" | ")


def test_a_part_that_comes_to_no_end_costs_its_own_cells(tmp_path):
    parts = [gpu.Part("exact", python(OURS), 60), gpu.Part("cublas", python(REFUSES), 60),
             gpu.Part("hf", python(CRASHES), 60), gpu.Part("compiled", python(HANGS), 0.5)]
    for part, found in gpu.measure(parts, tmp_path):
        page = (tmp_path / "gpu.md").read_text()
        assert rows_of(page, "decode: a token of each of 1")[:3] == ["0.165", "0.287", "0.250"]
        assert (part.name in found.troubles) == (part.name != "exact")
    assert rows_of(page, "decode: a token of each of 1")[4:] == ["6.500", "not finished"]
    assert rows_of(page, "prefill: all logits of 1024")[:3] == ["3.776", "4.187", ""]
    assert rows_of(page, "decode: a token of each of 8")[4:] == ["SIGABRT", ""]
    assert rows_of(page, "prefill: all logits of 512")[4:] == ["SIGABRT", "3.500"]
    assert rows_of(page, "qkv | 8")[1:5] == ["4.0", "59 %", "exit 1", "exit 1"]
    assert "- Not all of cublas: exit 1: libcublas.so is not found\n" in page
    assert "- Not all of compiled: not finished after 0.5 s\n" in page
    assert "compiled 512 3.5\ncompiled: " in (tmp_path / "gpu_bench.log").read_text()


def test_a_program_that_finds_no_gpu_says_so(tmp_path):
    program = tmp_path / "bench"
    program.write_text("#!/bin/sh\necho 'no CUDA device 0' >&2\nexit 1\n")
    program.chmod(0o755)
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    done = subprocess.run([sys.executable, ROOT / "bench/gpu.py", program, tmp_path], text=True,
                          capture_output=True, timeout=60, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert "exact: exit 1: no CUDA device 0\n" in done.stdout
    assert "hf: exit 1: ImportError: no torch here\n" in done.stdout
    assert "nothing below was measured" in (tmp_path / "gpu.md").read_text()


def parts(folder, text):
    script = f'reports={folder} report=here\n. tests/parts.sh\n{text}\nparts_end\n'
    done = subprocess.run(["sh", "-c", script], text=True, capture_output=True, cwd=ROOT, timeout=60)
    return done.returncode, (folder / "here.txt").read_text(), (folder / "here.log").read_text()


def test_each_part_of_a_check_is_told_at_once_and_under_a_limit(tmp_path):
    status, told, log = parts(tmp_path, f"""
part 0 good echo all is well
part 1 hangs sh -c 'echo "[ RUN      ] the_third"; sleep 1000'
part 0 bad sh -c 'cat {tmp_path}/here.txt; exit 3'
part 1 also sh -c 'echo "[  FAILED  ] one"; until false; do sleep 0.1; done'
left_out more 'there is none'""")
    limits = re.findall(r"not finished in (\d+) s", told)
    assert told == (f"ok   good: all is well\nnot finished in {limits[0]} s: hangs: [ RUN      ] "
                    f"the_third\nFAIL bad\nFAIL also, and not finished in {limits[1]} s\n"
                    "left out: more, since there is none\n"
                    "1 passed, 2 failed, not finished: hangs\n")
    assert status == 1 and log.startswith("== good\nall is well\n== hangs\n[ RUN ")
    assert "== bad\nok   good" in log       # was known while others ran


def test_what_came_to_no_end_has_not_failed(tmp_path):
    status, told, _ = parts(tmp_path, "part 1 hangs sleep 1000")
    assert (status, told.splitlines()[-1]) == (0, "0 passed, 0 failed, not finished: hangs")


@pytest.mark.parametrize("name", ["check", "bench"])
def test_all_is_over_in_ten_minutes(name):
    if name == "bench":
        seconds = [*gpu.OWN_SECONDS.values(), *gpu.PEER_SECONDS.values()]
    else:
        text = (ROOT / "tests/gpu_check.sh").read_text()
        loop = text[text.index("for tool in"):text.index("done\n", text.index("for tool in"))]
        found = [re.findall(r"\b(?:part|tests_on_gpu) (\d+)", part) for part in (text, loop)]
        tools = loop[len("for tool in"):loop.index(";")].split()
        seconds = map(int, found[0] + found[1] * (len(tools) - 1))
    assert 300 < sum(seconds) < 590
