"""kernels/cuda through nvcc, where there is one: every file compiles for sm_80 and sm_90 with the
flags of the Makefile, and no kernel keeps anything in a stack frame or spills registers.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sysconfig

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "kernels/cuda").glob("*.cu"))
ARCHITECTURES = {"sm_80", "sm_90"}

# nvcc.txt's, where the machine has none.
for folder in pathlib.Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin"):
    os.environ["PATH"] += os.pathsep + str(folder)

pytestmark = pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc")


def kernels_of(report):
    """Of each kernel that ptxas reports: its name, its architecture, and the bytes that it keeps in
    memory of its own."""
    pattern = (r"Compiling entry function '(\w+)' for '(\w+)'.*?(\d+) bytes stack frame, "
               r"(\d+) bytes spill stores, (\d+) bytes spill loads")
    return [(name, architecture, sum(map(int, sizes)))
            for name, architecture, *sizes in re.findall(pattern, report, re.S)]


def compile_with_report(source, build):
    """By the Makefile's own rule, into a folder of the test's own."""
    result = subprocess.run(
        ["make", "--no-print-directory", "CUDA=1", f"BUILD={build}", "NVCCFLAGS=-Xptxas=-v",
         f"{build}/obj/{source.relative_to(ROOT).with_suffix('.o')}"],
        cwd=ROOT, text=True, capture_output=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return kernels_of(result.stdout + result.stderr)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_kernels_stay_in_registers(source, tmp_path):
    kernels = compile_with_report(source, tmp_path)
    assert {name for name, _, kept in kernels if kept} == set()
    if "__global__" in source.read_text():
        assert {architecture for _, architecture, _ in kernels} == ARCHITECTURES


def test_a_stack_frame_is_seen(tmp_path):
    source = tmp_path / "frame.cu"
    source.write_text("__global__ void keeps(float *to, const int *at)\n{\n"
                      "    float kept[64] = {};\n"
                      "    for (int k = 0; k < 64; k++)\n        kept[at[k] & 63] += to[k];\n"
                      "    to[at[64]] = kept[at[65] & 63];\n}\n")
    result = subprocess.run(["nvcc", "-arch=sm_90", "-Xptxas=-v", "-c", str(source), "-o",
                             str(tmp_path / "frame.o")], text=True, capture_output=True)
    assert [kept for _, _, kept in kernels_of(result.stdout + result.stderr)] == [256]
