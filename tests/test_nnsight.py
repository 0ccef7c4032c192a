"""The language-model tests of nnsight 0.1 to 0.5, in our words, against our client and the demo model.

Each test says which of theirs it stands for; clients/python/NNSIGHT.md has the table of all of them, with
what is out of scope and why. Their numbers are GPT-2's: here a value is compared with what the same
program gives by another way.
"""
import json
import pathlib
import re

import numpy as np
import pytest

import interpose
from interpose import LanguageModel, NoValue, RequestError

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOWER = "The Eiffel Tower is in the city of"
SQUARE = "Madison Square Garden is located in the city of"


@pytest.fixture(scope="module")
def model(server):
    name = json.loads(server.get("/v1/models")[1])["models"][0]["name"]
    return LanguageModel(name, host=server.host)


@pytest.fixture(scope="module")
def continued(model):
    """The three tokens that follow each prompt."""
    texts = {}
    for prompt in (TOWER, SQUARE):
        with model.generate(prompt, max_new_tokens=3) as run:
            pass
        texts[prompt] = model.tokenizer.decode(run.output[0])
    return texts


def covers(*theirs):
    """Which of nnsight's tests a test stands for: "0.2 test_save"."""
    def mark(function):
        function.covers = theirs
        return function
    return mark


def zeros_like(x):
    return interpose.zeros_like(x)


# Generation.

@covers("0.1 test_generation", "0.2 test_generation", "0.3 test_generation", "0.4 test_generation",
        "0.5 test_basic_generation")
def test_generation(model, continued):
    with model.generate(max_new_tokens=3, validate=True) as generator:
        with generator.invoke(SQUARE, scan=True):
            output = model.generator.output.save()
    assert model.tokenizer.decode(output[0]) == continued[SQUARE]
    assert model.tokenizer.decode(generator.output[0]) == continued[SQUARE]
    assert continued[SQUARE].startswith(SQUARE)


@covers("0.1 test_save", "0.2 test_save", "0.3 test_save", "0.4 test_save",
        "0.5 test_save_hidden_states", "tiny test_tiny")
def test_save(model):
    with model.generate("Hello world", validate=True, scan=True):
        hs = model.transformer.h[-1].output[0].save()
        hs_args = model.transformer.h[-1].input[0][0].save()
        hs_input = model.transformer.h[-1].input.save()
    for saved in (hs, hs_args, hs_input):
        assert isinstance(saved.value, np.ndarray)
        assert saved.value.ndim == saved.ndim == 3
    assert np.array_equal(hs_args, hs_input)


@covers("0.4 test_undispatched_extra_module", "0.5 test_undispatched_extra_module")
def test_undispatched(server, model):
    fresh = LanguageModel(model.name, host=server.host, device_map="auto", dispatch=False,
                          device="cpu")
    with fresh.generate(SQUARE, max_new_tokens=1):
        output = fresh.generator.output.save()
    assert output.value.shape[1] == len(model.tokenizer.encode(SQUARE)) + 1


@covers("0.5 test_iter_with_streamer1", "0.5 test_iter_with_streamer2")
def test_streamer(model):
    with model.generate(SQUARE, max_new_tokens=8) as tracer:
        hs, tokens = interpose.list().save(), interpose.list().save()
        tokens.append(model.generator.streamer.output)
        for steps in (slice(2, 5), slice(5, 7)):
            with tracer.iter[steps]:
                hs.append(model.transformer.h[-2].output[0])
                tokens.append(model.generator.streamer.output)
    assert len(hs) == 5 and len(tokens) == 6
    new = tracer.output[0][-8:]
    assert [int(t[0]) for t in tokens] == [int(new[k]) for k in (0, 2, 3, 4, 5, 6)]


# Setting activations.

@covers("0.1 test_set1", "0.2 test_set1", "0.3 test_set1", "0.4 test_set1",
        "0.5 test_inplace_modification")
def test_set_in_place(model):
    with model.generate(max_new_tokens=3) as tracer:
        with tracer.invoke(TOWER):
            pre = model.transformer.h[-1].output[0].clone().save()
            model.transformer.h[-1].output[0][:] = 0
            post = model.transformer.h[-1].output[0].save()
            output = model.generator.output.save()
    assert not (pre.value == 0).all().item() and (post.value == 0).all().item()
    assert not (pre == 0).all().item() and (post == 0).all().item()
    with model.generate(TOWER, max_new_tokens=3) as plain:
        pass
    assert output[0].tolist() != plain.output[0].tolist()


@covers("0.1 test_set2", "0.2 test_set2", "0.3 test_set2", "0.4 test_set2",
        "0.5 test_multiplication_modification")
def test_set_by_assignment(model):
    with model.generate(max_new_tokens=3) as generator:
        with generator.invoke(TOWER):
            pre = model.transformer.wte.output.clone().save()
            model.transformer.wte.output = model.transformer.wte.output * 0
            post = model.transformer.wte.output.save()
            output = model.generator.output.save()
    assert not (pre.value == 0).all() and (post.value == 0).all()
    with model.generate(TOWER, max_new_tokens=3) as plain:
        pass
    assert output[0].tolist() != plain.output[0].tolist()


