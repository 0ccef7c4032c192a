"""Hugging Face's GPT-2 with forward hooks, as the meaning of every hook point: read(paths) and edits by
the same paths as on the wire. A hook sees a clone, and what it returns replaces the tensor. Where HF
computes in one call what a point lies inside of, the oracle spells that call out."""
import contextlib
import re
import types
import unittest.mock

import torch
import transformers
from transformers.models.gpt2 import modeling_gpt2

# path -> (module, its side, view): "in" is the module's first argument, "out" what it returns, any
# other what the oracle computes inside it.
PLACES = {
    "transformer.wte.output": ("transformer.wte", "out", None),
    "transformer.wpe.output": ("transformer.wpe", "out", None),
    "transformer.drop.output": ("transformer.drop", "out", None),
    "transformer.h.*.input": ("transformer.h.*", "in", None),
    "transformer.h.*.ln_1.input": ("transformer.h.*.ln_1", "in", None),
    "transformer.h.*.ln_1.scale": ("transformer.h.*.ln_1", "scale", None),
    "transformer.h.*.ln_1.normalized": ("transformer.h.*.ln_1", "normalized", None),
    "transformer.h.*.ln_1.output": ("transformer.h.*.ln_1", "out", None),
    "transformer.h.*.attn.c_attn.output": ("transformer.h.*.attn.c_attn", "out", None),
    "transformer.h.*.attn.query.output": ("transformer.h.*.attn.c_attn", "out", 0),
    "transformer.h.*.attn.key.output": ("transformer.h.*.attn.c_attn", "out", 1),
    "transformer.h.*.attn.value.output": ("transformer.h.*.attn.c_attn", "out", 2),
    "transformer.h.*.attn.scores.output": ("transformer.h.*.attn", "scores", None),
    "transformer.h.*.attn.pattern.output": ("transformer.h.*.attn", "pattern", None),
    "transformer.h.*.attn.z.output": ("transformer.h.*.attn.c_proj", "in", 0),
    "transformer.h.*.attn.result.output": ("transformer.h.*.attn.c_proj", "in", "result"),
    "transformer.h.*.attn.output[0]": ("transformer.h.*.attn.c_proj", "out", None),
    "transformer.h.*.mid.output": ("transformer.h.*.ln_2", "in", None),
    "transformer.h.*.ln_2.input": ("transformer.h.*.ln_2", "in", None),
    "transformer.h.*.ln_2.scale": ("transformer.h.*.ln_2", "scale", None),
    "transformer.h.*.ln_2.normalized": ("transformer.h.*.ln_2", "normalized", None),
    "transformer.h.*.ln_2.output": ("transformer.h.*.ln_2", "out", None),
    "transformer.h.*.mlp.c_fc.output": ("transformer.h.*.mlp.c_fc", "out", None),
    "transformer.h.*.mlp.act.output": ("transformer.h.*.mlp.act", "out", None),
    "transformer.h.*.mlp.output": ("transformer.h.*.mlp", "out", None),
    "transformer.h.*.output[0]": ("transformer.h.*", "out", None),
    "transformer.ln_f.input": ("transformer.ln_f", "in", None),
    "transformer.ln_f.scale": ("transformer.ln_f", "scale", None),
    "transformer.ln_f.normalized": ("transformer.ln_f", "normalized", None),
    "transformer.ln_f.output": ("transformer.ln_f", "out", None),
    "lm_head.output": ("lm_head", "out", None),
}


EAGER_ATTENTION = modeling_gpt2.eager_attention_forward


def random_gpt2(folder, seed=0, **config):
    """Saves a random GPT-2 (124M by default) whose norms and biases are random too."""
    torch.manual_seed(seed)
    settings = {"bos_token_id": 0, "eos_token_id": 0, **config}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**settings)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.05)
            elif ".ln_" in name:
                parameter.normal_(1, 0.2)
    model.save_pretrained(folder)
    return folder


