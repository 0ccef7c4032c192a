"""The CUDA backend's whole engine on the emulated device (kernels/emulate): a server that answers
with it gives the bytes of a server on the CPU, and in random schedules each job gives the bits that
it gives alone on the CPU."""
import concurrent.futures
import json
import random
import subprocess

import numpy as np
import pytest

import wire
from conftest import BINARY, IS_SLOW, run_server
from random_requests import random_job, sizes_of
from test_schedules import counts_of, files_in

EMULATED = BINARY.parent / "emulated"
TOOL = EMULATED / "tests/schedules_tool"
N_REQUESTS, N_SCHEDULES, N_POSTED = (40, 6, 12) if IS_SLOW else (150, 16, 32)
SMALL = ["--rows", "2048", "--cache-tokens", "4096", "--slab-mb", "16"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return files_in(tmp_path_factory.mktemp("emulated"), TOOL, N_REQUESTS)


@pytest.fixture(scope="module")
def hosts(files):
    """The same model on the CPU and on the emulated device."""
    with run_server("--model", files[0], "--device", "cpu", *SMALL) as cpu:
        with run_server("--model", files[0], "--device", "cuda:0", *SMALL,
                        binary=EMULATED / "interposed") as cuda:
            assert "cuda an emulated device" in cuda.log
            yield cpu.host, cuda.host


def test_schedules_give_the_bits_of_each_job_alone_on_the_cpu(files):
    counts = counts_of("run", files, 1, N_SCHEDULES, tool=TOOL)
    assert counts["differences"] == 0
    assert counts["done"] >= 8 * N_SCHEDULES and counts["saves"] >= 16 * N_SCHEDULES


def bytes_of(host, request):
    """As wire.raw, with one NaN for all: which one it is is no part of the promise."""
    saved, end = wire.run(host, request)
    for key, array in saved.items():
        array = array.copy()
        if array.dtype.kind == "f":
            array[array != array] = np.nan
        saved[key] = array.tobytes()
    return saved, end.get("generated")


def test_a_server_gives_the_bytes_of_one_on_the_cpu(hosts, files):
    cpu, cuda = hosts
    requests = [random_job(seed, sizes_of(files[0])) for seed in range(1000, 1000 + N_POSTED)]
    expected = [bytes_of(cpu, request) for request in requests]
    assert sum(len(tensors) for tensors, _ in expected) > N_POSTED
    order = random.Random(0).sample(range(N_POSTED), N_POSTED)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        got = dict(zip(order, pool.map(lambda i: bytes_of(cuda, requests[i]), order)))
    assert [i for i in order if got[i] != expected[i]] == []


def test_an_index_out_of_range_fails_its_job_alone(hosts):
    """Found on the device, in a step that others share."""
    bad = {"prompt": [1, 2, 3], "nodes": [
        {"op": "argmax", "args": ["lm_head.output", -1]},
        {"op": "add", "args": [{"node": 0}, 1000]},
        {"op": "getitem", "args": [{"node": 1}, "[0]"]},
        {"op": "index_select", "args": ["lm_head.output", 2, {"node": 2}]},
        {"op": "save", "args": [{"node": 3}]}]}
    errors = []
    for host in hosts:
        with pytest.raises(wire.Refused) as refused:
            wire.run(host, bad)
        errors.append({k: v for k, v in refused.value.error.items() if k != "request_id"})
    assert errors[0] == errors[1] and errors[0]["code"] == "index"


def test_a_device_that_is_not_there_is_refused(files):
    done = subprocess.run([EMULATED / "interposed", "--model", files[0], "--device", "cuda:1"],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "no CUDA device 1: this machine has 1" in done.stderr


def test_a_faster_precision_says_so_and_how_far_it_is_from_the_truth(files):
    request = {"prompt": [1, 2, 3, 4], "nodes": [{"op": "save", "args": ["lm_head.output"]}]}
    picked = {"prompt": [1, 2, 3], "nodes": [
        {"op": "argmax", "args": ["lm_head.output", -1]},
        {"op": "parameter", "args": ["lm_head.weight"]},
        {"op": "getitem", "args": [{"node": 0}, "[0]"]},
        {"op": "index_select", "args": [{"node": 1}, 0, {"node": 2}]},
        *({"op": "save", "args": [{"node": node}], "name": name}
          for name, node in (("rows", 3), ("matrix", 1), ("ids", 2)))]}
    facts, logits = {}, {}
    for precision in ("exact", "tf32x3", "tf32", "bf16"):
        with run_server("--model", files[0], "--device", "cuda:0", "--precision", precision, *SMALL,
                        binary=EMULATED / "interposed") as server:
            facts[precision] = json.loads(server.get("/v1/models")[1])["models"][0]
            (logits[precision],) = wire.run(server.host, request)[0].values()
            got = {name: x for (name, _), x in wire.run(server.host, picked)[0].items()}
            np.testing.assert_array_equal(got["rows"], got["matrix"][got["ids"]])
    assert [facts[p]["numerics"] for p in facts] == list(facts)
    assert 0 < facts["exact"]["product_error"] < 1e-6 and 0 < facts["tf32x3"]["product_error"] < 1e-6
    assert 1e-4 < facts["tf32"]["product_error"] < 1e-3
    size = np.abs(logits["exact"]).max()
    apart = {p: np.abs(logits[p] - logits["exact"]).max() / size for p in logits}
    assert 0 < apart["tf32x3"] < 1e-5 < apart["tf32"] < 1e-2 and apart["tf32"] < apart["bf16"] < 0.1


def test_the_cpu_has_no_faster_precision(files):
    done = subprocess.run([BINARY, "--model", files[0], "--device", "cpu", "--precision", "bf16"],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "precision is bf16: the CPU backend has exact only" in done.stderr