@covers("0.4 test_set3", "0.5 test_tuple_replacement")
def test_set_a_tuple(model):
    with model.generate(max_new_tokens=1) as generator:
        with generator.invoke(TOWER):
            last = model.transformer.h[-1]
            pre = last.output.save()
            last.output = (zeros_like(last.output[0]),) + last.output[1:]
            post = last.output.save()
    with model.trace(TOWER):
        last.output = (zeros_like(last.output[0]),)     # as of a model that keeps no cache
        short = last.output.save()
        with pytest.raises(ValueError, match="transformer.h.5.output is a tuple of 2: 3 are given"):
            last.output = (0, 0, 0)
    assert np.array_equal(short[0], post[0]) and np.array_equal(short[1][0], post[1][0])
    assert isinstance(pre.value, tuple) and isinstance(post.value, tuple)
    assert not (pre.value[0] == 0).all() and (post.value[0] == 0).all()
    assert np.array_equal(pre.value[1][0], post.value[1][0])


@covers("0.4 test_set4", "0.5 test_cross_invoke_isolation")
def test_invokes_are_isolated(model, continued):
    with model.trace(validate=True) as tracer:
        with tracer.invoke(TOWER):
            last = model.transformer.h[-1]
            last.output = (zeros_like(last.output[0]),) + last.output[1:]
        with tracer.invoke(TOWER):
            hs = model.transformer.h[-1].output.save()
            out = model.lm_head.output[0][-1].argmax(dim=-1).save()
    assert isinstance(hs.value, tuple) and np.all(hs.value[0] != 0)
    assert continued[TOWER].startswith(TOWER + model.tokenizer.decode(out.value))


@covers("0.4 test_set5", "0.5 test_modification_with_grad")
def test_invokes_are_isolated_in_the_first_block(model, continued):
    with model.trace() as tracer:
        with tracer.invoke(TOWER):
            first = model.transformer.h[0]
            first.output = (zeros_like(first.output[0]),) + first.output[1:]
        with tracer.invoke(TOWER):
            hs = model.transformer.h[0].output[0].save()
            out = model.lm_head.output[0][-1].argmax(dim=-1).save()
    assert np.all(hs.value != 0)
    assert continued[TOWER].startswith(TOWER + model.tokenizer.decode(out.value))


@covers("0.1 test_adhoc_module", "0.2 test_adhoc_module", "0.3 test_adhoc_module",
        "0.4 test_adhoc_module", "0.5 test_logit_lens")
def test_modules_applied_to_proxies(model):
    torch = pytest.importorskip("torch")
    with model.generate() as generator:
        with generator.invoke(TOWER):
            hidden_states = model.transformer.h[-1].output[0]
            hidden_states = model.lm_head(model.transformer.ln_f(hidden_states))
            tokens = torch.softmax(hidden_states, dim=2).argmax(dim=2).save()
            best = model.lm_head.output.argmax(-1).save()
    assert np.array_equal(tokens, best)


@covers("0.1 test_embeddings_set1", "0.2 test_embeddings_set1", "0.3 test_embeddings_set1",
        "0.4 test_embeddings_set1", "0.5 test_embedding_transfer_with_barrier")
def test_embeddings_between_invokes(model, continued):
    blank = [62] * len(model.tokenizer.encode(SQUARE))
    with model.generate(max_new_tokens=3) as tracer:
        barrier = tracer.barrier(2)
        with tracer.invoke(SQUARE):
            embeddings = model.transformer.wte.output
            barrier()
            output1 = model.generator.output.save()
        with tracer.invoke(blank):
            barrier()
            model.transformer.wte.output = embeddings
            output2 = model.generator.output.save()
    assert model.tokenizer.decode(output1.value[0]) == continued[SQUARE]
    assert output2[0].tolist() == blank + output1[0].tolist()[len(blank):]


@covers("0.1 test_embeddings_set2", "0.2 test_embeddings_set2", "0.3 test_embeddings_set2",
        "0.4 test_embeddings_set2", "0.5 test_embedding_transfer_separate_traces")
def test_embeddings_between_runs(model, continued):
    blank = [62] * len(model.tokenizer.encode(SQUARE))
    with model.generate(max_new_tokens=3) as generator:
        with generator.invoke(SQUARE):
            embeddings = model.transformer.wte.output.save()
            output1 = model.generator.output.save()
    for given in (embeddings.value, embeddings):
        with model.generate(max_new_tokens=3) as generator:
            with generator.invoke(blank):
                model.transformer.wte.output = given
                output2 = model.generator.output.save()
        assert output2[0].tolist() == blank + output1[0].tolist()[len(blank):]


@covers("0.2 test_other_device_tensors",
        "0.3 test_other_device_tensors", "0.4 test_other_device_tensors",
        "0.5 test_external_tensors")
