"""Random programs by seed: hooks at every point and step, views, arithmetic, edits, several
invokes, as lines of client code that mean the same in torch. Each runs through the Python client
on a server and in torch on Hugging Face's GPT-2 (program_oracle.py); every saved value is compared.

    programs.py                      2,000 programs from seed 0, on a server of its own
    programs.py --first 7 --count 1  one of them
    programs.py --show 7             prints its code
    programs.py --shrink 7           prints the least of it that still fails, as code and as a line
                                     for programs_kept.jsonl: a seed means another program as soon
                                     as a table has another row

A program is data: prompts, steps, and statements whose text may use the names of earlier ones. When
a statement runs follows from what it reads, as protocol/plan.h says it (Moments).
"""
from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import functools
import json
import pathlib
import random
import re
import sys
import tempfile
import typing

import numpy as np
import torch
import transformers

import interpose
from program_rows import CHANGES, FLAGS, ROWS, Torch

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Odd sizes: nothing is a multiple of a vector's width.
SIZES = {"n_layer": 3, "n_head": 4, "n_embd": 36, "vocab_size": 131, "n_positions": 96,
         "bos_token_id": None, "eos_token_id": None}     # no token ends a generation
ELEMENTS_MAX, RANK_MAX = 3000, 6
READ_ONLY = "a parameter"
CONTEXTS = ("edit()", "cond(", "else_()", ".skip(", "stop()", "cache(", "run.all()", "model.all()",
            "with run.iter[", "for step in run.iter[")
SAVING = ("save", "each", "cache")
EDIT = -1


# Where a program may look.

@dataclasses.dataclass(frozen=True)
class Name:
    path: str       # "transformer.h.*.output[0]"
    point: str
    shape: str      # of points.def: hidden, heads, ...

    def at(self, block):
        return self.path.replace("*", str(block))


def table_of(file):
    """Its rows and names."""
    text = (ROOT / "protocol" / file).read_text()
    rows = re.findall(r"^(ONCE|EACH)\((\w+),\s*(\w+),\s*(\w+)", text, re.M)
    names = [Name(path, row, shape) for row, path, shape in
             re.findall(r'^NAME\((\w+),\s*"([^"]+)",\s*(\w+)\)', text, re.M)]
    canonical = list({name.point: name for name in reversed(names)}.values())[::-1]
    return rows, names, canonical


class Points:
    """protocol/points.def, for a model of n_blocks."""

    def __init__(self, n_blocks=SIZES["n_layer"]):
        rows, self.names, self.canonical = table_of("points.def")
        self.rows = {point: row for _, point, row, _ in rows}
        self.writable = {point for _, point, _, access in rows if access == "rw"}
        each = [point for kind, point, _, _ in rows if kind == "EACH"]
        before = [point for _, point, _, _ in rows].index(each[0])
        self._rank = {}
        for i, (kind, point, _, _) in enumerate(rows):
            for block in range(n_blocks if kind == "EACH" else 1):
                shift = block if kind == "EACH" else (n_blocks - 1) * (i >= before)
                self._rank[point, block] = i + shift * len(each)
        self.n_sites, self.n_blocks = len(self._rank), n_blocks
        self._point_of = {rank: point for (point, _), rank in self._rank.items()}

    def turn(self, point, block, step):
        """When a pass gets there: greater is later."""
        return step * self.n_sites + self._rank[point, block]

    def point_at(self, turn):
        return self._point_of[turn % self.n_sites]


class Parameters:
    """protocol/parameters.def."""

    def __init__(self):
        _, self.names, canonical = table_of("parameters.def")
        self._paths = {name.point: name.path for name in canonical}

    def module(self, name, block):
        """Hugging Face's name of what a name is a view of."""
        return self._paths[name.point].replace("*", str(block))


POINTS, PARAMETERS = Points(), Parameters()
N_HEADS, WIDTH = SIZES["n_head"], SIZES["n_embd"]
ROW_WIDTHS = {"1": 1, "D": WIDTH, "3D": 3 * WIDTH, "F": 4 * WIDTH, "V": SIZES["vocab_size"]}
NO_FLOATS = ("tokens", "ids", "next")
# Of modules that can be skipped the output, and in front of what lies inside.
SKIPPED = {"ln1_out": "ln1_in", "attn_out": "ln1_out", "ln2_out": "ln2_in", "mlp_out": "ln2_out",
           "block_out": "block_in", "lnf_out": "lnf_in"}