class Oracle:
    def __init__(self, folder, dtype=torch.float32):
        self.model = transformers.GPT2LMHeadModel.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager").eval()
        self.n_blocks, self.heads = self.model.config.n_layer, self.model.config.n_head
        self.inside = {}  # (module, side) -> what to do with the tensor there
        for name, module in self.model.named_modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.forward = lambda x, module=module: self.layernorm(module, x)

    def changed(self, module, side, tensor):
        for change in self.inside.get((module, side), ()):
            tensor = change(tensor)
        return tensor

    def layernorm(self, module, x):
        if not {(module, "scale"), (module, "normalized")} & self.inside.keys():
            return type(module).forward(module, x)
        scale = (x.var(-1, unbiased=False, keepdim=True) + module.eps).sqrt()
        scale = self.changed(module, "scale", scale)
        x = self.changed(module, "normalized", (x - x.mean(-1, keepdim=True)) / scale)
        return x * module.weight + module.bias

    def attention(self, module, query, key, value, mask, **rest):
        """In place of HF's eager attention, whose mask is a large negative number."""
        if not {(module, "scores"), (module, "pattern")} & self.inside.keys():
            return EAGER_ATTENTION(module, query, key, value, mask, **rest)
        scores = query @ key.transpose(-1, -2) * query.size(-1) ** -0.5
        scores = scores.masked_fill(self.hidden(scores), -torch.inf)
        scores = self.changed(module, "scores", scores)
        pattern = self.changed(module, "pattern", scores.softmax(-1))
        return (pattern @ value).transpose(1, 2), pattern

    def hidden(self, scores):
        """Which keys a query may not see: those behind it."""
        T, S = scores.shape[-2:]
        return torch.ones(T, S, dtype=torch.bool).triu(S - T + 1)

    def split_heads(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def view(self, module, x, side, part):
        """The heads' view of a clone, through which an edit reaches the clone; of z's projection by
        head a tensor of its own."""
        if part is None:
            return x
        if part == "result":
            return torch.einsum("bthd,hdm->bthm", x.unflatten(-1, (self.heads, -1)),
                                module.weight.unflatten(0, (self.heads, -1)))
        return self.split_heads(x.chunk(3, -1)[part] if side == "out" else x)

    @contextlib.contextmanager
    def hooked(self, path, function):
        """Calls function(view of a clone) wherever the path's tensor passes; the clone goes on."""
        block = re.search(r"\.h\.(\d+)\.", path)
        generic = re.sub(r"\.h\.\d+\.", ".h.*.", path)
        name, side, part = PLACES[generic]
        module = self.model.get_submodule(name.replace("*", block[1]) if block else name)

        def change(tensor):
            clone = tensor.clone()
            function(self.view(module, clone, side, part))
            return clone

        if generic.endswith(".mid.output"):
            handles = self.hook_mid(int(block[1]), change)
        elif side not in ("in", "out"):
            handles = [self.hook_inside((module, side), change)]
        elif side == "in":
            handles = [module.register_forward_pre_hook(lambda m, a: (change(a[0]), *a[1:]))]
        else:
            handles = [module.register_forward_hook(lambda m, a, out: change(out))]
        yield
        for handle in handles:
            handle.remove()

    def hook_mid(self, block, change):
        """The residual stream between attention and MLP has no module: the attention's output is
        made what brings the sum to the wanted value."""
        module, seen = self.model.transformer.h[block], {}
        def remember(m, args):
            seen["residual"] = args[0]
        def correct(m, args, out):
            return change(out + seen["residual"]) - seen["residual"]
        return [module.register_forward_pre_hook(remember),
                module.attn.c_proj.register_forward_hook(correct)]

    def hook_inside(self, place, change):
        """Until the run ends, when all handles are removed."""
        self.inside.setdefault(place, []).append(change)
        return types.SimpleNamespace(remove=lambda: self.inside.pop(place, None))

    def run(self, ids, reads=(), edits=(), cache=None):
        """path -> tensor for the reads, in one forward pass with the edits: (path, function that
        changes its argument in place), in the order given."""
        values = {}
        with torch.no_grad(), contextlib.ExitStack() as stack:
            stack.enter_context(unittest.mock.patch.object(
                modeling_gpt2, "eager_attention_forward", self.attention))
            for path, function in edits:
                stack.enter_context(self.hooked(path, function))
            for path in reads:
                def keep(x, path=path):
                    values[path] = x.clone()
                stack.enter_context(self.hooked(path, keep))
            self.model(torch.tensor([ids]), past_key_values=cache, use_cache=cache is not None)
        return values