def test_tensors_from_outside(model):
    torch = pytest.importorskip("torch")
    width = model.config.width
    weight, bias = torch.randn(width, width), torch.randn(width)

    def fun(x):
        return torch.nn.functional.relu(x @ weight.T - bias)

    with model.trace("fish", validate=True, scan=True):
        x = model.transformer.h[0].mlp.output
        z = fun(x).save()
        x = x.save()
    assert torch.allclose(z.torch(), fun(x.torch()), atol=1e-4)


# Parameters.

@covers("0.4 test_parameter_protocol", "0.4 test_parameter_protocol_meta")
def test_parameters(model):
    with model.trace(SQUARE):
        weight = model.transformer.h[0].mlp.c_proj.weight.save()
        bias = model.transformer.h[0].mlp.c_proj.bias.save()
    assert weight.shape == (model.config.inner, model.config.width)
    assert bias.shape == (model.config.width,)


@covers("0.4 test_parameter_protocol_result")
def test_parameters_give_the_module_s_output(model):
    with model.trace(SQUARE):
        c_proj = model.transformer.h[0].mlp.c_proj
        x = c_proj.input
        again = (x.reshape(-1, x.size(-1)) @ c_proj.weight + c_proj.bias).save()
        out = c_proj.output[0].save()
    assert np.allclose(again, out, atol=1e-4)


@covers("0.4 test_parameter_protocol_safety")
def test_parameters_cannot_be_changed(model):
    with pytest.raises(RequestError) as refused:
        with model.trace(SQUARE):
            model.transformer.h[0].mlp.c_proj.weight[:] = 0
    assert "transformer.h.0.mlp.c_proj.weight" in refused.value.message


# Edits.

@covers("0.3 test_non_inplace_editing", "0.4 test_non_inplace_editing", "0.5 test_non_inplace_editing")
def test_edits_in_place_and_not(server, model):
    own = LanguageModel(model.name, host=server.host)
    with own.edit(inplace=True):
        own.transformer.h[1].output[0][:, 0] = 0
    with own.edit() as edited:
        own.transformer.h[1].output[0][:, 1] = 0
    with own.trace(SQUARE):
        out = own.transformer.h[1].output[0].save()
    with edited.trace(SQUARE):
        out_edited = edited.transformer.h[1].output[0].save()
    assert np.all(out[:, 0] == 0) and np.all(out[:, 1] != 0)
    assert np.all(out_edited[:, 0] == 0) and np.all(out_edited[:, 1] == 0)


@covers("0.3 test_clear_edits", "0.4 test_clear_edits", "0.5 test_clear_edits")
def test_clear_edits(server, model):
    own = LanguageModel(model.name, host=server.host)
    with own.edit(inplace=True):
        own.transformer.h[1].output[0][:] = 0
    with own.trace(SQUARE):
        edited = own.transformer.h[1].output[0].save()
    own.clear_edits()
    with own.trace(SQUARE):
        plain = own.transformer.h[1].output[0].save()
    assert np.all(edited == 0) and np.all(plain != 0)


@covers("0.3 test_batched_editing", "0.4 test_batched_editing", "0.5 test_batched_editing")
def test_an_edit_written_for_one_prompt_holds_for_several(model):
    """Theirs hooks a module of its own into the block; the point is that the batch does not narrow."""
    with model.edit("a") as edited:
        model.transformer.h[0].output[0][:] *= 2
    with edited.trace(["a", "b"]):
        out = model.transformer.h[0].output[0].save()
    with model.trace(["a", "b"]):
        plain = model.transformer.h[0].output[0].save()
    assert out.shape[0] == 2 and np.array_equal(out, plain * 2)


# Conditions.

@covers("0.3 test_conditional_interventions", "0.4 test_conditional_interventions",
        "0.5 test_conditional_intervention")
def test_condition_on_a_value(model):
    torch = pytest.importorskip("torch")
    with model.session():
        with model.trace("Hello World", validate=True, scan=True) as tracer:
            with tracer.cond(torch.all(model.transformer.h[2].output[0] < 100000)):
                model.transformer.h[-1].output[0][:] = 0
            output = model.transformer.h[-1].output[0].save()
    assert torch.all(output.torch() == 0)


@covers("tiny test_true_conditional_protocol", "tiny test_false_conditional_protocol")
def test_conditions_that_python_knows(model):
    with model.trace(TOWER) as tracer:
        num = 5
        with tracer.cond(num > 0):
            model.transformer.h[0].output[0][:] = 1
            yes = model.transformer.h[0].output[0].save()
        with tracer.cond(num < 0):
            model.transformer.h[1].output[0][:] = 1
            no = model.transformer.h[1].output[0].save()
        later = model.transformer.h[1].output[0].save()
    assert np.all(yes.value == 1) and not np.all(later.value == 1)
    with pytest.raises(NoValue):
        no.value


