"""The client's contexts: steps, conditions, stopping and what a saved proxy is behind its run; and how
each thing that cannot work is refused."""
import copy
import inspect
import json
import pickle
import random
import re
import traceback

import numpy as np
import pytest

import interpose
from interpose import LanguageModel, NoValue

PROMPT = "The Eiffel Tower is in the city of"
IDS = [5, 6, 7, 8]


@pytest.fixture(scope="module")
def model(server):
    name = json.loads(server.get("/v1/models")[1])["models"][0]["name"]
    return LanguageModel(name, host=server.host)


def same(*lists):
    first, *others = [[np.asarray(x) for x in each] for each in lists]
    for other in others:
        assert len(first) == len(other)
        for a, b in zip(first, other):
            np.testing.assert_array_equal(a, b)


# Steps.

def test_iterations_are_the_steps_one_by_one(model):
    """Every spelling of them, against .step(k)."""
    with model.generate(PROMPT, max_new_tokens=4) as tracer:
        plain = [model.lm_head.step(k).output[0, -1].max().save() for k in range(4)]
        loop = [model.lm_head.output[0, -1].max().save() for step in tracer.iter[:]]
        block, whole, part, one, some = (interpose.list().save() for _ in range(5))
        with tracer.iter[:]:
            block.append(model.lm_head.output[0, -1].max())
        with tracer.all():
            whole.append(model.lm_head.output[0, -1].max())
        with tracer.iter[1:3]:
            part.append(model.lm_head.output[0, -1].max())
        with tracer.iter[-1] as step:
            one.append(model.lm_head.output[0, -1].max())
            assert step == 3
        with tracer.iter[[0, 2]]:
            some.append(model.lm_head.output[0, -1].max())
        late = interpose.list()
        with model.lm_head.iter[2:]:
            late.append(model.lm_head.output[0, -1].max())
        late.save()
    same(plain, loop, block, whole)
    same(plain[1:3], part)
    same(plain[3:], one)
    same([plain[0], plain[2]], some)
    same(plain[2:], late)


def test_a_module_s_iteration_moves_only_what_is_below_it(model):
    with model.generate(PROMPT, max_new_tokens=3) as tracer:
        seen = interpose.list().save()
        with model.transformer.h[0].iter[1:]:
            seen.append(model.transformer.h[0].mlp.output[0, -1])
            seen.append(model.transformer.h[1].mlp.output[0, -1])   # at step 0
            seen.append(model.transformer.h[0].mlp.step(0).output[0, -1])
        h = [model.transformer.h[i].mlp.step(k).output[0, -1].save()
             for i, k in [(0, 1), (1, 0), (0, 0), (0, 2), (1, 0), (0, 0)]]
    same(seen, h)


def test_what_an_iteration_sets_it_sets_at_each_step(model):
    def run(write):
        with model.generate(PROMPT, max_new_tokens=4) as tracer:
            kept = model.transformer.h[0].mlp.output[:, -1:]
            write(tracer, kept)
            logits = [model.lm_head.step(k).output[0, -1].save() for k in range(4)]
        return logits, tracer.output

    def block(tracer, kept):
        with tracer.iter[1:]:
            mlp = model.transformer.h[1].mlp
            old = mlp.output
            mlp.output = old * 2 + kept     # of step 0
            mlp.output[..., 3] -= old[..., 3]

    def loop(tracer, kept):
        for _ in tracer.iter[1:]:
            mlp = model.transformer.h[1].mlp
            old = mlp.output
            mlp.output = old * 2 + kept
            mlp.output[..., 3] -= old[..., 3]

    (a, tokens_a), (b, tokens_b) = run(block), run(loop)
    plain, _ = run(lambda *_: None)
    same(a, b)
    same(tokens_a, tokens_b)
    same(a[:1], plain[:1])
    assert not np.array_equal(a[1], plain[1])


def test_a_name_of_a_block_over_steps_is_that_of_its_last_step(model):
    with model.generate(PROMPT, max_new_tokens=3) as tracer:
        with tracer.iter[:]:
            x = model.lm_head.output[0, -1]
            top = x.argmax().save()
        again = x.argmax().save()
    assert int(top) == int(again) == int(tracer.output[0][-1])


def test_an_outer_value_of_the_same_place_stays_that_of_its_step(model):
    with model.generate(PROMPT, max_new_tokens=3) as tracer:
        first = model.lm_head.output[0, -1]
        differences = interpose.list().save()
        with tracer.iter[:]:
            differences.append((model.lm_head.output[0, -1] - first).abs().sum())
    assert float(differences[0]) == 0 and all(float(d) > 0 for d in differences[1:])


def test_all_without_with_holds_for_the_rest_of_the_invoke(model):
    with model.generate(max_new_tokens=3) as tracer:
        with tracer.invoke(PROMPT):
            model.transformer.h[0].all()
            model.transformer.h[0].output[0][:] = 0
        with tracer.invoke(PROMPT):
            zero = model.transformer.h[0].step(2).output[0].save()
        with tracer.invoke(PROMPT):
            model.all()
            model.transformer.h[0].output[0][:] = 0
            here = interpose.list().save()
            here.append(model.transformer.h[0].output[0])
    assert zero.any() and len(here) == 3 and not any(x.any() for x in here)


def test_next_of_the_tracer_moves_all_modules(model):
    with model.generate(max_new_tokens=3) as tracer:
        with tracer.invoke(PROMPT) as invoker:
            a = model.lm_head.step(2).output.save()
            tracer.next()
            invoker.next()
            b = model.lm_head.output.save()
    same([a], [b])


def test_lists_of_other_things(model):
    with model.trace(IDS):
        mixed = interpose.list(["a"]).save()
        mixed.append(3)
        mixed.append(model.transformer.h[0].output)
        mixed.append(model.transformer.h[0].input)
        assert len(mixed) == 4
        with pytest.raises(NoValue, match="the list has no values: it arrives when the"):
            mixed.value
        unsaved = interpose.list()
        unsaved.append(model.lm_head.output)
    assert mixed[:2] == ["a", 3] and mixed[2][0].shape == mixed[3].shape == (1, 4, model.config.width)
    assert type(mixed.value) is list and len(mixed.value) == 4
    with pytest.raises(NoValue, match="the list has no values: it was not saved, call"):
        unsaved.value
    with pytest.raises(NoValue, match="lm_head.output has no value: its list was not saved, call"):
        unsaved[0].value


def test_what_holds_tensors_is_appended_once_a_step(model):
    """Pairs of topk, tuples, lists and dicts of proxies, by append, extend and +=."""
    own = {"n": [1]}
    with model.generate(PROMPT, max_new_tokens=3) as tracer:
        tops, others, parts = (interpose.list().save() for _ in range(3))
        with tracer.iter[:]:
            x = model.lm_head.output[0, -1]
            tops.append(x.topk(3))
            others.append({"a": [x.argmax(), (x.max(), "b")], "h": model.transformer.h[0].output})
            parts += [x.max(), x.min()]
            parts.extend((x.mean(),))
        parts.append(own)
        logits = [model.lm_head.step(k).output[0, -1].save() for k in range(3)]
    assert len(tops) == len(others) == 3 and parts[-1] is own
    same([top.values for top in tops], [np.sort(x)[:-4:-1] for x in logits])
    same([x[top.indices] for x, top in zip(logits, tops)], [top.values for top in tops])
    same([each["a"][0] for each in others], tracer.output[0][-3:])
    same([each["a"][1][0] for each in others], [x.max() for x in logits], parts[:-1:3])
    same(parts[1::3], [x.min() for x in logits])
    assert {(each["a"][1][1], each["h"][0].shape[2]) for each in others} == {("b", model.config.width)}
    with model.session():
        rows = interpose.list().save()
        with model.trace(IDS):
            x = model.lm_head.output[0, -1]
            largest = x.max().save()
        with model.trace(PROMPT):
            rows.append([x.max(), model.lm_head.output[0, -1].max()])
    assert isinstance(rows[0][1], np.ndarray) and rows[0][0] == largest
    with model.trace(IDS):
        pair = interpose.save((x := model.lm_head.output[0, -1], {"top": x.topk(2)}))
        both = interpose.save(x.topk(2))
        with pytest.raises(TypeError, match="save takes a tensor of a run, or what holds some: not 3"):
            interpose.save(3)
    same([pair[1]["top"].values, pair[1]["top"].indices], both, [np.sort(pair[0])[:-3:-1], both.indices])


# Conditions.

def conditioned(model, condition, write):
    """What is saved of a run in which `write` stands inside a condition, and of one without it."""
    results = []
    for inside in (True, False):
        with model.trace(PROMPT) as tracer:
            if inside:
                with tracer.cond(condition(model)):
                    write(model)
            logits = model.lm_head.output.save()
        results.append(logits.value)
    with model.trace(PROMPT):
        write(model)
        plain = model.lm_head.output.save()
    return (*results, plain.value)


