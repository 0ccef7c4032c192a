"""Makes a random program from a seed: what it may compute says program_rows.py, and which of that
fits says torch, on zeros."""
from __future__ import annotations

import dataclasses
import functools
import random
import re

import torch
import transformers

from program_rows import CHANGES, FLAGS, ROWS, Torch
from programs import (EDIT, PARAMETERS, POINTS, SIZES, WIDTH, Moments, Program, Statement,
                      base_shape, named_view, parameter_view, tokens_of, traces_of)

ELEMENTS_MAX, RANK_MAX = 3000, 6
READ_ONLY = "a parameter"
NO_FLOATS = ("tokens", "ids", "next")
# Of modules that can be skipped the output, and in front of what lies inside.
SKIPPED = {"ln1_out": "ln1_in", "attn_out": "ln1_out", "ln2_out": "ln2_in", "mlp_out": "ln2_out",
           "block_out": "block_in", "lnf_out": "lnf_in"}
CACHED = ("ln1_out", "qkv", "ln2_out", "mlp_pre", "mlp_out", "lnf_out", "logits")


@dataclasses.dataclass(eq=False)
class Var:
    name: str
    like: torch.Tensor  # zeros of its shape and dtype, sharing memory as it does
    root: str
    path: str = ""      # of what a hook gave, and its views


class Misfit(Exception):
    """Nothing there fits a row: another one is taken."""


@functools.lru_cache(None)
def modules():
    """A model for shapes alone."""
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**SIZES)).eval()