@covers("tiny test_node_as_condition", "tiny test_multiple_dependent_conditionals")
def test_conditions_on_conditioned_values(model):
    with model.trace(TOWER) as tracer:
        num = 5
        l1 = model.transformer.h[0].output[0]
        l2 = model.transformer.h[1].output[0]
        with tracer.cond(num > 0):
            l1[:] = 1
        with tracer.cond(l1[0, 0, 0] != 1):
            l2[:] = 2
            none = l2.save()
        with tracer.cond(l1[0, 0, 0] == 1):
            l2[:] = 3
        l2 = l2.save()
    assert np.all(l2.value == 3)
    with pytest.raises(NoValue):
        none.value


@covers("tiny test_nested_conditionals")
def test_nested_conditions(model):
    with model.trace(TOWER) as tracer:
        num = 5
        with tracer.cond(num > 0):
            l1 = model.transformer.h[0].output[0]
            with tracer.cond(num > 0):
                model.transformer.h[0].output[0][:] = 1
            with tracer.cond(num < 0):
                model.transformer.h[0].output[0][:] = 2
            l1 = l1.save()
        with tracer.cond(num < 0):
            model.transformer.h[1].output[0][:] = 0
            with tracer.cond(num > 0):
                l2 = model.transformer.h[1].output[0].save()
    assert np.all(l1.value == 1)
    with pytest.raises(NoValue):
        l2.value


@covers("tiny test_conditional_trace", "tiny test_conditional_iteration")
def test_runs_inside_a_condition(model):
    with model.session() as session:
        with session.cond(5 > 0):
            with model.trace(TOWER):
                output = model.output.logits.save()
    assert output.value.ndim == 3
    with model.session() as session:
        result = session.apply(list).save()
        for item in [0, 1, 2]:
            with session.cond(item % 2 == 0):
                with model.trace(TOWER):
                    result.append(model.lm_head.output[0, 0, item])
    assert len(result) == 2


# Sessions.

@covers("0.3 test_input_setting", "0.4 test_input_setting", "0.5 test_input_setting")
def test_input_setting(model):
    with model.session():
        with model.trace(SQUARE):
            hs = model.transformer.h[2].inputs
            out1 = model.lm_head.output.argmax(dim=-1).save()
        with model.trace(SQUARE):
            model.transformer.h[2].input = hs[0][0]
            out2 = model.lm_head.output.argmax(dim=-1).save()
    assert model.tokenizer.decode(int(out1[0][-1])) == model.tokenizer.decode(int(out2[0][-1]))
    assert np.array_equal(out1, out2)


@covers("tiny test_bridge_protocol")
def test_values_of_the_session_in_a_run(model):
    with model.session() as session:
        val = session.apply(int, 0)
        with model.trace(TOWER):
            model.transformer.h[0].output[0][:] = val
            out = model.transformer.h[0].output[0].save()
    assert np.all(out.value == 0)


@covers("tiny test_nested_iterator", "tiny test_nnsight_builtins",
        "tiny test_sequential_graph_based_context_exit")
def test_python_s_own_loops_and_lists(model):
    with model.session() as session:
        l1, l2 = session.apply(list).save(), session.apply(list).save()
        for item in [[0], [1], [2]]:
            for inner in item:
                l1.append(inner)
        for each in (l1, l2):
            each.append(session.apply(str, "Hello World"))
            each.append(session.apply(dict, {"a": "1"}))
        with model.trace(TOWER):
            model.lm_head.output.save()
    assert l1.value == [0, 1, 2, "Hello World", {"a": "1"}] and l2.value == l1.value[3:]


@covers("tiny test_stop_forward_pass_in_loop")
def test_stopped_runs_of_a_session(model):
    with model.session():
        results = interpose.list().save()
        for prompt in (TOWER, SQUARE, "Hello"):
            with model.trace(prompt) as tracer:
                hs = model.transformer.h[0].output[0]
                results.append(hs)
                tracer.stop()
    assert [r.shape[1] for r in results] == [
        len(model.tokenizer.encode(p)) for p in (TOWER, SQUARE, "Hello")]


@covers("tiny test_early_stop_protocol", "tiny test_tracer_stop")
def test_early_stop(model):
    with model.trace(TOWER, validate=True, scan=True) as tracer:
        first = model.transformer.h[0].output[0].save()
        unsaved = model.transformer.h[0].output[0] * 2
        tracer.stop()
        second = model.transformer.h[1].output[0].save()
    assert isinstance(first.value, np.ndarray)
    for missing in (second, unsaved):
        with pytest.raises(NoValue):
            missing.value


# Batches.

