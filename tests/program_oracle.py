"""Random programs (programs.py) in torch, on Hugging Face's GPT-2 with hooks.

All invokes of a program go through the model as one batch, padded on the left; a hook cuts out each
invoke's own rows, runs the statements that are due there, and puts the rows back. What is due when
says Moments.

Every number is computed twice, on two tracks side by side in that batch: as it is, and with each
operand moved by about 1e-6 of itself wherever a program looks. How far the tracks are apart is what
a difference in the last bits may grow to, and so what a right answer may be off by. Where such a
difference decides something (which way a comparison falls, which index wins) the second track goes
the other way. An element that is far apart on the tracks is uncertain, and left out.
"""
from __future__ import annotations

import functools
import re
import unittest.mock

import torch
import transformers
from transformers.models.gpt2 import modeling_gpt2

import oracle
from program_generator import is_broadcast
from program_rows import Torch
from programs import PARAMETERS, POINTS, Moments, named_view, parameter_view, tokens_of

WOBBLE = 5e-7           # the second track's noise, relative
JUMP = 10               # how many distances of the tracks an operand keeps from where it jumps
FLOOR = 2e-6            # of a tensor's greatest number, beside the distance of the tracks
SMALL = 2.0 ** -126     # below it numbers have fewer digits
UNCERTAIN = 1e-3        # of that number: elements that are further apart are left out
TRACKS = (0, 1)

# What oracle.PLACES has no module for: path -> (module, side) where it is known. The residual
# stream between attention and MLP has none either: the attention's output makes it what it is.
ELSEWHERE = {
    "transformer.wte.input": ("transformer.wte", "in"),
    "transformer.h.*.output[1][0]": ("transformer.h.*", "out"),
    "transformer.h.*.output[1][1]": ("transformer.h.*", "out"),
    "generator.streamer.output": ("", None),
    "generator.output": ("", None),
}
MID = ("transformer.h.*.attn.c_proj", "out")


class Different(Exception):
    """The server generates something else."""


def is_float(x):
    return x.dtype == torch.float32


def apart(a, b):
    """The distance of each two elements: infinite where one is finite or NaN and the other not."""
    if not is_float(a):
        return torch.where(a == b, 0.0, torch.inf)
    same = (a == b) | a.isnan() & b.isnan()
    return (a - b).abs().masked_fill(same, 0).nan_to_num(nan=torch.inf, posinf=torch.inf)


def greatest(x):
    """The greatest finite magnitude."""
    return float(x.abs().nan_to_num(0, 0, 0).amax()) if x.numel() else 0.0


def certain(a, distances):
    """Which elements are the same on both tracks but for noise, and how great these are."""
    sure = distances.isfinite()
    for _ in TRACKS:            # without the others, of which one may be huge
        size = greatest(a[sure]) if is_float(a) else 0.0
        sure = distances <= UNCERTAIN * size
    return sure, size


def is_whole(a):
    """Integers as floats: arithmetic on them is exact."""
    return a.numel() == 0 or bool((a == a.round()).all()) and float(a.abs().amax()) < 1 << 20


def whole_of(x):
    """All of what x is a view of."""
    return torch.empty(0, dtype=x.dtype).set_(x.untyped_storage())


