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


# Prompts of unequal length.

PROMPTS = [B, A, A[2:4]]
LONGEST = max(map(len, PROMPTS))


def own_part(path, x, i):
    """A prompt's own positions of a padded (B, T, ...), (B, H, T, dh) or (B, H, T, T), and whether the
    rest is 0."""
    if path.endswith((".scores.output", ".pattern.output")):
        n, rest = len(PROMPTS[i]), x[i].copy()
        rest[:, -n:, -n:] = 0
        return x[i:i + 1, :, -n:, -n:], not rest.any()
    if path.endswith(".result.output"):
        path = ""
    axis = 2 if ".attn." in path and x.ndim == 4 or ".output[1]" in path else 1
    padding, own = np.split(x[i:i + 1], [x.shape[axis] - len(PROMPTS[i])], axis)
    return own, not padding.any()


@pytest.mark.parametrize("generic", [*oracle.PLACES, "transformer.wte.input"])
def test_a_padded_view_has_each_prompt_s_bits_at_its_right_end(server, hf, generic):
    path = generic.replace("*", "2")
    saved, _ = wire.run(server.host, {"prompt": PROMPTS, "save": {"x": path}})
    x = saved["x", 0]
    assert x.shape[0] == 3
    for i, prompt in enumerate(PROMPTS):
        alone, _ = wire.run(server.host, {"prompt": prompt, "save": {"x": path}})
        own, rest_is_zero = own_part(path, x, i)
        assert rest_is_zero and own.tobytes() == alone["x", 0].tobytes(), (path, i)
        if generic in oracle.PLACES and not generic.endswith(".scores.output"):
            near(own, hf.run(prompt, [path])[path])


EDITS = {  # of x, in place; and on the wire
    "[:, -1]": (lambda x: x[:, -1].mul_(-2.0), {"op": "mul", "args": ["target", -2.0]}),
    "[:, -2:, 3:9]": (lambda x: x[:, -2:, 3:9].add_(0.5), {"op": "add", "args": ["target", 0.5]}),
    "[..., ::2]": (lambda x: x[..., ::2].tanh_(), {"op": "tanh", "args": ["target"]}),
    "[:]": (lambda x: x.add_(1.0), {"op": "add", "args": ["target", 1.0]}),
}


@pytest.mark.parametrize("index", EDITS)
@pytest.mark.parametrize("generic", ["transformer.wte.output", "transformer.h.*.attn.c_attn.output",
                                     "transformer.h.*.mid.output", "transformer.h.*.mlp.act.output",
                                     "transformer.h.*.output[0]", "transformer.ln_f.output"])
def test_an_edit_of_a_padded_view_changes_each_prompt_as_it_would_alone(server, hf, generic, index):
    path = generic.replace("*", "3")
    edit, value = EDITS[index]
    nodes = [hook(path, 0, "x"), {"op": "getitem", "args": ["x", index], "name": "target"},
             {**value, "name": "value"}, put("target", "value"), save("x", "changed"),
             save("lm_head.output", "logits")]
    saved, _ = wire.run(server.host, {"prompt": PROMPTS, "nodes": nodes})
    for i, prompt in enumerate(PROMPTS):
        alone, _ = wire.run(server.host, {"prompt": prompt, "nodes": nodes})
        for name in ("changed", "logits"):
            own, rest_is_zero = own_part("", saved[name, 0], i)
            assert rest_is_zero and own.tobytes() == alone[name, 0].tobytes(), (name, i)
        theirs = hf.run(prompt, ["lm_head.output"], [(path, edit)])["lm_head.output"]
        near(alone["logits", 0], theirs)


@pytest.mark.parametrize("index", ["[:, -1]", "[:]"])
@pytest.mark.parametrize("generic", ["transformer.h.*.attn.scores.output",
                                     "transformer.h.*.attn.pattern.output"])
def test_an_edit_of_a_padded_pattern_changes_each_prompt_as_it_would_alone(server, hf, generic, index):
    """Of every key that a prompt has, masked ones included, and of no padding."""
    path = generic.replace("*", "3")
    nodes = [hook(path, 0, "x"), {"op": "getitem", "args": ["x", index], "name": "target"},
             {"op": "sigmoid", "args": ["target"], "name": "value"}, put("target", "value"),
             save("x", "changed"), save("transformer.h.3.attn.z.output", "z"),
             save("lm_head.output", "logits")]
    frames = wire.frames_of(server.host, {"prompt": PROMPTS, "nodes": nodes})
    heads = 8 if index == "[:]" else 1
    assert frames[0]["touched"][0]["elements"] == heads * sum(len(p) ** 2 for p in PROMPTS)
    saved, _ = wire.run(server.host, {"prompt": PROMPTS, "nodes": nodes})
    for i, prompt in enumerate(PROMPTS):
        alone, _ = wire.run(server.host, {"prompt": prompt, "nodes": nodes})
        for name, its_path in (("changed", path), ("z", ".attn."), ("logits", "")):
            own, rest_is_zero = own_part(its_path, saved[name, 0], i)
            assert rest_is_zero and own.tobytes() == alone[name, 0].tobytes(), (name, i)
        edit = {"[:]": lambda x: x.sigmoid_(), "[:, -1]": lambda x: x[:, -1].sigmoid_()}[index]
        near(alone["logits", 0], hf.run(prompt, ["lm_head.output"], [(path, edit)])["lm_head.output"])