@covers("0.5 test_invoker_group_batching")
def test_invokes_of_all_prompts(model):
    with model.trace() as tracer:
        with tracer.invoke(TOWER):
            out1 = model.lm_head.output[:, -1].save()
        with tracer.invoke([SQUARE, TOWER]):
            out2 = model.lm_head.output[:, -1].save()
        with tracer.invoke():
            out3 = model.lm_head.output[:, -1].save()
        with tracer.invoke():
            out4 = model.lm_head.output[:, -1].save()
        with tracer.invoke(SQUARE):
            out5 = model.lm_head.output[:, -1].save()
    assert [o.shape[0] for o in (out1, out2, out3, out4, out5)] == [1, 2, 4, 4, 1]
    assert np.array_equal(out1[0], out2[1])
    assert np.array_equal(out3, out4)
    assert np.array_equal(np.concatenate([out1.value, out2.value, out5.value]), out3)


# Scans.

@covers("0.5 test_basic_scan", "0.5 test_scan_undispatched")
def test_scan(model):
    with model.scan(TOWER):
        attn_input = model.transformer.h[0].attn.input.save()
        attn_output = model.transformer.h[0].attn.output[0].save()
        block = model.transformer.h[1].output[0]
    for x in (attn_input, attn_output, block):
        assert x.shape == (1, 10, model.config.width)
    with pytest.raises(NoValue):
        attn_input.value


@covers("0.5 test_scan_with_intervention")
def test_scan_with_a_set(model):
    """A module's output keeps its shape: what is set is broadcast into it."""
    torch = pytest.importorskip("torch")
    with model.scan(TOWER):
        model.transformer.h[0].mlp.c_proj.output = torch.ones(1, 1, model.config.width)
        out = model.transformer.h[0].mlp.c_proj.output.save()
    assert out.shape == (1, 10, model.config.width)


# Order.

@covers("0.5 test_out_of_order_error", "debug test_out_of_order_basic",
        "debug test_out_of_order_exception_type_preserved", "debug test_out_of_order_in_single_invoke",
        "debug test_correct_order_across_invokes", "debug test_out_of_order_message_content")
def test_reading_has_no_order_and_setting_has(model):
    with model.trace("_"):
        later = model.transformer.h[2].output[0].save()
        earlier = model.transformer.h[1].input.save()
    assert later.value.shape == earlier.value.shape
    with pytest.raises(RequestError) as refused:
        with model.trace("_"):
            out = model.transformer.h[2].output[0]
            model.transformer.h[1].input[:] = out
    assert refused.value.code == "order"


@covers("0.5 test_out_of_order_skip", "0.5 test_out_of_order_skip_2")
def test_skips_have_an_order(model):
    with pytest.raises(RequestError) as refused:
        with model.trace("_"):
            inp = model.transformer.h[1].output
            model.transformer.h[1].skip(model.transformer.h[0].output)
            model.transformer.h[0].skip(inp)
    assert refused.value.code == "order"


# Skipped modules.

@covers("0.5 test_basic_skip")
def test_skip(model):
    with model.trace("_"):
        inp = model.transformer.h[0].output.save()
        model.transformer.h[1].skip(inp)
        out = model.transformer.h[1].output.save()
    assert np.array_equal(out[0], inp[0])


@covers("0.5 test_skip_with_input_modification")
def test_a_skip_does_not_look_at_its_input(model):
    with model.trace("_"):
        inp = model.transformer.h[0].output.save()
        model.transformer.h[1].inputs = ((zeros_like(model.transformer.h[1].input),), {})
        model.transformer.h[1].skip(inp)
        out = model.transformer.h[1].output.save()
    assert not np.all(out[0] == 0) and np.array_equal(out[0], inp[0])


@covers("0.5 test_multiple_skip")
def test_skips_one_behind_the_other(model):
    with model.trace("_"):
        inp = model.transformer.h[0].output
        model.transformer.h[1].skip(inp)
        inp_2 = model.transformer.h[1].output
        model.transformer.h[2].skip(inp_2)
        inp_3 = model.transformer.h[2].output.save()
        model.transformer.h[3].skip(inp_3)
        out = model.transformer.h[3].output.save()
        inp = inp[0].save()
    assert np.array_equal(out[0], inp_3[0]) and np.array_equal(out[0], inp)


@covers("0.5 test_skip_inner_module_error")
def test_nothing_inside_a_skipped_module_can_be_seen(model):
    with pytest.raises(RequestError) as refused:
        with model.trace("Hello World"):
            model.transformer.h[1].skip(model.transformer.h[0].output)
            model.transformer.h[1].attn.output[0].save()
    assert refused.value.code == "order" and "transformer.h.1" in refused.value.message


@covers("0.5 test_skip_batched", "0.5 test_skip_partial_batch_error")
def test_a_skip_is_of_one_invoke(model):
    with model.trace() as tracer:
        with tracer.invoke(TOWER):
            inp = model.transformer.h[0].output.save()
            model.transformer.h[1].skip(inp)
            out = model.transformer.h[1].output.save()
        with tracer.invoke(SQUARE):
            inp_2 = model.transformer.h[0].output.save()
            model.transformer.h[1].skip(inp_2)
            out_2 = model.transformer.h[1].output.save()
        with tracer.invoke(TOWER):      # theirs refuses to skip in a part of the batch
            plain = model.transformer.h[1].output[0].save()
    assert np.array_equal(out[0], inp[0]) and np.array_equal(out_2[0], inp_2[0])
    assert not np.array_equal(plain, out[0])


