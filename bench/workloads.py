"""What is measured: one function a part, each with the same job for everybody, checked before it is
timed against Hugging Face's numbers.

Ours includes the Python client and HTTP over loopback; the peers run inside this process, under
torch.inference_mode, and compute no logits that the job does not ask for where they can be told so.
"""
import concurrent.futures
import contextlib
import random
import threading
import time

import numpy as np
import torch

import peers
import report
import turns

OURS, OURS_AVX2 = "Interpose", "Interpose, AVX2"
HF, HF_HEADLESS = "HF with hooks", "HF with hooks, its head not run"
NNSIGHT, NNSIGHT_STOP = "nnsight", "nnsight, stopped behind the block"
LENS, LLAMA = "TransformerLens", "llama.cpp"
HF_PLAIN = "HF transformers"
PLAIN = ", a plain connection"      # what a server takes, without the Python client

LENGTHS = (32, 128, 512, 1024)
BATCHES = (1, 8, 32)
NEW_TOKENS = 32
LLAMA_IDS_APART = 0.25      # its gelu is a table of half floats: a near tie may fall otherwise, and
                            # what follows in that sequence differs

FLOOD_JOBS = 1000
FLOOD_UNDER_WAY = 160       # connections of the flood; a server takes 256, and idle ones count


class Bench:
    """The peers, the rounds, and the sizes of the model that the limits are made of."""

    def __init__(self, ours, ours_avx2, hf, nnsight, lens, llama, rounds, result):
        self.ours, self.ours_avx2 = ours, ours_avx2
        self.hf, self.nnsight, self.lens, self.llama = hf, nnsight, lens, llama
        self.rounds, self.report = rounds, result
        self.rng = random.Random(0)
        self.vocab, self.width = hf.config.vocab_size, hf.config.n_embd
        self.n_blocks, self.n_heads = hf.config.n_layer, hf.config.n_head
        self.head_flops = 2 * self.vocab * self.width
        # Of a token, without attention's own products: little at these lengths.
        self.block_flops = 24 * self.width ** 2
        self.users = [(self.prompt(self.rng.randint(8, 64)), self.rng.randrange(self.n_blocks),
                       self.rng.randrange(self.n_heads)) for _ in range(128)]

    def prompt(self, length):
        return [self.rng.randrange(self.vocab) for _ in range(length)]

    def some(self, share):
        """A part of the rounds, for what takes long, or several times as many; one disturbance must
        not be the median."""
        return max(3, round(self.rounds * share))

    def arithmetic(self, tokens, logits, blocks=None):
        """The limit of work that is bound by arithmetic or by reading weights once, in seconds."""
        blocks = self.n_blocks if blocks is None else blocks
        flops = tokens * blocks * self.block_flops + logits * self.head_flops
        read = 4 * (blocks * self.block_flops / 2 + (self.head_flops / 2 if logits else 0))
        return lambda limits: max(flops / limits.flops, read / limits.bandwidth)

    def both_of_ours(self):
        return {OURS: self.ours} | ({OURS_AVX2: self.ours_avx2} if self.ours_avx2 else {})

    # Everybody's ways to read and to change.

    def blocks_of_ours(self, who, ids, blocks, at=None):
        """The outputs of blocks, each (positions, width)."""
        with who.model.trace(ids):
            streams = [who.model.transformer.h[b].output[0] for b in blocks]
            saved = [(s if at is None else s[:, at]).save() for s in streams]
        return [s.value[0] for s in saved]

    @torch.inference_mode()
    def blocks_of_hf(self, ids, blocks, run=None):
        """The same."""
        with contextlib.ExitStack() as stack:
            seen = [stack.enter_context(peers.kept(self.hf.transformer.h[b])) for b in blocks]
            (run or self.hf)(torch.tensor([ids]))
            return [s[0][0].numpy() for s in seen]

    def last_logits_of_ours(self, who, ids):
        with who.model.trace() as tracer:
            with tracer.invoke(ids):
                saved = who.model.lm_head.output[:, -1].save()
        return saved.value

    @torch.inference_mode()
    def last_logits_of_hf(self, ids):
        return self.hf(torch.tensor([ids]), logits_to_keep=1, use_cache=False).logits[:, 0].numpy()

    # (a) A short trace.

    def trace(self):
        for n_saves in (1, self.n_blocks):
            self.trace_of(list(range(self.n_blocks - n_saves, self.n_blocks)))

    def trace_of(self, blocks):
        ids = self.prompt(10)
        tensor = torch.tensor([ids])
        names = [f"blocks.{b}.hook_resid_post" for b in blocks]

        @torch.inference_mode()
        def nnsight():
            model = self.nnsight.model
            with model.trace(tensor):
                saved = [model.transformer.h[b].output.save() for b in blocks].save()
            return [s[0].numpy() for s in saved]

        @torch.inference_mode()
        def nnsight_stop():
            model = self.nnsight.model
            with model.trace(tensor) as tracer:
                saved = [model.transformer.h[b].output.save() for b in blocks].save()
                tracer.stop()
            return [s[0].numpy() for s in saved]

        @torch.inference_mode()
        def lens():
            cache = self.lens.cached(tensor, names)
            return [cache[name][0].numpy() for name in names]

        functions = {
            OURS: lambda: self.blocks_of_ours(self.ours, ids, blocks),
            HF: lambda: self.blocks_of_hf(ids, blocks),
            HF_HEADLESS: lambda: self.blocks_of_hf(ids, blocks, self.hf.transformer),
            NNSIGHT: nnsight, NNSIGHT_STOP: nnsight_stop, LENS: lens}
        rows = turns.take_turns(functions, self.rounds, self.blocks_of_hf(ids, blocks))
        many = len(blocks) > 1
        self.report.timings(
            f"trace {len(blocks)}", "10-token trace, " + (
                f"{len(blocks)} saves, all residual streams" if many
                else "one save at the last block"),
            "ms", rows, milliseconds, ("the blocks' weights or arithmetic, no head",
                                       in_milliseconds(self.arithmetic(10, 0))))

    # (b) Decode.

    def decode(self):
        for n in BATCHES:
            self.decode_of(n)
        self.report.tables[-1].notes.append(
            f"A step is a token more of every sequence: the time of {NEW_TOKENS + 1} tokens behind "
            f"prompts of 10 less that of one, over {NEW_TOKENS}. The limits are those measured "
            "right before and behind each table, since memory bandwidth moves. Interpose: one "
            "request of as many invokes. HF: generate with its cache, greedy. llama.cpp: float32 "
            "weights, keys and values; its low-level batch API, one llama_decode a step for all "
            "sequences; flash attention and a shared cache above one sequence, neither at one, its "
            "fastest settings of those tried.")

    def decode_of(self, n):
        prompts = [self.prompt(10) for _ in range(n)]
        tensor = torch.tensor(prompts)

        def ours(n_new):
            with self.ours.model.generate(max_new_tokens=n_new) as generator:
                for prompt in prompts:
                    with generator.invoke(prompt):
                        pass
            return np.stack(generator.output)

        @torch.inference_mode()
        def hf(n_new):
            return self.hf.generate(tensor, max_new_tokens=n_new, min_new_tokens=n_new,
                                    do_sample=False, pad_token_id=0,
                                    attention_mask=torch.ones_like(tensor)).numpy()

        functions = {OURS: per_token(ours), HF_PLAIN: per_token(hf)}
        near = self.report.limits.near()
        with contextlib.ExitStack() as stack:
            functions[LLAMA] = self.llama_generator(stack, prompts)
            rows = turns.take_turns(functions, self.some({1: 0.6, 8: 0.4}.get(n, 0.2)),
                                    hf(NEW_TOKENS + 1), {LLAMA: LLAMA_IDS_APART}, warmups=0)
        near.measure()
        self.report.timings(
            f"decode {n}", f"Decode, {n} sequence{'s' * (n > 1)}", "ms a step", rows, milliseconds,
            ("weights read once, or arithmetic", in_milliseconds(self.arithmetic(n, n))),
            limits=near)

    def llama_generator(self, stack, prompts):
        try:
            batch = stack.enter_context(contextlib.closing(
                self.llama.generator(len(prompts), len(prompts[0]) + NEW_TOKENS + 1)))
        except Exception as e:
            return raising(e)
        return per_token(lambda n_new: np.array(batch.generate(prompts, n_new)))

    # (c) Prefill.

    def prefill(self):
        for length in LENGTHS:
            for last_only in (False, True):
                self.prefill_of(length, last_only)

    def prefill_of(self, length, last_only):
        ids = self.prompt(length)
        tensor = torch.tensor([ids])
        # A few numbers of each row: the rows are computed, not shipped.
        few = np.s_[:, -1:, :8] if last_only else np.s_[:, :, :8]

        def ours(who):
            with who.model.trace() as tracer:
                with tracer.invoke(ids):
                    logits = who.model.lm_head.output
                    if not last_only:   # else only the columns that are looked at are computed
                        logits[:] = logits
                    saved = logits[few].save()
            return saved.value

        @torch.inference_mode()
        def hf():
            made = self.hf(tensor, logits_to_keep=int(last_only), use_cache=False)
            return made.logits[few].numpy()

        @torch.inference_mode()
        def nnsight():
            with self.nnsight.model.trace(tensor):
                logits = self.nnsight.model.lm_head.output.save()
            return logits[few].numpy()

        @torch.inference_mode()
        def lens():
            return self.lens.model(tensor)[few].numpy()

        functions = {label: lambda who=who: ours(who) for label, who in self.both_of_ours().items()}
        functions[HF_PLAIN] = hf
        if not last_only and length <= 128:     # beyond it they are the model that they wrap
            functions |= {NNSIGHT: nnsight, LENS: lens}
        rows = turns.take_turns(functions, self.some(0.7 if length <= 128 else 0.35), hf())
        which = "last" if last_only else "all"
        self.report.timings(
            f"prefill {length} {which}", f"Prefill of {length} tokens, {which} logits",
            "tokens / s", rows, lambda s: length / s,
            ("arithmetic, widest vectors",
             lambda limits: length / self.arithmetic(length, 1 if last_only else length)(limits)))

    # (d) Many users.

    def many_users(self):
        expected = self.users_of_hf(self.users)
        self.closed_loop(self.users[:32], self.both_of_ours(), expected[:32], self.some(0.3), 1)
        # Long enough not to need a first call that does not count.
        self.closed_loop(self.users, {OURS: self.ours}, expected, self.some(0.15), -1)
        self.open_loop()

    def one_user(self, who, user):
        ids, block, head = user
        with who.model.trace() as tracer:
            with tracer.invoke(ids):
                who.model.transformer.h[block].attn.value.output[:, head] = 0.0
                saved = who.model.lm_head.output[:, -1].save()
        return saved.value[0]

    @torch.inference_mode()
    def user_of_hf(self, user):
        ids, block, head = user

        def change(module, args, out):
            out = out.clone()
            out[..., self.columns_of(head)] = 0.0
            return out

        handle = self.hf.transformer.h[block].attn.c_attn.register_forward_hook(change)
        try:
            return self.last_logits_of_hf(ids)[0]
        finally:
            handle.remove()

    def users_of_hf(self, users):
        return np.stack([self.user_of_hf(user) for user in users])

    def columns_of(self, head):
        """A head's value in c_attn's output."""
        size = self.width // self.n_heads
        return slice(2 * self.width + size * head, 2 * self.width + size * (head + 1))

    @torch.inference_mode()
    def users_of_nnsight(self, users):
        model, columns = self.nnsight.model, self.columns_of
        saved = []
        with model.trace() as tracer:
            for ids, block, head in users:
                with tracer.invoke(torch.tensor([ids])):
                    model.transformer.h[block].attn.c_attn.output[..., columns(head)] = 0.0
                    saved.append(model.lm_head.output[:, -1].save())
        return torch.cat(saved).numpy()

    def closed_loop(self, users, servers, expected, rounds, warmups):
        n = len(users)
        with concurrent.futures.ThreadPoolExecutor(n) as pool:
            functions = {
                f"{label}, concurrent clients":
                    lambda who=who: np.stack(list(pool.map(lambda u: self.one_user(who, u), users)))
                for label, who in servers.items()}
            functions["HF with hooks, one after another"] = lambda: self.users_of_hf(users)
            functions["nnsight, one batch"] = lambda: self.users_of_nnsight(users)
            rows = turns.take_turns(functions, rounds, expected, warmups=warmups)
        tokens = sum(len(ids) for ids, _, _ in users)
        self.report.timings(
            f"users {n}", f"{n} users of 8 to 64 tokens, a different edit each, last logits", "s",
            rows, lambda s: s, ("arithmetic, widest vectors", self.arithmetic(tokens, n)))

    def open_loop(self):
        """Jobs that arrive whether or not the last one is answered, each side at shares of what it
        was just measured to do, and ours at the peer's rates too."""
        def ours(i):
            self.one_user(self.ours, self.users[i % len(self.users)])

        def hf(i):
            self.user_of_hf(self.users[i % len(self.users)])

        try:
            capacity = 32 / self.report.median("users 32", f"{OURS}, concurrent clients")
            peer = 32 / self.report.median("users 32", "HF with hooks, one after another")
        except LookupError as e:
            self.report.failed("open loop", "Open loop", e.args[0])
            return
        n = 20 * self.rounds
        rows = []
        for share in (0.6, 0.9):
            rows += [(f"{OURS}, {share:.0%} of its capacity", ours, 64, n, share * capacity),
                     (f"HF with hooks, {share:.0%} of its capacity", hf, 1, n // 3, share * peer),
                     (f"{OURS} at HF's {share:.0%}", ours, 64, n // 3, share * peer)]
        # Two turns each, so that a disturbance does not meet one row alone.
        measured = [turns.Arrivals(rate) for *_, rate in rows]
        for turn in range(2):
            for arrivals, (_, job, workers, count, _) in zip(measured, rows):
                turns.arrive(arrivals, job, count // 2, workers, seed=turn)
        table = report.Table("open loop", "Open loop: Poisson arrivals of those users' jobs",
                             ["arrivals / s", "answers / s", "p50, ms", "p99, ms", "jobs"])
        table.limit = ("arithmetic, widest vectors; jobs / s", lambda limits: 32 / self.arithmetic(
            sum(len(ids) for ids, _, _ in self.users[:32]), 32)(limits))
        table.notes.append("A job's latency begins when it arrives. Capacity is what the table of "
                           "32 users measured. nnsight, slower there, is left out.")
        for (label, *_), arrivals in zip(rows, measured):
            latency = arrivals.latency
            if latency.failed:
                table.lines.append((label, arrivals.rate, "failed", latency.failed, "", ""))
                continue
            table.lines.append((label, arrivals.rate, arrivals.throughput,
                                milliseconds(latency.at(0.5)), milliseconds(latency.at(0.99)),
                                len(latency.seconds)))
            self.report.values["open loop", label] = arrivals
        self.report.add(table)

    # (d) A sweep: one prompt, every head changed in a run of its own.

    def sweep(self):
        ids = self.prompt(14)
        users = [(ids, b, h) for b in range(self.n_blocks) for h in range(self.n_heads)]
        few = np.s_[:, :2]      # two answers' logits, as a difference of them needs

        def ours():
            model, saved = self.ours.model, []
            with model.trace() as tracer:
                for _, block, head in users:
                    with tracer.invoke(ids):
                        model.transformer.h[block].attn.value.output[:, head] = 0.0
                        saved.append(model.lm_head.output[:, -1][few].save())
            return np.concatenate([x.value for x in saved])

        rows = turns.take_turns(
            {OURS: ours, "HF with hooks, one after another": lambda: self.users_of_hf(users)[few],
             "HF with hooks, one batch": lambda: self.heads_of_hf(ids)[few],
             "nnsight, one batch": lambda: self.users_of_nnsight(users)[few]},
            self.some(0.2), self.users_of_hf(users)[few], warmups=-1)
        self.report.timings(
            "sweep", f"A sweep over {len(users)} heads, each zeroed in a run of a prompt of "
            f"{len(ids)} tokens, two last logits", "s", rows, lambda s: s,
            ("arithmetic, widest vectors, all rows of all runs",
             self.arithmetic(len(users) * len(ids), len(users))))

    @torch.inference_mode()
    def heads_of_hf(self, ids):
        """Every head zeroed in a row of one batch, with a hook a block."""
        def change(block):
            def zero(module, args, out):
                out = out.clone()
                for head in range(self.n_heads):
                    out[block * self.n_heads + head, :, self.columns_of(head)] = 0.0
                return out
            return zero

        with contextlib.ExitStack() as stack:
            for i, block in enumerate(self.hf.transformer.h):
                handle = block.attn.c_attn.register_forward_hook(change(i))
                stack.callback(handle.remove)
            batch = torch.tensor([ids] * (self.n_blocks * self.n_heads))
            return self.hf(batch, logits_to_keep=1, use_cache=False).logits[:, 0].numpy()

    # (d) A light user beside a flood.

    def fairness(self):
        """One user's short traces alone, and while another has 1,000 jobs to be done."""
        trace = {"prompt": self.prompt(10), "save": {"x": "transformer.h.11.output[0][:, -1]"}}
        beat = threading.Event()        # the flood's first job is done
        bodies = [{"prompt": ids, "set": {
            f"transformer.h.{block}.attn.value.output[:, {head}]": 0.0},
            "save": {"x": "lm_head.output[:, -1]"}} for ids, block, head in self.users]

        def light(connection, row, passes):
            start = time.perf_counter()
            for kind, _, frame in self.ours.wire(connection, trace, "light"):
                if kind == "end":
                    passes.append(frame["timing"]["run"])
            row.seconds.append(time.perf_counter() - start)

        def flood(numbers):
            with contextlib.closing(self.ours.connection()) as connection:
                for i in numbers:
                    for _ in self.ours.wire(connection, bodies[i % len(bodies)], "flood"):
                        pass
                    beat.set()

        alone, beside = turns.Row(), turns.Row()
        runs_alone, runs_beside = [], []
        with contextlib.closing(self.ours.connection()) as connection:
            for _ in range(20 * self.rounds):
                light(connection, alone, runs_alone)
            start = time.perf_counter()
            with concurrent.futures.ThreadPoolExecutor(FLOOD_UNDER_WAY) as pool:
                shares = [range(i, FLOOD_JOBS, FLOOD_UNDER_WAY) for i in range(FLOOD_UNDER_WAY)]
                floods = [pool.submit(flood, share) for share in shares]
                beat.wait(60)
                while not all(f.done() for f in floods):
                    light(connection, beside, runs_beside)
            seconds = time.perf_counter() - start
        failed = [turns.reason(e) for f in floods if (e := f.exception())]
        self.report_fairness(alone, beside, sorted(runs_beside), seconds, failed)

    def report_fairness(self, alone, beside, runs, seconds, failed):
        table = report.Table(
            "fairness", f"A light user's 10-token traces while another floods {FLOOD_JOBS:,} jobs",
            ["p50, ms", "p99, ms", "traces"])
        for label, row in (("alone", alone), ("beside the flood", beside)):
            row.seconds.sort()
            table.lines.append((label, milliseconds(row.at(0.5)), milliseconds(row.at(0.99)),
                                len(row.seconds)))
            self.report.rows["fairness", label] = row
        table.limit = ("the blocks' weights or arithmetic, no head",
                       in_milliseconds(self.arithmetic(10, 0)))
        a_pass = runs[len(runs) // 2]
        passes = (beside.at(0.99) - alone.at(0.99)) / a_pass
        self.report.values["fairness", "passes"] = passes
        table.notes.append(
            f"The flood's jobs are those of the 128 users, {FLOOD_UNDER_WAY} under way at a time, "
            f"done in {seconds:.1f} s. A pass that a trace shared took {1e3 * a_pass:.0f} ms "
            f"(median, by the server's own clock): the 99th percentile is {passes:.1f} such passes "
            "above that alone. Users are told apart by the header X-Interpose-User.")
        if failed:
            table.notes.append(f"{len(failed)} connections of the flood failed: {failed[0]}")
        self.report.add(table)

    # (e) The logit lens.

    def logit_lens(self):
        ids = self.prompt(10)
        tensor = torch.tensor([ids])
        last = self.n_blocks - 1
        name = f"blocks.{last}.hook_resid_post"

        def lens_of_ours(model):
            hidden = model.transformer.h[last].output[0][:, -1]
            return model.lm_head(model.transformer.ln_f(hidden))

        def ours():
            with self.ours.model.trace() as tracer:
                with tracer.invoke(ids):
                    token = lens_of_ours(self.ours.model).argmax(-1).save()
            return token.value

        def ours_shipped():
            with self.ours.model.trace() as tracer:
                with tracer.invoke(ids):
                    logits = lens_of_ours(self.ours.model).save()
            return logits.value.argmax(-1)

        @torch.inference_mode()
        def hf():
            with peers.kept(self.hf.transformer.h[last]) as seen:
                self.hf.transformer(tensor, use_cache=False)
            return self.hf.lm_head(self.hf.transformer.ln_f(seen[0][:, -1])).argmax(-1).numpy()

        @torch.inference_mode()
        def nnsight():
            model = self.nnsight.model
            with model.trace(tensor) as tracer:
                hidden = model.transformer.h[last].output[:, -1].save()
                tracer.stop()
            return self.hf.lm_head(self.hf.transformer.ln_f(hidden)).argmax(-1).numpy()

        @torch.inference_mode()
        def lens():
            model = self.lens.model
            hidden = self.lens.cached(tensor, [name])[name][:, -1:]
            return model.unembed(model.ln_final(hidden)).argmax(-1)[:, 0].numpy()

        rows = turns.take_turns(
            {OURS: ours, f"{OURS}, the logits shipped": ours_shipped, HF_HEADLESS: hf,
             NNSIGHT_STOP: nnsight, LENS: lens}, self.rounds,
            self.last_logits_of_hf(ids).argmax(-1))
        self.report.timings(
            "lens", "Logit lens of the last block, one token of 10: its id is saved", "ms", rows,
            milliseconds, ("weights read once", in_milliseconds(self.arithmetic(10, 1))),
            notes=["TransformerLens's bridge runs its head with every pass."])

    # (f) Time to the first byte.

    def first_byte(self):
        ids = self.prompt(512)
        places = {"first": "transformer.h.0.output[0][:, -1]",
                  "last": f"transformer.h.{self.n_blocks - 1}.output[0][:, -1]"}
        body = {"prompt": ids, "save": places}
        blocks = [0, self.n_blocks - 1]

        def ours(moment):
            moments, values = {}, []
            with contextlib.closing(self.ours.connection()) as connection:
                for kind, seconds, frame in self.ours.wire(connection, body):
                    if kind == "tensor":
                        values.append(peers.array_of(frame)[0])
                        kind = frame["name"]
                    moments[kind] = seconds
            return turns.Timed(moments[moment], np.stack(values))

        def hf(block):
            moments = []
            handle = self.hf.transformer.h[block].register_forward_hook(
                lambda m, a, out: moments.append(time.perf_counter()))
            try:
                start = time.perf_counter()
                answer = self.blocks_of_hf(ids, blocks, self.hf.transformer)
            finally:
                handle.remove()
            return turns.Timed(moments[0] - start, np.stack(answer)[:, -1])

        rows = turns.take_turns({
            f"{OURS}: first byte of the reply": lambda: ours("first byte"),
            f"{OURS}: saved tensor of block 0": lambda: ours("first"),
            f"{OURS}: saved tensor of the last block": lambda: ours("last"),
            "HF: block 0's hook is called": lambda: hf(0),
            "HF: the last block's hook is called": lambda: hf(blocks[1])},
            self.some(0.7), np.stack(self.blocks_of_hf(ids, blocks))[:, -1])
        self.report.timings(
            "first byte", "From sending a trace of 512 tokens, saves at block 0 and the last block",
            "ms", rows, milliseconds, ("arithmetic of block 0, widest vectors",
                                       in_milliseconds(self.arithmetic(512, 0, 1))), last="")

    # (g) How costs grow.

    def scaling(self):
        self.blocks_read()
        self.saves()
        self.users_at_once()
        self.rows_of_a_pass()

    def blocks_read(self):
        """The last position after block 0, after each block, and the whole with its logits."""
        for length in (10, 128, 512):
            ids = self.prompt(length)
            blocks = range(self.n_blocks) if length == 128 else (0,)
            expected = np.stack(self.blocks_of_hf(ids, range(self.n_blocks)))[:, -1:]
            functions = {"full forward, last logits":
                         lambda: self.last_logits_of_ours(self.ours, ids)}
            answers = {"full forward, last logits": self.last_logits_of_hf(ids)}
            for b in blocks:
                functions[f"block {b} read"] = lambda b=b: self.blocks_of_ours(
                    self.ours, ids, [b], slice(-1, None))
                answers[f"block {b} read"] = expected[b:b + 1]
            rows = turns.take_turns(functions, self.some(0.7), answers)
            self.report.timings(
                f"read {length}", f"Reading one position behind a block, {length} tokens", "ms",
                rows, milliseconds, ("block 0's weights or arithmetic",
                               in_milliseconds(self.arithmetic(length, 0, 1))), last="share")

    def saves(self):
        with contextlib.closing(self.ours.connection()) as connection:
            # What is told apart is a few hundredths of a short turn: more turns.
            for length, share in ((10, 14), (128, 4)):
                self.saves_of(self.prompt(length), self.some(share), connection)

    def saves_of(self, ids, rounds, connection):
        length, counts = len(ids), [n for n in (1, 4, self.n_blocks) if n <= self.n_blocks]
        streams = self.blocks_of_hf(ids, range(self.n_blocks))
        functions, answers = {}, {}

        def plain(body):
            seconds, frames = self.ours.whole(connection, body)
            return turns.Timed(seconds, [peers.array_of(frame)[0] for frame in frames
                                         if frame["type"] == "tensor"])

        for n in counts:
            last = range(self.n_blocks - n, self.n_blocks)
            body = {"prompt": ids,
                    "save": {f"block {b}": f"transformer.h.{b}.output[0]" for b in last}}
            label = f"{n} residual stream{'s' * (n > 1)} saved"
            functions[label] = lambda last=last: self.blocks_of_ours(self.ours, ids, last)
            functions[label + PLAIN] = lambda body=body: plain(body)
            answers[label] = answers[label + PLAIN] = streams[self.n_blocks - n:]
        rows = turns.take_turns(functions, rounds, answers)
        self.report.timings(
            f"saves {length}", f"Saving the last residual streams whole, {length} tokens", "ms",
            rows, milliseconds, ("the blocks' weights or arithmetic, no head",
                                 in_milliseconds(self.arithmetic(length, 0))), last="share")

    def users_at_once(self):
        ids, last = self.prompt(10), [self.n_blocks - 1]
        expected = self.blocks_of_hf(ids, last)
        counts = (1, 2, 4, 8, 16, 32, 64, 128)
        with concurrent.futures.ThreadPoolExecutor(max(counts)) as pool:
            def at_once(n):
                return np.stack(list(pool.map(
                    lambda i: self.blocks_of_ours(self.ours, ids, last), range(n))))

            rows = turns.take_turns(
                {f"{n} user{'s' * (n > 1)}": lambda n=n: at_once(n) for n in counts},
                self.some(0.5),
                {f"{n} user{'s' * (n > 1)}": np.stack([expected] * n) for n in counts})
        self.report.timings(
            "at once", "10-token traces of users at once, until all are answered", "ms", rows,
            milliseconds, (f"arithmetic of {max(counts)} users, widest vectors",
                           in_milliseconds(self.arithmetic(10 * max(counts), 0))), last="share")

    def rows_of_a_pass(self):
        lengths = [2 ** k for k in range(11)]
        prompts = {f"{n} token{'s' * (n > 1)}": self.prompt(n) for n in lengths}
        rows = turns.take_turns(
            {label: lambda ids=ids: self.last_logits_of_ours(self.ours, ids)
             for label, ids in prompts.items()}, self.some(0.5),
            {label: self.last_logits_of_hf(ids) for label, ids in prompts.items()})
        self.report.timings(
            "rows", "One pass by its number of tokens, last logits", "ms", rows, milliseconds,
            (f"arithmetic of {lengths[-1]} tokens, widest vectors",
             in_milliseconds(self.arithmetic(lengths[-1], 1))), last="share")


def milliseconds(s):
    return 1e3 * s


def in_milliseconds(seconds_of):
    return lambda limits: 1e3 * seconds_of(limits)


def raising(exception):
    def function():
        raise exception
    return function


def per_token(generate):
    """A row that times NEW_TOKENS tokens behind the first."""
    def row():
        start = time.perf_counter()
        ids = generate(NEW_TOKENS + 1)
        middle = time.perf_counter()
        generate(1)
        end = time.perf_counter()
        return turns.Timed(((middle - start) - (end - middle)) / NEW_TOKENS, ids)
    return row
