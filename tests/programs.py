"""Random programs by seed (program_generator.py): hooks at every point and step, views, arithmetic,
changes, several invokes, sessions, contexts, as lines of client code that mean the same in torch.
Each runs through the Python client on a server and in torch on Hugging Face's GPT-2
(program_oracle.py); every saved element is compared, but for those that hang on the last bits.

    programs.py                      2,000 programs from seed 0, on a server of its own
    programs.py --first 7 --count 1  one of them
    programs.py --show 7             prints its code
    programs.py --shrink 7           prints the least of it that still fails, as code and as a line
                                     for programs_kept.jsonl: a seed means another program as soon
                                     as a table has another row

A program is data: traces, each with its prompts and steps, and statements whose text may use the
names of earlier ones. When a statement runs follows from what it reads, as protocol/plan.h says it
(Moments).
"""
from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import functools
import json
import pathlib
import re
import sys
import tempfile
import typing
from unittest import mock

import numpy as np
import torch

import interpose

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Odd sizes: nothing is a multiple of a vector's width.
SIZES = {"n_layer": 3, "n_head": 4, "n_embd": 36, "vocab_size": 131, "n_positions": 96,
         "bos_token_id": None, "eos_token_id": None}     # no token ends a generation
CONTEXTS = ("edit()", "cond(", "else_()", ".skip(", "stop()", "cache(", "run.all()", "model.all()",
            "with run.iter[", "for step in run.iter[", "model.session()", "run.invoke()")
SAVING = ("save", "each", "cache")
USING = ("make", "change", "replace", "each", "save")   # what others made
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
    steps: tuple = ()       # of each and cache: those where it runs; of an edit of each trace's own
    caution: tuple = ()     # see program_rows: (kinds, subject)

    @functools.cached_property
    def code(self):
        return compile(self.text, "<program>", "exec")

    @functools.cached_property
    def torch_code(self):
        return compile(self.torch, "<torch>", "exec") if self.torch else self.code

    def turns(self):
        """When a pass gets to its place."""
        name, block, step = self.place
        return [POINTS.turn(name.point, block, k) for k in self.steps or (step,)]

    def within(self, trace, invoke):
        """Itself; what an edit does in an invoke of a trace."""
        if self.invoke != EDIT:
            return self
        steps = tuple(trace.steps[k] for k in self.steps if k < len(trace.steps))
        return dataclasses.replace(self, invoke=invoke, steps=steps)

    def names(self):
        """All names that must exist before it."""
        return self.reads + ((self.root,) if self.kind == "make" and self.root != self.out else ())


@dataclasses.dataclass
class Trace:
    prompts: list           # of each invoke its prompts, lists of token ids; None: those of all
    n_new: int              # 0: trace, else tokens to generate
    invokes: range          # counted through all traces of the program
    steps: range            # so are they

    def own(self):
        """Of each invoke that has prompts these."""
        return {i: prompts for i, prompts in zip(self.invokes, self.prompts) if prompts}

    @property
    def opened(self):
        """In client code."""
        return f"model.generate(max_new_tokens={self.n_new})" if self.n_new else "model.trace()"


def traces_of(rows):
    """Of (prompts, n_new), one behind the other."""
    traces, invoke, step = [], 0, 0
    for prompts, n_new in rows:
        invokes, steps = range(invoke, invoke + len(prompts)), range(step, step + max(1, n_new))
        traces.append(Trace(prompts, n_new, invokes, steps))
        invoke, step = invokes.stop, steps.stop
    return traces