@covers("0.5 test_iter_and_skip")
def test_skip_at_one_step(model):
    with model.generate("_", max_new_tokens=3, eos_token_id=[]) as tracer:
        seen = interpose.list().save()
        for step in tracer.iter[:]:
            if step == 1:
                model.transformer.h[1].skip(
                    (zeros_like(model.transformer.h[0].output[0]),)
                    + model.transformer.h[0].output[1:])
            seen.append(model.transformer.h[1].output[0])
    assert [bool(np.all(x == 0)) for x in seen] == [False, True, False]


# Iterations.

@covers("0.5 test_iter_and_all", "0.5 test_iter_module")
def test_iter_and_all(model, continued):
    found = []
    for chosen in (lambda t: t.all(), lambda t: t.iter[:], lambda t: model.transformer.h.all()):
        with model.generate(SQUARE, max_new_tokens=3) as tracer:
            logits = interpose.list().save()
            with chosen(tracer):
                logits.append(model.lm_head.output[0][-1].argmax(dim=-1))
        found.append(model.tokenizer.decode(logits))
    assert continued[SQUARE] == SQUARE + found[0] == SQUARE + found[1]
    first = model.tokenizer.encode(found[0])[0]     # lm_head is not below transformer.h
    assert found[2] == model.tokenizer.decode([first] * 3)


@covers("0.5 test_iter_slice", "0.5 test_batched_iter", "0.5 test_iter_with_batched_interventions",
        "0.5 test_slice_iter_with_envoy_called_before")
def test_iter_slices_in_invokes(model):
    with model.generate(max_new_tokens=5) as tracer:
        with tracer.invoke(SQUARE):
            logits_1 = interpose.list().save()
            out = model.transformer.h[0].output[0].clone().save()
            with tracer.iter[1:3]:
                logits_1.append(model.lm_head.output[0][-1].argmax(dim=-1))
        with tracer.invoke(TOWER):
            logits_2 = interpose.list().save()
            with tracer.iter[:3]:
                logits_2.append(model.lm_head.output[0][-1].argmax(dim=-1))
    new_1, new_2 = (tokens[-5:].tolist() for tokens in tracer.output)
    assert [int(t) for t in logits_1] == new_1[1:3] and [int(t) for t in logits_2] == new_2[:3]
    assert out.ndim == 3


@covers("0.5 test_iter_idx")
def test_iter_by_index(model):
    with model.generate(SQUARE, max_new_tokens=3) as tracer:
        one = interpose.list().save()
        for k in range(3):
            with tracer.iter[k]:
                one.append(model.transformer.h[k].output[0])
        two = interpose.list().save()
        for k in tracer.iter[:3]:
            two.append(model.transformer.h[k].output[0])
    assert len(one) == len(two) == 3
    assert all(np.array_equal(a, b) for a, b in zip(one, two))


@covers("0.5 test_iter_with_promptless_invokers")
def test_iterations_of_all_prompts(model):
    with model.trace() as tracer:
        with tracer.invoke(TOWER):
            pass
        with tracer.invoke():
            out = model.transformer.h[0].output[0].clone().save()
        with tracer.invoke():
            with tracer.iter[0]:
                model.transformer.h[0].output[0][:] = 0
        with tracer.invoke():
            out_2 = model.transformer.h[0].output[0].save()
    assert not np.all(out == 0) and np.all(out_2 == 0)


# Caches.

@covers("0.5 test_basic_cache", "0.5 test_cache_output_and_inputs", "0.5 test_cache_inputs_only",
        "0.5 test_cache_no_entry_input")
def test_cache(model):
    with model.trace(SQUARE) as tracer:
        cache = tracer.cache()
        both = tracer.cache(include_inputs=True)
        inputs = tracer.cache(include_inputs=True, include_output=False)
        one = tracer.cache(modules=[model.transformer.h[0]])
    assert cache["model.transformer.h.0"].output is not None
    assert cache["model.transformer.h.0"].inputs is None
    assert np.array_equal(both["model.transformer.h.0"].output[0],
                          both["model.transformer.h.1"].inputs[0][0])
    assert inputs["model.transformer.h.0"].inputs is not None
    assert inputs["model.transformer.h.0"].output is None
    assert one["model.transformer.h.0"].input is None


@covers("0.5 test_cache_generation", "0.5 test_cache_some_modules_generation")
def test_cache_of_a_generation(model):
    with model.generate(SQUARE, max_new_tokens=3) as tracer:
        cache = tracer.cache(modules=[model.transformer.h[0].attn.c_attn])
        some = tracer.cache(modules=[f"model.transformer.h.{i}" for i in range(3)])
    assert len(cache["model.transformer.h.0.attn.c_attn"]) == 3
    assert len(some.keys()) == 3 and len(some["model.transformer.h.0"]) == 3