class Track:
    """Noise: the same in each run of a program that begins at the same place of it."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.noise, self.at = 1 + torch.randn(1 << 17, generator=generator) * WOBBLE, 0
        self.is_first = True

    def begin(self, which):
        self.at, self.is_first = 7919 * which, which == 0
        torch.manual_seed(which)

    def take(self, x):
        """Of each element a factor near 1."""
        if x.numel() > len(self.noise) // 2:
            return 1 + torch.randn(x.shape) * WOBBLE
        self.at = (self.at + 1009) % (len(self.noise) - x.numel())
        return self.noise[self.at:self.at + x.numel()].view(x.shape)

    def moved(self, x):
        """Each element by about WOBBLE of itself."""
        return x * self.take(x)

    def turns(self, x):
        """Which elements go the other way where they may: all of them, or in another run some."""
        return torch.ones_like(x, dtype=torch.bool) if self.is_first else self.take(x) > 1


class Oracle(oracle.Oracle):
    """The model, and the places where a run may look. One thread."""

    def __init__(self, folder):
        super().__init__(folder)
        self.track, self.running, self.residual = Track(), None, {}
        self.insides = {}   # (point, block) -> (module, side) of what HF computes in one call
        hooked = {(f"transformer.h.{block}", "in"): [] for block in range(POINTS.n_blocks)}
        for name in POINTS.canonical:
            module, side = (MID if name.point == "mid" else ELSEWHERE.get(name.path) or
                            oracle.PLACES[name.path][:2])
            for block in range(POINTS.n_blocks if "*" in name.path else 1):
                place, site = (module.replace("*", str(block)), side), (name.point, block)
                if side in ("in", "out"):
                    hooked.setdefault(place, []).append(site)
                elif side is not None:
                    self.insides[site] = self.model.get_submodule(place[0]), side
        for (module, side), sites in hooked.items():
            self.listen(module, side, sites)

    def listen(self, module, side, sites):
        block = re.search(r"\.h\.(\d+)$", module)

        def look(m, args, out=None):
            if self.running is None:
                return None
            x = args[0] if out is None else out
            self.running.wobble(x)
            for point, b in sites:
                x = self.running.at(x, point, b)
            if block and out is None:
                self.residual[int(block[1])] = x
            return (x, *args[1:]) if out is None else x
        target = self.model.get_submodule(module)
        if side == "in":
            target.register_forward_pre_hook(look)
        else:
            target.register_forward_hook(look)

    def look_inside(self, run):
        """Spells out the calls inside of which a run looks."""
        self.inside = {}
        for (point, block), place in self.insides.items():
            turns = (POINTS.turn(point, block, step) for step in range(run.program.n_steps))
            if any(turn in run.due for turn in turns):
                self.inside[place] = [
                    lambda x, p=point, b=block: run.at(x, p, b) if self.running else x]

    def result(self, block, z):
        """Each head's part of the attention's output, without the bias."""
        module = self.model.get_submodule(f"transformer.h.{block}.attn.c_proj")
        return self.view(module, z, "in", "result")

    def attention(self, module, query, key, value, mask, **rest):
        """HF's lets NaN and infinities of later positions through its mask; a pattern that a
        program may have written does, or does not."""
        if key.isfinite().all() and value.isfinite().all():
            return super().attention(module, query, key, value, mask, **rest)
        scores = query @ key.transpose(-1, -2) * query.size(-1) ** -0.5
        hidden = self.hidden(scores)
        scores = self.changed(module, "scores", scores.masked_fill(hidden, -torch.inf))
        pattern = self.changed(module, "pattern", scores.softmax(-1))
        products = pattern[..., None] * value[..., None, :, :]
        unseen = hidden & (pattern == 0)
        if {(module, "scores"), (module, "pattern")} & self.inside.keys():
            n = self.running.n_rows     # one track hides them, the other has NaN there
            products[n:] += (products[:n] * 0).masked_fill(~unseen[:n, ..., None], 0)
            unseen[n:] = False
        return products.masked_fill(unseen[..., None], 0).sum(-2).transpose(1, 2), pattern

    def hidden(self, scores):
        """Padding attends to what is in front of it, and nothing else to padding."""
        return super().hidden(scores) | self.padding(scores)

    def padding(self, scores):
        is_pad = self.running.is_pad[:, None, None, :scores.shape[-1]]
        return is_pad & ~is_pad[..., -scores.shape[-2]:].transpose(-1, -2)

    def changed(self, module, side, x):
        """What a program makes of scores and patterns is nothing to the padding, which it has
        not."""
        x = super().changed(module, side, x)
        return x.masked_fill(self.padding(x), 0) if side == "pattern" else x

    def saved(self, program, generated, noise=0):
        """Name of a save -> its value on both tracks. `generated`: of each invoke, of each prompt
        the new ids, which are checked to be the greedy ones. `noise`: which of many."""
        self.track.begin(noise)
        run = Run(self, program, generated)
        self.look_inside(run)
        with torch.inference_mode(), unittest.mock.patch.object(
                modeling_gpt2, "eager_attention_forward", self.attention):
            run.all()
        return run.saves


# What a place shows that is not the module's own tensor.
READ_ONLY = {
    "block_keys": lambda run, block, x: run.past.layers[block].keys,
    "block_values": lambda run, block, x: run.past.layers[block].values,
    "result": lambda run, block, x: run.owner.result(block, x),
}


class Run:
    def __init__(self, owner, program, generated):
        self.owner, self.program = owner, program
        invokes = [i for trace in program.traces for i in trace.own()]
        self.generated = {i: [[*ids] for ids in rows] for i, rows in zip(invokes, generated)}
        self.model, self.track = owner.model, owner.track
        self.saves, self.live = {}, {}
        self.env = ({}, {})
        self.due, self.parked = self.schedule()

    def schedule(self):
        """turn -> what happens there, by program order: statements, and copies of activations for
        statements that run later."""
        moments, due, parked = Moments(), {}, {}
        self.statements = self.program.expanded()
        for i, s in enumerate(self.statements):
            turn = moments.add(s)
            for name in dict.fromkeys(s.reads):
                root = moments.roots[moments.root_of[name]]
                if root.is_live and turn > root.turn:
                    due.setdefault(root.turn, []).append((i, name))
                    parked[i, name] = None
            for each in s.turns() if s.steps else [turn]:
                due.setdefault(each, []).append((i, None))
        return due, parked

    def place_rows(self):
        """Each invoke's rows of the batch, and of all rows the padding in front of their tokens, in
        the batch and as the invoke sees them."""
        lengths = {i: [*map(len, prompts)] for i, prompts in self.trace.own().items()}
        self.n_tokens = max(map(max, lengths.values()))
        self.rows, self.pads, self.n_rows = {}, {}, 0
        for invoke, own in lengths.items():
            self.rows[invoke] = range(self.n_rows, self.n_rows + len(own))
            self.pads[invoke] = [(self.n_tokens - n, max(own) - n) for n in own]
            self.n_rows += len(own)

    def all(self):
        self.actions(-1)
        for self.trace in self.program.traces:
            self.place_rows()
            self.run_trace()

    def run_trace(self):
        prompts = sum(self.trace.own().values(), []) * len(TRACKS)
        ids = torch.tensor([[0] * (self.n_tokens - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (self.n_tokens - len(p)) + [1] * len(p) for p in prompts])
        later = mask.new_ones(len(mask), len(self.trace.steps))
        self.is_pad = torch.cat([mask, later], 1) == 0
        self.past = transformers.DynamicCache()
        for self.step in range(len(self.trace.steps)):
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1]:]
            self.owner.running = self
            out = self.model(ids, attention_mask=mask, position_ids=positions,
                             past_key_values=self.past)
            self.owner.running = None
            if self.trace.n_new:
                ids = self.sampled(out.logits[:, -1])
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        if self.trace.n_new:
            self.at_ids("generated", {
                i: torch.tensor([[0] * pad + prompt + new for (_, pad), prompt, new in
                                 zip(self.pads[i], prompts, self.generated[i])])
                for i, prompts in self.trace.own().items()})

    def sampled(self, logits):
        """The server's ids, which must be as likely as any."""
        self.go_on(logits)
        own = {i: torch.tensor([ids[self.step] for ids in self.generated[i]]) for i in self.rows}
        new = torch.cat([*own.values()])
        a, b = logits[:self.n_rows], logits[self.n_rows:]
        short = a.amax(-1) - a.gather(-1, new[:, None])[:, 0]      # NaN where there is no greatest
        if (short > 4 * apart(a, b).amax(-1) + 1e-5).any():
            raise Different(f"step {self.step} is not greedy")
        self.at_ids("next", own)
        return torch.cat([new, new])[:, None]

    def go_on(self, logits):
        """Ids of invokes that the program stopped, where the server generates none."""
        stopped = {s.invoke for s in self.statements if s.kind == "stop"}
        for i, rows in self.rows.items():
            for row, ids in zip(rows, self.generated[i]):
                if len(ids) == self.step and i in stopped:
                    ids.append(int(logits[row].argmax()))
                if len(ids) <= self.step:
                    raise Different(f"it ends at step {self.step}")

    def turn_at(self, point, block):
        """The turn of a place at the step that runs."""
        return POINTS.turn(point, block, self.trace.steps[self.step])

    def at_ids(self, point, own):
        """A place that shows each invoke's generated ids."""
        turn = self.turn_at(point, 0)
        for i, ids in own.items():
            self.live[i, turn] = [ids, ids]
        self.actions(turn)

    # At a place of the model.

    def wobble(self, x):
        """The second track goes through the model with noise at every module."""
        if x.is_floating_point():
            other = x[self.n_rows:]
            other *= self.track.take(other)

    def at(self, x, point, block):
        turn = self.turn_at(point, block)
        if turn not in self.due:
            return x
        self.owner.running = None       # modules that statements call have no hooks
        result = self.changed(x, point, block, turn)
        self.owner.running = self
        return result

    def changed(self, x, point, block, turn):
        residual = self.owner.residual.get(block)
        if point in READ_ONLY:
            self.cut(READ_ONLY[point](self, block, x), turn, point)
            self.actions(turn)
            return x
        base = x + residual if point == "mid" else x.clone()
        self.cut(base, turn, point)
        self.actions(turn)
        self.put(base, turn, point)
        self.wobble(base)       # what a layernorm makes of constant rows is all noise
        if point == "mid":
            residual.zero_()    # HF adds it once more
        return base

    def cut(self, x, turn, point):
        """Each invoke's own tensors, without what lies in front of its longest prompt."""
        for invoke, rows in self.rows.items():
            beside = min(batch - own for batch, own in self.pads[invoke])
            for track in TRACKS:
                chosen = x[rows.start + track * self.n_rows:rows.stop + track * self.n_rows]
                base = x.new_zeros(
                    tokens_of(chosen, slice(None), point, beside, self.step).shape)
                for i, (pad, own_pad) in enumerate(self.pads[invoke]):
                    tokens_of(base, i, point, own_pad, self.step)[...] = tokens_of(
                        chosen, i, point, pad, self.step)
                self.live.setdefault((invoke, turn), [None, None])[track] = base

    def put(self, x, turn, point):
        for invoke, rows in self.rows.items():
            for track in TRACKS:
                base = self.live[invoke, turn][track]
                for i, (pad, own_pad) in enumerate(self.pads[invoke]):
                    row = rows.start + i + track * self.n_rows
                    tokens_of(x, row, point, pad, self.step)[...] = tokens_of(
                        base, i, point, own_pad, self.step)

    def bases(self, invoke, turn):
        """What an invoke has at a place, on both tracks; without prompts of its own a copy of what
        the others have, from where it asks on."""
        if (invoke, turn) not in self.live:
            parts = zip(*(self.live[i, turn] for i in self.rows))
            self.live[invoke, turn] = [joined(each) for each in parts]
        return self.live[invoke, turn]

    def clear(self, invoke, turn):
        """What is written to padding is dropped."""
        if invoke not in self.rows:
            self.spread(invoke, turn)
            return
        for base in self.live[invoke, turn]:
            written = base.clone()
            base.zero_()
            for i, (_, pad) in enumerate(self.pads[invoke]):
                tokens_of(base, i, POINTS.point_at(turn), pad, self.step)[...] = tokens_of(
                    written, i, POINTS.point_at(turn), pad, self.step)

    def spread(self, invoke, turn):
        """What is written to the rows of all invokes is written to each one's."""
        parts = [*zip(*(self.live[i, turn] for i in self.rows))]
        for base, each in zip(self.live[invoke, turn], parts):
            for view, part in zip(ends_of(base, each), each):
                part[...] = view
        for i in self.rows:
            self.clear(i, turn)
        for base, each in zip(self.live[invoke, turn], parts):
            base[...] = joined(each)

    # Statements.

    def actions(self, turn):
        self.turn = turn
        for i, name in sorted(self.due.get(turn, ()), key=lambda due: due[0]):
            if name is not None:
                self.parked[i, name] = [env[name].clone() for env in self.env]
            else:
                getattr(self, self.statements[i].kind)(i, self.statements[i])

    def hook(self, i, s):
        for track, base in enumerate(self.bases(s.invoke, self.turn)):
            self.env[track][s.out] = named_view(base, s.place[0])

    def parameter(self, i, s):
        name, block = s.place
        weight = self.model.get_parameter(PARAMETERS.module(name, block)).detach()
        for track in TRACKS:
            self.env[track][s.out] = parameter_view(weight, name)

    def operands(self, i, s, track):
        return {name: self.parked[i, name][track] if (i, name) in self.parked
                else self.env[track][name] for name in s.reads}

    def executed(self, s, operands):
        names = {"torch": torch, "model": self.model, "interpose": Torch(), **operands}
        exec(s.torch_code, names)
        return names

    def make(self, i, s):
        a, b = (self.operands(i, s, track) for track in TRACKS)
        if s.root != s.out:     # a view: both are as they are
            results = [self.executed(s, operands)[s.out] for operands in (a, b)]
        else:
            first = self.executed(s, a)[s.out]
            others = list(self.otherwise(s, a, b, first)) if s.caution else []
            if is_float(first) and not is_whole(first):     # not exact, whatever its operands are
                b = {name: self.track.moved(x) if is_float(x) else x for name, x in b.items()}
            else:
                b = {name: self.moved(a[name], x) for name, x in b.items()}
            second = self.executed(s, b)[s.out]
            for result, differs in others:
                second = torch.where(differs & self.track.turns(result), result, second)
            results = first.contiguous(), second.contiguous()
        for track in TRACKS:
            self.env[track][s.out] = results[track]

    def moved(self, a, b):
        return self.track.moved(b) if is_float(b) and not (is_whole(a) and is_whole(b)) else b

    def otherwise(self, s, a, b, first):
        """What a statement gives where its operands are as far off as they may be, and which
        elements of that are something else. What is equal on both tracks is exact."""
        kinds, subject = s.caution
        for name in s.reads if kinds == "step" else [subject]:
            if not is_float(a[name]):
                continue
            distances = apart(a[name], b[name])
            sure, size = certain(a[name], distances)
            margin = JUMP * greatest(distances[sure]) + FLOOR * size
            # Of what is all rounding more than that: each as much as it may be off itself.
            margins = (JUMP * distances).clamp(min=margin).masked_fill(distances == 0, 0)
            # What is infinitely far apart may be anything, around 0 too.
            x = a[name].masked_fill(margins.isinf(), 0)
            others = [y for y in a.values() if y is not a[name]]
            operands = shifted(x, others, margins) if kinds == "step" else [
                x + margins * (2 * torch.rand(margins.shape) - 1) for _ in TRACKS]
            for operand in operands if margins.any() else ():
                result = self.executed(s, {**a, name: operand})[s.out]
                yield result, apart(result, first) > 8 * margin * is_float(result)

    def change(self, i, s):
        for track in TRACKS:
            self.executed(s, self.operands(i, s, track))
        a, b = (whole_of(self.operands(i, s, track)[s.reads[0]]) for track in TRACKS)
        b[...] = self.moved(a, b)
        if "@" in s.root:       # an activation
            self.clear(*map(int, re.split("[@#]", s.root)[:2]))

    def replace(self, i, s):
        key = s.invoke, self.turn
        for each in {key} if s.invoke in self.rows else {key, *((i, self.turn) for i in self.rows)}:
            self.live[each] = [base.clone() for base in self.bases(*each)]
        for track in TRACKS:
            view = named_view(self.live[key][track], s.place[0])
            names = self.executed(s, {"value": view.clone(), **self.operands(i, s, track)})
            view[...] = names["value"]
        self.clear(*key)

    def each(self, i, s):
        bases, kept = self.bases(s.invoke, self.turn), ([], [])
        names = [{"x": named_view(bases[track], s.place[0]), s.out: kept[track],
                  **self.operands(i, s, track)} for track in TRACKS]
        for line in s.torch.split("\n"):
            for track in TRACKS:
                exec(line, names[track])
            if s.place[0].point in POINTS.writable:
                bases[1][...] = self.moved(*bases)
                self.clear(s.invoke, self.turn)
        for values in zip(*kept):
            self.saves[f"{s.out}.{s.turns().index(self.turn)}"] = [x.clone() for x in values]

    def cache(self, i, s):
        self.saves[f"{s.out}.{s.turns().index(self.turn)}"] = [
            named_view(base, s.place[0]).clone() for base in self.bases(s.invoke, self.turn)]

    def stop(self, i, s):
        self.saves[s.out] = [None, None]

    def save(self, i, s):
        def seen(value, condition=True):
            return value.clone() if condition else None
        self.saves[s.out] = [seen(*map(self.operands(i, s, track).get, s.reads))
                             for track in TRACKS]


