"""Generation beside Hugging Face's: which tokens may come and how likely each is, which one comes,
and where it ends."""
import functools
import json
import struct
import subprocess

import numpy as np
import pytest
import torch
import transformers

import interpose
import wire
from conftest import BINARY, MODEL, ROOT

torch.set_num_threads(1)
PROMPT = "The Eiffel Tower is in the city of"
TOOL = BINARY.parent / "tests/sample_tool"


@functools.cache
def theirs():
    return transformers.GPT2LMHeadModel.from_pretrained(MODEL, dtype=torch.float32).eval()


@functools.cache
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(MODEL)


# The distribution.

def case(rng, number):
    """Logits and options by number: most at random, some with ties, some extreme."""
    n = int(rng.choice([2, 7, 50, 700]))
    logits = rng.normal(0, rng.choice([0.1, 1, 4, 30]), n)
    if number % 3 == 1:
        logits = np.round(logits)   # ties
    if number % 7 == 2:
        logits[rng.integers(n)] = rng.choice([-np.inf, 1e4, -1e30])
    options = {
        "temperature": float(rng.choice([0.01, 0.3, 1.0, 2.5, 1e3])),
        "top_k": int(rng.choice([0, 0, 1, 3, n // 2, n + 5])),
        "top_p": float(rng.choice([1.0, 1.0, 0.05, 0.5, 0.9, 0.999])),
        "min_p": float(rng.choice([0.0, 0.0, 0.02, 0.5, 1.0])),
        "repetition_penalty": float(rng.choice([1.0, 0.7, 1.3, 5.0])),
    }
    seen = rng.integers(0, n, rng.integers(1, 12)).tolist()
    forbidden = rng.choice(n, int(n > 2 and rng.integers(2)), replace=False).tolist()
    return logits.astype(np.float32), options, seen, forbidden


def tool(cases, draws=0, seed=0):
    """(probabilities, tokens) of each case."""
    packed = b"".join(
        struct.pack("<4dq6i", o["temperature"], o["top_p"], o["min_p"], o["repetition_penalty"], seed,
                    o["top_k"], len(logits), len(seen), len(forbidden), draws, 3)
        + logits.tobytes() + np.array(seen + forbidden, "<i4").tobytes()
        for logits, o, seen, forbidden in cases)
    out = subprocess.run([TOOL], input=packed, check=True, stdout=subprocess.PIPE).stdout
    results = []
    for logits, *_ in cases:
        n = len(logits)
        results.append((np.frombuffer(out, "<f8", n), np.frombuffer(out, "<i4", draws, 8 * n)))
        out = out[8 * n + 4 * draws:]
    assert not out
    return results


def processed(logits, options, seen, forbidden):
    """The same by the processors that Hugging Face's generate makes of these options: the penalty in float32,
    which is what a model's logits are, the rest in float64."""
    settings = transformers.GenerationConfig(
        do_sample=True, eos_token_id=forbidden or None, min_new_tokens=1 if forbidden else None,
        **{name: value for name, value in options.items()
           if value != {"top_k": 0, "min_p": 0.0}.get(name)})
    settings.top_k = options["top_k"] or None
    settings._eos_token_tensor = torch.tensor(forbidden) if forbidden else None
    processors = theirs()._get_logits_processor(settings, input_ids_seq_length=len(seen),
                                                device="cpu")
    scores = torch.tensor(logits[None])
    for process in processors:
        is_penalty = isinstance(process, transformers.RepetitionPenaltyLogitsProcessor)
        scores = process(torch.tensor([seen]), scores if is_penalty else scores.double())
    return scores.double().softmax(-1)[0].numpy()


def test_the_distribution_is_that_of_hugging_face_s_processors():
    rng = np.random.default_rng(1)
    cases = [case(rng, i) for i in range(400)]
    n_cut = n_ties = n_edges = 0
    for one, (p, _) in zip(cases, tool(cases)):
        expected = processed(*one)
        n_cut += np.any(expected == 0)
        odd = (p > 0) != (expected > 0)
        if odd.any():   # ties at top-p's edge: HF keeps any of them
            assert len(np.unique(one[0][odd])) == 1, one
            n_ties += 1
            p, expected = np.sort(p), np.sort(expected)
        if np.count_nonzero(p) != np.count_nonzero(expected):   # rounding decides: mass is top_p
            whole = np.sort(processed(one[0], {**one[1], "top_p": 1.0, "min_p": 0.0}, *one[2:]))
            n = min(np.count_nonzero(p), np.count_nonzero(expected))
            assert abs(whole[-n:].sum() - one[1]["top_p"]) < 1e-6
            n_edges += 1
            continue
        np.testing.assert_allclose(p, expected, rtol=0, atol=1e-6, err_msg=str(one[1:]))
    assert n_cut > 200 and n_ties < 40 and n_edges < 12


def test_tokens_are_drawn_by_the_distribution():
    rng = np.random.default_rng(2)
    cases = [case(rng, i) for i in range(100)]
    cases = [one for one, (p, _) in zip(cases, tool(cases)) if 5 < np.count_nonzero(p) <= 50][:12]
    assert len(cases) == 12
    draws = 20000
    for p, tokens in tool(cases, draws, seed=11):
        expected, counts = draws * p, np.bincount(tokens, minlength=len(p))
        assert not counts[p == 0].any()
        often = expected >= 5
        square = ((counts - expected)[often] ** 2 / expected[often]).sum()
        degrees = often.sum() - 1
        assert square < degrees + 4 * np.sqrt(2 * max(degrees, 1)) + 4


# Whole generations.

def generate(server, prompt=PROMPT, **fields):
    """(new ids of each sequence, why each ended, tensors, absent (name, step)s)"""
    frames = wire.frames_of(server.host, {"prompt": prompt, **fields})
    assert frames[-1]["type"] == "end", frames[-1]
    tensors = {(f["name"], f["step"]): np.frombuffer(f["data"], f["dtype"]).reshape(f["shape"])
               for f in frames if f["type"] == "tensor"}
    absent = {(f["name"], f["step"]) for f in frames if f["type"] == "absent"}
    assert not absent & set(tensors)
    end = frames[-1]
    return sum(end["generated"], []), sum(end["finish"], []), tensors, absent


def hf_generate(prompt=PROMPT, **options):
    ids = tokenizer()(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        out = theirs().generate(ids, do_sample=False, pad_token_id=0,
                                attention_mask=torch.ones_like(ids), **options)
    return out[0, ids.shape[1]:].tolist()


PROMPTS = [PROMPT, "The capital of Germany is", "A dog is a kind of", "Once upon a time"]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_is_hugging_face_s(server, prompt):
    for sampling, options in [
            ({}, {}), ({"repetition_penalty": 1.3}, {"repetition_penalty": 1.3}),
            ({"repetition_penalty": 0.8}, {"repetition_penalty": 0.8})]:
        ours, why, _, _ = generate(server, prompt, max_new_tokens=30, sampling=sampling)
        expected = hf_generate(prompt, max_new_tokens=30, **options)
        assert ours == [expected]
        assert why == ["stop" if len(expected) < 30 or expected[-1] == 0 else "length"]


def test_a_generation_ends_behind_an_end_token(server):
    whole = hf_generate(max_new_tokens=24, eos_token_id=None)
    end = whole[6]
    at = whole.index(end)
    for fields in ({"eos_token_id": end}, {"stop": [end]}, {"stop": end, "eos_token_id": []},
                   {"eos_token_id": [4095, end]}):
        ours, why, _, _ = generate(server, max_new_tokens=24, **fields)
        assert ours == [whole[:at + 1]] and why == ["stop"]
    ours, why, _, _ = generate(server, max_new_tokens=24, eos_token_id=[])
    assert ours == [whole] and why == ["length"]
    for least in (0, at, at + 1, at + 3):
        expected = hf_generate(max_new_tokens=24, eos_token_id=end, min_new_tokens=least)
        ours, _, _, _ = generate(server, max_new_tokens=24, eos_token_id=end, min_new_tokens=least)
        assert ours == [expected]


def test_a_generation_ends_with_a_stop_text(server):
    whole, _, _, _ = generate(server, max_new_tokens=24, eos_token_id=[])
    text = tokenizer().decode(whole[0])
    ends = np.cumsum([len(tokenizer().decode([i])) for i in whole[0]])
    for first, last in [(0, 3), (5, 6), (9, 20), (len(text) // 2, len(text) // 2 + 9)]:
        stop = text[first:last]
        n = int(np.searchsorted(ends, text.index(stop) + len(stop))) + 1
        ours, why, _, _ = generate(server, max_new_tokens=24, eos_token_id=[],
                                   stop=["never said", stop])
        assert ours == [whole[0][:n]] and why == ["stop"], stop
        # A text that was whole before so many tokens ends nothing, but one that comes behind them.
        whole_at = [int(np.searchsorted(ends, at + len(stop))) + 1
                    for at in range(len(text)) if text.startswith(stop, at)]
        ours, why, _, _ = generate(server, max_new_tokens=24, eos_token_id=[], stop=stop,
                                   min_new_tokens=n)
        until = min([at for at in whole_at if at > n], default=24)
        assert ours == [whole[0][:until]], stop
        ours, _, _, _ = generate(server, max_new_tokens=24, eos_token_id=[], stop=stop,
                                 min_new_tokens=n - 1)
        assert ours == [whole[0][:n]], stop
    # What the prompt holds ends nothing.
    ours, why, _, _ = generate(server, max_new_tokens=24, eos_token_id=[], stop="Eiffel Tower is")
    assert ours == whole and why == ["length"]


def saves(invoke, steps):
    nodes = []
    for step in steps:
        nodes += [{"op": "save", "args": ["lm_head.output[:, -1]"], "name": f"logits {invoke} {step}",
                   "invoke": invoke, "step": step},
                  {"op": "save", "args": ["generator.streamer.output"], "invoke": invoke,
                   "step": step, "name": f"next {invoke} {step}"}]
    return nodes


def test_what_is_made_of_steps_that_do_not_come_is_absent(server):
    """Two invokes, of which one ends early, and a third value made of both."""
    whole, _, alone, _ = generate(server, max_new_tokens=8, eos_token_id=[], nodes=saves(0, range(8)))
    end = next(i for i in whole[0] if whole[0].index(i) in (2, 3, 4))
    at = whole[0].index(end)
    other = [7, 8, 9]
    nodes = saves(0, range(8)) + saves(1, range(8)) + [
        {"op": "add", "args": ["next 0 1", "lm_head.output[:, -1]"], "invoke": 1, "step": 6,
         "name": "of both"},
        {"op": "save", "args": ["of both"]},
        {"op": "sub", "args": [{"node": 0}, "transformer.h.0.output[0][:, -1, :1]"], "invoke": 0,
         "step": 7, "name": "late"},
        {"op": "save", "args": ["late"]},
        {"op": "save", "args": ["generator.output"], "name": "ids 0"},
        {"op": "add", "args": ["late", "generator.output[:, :1]"], "name": "ids and late"},
        {"op": "save", "args": ["ids and late"]}]
    frames = wire.frames_of(server.host, {
        "invokes": [{"prompt": PROMPT}, {"prompt": other}], "max_new_tokens": 8,
        "eos_token_id": [end], "nodes": nodes})
    n_other = len(frames[-1]["generated"][1][0])
    assert n_other == 8, "the test's other prompt has to go on"
    kinds = {(f["name"], f["step"]): f for f in frames if f["type"] in ("tensor", "absent")}
    assert len(kinds) == len([n for n in nodes if n["op"] == "save"])
    for step in range(8):
        for name in ("logits", "next"):
            f = kinds[f"{name} 0 {step}", step]
            assert (f["type"] == "tensor") == (step <= at)
            if step <= at:
                assert f["data"] == alone[f"{name} 0 {step}", step].tobytes()
            assert kinds[f"{name} 1 {step}", step]["type"] == "tensor"
    assert kinds["of both", 6]["type"] == "tensor"
    assert kinds["late", 7]["type"] == kinds["ids and late", 7]["type"] == "absent"
    ids = np.frombuffer(kinds["ids 0", 7]["data"], np.int64)
    n = len(frames[0]["tokens"][0][0])
    assert ids[n:].tolist() == whole[0][:at + 1] + [end] * (7 - at)
    assert frames[-1]["finish"] == [["stop"], ["length"]]
    assert kinds["late", 7] == {"type": "absent", "name": "late", "node": len(nodes) - 4, "step": 7}


@pytest.mark.parametrize("ended", [0, 1])
def test_products_that_run_together_are_absent_each_by_itself(server, ended):
    """Products of the head with as many rows run in one loop, whichever of them are there."""
    prompts, nodes = [[5, 6, 7], [8, 9, 10]], []
    for i in range(2):
        nodes += [{"op": "hook", "args": ["transformer.ln_f.output"], "invoke": i, "step": 2},
                  {"op": "expand", "args": [{"node": 5 * i}, [1, 64, 256]]},
                  {"op": "apply", "args": [{"node": 5 * i + 1}, "lm_head"]},
                  {"op": "max", "args": [{"node": 5 * i + 2}, [-1]]},
                  {"op": "save", "args": [{"node": 5 * i + 3}], "name": f"most {i}"}]
    request = {"invokes": [{"prompt": p} for p in prompts], "max_new_tokens": 4, "nodes": nodes,
               "eos_token_id": []}
    all_saved, end = wire.run(server.host, request)
    first = end["generated"][ended][0][0]
    frames = wire.frames_of(server.host, {**request, "eos_token_id": [first]})
    kinds = {f["name"]: f for f in frames if f["type"] in ("tensor", "absent")}
    assert kinds[f"most {ended}"]["type"] == "absent"
    other = f"most {1 - ended}"
    assert kinds[other]["data"] == all_saved[other, 2].tobytes()


def test_all_absent_where_all_have_ended(server):
    whole, _, _, _ = generate(server, max_new_tokens=5, eos_token_id=[])
    new, why, tensors, absent = generate(
        server, max_new_tokens=200, eos_token_id=whole[0][0],
        nodes=saves(0, range(200)) + [{"op": "save", "args": ["generator.output"], "name": "ids"}])
    assert new == [whole[0][:1]] and why == ["stop"]
    assert set(tensors) == {("logits 0 0", 0), ("next 0 0", 0), ("ids", 199)}
    assert len(absent) == 2 * 199


def test_several_continuations_have_streams_of_their_own(server):
    sampling = {"temperature": 1.5, "seed": 5, "n": 6}
    six, _, _, _ = generate(server, max_new_tokens=12, sampling=sampling)
    assert len(six) == 6 and len({tuple(ids) for ids in six}) == 6
    again, _, _, _ = generate(server, max_new_tokens=12, sampling=sampling)
    assert again == six
    one, _, _, _ = generate(server, max_new_tokens=12, sampling={**sampling, "n": 1})
    assert one[0] == six[0]
    listed, _, _, _ = generate(server, [PROMPT] * 6, max_new_tokens=12,
                               sampling={**sampling, "n": 1})
    assert listed == six


def test_a_sequence_that_has_ended_is_padding_for_the_others(server):
    """As Hugging Face does it for a batch: the others' tokens do not change."""
    many, _, _, _ = generate(server, max_new_tokens=12, eos_token_id=[],
                             sampling={"temperature": 1.5, "seed": 9, "n": 4})
    end = many[0][2]
    ended, why, tensors, _ = generate(
        server, max_new_tokens=12, eos_token_id=end,
        sampling={"temperature": 1.5, "seed": 9, "n": 4},
        nodes=[{"op": "save", "args": ["generator.output"], "name": "ids"}])
    cut = [ids[:ids.index(end) + 1] if end in ids else ids for ids in many]
    assert ended == cut and len(set(map(len, cut))) > 1
    assert why == ["stop" if end in ids else "length" for ids in many]
    rows = tensors["ids", 11]
    for row, ids in zip(rows, cut):
        assert row[-12:].tolist() == ids + [end] * (12 - len(ids))


def test_log_probabilities_are_said_by_the_graph(server):
    n_new, k = 6, 3
    nodes = [{"op": "log_softmax", "args": ["lm_head.output[:, :-1]", -1], "name": "of prompt"},
             {"op": "gather", "args": ["of prompt", -1, "transformer.wte.input[:, 1:, None]"],
              "name": "prompt"},
             {"op": "save", "args": ["prompt"]}]
    for step in range(n_new):
        def at(op, *args, name):
            nodes.append({"op": op, "args": list(args), "name": f"{name}{step}", "step": step})
        at("log_softmax", "lm_head.output[:, -1]", -1, name="all")
        at("gather", f"all{step}", -1, "generator.streamer.output[:, None]", name="chosen")
        at("topk_values", f"all{step}", k, name="top")
        nodes.extend({"op": "save", "args": [f"{name}{step}"]} for name in ("chosen", "top"))
    new, _, tensors, _ = generate(server, max_new_tokens=n_new, nodes=nodes, eos_token_id=[])
    ids = tokenizer()(PROMPT).input_ids
    with torch.no_grad():
        logits = theirs()(torch.tensor([ids + new[0]])).logits[0].log_softmax(-1).numpy()
    whole = np.array(ids + new[0])
    expected = logits[np.arange(len(whole) - 1), whole[1:]]
    np.testing.assert_allclose(tensors["prompt", 0].ravel(), expected[:len(ids) - 1], atol=2e-4)
    for step in range(n_new):
        at = len(ids) - 1 + step
        assert abs(tensors[f"chosen{step}", step].item() - expected[at]) < 2e-4
        np.testing.assert_allclose(tensors[f"top{step}", step][0], np.sort(logits[at])[::-1][:k],
                                   atol=2e-4)


@pytest.mark.parametrize("fields, code, path, message", [
    ({"max_new_tokens": 2, "min_new_tokens": 3}, "value", "min_new_tokens",
     "min_new_tokens is 0 to 2, not 3"),
    ({"max_new_tokens": 2, "stop": ["x" * 257]}, "limit", "stop",
     "a stop text has at most 256 bytes, not 257"),
    ({"max_new_tokens": 2, "stop": [""]}, "value", "stop", "a stop text is empty"),
    ({"max_new_tokens": 2, "stop": [4096]}, "value", "stop", "a token id is 0 to 4095, not 4096"),
    ({"max_new_tokens": 2, "sampling": {"n": 257}}, "value", "sampling.n", "n is 1 to 256, not 257"),
    ({"max_new_tokens": 2, "sampling": {"min_p": -0.1}}, "value", "sampling.min_p",
     "min_p is 0 to 1, not -0.1"),
    ({"save": {"x": "generator.streamer.output"}}, "value", "save.x",
     "generator.streamer.output is the token that a step samples: ask for max_new_tokens"),
])
def test_what_cannot_be_is_refused(server, fields, code, path, message):
    status, document = wire.post_json(server.host, "/v1/run", {"prompt": [1], **fields})
    error = document["error"]
    assert (error["code"], error.get("path"), error["message"]) == (code, path, message)
    assert status == (413 if code == "limit" else 422)


@pytest.fixture(scope="module")
def model(server):
    return interpose.LanguageModel("demo", server.host, progress=False)


def test_the_client_says_all_of_it(model):
    """Its options mean what Hugging Face's mean."""
    whole = hf_generate(max_new_tokens=10, eos_token_id=None)
    with model.generate(PROMPT, max_new_tokens=10, ignore_eos=True) as run:
        pass
    assert run.output[0][-10:].tolist() == whole and run.finish_reasons == ["length"]
    end = whole[4]
    at = whole.index(end)
    with model.generate(PROMPT, max_new_tokens=10, eos_token_id=end, stop=["never said"],
                        do_sample=False, temperature=9.0) as run:
        values = [model.lm_head.step(k).output[:, -1, :1].save() for k in range(10)]
    assert run.output[0].tolist()[-at - 1:] == whole[:at + 1] and run.finish_reasons == ["stop"]
    assert [v.value.shape for v in values[:at + 1]] == [(1, 1)] * (at + 1)
    for late in values[at + 1:]:
        with pytest.raises(interpose.NoValue, match="the generation ended before its step"):
            late.value
    with model.generate(PROMPT, max_new_tokens=4, do_sample=True, seed=3,
                        num_return_sequences=3) as run:
        tokens = [model.generator.streamer.step(k).output.save() for k in range(4)]
    assert len(run.tokens) == len(run.output) == 3
    assert np.array([ids[-4:] for ids in run.output]).T.tolist() == [t.value.tolist()
                                                                     for t in tokens]
    with model.generate(PROMPT, max_new_tokens=4, temperature=1.0, seed=3,
                        num_return_sequences=3) as again:
        pass
    assert [a.tolist() for a in run.output] == [a.tolist() for a in again.output]
    inputs = model.tokenizer([PROMPT], return_tensors="np")
    with model.generate(**inputs, max_length=inputs.input_ids.size + 10, pad_token_id=0, use_cache=True,
                        ignore_eos=True) as run:
        pass
    assert run.output[0][-10:].tolist() == whole


def test_the_model_says_which_token_ends_a_text(server):
    assert json.loads(server.get("/v1/models")[1])["models"][0]["eos_token_id"] == [0]


def test_a_later_trace_lacks_what_an_earlier_one_did_not_reach(server):
    whole = hf_generate(max_new_tokens=6, eos_token_id=None)
    at = whole.index(whole[2])
    frames = wire.frames_of(server.host, {
        "traces": [{"prompt": PROMPT, "max_new_tokens": 6, "eos_token_id": whole[2]},
                   {"prompt": PROMPT, "max_new_tokens": 2, "eos_token_id": []}],
        "nodes": [
            {"op": "hook", "args": ["lm_head.output"], "invoke": 0, "step": at, "name": "last"},
            {"op": "hook", "args": ["lm_head.output"], "invoke": 0, "step": at + 1, "name": "never"},
            {"op": "add", "args": ["lm_head.output[:, -1:]", "last"], "invoke": 1, "name": "there"},
            {"op": "add", "args": ["lm_head.output[:, -1:]", "never"], "invoke": 1, "name": "gone"},
            {"op": "save", "args": ["there"]}, {"op": "save", "args": ["gone"]},
            {"op": "set", "args": ["transformer.h.0.output[0][:, -1, :1]", "never[:, :, 0]"],
             "invoke": 1},
            {"op": "save", "args": ["lm_head.output"], "invoke": 1, "name": "as it is"}]})
    kinds = {f["name"]: f for f in frames if f["type"] in ("tensor", "absent")}
    assert [kinds[name]["type"] for name in ("there", "gone", "as it is")] == [
        "tensor", "absent", "tensor"]
    assert frames[-1]["generated"] == [[whole[:at + 1]], [whole[:2]]]
    assert frames[-1]["finish"] == [["stop"], ["length"]]
    alone = wire.frames_of(server.host, {"prompt": PROMPT, "save": {"as it is": "lm_head.output"}})
    assert kinds["as it is"]["data"] == alone[1]["data"]


def test_the_specification_s_example_runs(server):
    text = (ROOT / "protocol/README.md").read_text()
    section = text[text.index("### Generation"):text.index("### Nodes")]
    example = json.loads(section.partition("```json\n")[2].partition("```")[0])
    saved, _ = wire.run(server.host, example)
    assert saved["chosen", 0].shape == (1, 1) and saved["ids", 0].shape == (1, 5)
    assert saved["chosen", 0] == saved["best", 0][0, 0]     # greedy
