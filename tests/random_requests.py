"""Random requests by seed: prompts, hooks, arithmetic on what they read, edits that reach back into
the model, generation. Every one is valid for the model whose sizes are given."""
import random

HIDDEN = ["transformer.wte.output", "transformer.drop.output", "transformer.h.*.input",
          "transformer.h.*.ln_1.input", "transformer.h.*.ln_1.output",
          "transformer.h.*.attn.output[0]", "transformer.h.*.mid.output",
          "transformer.h.*.ln_2.input", "transformer.h.*.ln_2.output",
          "transformer.h.*.mlp.output", "transformer.h.*.output[0]", "transformer.ln_f.output"]
HEADS = ["transformer.h.*.attn.query.output", "transformer.h.*.attn.key.output",
         "transformer.h.*.attn.value.output", "transformer.h.*.attn.z.output"]
WIDE = ["transformer.h.*.mlp.c_fc.output", "transformer.h.*.mlp.act.output"]
OTHER = ["transformer.h.*.attn.c_attn.output", "transformer.h.*.output[1][0]",
         "transformer.h.*.output[1][1]", "lm_head.output"]
READABLE = HIDDEN + HEADS + WIDE + OTHER
WRITABLE = HIDDEN + HEADS + WIDE
UNARY = ["exp", "tanh", "abs", "neg", "square", "sigmoid", "gelu_new", "relu"]
REDUCE = ["sum", "mean", "max", "min", "norm"]


class Builder:
    def __init__(self, rng, sizes):
        self.rng, self.sizes, self.nodes = rng, sizes, []

    def add(self, op, *args, **fields):
        self.nodes.append({"op": op, "args": list(args), **fields})
        return {"node": len(self.nodes) - 1}

    def hook(self, paths, invoke, step):
        block = self.rng.randrange(self.sizes["n_blocks"])
        path = self.rng.choice(paths).replace("*", str(block))
        return self.add("hook", path, invoke=invoke, step=step)

    def save(self, what):
        self.add("save", what, name=f"s{len(self.nodes)}")

    def read(self, invoke, step):
        x = self.hook(READABLE, invoke, step)
        kind = self.rng.randrange(6)
        if kind == 1:
            x = self.add(self.rng.choice(UNARY), x)
        elif kind == 2:
            x = self.add(self.rng.choice(REDUCE), x, -1, True)
        elif kind == 3:
            x = self.add("softmax", x, -1)
        elif kind == 4:
            x = self.add("getitem", x, "[:, -1:]")
        elif kind == 5:
            x = self.add("matmul", x, self.add("transpose", x, -1, -2))
        self.save(x)

    def edit(self, invoke, step, wild):
        x = self.hook(WRITABLE, invoke, step)
        target = self.add("getitem", x, self.rng.choice(["[:, -1]", "[..., 3:9]", "[:, :1]", "[:]"]))
        kind = self.rng.randrange(4)
        if wild:
            value = self.add("div", self.rng.choice([1.0, 0.0, -1.0]), 0.0)
        elif kind == 0:
            value = 0.0
        elif kind == 1:
            value = self.add("mul", target, self.rng.uniform(-2, 2))
        elif kind == 2:
            value = self.add("add", target, self.add("mean", target, -1, True))
        else:
            value = self.add("tanh", target)
        self.add("set", target, value)


def random_request(seed, sizes, wild=False):
    """One request as a dict. `sizes` has n_blocks, vocab and context; `wild` makes the edits write
    NaN and infinities, which must stay inside the request."""
    rng = random.Random(seed)
    n_new = rng.choice([0, 0, 1, 3, 6])
    builder = Builder(rng, sizes)
    invokes = []
    for i in range(rng.choice([1, 1, 2, 3])):
        length = rng.choice([1, 2, 5, 13, 31, rng.randrange(1, 64), rng.randrange(60, 140)])
        length = min(length, sizes["context"] - n_new)
        invokes.append({"prompt": [rng.randrange(sizes["vocab"]) for _ in range(length)]})
    for i in range(len(invokes)):
        for step in range(max(1, n_new)):
            for _ in range(rng.randrange(3)):
                builder.edit(i, step, wild)
            for _ in range(rng.randrange(1, 4)):
                builder.read(i, step)
    sampling = {"temperature": rng.choice([0.0, 0.7, 1.3]), "top_k": rng.choice([0, 5, 40]),
                "top_p": rng.choice([1.0, 0.9]), "seed": rng.randrange(1 << 40)}
    return {"invokes": invokes, "max_new_tokens": n_new, "sampling": sampling,
            "nodes": builder.nodes}