def replace_output(model):
    model.transformer.h[1].mlp.output = model.transformer.h[1].mlp.output * 0 + 3


def set_part(model):
    model.transformer.h[1].attn.value.output[:, 1, 2:] = 0.25


def add_in_place(model):
    model.transformer.h[-1].output[0][:, -1] += 2


def mask_scores(model):
    x = model.transformer.h[0].mlp.act.output
    x[x > 0] = -1.0


@pytest.mark.parametrize("write", [replace_output, set_part, add_in_place, mask_scores])
def test_a_condition_chooses_to_the_bit(model, write):
    def total(model):
        return model.transformer.h[0].ln_1.input.abs().sum()
    taken, without, plain = conditioned(model, lambda m: total(m) > 0, write)
    assert taken.tobytes() == plain.tobytes() != without.tobytes()
    left, without, plain = conditioned(model, lambda m: total(m) < 0, write)
    assert left.tobytes() == without.tobytes()


@pytest.mark.parametrize("condition, holds", [
    (True, True), (0, False), (3 > 2, True), (np.bool_(False), False),
    ("x.sum() > -1e9", True), ("x[0, 0, 0] * 0 + 1", True),
    ("x[:1, :1, :1] * 0", False)])
def test_what_a_condition_may_be(model, condition, holds):
    with model.trace(IDS) as tracer:
        x = model.transformer.h[0].output[0]
        value = eval(condition, {"x": x}) if isinstance(condition, str) else condition
        with tracer.cond(value) as c:
            yes = x.sum().save()
            then = interpose.list().save()
            then.append(x)
        with c.else_():
            no = x.sum().save()
    found, other = (yes, no) if holds else (no, yes)
    assert found.value.shape == ()
    assert len(then) == holds
    with pytest.raises(NoValue, match="the condition of its tracer.cond (was|is) false"):
        other.value


def test_chains_and_nested_conditions(model):
    """Beside Python's own if, for every outcome of two conditions."""
    for p in (-1, 1):
        for q in (-1, 1):
            with model.trace(IDS) as tracer:
                x = model.transformer.wte.output
                size = x.abs().sum()
                marks = interpose.tensor([0, 0, 0, 0])
                with tracer.cond(size * p > 0) as first:
                    marks[0] = 1
                    with tracer.cond(size * q > 0):
                        marks[1] = 1
                with first.else_(size * q > 0) as second:
                    marks[2] = 1
                with second.else_():
                    marks[3] = 1
                marks = marks.save()
            expected = [p > 0, p > 0 and q > 0, p < 0 and q > 0, p < 0 and q < 0]
            assert marks.tolist() == expected, (p, q)


def test_a_choice_keeps_whole_numbers_whole(model):
    with model.trace(IDS) as tracer:
        big = interpose.tensor([2**60 + 1, 5])
        with tracer.cond(model.transformer.wte.output.sum() != model.transformer.wte.output.sum()):
            big[:] = 0.5
        big = big.save()
    assert big.tolist() == [2**60 + 1, 5]


def test_conditions_inside_an_iteration_are_each_step_s(model):
    with model.generate(PROMPT, max_new_tokens=4) as tracer:
        ids, kept = (interpose.list().save() for _ in range(2))
        with tracer.iter[:]:
            best = model.lm_head.output[0, -1].argmax()
            ids.append(best)
            with tracer.cond(best % 2 == 0):
                kept.append(best)
    assert [int(i) for i in kept] == [int(i) for i in ids if i % 2 == 0] != [int(i) for i in ids]


# Stopping.

def test_stop_ends_an_invoke(model):
    with model.trace() as tracer:
        with tracer.invoke(IDS):
            x = model.transformer.h[0].output[0].save()
            tracer.stop()
            model.transformer.h[0].output[0][:] = 0
            model.lm_head.output = 3
            y = model.lm_head.output.save()
        with tracer.invoke(IDS):
            z = model.lm_head.output.save()
    assert x.any() and z.value.std() > 0
    with pytest.raises(NoValue, match=r"^lm_head.output has no value: tracer.stop\(\) stands before it$"):
        y.value


def test_stop_ends_a_generation(model):
    with model.generate(PROMPT, max_new_tokens=50) as tracer:
        tops = interpose.list().save()
        with tracer.iter[:]:
            tops.append(model.lm_head.output[0, -1].argmax())
            tracer.stop()
    assert len(tops) == 1
    assert len(tracer.output[0]) - len(tracer.tokens[0]) <= 1


# What is accepted and changes nothing.

def test_spellings_of_nnsight_s_versions(model):
    with model.trace(PROMPT, remote=True, scan=True, validate=True):
        a = model.output.logits.save()
    with model.forward(inference=True) as runner:
        with runner.invoke(PROMPT, scan=False) as invoker:
            b = model.output[0].save()
    with model.invoke(PROMPT) as invoker:
        c = model.output["logits"].save()
    d = model.trace(PROMPT, trace=False).logits
    with model.trace() as tracer:
        barrier = tracer.barrier(2)
        with tracer.invoke(PROMPT):
            barrier()
            e = model.output.save()
    with model.trace(PROMPT):
        model.output.logits = model.output.logits * 0 + 1
        keys, values = model.output.past_key_values[0]
        f = (model.lm_head.output.sum() + (keys.sum() + values.sum()) * 0).save()
    same([a], [b], [c], [d], [e.logits])
    assert int(f) == a.value.size


def test_apply_and_log(model, capsys):
    with model.trace(PROMPT) as tracer:
        values = tracer.apply(list).save()
        values.append(tracer.apply(interpose.exp, model.lm_head.output[0, -1, 0]))
        tracer.log("the greatest", model.lm_head.output.max())
        tracer.apply(print, 3)
    assert values[0] > 0
    assert capsys.readouterr().out.startswith("the greatest ")


# Edits.

def zero_block(model):
    model.transformer.h[1].mlp.output[:] = 0


def test_edits_are_replayed_in_each_run(model):
    with model.edit() as edited:
        zero_block(model)
        model.transformer.h[2].mlp.output = model.transformer.h[2].mlp.output * model.lm_head.weight[
            5] + 0.5
        x = model.transformer.h[2].attn.output[0]
        with edited.iter[0]:
            x[:, -1] += 1
    by_hand = []
    for prompt in (PROMPT, IDS):
        with model.trace(prompt):
            zero_block(model)
            mlp = model.transformer.h[2].mlp
            mlp.output = mlp.output * model.lm_head.weight[5] + 0.5
            model.transformer.h[2].attn.output[0][:, -1] += 1
            by_hand.append(model.lm_head.output.save())
    with edited.trace() as tracer:
        with tracer.invoke(PROMPT):
            a = model.lm_head.output.save()
        with tracer.invoke(IDS):
            b = edited.lm_head.output.save()
    with model.trace(PROMPT):
        plain = model.lm_head.output.save()
    same([a, b], by_hand)
    assert not np.array_equal(a, plain)


def test_edits_come_on_top_and_in_place(model, server):
    own = LanguageModel(model.name, host=server.host)
    with own.edit(inplace=True) as same_one:
        own.transformer.h[1].output[0][:, 0] = 0
    assert same_one is own
    with own.edit() as edited:
        own.transformer.h[1].output[0][:, 1] = 0
    with own.trace(IDS):
        one = own.transformer.h[1].output[0].save()
    with edited.trace(IDS):
        two = edited.transformer.h[1].output[0].save()
    assert not one[:, 0].any() and one[:, 1].any()
    assert not two[:, :2].any() and two[:, 2].any()
    own.clear_edits()
    with own.trace(IDS):
        none = own.transformer.h[1].output[0].save()
    assert none[:, 0].any()


def test_an_edit_of_all_steps_has_those_of_each_run(model):
    with model.edit() as edited:
        scale = model.transformer.h[0].mlp.output[:, -1:].abs().max()
        with model.all():
            model.transformer.h[0].mlp.output[:] = scale
        with model.transformer.h[1].iter[1:]:
            model.transformer.h[1].mlp.output[:] = 1
        model.transformer.h[2].mlp.step(1).output[:] = 2
    for n in (2, 3):
        with edited.generate(PROMPT, max_new_tokens=n) as tracer:
            seen = [[model.transformer.h[i].mlp.output[0, -1, 0].save() for i in range(3)]
                    for _ in tracer.iter[:]]
        assert len({float(row[0]) for row in seen}) == 1
        assert [float(row[1]) == 1 for row in seen] == [k > 0 for k in range(n)]
        assert [float(row[2]) == 2 for row in seen] == [k == 1 for k in range(n)]
    with pytest.raises(IndexError, match="holds no step: this run has steps 0 to 0"):
        with edited.trace(PROMPT):
            pass


