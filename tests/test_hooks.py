"""Hook points by name in the Python client: every name that the server has, with its shape; names of
one point mean one tensor; TransformerLens's short names; what is refused, in which words."""
import re

import numpy as np
import pytest

import interpose
from interpose import LanguageModel, RequestError

IDS = [[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]]
NEW = 2


@pytest.fixture(scope="module")
def model(server):
    return LanguageModel("demo", host=server.host, progress=False)


def names_of(model):
    """(path with block 1, its shape's text, its point, whether it is in a block)"""
    document = model.client.document("/v1/spec")
    for row in document["points"]:
        yield row["path"].replace("*", "1"), row["shape"], row["point"]


def shape_of(text, config, step):
    """The numbers of "(B, T, D)"."""
    B, T = 2, 1 if step else 5
    sizes = {"B": B, "T": T, "S": 5 + step, "H": config.n_heads, "D": config.width,
             "3D": 3 * config.width, "F": config.inner, "V": config.vocab, "1": 1,
             "D / H": config.width // config.n_heads, "T + new": 5 + NEW}
    return tuple(sizes[name] for name in re.findall(r"[^(), ][^(),]*", text))


@pytest.mark.parametrize("step", [0, 1])
def test_every_name_has_its_shape_and_names_of_a_point_are_one_tensor(model, step):
    rows, saved, moved = list(names_of(model)), {}, {}
    with model.generate(IDS, max_new_tokens=NEW) as run:
        for path, shape, point in rows:
            if point == "generated":
                continue
            with run.iter[step]:
                saved[path] = model.hooks[path].save()
    for path, shape, point in rows:
        if point == "generated":
            continue
        value = saved[path].value
        assert value.shape == shape_of(shape, model.config, step), path
        if shape == "(B, H, T, D / H)":   # TransformerLens and c_proj have heads behind positions
            value = value.transpose(0, 2, 1, 3)
        flat = value.reshape(2, -1) if shape != "(B, H, T, S)" else value
        assert moved.setdefault(point, flat).tobytes() == flat.tobytes(), path


def test_all_names_are_listed_and_are_modules_of_the_tree(model):
    names = list(model.hooks)
    assert len(names) == len(set(names)) == len(model.hooks)
    assert {"blocks.0.attn.hook_pattern", f"blocks.{model.config.n_blocks - 1}.ln2.hook_scale",
            "ln_final.hook_normalized", "hook_pos_embed"} <= set(names)
    assert "blocks.99.hook_resid_pre" not in model.hooks
    with model.trace(IDS):
        for one, other in [
                (model.hooks["transformer.h.3.attn.pattern.output"],
                 model.transformer.h[3].attn.pattern.output),
                (model.hooks["transformer.h.-1.output[0]"], model.transformer.h[-1].output[0]),
                (model.hooks["transformer.h.2.input"], model.transformer.h[2].input._tensor),
                (model.hooks["ln_final.hook_scale"], model.ln_final.hook_scale)]:
            assert one._node is other._node


# TransformerLens's utils.get_act_name.
SHORT = {
    ("q", 9): "blocks.9.attn.hook_q", ("k", 0): "blocks.0.attn.hook_k",
    ("v", 1): "blocks.1.attn.hook_v", ("z", -1): "blocks.-1.attn.hook_z",
    ("pattern", 2): "blocks.2.attn.hook_pattern", ("attn", 2): "blocks.2.attn.hook_pattern",
    ("attn_scores", 2): "blocks.2.attn.hook_attn_scores",
    ("result", 2): "blocks.2.attn.hook_result", ("resid_pre", 3): "blocks.3.hook_resid_pre",
    ("resid_mid", 3): "blocks.3.hook_resid_mid", ("resid_post", 3): "blocks.3.hook_resid_post",
    ("attn_out", 3): "blocks.3.hook_attn_out", ("mlp_out", 3): "blocks.3.hook_mlp_out",
    ("pre", 3): "blocks.3.mlp.hook_pre", ("post", 3): "blocks.3.mlp.hook_post",
    ("embed",): "hook_embed", ("pos_embed",): "hook_pos_embed",
    ("scale", 4, "ln1"): "blocks.4.ln1.hook_scale",
    ("normalized", 4, "ln2"): "blocks.4.ln2.hook_normalized",
    ("normalized",): "ln_final.hook_normalized",
    ("scale", None, "ln_final"): "ln_final.hook_scale",
    ("blocks.0.hook_resid_pre",): "blocks.0.hook_resid_pre",
}


@pytest.mark.parametrize("short", SHORT, ids=str)
def test_short_names(model, short):
    assert interpose.act_name(*short) == SHORT[short]
    if "9" not in SHORT[short]:
        with model.trace(IDS):
            assert model.hooks[short if len(short) > 1 else short[0]]._node is (
                model.hooks[SHORT[short]]._node)


def test_what_is_set_by_name_is_set(model):
    with model.trace(IDS):
        model.hooks["pattern", 0][:, 1] = 0.0
        model.hooks["blocks.1.attn.hook_z"] = model.hooks["blocks.1.attn.hook_z"] * 2
        model.hooks["transformer.h.2.output[0]"][:, -1] += 1
        by_name = model.hooks["lm_head.output"].save()
    with model.trace(IDS):
        model.transformer.h[0].attn.pattern.output[:, 1] = 0.0
        model.transformer.h[1].attn.z.output *= 2
        model.transformer.h[2].output[0][:, -1] += 1
        by_module = model.lm_head.output.save()
    assert by_name.value.tobytes() == by_module.value.tobytes()


def test_a_head_s_pattern_adds_up_and_its_result_is_part_of_the_output(model):
    layer, index = interpose.head("L3H1")
    with model.trace(IDS):
        pattern = model.hooks["pattern", layer].save()
        z = model.hooks["z", layer][:, :, index]
        result = model.hooks["result", layer].save()
        by_hand = (z @ model.blocks[layer].attn.W_O[index]).save()
        whole = (model.hooks["attn_out", layer] - model.blocks[layer].attn.b_O).save()
    np.testing.assert_allclose(pattern.value.sum(-1), 1, atol=1e-6)
    assert (np.triu(pattern.value, 1) == 0).all()
    np.testing.assert_array_equal(result.value[:, :, index], by_hand.value)
    np.testing.assert_allclose(result.value.sum(2), whole.value, atol=1e-5)


@pytest.mark.parametrize("text, head", [("L9H6", (9, 6)), ("9.6", (9, 6)), ("l0h11", (0, 11)),
                                        ("a9.h6", (9, 6)), ((9, 6), (9, 6))], ids=str)
def test_heads(text, head):
    assert interpose.head(text) == head
    assert str(interpose.head("9.6")) == "L9H6"


REFUSED = [
    (lambda m: interpose.head("9"), ValueError,
     "'9' is no head: write it as 'L9H6' or '9.6', layer and head"),
    (lambda m: m.hooks["blocks.1.attn.hook_zz"], KeyError,
     "there is no hook point 'blocks.1.attn.hook_zz': did you mean blocks.1.attn.hook_z or "
     "blocks.1.attn.hook_v or blocks.1.attn.hook_q?"),
    (lambda m: m.hooks["blocks.1"], KeyError, "there is no hook point 'blocks.1': did you mean "
     "blocks.1.attn.hook_z or blocks.1.attn.hook_v or blocks.1.attn.hook_q?"),
    (lambda m: m.hooks["transformer.h.0.ln_1.weight"], KeyError,
     "there is no hook point 'transformer.h.0.ln_1.weight': did you mean "
     "transformer.h.0.ln_1.input or transformer.h.0.ln_2.input or transformer.h.0.ln_1.scale?"),
    (lambda m: m.hooks["blocks.99.hook_resid_pre"], IndexError,
     "blocks.99 does not exist: this model has blocks 0 to 5"),
    (lambda m: m.hooks["z"], KeyError, "z is in every block: say which, as in hooks['z', 0]"),
    (lambda m: m.hooks["normalized", 3], KeyError,
     "normalized is of a layernorm: say which, ln1, ln2, ln_final"),
    (lambda m: m.hooks["patern", 3], KeyError,
     "there is no short name 'patern': did you mean pattern or attn?"),
]


@pytest.mark.parametrize("use, kind, words", REFUSED, ids=[words[:30] for *_, words in REFUSED])
def test_names_that_are_none(model, use, kind, words):
    with pytest.raises(kind) as e:
        with model.trace(IDS):
            use(model)
    assert e.value.args[0] == words


def test_a_result_cannot_be_set(model):
    with pytest.raises(RequestError) as e:
        with model.trace(IDS):
            model.hooks["result", 1][:, :, 0] = 0.0
    assert e.value.message == "transformer.h.1.attn.result.output can be read, but not set"
    assert e.value.code == "type"


def test_a_head_that_does_not_exist(model):
    with pytest.raises(RequestError) as e:
        with model.trace(IDS):
            model.hooks["pattern", 1][:, 99] = 0.0
    assert e.value.code == "index"
    assert "99 is out of range" in e.value.message


def test_a_pattern_that_the_server_has_no_memory_for(start_server):
    """Scores and pattern of eight heads and 200 tokens, a float each, while one is made of the other."""
    with start_server("--slab-mb", "1") as small:
        model = LanguageModel("demo", host=small.host, progress=False)
        with pytest.raises(RequestError) as e:
            with model.trace(list(range(200))):
                model.hooks["pattern", 1].save()
        assert e.value.message == ("the graph's values take 2766976 bytes at once, and this server has "
                                   "1048576 (--slab-mb)")
        with model.trace(list(range(60))):
            pattern = model.hooks["pattern", 1].save()
        assert pattern.value.shape == (1, 8, 60, 60)
