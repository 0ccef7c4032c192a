"""Experiments as the tutorials of nnsight and TransformerLens have them, typed as their users type them, on
the demo model; each beside Hugging Face's model with torch's hooks."""
import contextlib
import json

import einops
import fancy_einsum
import numpy as np
import pytest
import torch

import interpose
import oracle
from interpose import LanguageModel
from conftest import MODEL

F = torch.nn.functional

EIFFEL = "The Eiffel Tower is in the city of"
SQUARE = "The Red Square is in the city of"
WIDTH, HEADS, LAST = "transformer.h.{}.output[0]", "transformer.h.{}.attn.z.output", "lm_head.output"


@pytest.fixture(scope="module")
def hf():
    return oracle.Oracle(MODEL)


@pytest.fixture(scope="module")
def model(server):
    name = json.loads(server.get("/v1/models")[1])["models"][0]["name"]
    return LanguageModel(name, host=server.host, progress=False)


@pytest.fixture(scope="module")
def ids(model):
    return {text: model.tokenizer.encode(text) for text in (EIFFEL, SQUARE)}


def same(ours, theirs, tolerance=2e-3):
    ours, theirs = (np.asarray(getattr(x, "value", x), np.float64) for x in (ours, theirs))
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * max(1, abs(theirs).max()))


def residuals(hf, tokens):
    """What each block gives: (L, T, D)."""
    places = [WIDTH.format(i) for i in range(hf.n_blocks)]
    return torch.cat([*hf.run(tokens, places).values()])


@contextlib.contextmanager
def hooked(module, change):
    """Hugging Face's module gives change(input, output), whatever it gives beside it."""
    def hook(_, args, out):
        new = change(args[0], out[0] if isinstance(out, tuple) else out)
        return (new, *out[1:]) if isinstance(out, tuple) else new
    handle = module.register_forward_hook(hook)
    yield
    handle.remove()


def continued(hf, tokens, n):
    with torch.no_grad():
        return hf.model.generate(torch.tensor([tokens]), max_new_tokens=n, do_sample=False,
                                 pad_token_id=0)[0].tolist()


# nnsight's tutorials.

def test_logit_lens(model, hf, ids):
    with model.trace() as tracer:
        with tracer.invoke(EIFFEL) as invoker:
            layers = [F.softmax(model.lm_head(model.transformer.ln_f(layer.output[0])), dim=-1).save()
                      for layer in model.transformer.h]
    probs, tokens = torch.cat([torch.as_tensor(p.value) for p in layers]).max(dim=-1)
    words = [[model.tokenizer.decode(t) for t in row] for row in tokens]
    with torch.no_grad():
        want = hf.model.lm_head(hf.model.transformer.ln_f(residuals(hf, ids[EIFFEL]))).softmax(-1)
    same(probs, want.max(-1).values)
    assert tokens.tolist() == want.argmax(-1).tolist() and words[-1][-1] == " Paris"
    assert invoker.inputs[0][0]["input_ids"][0].tolist() == ids[EIFFEL]


def test_activation_patching_sweep(model, hf, ids):
    """All blocks by the last positions, beside the clean and the corrupted run, in one request."""
    paris, moscow = (model.tokenizer(w)["input_ids"][0] for w in (" Paris", " Moscow"))
    n_blocks, positions = len(model.transformer.h), (-4, -1)
    results = []
    with model.trace() as tracer:
        with tracer.invoke(EIFFEL):
            clean = [layer.output[0] for layer in model.transformer.h]
            logits = model.lm_head.output
            clean_diff = (logits[0, -1, paris] - logits[0, -1, moscow]).save()
        with tracer.invoke(SQUARE):
            logits = model.lm_head.output
            corrupted_diff = logits[0, -1, paris] - logits[0, -1, moscow]
        for layer in range(n_blocks):
            for position in positions:
                with tracer.invoke(SQUARE):
                    model.transformer.h[layer].output[0][:, position] = clean[layer][:, position]
                    patched = model.lm_head.output[0, -1]
                    diff = (patched[paris] - patched[moscow] - corrupted_diff) / (
                        clean_diff - corrupted_diff)
                    results.append(diff.item().save())
    donor = residuals(hf, ids[EIFFEL])

    def theirs(tokens, edits=()):
        last = hf.run(tokens, [LAST], edits)[LAST][0, -1]
        return float(last[paris] - last[moscow])

    def patch(layer, position):
        def edit(x):
            x[:, position] = donor[layer][position]
        return [(WIDTH.format(layer), edit)]
    clean, corrupted = theirs(ids[EIFFEL]), theirs(ids[SQUARE])
    want = [(theirs(ids[SQUARE], patch(layer, position)) - corrupted) / (clean - corrupted)
            for layer in range(n_blocks) for position in positions]
    same([r.item() for r in results], want)
    same(float(f"{clean_diff:.4f}"), clean)