def test_an_edit_with_a_prompt_knows_its_shapes(model):
    with model.edit(IDS) as edited:
        x = model.transformer.h[0].output[0]
        x[:, x.shape[1] - 1] = 0
    with edited.trace(IDS):
        y = model.transformer.h[0].output[0].save()
    assert y[:, :3].any() and not y[:, 3].any()


EDITS_REFUSE = [
    ("model.lm_head.output.shape", "the shape of lm_head.output is a prompt's, and this edit has none: "
     "write model.edit(prompt), and shapes are those of that prompt"),
    ("model.lm_head.output.save()", "an edit saves nothing: save in a run of the edited model"),
    ("edit.stop()", "an edit ends no run: call tracer.stop() in one of the edited model"),
    ("edit.cache()", "an edit saves nothing: call tracer.cache() in a run of the edited model"),
    ("edit.invoke(IDS)", "an edit has no invokes: it holds for all that the edited model has"),
    ("for _ in model.iter[:]: pass", "an edit does not know how many steps its runs will have: write "
     "`with model.iter[...]:`, or name the steps"),
]


@pytest.mark.parametrize("code, sentence", EDITS_REFUSE, ids=[r[0] for r in EDITS_REFUSE])
def test_what_an_edit_cannot_do(model, code, sentence):
    edit = model.edit()
    with pytest.raises(RuntimeError) as refused:
        with edit:
            exec(code, {"model": model, "edit": edit, "IDS": IDS})
    assert str(refused.value) == sentence
    assert model._edits == ()


def test_a_bad_edit_is_refused_at_its_own_line(model, tmp_path):
    script = tmp_path / "notebook.py"
    script.write_text("with model.edit() as edited:\n    model.transformer.h[0].mlp.output[:, 99] = 0\n"
                      "with edited.trace([1, 2]):\n    model.lm_head.output.save()\n")
    with pytest.raises(interpose.RequestError) as refused:
        exec(compile(script.read_text(), str(script), "exec"), {"model": model})
    assert (refused.value.code, refused.value.lineno) == ("index", 2)


# Caches.

def test_a_cache_holds_what_modules_gave_in_the_end(model):
    with model.trace(PROMPT) as tracer:
        cache = tracer.cache(include_inputs=True).save()
        zero_block(model)
        h = [block.output[0].save() for block in model.transformer.h]
        attn = model.transformer.h[1].attn.output.save()
        assert "transformer.h.0" not in cache
        with pytest.raises(NoValue, match="the cache has no values: it arrives when"):
            cache["transformer.h.0"]
    same([cache[f"transformer.h.{i}"].output[0] for i in range(len(h))], h)
    same(cache["model.transformer.h.1.attn"].output[:1], attn[:1])
    assert not cache["transformer.h.1.mlp"].output.any()
    same([cache["transformer.h.2"].inputs[0][0], cache.model.transformer.h[2].input], [h[1], h[1]])
    assert {"lm_head", "transformer.wte", "transformer.h.0.mlp.c_fc"} <= set(cache)
    assert not any(path.endswith(("attn.z", "mid", "generator")) for path in cache)
    torch = pytest.importorskip("torch")
    assert torch.equal(cache["transformer.h.0"].output[0], cache["transformer.h.1"].input)


def test_what_a_cache_leaves_out(model):
    with model.trace(PROMPT) as tracer:
        blocks = tracer.cache(modules=list(model.transformer.h))
        inputs = tracer.cache(["model.transformer.h.0.mlp"], include_output=False, include_inputs=True)
        z = tracer.cache(["transformer.h.0.attn.z"])
    assert len(blocks) == model.config.n_blocks and list(z) == ["transformer.h.0.attn.z"]
    assert blocks["transformer.h.0"].input is None and blocks["transformer.h.0"].inputs is None
    entry = inputs["transformer.h.0.mlp"]
    assert entry.output is None and entry.input.shape == entry.inputs[0][0].shape
    with pytest.raises(IndexError, match="transformer.h.99 does not exist: this model has blocks 0 to"):
        blocks.transformer.h[99]
    with pytest.raises(AttributeError, match="transformer.h.0.mlp is not in the cache"):
        blocks.transformer.h[0].mlp
    with pytest.raises(KeyError, match="transformer is no list of blocks"):
        blocks.transformer[0]
    same([blocks.transformer["h.0"].output[0]], [blocks["transformer.h.0"].output[0]])


def test_caches_of_steps_and_invokes(model):
    with model.generate(max_new_tokens=3) as tracer:
        with tracer.invoke(IDS):
            pass
        with tracer.invoke(PROMPT):
            cache = tracer.cache(modules=["lm_head"])
            rows = [model.lm_head.output.save() for _ in tracer.iter[:]]
    same([e.output for e in cache["lm_head"]], rows, cache.lm_head.output)


def test_caches_are_refused(model):
    with pytest.raises(ValueError, match="transformer.h.0.mlq is no module with an output: did you mean "
                                         "transformer.h.0.mlp"):
        with model.trace(IDS) as tracer:
            tracer.cache(["transformer.h.0.mlq"])
    with pytest.raises(RuntimeError, match="a cache belongs to a prompt: open it inside"):
        with model.trace() as tracer:
            tracer.cache()
    with pytest.raises(TypeError, match=r"cache\(\) has no parameter 'x': it takes modules"):
        with model.trace(IDS) as tracer:
            tracer.cache(x=1)


# Scans and positions.

def test_a_scan_runs_nothing(model, monkeypatch):
    monkeypatch.setattr(model.client, "stream", None)
    with model.scan(PROMPT):
        x = model.transformer.h[0].attn.output[0].save()
        y = model.lm_head.output.argmax(-1)
    assert x.shape == (1, 10, model.config.width) and y.shape == (1, 10) and y.dtype == np.int64
    with pytest.raises(NoValue, match="has no value: it was scanned, not run: its shape and dtype are"):
        x.value
    with pytest.raises(interpose.RequestError, match="set: the value"):
        with model.scan(PROMPT):
            model.transformer.h[0].mlp.output[:] = np.ones(3)


TEXTS = ["The Eiffel Tower is in the city of Paris. The Tower!", "naïve 漢字 🙂🙂 x", " a  b"]


@pytest.mark.parametrize("text", TEXTS)
def test_positions_of_every_part_of_a_text(model, text):
    """The tokens of a part are those whose bytes overlap its bytes."""
    ids = model.tokenizer.encode(text)
    data = text.encode()
    with model.trace() as tracer:
        with tracer.invoke(text) as invoker:
            prompt = invoker.positions
            model.lm_head.output.save()
    ends = [len(model.tokenizer.decode(ids[:k]).encode()) for k in range(len(ids) + 1)]
    if "\ufffd" in "".join(model.tokenizer.tokenize(text)):
        ends = None     # bytes of broken characters cannot be counted so
    for start in range(len(text)):
        for stop in range(start + 1, len(text) + 1):
            part = text[start:stop]
            nth = [i for i in range(len(text)) if text.startswith(part, i)].index(start)
            found = prompt(part, nth)
            assert found == list(range(found[0], found[-1] + 1))
            assert part in model.tokenizer.decode([ids[i] for i in found])
            if ends:
                a, b = len(text[:start].encode()), len(text[:stop].encode())
                assert found == [i for i in range(len(ids)) if ends[i] < b and ends[i + 1] > a]
    assert len(data) >= len(text)


def test_positions_by_index_and_what_is_refused(model):
    ids = model.tokenizer.encode("The Tower, the Tower")
    loose = [model.tokenizer.encode(c)[0] for c in "Tower"]     # not how the tokenizer divides it
    with model.trace() as tracer:
        with tracer.invoke([ids]) as invoker:
            n = len(ids)
            assert invoker.positions(-1) == [n - 1] and invoker.positions(0) == [0]
            assert invoker.positions(slice(1, None, 2)) == list(range(n))[1::2]
            assert invoker.positions("Tower", -1)[-1] == n - 1
            model.lm_head.output[:, invoker.positions("Tower", -1)].save()
            for what, kind, sentence in [
                    (n, IndexError, f"position {n} does not exist: the prompt has {n} tokens"),
                    ("Rome", ValueError, "'Rome' stands 0 times in 'The Tower, the Tower'"),
                    ("", ValueError, "'' stands 0 times in 'The Tower, the Tower'"),
                    (1.5, TypeError, "a position must be an integer: it is 1.5")]:
                with pytest.raises(kind) as refused:
                    invoker.positions(what)
                assert str(refused.value) == sentence
            with pytest.raises(ValueError, match="stands 2 times in .*: there is no occurrence 2"):
                invoker.positions("Tower", 2)
        with tracer.invoke(loose) as invoker:
            assert invoker.positions("owe") == [1, 2, 3]


# Behind the run.

