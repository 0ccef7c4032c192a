"""TransformerLens's surface of the client beside a plain torch computation of the same things, on the
demo model: caches, hooks, and the examples of TransformerLens's main demo that fit GPT-2. Plain weights
are Hugging Face's, or processed as TransformerLens's from_pretrained does."""
import contextvars
import math
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import einops
import fancy_einsum
import numpy as np
import pytest
import torch
import transformers

import gpt2_files
import interpose
from interpose import LanguageModel, RequestError

torch.set_num_threads(1)

TEXT = "The Eiffel Tower is in the city of"
OTHER = "The Colosseum is in the city of"


class Plain:
    """GPT-2 in float64, written out, with every activation by TransformerLens's name."""

    def __init__(self, hf, is_folded):
        body, self.heads = hf.transformer, hf.config.n_head
        self.eps = hf.config.layer_norm_epsilon

        def of(*parameters):
            return [p.detach().double().clone() for p in parameters]
        self.E, self.pos, self.lnf_w, self.lnf_b = of(body.wte.weight, body.wpe.weight,
                                                      body.ln_f.weight, body.ln_f.bias)
        self.U, = of(hf.lm_head.weight.T)
        self.bU = torch.zeros(self.U.shape[1], dtype=torch.float64)
        self.blocks = [self._block(b, of) for b in body.h]
        if is_folded:
            self._fold()

    def _block(self, b, of):
        w, bias = of(b.attn.c_attn.weight, b.attn.c_attn.bias)
        block = dict(zip(("ln1w", "ln1b", "O", "bO", "ln2w", "ln2b", "in", "bin", "out", "bout"), of(
            b.ln_1.weight, b.ln_1.bias, b.attn.c_proj.weight, b.attn.c_proj.bias, b.ln_2.weight,
            b.ln_2.bias, b.mlp.c_fc.weight, b.mlp.c_fc.bias, b.mlp.c_proj.weight,
            b.mlp.c_proj.bias)))
        block["O"] = block["O"].unflatten(0, (self.heads, -1))
        for name, part, part_bias in zip("QKV", w.chunk(3, -1), bias.chunk(3)):
            block[name] = part.unflatten(-1, (self.heads, -1)).permute(1, 0, 2)    # (H, D, dh)
            block["b" + name] = part_bias.unflatten(0, (self.heads, -1))
        return block

    def _fold(self):
        """fold_layer_norm, center_writing_weights, center_unembed, fold_value_biases, in this order."""
        for b in self.blocks:
            for name in "QKV":
                b["b" + name] += (b[name] * b["ln1b"][:, None]).sum(-2)
                b[name] = b[name] * b["ln1w"][:, None]
                b[name] = b[name] - b[name].mean(-2, keepdim=True)
            b["bin"] += (b["in"] * b["ln2b"][:, None]).sum(-2)
            b["in"] = b["in"] * b["ln2w"][:, None]
            b["in"] = b["in"] - b["in"].mean(-2, keepdim=True)
            for name in ("ln1", "ln2"):
                b[name + "w"], b[name + "b"] = torch.ones_like(b["ln1w"]), torch.zeros_like(b["ln1b"])
        self.bU = self.lnf_b @ self.U
        self.U = self.U * self.lnf_w[:, None]
        self.U = self.U - self.U.mean(-2, keepdim=True)
        self.lnf_w, self.lnf_b = torch.ones_like(self.lnf_w), torch.zeros_like(self.lnf_b)
        self.E, self.pos = (x - x.mean(-1, keepdim=True) for x in (self.E, self.pos))
        for b in self.blocks:
            for name in ("O", "bO", "out", "bout"):
                b[name] = b[name] - b[name].mean(-1, keepdim=True)
        self.U, self.bU = self.U - self.U.mean(-1, keepdim=True), self.bU - self.bU.mean()
        for b in self.blocks:
            b["bO"] = b["bO"] + (b["bV"][..., None] * b["O"]).sum((0, 1))
            b["bV"] = torch.zeros_like(b["bV"])

    def run(self, ids, hooks=None):
        """(logits, name -> activation); hooks: name -> function of the tensor, which may return one."""
        cache, hooks = {}, hooks or {}

        def at(name, x):
            if name in hooks:
                x = x.clone()
                new = hooks[name](x)
                x = x if new is None else new
            cache[name] = x
            return x

        def norm(name, x, w, b):
            x = x - x.mean(-1, keepdim=True)
            scale = at(name + ".hook_scale", (x.square().mean(-1, keepdim=True) + self.eps).sqrt())
            return at(name + ".hook_normalized", x / scale) * w + b
        ids = torch.tensor(ids)
        T = ids.shape[1]
        x = at("hook_embed", self.E[ids]) + at("hook_pos_embed", self.pos[:T].expand(len(ids), -1, -1))
        causal = torch.ones(T, T).tril().bool()
        for i, b in enumerate(self.blocks):
            p = f"blocks.{i}."
            x = at(p + "hook_resid_pre", x)
            h = norm(p + "ln1", x, b["ln1w"], b["ln1b"])
            q, k, v = (at(f"{p}attn.hook_{n.lower()}",
                          torch.einsum("btd,hde->bthe", h, b[n]) + b["b" + n]) for n in "QKV")
            scores = torch.einsum("bqhe,bkhe->bhqk", q, k) / math.sqrt(q.shape[-1])
            scores = at(p + "attn.hook_attn_scores", scores.masked_fill(~causal, -math.inf))
            pattern = at(p + "attn.hook_pattern", scores.softmax(-1))
            z = at(p + "attn.hook_z", torch.einsum("bhqk,bkhe->bqhe", pattern, v))
            result = at(p + "attn.hook_result", torch.einsum("bqhe,hed->bqhd", z, b["O"]))
            x = x + at(p + "hook_attn_out", result.sum(2) + b["bO"])
            x = at(p + "hook_resid_mid", x)
            h = norm(p + "ln2", x, b["ln2w"], b["ln2b"])
            h = at(p + "mlp.hook_pre", h @ b["in"] + b["bin"])
            h = at(p + "mlp.hook_post", torch.nn.functional.gelu(h, approximate="tanh"))
            x = at(p + "hook_resid_post", x + at(p + "hook_mlp_out", h @ b["out"] + b["bout"]))
        h = norm("ln_final", x, self.lnf_w, self.lnf_b)
        return h @ self.U + self.bU, cache

    def loss(self, logits, ids):
        log_p = logits.log_softmax(-1)[:, :-1]
        return -log_p.gather(-1, torch.tensor(ids)[:, 1:, None])[..., 0]