def ends_of(whole, parts):
    """Each part's rows of the whole, without what is in front of it."""
    for rows, part in zip(whole.split([len(part) for part in parts]), parts):
        yield rows[(slice(None), *(slice(size - own, None) for size, own in
                                   zip(whole.shape[1:], part.shape[1:])))]


def joined(parts):
    """All rows, padded on the left."""
    widest = [max(sizes) for sizes in zip(*(part.shape for part in parts))][1:]
    whole = parts[0].new_zeros(sum(map(len, parts)), *widest)
    for view, part in zip(ends_of(whole, parts), parts):
        view[...] = part
    return whole


def shifted(x, others, margins):
    """An operand in front of and behind a place where a result may jump, and right there: at a
    quarter, at another operand."""
    yield x - margins
    yield x + margins
    for there in ((x * 4).round() / 4, *others):
        if is_float(there) and is_broadcast(there.shape, x.shape):
            yield torch.where((x - there).abs() <= margins, there, x)


def compared(ours, saved):
    """Why a saved value is not right, or None; how many of its elements were compared. `saved`:
    both tracks, of one or several runs."""
    a = saved[0][0]
    if any(x is None for tracks in saved for x in tracks):      # under a condition
        is_sure = all(x is None for tracks in saved for x in tracks)
        return ("no value was to come" if is_sure and ours is not None else None), int(is_sure)
    if ours is None:
        return "it has no value", 0
    if ours.shape != tuple(a.shape):
        return f"shape {ours.shape}, torch has {tuple(a.shape)}", 0
    if str(ours.dtype) != str(a.dtype).removeprefix("torch."):
        return f"dtype {ours.dtype}, torch has {a.dtype}", 0
    ours = torch.from_numpy(ours)
    distances = functools.reduce(torch.maximum, (apart(*tracks) for tracks in saved))
    sure, size = certain(a, distances)
    ours, a, n = ours[sure], a[sure], int(sure.sum())
    error, allowed = greatest(apart(ours, a)), (
        4 * greatest(distances[sure]) + FLOOR * max(size, SMALL))
    if not apart(ours, a).isfinite().all():
        return (f"{ours.tolist()}, torch has {a.tolist()}" if not is_float(a) else
                "NaN or infinity at other places than in torch"), n
    why = f"off by {error:.3g} of {size:.3g}, allowed {allowed:.3g}" if error > allowed else None
    return why, n