def test_a_saved_proxy_is_its_value(model):
    with model.trace(PROMPT):
        x = model.transformer.h[0].output[0]
        y = x.save()
        both = model.transformer.h[0].output.save()
        loose = model.transformer.h[1].output[0]
    for saved in (x, y, both[0]):
        array = saved.value
        same([saved.mean(0).view(), saved.mean(0).view(dtype=np.int32), saved.mean(0).view(-1)],
             [array.mean(0), array.mean(0).view(np.int32), array.mean(0).ravel()])
        assert type(array) is np.ndarray
        assert saved.shape == array.shape and saved.dtype == array.dtype and saved.ndim == 3
        same([saved[:, -1], saved + 1, 1 - saved, saved * saved, -saved, abs(saved), saved @ saved[0].T],
             [array[:, -1], array + 1, 1 - array, array * array, -array, abs(array),
              array @ array[0].T])
        same([saved.mean(dim=-1, keepdim=True), saved.argmax(-1), np.exp(saved), np.stack([saved, saved])],
             [array.mean(axis=-1, keepdims=True), array.argmax(-1), np.exp(array),
              np.stack([array, array])])
        assert bool((saved == array).all()) and len(saved) == 1 and [*saved][0].shape == array[0].shape
    y[:, 0] = 7
    assert (y.value[:, 0] == 7).all() and saved.save() is saved
    with pytest.raises(RuntimeError, match="this run's block has ended, and nothing can be added"):
        loose + 1
    torch = pytest.importorskip("torch")
    want = y.torch()
    assert torch.all(y[:, 0] == 7) and torch.equal(y, y) and torch.is_tensor(torch.softmax(y, dim=-1))
    assert y.unsqueeze(0).shape == (1, *y.shape)
    assert y.size == want.numel() and y.size() == want.size() and y.size(-1) == y[0].size(1) == want.size(2)
    assert torch.equal(torch.tensor(y), want) and torch.equal(torch.as_tensor(y), want)
    for text in ("x.flatten()", "x.flatten(1)", "x.flatten(0, 1)", "x[0, 0, 0].flatten()", "x.std(dim=-1)",
                 "x.var(dim=0, keepdim=True, correction=0)", "x.std(dim=1, unbiased=False)", "x.squeeze(dim=0)",
                 "x.diagonal(dim1=-2, dim2=-1, offset=1)", "x.flatten(start_dim=-2)"):
        ours, theirs = (eval(text, {"x": x}) for x in (y, want))
        assert ours.shape == theirs.shape and np.allclose(ours, theirs, rtol=1e-5)
    one, scores = y[0, 1, 2], torch.zeros(2)
    scores[0], scores[1] = one, one - y[0, 0, 0]
    assert scores.tolist() == [want[0, 1, 2], want[0, 1, 2] - want[0, 0, 0]] and {one: 1}[float(one)] == 1
    assert f"{one:.3f}" == f"{float(one):.3f}" and round(one, 2) == round(float(one), 2)
    with pytest.raises(TypeError, match=r"an array of \(10, 256\) is unhashable"):
        hash(y[0])
    assert y.flatten("C").shape == (y.size,) and y.std() == y.value.std()     # numpy's stay numpy's
    same([y.transpose(1, 2), y.view(1, -1), y.max(dim=-1).values, y.argsort(-1, descending=True)],
         [want.transpose(1, 2), want.view(1, -1), want.max(-1).values, want.argsort(-1, descending=True)])


def test_numbers_go_into_torch_s_tensors(model):
    with model.trace(PROMPT):
        best = model.lm_head.output[0, -1].max().save()
    torch = pytest.importorskip("torch")
    scores = torch.zeros(3)
    scores[0], scores[1], scores[2] = best, best.value, best - 0.0
    assert (scores == float(best)).all() and (torch.stack([best, best.value]) == scores[:2]).all()
    for one in (best, best.value, best - 0.0):
        with pytest.raises(TypeError, match=r"a value without dimensions has no length: torch.stack\(\[x, y\]\) "
                           r"makes one tensor of several, and x.item\(\) is a number"):
            torch.tensor([one, one])


YOURS_REFUSE = [
    ("t[0] = x; t[0] += x", ValueError, "your tensor gets its values when the run has ended, and is NaN until then: "
     "use in the run what was set into it, and add that up first"),
    ("t[1] = x; x + t[1:]", ValueError, "your tensor gets its values when the run has ended, and is NaN until then: "
     "use in the run what was set into it, and add that up first"),
    ("t.add_(x)", TypeError, "add_() cannot change a tensor of yours by what the run has not computed yet: write "
     "x = x.add(...), or do it behind the run, with the .value"),
    ("t.masked_fill_(x > 0, 1)", TypeError, "masked_fill_() cannot change a tensor of yours by what the run has not "
     "computed yet: write x = x.masked_fill(...), or do it behind the run, with the .value"),
    ("t.long().copy_(x)", TypeError, "copy_() cannot change a tensor of yours by what the run has not computed yet: "
     "write x = x.copy(...), or do it behind the run, with the .value"),
    ("torch.add(t, x, out=t)", TypeError, "add: out= cannot take what the run has not computed yet"),
    ("a = t.numpy(); a += x", TypeError, "an array of yours cannot become what the run has not computed yet: write "
     "array = array + x, or change it behind the run, by the .value"),
]


@pytest.mark.parametrize("code, kind, sentence", YOURS_REFUSE, ids=[r[0] for r in YOURS_REFUSE])
def test_a_tensor_of_the_user_s_is_not_left_as_it_was(model, code, kind, sentence):
    """No in-place method of torch's does nothing: copy_ and item by item it is filled later."""
    torch = pytest.importorskip("torch")
    names = {"t": torch.zeros(2), "u": torch.zeros(2, 3, dtype=torch.float64), "torch": torch}
    with model.trace(IDS):
        names["x"] = x = model.lm_head.output[0, -1].max()
        names["t"].copy_(x)
        names["u"][0].copy_(model.transformer.wte.output[0, 0, :3])
        with pytest.raises(kind) as refused:
            exec(code, {**names, "t": torch.zeros(2)})
        x.save()
        row = model.transformer.wte.output[0, 0, :3].save()
    assert str(refused.value) == sentence
    same(names["t"], [x, x])
    same(names["u"], [row, np.zeros(3)])


def test_a_tensor_of_the_user_s_gets_values_of_steps(model):
    torch = pytest.importorskip("torch")
    best = torch.zeros(3, dtype=torch.float64)
    with model.generate(PROMPT, max_new_tokens=3) as tracer:
        for step in tracer.iter[:]:
            best[step] = model.lm_head.output[0, -1].argmax().float()
    assert best.tolist() == tracer.output[0][-3:].tolist()
    with pytest.raises(RuntimeError, match="this block is written once for all of its steps, of which a tensor of "
                       "yours would get the last one's value alone: write"):
        with model.generate(PROMPT, max_new_tokens=3) as tracer:
            with tracer.iter[:]:
                best[0] += model.lm_head.output[0, -1].max()


def test_a_sum_over_runs_names_the_run_that_has_ended(model):
    total = 0
    with model.trace(IDS):
        total += model.transformer.wte.output
    with pytest.raises(ValueError, match="^transformer.wpe.output meets a value of a run that has ended: save that one "):
        with model.trace(IDS):
            total += model.transformer.wpe.output


@pytest.mark.parametrize("use", [
    lambda block: block.skip(block.input), lambda block: block.skip((block.input,)),
    lambda block: setattr(block, "output", block.input),
    lambda block: setattr(block, "output", (block.input, *block.output[1:])),
    lambda block: block.output.__setitem__(0, interpose.einsum("btd->btd", block.input))])
def test_a_module_s_input_stands_for_its_tensor(model, use):
    with model.trace(PROMPT):
        use(model.transformer.h[2])
        before, after = (model.transformer.h[i].output[0].save() for i in (1, 2))
    same([before], [after])


def test_a_saved_proxy_is_shown_copied_and_kept_as_its_value(model):
    with model.trace(PROMPT):
        norms = interpose.list().save()
        for block in model.transformer.h[:2]:
            norms.append(block.output[0].norm().item())
        norm = model.transformer.h[1].output[0].norm().item().save()
    assert f"{norm:.3f}" == f"{float(norms[1]):.3f}" and repr(norms[1]) == repr(norm.value)
    for kept in (copy.deepcopy(norm), pickle.loads(pickle.dumps(norm))):
        assert type(kept) is np.ndarray and kept == norm.value


def test_a_loop_of_next_ends_behind_the_last_step(model):
    with model.generate(PROMPT, max_new_tokens=3) as run:
        best = []
        for _ in range(3):
            best.append(model.lm_head.output[0, -1].argmax().save())
            model.lm_head.next()
    assert [int(token) for token in best] == run.output[0][-3:].tolist()