def test_steering_a_generation_by_a_difference_of_prompts(model, hf, ids):
    with model.trace() as tracer:
        with tracer.invoke("Love"):
            love = model.transformer.h[2].output[0][:, -1].save()
        with tracer.invoke("Hate"):
            hate = model.transformer.h[2].output[0][:, -1].save()
    vector = 4 * (love - hate)
    with model.generate(EIFFEL, max_new_tokens=6) as tracer:
        with tracer.all():
            model.transformer.h[2].output[0][:] += vector
        out = model.generator.output.save()
    want = torch.tensor(np.asarray(vector))
    with hooked(hf.model.transformer.h[2], lambda _, x: x + want):
        assert out[0].tolist() == continued(hf, ids[EIFFEL], 6)


def test_a_low_rank_edit_of_every_step(model, hf, ids):
    generator = torch.Generator().manual_seed(0)
    down, up = (0.3 * torch.randn(shape, generator=generator) for shape in ((256, 4), (4, 256)))
    with model.edit() as tuned:
        with model.all():
            mlp = model.transformer.h[3].mlp
            mlp.output = mlp.output + torch.matmul(torch.matmul(mlp.input, down), up)
    with tuned.generate(EIFFEL, max_new_tokens=4) as run:
        logits = tuned.lm_head.output.save()
    with hooked(hf.model.transformer.h[3].mlp, lambda given, out: out + given @ down @ up):
        assert run.output[0].tolist() == continued(hf, ids[EIFFEL], 4)
        same(logits, hf.run(ids[EIFFEL], [LAST])[LAST])


def test_a_dictionary_in_place_of_the_stream(model, hf, ids):
    """A sparse autoencoder whose weights are numpy's and here."""
    random = np.random.default_rng(0)
    encoder, bias = random.normal(0, 0.2, (256, 512)), random.normal(0, 2, 512) - 2
    decoder = encoder.T / 10
    with model.trace(EIFFEL):
        x = model.transformer.h[3].output[0]
        features = torch.relu(x @ encoder + bias)
        top = features[0, -1].topk(5)
        values, indices = top.values.save(), top.indices.save()
        active = (features > 0).float().sum(-1).mean().save()
        rebuilt = features @ decoder
        unexplained = ((x - rebuilt).pow(2).sum() / (x - x.mean(1, keepdim=True)).pow(2).sum()).save()
        x[:] = rebuilt
        logits = model.lm_head.output.save()
    x = residuals(hf, ids[EIFFEL])[3:4].double().numpy()
    features = np.maximum(x @ encoder + bias, 0)
    rebuilt = torch.tensor(features @ decoder)
    assert indices.tolist() == np.argsort(-features[0, -1])[:5].tolist()
    same(values, np.sort(features[0, -1])[:-6:-1])
    same(active, (features > 0).sum(-1).mean())
    same(unexplained, ((x - rebuilt.numpy())**2).sum() / ((x - x.mean(1, keepdims=True))**2).sum())
    same(logits, hf.run(ids[EIFFEL], [LAST], [(WIDTH.format(3), lambda h: h.copy_(rebuilt))])[LAST])


def test_a_function_vector_of_several_prompts(model, hf, ids):
    shots = ["hot: cold\nbig:", "up: down\nleft: right\nlong:", "old:"]
    with model.trace(shots):
        z = model.transformer.h[2].attn.c_proj.input[:, -1].mean(0).save()
    with model.trace(EIFFEL):
        attn = model.transformer.h[2].attn
        attn.output[0][:, -1] += attn.c_proj(z[None])[0]
        logits = model.lm_head.output.save()
    rows = [hf.run(model.tokenizer.encode(text), [HEADS.format(2)])[HEADS.format(2)] for text in shots]
    mean = torch.stack([row[0, :, -1].flatten() for row in rows]).mean(0)
    same(z, mean)
    with torch.no_grad():
        added = hf.model.transformer.h[2].attn.c_proj(mean[None])

    def edit(x):
        x[:, -1] += added
    same(logits, hf.run(ids[EIFFEL], [LAST], [("transformer.h.2.attn.output[0]", edit)])[LAST])


