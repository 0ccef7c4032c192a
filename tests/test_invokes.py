"""Invokes that share values within a pass, sessions of several traces, and prompts of unequal length:
against Hugging Face's GPT-2 run prompt by prompt, and against the same prompts as requests of their
own, bit for bit."""
import pathlib

import numpy as np
import pytest

import oracle
import wire

ROOT = pathlib.Path(__file__).resolve().parent.parent
A = [464, 17, 903, 5, 1200, 44]
B = [31, 7, 2500, 12]
RELATIVE = 2e-6


@pytest.fixture(scope="module")
def hf():
    return oracle.Oracle(ROOT / "models/demo")


def near(ours, theirs):
    theirs = theirs.numpy().astype(np.float64)
    assert ours.shape == theirs.shape
    assert np.linalg.norm(ours - theirs) <= RELATIVE * np.linalg.norm(theirs)


def out(block):
    return f"transformer.h.{block}.output[0]"


def hook(path, invoke, name, step=0):
    return {"op": "hook", "args": [path], "invoke": invoke, "step": step, "name": name}


def save(what, name, invoke=0, step=0):
    return {"op": "save", "args": [what], "name": name, "invoke": invoke, "step": step}


def put(to, what):
    return {"op": "set", "args": [to, what]}


def last_becomes(value):
    def edit(x):
        x[:, -1] = value
    return edit


def test_invokes_use_one_another_s_values_in_both_directions(server, hf):
    nodes = [hook(out(4), 0, "a4"), hook(out(5), 1, "b5"), put("b5[:, -1]", "a4[:, -1]"),
             hook(out(3), 0, "a3"), hook(out(1), 1, "b1"), put("a3[:, -1]", "b1[:, -1]"),
             save("lm_head.output", "a", 0), save("lm_head.output", "b", 1)]
    saved, _ = wire.run(server.host, {"invokes": [{"prompt": A}, {"prompt": B}], "nodes": nodes})
    b1 = hf.run(B, [out(1)])[out(1)][:, -1]
    a = hf.run(A, [out(4), "lm_head.output"], [(out(3), last_becomes(b1))])
    b = hf.run(B, ["lm_head.output"], [(out(5), last_becomes(a[out(4)][:, -1]))])
    near(saved["a", 0], a["lm_head.output"])
    near(saved["b", 0], b["lm_head.output"])


def test_a_later_trace_uses_what_an_earlier_one_read_at_an_earlier_site(server, hf):
    nodes = [hook(out(5), 0, "donor"), hook(out(0), 1, "x"), put("x[:, -1]", "donor[:, -1]"),
             save("lm_head.output", "logits", 1)]
    saved, _ = wire.run(server.host, {"traces": [{"prompt": A}, {"prompt": B}], "nodes": nodes})
    donor = hf.run(A, [out(5)])[out(5)][:, -1]
    theirs = hf.run(B, ["lm_head.output"], [(out(0), last_becomes(donor))])
    near(saved["logits", 0], theirs["lm_head.output"])


def test_a_change_in_an_early_trace_shows_in_what_a_late_one_takes_from_it(server, hf):
    """The first trace saves nothing: only the second's need of its values keeps its edit alive."""
    nodes = [hook(out(1), 0, "x"), put("x[:, -1]", 0.5), hook(out(3), 0, "donor"),
             {"op": "mul", "args": ["donor", 2.0], "name": "twice"},
             hook(out(2), 1, "y"), put("y[:, -1]", "twice[:, -1]"),
             save("lm_head.output", "logits", 1)]
    saved, _ = wire.run(server.host, {"traces": [{"prompt": A}, {"prompt": B}], "nodes": nodes})
    donor = 2 * hf.run(A, [out(3)], [(out(1), last_becomes(0.5))])[out(3)][:, -1]
    theirs = hf.run(B, ["lm_head.output"], [(out(2), last_becomes(donor))])
    near(saved["logits", 0], theirs["lm_head.output"])


def test_a_session_gives_what_its_traces_give_alone(server):
    sampling = {"temperature": 1.1, "seed": 5}
    traces = [{"invokes": [{"prompt": A}, {"prompt": [B, A[:4]]}], "max_new_tokens": 4,
               "sampling": sampling},
              {"prompt": B},
              {"prompt": A, "max_new_tokens": 3, "sampling": {**sampling, "top_k": 9}}]
    looks = [(0, 0, 2), (0, 1, 0), (0, 1, 3), (1, 0, 0), (2, 0, 1)]  # trace, its invoke, step
    first = [0, 2, 3]
    nodes = [save(path, f"{t} {i} {step} {path}", first[t] + i, step)
             for t, i, step in looks for path in (out(2), "lm_head.output", "generator.output")]
    saved, generated = wire.raw(server.host, {"traces": traces, "nodes": nodes})
    for t, trace in enumerate(traces):
        alone, ids = wire.raw(server.host, {**trace, "nodes": [
            {**node, "invoke": node["invoke"] - first[t]} for node in nodes
            if node["name"].startswith(f"{t} ")]})
        assert alone and alone == {key: saved[key] for key in alone}
        assert generated[first[t]:first[t] + len(ids)] == ids


def test_a_reply_counts_the_passes_of_all_traces(server):
    head = wire.frames_of(server.host, {"traces": [
        {"prompt": B, "max_new_tokens": 3}, {"prompt": A}]})[0]
    assert head["steps"] == 4 and head["tokens"] == [[B], [A]]