def test_the_ids_of_a_prompt_where_nnsight_has_them(model):
    with model.trace() as tracer:
        with tracer.invoke(PROMPT) as one:
            pass
        with tracer.invoke([PROMPT, "Hello"]) as several:
            pass
    assert one.inputs[0][0]["input_ids"].tolist() == [one.tokens[0].tolist()]
    assert [row.tolist() for row in several.inputs[0][0]["input_ids"]] == [
        row.tolist() for row in several.tokens]
    with pytest.raises(RuntimeError, match=r"tracer.inputs belongs to a prompt: ask it inside `with run"):
        tracer.inputs
    with model.trace(PROMPT) as tracer:
        assert tracer.positions("Eiffel Tower") == [1, 2, 3, 4]
    assert tracer.inputs[0][0]["input_ids"].tolist() == [one.tokens[0].tolist()]


def test_results_and_modules_by_their_paths(model):
    with model.generate([PROMPT, "Hello"], max_new_tokens=3) as run:
        ids = run.result.save()
    assert [row.tolist()[-3:] for row in ids] == [row.tolist()[-3:] for row in run.output]
    with model.trace(PROMPT) as run:
        logits = run.result.logits.save()
        mlp = model.get("transformer.h.1.mlp").output.save()
        same_mlp = model.transformer.h[1].mlp.output.save()
    assert logits.shape[-1] == model.config.vocab and (mlp == same_mlp).all()
    modules = dict(model.named_modules())
    assert len(modules) == len(model.modules()) and modules["transformer.h.1.mlp"]._path == "transformer.h.1.mlp"


def test_a_finished_proxy_enters_another_run_as_its_value(model):
    with model.trace(PROMPT):
        h = model.transformer.h[2].output[0].save()
        unsaved = model.transformer.h[2].output[0][0]
    with model.trace(PROMPT):
        model.transformer.h[2].output[0][:] = h * 0.5 + h / 2
        logits = model.lm_head.output.save()
    with model.trace(PROMPT):
        model.transformer.h[2].output[0][:] = h
        again = model.lm_head.output.save()
        with pytest.raises(ValueError, match="is of another run: save it there and use its .value"):
            model.lm_head.output + unsaved
    same([logits], [again])


# Refused.

REFUSED = [     # inside `with model.generate(PROMPT, max_new_tokens=3) as tracer:`
    ("tracer.iter[3].__enter__()", IndexError,
     "step 3 does not exist: this run has steps 0 to 2 (max_new_tokens=3)"),
    ("for _ in tracer.iter[5:9]: pass", IndexError,
     "iter[5:9] holds no step: this run has steps 0 to 2 (max_new_tokens=3)"),
    ("tracer.iter['a']", TypeError, "a step must be an integer: it is 'a'"),
    ("with tracer.iter[:] as i: model.transformer.h[i]", RuntimeError,
     "this block is written once for all of its steps, so Python does not know the step: write "
     "`for step in tracer.iter[...]:`"),
    ("with tracer.iter[:] as i:\n    if i != 1: pass", RuntimeError,
     "this block is written once for all of its steps, so Python does not know the step: write "
     "`for step in tracer.iter[...]:`"),
    ("with tracer.iter[:]:\n    for _ in tracer.iter[:]: pass", RuntimeError,
     "another iteration over steps is open: end it first"),
    ("with tracer.iter[:]: model.lm_head.next()", RuntimeError,
     "lm_head.next() inside an iteration: its step is the iteration's, take .step(k) for another"),
    ("with model.trace(IDS): pass", RuntimeError,
     "a run of this model is open already, from {place}: end it first, or write several invokes into "
     "one run, or runs into `with model.session():`"),
    ("with tracer.cond(model.lm_head.output.sum() > 0): tracer.stop()", RuntimeError,
     "tracer.stop() inside tracer.cond is not offered: what a run computes must not depend on its "
     "values; set values inside the condition"),
    ("with tracer.cond(model.transformer.wte.output > 0): pass", ValueError,
     "the condition of tracer.cond has {elements} elements, and must have one: take its .any() or .all()"),
    ("tracer.cond(True).else_()", RuntimeError,
     "else_() stands behind its block: `with tracer.cond(...) as c:` first"),
    ("c = tracer.cond(True)\nwith c: pass\nwith c: pass", RuntimeError,
     "a condition can be entered once: open another with tracer.cond(...)"),
    ("model.output['hidden_states']", KeyError,
     "\"the model's output has logits, as [0] or ['logits'], and no 'hidden_states'\""),
    ("model.trace(trace=False)", ValueError, "trace=False runs a prompt at once: give it one"),
]


@pytest.mark.parametrize("code, kind, sentence", REFUSED, ids=[r[0] for r in REFUSED])
def test_refused_at_once(model, code, kind, sentence):
    run = model.generate(PROMPT, max_new_tokens=3)
    with pytest.raises(kind) as refused:
        with run:
            exec(code, {"model": model, "tracer": run, "IDS": IDS})
    assert str(refused.value) == sentence.replace("{place}", str(run._place)).replace(
        "{elements}", str(10 * model.config.width))
    assert type(refused.value) is kind


def test_an_invoke_inside_a_condition_is_refused(model):
    with pytest.raises(RuntimeError, match="an invoke cannot depend on a step or on a value"):
        with model.trace() as tracer:
            with tracer.invoke(IDS):
                p = model.lm_head.output.sum() > 0
            with tracer.cond(p):
                with tracer.invoke(IDS):
                    pass


LATE = """
with model.generate(PROMPT, max_new_tokens=3) as tracer:
    with tracer.iter[:]:
        late = model.transformer.h[2].output[0]
        model.transformer.h[1].output[0][:] = late  #!
    with tracer.cond(late.sum() > 0):
        pass
"""
CONDITIONED = """
with model.trace(PROMPT) as tracer:
    with tracer.cond(model.transformer.h[2].output[0].sum() > 0):
        model.transformer.h[1].output[0][:] = 0  #!
"""
WIDE = """
with model.trace(PROMPT) as tracer:
    with tracer.cond(model.transformer.h[0].output[0].sum() > 0):
        model.transformer.h[1].output[0][:] = np.ones(3)  #!
"""


@pytest.mark.parametrize("code, error, sentence", [
    (LATE, "order", "transformer.h.1.output[0] of step 0 has passed when the new value is known, at "
     "transformer.h.2.output[0] of step 0"),
    (CONDITIONED, "order", "transformer.h.1.output[0] has passed when the new value is known, at "
     "transformer.h.2.output[0]"),
    (WIDE, "shape", "set: the value, (3,), does not fit the target, (1, 10, {width})")])
def test_what_is_written_again_is_refused_at_its_line(model, tmp_path, code, error, sentence):
    script = tmp_path / "notebook.py"
    script.write_text(code)
    with pytest.raises(interpose.RequestError) as refused:
        exec(compile(code, str(script), "exec"), {"model": model, "np": np, "PROMPT": PROMPT})
    e, culprit = refused.value, 1 + code.split("\n").index(next(
        line for line in code.split("\n") if "#!" in line))
    assert (e.code, e.message) == (error, sentence.replace("{width}", str(model.config.width)))
    assert (e.filename, e.lineno) == (str(script), culprit)
    assert traceback.extract_tb(e.__traceback__)[-1].lineno == culprit


def test_a_value_behind_a_failed_run_says_why(model):
    with pytest.raises(interpose.RequestError) as refused:
        with model.trace(IDS):
            x = model.transformer.wte.output.save()
            model.lm_head.output + np.ones(3)
    with pytest.raises(NoValue) as missing:
        x.value
    assert str(missing.value) == ("transformer.wte.output has no value: the run failed: "
                                  + str(refused.value).partition("\n")[0])
    with pytest.raises(RuntimeError, match="this run's block has ended"):
        x + 1


# Sessions.

def test_runs_of_a_session_share_values_in_one_request(model, monkeypatch):
    posted, stream = [], model.client.stream
    monkeypatch.setattr(model.client, "stream", lambda *a: posted.append(a[1]) or stream(*a))
    with model.session() as session:
        with model.trace(PROMPT) as first:
            h = model.transformer.h[2].output[0]
            top = model.lm_head.output[0, -1].max()
        between = h * 0.5 + h.mean() * 0
        with model.generate(max_new_tokens=2) as second:
            with second.invoke(IDS):
                model.transformer.h[0].output[0][:, -1] = between[:, -1]
                a = model.lm_head.output.save()
            with second.invoke(PROMPT):
                rows = interpose.list().save()
                with second.iter[:]:
                    rows.append(model.lm_head.output[0, -1].max() - top)
        with pytest.raises(NoValue, match="it arrives when the `with` block of the session ends"):
            a.value
    assert len(posted) == 1 and len(posted[0]["traces"]) == 2
    with model.trace(PROMPT):
        h = model.transformer.h[2].output[0].save()
        top = model.lm_head.output[0, -1].max().save()
    with model.generate(max_new_tokens=2) as alone:
        with alone.invoke(IDS):
            model.transformer.h[0].output[0][:, -1] = h[:, -1] * np.float32(0.5)
            b = model.lm_head.output.save()
        with alone.invoke(PROMPT):
            tops = [model.lm_head.output[0, -1].max().save() for _ in alone.iter[:]]
    same([a], [b])
    same(rows, [t - top.value for t in tops])
    same(second.output, alone.output)
    same(first.output, [model.tokenizer.encode(PROMPT)])
    assert session.timing == first.timing and first.request_id == second.request_id