def test_embeddings_of_another_prompt(model, hf, ids):
    tokens = ids[SQUARE][:1] * len(ids[EIFFEL])
    with model.generate(max_new_tokens=3) as tracer:
        with tracer.invoke(EIFFEL):
            embeddings = model.transformer.wte.output
        with tracer.invoke(tokens):
            model.transformer.wte.output = embeddings
            logits = model.lm_head.output.save()
    same(logits, hf.run(ids[EIFFEL], [LAST])[LAST])
    assert tracer.output[1][len(tokens)] == tracer.output[0][len(tokens)]


@pytest.mark.parametrize("least", [1.0, 1e6])
def test_an_intervention_on_a_condition(model, hf, ids, least):
    with model.trace(EIFFEL) as tracer:
        hidden = model.transformer.h[1].output[0]
        with tracer.cond(hidden[0, -1].norm() > least):
            model.transformer.h[2].output[0][:, -1] = 0
        logits = model.lm_head.output.save()

    norm = residuals(hf, ids[EIFFEL])[1, -1].norm()

    def edit(x):
        if norm > least:
            x[:, -1] = 0
    same(logits, hf.run(ids[EIFFEL], [LAST], [(WIDTH.format(2), edit)])[LAST])


def test_a_cache_and_a_run_that_stops(model, hf, ids):
    with model.trace(EIFFEL) as tracer:
        cache = tracer.cache(modules=list(model.transformer.h))
    with model.trace(EIFFEL) as tracer:
        early = model.transformer.h[1].output[0].save()
        tracer.stop()
    want = residuals(hf, ids[EIFFEL])
    same(np.concatenate([cache[f"transformer.h.{i}"].output[0] for i in range(hf.n_blocks)]), want)
    same(early, want[1:2])


# TransformerLens's demos.

def test_head_ablation_by_loss(model, hf, ids):
    tokens = model.to_tokens(EIFFEL)
    losses = [model(tokens, return_type="loss")]
    for head in (3, 7):
        def without_head(value, hook, head=head):
            value[:, :, head] = 0.
            return value
        losses.append(model.run_with_hooks(tokens, return_type="loss", fwd_hooks=[
            (interpose.act_name("v", 0), without_head)]))

    def theirs(heads):
        def edit(x):
            x[:, heads] = 0
        place = "transformer.h.0.attn.value.output"
        logits = hf.run(ids[EIFFEL], [LAST], [(place, edit)])[LAST][0]
        return float(F.cross_entropy(logits[:-1], torch.tensor(ids[EIFFEL])[1:]))
    same(losses, [theirs(heads) for heads in ([], [3], [7])])
    with pytest.raises(TypeError, match=r"run_with_hooks\(\) has no parameter 'shortformer_pos_embed'"):
        model(tokens, shortformer_pos_embed=1)


def test_direct_logit_attribution_of_heads(model, hf, ids):
    paris = model.to_single_token(" Paris")
    with model.trace(EIFFEL):
        z = torch.stack([block.attn.hook_z[0, -1] for block in model.blocks])
        heads = torch.einsum("lhd,lhdm->lhm", z, torch.stack([b.attn.W_O for b in model.blocks]))
        heads = (heads - heads.mean(-1, keepdim=True)) / model.ln_final.hook_scale[0, -1]
        direct = (heads @ (model.transformer.ln_f.weight * model.lm_head.weight[paris])).save()
    places = [f"transformer.h.{i}.attn.result.output" for i in range(hf.n_blocks)]
    seen = hf.run(ids[EIFFEL], [*places, "transformer.ln_f.scale"])
    results = torch.stack([seen[place][0, -1] for place in places])
    results = (results - results.mean(-1, keepdim=True)) / seen["transformer.ln_f.scale"][0, -1]
    same(direct, (results @ (hf.model.transformer.ln_f.weight * hf.model.lm_head.weight[paris])).detach())