def test_a_set_of_a_padded_pattern_that_touches_nothing_is_refused(server):
    with pytest.raises(wire.Refused) as e:
        wire.run(server.host, {"prompt": PROMPTS, "nodes": [
            put(f"transformer.h.1.attn.pattern.output[2, :, -1, :{LONGEST - 2}]", 0.5)]})
    assert e.value.error["message"] == (
        f"set of (8, {LONGEST - 2}), which is padding alone: the prompts there are shorter")


def test_prompts_of_unequal_length_generate_what_each_generates_alone(server):
    looks = [(out(1), 0), (out(1), 2), ("lm_head.output", 0), ("lm_head.output", 3),
             ("transformer.h.2.output[1][0]", 0), ("transformer.h.2.output[1][1]", 3),
             *[(f"transformer.h.2.attn.{inside}.output", step) for step in (0, 3)
               for inside in ("scores", "pattern", "result")]]
    nodes = [hook("transformer.h.0.attn.value.output", 0, "v", 1), put("v[:, 3]", 0.25),
             hook("transformer.h.1.attn.pattern.output", 0, "p", 2), put("p[:, 3]", 0.25),
             *[save(path, f"{path} {step}", 0, step) for path, step in looks],
             save("generator.output", "ids", 0, 3)]
    request = {"max_new_tokens": 4, "nodes": nodes}
    frames = wire.frames_of(server.host, {"prompt": PROMPTS, **request})
    assert frames[0]["lengths"] == [[len(p) for p in PROMPTS]]
    saved, end = wire.run(server.host, {"prompt": PROMPTS, **request})
    for i, prompt in enumerate(PROMPTS):
        alone, its_end = wire.run(server.host, {"prompt": prompt, **request})
        assert end["generated"][0][i] == its_end["generated"][0][0]
        padding = LONGEST - len(prompt)
        for (name, step), theirs in alone.items():
            ours = saved[name, step][i:i + 1]
            for axis in [k for k in range(ours.ndim) if ours.shape[k] != theirs.shape[k]]:
                zeros, ours = np.split(ours, [padding], axis)
                assert not zeros.any()
            assert ours.tobytes() == theirs.tobytes(), (name, step, i)


def test_a_late_reader_of_a_padded_view_sees_what_was_there(server):
    nodes = [hook(out(1), 0, "x"),
             {"op": "add", "args": ["x[:, -1]", out(4) + "[:, -1]"], "name": "sum"},
             put("x[:, -1]", 0.0), save("sum", "before"), save("x", "changed")]
    saved, _ = wire.run(server.host, {"prompt": PROMPTS, "nodes": nodes})
    for i, prompt in enumerate(PROMPTS):
        alone, _ = wire.run(server.host, {"prompt": prompt, "nodes": nodes})
        assert saved["before", 0][i].tobytes() == alone["before", 0][0].tobytes()
        assert not saved["changed", 0][i, -1].any()


def test_a_loss_over_padded_prompts_is_made_a_few_rows_at_a_time(server):
    """Logits that exist nowhere whole: the product's rows are those of the padded view."""
    prompts = [[(7 * k + i) % 4096 for k in range(n)] for i, n in enumerate((90, 41, 77))]
    nodes = [{"op": "log_softmax", "args": ["lm_head.output", -1], "name": "logp"},
             {"op": "argmax", "args": ["logp", -1], "name": "top"},
             {"op": "max", "args": ["logp", -1], "name": "best"},
             save("top", "ids"), save("best", "values")]
    saved, _ = wire.run(server.host, {"prompt": prompts, "nodes": nodes})
    for i, prompt in enumerate(prompts):
        alone, _ = wire.run(server.host, {"prompt": prompt, "nodes": nodes})
        for name in ("ids", "values"):
            own = saved[name, 0][i, 90 - len(prompt):]
            assert own.tobytes() == alone[name, 0][0].tobytes(), (name, i)


def test_what_a_set_of_a_padded_view_touches_is_counted_without_padding(server):
    head = wire.frames_of(server.host, {"prompt": PROMPTS, "set": {
        out(0): 0.0, out(1) + "[:, :3, :5]": 0.0, out(2) + "[1:]": 0.0,
        "transformer.h.1.attn.query.output[:, 2, :4]": 0.0},
        "save": {"x": "lm_head.output[:, -1]"}})[0]
    assert [row["elements"] for row in head["touched"]] == [
        12 * 256, (1 + 3) * 5, 8 * 256, (2 + 4) * 32]


# Modules that are left out.

@pytest.mark.parametrize("path", [out(2), "transformer.h.2.attn.output[0]",
                                  "transformer.h.2.mlp.output", "transformer.h.2.ln_2.output",
                                  "transformer.ln_f.output"])