def test_a_session_s_conditions_and_stop(model):
    with model.session() as session:
        with session.cond(1 > 0):
            with model.trace(IDS):
                x = model.transformer.h[0].output[0].save()
        with session.cond(1 < 0) as no:
            with model.trace(IDS):
                y = model.transformer.h[0].output[0].save()
        with no.else_():
            with model.trace(IDS):
                model.transformer.h[0].output[0][:] = x * 2
                z = model.transformer.h[0].output[0].save()
        session.stop()
        with model.trace(IDS):
            w = model.lm_head.output.save()
    same([z], [x.value * 2])
    with pytest.raises(NoValue, match="the condition of its tracer.cond is false"):
        y.value
    with pytest.raises(NoValue, match=r"tracer.stop\(\) stands before it"):
        w.value


SESSIONS_REFUSE = [
    ("session.invoke(IDS)", RuntimeError, "a session's prompts belong to its runs: open one, "
     "`with model.trace(prompt):`"),
    ("model.lm_head.output", RuntimeError,
     "lm_head belongs to a prompt: use it inside `with run.invoke(prompt):`"),
    ("with model.session(): pass", RuntimeError, "a run of this model is open already, from {place}: end "
     "it first, or write several invokes into one run, or runs into `with model.session():`"),
    ("with session.iter([1, 2]): pass", TypeError, "iter takes steps, as iter[1:3]; over anything else "
     "Python's own loop goes: `for item in ...:`"),
    ("pass", ValueError, "this session has no run: open one, `with model.trace(prompt):`"),
    ("with model.trace(): pass", ValueError, "this run has no prompt: open an invoke, `with "
     "run.invoke(prompt):`, or give the prompt to trace(...)"),
]


@pytest.mark.parametrize("code, kind, sentence", SESSIONS_REFUSE, ids=[r[0] for r in SESSIONS_REFUSE])
def test_what_a_session_cannot_do(model, code, kind, sentence):
    session = model.session()
    with pytest.raises(kind) as refused:
        with session:
            exec(code, {"model": model, "session": session, "IDS": IDS})
    assert str(refused.value) == sentence.replace("{place}", str(session._place))


SESSION = """
with model.session():
    with model.trace([1, 2]):
        early = model.transformer.h[0].output[0]
        x = model.lm_head.output.save()
    with model.generate([1, 2], max_new_tokens=3):
        late = model.lm_head.step(2).output
        {}  #!
    y = late + 1
"""


@pytest.mark.parametrize("line, code", [
    ("early[:] = late[:, :, :4]", "shape"), ("early[:] = late[:, :, :1]", "order"),
    ("model.lm_head.output[:, 99]", "index")])
def test_a_session_is_refused_at_its_line(model, tmp_path, line, code):
    script = tmp_path / "notebook.py"
    script.write_text(SESSION.format(line))
    names = {"model": model}
    with pytest.raises(interpose.RequestError) as refused:
        exec(compile(script.read_text(), str(script), "exec"), names)
    assert (refused.value.code, refused.value.lineno) == (code, 8)
    with pytest.raises(NoValue, match="lm_head.output has no value: the run failed: "):
        names["x"].value


def test_a_prompt_of_a_session_is_refused_at_its_line(model, tmp_path):
    script = tmp_path / "notebook.py"
    script.write_text("with model.session():\n    with model.trace([1]): model.lm_head.output.save()\n"
                      "    with model.trace() as t:\n        with t.invoke([2]): pass\n"
                      "        with t.invoke([10**6]): model.lm_head.output.save()\n")
    with pytest.raises(interpose.RequestError) as refused:
        exec(compile(script.read_text(), str(script), "exec"), {"model": model})
    assert refused.value.lineno == 5, str(refused.value)


def test_positions_of_prompts_of_unequal_length(model):
    texts = ["The Eiffel Tower is in the city of", "The Tower"]
    with model.trace() as tracer:
        with tracer.invoke(texts) as invoker:
            ids = model.transformer.wte.input.save()
            places = [invoker.positions("Tower", prompt=k) for k in (0, 1)]
            ends = [invoker.positions(-1, prompt=k) for k in (0, 1)]
            firsts = [invoker.positions(slice(0, 1), prompt=k) for k in (0, 1)]
    tower = [model.tokenizer.decode(row[where]) for row, where in zip(ids.value, places)]
    assert tower[0] == tower[1] and "Tower" in tower[0]
    n = ids.shape[1]
    assert ends == [[n - 1]] * 2 and firsts == [[0], [n - len(invoker.tokens[1])]]


# All prompts of a run.

def test_all_prompts_are_one_left_padded_batch(model):
    """Read, set in part, replaced, at each step, between invokes; beside the same written by hand."""
    prompts, n = [PROMPT, IDS, [[1, 2, 3], [4, 5, 6]]], 10

    def by_hand(change):
        with model.generate(max_new_tokens=2) as run:
            kept = []
            for prompt in prompts:
                with run.invoke(prompt):
                    change(model)
                    kept.append((model.transformer.h[1].mlp.output.save(),
                                 model.transformer.h[1].attn.query.step(1).output.save(),
                                 model.lm_head.output.save()))
        return kept

    def change(model):
        mlp = model.transformer.h[1].mlp
        old = mlp.output
        mlp.output = old * 2
        mlp.output[:, -1, 3] = 7
        mlp.output[:, -2:] += old[:, -2:]

    with model.generate(max_new_tokens=2) as run:
        with run.invoke(prompts[0]):
            before = model.transformer.h[1].mlp.output.save()
        with run.invoke():
            change(model)
            mlp = model.transformer.h[1].mlp.output.save()
            query = model.transformer.h[1].attn.query.step(1).output.save()
            logits = model.lm_head.output[:, -1].save()
        with run.invoke(prompts[1]):
            behind = model.transformer.h[1].mlp.output.save()
        with run.invoke(prompts[2]):
            pass
    kept = by_hand(change)
    rows = [row for each, _, _ in kept for row in each.value]
    assert mlp.shape == (4, n, model.config.width) and query.shape[:3] == (4, model.config.n_heads, 1)
    for padded, row in zip(mlp.value, rows):
        assert not padded[:n - len(row)].any()
        same([padded[n - len(row):]], [row])
    same([query], [np.concatenate([q.value for _, q, _ in kept])])
    same([logits], [np.concatenate([each.value[:, -1] for _, _, each in kept])])
    same([before], [by_hand(lambda _: None)[0][0]])
    same([behind], [kept[1][0]])


def test_lists_iterations_and_conditions_of_all_prompts(model):
    with model.generate(max_new_tokens=3) as run:
        with run.invoke():
            ids, loud = interpose.list().save(), interpose.list().save()
            with run.iter[:]:
                ids.append(model.lm_head.output[:, -1].argmax(-1))
                with run.cond(ids[-1][0] >= 0):
                    loud.append(model.lm_head.output[:, -1].max())
            last = [model.lm_head.output[:, -1].argmax(-1).save() for _ in run.iter[1:]]
            with pytest.raises(RuntimeError) as refused:
                model.lm_head.output.shape
            x = model.transformer.h[0].output[0]
            x.save()
        for prompt in (PROMPT, IDS):
            with run.invoke(prompt):
                pass
    assert str(refused.value) == ("the shape of lm_head.output is of all prompts of the run, which has "
                                  "none yet: write them in front of `with run.invoke():`")
    assert len(loud) == 3 and x.shape[:2] == (2, 10)
    new = np.array([tokens[-3:] for tokens in run.output])
    same(ids, new.T)
    same(last, new.T[1:])
    with pytest.raises(ValueError, match="this run has no prompt: open an invoke"):
        with model.trace() as run:
            with run.invoke():
                model.lm_head.output.save()


