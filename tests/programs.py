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

import torch
import transformers

import interpose
from program_rows import CHANGES, ROWS, Torch

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Odd sizes: nothing is a multiple of a vector's width.
SIZES = {"n_layer": 3, "n_head": 4, "n_embd": 36, "vocab_size": 131, "n_positions": 96,
         "bos_token_id": None, "eos_token_id": None}     # no token ends a generation
ELEMENTS_MAX, RANK_MAX = 3000, 6
READ_ONLY = "a parameter"


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
    kind: str               # hook, parameter, make, change, replace, save
    text: str               # a line of client code
    out: str = ""           # the name that it gives to a value
    reads: tuple = ()       # the names that it uses; of change and replace the target first
    root: str = ""          # the tensor that `out`, or the target, is a view of
    invoke: int = 0         # in whose block it stands
    place: tuple = ()       # of hook and replace: (Name, block, step)
    caution: tuple = ()     # see program_rows: (kinds, subject)

    @functools.cached_property
    def code(self):
        return compile(self.text, "<program>", "exec")

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
        opened = f"model.generate(max_new_tokens={self.n_new})" if self.n_new else "model.trace()"
        lines = [f"with {opened} as run:"]
        for i, prompts in enumerate(self.prompts):
            lines.append(f"    with run.invoke({prompts if len(prompts) > 1 else prompts[0]}):")
            own = [s.text for s in self.statements if s.invoke == i]
            lines += [f"        {line}" for line in own or ["pass"]]
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
        if s.kind == "hook":
            pass
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
        if s.kind in ("save", "change", "replace") or s.root == s.out:
            for name in s.reads:
                read = self.roots[self.root_of[name]]
                read.read_turn = max(read.read_turn, turn)
        if s.out and s.kind != "save":
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
        self.invoke = 0
        self.reads, self.subject = [], None     # of the text that is being made
        self.dim = self.places = self.target_root = None

    def program(self):
        rng = self.rng
        n_invokes = rng.choice([1, 1, 2, 2, 3])
        n_new = rng.choice([0, 0, 0, 1, 2, 3, 4])
        unequal = rng.randrange(n_invokes) if rng.randrange(4) == 0 else None
        prompts = [self.prompts(i == unequal) for i in range(n_invokes)]
        self.lengths, self.n_new = [[len(prompt) for prompt in p] for p in prompts], n_new
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
        for _ in range(rng.choice([0, 1, 2, 4])):
            self.attempt(self.make)
        for var in rng.sample(self.vars, min(len(self.vars), 2)) + self.vars[-2:]:
            self.save(var)
        end = rng.choice([n for n in POINTS.names if n.point in ("logits", "block_out", "lnf_out")])
        self.save(self.hook(end, POINTS.n_blocks - 1 if "*" in end.path else 0, n_steps - 1))

    def add(self, statement):
        statement.invoke = self.invoke
        self.statements.append(statement)
        self.moments.add(statement)

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

    def hook(self, name, block, step):
        n_sequences, n_tokens = len(self.lengths[self.invoke]), max(self.lengths[self.invoke])
        root = self.root_at(name, block, step)
        if root not in self.bases:
            of_prompt = step == 0 or name.shape == "ids"
            shape = base_shape(name, n_sequences, n_tokens if of_prompt else 1,
                               0 if of_prompt else n_tokens + step - 1, self.n_new)
            self.bases[root] = torch.zeros(
                shape, dtype=torch.int64 if len(shape) < 3 else torch.float32)
        var = self.define(named_view(self.bases[root], name), root, name.at(block))
        self.add(Statement("hook", f"{var.name} = {self.spelled(name, block, step)}", var.name, (),
                           root, place=(name, block, step)))
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
        out = f"s{len(self.statements)}"
        self.add(Statement("save", f"{out} = {var.name}.save()", out, (var.name,), var.root))

    def parameter(self):
        name = self.rng.choice(PARAMETERS.names)
        block = self.rng.randrange(POINTS.n_blocks)
        weight = modules().get_parameter(PARAMETERS.module(name, block)).detach()
        var = self.define(parameter_view(weight, name), path=READ_ONLY)
        path = re.sub(r"\.\*", f"[{block}]", name.path)
        self.add(Statement("parameter", f"{var.name} = model.{path}", var.name, (), var.root,
                           place=(name, block)))

    # Expressions.

    def make(self):
        if self.rng.randrange(15) == 0:
            self.parameter()
        text, caution = self.rng.choice(ROWS)
        self.make_row(text, caution)

    def make_row(self, text, caution):
        text = self.filled(text)
        like = self.evaluated(text)
        if like.numel() > ELEMENTS_MAX or like.ndim > RANK_MAX:
            raise Misfit
        # Results lie row-major, where torch's may lie as their operands do.
        shared = next((v for v in self.vars if v.name in self.reads and v.like.numel()
                       and address(v.like) == address(like)), None)
        var = self.define(like, shared.root, shared.path) if shared else self.define(
            like.contiguous())
        about = (caution, self.subject.name) if caution else ()
        self.add(Statement("make", f"{var.name} = {text}", var.name,
                           tuple(dict.fromkeys(self.reads)), var.root, caution=about))

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
        return self.rng.randrange(1, min(size, 5) + 1)

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
        self.add(Statement("change", text, "", tuple(dict.fromkeys(self.reads)), target.root))

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

    def replace(self, name, block, step):
        """`module.output = value`: old names keep the old tensor. Those of the place's other names
        are given up."""
        if name.point not in POINTS.writable:
            raise Misfit
        root = self.root_at(name, block, step)
        shape, turn = named_view(self.bases[root], name).shape, self.moments.roots[root].turn
        fitting = [v for v in self.vars if v.like.shape == shape and v.like.dtype == torch.float32
                   and self.moments.roots[v.root].set_turn <= turn]
        if not fitting:
            raise Misfit
        var = self.rng.choice(fitting)
        kind = self.rng.randrange(1 if var.root == root else 0, 3)
        value = [var.name, f"{var.name} * 0.5", f"{var.name}.tanh()"][kind]
        self.add(Statement("replace", f"{self.spelled(name, block, step)} = {value}", "",
                           (var.name,), root, place=(name, block, step)))
        key = self.invoke, turn
        self.replaced[key] = self.replaced.get(key, 0) + 1
        self.vars = [v for v in self.vars if v.root != root or v.path == name.at(block)]

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
        opened = model.generate(max_new_tokens=program.n_new) if program.n_new else model.trace()
        names = {"torch": torch, "model": model, "interpose": interpose}
        with opened as run:
            for invoke, prompts in enumerate(program.prompts):
                with run.invoke(prompts if len(prompts) > 1 else prompts[0]):
                    for s in program.statements:
                        if s.invoke == invoke:
                            exec(s.code, names)
        self.request = run._request(run.graph.needed())
        self.saved = {s.out: names[s.out].value for s in program.statements if s.kind == "save"}
        self.generated = [[ids.tolist() for ids in prompts] for prompts in run._new_tokens]

    def counts(self):
        """The rows of the tables that it used: ("op", "add"), ("place", "lm_head.output"), ..."""
        for node in self.request["nodes"]:
            yield "op", node["op"]
            if node["op"] in ("hook", "parameter", "apply"):
                yield node["op"], re.sub(r"\b(h|blocks)\.\d+\.", r"\1.*.", node["args"][-1])


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
            n_compared, n_left_out = n_compared + n, n_left_out + ours.size - n
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
    if not any(s.kind == "save" for s in kept):
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