CACHED = ("ln1_out", "qkv", "ln2_out", "mlp_pre", "mlp_out", "lnf_out", "logits")
PARTS = {"query": 0, "key": 1, "value": 2}


def base_shape(name, n_sequences, n_tokens, past, n_new):
    """The tensor that a place's names are views of, for one invoke."""
    if name.shape == "next":
        return (n_sequences,)
    if name.shape == "tokens":
        return (n_sequences, n_tokens)
    if name.shape == "ids":
        return (n_sequences, past + n_tokens + n_new)
    if name.shape == "cache":
        return (n_sequences, N_HEADS, past + n_tokens, WIDTH // N_HEADS)
    if name.shape == "scores":
        return (n_sequences, N_HEADS, n_tokens, past + n_tokens)
    if name.shape == "results":
        return (n_sequences, n_tokens, N_HEADS, WIDTH)
    return (n_sequences, n_tokens, ROW_WIDTHS[POINTS.rows[name.point]])


def tokens_of(x, sequence, point, pad, step):
    """The rows of one sequence, or of all, without so much padding."""
    pad_now = pad if step == 0 else 0
    if point in ("scores", "pattern"):
        return x[sequence, :, pad_now:, pad:]
    if point in ("block_keys", "block_values"):
        return x[sequence, :, pad:]
    return x[sequence, pad_now:]


def named_view(base, name):
    """What a name shows of that tensor."""
    if name.shape not in ("heads", "heads_last"):
        return base
    if name.point in PARTS:
        base = base.chunk(3, -1)[PARTS[name.point]]
    heads = base.unflatten(-1, (N_HEADS, -1))
    return heads.transpose(1, 2) if name.shape == "heads" else heads


def parameter_view(weight, name):
    """What a name shows of Hugging Face's parameter."""
    shape, part = name.shape, name.shape.partition("_")[0]
    if part in PARTS:       # of c_attn: (D, 3D) as (H, D, dh), (3D) as (H, dh)
        heads = weight.chunk(3, -1)[PARTS[part]].unflatten(-1, (N_HEADS, -1))
        return heads.movedim(-2, 0)
    if shape == "heads":
        return weight.unflatten(0, (N_HEADS, -1))
    return weight.T if name.path.endswith("W_U") else weight


# Programs.

@dataclasses.dataclass
class Statement:
    kind: str               # hook, parameter, make, change, replace, each, cache, stop, save
    text: str               # client code, mostly a line
    torch: str = ""         # what torch is given where it is something else
    out: str = ""           # the name that it gives to a value
    reads: tuple = ()       # the names that it uses; of change and replace the target first
    root: str = ""          # the tensor that `out`, or the target, is a view of
    invoke: int = 0         # in whose block it stands; EDIT: at the front of each
    place: tuple = ()       # of hook, replace, each and cache: (Name, block, step)
    steps: tuple = ()       # of each and cache: those where it runs
    caution: tuple = ()     # see program_rows: (kinds, subject)

    @functools.cached_property
    def code(self):
        return compile(self.text, "<program>", "exec")

    @functools.cached_property
    def torch_code(self):
        return compile(self.torch or self.text, "<torch>", "exec")

    def turns(self):
        """When a pass gets to its place."""
        name, block, step = self.place
        return [POINTS.turn(name.point, block, k) for k in self.steps or (step,)]

    def names(self):
        """All names that must exist before it."""
        return self.reads + ((self.root,) if self.kind == "make" and self.root != self.out else ())


@dataclasses.dataclass
class Program:
    prompts: list           # of each invoke its prompts, lists of token ids
    n_new: int              # 0: trace, else tokens to generate
    statements: list

    @property
    def n_steps(self):
        return max(1, self.n_new)

    def expanded(self):
        """What runs in all: edits in each invoke."""
        edits = [dataclasses.replace(s, invoke=i) for s in self.statements if s.invoke == EDIT
                 for i in range(len(self.prompts))]
        return edits + [s for s in self.statements if s.invoke != EDIT]

    def as_json(self):
        statements = [{key: value for key, value in dataclasses.asdict(s).items() if value}
                      for s in self.statements]
        for row, s in zip(statements, self.statements):
            if s.place:
                row["place"] = [s.place[0].path, *s.place[1:]]
        return {"prompts": self.prompts, "n_new": self.n_new, "statements": statements}

    @classmethod
    def of_json(cls, document):
        names = {name.path: name for name in POINTS.names + PARAMETERS.names}

        def statement(row):
            place = row.pop("place", None)
            row = {key: tuple(v) if isinstance(v, list) else v for key, v in row.items()}
            return Statement(**row, place=(names[place[0]], *place[1:]) if place else ())
        return cls(document["prompts"], document["n_new"],
                   [statement(row) for row in document["statements"]])

    def source(self):
        """The program as a user would write it."""
        def own(invoke, depth):
            return [f"{depth * '    '}{line}" for s in self.statements if s.invoke == invoke
                    for line in s.text.split("\n")] or [f"{depth * '    '}pass"]
        lines = []
        if any(s.invoke == EDIT for s in self.statements):
            lines += ["with model.edit() as model:", *own(EDIT, 1)]
        opened = f"model.generate(max_new_tokens={self.n_new})" if self.n_new else "model.trace()"
        lines.append(f"with {opened} as run:")
        for i, prompts in enumerate(self.prompts):
            lines.append(f"    with run.invoke({prompts if len(prompts) > 1 else prompts[0]}):")
            lines += own(i, 2)
        return "\n".join(lines)


@dataclasses.dataclass
class Root:
    turn: int       # when it comes into being: -1 for what depends on no hook
    is_live: bool   # a model's activation
    set_turn: int = 0
    read_turn: int = -1

    def __post_init__(self):
        self.set_turn = self.turn


class Moments:
    """When statements run. `turns[i]` is of statement i; `roots` are the tensors by then."""

    def __init__(self):
        self.roots, self.root_of, self.turns = {}, {}, []

    def known(self, names):
        """When all of these are what the program says that they are here."""
        return max([self.roots[self.root_of[name]].set_turn for name in names], default=-1)

    def add(self, s):
        if s.kind in ("hook", "replace"):
            name, block, step = s.place
            turn = POINTS.turn(name.point, block, step)
            self.roots.setdefault(s.root, Root(turn, True))
        if s.kind in ("hook", "cache"):
            turn = s.turns()[-1]
        elif s.kind == "each":
            turn = s.turns()[-1]
            assert self.known(s.reads) <= s.turns()[0], s.text
        elif s.kind in ("change", "replace"):
            root = self.roots[s.root]
            turn = max(self.known(s.reads), root.set_turn)
            if not root.is_live:
                turn = max(turn, root.read_turn)
            assert not root.is_live or turn == root.turn, s.text
            root.set_turn = turn
        else:
            turn = self.known(s.reads)
        if s.kind in ("make", "parameter") and s.root == s.out:
            self.roots[s.root] = Root(turn, False)
        if s.kind in ("save", "change", "replace", "each") or s.root == s.out:
            for name in s.reads:
                read = self.roots[self.root_of[name]]
                read.read_turn = max(read.read_turn, turn)
        if s.root and s.kind in ("hook", "parameter", "make"):
            self.root_of[s.out] = s.root
        self.turns.append(turn)
        return turn


# Making them.

@dataclasses.dataclass
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
        n_invokes = rng.choice([1, 1, 2, 2, 3])
        n_new = rng.choice([0, 0, 0, 1, 2, 3, 4])
        unequal = rng.randrange(n_invokes) if rng.randrange(4) == 0 else None
        prompts = [self.prompts(i == unequal) for i in range(n_invokes)]
        self.lengths, self.n_new = [[len(prompt) for prompt in p] for p in prompts], n_new
        if rng.randrange(15) == 0:
            self.edit()
        for self.invoke in range(n_invokes):
            self.body()
        return Program(prompts, n_new, self.statements)

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
        rng, n_steps = self.rng, max(1, self.n_new)
        places = []
        for _ in range(rng.choice([1, 2, 3, 4])):
            name = rng.choice(POINTS.names)
            block = rng.randrange(POINTS.n_blocks) if "*" in name.path else 0
            step = n_steps - 1 if name.shape == "ids" else rng.randrange(n_steps)
            if name.shape not in ("ids", "next") or self.n_new:
                places.append((name, block, step))
        if rng.randrange(4):
            places.sort(key=lambda p: POINTS.turn(p[0].point, *p[1:]))
        for place in places:
            self.hook(*place)
            for _ in range(rng.choice([0, 1, 2, 3])):
                self.attempt(self.make)
            for _ in range(rng.choice([0, 0, 1, 2])):
                self.attempt(self.change)
            if rng.randrange(12) == 0:
                self.attempt(lambda place=place: self.replace(*place))
            if rng.randrange(4) == 0:
                self.save(rng.choice(self.vars))
        if rng.randrange(6) == 0:
            self.attempt(self.each)
        for _ in range(rng.choice([0, 1, 2, 4])):
            self.attempt(self.make)
        for var in rng.sample(self.vars, min(len(self.vars), 2)) + self.vars[-2:]:
            self.save(var)
        if rng.randrange(8) == 0:
            self.attempt(self.skip)
        end = rng.choice([n for n in POINTS.names if n.point in ("logits", "block_out", "lnf_out")])
        self.save(self.hook(end, POINTS.n_blocks - 1 if "*" in end.path else 0, n_steps - 1))
        if rng.randrange(8) == 0:
            self.attempt(rng.choice([self.stop, self.cache]))

    def add(self, statement):
        statement.invoke = self.invoke
        self.statements.append(statement)
        self.moments.add(statement)
        if statement.place and statement.kind != "parameter":
            self.looked.update((self.invoke, turn) for turn in statement.turns())

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
            of_prompt = step == 0 or name.shape == "ids"
            shape = base_shape(name, n_sequences, n_tokens if of_prompt else 1,
                               0 if of_prompt else n_tokens + step - 1, self.n_new)
            self.bases[root] = torch.zeros(
                shape, dtype=torch.int64 if len(shape) < 3 else torch.float32)
        return root, self.bases[root]

    def hook(self, name, block, step):
        root, base = self.base_at(name, block, step)
        var = self.define(named_view(base, name), root, name.at(block))
        self.add(Statement("hook", f"{var.name} = {self.spelled(name, block, step)}", out=var.name,
                           root=root, place=(name, block, step)))
        return var

    def spelled(self, name, block, step):
        """A place in client code."""
        if self.rng.randrange(4) == 0:
            block -= POINTS.n_blocks
        module, leaf = re.fullmatch(r"(?:(.*)\.)?(\w+(?:\[\d\])*)", name.path).groups()
        words = ["model", *([module] if module else [])]
        words += [f"step({step})"] if step else []
        return ".".join([*words, "input[0][0]" if leaf == "input" else leaf]).replace(
            ".*", f"[{block}]")

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
        is_token = torch.zeros(self.bases[root].shape, dtype=torch.bool)
        for i, length in enumerate(self.lengths[invoke]):
            tokens_of(is_token, i, POINTS.point_at(turn), max(self.lengths[invoke]) - length,
                      turn // POINTS.n_sites)[...] = True
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
        key = self.invoke, turn
        self.replaced[key] = self.replaced.get(key, 0) + 1
        self.vars = [v for v in self.vars if v.root != root or v.path == name.at(block)]

    # Contexts.

    def somewhere(self, names):
        name = self.rng.choice(names)
        return name, self.rng.randrange(POINTS.n_blocks) if "*" in name.path else 0

    def skip(self):
        """A module is left out, which nothing looks into."""
        name, block = self.somewhere([n for n in POINTS.canonical if n.point in SKIPPED])
        step = self.rng.randrange(max(1, self.n_new))
        first, last = (POINTS.turn(p, block, step) for p in (SKIPPED[name.point], name.point))
        if any((self.invoke, turn) in self.looked for turn in range(first + 1, last)):
            raise Misfit
        module = name.at(f"[{block}]").replace(".[", "[").rpartition(".output")[0]
        self.replace(name, block, step, f"{module}.step({step})" if step else module)
        self.skipping = self.invoke

    def each(self):
        """A block for several steps: it changes what is there, or keeps something of each."""
        rng, n_steps = self.rng, max(1, self.n_new)
        name, block = self.somewhere([n for n in POINTS.names if n.shape not in NO_FLOATS])
        first = rng.randrange(n_steps)
        opened, steps = rng.choice([
            ("with run.all()", range(n_steps)), ("with model.all()", range(n_steps)),
            (f"with run.iter[{first}:]", range(first, n_steps)),
            (f"with run.iter[:{first + 1}]", range(first + 1)),
            (f"for step in run.iter[{first}:]", range(first, n_steps))])
        out, lines, self.reads = f"s{len(self.statements)}", [], []
        if name.point in POINTS.writable:
            lines.append(self.each_change(POINTS.turn(name.point, block, steps[0])))
        if not lines or rng.randrange(2):
            lines.append(f"{out}.append({rng.choice(['x[:, -1]', 'x.mean(-1)', 'x.amax()'])})")
        text = [f"{out} = interpose.list().save()", f"{opened}:",
                f"    x = {self.spelled(name, block, 0)}", *(f"    {line}" for line in lines)]
        self.add(Statement("each", "\n".join(text), "\n".join(lines), out=out,
                           reads=tuple(self.reads), place=(name, block, 0), steps=tuple(steps)))

    def each_change(self, latest):
        known = [v.name for v in self.vars if v.like.dtype == torch.float32 and v.like.numel()
                 and self.moments.roots[v.root].set_turn <= latest]
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
        change = self.each_change(-1)
        line = f"x = {self.spelled(name, block, 0)}"
        steps = range(max(1, self.n_new)) if self.rng.randrange(2) else [0]
        text = f"{line}\n{change}"
        if len(steps) == max(1, self.n_new):
            text = f"with model.all():\n    {line}\n    {change}"
        self.statements.append(Statement("each", text, change, out="edit", invoke=EDIT,
                                         place=(name, block, 0), steps=tuple(steps)))
        self.looked.update((i, turn) for i in range(len(self.lengths))
                           for turn in self.statements[-1].turns())

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
        steps = range(max(1, self.n_new))
        out = f"s{len(self.statements)}"
        statement = Statement(
            "cache", f"{out} = run.cache(modules=[model.{module}])", "pass", out=out,
            place=(name, block, 0), steps=tuple(steps))
        self.add(statement)

    def is_writable(self, var):
        if not self.moments.roots[var.root].is_live:
            return var.path != READ_ONLY
        invoke, turn, version = map(int, re.split("[@#]", var.root))
        return (POINTS.point_at(turn) in POINTS.writable
                and version == self.replaced.get((invoke, turn), 0))

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


# Through the client.

class Sent:
    """A program that ran on a server."""

    def __init__(self, model, program):
        names = {"torch": torch, "interpose": interpose}
        with model.edit() as names["model"]:
            self.execute(program, EDIT, names)
        model = names["model"]
        opened = model.generate(max_new_tokens=program.n_new) if program.n_new else model.trace()
        with opened as names["run"]:
            for invoke, prompts in enumerate(program.prompts):
                with names["run"].invoke(prompts if len(prompts) > 1 else prompts[0]):
                    self.execute(program, invoke, names)
        run = names["run"]
        self.request, self.program = run._request(run.graph.needed()), program
        self.saved = dict(pair for s in program.statements for pair in came(s, names))
        self.generated = [[ids.tolist() for ids in prompts] for prompts in run._new_tokens]

    def execute(self, program, invoke, names):
        for s in program.statements:
            if s.invoke == invoke:
                exec(s.code, names)

    def counts(self):
        """The rows of the tables that it used: ("op", "add"), ("place", "lm_head.output"), ..."""
        for node in self.request["nodes"]:
            yield "op", node["op"]
            if node["op"] in ("hook", "parameter", "apply"):
                yield node["op"], re.sub(r"\b(h|blocks)\.\d+\.", r"\1.*.", node["args"][-1])
        source = self.program.source()
        yield from (("context", each) for each in CONTEXTS if each in source)


def came(s, names):
    """What came back of a statement, by name: None for what has no value."""
    if s.kind in ("save", "stop"):
        try:
            yield s.out, names[s.out].value
        except interpose.errors.NoValue:
            yield s.out, None
    elif s.kind == "cache":
        (entries,) = names[s.out].values()
        for k, entry in enumerate(entries if isinstance(entries, list) else [entries]):
            yield f"{s.out}.{k}", entry.output
    elif s.kind == "each" and s.invoke != EDIT:
        for k, value in enumerate(names[s.out]):
            yield f"{s.out}.{k}", value


class Outcome(typing.NamedTuple):
    kind: str       # equal, partly (some was uncertain and left out), uncertain, refused, wrong
    text: str = ""
    sent: typing.Optional[Sent] = None
    n_compared: int = 0     # elements of saved values
    n_left_out: int = 0

    @property
    def is_compared(self):
        return self.kind in ("equal", "partly")


class Checker:
    """A server and torch on the same weights."""

    def __init__(self, host, folder):
        import program_oracle   # which needs this file
        self.oracle, self.torch = program_oracle, program_oracle.Oracle(folder)
        self.model = interpose.LanguageModel(pathlib.Path(folder).name, host, progress=False)

    def check(self, program, most=64):
        """What it makes of a program. So many second tracks may try to explain a difference."""
        try:
            sent = Sent(self.model, program)
        except Exception as e:      # nothing that torch can do may be refused, in whatever way
            return Outcome("refused", f"{type(e).__name__}: {e}")
        n, outcome = 1, self.compared(sent, program, range(1))
        while outcome.kind == "wrong" and n < most:
            n *= 8
            outcome = self.compared(sent, program, range(n))
        return outcome

    def compared(self, sent, program, noises):
        try:
            runs = [self.torch.saved(program, sent.generated, noise) for noise in noises]
        except self.oracle.Different as e:
            return Outcome("wrong", str(e), sent)
        n_compared = n_left_out = 0
        for name, ours in sent.saved.items():
            why, n = self.oracle.compared(ours, [run[name] for run in runs])
            if why:
                return Outcome("wrong", f"{name}: {why}", sent)
            n_compared, n_left_out = n_compared + n, n_left_out + np.size(ours) - n
        kind = "partly" if n_left_out and n_compared else "uncertain" if n_left_out else "equal"
        return Outcome(kind, "", sent, n_compared, n_left_out)

    def shrunk(self, program):
        """The least program that fails in the same way: statements are taken out while it does."""
        kind = self.check(program).kind
        assert kind in ("refused", "wrong"), kind

        def fails(candidate):
            return candidate is not None and self.check(candidate, 8).kind == kind
        size = max(1, len(program.statements) // 2)
        while size:
            at = 0
            while at < len(program.statements):
                candidate = without(program, range(at, at + size))
                if fails(candidate):
                    program = candidate
                else:
                    at += size
            size //= 2
        return program


def without(program, dropped):
    """The program without some statements and what uses them; None where nothing is saved then."""
    kept, gone = [], set()
    for i, s in enumerate(program.statements):
        if i in dropped or gone.intersection(s.names()):
            gone.add(s.out)
        else:
            kept.append(s)
    if not any(s.kind in SAVING for s in kept):
        return None
    return dataclasses.replace(program, statements=kept)


def program_of(seed):
    return Generator(seed).program()


@contextlib.contextmanager
def checker():
    """A checker with a server and a model of its own."""
    import conftest
    import oracle
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        oracle.random_gpt2(folder, **SIZES)
        with conftest.run_server("--model", folder) as server:
            yield Checker(server.host, folder)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--show", type=int)
    parser.add_argument("--shrink", type=int)
    chosen = parser.parse_args()
    if chosen.show is not None:
        return print(program_of(chosen.show).source())
    with checker() as it:
        if chosen.shrink is not None:
            program = it.shrunk(program_of(chosen.shrink))
            return print(program.source(), json.dumps(program.as_json()), it.check(program).text,
                         sep="\n")
        outcomes, used, elements = (collections.Counter() for _ in range(3))
        for seed in range(chosen.first, chosen.first + chosen.count):
            outcome = it.check(program_of(seed))
            outcomes[outcome.kind] += 1
            if outcome.kind in ("refused", "wrong"):
                print(f"seed {seed} is {outcome.kind}: {outcome.text[:300]}", flush=True)
            elements.update(compared=outcome.n_compared, left_out=outcome.n_left_out)
            if outcome.is_compared:
                used.update(outcome.sent.counts())
    for (table, name), count in sorted(used.items()):
        print(f"{table:10} {name:45} {count:8}")
    print(f"{dict(outcomes)}; elements: {dict(elements)}")


if __name__ == "__main__":
    sys.modules["programs"] = sys.modules["__main__"]
    main()