def test_all_prompts_are_one_tensor_by_all_its_names(model):
    """With padding that stays 0, a shape, and modules that are skipped."""
    block, other = model.transformer.h[1], model.transformer.h[2]
    with model.trace() as run:
        for prompt in (PROMPT, IDS):
            with run.invoke(prompt):
                before, behind = other.input[0][0].save(), other.output[0].save()
        with run.invoke():
            x = block.output[0]
            resid = model.hooks["blocks.1.hook_resid_post"]
            x[:] = x.flip(0).movedim(0, 1).mean(1)
            x, resid = x.save(), resid.save()
            other.skip(x * 2)
            after, logits = other.output[0].save(), model.lm_head.output[:, -1].save()
    padding = x.shape[1] - len(IDS)
    assert x.shape == (2, 10, model.config.width) and padding > 0
    assert not x.value[1, :padding].any() and x.value[0].any()
    same([resid, after], [x.value, x.value * 2])
    with model.trace() as run:
        for row in (x.value[:1], x.value[1:, padding:]):
            with run.invoke(PROMPT if len(row[0]) == 10 else IDS):
                block.output[0][:] = row
                other.skip(block.output[0] * 2)
                last = model.lm_head.output[0, -1].save()
    same([logits.value[1]], [last])
    with pytest.raises(interpose.RequestError, match="is inside the module that") as refused:
        with model.trace() as run:
            with run.invoke(IDS):
                pass
            with run.invoke():
                other.skip(block.output)
                other.mlp.output.save()
                place = inspect.currentframe().f_lineno - 1
    assert refused.value.lineno == place
    assert before.shape == behind.shape == (1, len(IDS), model.config.width)


@pytest.mark.parametrize("path", ["blocks.1.hook_resid_post", "blocks.1.attn.hook_z"])
def test_all_prompts_are_set_behind_a_use_at_a_later_place(model, path):
    """As an invoke of one is: what was used before the set is the old tensor."""
    def change():
        x = model.hooks[path]
        y = model.transformer.h[3].output[0][:, -1, :4] * x[:, -1].flatten(1)[:, :4]
        x[:, -1] += 1
        return [each.save() for each in (y, x[:, -1], model.hooks[path][:, -1], model.lm_head.output[:, -1])]
    prompts = [PROMPT, IDS]
    for each in prompts:
        with model.trace(each):
            alone = change()
        with model.trace() as run:
            for prompt in prompts:
                with run.invoke(prompt):
                    pass
            with run.invoke():
                together = change()
        i = prompts.index(each)
        same([x.value[i] for x in together], [x.value[0] for x in alone])


HEADS = [path.replace("*", "1") for path in (
    "blocks.*.attn.hook_q", "transformer.h.*.attn.key.output", "blocks.*.attn.hook_v",
    "transformer.h.*.attn.z.output", "blocks.*.attn.hook_z", "transformer.h.*.attn.c_proj.input")]


def of_prompts(model, change, *invokes):
    """What a change gives in the last invoke, and the logits there."""
    with model.trace() as run:
        for prompt in invokes[:-1]:
            with run.invoke(prompt):
                pass
        with run.invoke(invokes[-1]):
            return change().save(), model.lm_head.output.save()


@pytest.mark.parametrize("path", HEADS)
@pytest.mark.parametrize("is_old", [False, True])
def test_all_prompts_and_old_names_lie_as_an_invoke_has_them(model, path, is_old):
    """What is a view and what a copy: beside one invoke with the same prompts, and beside a place
    that is not replaced."""
    def change(is_old):
        x = model.hooks[path]
        if is_old:
            model.hooks[path] = x * 2
        for k, view in enumerate([x.flatten(1), x.flatten(2), x.transpose(1, 2).flatten(2),
                                  x.flatten(0, 1), x.transpose(1, 2).flatten(0, 1)]):
            view += 2.0 ** k
        return x
    prompts = [[1, 2, 3], [4, 5, 6]]
    one = of_prompts(model, lambda: change(is_old), prompts)
    same(of_prompts(model, lambda: change(is_old), *prompts, None), one)
    same(of_prompts(model, lambda: change(False), prompts)[:1], one[:1])


def test_a_view_that_would_copy_is_refused_of_all_prompts_too(model):
    def sentence(*invokes):
        with pytest.raises(interpose.RequestError) as refused:
            of_prompts(model, lambda: model.hooks[HEADS[0]].view(2, -1), *invokes)
        return str(refused.value).partition("\n")[0]
    assert sentence([1, 2, 3], [4, 5, 6], None) == sentence([[1, 2, 3], [4, 5, 6]]) == (
        f"view of (2, 3, {model.config.n_heads}, {model.config.width // model.config.n_heads}) as "
        f"(2, {3 * model.config.width}): no strides walk its elements in that order, use reshape, "
        "which copies (shape)")


def test_what_is_of_all_prompts_is_refused_where_more_may_come(model):
    def sentence(block):
        with pytest.raises(RuntimeError) as refused:
            with model.trace() as run:
                with run.invoke(IDS):
                    pass
                block(run)
        return str(refused.value)

    def shape_first(run):
        with run.invoke() as everyone:
            assert model.lm_head.output.argmax(-1).shape == (1, len(IDS))
            places.append(str(everyone.place))
        with run.invoke(IDS):
            pass

    def used_behind(run):
        with run.invoke():
            x = model.transformer.h[0].output[0] * 2
        with run.invoke(IDS):
            (x + 1).save()
    places = []
    assert sentence(shape_first) == (
        f"`with run.invoke():`, from {places[0]}, asked for the shape of argmax(lm_head.output, -1), which "
        "is of all prompts: write them in front of it")
    assert sentence(used_behind) == (
        "mul(transformer.h.0.output[0], 2) is of all prompts of the run, which are known when its block "
        "ends: use it inside `with run.invoke():`, or behind the run")


def test_a_bad_set_of_all_prompts_is_refused_at_its_line(model, tmp_path):
    script = tmp_path / "notebook.py"
    script.write_text("with model.trace() as t:\n    with t.invoke():\n"
                      "        model.transformer.h[0].output[0][:, 99] = 0\n"
                      "    with t.invoke([1]): model.lm_head.output.save()\n"
                      "    with t.invoke([1, 2]): model.lm_head.output.save()\n")
    with pytest.raises(interpose.RequestError) as refused:
        exec(compile(script.read_text(), str(script), "exec"), {"model": model})
    assert (refused.value.code, refused.value.lineno) == ("index", 3)


# Everything that is refused, word for word and at its line; {w}, {h}, {v}, {last} are the model's sizes.

EVERY_REFUSAL = [
    # Too late.
    ("late = model.transformer.h[2].output[0]; model.transformer.h[1].output[0][:] = late",
     "transformer.h.1.output[0] of step 0 has passed when the new value is known, at "
     "transformer.h.2.output[0] of step 0 (order)"),
    ("model.transformer.h[0].mlp.output = model.lm_head.output[..., :{w}] * 0",
     "transformer.h.0.mlp.output of step 0 has passed when the new value is known, at lm_head.output of "
     "step 0 (order)"),
    # Values that Python would need.
    ("if model.lm_head.output.sum() > 0: pass",
     "`if` (and `and`, `or`, `not`, bool()) needs a value now, and nothing has run yet: save "
     "gt(sum(lm_head.output), 0) and use its .value behind the block, or choose by it there: "
     "`with tracer.cond(x):`, x.where(...), &, |, ~"),
    ("while not model.lm_head.output.any(): pass",
     "`if` (and `and`, `or`, `not`, bool()) needs a value now, and nothing has run yet: save "
     "{any} and use its .value behind the block, or choose by it there: `with tracer.cond(x):`, "
     "x.where(...), &, |, ~"),
    ("format(model.lm_head.output.sum(), '.3f')",
     "the format '.3f' needs a value now, and nothing has run yet: save sum(lm_head.output) and use "
     "its .value behind the block"),
    ("model.transformer.h[0].mlp.output.item()",
     "item() takes a tensor of one element: not (1, 10, {w})"),
    ("for x in model.lm_head.output.sum(): pass",
     "sum(lm_head.output) has no dimensions, and so no length: torch.stack makes one tensor of several"),
    ("range(model.lm_head.output[0, -1].argmax())",
     "an index needs a value now, and nothing has run yet: save argmax(lm_head.output[0, -1]) and use "
     "its .value behind the block"),
    # Another run's values.
    ("model.lm_head.output + other",
     "transformer.wte.output is of another run: save it there and use its .value here"),
    # Shapes and dtypes.
    ("model.transformer.h[0].mlp.output = np.zeros((3, 3))", 
     "set: the value, (3, 3), does not fit the target, (1, 10, {w}) (shape)"),
    ("model.lm_head.output + np.ones(3)", "add of (1, 10, {v}) and (3,) (shape)"),
    ("model.lm_head.output @ np.ones((3, 3))", None),
    ("model.lm_head.output & 1", "bitwise_and of float32 is not defined: it takes int64 and bool (type)"),
    ("model.transformer.wte.input[:] = 1", "transformer.wte.input can be read, but not set (type)"),
    ("model.transformer.h[0].output[1][0][:] = 0",
     "transformer.h.0.output[1][0] can be read, but not set (type)"),
    # Blocks, heads, positions, steps.
    ("model.transformer.h[99].output", "transformer.h.99 does not exist: this model has blocks 0 to {last}"),
    ("model.transformer.h[0].attn.value.output[:, {h}] = 0",
     "index {h} is out of range for dimension 1 of size {h} (index)"),
    ("model.transformer.h[0].mlp.output[:, 10] = 0",
     "index 10 is out of range for dimension 1 of size 10 (index)"),
    ("model.lm_head.step(3).output",
     "step 3 does not exist: this run has steps 0 to 2 (max_new_tokens=3)"),
    ("tracer.next(3); model.lm_head.output",
     "lm_head has no next step: this run has steps 0 to 2 (max_new_tokens=3)"),
    ("tracer.next(4)", "the model has no next step: this run has steps 0 to 2 (max_new_tokens=3)"),
    # Sets of nothing.
    ("model.transformer.h[0].mlp.output[:, 3:3] = 0",
     "set of (1, 0, {w}), which has no elements to change (shape)"),
    ("model.transformer.h[0].mlp.output[:, []] = 0",
     "the index of this set chooses no element: nothing would be changed"),
    ("model.transformer.h[0].mlp.output[np.zeros((1, 10, {w}), bool)] = 0",
     "the index of this set chooses no element: nothing would be changed"),
    # What does not exist.
    ("model.lm_head.output.softmx(-1)", "a proxy has no 'softmx': did you mean softmax, log_softmax, sort?"),
    ("model.transformer.h[0].mpl", "transformer.h.0 has no 'mpl': did you mean mlp?"),
    ("model.transformer.h.first", "transformer.h has no 'first': it is a list of {blocks} blocks"),
    ("model.transformer.h[0].attn.source", "transformer.h.0.attn.source is not offered: no Python runs in "
     "the model; print(model) shows what can be looked at"),
    ("model.lm_head.output.sum().backward()", "backward is not offered: a server computes no gradients"),
    ("model.lm_head.output.unique()", "unique is not offered: the shape of its result depends on values, "
     "and every shape is known before a run; save the tensor and use numpy.unique on its value"),
    # Too much of something, with the estimate.
    ("model.lm_head.output.expand(400000, -1, -1).clone()", None),
    ("[model.lm_head.output[:, :, :4].expand(200000, -1, -1).clone().save() for _ in range(9)]", None),
    ("x = model.lm_head.output[0]; y = x.mT @ x; [(y @ y).sum().save() for _ in range(40)]", None),
    # Runs inside runs.
    ("with model.trace(IDS): pass", "a run of this model is open already, from {place}: end it first, or "
     "write several invokes into one run, or runs into `with model.session():`"),
]
LIMITS = {  # what the sentences above without a text begin and end with
    "expand(400000": ("expand makes a float32 tensor of shape (400000, 10, ", "the limit is 1073741824 (limit)"),
    "expand(200000": ("with this one the saves take ", "the limit is 268435456 (limit)"),
    "y @ y": ("up to here the graph itself asks for ", " multiply-adds: the limit is 2.15e+11 (limit)"),
    "np.ones((3, 3))": ("matmul of (1, 10, ", "(shape)"),
}


