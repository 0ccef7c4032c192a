"""Random requests by seed: prompts, hooks, arithmetic on what they read, edits that reach back into
the model, generation. Every one is valid for the model whose sizes are given.

    random_requests.py MODEL FIRST_SEED COUNT    writes requests, one a line, for schedules_tool
"""
import json
import pathlib
import random
import re
import sys

HIDDEN = ["transformer.wte.output", "transformer.drop.output", "transformer.h.*.input",
          "transformer.h.*.ln_1.input", "transformer.h.*.ln_1.output",
          "transformer.h.*.attn.output[0]", "transformer.h.*.mid.output",
          "transformer.h.*.ln_2.input", "transformer.h.*.ln_2.output",
          "transformer.h.*.mlp.output", "transformer.h.*.output[0]", "transformer.ln_f.output",
          "transformer.wpe.output", "transformer.h.*.ln_1.normalized",
          "transformer.h.*.ln_2.normalized", "transformer.ln_f.normalized"]
SCALE = ["transformer.h.*.ln_1.scale", "transformer.h.*.ln_2.scale", "transformer.ln_f.scale"]
HEADS = ["transformer.h.*.attn.query.output", "transformer.h.*.attn.key.output",
         "transformer.h.*.attn.value.output", "transformer.h.*.attn.z.output"]
WIDE = ["transformer.h.*.mlp.c_fc.output", "transformer.h.*.mlp.act.output"]
CACHE = ["transformer.h.*.output[1][0]", "transformer.h.*.output[1][1]"]
OTHER = ["transformer.h.*.attn.c_attn.output", *CACHE, "lm_head.output"]
INSIDE = ["transformer.h.*.attn.scores.output", "transformer.h.*.attn.pattern.output"]
READABLE = HIDDEN + HEADS + WIDE + OTHER + SCALE + INSIDE
WHOLE = ["transformer.h.*.attn.result.output"]  # its last two dimensions are (H, D)
WRITABLE = HIDDEN + HEADS + WIDE + SCALE + INSIDE
EARLY = ["transformer.drop.output", "transformer.h.0.ln_1.output",
         "transformer.h.0.attn.value.output", "transformer.h.0.attn.z.output",
         "transformer.h.1.attn.value.output", "transformer.h.1.ln_2.output"]
UNARY = ["exp", "tanh", "abs", "neg", "square", "sigmoid", "gelu_new", "relu", "erf", "log1p"]
REDUCE = ["sum", "prod", "mean", "max", "min", "norm"]


def has_columns(path):
    """Whether an index such as [..., 2:7] finds some, however short the prompt is."""
    return not path.endswith((".scale", ".scores.output", ".pattern.output"))