@covers("0.5 test_cache_with_intervention")
def test_cache_of_what_was_set(model):
    with model.trace(SQUARE) as tracer:
        cache = tracer.cache()
        c_attn = model.transformer.h[0].attn.c_attn
        c_attn.output = zeros_like(c_attn.output)
    assert np.all(cache["model.transformer.h.0.attn.c_attn"].output == 0)


@covers("0.5 test_cache_single_invoker")
def test_cache_of_one_invoke(model):
    with model.trace() as tracer:
        with tracer.invoke(SQUARE):
            pass
        with tracer.invoke(TOWER):
            cache = tracer.cache()
            attn_out = model.transformer.h[0].attn.c_attn.output.cpu().save()
    assert np.array_equal(cache["model.transformer.h.0.attn.c_attn"].output, attn_out)


@covers("0.5 test_cache_after_intervention")
def test_cache_that_is_opened_late(model):
    """Ours holds all modules wherever it is opened: they are saved at the end of the invoke."""
    with model.trace(SQUARE) as tracer:
        c_attn = model.transformer.h[1].attn.c_attn
        c_attn.output = zeros_like(c_attn.output)
        cache = tracer.cache(include_inputs=True)
    assert "model.transformer.h.0" in cache
    assert np.all(cache["model.transformer.h.1.attn.c_attn"].output == 0)
    assert np.array_equal(cache["model.transformer.h.1"].output[0],
                          cache["model.transformer.h.2"].inputs[0][0])


@covers("0.5 test_cache_skip")
def test_cache_with_a_skip(model):
    with model.trace(SQUARE) as tracer:
        cache = tracer.cache()
        out = model.transformer.h[0].output.save()
        model.transformer.h[1].skip(model.transformer.h[0].output)
    assert np.array_equal(cache["model.transformer.h.1"].output[0], out[0])
    assert cache["model.transformer.h.1.mlp"].output is None


@covers("0.5 test_cache_some_modules", "0.5 test_cache_some_modules_by_ref")
def test_cache_of_some_modules(model):
    with model.trace(SQUARE) as tracer:
        named = tracer.cache(modules=[f"model.transformer.h.{i}" for i in range(3)], include_inputs=True)
        given = tracer.cache(modules=list(model.transformer.h), include_inputs=True)
    assert len(named.keys()) == 3 and len(given.keys()) == model.config.n_layer
    for cache in (named, given):
        assert np.array_equal(cache["model.transformer.h.0"].output[0],
                              cache["model.transformer.h.1"].inputs[0][0])


@covers("0.5 test_multiple_caches")
def test_several_caches(model):
    with model.trace(SQUARE) as tracer:
        attn = tracer.cache(modules=[block.attn for block in model.transformer.h])
        mlp = tracer.cache(modules=[block.mlp for block in model.transformer.h])
    assert len(attn.keys()) == len(mlp.keys()) == model.config.n_layer
    assert "model.transformer.h.0.attn" in attn and "model.transformer.h.0.mlp" not in attn
    assert "model.transformer.h.0.mlp" in mlp and "model.transformer.h.0.attn" not in mlp


@covers("0.5 test_cache_attribute_access")
def test_cache_by_attributes(model):
    with model.trace(SQUARE) as tracer:
        cache = tracer.cache(modules=[*model.transformer.h, model.lm_head])
    assert len(cache) == model.config.n_layer + 1
    by_key = cache["model.transformer.h.0"].output[0]
    assert np.array_equal(by_key, cache.model.transformer.h[0].output[0])
    assert np.array_equal(by_key, cache.model.transformer["h.0"].output[0])
    assert cache.model.lm_head.output is not None
    with pytest.raises(IndexError):
        cache.model.transformer.h[model.config.n_layer]
    with pytest.raises(AttributeError):
        cache.model.transformer.h[0].mlp
    with pytest.raises(KeyError):
        cache.model.transformer[0]


@covers("0.5 test_cache_alias")
def test_cache_with_renamed_modules(server, model):
    own = LanguageModel(model.name, host=server.host, rename={
        "transformer": "model", "h.0": "first_layer", "1": "second_layer"})
    with own.trace(SQUARE) as tracer:
        cache = tracer.cache()
    for i, others in [
            (0, [cache.model.model.first_layer, cache.model.transformer.h[0],
                 cache["model.model.first_layer"]]),
            (1, [cache.model.model.h["second_layer"], cache.model.transformer.h[1],
                 cache["model.model.h.second_layer"]])]:
        for other in others:
            assert np.array_equal(cache[f"model.transformer.h.{i}"].output[0], other.output[0])


# Renamed modules.

@covers("0.5 test_rename_module", "0.5 test_rename_path", "0.5 test_rename_module_list",
        "0.5 test_rename_module_list_path")