@pytest.mark.parametrize("code, sentence", EVERY_REFUSAL, ids=[r[0] for r in EVERY_REFUSAL])
def test_refusals_word_for_word_and_at_their_line(model, tmp_path, code, sentence):
    c = model.config
    sizes = {"w": c.width, "h": c.n_heads, "v": c.vocab, "last": c.n_blocks - 1, "blocks": c.n_blocks,
             "any": "{any}"}
    fill = lambda text, **more: re.sub(     # noqa: E731
        r"\{(\w+)\}", lambda m: str({**sizes, **more}.get(m[1], m[0])), text)
    with model.trace(IDS):
        other = model.transformer.wte.output
    script = tmp_path / "notebook.py"
    script.write_text("import numpy as np\nrun = model.generate(PROMPT, max_new_tokens=3)\n"
                      f"with run as tracer:\n    y = 1\n    {fill(code)}\n    y = 2\n")
    names = {"model": model, "IDS": IDS, "PROMPT": PROMPT, "other": other}
    with pytest.raises(Exception) as refused:
        exec(compile(script.read_text(), str(script), "exec"), names)
    e = refused.value
    text = str(e).partition("\n")[0]
    if sentence is None:
        begin, end = next(ends for mark, ends in LIMITS.items() if mark in code)
        assert text.startswith(begin) and text.endswith(end), text
    elif "{any}" in sentence:
        assert text.startswith(sentence.partition("{any}")[0])
    else:
        assert text == fill(sentence, place=names["run"]._place)
    lines = [entry.lineno + 1 for entry in refused.traceback if str(entry.path) == str(script)]
    assert getattr(e, "lineno", lines[-1]) == 5


# Random programs, each written in several contexts that mean the same.

def random_body(model, seed, keep):
    """Reads, changes and replaces tensors of the model at random places, one behind the other; `keep` is
    given what the program sees."""
    rng = random.Random(seed)
    places = sorted(rng.choices(range(3 * 3), k=rng.randint(2, 6)))
    seen = []
    for place in places:
        block = model.transformer.h[place // 3]
        module = (block.attn, block.mlp, block)[place % 3]
        is_tuple = place % 3 != 1
        x = module.output[0] if is_tuple else module.output
        for _ in range(rng.randint(1, 3)):
            other = rng.choice(seen)[:, -1:] * 0.5 if seen else 0.25
            verb = rng.randrange(6)
            if verb == 0:
                x[:, -1] = rng.random()
            elif verb == 1:
                x[..., 3:9] += other[..., 3:9] if seen else other
            elif verb == 2:
                x *= 1 + rng.random()
            elif verb == 3:
                new = x * 0.5 + other
                if is_tuple:
                    module.output = (new,) + module.output[1:]
                else:
                    module.output = new
            elif verb == 4:
                view = x.transpose(1, 2)
                view[:, 5] = view[:, 6] + 1
            keep(x.mean())
        seen += [x, x + 1]
    keep(model.lm_head.output[:, -1].max())


@pytest.mark.parametrize("seed", range(12))
def test_a_program_means_the_same_in_every_context(model, server, seed):
    def plain(prompt, steps=1):
        out = interpose.list().save()
        with model.generate(prompt, max_new_tokens=steps, eos_token_id=[]) as tracer:
            for _ in tracer.iter[:]:
                random_body(model, seed, out.append)
        return out, tracer.output[0]

    one, _ = plain(PROMPT)
    several, tokens = plain(PROMPT, 3)
    # Steps.
    block = interpose.list().save()
    with model.generate(PROMPT, max_new_tokens=3, eos_token_id=[]) as tracer:
        with tracer.iter[:]:
            random_body(model, seed, block.append)
    same(block, several)
    same([tracer.output[0]], [tokens])
    # A condition that holds, and one that does not.
    taken, left = (interpose.list().save() for _ in range(2))
    with model.trace() as tracer:
        for out, sign in ((taken, 1), (left, -1)):
            with tracer.invoke(PROMPT):
                with tracer.cond(model.transformer.wte.output.abs().sum() * sign > 0) as c:
                    random_body(model, seed, out.append)
                with c.else_():
                    out.append(model.lm_head.output[:, -1].max())
    with model.trace(PROMPT):
        untouched = model.lm_head.output[:, -1].max().save()
    same(taken, one)
    same(left, [untouched])
    # An edit, of one step and of all; what it would keep is read behind it.
    last = [several[len(one) * k - 1] for k in (1, 2, 3)]
    for all_steps in (False, True):
        with model.edit() as edited:
            if all_steps:
                model.all()
            random_body(model, seed, lambda x: None)
        with edited.generate(PROMPT, max_new_tokens=3, eos_token_id=[]) as tracer:
            found = [model.lm_head.output[:, -1].max().save() for _ in tracer.iter[:]]
        same(found if all_steps else found[:1], last if all_steps else last[:1])
    # A session's second run; all prompts of a run, of which there is one.
    in_session, of_all = (interpose.list().save() for _ in range(2))
    with model.session():
        with model.trace(IDS):
            early = model.transformer.h[0].output[0].sum() * 0
        with model.trace(PROMPT):
            random_body(model, seed, lambda x: in_session.append(x + early))
    with model.trace() as tracer:
        with tracer.invoke():
            random_body(model, seed, of_all.append)
        with tracer.invoke(PROMPT):
            pass
    same(in_session, one)
    same(of_all, one)
    # Two prompts of one length as all, row by row.
    other = model.tokenizer.encode(PROMPT)[::-1]
    rows = interpose.list().save()
    with model.trace() as tracer:
        with tracer.invoke():
            random_body(model, seed, lambda x: None)
            rows.append(model.lm_head.output)
        for prompt in (PROMPT, other):
            with tracer.invoke(prompt):
                pass
    for prompt, row in zip((PROMPT, other), rows[0]):
        with model.trace(prompt):
            random_body(model, seed, lambda x: None)
            alone = model.lm_head.output[0].save()
        same([row], [alone])