def test_induction_scores_on_repeated_tokens(model, hf):
    half = np.random.default_rng(0).integers(300, 3000, 20)
    tokens, found = np.concatenate([half, half]), {}

    def score(pattern, hook):
        stripe = pattern.diagonal(dim1=-2, dim2=-1, offset=1 - len(half))
        found[hook.layer()] = stripe.mean((0, -1)).save()
    model.run_with_hooks(tokens, return_type=None,
                         fwd_hooks=[(lambda name: name.endswith("pattern"), score)])
    places = [f"transformer.h.{i}.attn.pattern.output" for i in range(hf.n_blocks)]
    seen = hf.run(tokens.tolist(), places)
    want = [seen[place][0].diagonal(1 - len(half), -2, -1).mean(-1) for place in places]
    scores = np.stack([found[i] for i in range(hf.n_blocks)])
    same(scores, torch.stack(want))
    assert scores[2, 5] > 0.5 and scores[3, 1] > 0.5     # the model's induction heads


def test_attention_knockout_in_two_ways(model, hf, ids):
    def of_scores(scores, hook):
        scores[:, :, -1, 1:5] = float("-inf")

    def of_pattern(pattern, hook):
        pattern[:, :, -1, 1:5] = 0
        return pattern / pattern.sum(-1, keepdim=True)
    one, other = (model.run_with_hooks(EIFFEL, [(f"blocks.2.attn.hook_{name}", change)])
                  for name, change in (("attn_scores", of_scores), ("pattern", of_pattern)))
    edits = [("transformer.h.2.attn.scores.output", lambda x: of_scores(x, None))]
    want = hf.run(ids[EIFFEL], [LAST], edits)[LAST]
    same(one, want)
    same(other, want)


def test_one_path_from_a_head_to_a_query(model, hf, ids):
    """What head 7 of block 0 has of another prompt reaches the queries of head 5 in block 2, no other."""
    with model.trace() as tracer:
        with tracer.invoke(SQUARE):
            donor = model.blocks[0].attn.hook_z[:, 4, 7]
        with tracer.invoke(EIFFEL):
            other = (donor - model.blocks[0].attn.hook_z[:, 4, 7]) @ model.blocks[0].attn.W_O[7]
            x = model.transformer.h[2].ln_1(model.blocks[2].hook_resid_pre[:, 4] + other)
            attn = model.blocks[2].attn
            attn.hook_q[:, 4, 5] = x @ attn.W_Q[5] + attn.b_Q[5]
            scores = attn.hook_attn_scores[0, 5, 4, :5].save()
    place, resid, query = HEADS.format(0), WIDTH.format(1), "transformer.h.2.attn.query.output"
    own, theirs = hf.run(ids[EIFFEL], [place, resid]), hf.run(ids[SQUARE], [place])
    with torch.no_grad():
        block = hf.model.transformer.h
        other = (theirs[place][:, 7, 4] - own[place][:, 7, 4]) @ block[0].attn.c_proj.weight[7 * 32:8 * 32]
        q = block[2].attn.c_attn(block[2].ln_1(own[resid][:, 4] + other))[:, 5 * 32:6 * 32]

    def edit(x):
        x[:, 5, 4] = q
    place = "transformer.h.2.attn.scores.output"
    own, want = (hf.run(ids[EIFFEL], [place], edits)[place][0, 5, 4, :5] for edits in ([], [(query, edit)]))
    assert (own - want).abs().max() > 0.05
    same(scores, want, 1e-3)


# torch's idioms.

def test_prompts_of_the_tokenizer_and_logits_of_a_call(model, hf, ids):
    tokenizer = model.tokenizer
    tokenizer.pad_token = tokenizer.eos_token
    inputs = tokenizer(EIFFEL, return_tensors="pt")
    assert inputs.input_ids.tolist() == [ids[EIFFEL]] and tokenizer(EIFFEL).input_ids == ids[EIFFEL]
    assert tokenizer.eos_token_id == hf.model.config.eos_token_id
    with model.trace(inputs):
        logits = model.output.logits.save()
    want = hf.run(ids[EIFFEL], [LAST])[LAST][0]
    same(logits[0], want)
    called = model(inputs["input_ids"])
    loss = F.cross_entropy(called[0, :-1], torch.tensor(model.to_tokens(EIFFEL))[0, 1:])
    same(loss, F.cross_entropy(want[:-1], inputs.input_ids[0, 1:]))
    same(model(EIFFEL, return_type="loss").item(), loss)
    with pytest.raises(ValueError, match="texts of 7 and 10 tokens are no array: take them one by one"):
        tokenizer([EIFFEL, "The Red Square is in the"], return_tensors="pt")