@pytest.fixture(scope="module")
def hf():
    return transformers.GPT2LMHeadModel.from_pretrained(gpt2_files.DEMO, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(gpt2_files.DEMO)


@pytest.fixture(scope="module", params=["hf", "transformer_lens"])
def pair(request, server, hf):
    """A model of the client, and the plain computation of the same numbers."""
    model = LanguageModel("demo", host=server.host, progress=False, numerics=request.param)
    return model, Plain(hf, request.param == "transformer_lens")


@pytest.fixture(scope="module")
def raw(hf):
    return Plain(hf, False)


@pytest.fixture(scope="module")
def model(server):
    return LanguageModel("demo", host=server.host, progress=False)


def same(ours, theirs, tolerance=1e-4):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    finite = np.isfinite(theirs)
    assert (np.isfinite(ours) == finite).all()
    scale = max(1, np.abs(theirs[finite]).max())
    np.testing.assert_allclose(ours[finite], theirs[finite], atol=tolerance * scale, rtol=0)


# Tokens.

def test_tokens_are_the_tokenizer_s(model, tokenizer):
    ids = tokenizer(TEXT)["input_ids"]
    assert model.to_tokens(TEXT).tolist() == [ids]
    assert model.to_tokens([TEXT, TEXT], prepend_bos=True).tolist() == [[0, *ids]] * 2
    assert model.bos_token_id == tokenizer.bos_token_id
    pieces = [tokenizer.decode([i]) for i in ids]
    assert model.to_str_tokens(TEXT) == model.to_str_tokens(ids) == pieces
    assert model.to_str_tokens(model.to_tokens([TEXT, TEXT])) == [pieces, pieces]
    assert model.to_str_tokens(TEXT, prepend_bos=True) == ["<|endoftext|>", *pieces]
    assert model.to_str_tokens([TEXT, " Paris"]) == [pieces, [" Paris"]]
    assert model.to_string(ids) == TEXT and model.to_string([ids, ids]) == [TEXT, TEXT]
    paris = model.to_single_token(" Paris")
    assert [paris] == tokenizer(" Paris")["input_ids"]
    assert model.to_single_str_token(paris) == " Paris"


TEXTS = [TEXT, "na\u00efve", "<|endoftext|>Hi"]


@pytest.mark.parametrize("call", [
    lambda t: t.decode(t.encode(TEXTS[2]), skip_special_tokens=True),
    lambda t: t.batch_decode([t.encode(x) for x in TEXTS], skip_special_tokens=True),
    lambda t: t.decode(t.encode(TEXT), clean_up_tokenization_spaces=False),
    lambda t: t.convert_ids_to_tokens(t.encode(TEXT)),
    lambda t: t.convert_ids_to_tokens(t.encode(TEXTS[2]), skip_special_tokens=True),
    lambda t: t.convert_ids_to_tokens(t.encode(" na\u00efve caf\u00e9\n\t")[1]),
    lambda t: t.convert_tokens_to_ids("\u0120Paris"),
    lambda t: t.convert_tokens_to_ids(t.convert_ids_to_tokens(list(range(300, 600)))),
    lambda t: (t.vocab_size, len(t), t.unk_token_id, t.pad_token, t.pad_token_id, t.padding_side, bool(t)),
    lambda t: t.encode(TEXT, add_special_tokens=False),
    lambda t: t.encode(TEXT, return_tensors="np").tolist(),
    lambda t: dict(t(TEXT, truncation=True, max_length=4)),
    lambda t: dict(t(TEXTS, truncation=True)),
    lambda t: t(TEXT, return_tensors="pt").to("cpu").input_ids.tolist(),
    lambda t: (setattr(t, "pad_token", t.eos_token), dict(t(TEXTS, padding=True)))[1],
    lambda t: (setattr(t, "pad_token_id", t.eos_token_id), t.pad_token)[1],
    lambda t: (setattr(t, "padding_side", "left"), t(TEXTS, padding="longest", return_tensors="pt"),
               setattr(t, "padding_side", "right"))[1].attention_mask.tolist(),
    lambda t: dict(t(TEXTS, padding="max_length", truncation=True, max_length=5)),
])
def test_the_tokenizer_s_spellings_are_hugging_face_s(model, tokenizer, call):
    assert call(model.tokenizer) == call(tokenizer)


def test_a_padded_encoding_is_a_prompt(model):
    model.tokenizer.pad_token = model.tokenizer.eos_token
    padded = model.tokenizer([TEXT, "Hi"], padding=True, return_tensors="pt")
    with model.trace(padded) as tracer:
        logits = model.lm_head.output[:, -1].save()
    with model.trace(**padded):
        named = model.lm_head.output[:, -1].save()
    assert named.value.tobytes() == logits.value.tobytes()
    assert (model(**model.tokenizer([TEXT], return_tensors="pt")) == model(model.to_tokens(TEXT, move_to_device=False))).all()
    with model.trace([TEXT, "Hi"]):
        assert [len(row) for row in tracer.tokens] == [10, len(model.tokenizer.encode("Hi"))]
        same_logits = model.lm_head.output[:, -1].save()
    assert logits.value.tobytes() == same_logits.value.tobytes()


def test_bos_is_prepended_where_it_is_asked_for(model, hf):
    with torch.no_grad():
        want = hf(torch.tensor(model.to_tokens(TEXT, prepend_bos=True))).logits
    same(model.run_with_hooks(TEXT, prepend_bos=True), want)
    same(model.run_with_hooks([TEXT], prepend_bos=True), want)
    assert model.run_with_hooks(TEXT).shape[1] == want.shape[1] - 1


# Caches.

def test_every_activation_is_the_plain_one(pair):
    model, plain = pair
    logits, cache = model.run_with_cache([TEXT, TEXT[::-1][:-1]][:1], names_filter=lambda name: True)
    want, theirs = plain.run(model.to_tokens(TEXT).tolist())
    same(logits, want)
    ours = [name for name in cache if name not in ("hook_tokens", "blocks.0.attn.qkv.hook_out")
            and "qkv" not in name]
    assert set(ours) == set(theirs)
    assert len(cache._values) == len(cache)
    for name in ours:
        same(cache[name], theirs[name])
    # In the order of the pass.
    places = [ours.index(name) for name in theirs if "scale" not in name]
    assert places == sorted(places)


def test_names_and_shorthands(model):
    _, cache = model.run_with_cache(TEXT, return_type=None, names_filter=["blocks.1.hook_resid_post",
                                                                          ("pattern", 2), "pre5"])
    assert list(cache) == ["blocks.1.hook_resid_post", "blocks.2.attn.hook_pattern",
                           "blocks.5.mlp.hook_pre"]
    assert ("resid_post", 1) in cache and ("resid_post", 0) not in cache and "nothing" not in cache
    for key, name in [(("resid_post", -1), "blocks.5.hook_resid_post"), ("embed", "hook_embed"),
                      (("pattern", 3, "attn"), "blocks.3.attn.hook_pattern"),
                      (("scale", 2, "ln1"), "blocks.2.ln1.hook_scale"),
                      (("scale", None, "ln_final"), "ln_final.hook_scale"),
                      ("normalized", "ln_final.hook_normalized"), ("scale4ln1", "blocks.4.ln1.hook_scale"),
                      ("resid_mid2", "blocks.2.hook_resid_mid"),
                      ("blocks.-1.attn.hook_z", "blocks.5.attn.hook_z"), (("z", 4), "blocks.4.attn.hook_z")]:
        assert (cache[key] == cache[name]).all(), key


def test_no_more_travels_than_is_asked_for(model, monkeypatch):
    sent, stream = [], model.client.stream

    def spy(path, body):
        sent.append(0)
        for frame in stream(path, body):
            if frame and frame.get("type") == "tensor":
                sent[-1] += len(frame["data"])
            yield frame
    monkeypatch.setattr(model.client, "stream", spy)
    D, V = model.config.width, model.config.vocab
    logits, cache = model.run_with_cache(TEXT)
    assert sent == [4 * 10 * V]
    assert cache["resid_post", 3] is cache["resid_post", 3]
    assert sent[1:] == [4 * 10 * D]
    heads = cache.stack_head_results(pos_slice=-1)
    assert len(sent) == 2
    cache.logit_attrs(heads, " Paris", " London", pos_slice=-1)
    assert sent[2:] == [4 * 6 * 8]
    del sent[:]
    _, cache = model.run_with_cache(TEXT, return_type=None, pos_slice=-1,
                                    names_filter=lambda name: name.endswith("resid_post"))
    assert sent == [4 * 6 * D] and len(cache) == 6
    assert cache["resid_post", 2].shape == (1, 1, D) and len(sent) == 1


def test_all_of_a_cache_is_asked_for_at_once(model, monkeypatch):
    """In halves where the server refuses so much; and what is here already does not travel again."""
    wanted, asked, stream, most = {}, [], model.client.stream, 1000

    def spy(path, body):
        asked.append(sum(node["op"] == "save" for node in body["nodes"]))
        if asked[-1] > most:
            raise RequestError("limit", "so many are too many")
        yield from stream(path, body)
    monkeypatch.setattr(model.client, "stream", spy)
    caches = [model.run_with_cache(TEXT, return_type=None, fwd_hooks=[("mlp_out2", lambda x: -x)])[1]
              for _ in range(6)]
    del asked[:]
    first = caches[0]["resid_post", 3]
    wanted = dict(caches[0].items())
    assert list(wanted) == list(caches[0]) and wanted["blocks.3.hook_resid_post"] is first
    assert asked == [1, len(wanted) - 1]
    assert all(x is y for x, y in zip(caches[0].values(), wanted.values())) and len(asked) == 2
    most = len(wanted) // 2
    halves = iter(caches[1].items())
    assert next(halves)[0] == "hook_tokens" and asked[2:] == [len(wanted), most]    # the other half waits
    assert all((x == wanted[name]).all() for name, x in halves) and sum(asked[3:]) >= len(wanted)
    most = 0
    with pytest.raises(RequestError, match=r"^so many are too many \(limit\)"):
        caches[2].cache_dict
    most = 1000
    assert all((x == y).all() for x, y in zip(caches[3].cache_dict.values(), wanted.values()))
    del asked[:]
    by_name = dict(caches[4])
    assert list(by_name) == list(wanted) and all((x == wanted[name]).all() for name, x in by_name.items())
    assert asked[:4] == [1, 2, 4, 8] and len(asked) == len(wanted).bit_length() and sum(asked) == len(wanted)
    del asked[:]
    most, names = 3, list(wanted)
    for name in (*names[7:11], "pre2", names[13], *names[20:25:2]):
        assert (caches[5][name] == by_name[caches[5]._pass.full_name(name)]).all()
    assert asked == [1, 2, 4, 2, 1, 1, 1, 1, 1]


def test_positions_and_the_batch_dimension(pair):
    model, plain = pair
    _, theirs = plain.run(model.to_tokens(TEXT).tolist())
    _, cache = model.run_with_cache(TEXT, pos_slice=slice(2, 9, 3), remove_batch_dim=True)
    same(cache["resid_mid", 2], theirs["blocks.2.hook_resid_mid"][0, 2:9:3])
    same(cache["pattern", 2], theirs["blocks.2.attn.hook_pattern"][0, :, 2:9:3])
    same(cache["q", 2], theirs["blocks.2.attn.hook_q"][0, 2:9:3])
    same(cache.accumulated_resid(1)[1], theirs["blocks.1.hook_resid_pre"][0, 2:9:3])
    same(cache.decompose_resid(1, pos_slice=-1)[2], theirs["blocks.0.hook_attn_out"][0, 8])
    places = [1, -1]
    _, cache = model.run_with_cache(TEXT, pos_slice=places, return_type=None)
    stacks = [cache.accumulated_resid(), cache.decompose_resid(pos_slice=places),
              cache.stack_activation("z"), cache.accumulated_resid(apply_ln=True)]
    shape = stacks[0].shape
    places.append(0)
    cache.remove_batch_dim()        # of what is asked for from here on
    assert stacks[0].shape == shape == stacks[0].value.shape == stacks[3].value.shape
    assert cache["z", 5].shape == stacks[2][5, 0].shape and len(cache["embed"]) == 2
    assert stacks[1].shape == (14, 1, 2, model.config.width)
    same(cache.accumulated_resid(), stacks[0][:, 0])
    _, cache = model.run_with_cache([TEXT, TEXT], pos_slice=[1, -1])
    same(cache["z", 5][1], theirs["blocks.5.attn.hook_z"][0, [1, -1]])
    with pytest.raises(ValueError, match="a cache of 2 prompts has its batch dimension"):
        cache.remove_batch_dim()


@pytest.mark.parametrize("layer, pos_slice", [(None, None), (3, slice(1, 4)), (4, -1)])
def test_stacks_are_the_plain_ones(pair, layer, pos_slice):
    model, plain = pair
    _, theirs = plain.run(model.to_tokens(TEXT).tolist())
    _, cache = model.run_with_cache(TEXT, return_type=None)
    n = 6 if layer is None else layer

    def at(x):
        return x if pos_slice is None else x[:, pos_slice]

    def stacked(names):
        return torch.stack([at(theirs[name]) for name in names])
    resid = [f"blocks.{i}.hook_resid_{when}" for i in range(n) for when in ("pre", "mid")]
    resid.append(f"blocks.{n}.hook_resid_pre" if n < 6 else "blocks.5.hook_resid_post")
    stack, labels = cache.accumulated_resid(layer, incl_mid=True, pos_slice=pos_slice,
                                            return_labels=True)
    same(stack, stacked(resid))
    assert labels[:3] == ["0_pre", "0_mid", "1_pre"] and len(labels) == len(stack)
    parts = ["hook_embed", "hook_pos_embed"] + [
        f"blocks.{i}.hook_{part}_out" for i in range(n) for part in ("attn", "mlp")]
    stack, labels = cache.decompose_resid(layer, pos_slice=pos_slice, return_labels=True)
    same(stack, stacked(parts))
    assert labels[:4] == ["embed", "pos_embed", "0_attn_out", "0_mlp_out"]
    same(cache.decompose_resid(layer, mode="mlp", incl_embeds=False, pos_slice=pos_slice),
         stacked([name for name in parts if "mlp" in name]))
    scale = at(theirs["ln_final.hook_scale" if n == 6 else f"blocks.{n}.ln1.hook_scale"])
    normal = stacked(parts) - stacked(parts).mean(-1, keepdim=True)
    same(cache.decompose_resid(layer, apply_ln=True, pos_slice=pos_slice), normal / scale)
    same(cache.apply_ln_to_stack(np.asarray(stack), layer, pos_slice=pos_slice), normal / scale)
    own = normal / (normal.square().mean(-1, keepdim=True) + plain.eps).sqrt()
    same(cache.apply_ln_to_stack(np.asarray(stack), recompute_ln=True), own)
    same(cache.apply_ln_to_stack(cache.decompose_resid(layer, pos_slice=pos_slice), layer,
                                 recompute_ln=True), own)
    with model.trace(TEXT):     # a stack is an array for another run
        again = (interpose.tensor(cache.decompose_resid(1, pos_slice=-1)) * 1).save()
    same(again, torch.stack([theirs[name][:, -1] for name in parts[:4]]))
    heads = torch.cat([at(theirs[f"blocks.{i}.attn.hook_result"]).movedim(-2, 0) for i in range(n)])
    ours, labels = cache.stack_head_results(layer or -1, pos_slice=pos_slice, incl_remainder=True,
                                            return_labels=True)
    same(ours[:-1], heads)
    same(ours.sum(0), at(theirs[resid[-1]]))
    assert labels[9] == "L1H1" and labels[-1] == "remainder"
    same(cache.stack_activation("resid_mid", n), torch.stack(
        [theirs[f"blocks.{i}.hook_resid_mid"] for i in range(n)]))


@pytest.mark.parametrize("layer, mlp_input", [(None, False), (2, True), (0, False)])
def test_the_full_decomposition_is_the_plain_one(pair, layer, mlp_input):
    model, plain = pair
    _, theirs = plain.run(model.to_tokens(TEXT).tolist())
    _, cache = model.run_with_cache(TEXT, return_type=None)
    assert cache.to("cpu") is cache.cpu() is cache.cuda() is cache and cache.compute_head_results() is None
    n = 6 if layer is None else layer
    at = theirs["blocks.5.hook_resid_post" if n == 6 else f"blocks.{n}.hook_resid_{'mid' if mlp_input else 'pre'}"][:, -1]
    heads = [theirs[f"blocks.{i}.attn.hook_result"][:, -1, h] for i in range(n + mlp_input) for h in range(8)]
    mlps = [theirs[f"blocks.{i}.hook_mlp_out"][:, -1] for i in range(n)]
    neurons = [theirs[f"blocks.{i}.mlp.hook_post"][:, -1, k, None] * plain.blocks[i]["out"][k]
               for i in range(n) for k in range(1024)]
    ends = [theirs["hook_embed"][:, -1], theirs["hook_pos_embed"][:, -1]]
    want = torch.stack([*heads, *mlps, *ends])
    stack, labels = cache.get_full_resid_decomposition(layer, mlp_input, expand_neurons=False, pos_slice=-1,
                                                       return_labels=True)
    same(stack[:-1], want)
    same(stack.sum(0), at)
    assert labels[-3:] == ["embed", "pos_embed", "bias"] and len(labels) == stack.shape[0] == len(want) + 1
    bias = at - torch.stack([*heads, *neurons, *ends]).sum(0)
    same(model.accumulated_bias(n, mlp_input)[None], bias)
    if n == 2:
        stack, labels = cache.get_full_resid_decomposition(layer, mlp_input, pos_slice=-1, return_labels=True)
        same(stack, torch.stack([*heads, *neurons, *ends, bias]))
        assert labels[24:26] == ["L0N0", "L0N1"]
        some, labels = cache.stack_neuron_results(2, pos_slice=-1, neuron_slice=[3, 9], return_labels=True,
                                                  incl_remainder=True, apply_ln=True)
        parts = torch.stack([neurons[i] for i in (3, 9, 1027, 1033)])
        parts = torch.cat([parts, (theirs["blocks.2.hook_resid_pre"][:, -1] - parts.sum(0))[None]])
        parts = parts - parts.mean(-1, keepdim=True)
        same(some, parts / theirs["blocks.2.ln1.hook_scale"][:, -1])
        assert labels == ["L0N3", "L0N9", "L1N3", "L1N9", "remainder"]
        same(cache.get_neuron_results(1, slice(3, 10), -1)[:, 6], neurons[1033])
        same(cache.stack_neuron_results(1, -1, 9), neurons[9][None])


# Hooks.

def test_ablation_of_a_head(pair, tokenizer):
    """The main demo's second example: the loss without a head, and without a head's values. Under
    TransformerLens's numerics zero is its folded zero."""
    model, plain = pair
    ids = model.to_tokens(TEXT + " Paris").tolist()

    def without(x, hook=None):
        x[:, :, 7] = 0.
    for name in ("blocks.0.attn.hook_v", "blocks.3.attn.hook_z"):
        want, _ = plain.run(ids, {name: without})
        logits, loss = model.run_with_hooks(TEXT + " Paris", fwd_hooks=[(name, without)],
                                            return_type="both")
        same(logits, want)
        assert abs(loss - float(plain.loss(want, ids).mean())) < 1e-4
        each = model.run_with_hooks(TEXT + " Paris", [(name, without)], return_type="loss",
                                    loss_per_token=True)
        same(each, plain.loss(want, ids))
    clean = model.run_with_hooks(TEXT + " Paris", return_type="loss")
    assert abs(clean - float(plain.loss(plain.run(ids)[0], ids).mean())) < 1e-4


def test_activation_patching(pair):
    """The residual stream of one prompt, at each block and position, in the place of another's: how much
    of the difference of two answers comes back."""
    model, plain = pair
    paris, rome = model.to_single_token(" Paris"), model.to_single_token(" Rome")
    _, clean = model.run_with_cache(TEXT)   # which the hooks ask for what they need
    other = model.to_tokens(OTHER).tolist()
    n = len(other[0])
    theirs = plain.run(model.to_tokens(TEXT).tolist())[1]
    for layer in (0, 3, 5):
        for position in (1, n - 1):
            name = f"blocks.{layer}.hook_resid_pre"

            def patch(resid, hook):
                resid[:, position] = clean[hook.name][:, position]
                return resid

            def plain_patch(resid):
                resid[:, position] = theirs[name][:, position]
            logits = model.run_with_hooks(OTHER, fwd_hooks=[(name, patch)])
            want, _ = plain.run(other, {name: plain_patch})
            same(logits[0, -1, paris] - logits[0, -1, rome], want[0, -1, paris] - want[0, -1, rome])


def test_hooks_run_in_the_order_of_the_pass_and_share_proxies(pair):
    """A predicate's hooks, a value that an earlier hook keeps for a later one, and a replacement."""
    model, plain = pair
    seen, kept = [], {}

    def keep(x, hook):
        seen.append(hook.name)
        kept[hook.layer()] = x[:, -1] * 0.5

    def add(x, hook):
        seen.append(hook.name)
        return x + kept[1][:, None]
    logits, cache = model.run_with_cache(TEXT, names_filter="blocks.5.hook_resid_post", fwd_hooks=[
        ("blocks.4.hook_mlp_out", add), (lambda name: name.endswith("hook_attn_out"), keep)])
    assert seen == [*(f"blocks.{i}.hook_attn_out" for i in range(5)), "blocks.4.hook_mlp_out",
                    "blocks.5.hook_attn_out"]
    theirs = {}
    want, resid = plain.run(model.to_tokens(TEXT).tolist(), {
        "blocks.1.hook_attn_out": lambda x: theirs.update(x=x[:, -1] * 0.5),
        "blocks.4.hook_mlp_out": lambda x: x + theirs["x"][:, None]})
    same(logits, want)
    same(cache["resid_post", 5], resid["blocks.5.hook_resid_post"])


def test_a_hook_that_only_looks_changes_no_bit(model, server):
    folded = LanguageModel("demo", host=server.host, progress=False, numerics="transformer_lens")
    own = model.run_with_hooks(TEXT)
    looks = [("blocks.2.attn.hook_z", lambda z, hook: None), ("resid_post3", lambda x, hook: x),
             ("resid_mid1", lambda x: x), ("mlp_out2", lambda x, at, scale=1: x), ("pattern4", print)]
    assert model.run_with_hooks(TEXT, looks).tobytes() == own.tobytes()
    assert folded.run_with_hooks(TEXT, looks).tobytes() == folded.run_with_hooks(TEXT).tobytes()


def logits_of(model, cache):
    with model.trace(TEXT):
        residual = interpose.tensor(np.asarray(cache["resid_post", -1]))
        return model.lm_head(model.transformer.ln_f(residual)).save()


def test_a_cache_is_of_the_run_that_made_it(model):
    """Whatever its functions would do another time, and whatever becomes of the model's edits."""
    rng, logits, caches, called = np.random.default_rng(0), {}, {}, []
    direction = rng.standard_normal(model.cfg.d_model).astype(np.float32)
    for alpha in (0.0, 1.0, 8.0):
        def steer(value, hook):
            called.append(alpha)
            value[:] = value + alpha * direction    # a closure of the loop's variable
        def blur(value, hook):
            kept.append(value.mean().save())
            return value + rng.standard_normal(value.shape).astype(np.float32)
        kept = []
        with model.edit() as edited:
            model.transformer.h[3].mlp.output[:, 1] = alpha
        logits[alpha], caches[alpha] = edited.run_with_cache(
            TEXT, fwd_hooks=[("hook_embed", blur), ("blocks.2.hook_mlp_out", steer)])
        edited.clear_edits()
        edited.add_hook("hook_embed", lambda value, hook: value * 0)
    direction[:] = 0
    means = [float(x) for x in kept]
    for alpha, cache in caches.items():
        assert (logits_of(model, cache) == logits[alpha]).all()
        assert (cache["embed"] + cache["pos_embed"] == cache["resid_pre", 0]).all()
    assert called == [0.0, 1.0, 8.0] and [float(x) for x in kept] == means and len(means) == 1


def test_hooks_that_stay(pair):
    """In the context, and from add_hook to reset_hooks, the functions are in every run; behind it in none."""
    model, plain = pair
    ids = model.to_tokens(TEXT).tolist()
    own = model(TEXT)

    def negative(x, hook=None):
        return -x

    def more(x, hook=None):
        x[..., 1] += 1
    want, theirs = plain.run(ids, {"blocks.2.hook_mlp_out": negative, "blocks.1.attn.hook_z": more})
    with model.hooks(fwd_hooks=[("blocks.2.hook_mlp_out", negative)]) as same_model:
        assert same_model is model
        model.add_hook(lambda name: name == "blocks.1.attn.hook_z", more)
        same(model(TEXT), want)
        _, cache = model.run_with_cache(TEXT)
        with model.trace([TEXT]):
            traced = model.lm_head.output.save()
    same(cache["resid_post", 4], theirs["blocks.4.hook_resid_post"])    # those of its run
    assert traced.value.shape == own.shape and (model.numerics != "hf" or (traced.value == model.run_with_hooks(
        TEXT, [("blocks.2.hook_mlp_out", negative)])).all())
    same(model(TEXT), plain.run(ids, {"blocks.1.attn.hook_z": more})[0])
    model.reset_hooks()
    assert (model(TEXT) == own).all()
    model.add_perma_hook("mlp_out0", more)      # the order at a place is that of adding
    model.add_hook("mlp_out0", negative, prepend=True)
    same(model(TEXT), plain.run(ids, {"blocks.0.hook_mlp_out": lambda x: more(x.neg_())})[0])
    model.reset_hooks()
    same(model(TEXT), plain.run(ids, {"blocks.0.hook_mlp_out": more})[0])
    model.reset_hooks(including_permanent=True)
    with model.hooks([("mlp_out0", more)], reset_hooks_end=False):
        pass
    same(model(TEXT), plain.run(ids, {"blocks.0.hook_mlp_out": more})[0])
    model.reset_hooks()
    assert (model(TEXT) == own).all() and "blocks.0.attn.hook_z" in model.hook_dict


def test_hooks_of_a_context_are_its_thread_s(model):
    """Threads that run meanwhile, begun in the block or before it, have no others than the model's."""
    own, (negative, more) = model(TEXT), (lambda x: -x, lambda x: x + 1)
    wanted = [model.run_with_hooks(TEXT, [("mlp_out2", function)]) for function in (negative, more)]

    def seen():
        with model.trace(TEXT):
            traced = model.lm_head.output.save()
        _, cache = model.run_with_cache(TEXT, return_type=None)
        assert (cache["unembed.hook_out"] == traced.value).all()
        return traced.value.view(np.ndarray)
    with ThreadPoolExecutor(1) as other:
        there = model.hooks([("mlp_out2", more)])
        with model.hooks([("mlp_out2", negative)]):
            assert (other.submit(seen).result() == own).all()
            other.submit(there.__enter__).result()
            assert (seen() == wanted[0]).all() and (other.submit(seen).result() == wanted[1]).all()
            assert (contextvars.copy_context().run(seen) == wanted[0]).all()     # of asyncio.to_thread
            model.reset_hooks()
            assert (seen() == own).all() and (other.submit(seen).result() == wanted[1]).all()
        other.submit(there.__exit__, None, None, None).result()
        assert (seen() == own).all() and (other.submit(seen).result() == own).all()
        model.add_hook("mlp_out2", negative)
        assert (other.submit(seen).result() == wanted[0]).all()
        model.reset_hooks()


def test_two_threads_that_add_hooks_lose_none(model, monkeypatch):
    threads, names = [], ("mlp_out0", "mlp_out1", "mlp_out2", "mlp_out3")

    class Meanwhile(list):
        def __iter__(self):
            is_replaced = sys._getframe(1).f_code.co_name in ("_hook", "reset_hooks")
            if is_replaced and threading.current_thread() is threading.main_thread():
                threads.append(threading.Thread(target=model.add_hook, args=(names[len(threads)], abs)))
                threads[-1].start()
                threads[-1].join(0.1)   # it ends here if nothing holds it
            return super().__iter__()
    for change in (lambda: model.add_hook(names[2], abs), lambda: model.reset_hooks()):
        monkeypatch.setattr(model, "_hooked", Meanwhile(model._hooked))
        change()
        threads[-1].join()
    found = {hook.name for hook in model._hooked}
    assert found == {"blocks.1.hook_mlp_out"} and len(threads) == 2


def test_hooks_are_called_at_each_step_of_each_invoke(model, raw):
    seen = []

    def without(x, hook):
        seen.append(x.shape[:2])
        x[:, :, 3] = 0.
    with model.hooks(fwd_hooks=[("blocks.3.attn.hook_z", without)]), model.edit() as edited:
        pass
    model.reset_hooks()
    with edited.generate(max_new_tokens=2) as run:
        for text in (TEXT, OTHER):
            with run.invoke(text):
                pass
    with model.generate(TEXT):      # has none of them any more
        pass
    for text, ids in zip((TEXT, OTHER), run.output):
        want = model.to_tokens(text).tolist()[0]
        for _ in range(2):
            hooks = {"blocks.3.attn.hook_z": lambda z: z.__setitem__((..., 3, slice(None)), 0)}
            want.append(int(raw.run([want], hooks)[0][0, -1].argmax()))
        assert ids.tolist() == want
    n, m = len(model.to_tokens(TEXT)[0]), len(model.to_tokens(OTHER)[0])
    assert seen == [(1, n), (1, 1), (1, m), (1, 1)]


@pytest.mark.parametrize("layer", [0, 2, -1, 6, 9])
def test_a_pass_that_stops_at_a_layer(pair, layer):
    model, plain = pair
    _, theirs = plain.run(model.to_tokens(TEXT).tolist())
    n = len(range(6)[:layer])
    want = theirs[f"blocks.{n}.hook_resid_pre" if n < 6 else "blocks.5.hook_resid_post"]
    same(model(TEXT, stop_at_layer=layer), want)
    resid, cache = model.run_with_cache(TEXT, stop_at_layer=layer, return_type="loss", names_filter=(
        lambda name: name.endswith(("pattern", "resid_pre"))), fwd_hooks=[("blocks.5.hook_mlp_out", lambda x, hook: 1 / 0)][:n < 6])
    same(resid, want)
    assert list(cache) == [f"blocks.{i}.{name}" for i in range(n) for name in ("hook_resid_pre", "attn.hook_pattern")]


@pytest.mark.parametrize("token, text, options, place", [
    (" Tower", TEXT, {}, 4), (" the", "The Tower, the city, the end", {}, 3),
    (" the", "The Tower, the city, the end", {"mode": "last"}, 6), (" Tower", TEXT, {"prepend_bos": True}, 5),
    (7, np.array([[5, 6, 7]]), {}, 2), (7, torch.tensor([7, 6, 7]), {"mode": "last"}, 2)])
def test_the_position_of_a_token(model, token, text, options, place):
    assert model.get_token_position(token, text, **options) == place


def test_losses_of_values(model):
    ids = model.to_tokens([TEXT, TEXT])
    logits = model(ids)
    want = torch.nn.functional.cross_entropy(torch.tensor(logits)[:, :-1].flatten(0, 1), torch.tensor(ids)[:, 1:].flatten(),
                                             reduction="none").view(2, -1)
    same(model.loss_fn(logits, ids, per_token=True), want)
    assert abs(model.loss_fn(logits, ids) - float(want.mean())) < 1e-5
    assert not model.b_U.any() and model.b_U.shape == logits.shape[-1:] and model.all_head_labels()[9] == "L1H1"


def test_a_model_is_where_it_is(model):
    model.set_use_attn_result(True)
    assert (model.cfg.eps, model.cfg.d_vocab_out, model.cfg.model_name, model.cfg.act_fn) == (
        1e-5, 4096, "demo", "gelu_new")
    assert model is model.eval() is model.to("cuda:0") is model.to(torch.device("cpu")) is model.cpu() is model.cuda()
    assert torch.zeros(2, device=model.device).device == torch.zeros(2, device=model.cfg.device).device
    assert model(TEXT, device="cpu", reset_hooks_end=True, bwd_hooks=[]).tobytes() == model(TEXT).tobytes()


# More of the main demo.

def test_logit_lens(pair):
    """What the model would say at each block."""
    model, plain = pair
    _, cache = model.run_with_cache(TEXT)
    accumulated, labels = cache.accumulated_resid(incl_mid=True, apply_ln=True, pos_slice=-1,
                                                  return_labels=True)
    directions = model.tokens_to_residual_directions([" Paris", " London"])
    ours = np.asarray(accumulated)[:, 0] @ (directions[0] - directions[1])
    _, theirs = plain.run(model.to_tokens(TEXT).tolist())
    U = plain.U * plain.lnf_w[:, None]
    paris, london = (U[:, model.to_single_token(t)] for t in (" Paris", " London"))
    want = []
    for label in labels:
        name = ("blocks.5.hook_resid_post" if label == "final_post" else
                "blocks.{}.hook_resid_{}".format(*label.split("_")))
        x = theirs[name][0, -1] - theirs[name][0, -1].mean()
        want.append(float(x / (x.square().mean() + plain.eps).sqrt() @ (paris - london)))
    same(ours, np.array(want))
    own = model.run_with_hooks(TEXT)[0, -1]
    bias = plain.lnf_b @ plain.U + plain.bU
    a, b = model.to_single_token(" Paris"), model.to_single_token(" London")
    assert abs(ours[-1] + float(bias[a] - bias[b]) - (own[a] - own[b])) < 1e-3


def test_direct_logit_attribution(pair):
    """Which heads say the answer: of one token, of a difference, of a stack that is here already."""
    model, plain = pair
    _, cache = model.run_with_cache(TEXT)
    _, theirs = plain.run(model.to_tokens(TEXT).tolist())
    results = torch.stack([theirs[f"blocks.{i}.attn.hook_result"][0, -1] for i in range(6)]).flatten(0, 1)
    scaled = (results - results.mean(-1, keepdim=True)) / theirs["ln_final.hook_scale"][0, -1]
    U = plain.U * plain.lnf_w[:, None]
    paris, rome = (U[:, model.to_single_token(t)] for t in (" Paris", " Rome"))
    heads, labels = cache.stack_head_results(return_labels=True, pos_slice=-1)
    attrs = cache.logit_attrs(heads, " Paris", " Rome", pos_slice=-1)
    same(attrs[:, 0], scaled @ (paris - rome))
    assert len(labels) == len(attrs) == 48
    same(cache.logit_attrs(heads, " Paris", pos_slice=-1)[:, 0], scaled @ paris)
    same(cache.logit_attrs(np.asarray(heads), [" Paris"], [" Rome"], pos_slice=-1)[:, 0],
         scaled @ (paris - rome))


def test_induction_heads_are_found_by_their_pattern(pair):
    """The share of attention that goes to the token behind the last occurrence of the same one: the
    planted heads, 5 of block 2 and 1 of block 3, stand out."""
    model, plain = pair
    generator = np.random.default_rng(0)
    half = generator.integers(300, 3000, (2, 25))
    ids = np.concatenate([np.zeros((2, 1), int), half, half], 1)
    _, cache = model.run_with_cache(ids, return_type=None,
                                    names_filter=lambda name: name.endswith("pattern"))

    def scores(patterns):
        return np.stack([np.diagonal(np.asarray(p), -24, 2, 3).mean((0, -1)) for p in patterns])
    ours = scores([cache["pattern", i] for i in range(6)])
    _, theirs = plain.run(ids)
    same(ours, scores([theirs[f"blocks.{i}.attn.hook_pattern"] for i in range(6)]))
    assert {tuple(place) for place in np.argwhere(ours > 0.5)} >= {(2, 5), (3, 1)}
    by_the_server = {}

    def score(pattern, hook):
        stripe = pattern.diagonal(dim1=-2, dim2=-1, offset=1 - 25)
        by_the_server[hook.layer()] = stripe.mean(-1).mean(0).save()
    model.run_with_hooks(ids, return_type=None,
                         fwd_hooks=[(lambda name: name.endswith("pattern"), score)])
    same(np.stack([by_the_server[i].value for i in range(6)]), ours)
    store = torch.zeros((model.cfg.n_layers, model.cfg.n_heads), device=model.cfg.device)

    def theirs_to_the_letter(pattern, hook):
        induction_stripe = pattern.diagonal(dim1=-2, dim2=-1, offset=1 - 25)
        induction_score = einops.reduce(induction_stripe, "batch head_index position -> head_index", "mean")
        store[hook.layer(), :] = induction_score
        assert store[hook.layer()].isnan().all()    # nobody takes it for what it was
    model.run_with_hooks(ids, return_type=None, fwd_hooks=[(
        lambda name: name.endswith("pattern"), theirs_to_the_letter)])
    same(store, ours)


def test_parameters_of_all_blocks(model, raw):
    """The QK and OV circuits of a head, from the factored matrices of the main demo."""
    plain = raw
    with model.trace([0]):
        ov = (model.W_V[3, 1] @ model.W_O[3, 1]).save()
        qk = (model.W_Q[-1, 0] @ model.W_K[-1, 0].T).save()
        several = model.W_Q[1:3].save()
        heads = model.b_V[:, 2].save()
    same(ov, plain.blocks[3]["V"][1] @ plain.blocks[3]["O"][1])
    same(qk, plain.blocks[5]["Q"][0] @ plain.blocks[5]["K"][0].T)
    same(several, torch.stack([plain.blocks[i]["Q"] for i in (1, 2)]))
    same(heads, torch.stack([block["bV"][2] for block in plain.blocks]))
    assert len(model.W_in) == 6


@pytest.mark.parametrize("text", [
    "W_U[:, 3]", "W_E[[1, -2]]", "W_U.T[5] - W_E[5]", "2 * W_pos + 1", "(W_E[:9] @ W_U).argmax(-1)", "W_E[W_E.shape[0] - 1]",
    "np.array(W_E.shape + W_Q.shape + (W_in.ndim, len(W_O), W_U.size(0)))", "W_Q[3, 1] @ W_K[3, 1].T",
    "W_V[1:3, :, 0]", "W_Q[np.array([0, 5])]", "b_O[..., 2]", "W_in[[0, 5], 2]", "[b[0] for b in b_Q][2]", "np.linalg.norm(W_pos, axis=-1)",
    "torch.linalg.svdvals(W_V[3, 1] @ W_O[3, 1])", "torch.as_tensor(W_E).mean()", "torch.as_tensor(W_O).norm(dim=-1)",
    "torch.matmul(W_E[:2], W_U)", "einops.einsum(W_pos, W_U, 'p d, d v -> p v')[:3]",
    "fancy_einsum.einsum('pos d_model, d_model vocab -> pos vocab', W_pos, W_U)[:3]",
    "np.stack([b_O[0], b_out[0]])", "W_E.data.mean(0)", "W_E[:3] == W_U.T[:3]"])
def test_parameters_outside_of_a_run(model, raw, text):
    theirs = {"W_E": raw.E, "W_U": raw.U, "W_pos": raw.pos}
    for name in ("Q", "K", "V", "O", "in", "out"):
        theirs["W_" + name] = torch.stack([block[name] for block in raw.blocks])
        theirs["b_" + name] = torch.stack([block["b" + name] for block in raw.blocks])
    theirs = {name: x.float() for name, x in theirs.items()}
    tools = {"np": np, "torch": torch, "einops": einops, "fancy_einsum": fancy_einsum}
    with model.hooks(fwd_hooks=[(lambda name: True, lambda x, hook: 1 / 0)]):     # no run of the user's
        ours = eval(text, {**tools, **{name: getattr(model, name) for name in theirs}})
    same(ours, eval(text, {**tools, **theirs}))


def test_a_parameter_from_outside_is_the_run_s_own(model):
    unembed, column, embed = model.W_U, model.W_U[:, 7], model.transformer.wte.weight
    with model.trace(TEXT) as run:
        h = model.transformer.ln_f.output[0]
        found = [x.save() for x in (h @ unembed, torch.matmul(h, unembed), unembed.T @ h.T,
                                    interpose.einsum("td,dv->tv", h, unembed), embed @ h.T, unembed[:, 7] @ h.T)]
        one, want = (h @ column).save(), model.lm_head.output[0].save()
        lengths = unembed.norm(dim=0).save()
        sent = [arg for node in run.graph.nodes for arg in node.args if isinstance(arg, dict)]
    for x, logits in zip(found, (want, want, want.value.T, want, want.value.T, want[:, 7])):
        same(x, logits)
    same(one, want[:, 7])
    same(lengths, np.linalg.norm(np.asarray(unembed), axis=0))
    assert [arg["shape"] for arg in sent] == [[model.config.width]]     # of the column that was fetched


def test_factored_matrices_are_the_matrices(model, raw):
    """Each expression on the factored matrices, and on the matrices themselves."""
    ours = {"OV": model.OV, "QK": model.QK, "one": interpose.FactoredMatrix(model.W_V[2, 1], model.W_O[2, 1]),
            "E": model.W_E[:40], "U": model.W_U[:, :30], "v": model.W_E[7], "np": np}
    assert ours["OV"].shape == (6, 8, 256, 256)
    ours["OV"], ours["QK"] = ours["OV"][:3, :2], ours["QK"][:4, :2]
    Q, K, V, O = (torch.stack([block[name] for block in raw.blocks]) for name in "QKVO")
    theirs = {"OV": V[:3, :2] @ O[:3, :2], "QK": Q[:4, :2] @ K[:4, :2].mT, "one": V[2, 1] @ O[2, 1], "E": raw.E[:40], "U": raw.U[:, :30], "v": raw.E[7], "np": np}
    for text in ("OV", "QK[3]", "OV[-1, 0]", "OV[1:3, 0]", "one.T", "one * 2", "0.5 * one", "one @ U", "E @ one", "E @ one @ U",
                 "one @ one", "E @ OV[0] @ U", "one[:3, 1:]", "one[..., 5:9]", "OV[2, 1, 4:6]", "one.T @ one", "QK[:2, 1]", "one[np.array([1, 2])]"):
        mine, want = eval(text, ours), eval(text, theirs)
        assert isinstance(mine, interpose.FactoredMatrix) and mine.shape == tuple(want.shape) and mine.ndim == want.ndim
        same(mine.AB, want)
    same(ours["one"] @ ours["v"], theirs["one"] @ theirs["v"])
    same(ours["v"] @ ours["one"], theirs["v"] @ theirs["one"])
    same(ours["OV"][1] @ ours["v"], theirs["OV"][1] @ theirs["v"])
    same(ours["v"] @ ours["OV"][1], theirs["v"] @ theirs["OV"][1])
    same(ours["one"][3].AB, theirs["one"][3][None])
    same(ours["one"][:, -1].AB, theirs["one"][:, -1:])
    same(ours["OV"].norm(), theirs["OV"].norm(dim=(-2, -1)))
    one = ours["one"]
    same(one.S, torch.linalg.svdvals(theirs["one"])[:32])
    same(one.U * one.S @ one.V.T, theirs["one"])
    same(np.sort(abs(one.eigenvalues)), torch.linalg.eigvals(theirs["one"]).abs().sort().values[-32:])
    assert repr(one) == "<a factored matrix (256, 256), through 32>"


def test_modules_outside_of_a_run(model, hf):
    x = np.random.default_rng(0).standard_normal((1, 3, 256)).astype(np.float32)
    with torch.no_grad():
        block = hf.transformer.h[1](torch.tensor(x))
        same(model.unembed(model.ln_final(x)), hf.lm_head(hf.transformer.ln_f(torch.tensor(x))))
    same(model.blocks[1](x), block[0] if isinstance(block, tuple) else block)
    assert isinstance(model.transformer.h[1](x), tuple)
    same(model.transformer.h[1](x)[0], model.blocks[1](x))


# What is refused.

@pytest.mark.parametrize("call, error, message", [
    (lambda m: m.run_with_hooks(TEXT, [("blocks.2.attn.hook_y", None)]), KeyError,
     "there is no hook point 'blocks.2.attn.hook_y'"),
    (lambda m: m.run_with_hooks(TEXT, [("blocks.9.attn.hook_z", None)]), IndexError,
     "blocks.9.attn.hook_z does not exist: this model has blocks 0 to 5"),
    (lambda m: m.run_with_cache(TEXT)[1]["resid_pst", 3], KeyError, "did you mean resid_post"),
    (lambda m: m.run_with_cache(TEXT)[1]["resid_post"], KeyError, "resid_post is in every block"),
    (lambda m: m.run_with_cache(TEXT, return_type="all"), ValueError,
     "return_type is 'logits', 'loss', 'both' or None: not 'all'"),
    (lambda m: m.run_with_cache(TEXT, incl_bwd=True), TypeError,
     "run_with_cache() has no parameter 'incl_bwd'"),
    (lambda m: m.run_with_hooks(TEXT, bwd_hooks=[("z0", print)]), TypeError, "there are no gradients"),
    (lambda m: m.run_with_hooks(TEXT, reset_hooks_end=False), TypeError, "has no parameter 'reset_hooks_end'"),
    (lambda m: m(TEXT, start_at_layer=1), TypeError,
     "run_with_hooks() has no parameter 'start_at_layer': set the stream of a prompt as long, "
     "fwd_hooks=[('blocks.3.hook_resid_pre', lambda x, hook: resid)]"),
    (lambda m: m(TEXT, stop_at_layer=1.5), TypeError, "stop_at_layer must be an integer: it is 1.5"),
    (lambda m: m.run_with_cache(TEXT, stop_at_layer=2)[1]["z", 2], KeyError,
     "blocks.2.attn.hook_z is not there: the pass ends with blocks.2.hook_resid_pre"),
    (lambda m: m.run_with_cache(TEXT, stop_at_layer=6)[1]["ln_final.hook_scale"], KeyError,
     "ln_final.hook_scale is not there: the pass ends with blocks.5.hook_resid_post"),
    (lambda m: m.hooks(bwd_hooks=[("z0", print)]), ValueError,
     "bwd_hooks are not offered: a server computes no gradients"),
    (lambda m: m.add_hook("z0", print, dir="bwd"), ValueError,
     "dir='bwd' is not offered: a server computes no gradients"),
    (lambda m: interpose.FactoredMatrix(m.W_V[0, 0], m.W_V[0, 0]), ValueError,
     "factors of (256, 32) and (256, 32) are no matrices that multiply"),
    (lambda m: interpose.FactoredMatrix(m.W_V[0, :2], m.W_O[0, :3]), ValueError,
     "factors of (2, 256, 32) and (3, 32, 256) do not broadcast"),
    (lambda m: (m.OV[0, 0] @ m.W_U[:, :3]).BA, ValueError, "BA needs a square matrix: not (256, 3)"),
    (lambda m: m.OV[0, 0] * m.b_O[0], ValueError,
     "a factored matrix is multiplied by a number: not by an array of (256,), which M.AB is"),
    (lambda m: m.W_U.__setitem__(0, 1), TypeError, "W_U is a parameter: it can be read, but not set"),
    (lambda m: m.W_Q[6], IndexError, "blocks.6 does not exist: this model has blocks 0 to 5"),
    (lambda m: m.W_U[:, 5000], RequestError, "5000"),
    (lambda m: m.ln_final(np.ones(3)), RequestError, "ln_f of (3,): the last dimension must be 256"),
    (lambda m: m.run_with_cache(TEXT)[1].stack_neuron_results(0), ValueError,
     "there are no neurons in front of layer 0"),
    (lambda m: m.add_hook("zz0", print), KeyError, "there is no short name 'zz'"),
    (lambda m: m.to(torch.float16), TypeError, "to(torch.float16) is not offered: the model computes in its "
     "server's numbers; x.to(dtype) converts a result"),
    (lambda m: m.to("cuda", dtype=torch.float16), TypeError, "to(torch.float16) is not offered"),
    (lambda m: m.get_token_position(" Rome", "The city"), ValueError,
     "' Rome' does not stand in ['The', ' city']"),
    (lambda m: m.get_token_position(1, [[1], [1]]), ValueError, "takes one text or the ids of one: not (2, 1)"),
    (lambda m: m.get_token_position(1, [1], mode="any"), ValueError, "mode is 'first' or 'last': not 'any'"),
    (lambda m: m.run_with_hooks(" Paris", return_type="loss"), ValueError, "of two tokens or more"),
    (lambda m: m.to_single_token("The Eiffel Tower"), ValueError, "is 5 tokens, not one: ["),
    (lambda m: m.run_with_hooks(TEXT, fwd_hooks=("blocks.0.attn.hook_z", print)), TypeError,
     "fwd_hooks is a list of pairs of a name and a function fn(tensor, hook): not 'blocks.0.attn.hook_z'"),
    (lambda m: m.to_tokens(["a", "a longer one"]), ValueError, "tokens are no array: take them one by one, give "
     "the texts themselves as a prompt, or pad them, tokenizer(texts, padding=True)"),
    (lambda m: m.run_with_cache(TEXT)[1].accumulated_resid(7), IndexError,
     "layer 7 does not exist: this model has layers 0 to 6"),
    (lambda m: m.run_with_cache(TEXT)[1].decompose_resid(mode="head"), ValueError,
     "mode is 'all', 'mlp' or 'attn': not 'head'"),
    (lambda m: m.run_with_cache(TEXT)[1].logit_attrs(np.ones((2, 1, 10, 256)), [1, 2], [3]),
     ValueError, "incorrect_tokens have another shape than tokens"),
    (lambda m: (setattr(m.tokenizer, "pad_token", None), m.tokenizer(TEXT, padding=True)), ValueError,
     "padding needs a token to pad with: write tokenizer.pad_token = tokenizer.eos_token first"),
    (lambda m: m.tokenizer(TEXT, padding="longst"), ValueError, "or 'do_not_pad': not 'longst'"),
    (lambda m: m.tokenizer.decode([1], clean_up_tokenization_spaces=True), TypeError,
     "clean_up_tokenization_spaces is not offered: a text is what its ids spell"),
    (lambda m: m.tokenizer.convert_tokens_to_ids(" Paris"), ValueError,
     "' Paris' is no token's name: a space in front of a word is '\u0120'"),
    (lambda m: m.tokenizer.convert_ids_to_tokens(m.tokenizer.encode("\U0001f642")), ValueError,
     "is a part of a character, whose name is not known here: take decode or tokenize"),
    (lambda m: m.tokenizer.decoder, AttributeError, "the tokenizer has no 'decoder': did you mean decode"),
    (lambda m: LanguageModel("demo", numerics="jax"), ValueError,
     "numerics is 'hf' or 'transformer_lens': not 'jax'"),
])
def test_what_is_refused(model, call, error, message):
    with pytest.raises(error) as refused:
        call(model)
    assert message in str(refused.value)


def test_a_hook_s_mistake_is_told_at_its_line(model):
    def late(x, hook):
        x[:] = model.hooks["resid_post", 5]
    with pytest.raises(RequestError, match="has passed when the new value is known"):
        model.run_with_hooks(TEXT, [("resid_post0", late)])
    with pytest.raises(RequestError, match="can be read, but not set"):
        model.run_with_hooks(TEXT, [("blocks.1.attn.hook_result", lambda x, hook: x * 0)])