class Builder:
    def __init__(self, rng, sizes):
        self.rng, self.sizes, self.nodes = rng, sizes, []

    def add(self, op, *args, **fields):
        self.nodes.append({"op": op, "args": list(args), **fields})
        return {"node": len(self.nodes) - 1}

    def path(self, paths):
        block = self.rng.randrange(self.sizes["n_blocks"])
        return self.rng.choice(paths).replace("*", str(block))

    def hook(self, paths, invoke, step):
        return self.add("hook", self.path(paths), invoke=invoke, step=step)

    def save(self, what):
        self.add("save", what, name=f"s{len(self.nodes)}")

    def tokens(self, invoke, step):
        """The tokens that a step samples, and how likely each was."""
        logits = self.add("log_softmax", "lm_head.output[:, -1]", -1, invoke=invoke, step=step)
        self.save(self.add("gather", logits, -1, "generator.streamer.output[:, None]",
                           invoke=invoke, step=step))

    def read(self, invoke, step):
        x = self.hook(READABLE + WHOLE, invoke, step)
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
        path = self.path(WRITABLE)
        x = self.add("hook", path, invoke=invoke, step=step)
        columns = ["[..., 3:9]"] if has_columns(path) else ["[..., :1]"]
        target = self.add("getitem", x, self.rng.choice(["[:, -1]", "[:, :1]", "[:]"] + columns))
        # Scores are minus infinity where they are masked: sums and products would be no numbers.
        kind = self.rng.choice([0, 3] if path.endswith(".scores.output") else [0, 1, 2, 3])
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

    # What follows fits prompts of any length: only a few positions are looked at.

    def position(self, length):
        """Mostly near the end: what is before it may be shared."""
        if self.rng.randrange(8) == 0:
            return self.rng.randrange(length)
        return max(0, length - 1 - self.rng.choice([0, 1, 5]))

    def positions(self, length, path):
        """An index of some positions of (..., T, width)."""
        at = self.position(length)
        columns = ["[..., -20:, 2:7]"] if has_columns(path) else []
        return self.rng.choice([f"[..., {at}, :]", f"[..., {at}:, :][..., -3:, :]", "[..., -1, :]",
                                f"[..., {at}:{at + 5}, :]"] + columns)

    def look(self, paths, invoke, step, length):
        """A path's activation, or a part of it, at a few positions."""
        path = self.path(paths)
        return self.add("clone", path + self.positions(length, path), invoke=invoke, step=step)

    def read_part(self, paths, invoke, step, length):
        x = self.look(paths, invoke, step, length)
        kind = self.rng.randrange(11)
        if kind == 1:
            x = self.add(self.rng.choice(UNARY), x)
        elif kind == 2:
            x = self.add(self.rng.choice(REDUCE), x, [0, -1], self.rng.choice([True, False]))
        elif kind == 3:
            x = self.add(self.rng.choice(["softmax", "log_softmax", "cumsum", "cumprod"]), x, self.rng.choice([0, -1]))
        elif kind == 4:
            x = self.add("argmax", x, self.rng.choice([0, -1]))
        elif kind == 5:
            x = self.add("stack", [x, self.add("neg", x)], 0)
        elif kind == 6:
            x = self.add("where", self.add("gt", x, 0.0), x, self.add("mul", x, 0.5))
        elif kind == 7:
            self.add("set", self.add("getitem", x, "[..., :2]"), 1.5)
        elif kind == 8:
            x = self.add("transpose", x, 0, -1)
        elif kind == 9:
            op = self.rng.choice(["scatter", "scatter_add"])
            x = self.add(op, x, -1, self.add("argmax", x, -1, True), 1.5)
        elif kind == 10:
            x = self.add("diagonal", x, 0, -2, -1)
        self.save(x)

    def read_whole(self, paths, invoke, step):
        self.save(self.hook(paths + ["transformer.wte.input"] + WHOLE, invoke, step))

    def lens(self, invoke, step, length):
        """What the model would say if it ended at some block."""
        x = self.add("getitem", self.hook(HIDDEN[2:3], invoke, step), f"[:, -{min(3, length)}:]")
        x = self.add("apply", self.add("apply", x, "transformer.ln_f"), "lm_head")
        self.save(self.add("argmax", x, -1))

    def module(self, invoke, step, length):
        """A block's MLP over another block's stream, and a parameter beside it."""
        x = self.add("getitem", self.hook(HIDDEN[2:], invoke, step), f"[:, -{min(3, length)}:]")
        for name in ("ln_2", "mlp.c_fc", "mlp.c_proj"):
            x = self.add("apply", x, self.path([f"transformer.h.*.{name}"]))
        at = self.rng.randrange(self.sizes["width"])
        row = self.path([f"transformer.h.*.mlp.c_proj.weight[:, {at}][:16]", f"W_U[{at}, :16]"])
        self.save(self.add("sum", self.add("mul", self.add("getitem", x, "[..., :16]"), row), -1))

    def read_late(self, invoke, step, length):
        """An early activation, waiting on the slab for a late one."""
        index, last = self.positions(length, ""), self.sizes["n_blocks"] - 1
        self.save(self.add("sub", f"transformer.h.{last}.output[0]{index}",
                           f"transformer.h.0.ln_1.output{index}", invoke=invoke, step=step))

    def edit_part(self, invoke, step, length, others, earlier, wild):
        """An edit, now and then to what another invoke has: of `others` in this block or before,
        of `earlier` ones, which belong to traces before this one, in whatever block."""
        at, path = self.position(length), self.path(WRITABLE)
        columns = [f"[..., {at}:{at + 2}, 1:4]"] if has_columns(path) else []
        index = self.rng.choice([f"[..., {at}, :]", f"[..., {at}:, :]", "[..., -1, :]",
                                 f"[..., {at}::7, :]"] + columns)
        target = self.add("getitem", self.add("hook", path, invoke=invoke, step=step), index)
        # Rows of scores and patterns are as long as the prompt; masked scores are minus infinity.
        inside = path.endswith((".scores.output", ".pattern.output"))
        kind = self.rng.choice([0, 3] if inside else [0, 1, 2, 3])
        if wild:
            value = self.add("div", self.rng.choice([1.0, 0.0, -1.0]), 0.0)
        elif kind == 0:
            value = self.rng.uniform(-1, 1)
        elif kind == 1 and (earlier or step == 0 and others):
            other = self.rng.choice(earlier or others)
            path = re.sub(r"\.(\d+)\.", lambda found: "." + str(self.rng.randrange(
                self.sizes["n_blocks"] if earlier else int(found[1]) + 1)) + ".", path)
            x = self.add("hook", path, invoke=other)
            # (1, 1, D) or (1, H, 1, dh) of another prompt's last position
            x = self.add("getitem", x, "[:1, ..., -1:, :]")
            if ":" not in index[5:-3]:  # one position
                x = self.add("squeeze", x, -2)
            value = self.add("getitem", x, "[..., 1:4]") if index.endswith("1:4]") else x
        elif kind == 2:
            value = self.add("mul", target, -1.0)
        else:
            value = self.add("add", target, 0.25)
        self.add("set", target, value)

    def skip(self, invoke, step):
        """A module that is left out, if nobody looks into its block."""
        block = self.rng.randrange(self.sizes["n_blocks"])
        mine = [node for node in self.nodes
                if (node.get("invoke", 0), node.get("step", 0)) == (invoke, step)]
        if any(f"h.{block}." in str(node["args"]) for node in mine):
            return
        module, instead = self.rng.choice([("attn.output[0]", "ln_1.output"),
                                           ("mlp.output", "mid.output"), ("output[0]", "input")])
        target = self.add("hook", f"transformer.h.{block}.{module}", invoke=invoke, step=step)
        value = self.rng.choice([0.5, f"transformer.h.{block}.{instead}"])
        self.add("set", target, value, invoke=invoke, step=step, kwargs={"skip": True})

    def work(self, invoke, step):
        """Arithmetic that takes longer than the pass."""
        rows = self.rng.choice([50, 400, 1500])
        x = self.add("getitem", self.hook(HIDDEN, invoke, step), "[0, -1]")
        x = self.add("expand", x, [rows, self.sizes["width"]])
        for _ in range(self.rng.randrange(1, 5)):
            kind = self.rng.randrange(5)
            if kind == 0:
                x = self.add(self.rng.choice(UNARY), x)
            elif kind == 1:
                x = self.add("softmax", x, self.rng.choice([0, -1]))
            elif kind == 2:
                x = self.add("mul", x, self.add("sum", x, -1, True))
            elif kind == 3:
                short = self.add("getitem", x, "[:96]")
                product = self.add("matmul", short, self.add("transpose", short, 0, 1))
                x = self.add("matmul", self.add("softmax", product, -1), short)
            else:
                x = self.add("cat", [x, self.add("tanh", x)], 0)
        self.save(self.add("mean", x, 0) if self.rng.randrange(2) else x)