def test_losses_and_numbers_of_logits(model, hf, ids):
    tokens = torch.tensor([ids[EIFFEL]])

    def numbers(logits, hidden):
        logs = logits.log_softmax(-1)
        picked = logs[:, :-1].gather(-1, tokens[:, 1:, None]).squeeze(-1)
        best = logits[0, -1].topk(3)
        rows = F.normalize(hidden[0], dim=-1)
        return [F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1)),
                F.cross_entropy(logits[0, :-1], tokens[0, 1:], reduction="none"),
                -picked, F.kl_div(logs[:, 1:], logs[:, :-1], log_target=True, reduction="batchmean"),
                -(logs.exp() * logs).sum(-1), F.one_hot(best.indices, logits.shape[-1]).float() @ logits[0, -1],
                (logits[0] > logits[0, :, best.indices[0], None]).sum(-1), rows @ rows.mT,
                F.cosine_similarity(hidden[:, 1:], hidden[:, :-1], dim=-1),
                torch.where(hidden > 0, hidden, -1.0).mean((0, 1)), torch.cat([hidden, hidden * 2]).std(0)]
    with model.trace(EIFFEL):
        ours = [x.save() for x in numbers(model.lm_head.output, model.transformer.h[2].output[0])]
    seen = hf.run(ids[EIFFEL], [LAST, WIDTH.format(2)])
    for one, other in zip(ours, numbers(seen[LAST], seen[WIDTH.format(2)]), strict=True):
        same(one, other)


def test_edits_in_place(model, hf, ids):
    def edit(h):
        h[:, 2:4] *= 2
        h[..., 5] += 1
        h[:, -1] -= h[:, :-1].mean(1)
        h[0, 0].zero_()
        h[:, 1].clamp_(-1, 1)
        h[0, [3, 4]] = torch.zeros(2, h.shape[-1])
        h.masked_fill_(h > 50, 50.0)
    with model.trace(EIFFEL):
        edit(model.transformer.h[1].output[0])
        logits = model.lm_head.output.save()
    same(logits, hf.run(ids[EIFFEL], [LAST], [(WIDTH.format(1), edit)])[LAST])


def test_einops_own_functions(model, hf, ids):
    place = WIDTH.format(1)
    weight = hf.model.transformer.h[1].attn.c_proj.weight.detach().reshape(8, 32, 256)

    def arranged(h):
        heads = einops.rearrange(h, "b t (h d) -> b h t d", h=8)
        return [heads, einops.reduce(h, "b t d -> d", "max"), einops.reduce(h, "b t d -> b", "mean"),
                einops.repeat(h, "1 t d -> (2 t) k d", k=3), einops.rearrange([h, h], "l b t d -> b t l d"),
                einops.einsum(heads, weight, "batch head pos d, head d model -> batch pos model"),
                fancy_einsum.einsum("batch head pos d, head d model -> batch pos model", heads, weight)]
    with model.trace(EIFFEL):
        h = model.transformer.h[1].output[0].save()
        ours = [x.save() for x in arranged(h)]
        with pytest.raises(einops.EinopsError, match="Identifiers only on one side"):
            einops.rearrange(h, "b t d -> b t")
    theirs = hf.run(ids[EIFFEL], [place])[place]
    for one, other in zip(ours, arranged(theirs), strict=True):
        same(one, other)
    for way in ("min", "mean"):
        same(einops.reduce(h, "b t d -> t", way), einops.reduce(theirs, "b t d -> t", way))
    same(einops.pack([h, h], "* d")[0], einops.pack([theirs, theirs], "* d")[0])
    same(einops.rearrange([h, h], "l b t d -> b t l d"), einops.rearrange([theirs, theirs], "l b t d -> b t l d"))
