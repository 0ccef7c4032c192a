"""Interpose and what a user would pick instead, each on the same weights with as many threads.

Where one cannot be opened, Absent stands for it: its rows of the tables say why.
"""
import contextlib
import ctypes
import http.client
import json
import logging
import pathlib
import re
import subprocess
import threading
import time
import urllib.parse
import warnings

import msgpack
import numpy as np
import torch
import transformers

import interpose
import oracle

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAME = "random-124m"

logging.getLogger("urllib3").setLevel(logging.ERROR)    # of 128 connections some are not kept
transformers.utils.logging.disable_progress_bar()


class Absent:
    """A peer that could not be opened: whatever is asked of it fails with the reason."""

    def __init__(self, why):
        self.__dict__["why"] = why

    def __getattr__(self, name):
        raise RuntimeError(self.why)


def opened(kind, *arguments):
    """The peer, or Absent."""
    try:
        return kind(*arguments)
    except Exception as e:      # of a peer, of whatever kind
        print(f"{kind.__name__} is left out: {e}", flush=True)
        return Absent(f"{kind.__name__}: {e}")


# Interpose.

@contextlib.contextmanager
def running_server(folder, threads, isa):
    """A server on a free port; yields its address and its ready line."""
    command = [str(ROOT / "build/interposed"), "--model", str(folder), "--model-name", NAME,
               "--port", "0", "--threads", str(threads), "--isa", isa,
               # Each round sends the same prompts: what is not computed would look fast.
               "--prefix-cache", "off"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"http://[\d.]+:\d+", line):
                # Its log is read on, or a full pipe would stop it.
                threading.Thread(target=process.stderr.read, daemon=True).start()
                yield found[0], line.strip()
                return
        raise SystemExit("the server did not start:\n" + "".join(said))
    finally:
        process.terminate()
        process.wait()


class Interpose:
    """A server through the Python client, as a user has it, and through one plain connection where
    the moments of a reply are looked at."""

    def __init__(self, host, ready):
        self.host = host
        self.model = interpose.LanguageModel(NAME, host=host, progress=False)
        self.what = re.sub(r"on http\S+ ", "", ready)

    def connection(self):
        return http.client.HTTPConnection(urllib.parse.urlsplit(self.host).netloc, timeout=600)

    def post(self, connection, body, user):
        """The reply to a body, of which nothing is read yet."""
        connection.request("POST", "/v1/run", json.dumps(body), {
            "Content-Type": "application/json", "Accept": "application/msgpack",
            "X-Interpose-User": user})
        reply = connection.getresponse()
        if reply.status != 200:
            raise RuntimeError(f"{reply.status}: {reply.read()[:200]!r}")
        return reply

    def whole(self, connection, body, user="bench"):
        """Posts a body; the seconds until all of the reply is here, and its frames."""
        start = time.perf_counter()
        data = self.post(connection, body, user).read()
        seconds = time.perf_counter() - start
        unpacker = msgpack.Unpacker(max_buffer_size=1 << 30)
        unpacker.feed(data)
        return seconds, [frame for frame in unpacker if frame is not None]

    def wire(self, connection, body, user="bench"):
        """Posts a body; yields ("head", seconds, None) when the reply's first byte is here, then
        (frame's type, seconds, frame) for each frame."""
        start = time.perf_counter()
        reply = self.post(connection, body, user)
        yield "first byte", time.perf_counter() - start, None
        unpacker = msgpack.Unpacker(max_buffer_size=1 << 30)
        while data := reply.read1(1 << 18):
            unpacker.feed(data)
            for frame in unpacker:
                if frame is not None:
                    yield frame["type"], time.perf_counter() - start, frame
                    if frame["type"] == "error":
                        raise RuntimeError(f"the server answered with {frame['error']}")


def array_of(frame):
    """The tensor of a frame."""
    return np.frombuffer(frame["data"], frame["dtype"]).reshape(frame["shape"])


# Hugging Face transformers.

def hugging_face(folder):
    """transformers' model with its fast attention."""
    model = oracle.Oracle(folder).model
    model.set_attn_implementation("sdpa")
    return model


@contextlib.contextmanager
def kept(module):
    """A list of what the module returns inside the block."""
    seen = []
    handle = module.register_forward_hook(lambda m, a, out: seen.append(out))
    try:
        yield seen
    finally:
        handle.remove()


def tokenizer():
    """The peers below want one; all prompts are ids."""
    made = transformers.PreTrainedTokenizerFast.from_pretrained(ROOT / "models/demo")
    made.pad_token = made.pad_token or "<|endoftext|>"
    return made