def generation_of(rng, n_new, sizes):
    """The request's fields about it: how tokens are chosen, and for some what ends it early."""
    sampling = {"temperature": rng.choice([0.0, 0.7, 1.3]), "top_k": rng.choice([0, 5, 40]),
                "top_p": rng.choice([1.0, 0.9]), "min_p": rng.choice([0.0, 0.0, 0.05]),
                "repetition_penalty": rng.choice([1.0, 1.0, 0.8, 1.5]),
                "seed": rng.randrange(1 << 40), "n": rng.choice([1, 1, 1, 1, 3]) if n_new else 1}
    fields = {"max_new_tokens": n_new, "sampling": sampling}
    if n_new > 1 and rng.randrange(2):
        fields["eos_token_id"] = rng.sample(range(sizes["vocab"]), min(250, sizes["vocab"] // 5))
        fields["min_new_tokens"] = rng.choice([0, 0, 0, n_new // 2])
    return fields


def deal(rng, invokes, n_new, sizes):
    """The request's fields for these invokes: mostly one trace, else a session of several. Returns
    them, with the new tokens and the number of each invoke's trace."""
    n = len(invokes)
    if n == 1 or rng.randrange(3) > 0:
        return {"invokes": invokes, **generation_of(rng, n_new, sizes)}, [n_new] * n, [0] * n
    traces, counts, numbers = [], [], []
    for invoke in invokes:
        if not traces or rng.randrange(3) > 0:
            traces.append({"invokes": [], **generation_of(rng, rng.choice([0, n_new]), sizes)})
        traces[-1]["invokes"].append(invoke)
        counts.append(traces[-1]["max_new_tokens"])
        numbers.append(len(traces) - 1)
    return {"traces": traces}, counts, numbers


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
    fields, counts, _ = deal(rng, invokes, n_new, sizes)
    for i, count in enumerate(counts):
        for step in range(max(1, count)):
            for _ in range(rng.randrange(3)):
                builder.edit(i, step, wild)
            for _ in range(rng.randrange(1, 4)):
                builder.read(i, step)
        if count:
            builder.tokens(i, rng.randrange(count))
    return {**fields, "nodes": builder.nodes}


# Requests for tests/schedules_tool.c. Kinds by weight; most are small, so that many schedules run
# in a second.
KINDS = {"small": 16, "wild": 8, "tiny": 12, "shared": 34, "long": 3, "longest": 1, "early": 30,
         "work": 9, "many": 9, "copies": 9, "skips": 9, "nothing": 4, "sweep": 14}
FAMILY = 8  # requests that begin alike, one behind the other


def shared_prompt(rng, sizes, length, family):
    """What all of a family begin with, then tokens of its own; now and then with one token changed.
    Some families repeat themselves, page after page of the cache."""
    beginning = random.Random(family)
    tokens = [beginning.randrange(sizes["vocab"]) for _ in range(length)]
    if family % 4 == 0:
        tokens = (tokens[:64] * (length // 64 + 1))[:length]
    for i in range(max(1, length - rng.choice([0, 1, 3, 20])), length):
        tokens[i] = rng.randrange(sizes["vocab"])
    if rng.randrange(5) == 0:
        tokens[rng.randrange(length)] = rng.randrange(sizes["vocab"])
    return tokens


def prompt_length(rng, kind, room):
    if kind == "longest":
        return room
    if kind == "long":
        return min(room, rng.randrange(300, 1024))
    if kind == "early":
        return min(room, rng.choice([1, 40, 66, 100, 140, 200]))
    if kind == "shared":
        return min(room, rng.choice([64, 65, 66, 100, 128, 129, 130, 192, 193, 200, 257]))
    if kind in ("tiny", "nothing", "work"):
        return rng.choice([1, 1, 2, 3, 7, 20])
    return rng.choice([1, 4, 16, 40, 63, 64, 65, 90, 130])


def fill(builder, rng, kind, lengths, counts, traces):
    """Edits and reads of every invoke and step. An early request looks at one place, some sweeps at
    a few positions. One with copies looks at no rows of step 0, so that they have none of their
    own."""
    paths = [rng.choice(EARLY)] if kind == "early" else READABLE
    n_ways = 3 if kind == "early" else rng.choice([2, 6]) if kind == "sweep" else 6
    for i, length in enumerate(lengths):
        others = [k for k, trace in enumerate(traces) if trace == traces[i] and k != i]
        earlier = [k for k, trace in enumerate(traces) if trace < traces[i]]
        for step in range(max(1, counts[i])):
            if kind == "copies" and step == 0:
                if rng.randrange(2):
                    builder.save(builder.hook([*CACHE, "lm_head.output"], i, step))
                continue
            length = length if step == 0 else 1
            n_edits = {"early": [0], "sweep": [0, 1, 1, 1, 1]}.get(kind, [0, 0, 1, 1, 2])
            for _ in range(rng.choice(n_edits)):
                builder.edit_part(i, step, length, others, earlier, False)
            least = int(kind == "early")
            for _ in range(rng.choice([least, 1, 1, 2]) if step == 0 else rng.randrange(2)):
                rng.choice([
                    lambda: builder.read_part(paths, i, step, length),
                    lambda: builder.read_part(paths, i, step, length),
                    lambda: builder.read_whole(paths, i, step),
                    lambda: builder.lens(i, step, length),
                    lambda: builder.read_late(i, step, length),
                    lambda: builder.module(i, step, length),
                ][:n_ways])()
            if kind == "work":
                builder.work(i, step)
    for _ in range(rng.randrange(1, 6) if kind in ("skips", "sweep") else 0):
        i = rng.randrange(len(lengths))
        builder.skip(i, rng.randrange(max(1, counts[i])))


def random_job(seed, sizes):
    """One request for a schedule: a dict. `sizes` has `width` too."""
    rng = random.Random(seed)
    kind = rng.choices(list(KINDS), KINDS.values())[0]
    if kind in ("small", "wild"):
        return random_request(seed, sizes, kind == "wild")
    n_new = rng.choice([0, 0, 0, 1, 2, 5, 17])
    n_new = 0 if kind == "early" else max(n_new, 1) if kind == "copies" else n_new
    builder = Builder(rng, sizes)
    invokes, lengths = [], []
    n_invokes = 1 if kind in ("long", "longest", "early") else rng.choice([1, 1, 1, 2, 3])
    for _ in range(rng.choice([2, 3, 5, 8]) if kind == "sweep" else n_invokes):
        length = prompt_length(rng, kind, sizes["context"] - n_new)
        many = {"many": [2, 3, 8], "copies": [2, 3, 8], "sweep": [1, 1, 1, 2]}.get(kind, [1])
        many = rng.choice(many)
        prompts = [shared_prompt(rng, sizes, length, seed // FAMILY) for _ in range(many)]
        if kind == "copies":
            prompts = [rng.choice(prompts[:2]) for _ in prompts]
        if rng.randrange(2):  # of unequal length, all but the first
            prompts[1:] = [p[-rng.randrange(1, length + 1):] for p in prompts[1:]]
        invokes.append({"prompt": prompts if many > 1 else prompts[0]})
        lengths.append(length)
        if kind == "sweep" and len(invokes) > 1 and rng.randrange(6):
            other = rng.randrange(len(invokes) - 1)
            invokes[-1], lengths[-1] = invokes[other], lengths[other]
    fields, counts, traces = deal(rng, invokes, n_new, sizes)
    if kind != "nothing":
        fill(builder, rng, kind, lengths, counts, traces)
    i = rng.randrange(len(counts))
    if counts[i]:
        builder.tokens(i, rng.randrange(counts[i]))
    if rng.randrange(3) == 0:
        i = rng.randrange(len(counts))
        builder.save(builder.add("hook", "generator.output", invoke=i, step=max(0, counts[i] - 1)))
    return {**fields, "nodes": builder.nodes}


def sizes_of(folder):
    config = json.loads((pathlib.Path(folder) / "config.json").read_text())
    return {"n_blocks": config["n_layer"], "vocab": config["vocab_size"],
            "context": config["n_positions"], "width": config["n_embd"]}


def main():
    sizes = sizes_of(sys.argv[1])
    first, count = map(int, sys.argv[2:])
    for seed in range(first, first + count):
        print(json.dumps(random_job(seed, sizes), separators=(",", ":")))


if __name__ == "__main__":
    main()