def test_rename(server, model):
    for rename, path in [({"mlp": "my_mlp"}, "transformer.h[3].my_mlp"),
                         ({"transformer.h.3.mlp": "my_mlp"}, "my_mlp"),
                         ({".h": "layers"}, "transformer.layers[3].mlp"),
                         ({"transformer.h": "layers"}, "layers[3].mlp")]:
        own = LanguageModel(model.name, host=server.host, rename=rename)
        with own.trace(SQUARE):
            plain = own.transformer.h[3].mlp.output.save()
            renamed = eval(f"own.{path}.output.save()", {"own": own})
        assert np.array_equal(plain, renamed)
    with pytest.raises(AttributeError, match="transformer.h.0 has no 'layers'"):
        with own.trace(SQUARE):
            own.transformer.h[0].layers


# Tensors that are made inside.

@covers("tiny test_torch_creation_operations_patch")
def test_torch_s_functions_that_make_tensors(model):
    torch = pytest.importorskip("torch")
    with model.trace(TOWER):
        x = model.transformer.h[0].output[0]
        n, t, width = x.shape
        made = [torch.arange(n, t), torch.eye(n), torch.full(x.shape, 5), torch.linspace(n, t, 5),
                torch.ones(x.shape), torch.rand(x.shape), torch.randint(5, x.shape),
                torch.randn(x.shape), torch.randperm(n), torch.zeros(x.shape)]
        sums = [(x.sum() * 0 + y.sum()).save() for y in made]
    assert all(np.allclose(s, float(y.sum()), rtol=1e-3, atol=1) for s, y in zip(sums, made))


# Errors.

@covers("debug test_index_error_shows_correct_line", "debug test_attribute_error_in_trace",
        "debug test_exception_type_preserved", "debug test_exception_in_invoke",
        "debug test_exception_in_second_invoke", "debug test_exception_in_helper_function",
        "debug test_loop_error", "debug test_conditional_error", "debug test_nonexistent_module_path",
        "debug test_error_after_successful_operations")
def test_errors_are_python_s_own_at_their_line(model, tmp_path):
    for body, kind in [("model.lm_head.output[0, 99]", RequestError),
                       ("model.transformer.h[0].nothing", AttributeError),
                       ("raise KeyError('mine')", KeyError), ("[][3]", IndexError),
                       ("for i in range(3): model.lm_head.output[0, 0, i] / (2 - i) if i < 2 else 1 / 0",
                        ZeroDivisionError)]:
        script = tmp_path / "notebook.py"
        script.write_text("def helper():\n"
                          f"    {body}  # the line\n\n"
                          "with model.trace() as tracer:\n"
                          "    with tracer.invoke('Hello'): ok = model.lm_head.output.save()\n"
                          "    with tracer.invoke('Hello'):\n        helper()\n")
        with pytest.raises(kind) as raised:
            exec(compile(script.read_text(), str(script), "exec"), {"model": model})
        lines = [entry.lineno + 1 for entry in raised.traceback if str(entry.path) == str(script)]
        assert getattr(raised.value, "lineno", lines[-1]) == 2, body


@covers("debug test_trace_with_no_args_no_invokes", "debug test_invoke_inside_invoke")
def test_invokes_in_the_wrong_place(model):
    with pytest.raises(ValueError, match="this run has no prompt: open an invoke"):
        with model.trace():
            pass
    with pytest.raises(RuntimeError, match="another invoke of this run is open: end it first"):
        with model.trace() as tracer:
            with tracer.invoke("a"), tracer.invoke("b"):
                pass


@covers("debug test_trace_with_only_kwargs")
def test_prompts_as_keywords(model):
    encoding = model.tokenizer(["The Eiffel Tower", "A dog"])
    with model.trace(["The Eiffel Tower", "A dog"]):
        expected = model.lm_head.output.save()
    with model.trace(**encoding):
        whole = model.lm_head.output.save()
    with model.trace(encoding["input_ids"], attention_mask=encoding["attention_mask"]):
        masked = model.lm_head.output.save()
    with model.generate(max_new_tokens=1) as tracer:
        with tracer.invoke(**encoding):
            invoked = model.lm_head.output.save()
    for each in (whole, masked, invoked):
        np.testing.assert_array_equal(each.value, expected.value)
    with pytest.raises(TypeError, match="^the prompt is given twice: also as input_ids$"):
        model.trace("A dog", **encoding)
    with pytest.raises(TypeError, match="has input_ids and attention_mask: not 'attention_mask'"):
        model.trace(attention_mask=encoding["attention_mask"])


# The table.

def test_the_table_lists_every_test_of_theirs():
    rows = dict(re.findall(r"^\| (\S+ test_\w+) \| (.+?) \|$",
                           (ROOT / "clients/python/NNSIGHT.md").read_text(), re.M))
    here = {theirs: name for name, function in globals().items()
            for theirs in getattr(function, "covers", ())}
    assert {theirs for theirs, row in rows.items() if "`" in row} == set(here)
    for theirs, name in here.items():
        assert f"`{name}`" in rows[theirs], theirs