def test_a_module_that_is_left_out_gives_its_replacement(server, hf, path):
    nodes = [hook(out(1), 0, "x"), {"op": "mul", "args": ["x", 0.5], "name": "value"},
             hook(path, 0, "y"), {"op": "set", "args": ["y", "value"], "kwargs": {"skip": True}},
             save("lm_head.output", "logits")]
    saved, _ = wire.run(server.host, {"prompt": A, "nodes": nodes})
    value = 0.5 * hf.run(A, [out(1)])[out(1)]
    theirs = hf.run(A, ["lm_head.output"], [(path, lambda x: x.copy_(value))])["lm_head.output"]
    near(saved["logits", 0], theirs)


def test_what_comes_before_and_behind_a_module_that_is_left_out_is_there(server):
    around = [out(1), "transformer.h.2.input", out(3), "transformer.h.2.mlp.act.output"]
    nodes = [save(path, f"s{i}", 0, int(i == 3)) for i, path in enumerate(around)]
    nodes += [{"op": "set", "args": [out(2), 0.0], "kwargs": {"skip": True}}]
    saved, _ = wire.run(server.host, {"prompt": A, "max_new_tokens": 2, "nodes": nodes})
    assert saved["s3", 1].shape == (1, 1, 1024)     # another step


def test_a_text_begins_with_the_tokenizer_s_sign(server):
    def tokens(**invoke):
        return wire.frames_of(server.host, {"invokes": [invoke]})[0]["tokens"][0]
    texts = ["The Eiffel", "Tower"]
    assert tokens(prompt=texts, add_bos=True) == [[0, *ids] for ids in tokens(prompt=texts)]
    assert tokens(prompt=texts[0], add_bos=False) == tokens(prompt=texts[0])


def parted_requests():
    """Each with its passes where one takes 12 rows and 8 of logits, and where one takes all: values that one invoke has of
    another in front of it, in the same pass and in another, at a site that is passed before it in one pass;
    tokens that are drawn; a trace of a session; logits alone."""
    prompts = [[5, 6, 7]] * 4 + [[5, 6, 7, 8, 9, 10], [1, 2], [7, 8, 9, 1, 2, 3]]
    invokes = [{"prompt": prompt} for prompt in prompts]
    nodes = [hook(out(1), 0, "donor"), hook(out(2), 4, "late"), hook(out(3), 6, "y")]
    for i in (1, 2, 3, 5):
        nodes += [hook(out(i), i, f"x{i}"), put(f"x{i}[:, -1]", "donor[:, -1]")]
    nodes += [put("y[:, :2]", "late[:, -2:]")]
    nodes += [save("lm_head.output[:, -1]", f"s{i}", i) for i in range(len(invokes))]
    yield {"invokes": invokes, "nodes": nodes}, 3, 1
    yield {"invokes": invokes, "nodes": nodes, "max_new_tokens": 3, "eos_token_id": [],
           "sampling": {"temperature": 1.5, "seed": 3, "n": 2}}, 5 * 3, 3
    yield {"traces": [{"prompt": [1]}, {"invokes": invokes}, {"prompt": [[2]] * 3}],
           "nodes": [hook(out(1), 1, "donor"), hook(out(0), 8, "x"), put("x[:, -1]", "donor[:, -1]"),
                     save("lm_head.output[:, -1]", "s", 8)]}, 5, 3
    yield {"invokes": invokes[:4], "nodes": [save("lm_head.output", f"s{i}", i) for i in range(4)]}, 2, 1


def test_a_trace_with_more_rows_than_a_pass_takes_goes_in_several(server, start_server):
    with start_server("--rows", "12", "--logits-rows", "8") as small:
        for request, *steps in parted_requests():
            ours, theirs = (wire.run(s.host, request) for s in (small, server))
            assert sorted(ours[0]) == sorted(theirs[0])
            assert all(np.array_equal(ours[0][name], x) for name, x in theirs[0].items())
            assert ours[1]["generated"] == theirs[1]["generated"]
            assert [wire.post_json(s.host, "/v1/plan", request)[1]["steps"]
                    for s in (small, server)] == steps


def test_invokes_of_several_passes_use_values_of_those_in_front_of_them(start_server):
    """In one pass they may use one another's in both directions."""
    nodes = [hook(out(1), 1, "donor"), hook(out(3), 0, "x"), put("x[:, -1]", "donor[:, -1]"),
             save("x", "s")]
    request = {"invokes": [{"prompt": [1, 2, 3]}, {"prompt": [4, 5, 6]}], "nodes": nodes}
    with start_server("--rows", "6") as small:
        wire.run(small.host, request)
        request["invokes"][1]["prompt"].append(7)
        status, reply = wire.post_json(small.host, "/v1/run", request)
        assert (status, reply["error"]["message"], reply["error"]["path"]) == (
            413, "the prompts have 7 tokens together and logits at 0 positions, and a pass of this server takes "
                 "6 (--rows) and 6 (--logits-rows); in several passes, in the order of the invokes, transformer.h.3.output[0] of invoke 0 has passed when the "
                 "new value is known, at transformer.h.1.output[0] of invoke 1", "nodes[2].args[1]")