class Generator:
    """One program from one seed."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.vars, self.statements, self.moments = [], [], Moments()
        self.n_names = 0
        self.bases = {}         # root -> the tensor that its hooks are views of
        self.replaced = {}      # (invoke, turn) -> how often
        self.looked = set()     # (invoke, turn) where it looks
        self.skipping = None    # the invoke that skips a module
        self.invoke = 0
        self.reads, self.subject = [], None     # of the text that is being made
        self.dim = self.k = self.places = self.target_root = None

    def program(self):
        rng = self.rng
        n_traces = rng.choice([2, 2, 2, 3]) if rng.randrange(15) == 0 else 1
        self.traces = traces_of([self.prompts_and_steps(n_traces) for _ in range(n_traces)])
        self.lengths = [[len(prompt) for prompt in prompts or sum(trace.own().values(), [])]
                        for trace in self.traces for prompts in trace.prompts]
        if rng.randrange(15) == 0:
            self.edit()
        for self.trace in self.traces:
            self.invokes()
        return Program(self.traces, self.statements)

    def invokes(self):
        """Those of a trace. What was made of the rows of all is known behind them all."""
        of_all = []
        for self.invoke in self.trace.invokes:
            n_vars = self.n_names
            self.body()
            if self.sees_all:
                new = [v for v in self.vars if int(v.name[1:]) >= n_vars]
                of_all += [v for v in new if not self.moments.roots[v.root].is_live]
                self.vars = [v for v in self.vars if v not in new]
        self.vars += of_all

    @property
    def sees_all(self):
        """Whether the invoke has no prompt of its own, but the rows of all."""
        return self.invoke not in self.trace.own()

    def seen(self):
        """The invokes whose rows the invoke has."""
        return self.trace.own() if self.sees_all else [self.invoke]

    def prompts_and_steps(self, n_traces):
        """One trace's."""
        rng = self.rng
        n_invokes = rng.choice([1, 1, 2, 2, 3] if n_traces == 1 else [1, 1, 2])
        n_new = rng.choice([0, 0, 0, 1, 2, 3, 4] if n_traces == 1 else [0, 0, 1, 2])
        unequal = rng.randrange(n_invokes) if rng.randrange(4) == 0 else None
        prompts = [self.prompts(i == unequal) for i in range(n_invokes)]
        if rng.randrange(15) == 0:
            prompts.insert(rng.choice([rng.randrange(n_invokes + 1), n_invokes]), None)
        return prompts, n_new

    def prompts(self, unequal):
        """An invoke's, of one length or of several."""
        rng = self.rng
        length = rng.choice([1, 2, 3, 5, 6, 8, 11] if rng.randrange(50) else range(12, 80))
        lengths = [length] * rng.choice([1, 1, 1, 2, 3])
        if unequal:
            lengths = [length + 1] + [rng.randrange(1, length + 1) for _ in lengths[:2]]
            rng.shuffle(lengths)
        return [[rng.randrange(SIZES["vocab_size"]) for _ in range(n)] for n in lengths]

    def body(self):
        """An invoke's statements: places mostly in the order of the pass, with work at each."""
        rng, steps = self.rng, self.trace.steps
        # Shapes of all rows are known where no more come.
        can_plan = not self.sees_all or self.invoke == self.trace.invokes[-1]
        places = []
        for _ in range(rng.choice([1, 2, 3, 4])):
            name = rng.choice(POINTS.names)
            block = rng.randrange(POINTS.n_blocks) if "*" in name.path else 0
            step = steps[-1] if name.shape == "ids" else rng.choice(steps)
            if name.shape not in ("ids", "next") or self.trace.n_new:
                places.append((name, block, step))
        if rng.randrange(4):
            places.sort(key=lambda p: POINTS.turn(p[0].point, *p[1:]))
        for place in places:
            self.hook(*place)
            for _ in range(rng.choice([0, 1, 2, 3]) * can_plan):
                self.attempt(self.make)
            for _ in range(rng.choice([0, 0, 1, 2])):
                self.attempt(self.change)
            if rng.randrange(12) == 0:
                self.attempt(lambda place=place: self.replace(*place))
            if rng.randrange(4) == 0:
                self.save(rng.choice(self.vars))
        if rng.randrange(6) == 0:
            self.attempt(self.each)
        for _ in range(rng.choice([0, 1, 2, 4]) * can_plan):
            self.attempt(self.make)
        for var in rng.sample(self.vars, min(len(self.vars), 2)) + self.vars[-2:]:
            self.save(var)
        if rng.randrange(8) == 0:
            self.attempt(self.skip)
        end = rng.choice([n for n in POINTS.names if n.point in ("logits", "block_out", "lnf_out")])
        self.save(self.hook(end, POINTS.n_blocks - 1 if "*" in end.path else 0, steps[-1]))
        if rng.randrange(8) == 0:
            self.attempt(rng.choice([self.stop, self.cache]))

    def add(self, statement):
        statement.invoke = self.invoke
        self.statements.append(statement)
        self.moments.add(statement)
        if statement.place and statement.kind != "parameter":
            self.looked.update((i, turn) for turn in statement.turns() for i in self.seen())

    def define(self, like, root=None, path=""):
        name = f"v{self.n_names}"
        self.n_names += 1
        self.vars.append(Var(name, like, root or name, path))
        return self.vars[-1]

    @staticmethod
    def attempt(action):
        for _ in range(8):
            try:
                return action()
            except Misfit:
                pass

    def root_at(self, name, block, step):
        turn = POINTS.turn(name.point, block, step)
        return f"{self.invoke}@{turn}#{self.replaced.get((self.invoke, turn), 0)}"

    def base_at(self, name, block, step):
        """The root at a place, and its tensor."""
        n_sequences, n_tokens = len(self.lengths[self.invoke]), max(self.lengths[self.invoke])
        root = self.root_at(name, block, step)
        if root not in self.bases:
            step -= self.trace.steps[0]
            of_prompt = step == 0 or name.shape == "ids"
            shape = base_shape(name, n_sequences, n_tokens if of_prompt else 1,
                               0 if of_prompt else n_tokens + step - 1, self.trace.n_new)
            self.bases[root] = torch.zeros(
                shape, dtype=torch.int64 if len(shape) < 3 else torch.float32)
        return root, self.bases[root]

    def hook(self, name, block, step):
        root, base = self.base_at(name, block, step)
        var = self.define(named_view(base, name), root, name.at(block))
        self.add(Statement("hook", f"{var.name} = {self.spelled(name, block, step)}", out=var.name,
                           root=root, place=(name, block, step)))
        return var

    def spelled(self, name, block, step=None):
        """A place in client code, without a step the first one's."""
        if self.rng.randrange(4) == 0:
            block -= POINTS.n_blocks
        module, leaf = re.fullmatch(r"(?:(.*)\.)?(\w+(?:\[\d\])*)", name.path).groups()
        words = ["model", *([module] if module else [])]
        words += [at] if step is not None and (at := self.step_text(step)) else []
        return ".".join([*words, "input[0][0]" if leaf == "input" else leaf]).replace(
            ".*", f"[{block}]")

    def step_text(self, step):
        """Of the trace's steps one; nothing for the first."""
        k = step - self.trace.steps[0]
        return f"step({k})" if k else ""

    def save(self, var):
        out, text, reads = f"s{len(self.statements)}", f"{var.name}.save()", (var.name,)
        flags = [v.name for v in self.vars if is_flag(v)]
        if flags and self.rng.randrange(8) == 0:
            reads += (self.rng.choice(flags),)
            text = f"with run.cond({reads[1]}): {out} = {text}"
        else:
            text = f"{out} = {text}"
        self.add(Statement("save", text, out=out, reads=reads, root=var.root))

    def parameter(self):
        name = self.rng.choice(PARAMETERS.names)
        block = self.rng.randrange(POINTS.n_blocks)
        weight = modules().get_parameter(PARAMETERS.module(name, block)).detach()
        var = self.define(parameter_view(weight, name), path=READ_ONLY)
        path = re.sub(r"\.\*", f"[{block}]", name.path)
        self.add(Statement("parameter", f"{var.name} = model.{path}", out=var.name, root=var.root,
                           place=(name, block)))

    # Expressions.

    def make(self):
        if self.rng.randrange(15) == 0:
            self.parameter()
        self.make_row(*self.rng.choice(ROWS))

    def make_row(self, text, caution):
        text, _, torch_text = self.filled(text).partition(" => ")
        like = self.evaluated(text)
        if like.numel() > ELEMENTS_MAX or like.ndim > RANK_MAX:
            raise Misfit
        # Results lie row-major, where torch's may lie as their operands do.
        shared = next((v for v in self.vars if v.name in self.reads and v.like.numel()
                       and address(v.like) == address(like)), None)
        var = self.define(like, shared.root, shared.path) if shared else self.define(
            like.contiguous())
        about = (caution, self.subject.name) if caution else ()
        self.add(Statement("make", f"{var.name} = {text}",
                           f"{var.name} = {torch_text}" if torch_text else "",
                           out=var.name, root=var.root,
                           reads=tuple(dict.fromkeys(self.reads)), caution=about))

    def filled(self, text):
        self.reads, self.subject, self.dim = [], None, None
        return re.sub(r"\{(\w+)\}", lambda m: str(getattr(self, "fill_" + m[1])()), text)

    def evaluated(self, text, run=eval):
        """The text on tensors of zeros: torch says whether it can be."""
        known = {v.name: v.like for v in self.vars if v.name in self.reads}
        try:
            with torch.no_grad():
                return run(text, {"torch": torch, "model": modules(), "interpose": Torch(),
                                  **known})
        except (RuntimeError, IndexError, TypeError, ValueError, ZeroDivisionError):
            raise Misfit from None

    def taken(self, fits):
        """A variable that fits, later ones rather."""
        fitting = [v for v in self.vars if fits(v.like)]
        if not fitting:
            raise Misfit
        back = min(len(fitting), self.rng.choice([1, 2, 4, 9, 99]))
        var = fitting[-self.rng.randrange(1, back + 1)]
        self.reads.append(var.name)
        self.subject = self.subject or var
        return var

    def fill_x(self):
        return self.taken(lambda x: x.numel() or self.rng.randrange(10) == 0).name

    def fill_n(self):
        return self.taken(lambda x: x.dtype != torch.bool).name

    def fill_f(self):
        return self.taken(lambda x: x.dtype == torch.float32).name

    def fill_i(self):
        return self.taken(lambda x: x.dtype == torch.int64).name

    def fill_b(self):
        return self.taken(lambda x: x.dtype == torch.bool).name

    def fill_w(self):
        return self.taken(lambda x: x.dtype == torch.float32 and x.ndim
                          and x.shape[-1] == WIDTH).name

    def fill_wide(self):
        return self.taken(lambda x: x.dtype == torch.float32 and x.ndim
                          and x.shape[-1] == 4 * WIDTH).name

    def fill_block(self):
        return f"model.transformer.h[{self.rng.randrange(POINTS.n_blocks)}]"

    def fill_m(self):
        return self.taken(lambda x: x.dtype == torch.float32 and x.ndim > 1).name

    def fill_0(self):
        return self.subject.name

    def fill_y(self):
        shape, kind = self.subject.like.shape, self.rng.randrange(6)
        if kind == 0:
            return self.rng.choice([self.fill_s, self.fill_c])()
        if kind == 1:
            return self.constant(shape[self.rng.randrange(len(shape) + 1):])
        if kind == 2:
            return self.cut(shape)
        return self.taken(lambda x: is_broadcast(x.shape, shape)).name

    def fill_same(self):
        shape = self.subject.like.shape
        if self.rng.randrange(5) == 0:
            return self.cut(shape)
        return self.taken(lambda x: x.shape == shape).name

    def cut(self, shape, fits=lambda var: True):
        """So much of something larger."""
        fitting = [v for v in self.vars if v.like.ndim == len(shape) and v.like.shape != shape
                   and all(a >= b for a, b in zip(v.like.shape, shape)) and fits(v)]
        if not fitting or 0 in shape:
            raise Misfit
        var = self.rng.choice(fitting)
        self.reads.append(var.name)
        slices = [":" if a == b else self.rng.choice([f":{b}", f"-{b}:"])
                  for a, b in zip(var.like.shape, shape)]
        return f"{var.name}[{', '.join(slices)}]"

    def fill_beside(self):
        """What has another size along one dimension, `dim0`."""
        shape = self.subject.like.shape
        self.dim = self.rng.randrange(self.ndim())

        def others(x):
            return x[:self.dim] + x[self.dim + 1:]
        return self.taken(lambda x: x.ndim == len(shape) and x.shape != shape
                          and others(x.shape) == others(shape)).name

    def fill_keys(self):
        """What `m` can be compared with by rows, as queries with keys."""
        shape = self.subject.like.shape
        return self.taken(lambda x: x.dtype == torch.float32 and x.ndim > 1 and x.shape != shape
                          and x.shape[-1] == shape[-1]).name

    def fill_mask(self):
        shape = self.subject.like.shape
        return self.taken(lambda x: x.dtype == torch.bool and is_broadcast(x.shape, shape)).name

    def fill_s(self):
        return self.rng.choice([0.5, -1.5, 0.25, 2.0, 1.25, -0.75])

    def fill_c(self):
        return self.rng.choice([1, 2, 3])

    def fill_keep(self):
        return self.rng.choice([True, False])

    def fill_dtype(self):
        return self.rng.choice(["torch.float32", "torch.int64", "torch.bool"])

    def constant(self, shape, most=None):
        """A tensor in the program's text, small; of integers below `most` where it is given."""
        if shape.numel() > 40:
            raise Misfit
        count = shape.numel()
        data = [self.rng.randrange(-8, 9) / 4 if most is None else self.rng.randrange(most)
                for _ in range(count)]
        made = f"torch.tensor({data}" + (", dtype=torch.int64)" if most is not None else ")")
        return made if len(shape) == 1 else f"{made}.reshape({tuple(shape)})"

    def ndim(self):
        if not self.subject.like.ndim:
            raise Misfit
        return self.subject.like.ndim

    def fill_dim(self):
        self.dim = self.rng.randrange(-self.ndim(), self.ndim())
        return self.dim

    def fill_dim0(self):
        return self.dim

    def fill_dims(self):
        some = self.rng.sample(range(self.ndim()), self.rng.randrange(1, self.ndim() + 1))
        some = [d - self.ndim() * self.rng.randrange(2) for d in some]
        return some[0] if len(some) == 1 else self.rng.choice([tuple, list])(some)

    def fill_perm(self):
        return ", ".join(map(str, self.rng.sample(range(self.ndim()), self.ndim())))

    def fill_k(self):
        size = self.subject.like.shape[self.fill_dim()]
        if not size:
            raise Misfit
        self.k = self.rng.randrange(1, min(size, 5) + 1)
        return self.k

    def fill_k0(self):
        return self.k

    def fill_index(self):
        return self.index(self.subject.like.shape)

    def index(self, shape):
        rng, items = self.rng, []
        for size in shape[:rng.randrange(1, len(shape) + 1)] if shape else ():
            kind = rng.randrange(5)
            if kind == 0 and size:
                items.append(str(rng.randrange(-size, size)))
            elif kind < 3:
                items.append(":")
            else:
                start, stop = rng.randrange(-size - 1, size + 1), rng.randrange(-size, size + 3)
                items.append(rng.choice([f"{start}:", f":{stop}", f"{start}:{stop}", "::2", "-1:"]))
        if rng.randrange(6) == 0:
            items.insert(rng.randrange(len(items) + 1), "None")
        if rng.randrange(5) == 0 or not items:
            items.insert(rng.choice([0, len(items)]), "...")
        return ", ".join(items)

    def fill_lists(self):
        shape = self.subject.like.shape
        at = self.rng.randrange(self.ndim())
        if not shape[at]:
            raise Misfit
        count = self.rng.randrange(1, 4)
        chosen = [self.rng.randrange(-shape[at], shape[at]) for _ in range(count)]
        return ", ".join([":"] * at + [str(chosen)])

    def fill_shape(self):
        sizes = list(self.subject.like.shape)
        for _ in range(2):
            if len(sizes) > 1 and self.rng.randrange(2):
                i = self.rng.randrange(len(sizes) - 1)
                sizes[i:i + 2] = [sizes[i] * sizes[i + 1]]
            elif sizes and sizes[-1] % 2 == 0 and sizes[-1]:
                sizes[-1:] = [sizes[-1] // 2, 2]
        if sizes and self.rng.randrange(2) and 0 not in sizes:
            sizes[self.rng.randrange(len(sizes))] = -1
        return ", ".join(map(str, sizes)) or "1, 1"

    def fill_size(self):
        sizes = [size if size != 1 else self.rng.choice([1, 2, 3, -1])
                 for size in self.subject.like.shape]
        return ", ".join(map(str, [2] * self.rng.randrange(2) + sizes)) or "3"

    def fill_places(self):
        size = self.subject.like.shape[self.dim]
        if not size:
            raise Misfit
        self.places = self.constant(torch.Size([self.rng.randrange(1, 4)]), size)
        return self.places

    def fill_places0(self):
        return self.places

    def fill_extent(self):
        if not self.ndim() or not self.subject.like.shape[0]:
            raise Misfit
        return self.subject.like.shape[0]

    fill_extent0 = fill_extent

    def fill_alike(self):
        shape = [self.rng.randrange(1, size + 1) if size else 0 for size in self.subject.like.shape]
        size = shape[self.dim] and self.subject.like.shape[self.dim]
        return self.constant(torch.Size(shape), size) if size else f"{self.subject.name}.long()"

    def fill_column(self):
        size = self.subject.like.shape[-1] if self.ndim() else 0
        if not 0 < size <= 40:
            raise Misfit
        columns = [self.rng.randrange(1, 3)] * (size <= 20 and self.rng.randrange(2))
        return self.constant(torch.Size([size, *columns]))

    def fill_equation(self):
        self.reads, self.subject = [], None
        var = self.taken(lambda x: x.dtype == torch.float32 and x.ndim > 1)
        names = "abcdef"[:var.like.ndim]
        return repr(f"{names},{names[:-2]}z{names[-1]}->{names[:-1]}z")

    # Changes.

    def change(self):
        target, index = self.target()
        where, self.target_root = self.moments.roots[target.root], target.root
        self.reads, self.subject = [target.name], None
        part = f"{target.name}[{index}]" if index else target.name
        like = self.evaluated(part)
        shape = like.shape
        if 0 in shape or is_overlapping(like) or self.is_padding(like, target.root):    # refused
            raise Misfit
        latest = where.turn if where.is_live else 1 << 30

        def fill(match):
            return {"t": lambda: part, "s": self.fill_s,
                    "v": lambda: self.value(shape, latest)}[match[1]]()

        text = re.sub(r"\{(\w)\}", lambda m: str(fill(m)), self.rng.choice(CHANGES))
        if text.startswith(f"{target.name} = "):
            text = f"{target.name}[...]" + text[len(target.name):]
        self.evaluated(text, exec)
        text, torch_text = self.perhaps(text, latest, f"{part} = {self.fill_s()}" if index else "")
        self.add(Statement("change", text, torch_text, root=target.root,
                           reads=tuple(dict.fromkeys(self.reads))))

    def flag(self, latest):
        """A condition that is known in time."""
        if self.rng.randrange(2):
            self.make_row(*self.rng.choice(FLAGS))
        flags = [v for v in self.vars
                 if is_flag(v) and self.moments.roots[v.root].set_turn <= latest]
        if not flags:
            raise Misfit
        return flags[-1].name

    def perhaps(self, text, latest, other=""):
        """For the client and for torch: the text, sometimes under a condition, with another one
        where that is false."""
        if self.rng.randrange(8):
            return text, ""
        reads = self.reads
        flag = self.flag(latest)
        self.reads = [*reads, flag]
        if not other or self.rng.randrange(2):
            return f"with run.cond({flag}): {text}", f"if {flag}: {text}"
        return (f"with run.cond({flag}) as under: {text}\nwith under.else_(): {other}",
                f"if {flag}: {text}\nelse: {other}")

    def is_padding(self, part, root):
        """Whether a part of a tensor is padding alone."""
        if not self.moments.roots[root].is_live:
            return False
        invoke, turn, _ = map(int, re.split("[@#]", root))
        trace = next(trace for trace in self.traces if invoke in trace.invokes)
        is_token = torch.zeros(self.bases[root].shape, dtype=torch.bool)
        for i, length in enumerate(self.lengths[invoke]):
            tokens_of(is_token, i, POINTS.point_at(turn), max(self.lengths[invoke]) - length,
                      turn // POINTS.n_sites - trace.steps[0])[...] = True
        return not is_token.flatten()[places_of(part)].any()

    def replace(self, name, block, step, module=""):
        """`module.output = value`: old names keep the old tensor. Those of the place's other names
        are given up. With a module it is skipped."""
        if name.point not in POINTS.writable:
            raise Misfit
        root, base = self.base_at(name, block, step)
        shape, turn = named_view(base, name).shape, POINTS.turn(name.point, block, step)
        fitting = [v for v in self.vars if v.like.shape == shape and v.like.dtype == torch.float32
                   and self.moments.roots[v.root].set_turn <= turn]
        if not fitting:
            raise Misfit
        var = self.rng.choice(fitting)
        kind = self.rng.randrange(1 if var.root == root else 0, 3)
        value = [var.name, f"{var.name} * 0.5", f"{var.name}.tanh()"][kind]
        self.reads = [var.name]
        if module:
            text, torch_text = f"model.{module}.skip({value})", ""
        else:
            text, torch_text = self.perhaps(f"{self.spelled(name, block, step)} = {value}", turn)
        condition = torch_text.partition(": ")[0] + ": " if torch_text else ""
        self.add(Statement("replace", text, f"{condition}value = {value}", reads=tuple(self.reads),
                           root=root, place=(name, block, step)))
        for key in {(i, turn) for i in [self.invoke, *self.seen()]}:
            old = f"{key[0]}@{turn}#{self.replaced.get(key, 0)}"
            self.vars = [v for v in self.vars if v.root != old or v.path == name.at(block)]
            self.replaced[key] = self.replaced.get(key, 0) + 1

    # Contexts.

    def somewhere(self, names):
        name = self.rng.choice(names)
        return name, self.rng.randrange(POINTS.n_blocks) if "*" in name.path else 0

    def skip(self):
        """A module is left out, which nothing looks into."""
        if None in self.trace.prompts and self.invoke != self.trace.invokes[-1]:
            raise Misfit        # what comes behind may look
        name, block = self.somewhere([n for n in POINTS.canonical if n.point in SKIPPED])
        step = self.rng.choice(self.trace.steps)
        first, last = (POINTS.turn(p, block, step) for p in (SKIPPED[name.point], name.point))
        inside = range(first + 1, last)
        if any((i, turn) in self.looked for i in self.seen() for turn in inside):
            raise Misfit
        module = name.at(f"[{block}]").replace(".[", "[").rpartition(".output")[0]
        at = self.step_text(step)
        self.replace(name, block, step, f"{module}.{at}" if at else module)
        self.skipping = self.invoke

    def each(self):
        """A block for several steps: it changes what is there, or keeps something of each."""
        rng, steps = self.rng, self.trace.steps
        name, block = self.somewhere([n for n in POINTS.names if n.shape not in NO_FLOATS])
        first = rng.randrange(len(steps))
        opened, steps = rng.choice([
            ("with run.all()", steps), ("with model.all()", steps),
            (f"with run.iter[{first}:]", steps[first:]),
            (f"with run.iter[:{first + 1}]", steps[:first + 1]),
            (f"for step in run.iter[{first}:]", steps[first:])])
        out, lines, self.reads = f"s{len(self.statements)}", [], []
        if name.point in POINTS.writable and all(
                self.is_unread(self.root_at(name, block, step)) for step in steps):
            lines.append(self.each_change(POINTS.turn(name.point, block, steps[0]),
                                          self.root_at(name, block, steps[0])))
        if not lines or rng.randrange(2):
            lines.append(f"{out}.append({rng.choice(['x[:, -1]', 'x.mean(-1)', 'x.amax()'])})")
        text = [f"{out} = interpose.list().save()", f"{opened}:",
                f"    x = {self.spelled(name, block)}", *(f"    {line}" for line in lines)]
        self.add(Statement("each", "\n".join(text), "\n".join(lines), out=out,
                           reads=tuple(self.reads), place=(name, block, steps[0]), steps=tuple(steps)))

    def each_change(self, latest, root=""):
        """With a value that is known in time, and not changed by it."""
        known = [v.name for v in self.vars if v.like.dtype == torch.float32 and v.like.numel()
                 and self.moments.roots[v.root].set_turn <= latest and v.root != root]
        part = self.rng.choice(["x[...]", "x[:, -1]", "x[..., 0]", "x[:1]"])
        kind = self.rng.randrange(5 if known else 4)
        if kind == 4:
            self.reads.append(self.rng.choice(known))
            return f"{part} += {self.reads[-1]}.mean().tanh()"
        return f"{part} " + ["*= {0}", "+= {0}", "= {0}", "= {1}.tanh()"][kind].format(
            self.fill_s(), part)

    def edit(self):
        """A change at the front of each invoke."""
        name, block = self.somewhere([n for n in POINTS.names if n.point in POINTS.writable])
        self.reads, self.invoke = [], EDIT
        change, line = self.each_change(-1), f"x = {self.spelled(name, block)}"
        most = max(len(trace.steps) for trace in self.traces)
        steps = range(most if self.rng.randrange(2) else 1)
        text = (f"with model.all():\n    {line}\n    {change}" if len(steps) == most else
                f"{line}\n{change}")
        self.statements.append(Statement("each", text, change, out="edit", invoke=EDIT,
                                         place=(name, block, 0), steps=tuple(steps)))
        for trace in self.traces:
            self.looked.update((i, turn) for i in trace.own()
                               for turn in self.statements[-1].within(trace, i).turns())

    def stop(self):
        """Behind it nothing counts."""
        var = self.rng.choice(self.vars)
        change = f"{var.name} *= 2\n" if self.is_writable(var) else ""
        out = f"s{len(self.statements)}"
        self.add(Statement("stop", f"run.stop()\n{change}{out} = {var.name}.save()", "pass",
                           out=out, reads=(var.name,)))

    def cache(self):
        """A module's output at each step."""
        if self.skipping == self.invoke:
            raise Misfit
        name, block = self.somewhere([n for n in POINTS.canonical if n.point in CACHED])
        module = name.at(f"[{block}]").replace(".[", "[").rpartition(".output")[0]
        steps, out = self.trace.steps, f"s{len(self.statements)}"
        self.add(Statement("cache", f"{out} = run.cache(modules=[model.{module}])", "pass", out=out,
                           place=(name, block, steps[0]), steps=tuple(steps)))

    def is_writable(self, var):
        if not self.moments.roots[var.root].is_live:
            return var.path != READ_ONLY
        invoke, turn, version = map(int, re.split("[@#]", var.root))
        if self.sees_all and invoke != self.invoke or not self.is_unread(var.root):
            return False        # the copy of all rows would be another one
        return (POINTS.point_at(turn) in POINTS.writable
                and version == self.replaced.get((invoke, turn), 0))

    def is_unread(self, root):
        """Whether a copy of all rows, if it is one, has not been used behind its turn: what is set
        there then would come too late."""
        there = self.moments.roots.get(root)
        return not self.sees_all or there is None or there.read_turn <= there.turn

    def target(self):
        """Mostly an activation, or a view of one."""
        def is_fit(var):
            return var.like.numel() and self.is_writable(var)
        fitting = [v for v in self.vars if is_fit(v) and v.like.dtype == torch.float32]
        live = [v for v in fitting if self.moments.roots[v.root].is_live]
        fitting = live if self.rng.randrange(4) else fitting
        if not fitting:
            raise Misfit
        var = self.rng.choice(fitting[-4:])
        return var, self.index(var.like.shape) if self.rng.randrange(3) else ""

    def value(self, shape, latest):
        """Something known in time that broadcasts to the shape."""
        self.subject = None

        def fits(var):
            return (var.like.dtype != torch.bool and var.like.numel()
                    and self.moments.roots[var.root].set_turn <= latest)
        fitting = [v for v in self.vars if fits(v)]
        whole = [v for v in fitting if is_broadcast(v.like.shape, shape)]
        if self.rng.randrange(6) == 0:
            text = self.cut(shape, fits)
            var = next(v for v in self.vars if v.name == self.reads[-1])
        elif whole and self.rng.randrange(4):
            var = self.rng.choice(whole[-5:])
            text = var.name
        else:
            wide = [v for v in fitting if v.like.ndim and shape and v.like.shape[-1] == shape[-1]
                    and v.like.dtype == torch.float32]
            if not wide:
                raise Misfit
            var = self.rng.choice(wide[-5:])
            text = (f"{var.name}.mean({list(range(var.like.ndim - 1))})" if self.rng.randrange(2)
                    and var.like.ndim > 1 else f"{var.name}{'[' + '-1, ' * (var.like.ndim - 1)}:]")
        self.reads += [var.name] if self.reads[-1] != var.name else []
        # What torch makes of a target that changes while it is read is nobody's business.
        shares = var.root == self.target_root
        return f"{text} * {self.fill_s()}" if shares or self.rng.randrange(3) == 0 else text


def is_flag(var):
    return var.like.dtype == torch.bool and var.like.numel() == 1


def address(x):
    """The same for what shares memory."""
    return x.untyped_storage().data_ptr()


def places_of(x):
    """Of each element the place in memory."""
    size = x.untyped_storage().nbytes() // x.element_size()
    return torch.arange(size).as_strided(x.shape, x.stride(), x.storage_offset())


def is_overlapping(x):
    """Whether elements share their place."""
    return len(places_of(x).unique()) < x.numel()


def is_broadcast(small, large):
    """Whether the first expands to the second."""
    return len(small) <= len(large) and all(a in (1, b) for a, b in zip(small[::-1], large[::-1]))