@dataclasses.dataclass
class Program:
    traces: list            # several are a session
    statements: list

    @property
    def n_steps(self):
        return self.traces[-1].steps.stop

    def expanded(self):
        """What runs in all, in order: edits at the front of each invoke."""
        return [s.within(trace, i) for trace in self.traces for i in trace.invokes
                for s in (self.of(EDIT) if i in trace.own() else []) + self.of(i)]

    def of(self, invoke):
        """What stands in an invoke's block."""
        return [s for s in self.statements if s.invoke == invoke]

    def shared(self):
        """The statements that use what an earlier trace made."""
        trace_of = {i: k for k, trace in enumerate(self.traces) for i in trace.invokes}
        made = {s.out: trace_of.get(s.invoke) for s in self.statements}
        return [s for s in self.statements
                if any(made[name] != trace_of.get(s.invoke) for name in s.reads)]

    def as_json(self):
        statements = [{key: value for key, value in dataclasses.asdict(s).items() if value}
                      for s in self.statements]
        for row, s in zip(statements, self.statements):
            if s.place:
                row["place"] = [s.place[0].path, *s.place[1:]]
        return {"traces": [(t.prompts, t.n_new) for t in self.traces], "statements": statements}

    @classmethod
    def of_json(cls, document):
        names = {name.path: name for name in POINTS.names + PARAMETERS.names}

        def statement(row):
            place = row.pop("place", None)
            row = {key: tuple(v) if isinstance(v, list) else v for key, v in row.items()}
            return Statement(**row, place=(names[place[0]], *place[1:]) if place else ())
        return cls(traces_of(document["traces"]),
                   [statement(row) for row in document["statements"]])

    def source(self):
        """The program as a user would write it."""
        lines, is_session = [], len(self.traces) > 1

        def write(depth, *texts):
            lines.extend(f"{depth * '    '}{line}" for text in texts for line in text.split("\n"))

        def body(depth, invoke):
            write(depth, *[s.text for s in self.of(invoke)] or ["pass"])
        if self.of(EDIT):
            write(0, "with model.edit() as model:")
            body(1, EDIT)
        if is_session:
            write(0, "with model.session():")
        for trace in self.traces:
            write(is_session, f"with {trace.opened} as run:")
            for i, prompts in zip(trace.invokes, trace.prompts):
                write(is_session + 1, f"with run.invoke({given(prompts) or ''}):")
                body(is_session + 2, i)
        return "\n".join(lines)


def given(prompts):
    """What an invoke is given."""
    return prompts[0] if prompts and len(prompts) == 1 else prompts


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


# Through the client.

class Sent:
    """A program that ran on a server."""

    def __init__(self, model, program):
        names = {"torch": torch, "interpose": interpose}
        with model.edit() as names["model"]:
            execute(program.of(EDIT), names)
        with mock.patch.object(model.client, "stream", wraps=model.client.stream) as stream:
            self._run(names["model"], program, names)
        (_, self.request), _ = stream.call_args
        run, self.program = names["run"].session or names["run"], program
        self.saved = dict(pair for s in program.statements for pair in came(s, names))
        self.generated = [[ids.tolist() for ids in prompts] for prompts in run._new_tokens]

    @staticmethod
    def _run(model, program, names):
        with model.session() if len(program.traces) > 1 else contextlib.nullcontext():
            for trace in program.traces:
                with eval(trace.opened, names) as names["run"]:
                    for invoke, prompts in zip(trace.invokes, trace.prompts):
                        with names["run"].invoke(given(prompts)):
                            execute(program.of(invoke), names)

    def counts(self):
        """The rows of the tables that it used: ("op", "add"), ("place", "lm_head.output"), ..."""
        for node in self.request["nodes"]:
            yield "op", node["op"]
            if node["op"] in ("hook", "parameter", "apply"):
                yield node["op"], pattern_of(node["args"][-1])
        source = self.program.source()
        yield from (("context", each) for each in CONTEXTS if each in source)
        yield from (("of an earlier trace", s.kind) for s in self.program.shared())
        yield from (("of all prompts", s.kind) for trace in self.program.traces
                    for i in set(trace.invokes) - trace.own().keys() for s in self.program.of(i))

    def set_paths(self):
        """What it sets of what the model goes on with, a part of it or all."""
        nodes, views = self.request["nodes"], {"getitem", "transpose", "permute", "diagonal", "view",
                                               "reshape", "flatten", "unsqueeze", "squeeze"}
        for node in nodes:
            at = node["args"][0] if node["op"] == "set" else None
            while isinstance(at, dict) and "node" in at and nodes[at["node"]]["op"] in views | {"hook"}:
                at = nodes[at["node"]]["args"][0]
            if isinstance(at, str):
                yield pattern_of(at)


def pattern_of(path):
    return re.sub(r"\b(h|blocks)\.\d+\.", r"\1.*.", path)


def execute(statements, names):
    for s in statements:
        exec(s.code, names)


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
        runs = []
        for noise in noises:
            try:
                runs.append(self.torch.saved(program, sent.generated, noise))
            except self.oracle.Different as e:      # unless a second track explains it
                why = str(e)
        if not runs:
            return Outcome("wrong", why, sent)
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
    import program_generator    # which needs this file
    return program_generator.Generator(seed).program()


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