# nnsight and TransformerLens.

class NNsight:
    """nnsight in this process, around Hugging Face's model."""

    def __init__(self, hf):
        import nnsight
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model = nnsight.LanguageModel(hf, tokenizer=tokenizer())
        self.version = nnsight.__version__


class TransformerLens:
    """TransformerLens's bridge around a copy of Hugging Face's model, which it changes; raw
    weights, without the folding of its compatibility mode, so that its numbers are the same."""

    def __init__(self, folder):
        from importlib.metadata import version
        from transformer_lens.model_bridge import TransformerBridge
        self.model = TransformerBridge.boot_transformers(
            "gpt2", hf_model=oracle.Oracle(folder).model, tokenizer=tokenizer(), device="cpu")
        self.version = version("transformer-lens")

    def cached(self, ids, names):
        """The activations of those names."""
        return self.model.run_with_cache(ids, names_filter=names, return_cache_object=False)[1]


# llama.cpp.

def why_not_built(log):
    """What the build of llama-cpp-python said, if it was tried."""
    text = log.read_text() if log.exists() else "`make bench` builds it"
    lines = [line.strip(" │×╰─>") for line in text.splitlines()]
    telling = [line for line in lines if re.search("CMake Error|No CMAKE|error:|ERROR", line)]
    return "llama-cpp-python is not built: " + (telling or lines or ["no log"])[0]


class LlamaCpp:
    """llama.cpp through llama-cpp-python's low-level calls: float32 weights and float32 keys and
    values, one llama_decode for all sequences of a step, the greatest logit taken by numpy."""

    def __init__(self, path, hf, threads):
        try:
            import llama_cpp
        except ImportError:
            raise RuntimeError(why_not_built(ROOT / ".venv/llama.log")) from None
        import gguf_model
        self.lib, self.threads, self.version = llama_cpp, threads, llama_cpp.__version__
        gguf_model.write(path, hf)
        # Kept, or ctypes would call what is gone.
        self.quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p())
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {path.name}")
        self.vocab = hf.config.vocab_size

    def generator(self, n, length):
        """A LlamaBatch for n sequences that grow to that length."""
        return LlamaBatch(self, n, length)


class LlamaBatch:
    """A context of llama.cpp for some sequences. One sequence is fastest without flash attention,
    several with it and in a cache that they share: of the settings tried where this was written."""

    def __init__(self, owner, n, length):
        lib = owner.lib
        self.lib, self.vocab, self.n = lib, owner.vocab, n
        p = lib.llama_context_default_params()
        p.n_ctx = n * length
        p.n_seq_max = n
        p.n_batch = p.n_ubatch = max(512, n * length)
        p.n_threads = p.n_threads_batch = owner.threads
        p.type_k = p.type_v = lib.GGML_TYPE_F32
        p.flash_attn_type = int(n > 1)
        p.kv_unified = n > 1
        self.context = lib.llama_init_from_model(owner.model, p)
        if not self.context:
            raise RuntimeError("llama.cpp makes no context")
        self.batch = lib.llama_batch_init(p.n_batch, 0, 1)

    def close(self):
        self.lib.llama_batch_free(self.batch)
        self.lib.llama_free(self.context)

    def put(self, token, position, sequence, wants_logits):
        b = self.batch
        i = b.n_tokens
        b.token[i], b.pos[i], b.n_seq_id[i], b.seq_id[i][0] = token, position, 1, sequence
        b.logits[i] = wants_logits
        b.n_tokens = i + 1
        return i

    def step(self, wanted):
        """Runs what was put; the logits of those places, as views."""
        if self.lib.llama_decode(self.context, self.batch) != 0:
            raise RuntimeError("llama_decode failed")
        self.batch.n_tokens = 0
        return [np.ctypeslib.as_array(self.lib.llama_get_logits_ith(self.context, i), (self.vocab,))
                for i in wanted]

    def generate(self, prompts, n_new):
        """The ids of each prompt, prompt and generated, greedily."""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), False)
        self.batch.n_tokens = 0
        ids, wanted = [list(p) for p in prompts], []
        for sequence, prompt in enumerate(prompts):
            for i, token in enumerate(prompt):
                at = self.put(token, i, sequence, i == len(prompt) - 1)
            wanted.append(at)
        for step in range(n_new):
            for row, logits in zip(ids, self.step(wanted)):
                row.append(int(logits.argmax()))
            if step < n_new - 1:
                wanted = [self.put(row[-1], len(row) - 1, s, True) for s, row in enumerate(ids)]
        return ids
