"""The model: what runs are opened with, and what its server says of it."""
from __future__ import annotations

import copy
import functools
import types

from .client import Client
from .current import hooked
from .edit import Edit
from .errors import RequestError, ServerError
from .hooks import Hooks
from .lens import Lens
from .nested import ModelOutput
from .prompt import given_prompt
from .run import Run, Scan
from .session import Session
from .spec import Spec
from .tokenizer import Tokenizer
from .tree import Module, drawn
from .values import whole


class LanguageModel(Lens):
    """A model on an Interpose server.

    `name` is the server's name of it or a Hugging Face repository id that ends in it; `host` is the
    server's address (https://user:key@lab.example where a proxy asks who comes), else
    INTERPOSE_HOST, else http://127.0.0.1:8000; `user` (else INTERPOSE_USER) is the name under which
    the server shares itself out fairly. The server is asked when the model is first used: then
    ServerError is raised where none answers, RequestError where it has no such model. A model can
    be shared by threads, and go to other processes, forked or pickled: runs, and what holds in a
    `with`, are a thread's own, while add_hook and edit(inplace=True) change the model of all.

    Its modules are attributes, as in Hugging Face's GPT-2: `model.transformer.h[0].attn.output`;
    print(model) shows them all. `rename` gives some of them further names, by the name of a module
    or a path ({"mlp": "feed_forward", "transformer.h": "layers"}). `device`, `device_map` and
    `dispatch`, which others take, change nothing. `numerics="transformer_lens"`: run_with_cache and
    run_with_hooks speak of TransformerLens's processed weights.

    >>> with model.trace("The Eiffel Tower is in the city of"):
    ...     hidden = model.transformer.h[-1].output[0].save()
    >>> hidden.value.shape == (1, 10, model.config.width)
    True
    """

    def __init__(self, name, host=None, *, user=None, progress=True, rename=None, numerics="hf",
                 device=None, device_map=None, dispatch=None):
        self._take_numerics(numerics)
        self.name, self.client, self.progress = name, Client(host, user), progress
        self.tokenizer = Tokenizer(self.client, functools.partial(getattr, self, "config"))
        self._facts = self._spec = self._tree = None
        self._renamed = dict(rename or {})
        self._edits = ()    # recordings, replayed at the front of each invoke
        self._hooked = []   # what add_hook added; replaced, not changed

    def __getstate__(self):
        """For copies and for other processes: the tree's modules are this model's, and hooks that
        hold here are those that a copy keeps."""
        return {**self.__dict__, "_tree": None, "_hooked": hooked(self)}

    @classmethod
    def from_pretrained(cls, name, *args, **options):
        """LanguageModel(name, ...), as TransformerLens and Hugging Face write it.

        >>> interpose.LanguageModel.from_pretrained("demo").name
        'demo'
        """
        return cls(name, *args, **options)

    @property
    def config(self):
        """The model's sizes: n_blocks, n_heads, width, inner, vocab, context, and Hugging Face's
        names for them."""
        return self._known()[0]

    @property
    def spec(self):
        """The server's tables of ops and hook points."""
        return self._known()[1]

    @property
    def server_name(self):
        """What the server calls the model."""
        return self.config.name

    @property
    def hooks(self):
        """The hook points by Hugging Face's and TransformerLens's names, to be read and set.

        >>> with model.trace("The Eiffel Tower is in the city of"):
        ...     pattern = model.hooks["blocks.3.attn.hook_pattern"].save()
        ...     model.hooks["z", 4][:, :, 1] = 0.0
        ...     resid = model.hooks["resid_post", -1].save()
        >>> pattern.value.shape == (1, model.config.n_heads, 10, 10)
        True
        """
        return Hooks(self, self._root())

    def _known(self):
        if self._spec is None:
            models, tables = map(self.client.document, ("/v1/models", "/v1/spec"))
            try:
                self._facts = _facts_of(models, self.name, self.client.host)
                self._spec = Spec(tables)
            except (KeyError, TypeError) as e:
                raise ServerError(f"{self.client.host} speaks another version of the protocol: "
                                  f"its tables have no {e}") from None
        return self._facts, self._spec

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        if name in _NAMES_INSTEAD:
            raise AttributeError(f"the model has no {name!r}: {_NAMES_INSTEAD[name]}")
        return getattr(self._root(), name)

    def __setattr__(self, name, value):
        spec = self.__dict__.get("_spec")   # None before there can be a run
        if spec is not None and name in spec.tree.leaves:   # model.hook_embed = value
            setattr(self._root(), name, value)
        else:
            super().__setattr__(name, value)

    def __dir__(self):
        return sorted({*super().__dir__(), *self.spec.tree.names(), "all", "iter", "next", "step"})

    def __repr__(self):
        return f"{self.server_name} at {self.client.host}\n" + "\n".join(
            line for name, branch in self.spec.tree.children.items()
            for line in drawn(name, branch, self, 0))

    def _root(self):
        """The module that all others are below."""
        if self._tree is None:
            self._tree = Module(self, "", self.spec.tree)
        return self._tree

    def get(self, path):
        """The module, or what else a path leads to: get("transformer.h.0.mlp")."""
        return self._root()._at(path)

    def modules(self):
        """All modules that have an input or an output, in the order of the tree."""
        return list(self._root()._modules())

    def named_modules(self):
        """Pairs of the path and the module of each of modules().

        >>> dict(model.named_modules())["transformer.h.3.mlp"] is not None
        True
        """
        return [(module._path, module) for module in self.modules()]

    def _paths_below(self, path, branch):
        """The paths of all modules below one."""
        for name, child in branch.children.items():
            names = map(str, range(self.config.n_blocks)) if name == "*" else [name]
            for each in names:
                below = f"{path}.{each}" if path else each
                yield below
                yield from self._paths_below(below, child)

    @property
    def output(self):
        """What Hugging Face's model returns: `model.output.logits` is `model.lm_head.output`.

        >>> with model.trace([464]):
        ...     logits = model.output.logits.save()
        >>> logits.value.shape == (1, 1, model.config.vocab)
        True
        """
        return ModelOutput(self)

    def generate(self, prompt=None, *, max_new_tokens=None, min_new_tokens=0, do_sample=None,
                 temperature=None, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, seed=0,
                 stop=(), eos_token_id=None, ignore_eos=False, num_return_sequences=1,
                 add_bos=False, progress=None, max_length=None, **unsupported):
        """Opens a run that generates: up to max_new_tokens passes (1), a token sampled after each;
        or as many as make `max_length` with the longest prompt, if that is said instead.

        With a prompt it is the only invoke; else open some with `run.invoke(prompt)`.
        Hooks see step 0, the pass over the prompt, unless `.next()` or `.step(k)` says otherwise.

        The choice of a token is Hugging Face's: `repetition_penalty`, then `temperature`, `top_k`,
        `top_p` and `min_p`. Temperature 0 is greedy, and the default unless `do_sample` is true,
        which means 1; 0 for top_k and min_p and 1 for the others leave all as it is (Hugging Face's
        own top_k is 50). The same seed gives the same tokens, whoever else is served.

        A sequence ends behind an end token, which is its last: the model's own, or the id or ids of
        `eos_token_id`, or none with `ignore_eos`; behind an id of `stop`; or when what is generated
        holds a text of `stop`, a text, an id, or a list of them. Not before `min_new_tokens`.
        Values of steps that do not come then have no `.value` (NoValue). A
        sequence that has ended goes on beside others of its invoke as padding.

        `num_return_sequences` of each prompt are generated, one behind the other in its invoke,
        each with its own random numbers: B of the hooks' shapes counts them all.

        Raises TypeError for other parameters; RequestError, when the block ends, for everything
        that the server refuses.

        >>> with model.generate(max_new_tokens=1) as generator:
        ...     with generator.invoke("The Eiffel Tower is in the city of"):
        ...         hidden = model.transformer.h[-1].output[0].save()
        >>> [model.tokenizer.decode(tokens) for tokens in generator.output]
        ['The Eiffel Tower is in the city of Paris']
        """
        prompt = given_prompt(prompt, unsupported)
        if max_new_tokens is None:
            max_new_tokens = 1 if max_length is None else self._left(max_length, prompt, add_bos)
        self._refuse("generate", unsupported,
                     "max_new_tokens, min_new_tokens, do_sample, temperature, top_k, top_p, min_p, "
                     "repetition_penalty, seed, stop, eos_token_id, ignore_eos, "
                     "num_return_sequences, add_bos and progress")
        if temperature is None or do_sample is False:
            temperature = 1.0 if do_sample else 0.0
        options = {
            "max_new_tokens": whole(max_new_tokens, "max_new_tokens"),
            "min_new_tokens": whole(min_new_tokens, "min_new_tokens"),
            "sampling": {"temperature": float(temperature), "top_k": whole(top_k, "top_k"),
                         "top_p": float(top_p), "min_p": float(min_p),
                         "repetition_penalty": float(repetition_penalty),
                         "seed": whole(seed, "seed"),
                         "n": whole(num_return_sequences, "num_return_sequences")},
            "stop": [each if isinstance(each, str) else whole(each, "a stop token")
                     for each in _listed(stop)],
            "eos_token_id": [] if ignore_eos else None if eos_token_id is None else
                            [whole(i, "eos_token_id") for i in _listed(eos_token_id)],
        }
        return Run(self, options, self._progress(progress), prompt, add_bos)

    def trace(self, prompt=None, *, add_bos=False, progress=None, trace=True, **unsupported):
        """Opens a run of one pass over the prompts; nothing is generated.

        With a prompt, also as `trace(**tokenizer(text))`, it is the only invoke; else open some
        with `run.invoke(prompt)`. `trace=False` runs the prompt at once and returns `model.output`;
        `add_bos` is invoke's. nnsight's `remote`, `scan` and `validate` are taken and change
        nothing: every run is remote, and checked before it runs. Raises as generate does.

        >>> with model.trace("Hello"):
        ...     logits = model.lm_head.output[0, -1].save()
        >>> logits.value.shape == (model.config.vocab,)
        True
        """
        prompt = given_prompt(prompt, unsupported)
        self._refuse("trace", unsupported, "a prompt, add_bos and progress")
        run = Run(self, {"max_new_tokens": 0}, self._progress(progress), prompt, add_bos)
        if trace:
            return run
        if prompt is None:
            raise ValueError("trace=False runs a prompt at once: give it one")
        with run:
            output = self.output.save()
        return output

    def scan(self, prompt=None, **unsupported):
        """As `trace`, but planned and not run: shapes and dtypes are known behind the block, values
        are not.

        >>> with model.scan("The Eiffel Tower is in the city of"):
        ...     x = model.transformer.h[0].attn.query.output
        >>> x.shape == (1, model.config.n_heads, 10, model.config.width // model.config.n_heads)
        True
        """
        prompt = given_prompt(prompt, unsupported)
        self._refuse("scan", unsupported, "a prompt")
        return Scan(self, {"max_new_tokens": 0}, False, prompt)

    def edit(self, prompt=None, *, inplace=False, **unsupported):
        """What the block sets is set in each run of the edited model, which the block is given: a
        model of its own, or with `inplace` this one, in all threads. Edits of an edited model come on top.
        Hooks are of step 0; `with model.all():` and `model.iter[...]` are of the steps that each
        run has.

        Without a prompt shapes are not known inside the block; with one they are those of that
        prompt. Raises RuntimeError for what saves, stops or opens invokes.

        >>> with model.edit() as edited:
        ...     model.transformer.h[1].mlp.output[:] = 0
        >>> with edited.trace("Hello"):
        ...     x = edited.transformer.h[1].mlp.output.save()
        >>> bool(x.value.any())
        False
        """
        prompt = given_prompt(prompt, unsupported)
        self._refuse("edit", unsupported, "a prompt and inplace")
        return Edit(self, self if inplace else copy.copy(self), prompt)

    def session(self, *, progress=None, **unsupported):
        """Several runs as one request: they run one behind the other when the session's block ends,
        and a run can use values of those before it, which stay on the server.

        >>> with model.session():
        ...     with model.trace("The Eiffel Tower is in the city of"):
        ...         hidden = model.transformer.h[1].output[0]
        ...     with model.trace("The Colosseum is in the city of"):
        ...         model.transformer.h[1].output[0][:, -1] = hidden[:, -1]
        ...         changed = model.transformer.h[1].output[0].save()
        ...     hidden = hidden.save()
        >>> bool((changed[:, -1] == hidden[:, -1]).all())
        True
        """
        self._refuse("session", unsupported, "progress")
        return Session(self, self._progress(progress))

    def clear_edits(self):
        """Takes back all edits of this model: those made in place, or all that it came from.

        >>> with model.edit() as edited:
        ...     model.transformer.h[1].mlp.output[:] = 0
        >>> edited.clear_edits()
        >>> with edited.trace("Hello"):
        ...     x = edited.transformer.h[1].mlp.output.save()
        >>> bool(x.value.any())
        True
        """
        self._edits = ()

    def forward(self, *args, **kwargs):
        """As `trace`: nnsight 0.1's name of it (with its `inference`, which changes nothing)."""
        kwargs.pop("inference", None)
        return self.trace(*args, **kwargs)

    def invoke(self, prompt, **kwargs):
        """As `trace` of one prompt: nnsight 0.1's name of it."""
        return self.trace(prompt, **kwargs)

    def _progress(self, progress):
        return self.progress if progress is None else progress

    @staticmethod
    def _refuse(what, unsupported, takes):
        unknown = [name for name in unsupported if name not in _CHANGE_NOTHING]
        if unknown:
            raise TypeError(f"{what}() has no parameter {unknown[0]!r}: "
                            + _INSTEAD.get(unknown[0], f"it takes {takes}"))

    def _left(self, max_length, prompt, add_bos):
        """How many tokens come behind a prompt."""
        if prompt is None:
            raise ValueError("max_length counts the prompt's tokens too, and the prompt is not "
                             "known here: write max_new_tokens")
        n = max(map(len, self.trace(prompt, add_bos=add_bos)._implicit.tokens))
        if n >= whole(max_length, "max_length"):
            raise ValueError(f"max_length={max_length} counts the prompt's tokens too, which are "
                             f"{n}: write max_new_tokens")
        return max_length - n


# nnsight's parameters of runs that are taken and change nothing: every run is remote, and all of it
# is checked, with its shapes, before anything is computed.
# And Hugging Face's and TransformerLens's: nothing is padded, and each token is computed once.
_CHANGE_NOTHING = {"remote", "scan", "validate", "invoker_args", "invoker_kwargs", "fwd_args",
                   "pad_token_id", "use_cache", "use_past_kv_cache", "verbose"}

# What to write for a parameter that others have.
_INSTEAD = {
    **dict.fromkeys(("output_scores", "output_hidden_states", "output_attentions", "output_logits",
                     "return_dict_in_generate"), "save what is wanted inside the block"),
    "stop_at_eos": "write ignore_eos=True for none to end at the end token",
    "prepend_bos": "write add_bos=True", "min_length": "write min_new_tokens, without the prompt's",
    "stop_strings": "write stop=...", "streamer": "model.generator.streamer.output is each token",
    "bad_words_ids": "set model.lm_head.output[:, -1, ids] = -float('inf') at each step",
    "labels": "write interpose.cross_entropy_loss(model.lm_head.output, "
              "model.transformer.wte.input)",
    "start_at_layer": "set the stream of a prompt as long, "
                      "fwd_hooks=[('blocks.3.hook_resid_pre', lambda x, hook: resid)]",
}

# And for a name of other models.
_NAMES_INSTEAD = {
    **dict.fromkeys(("parameters", "named_parameters", "state_dict", "load_state_dict"),
                    "a server keeps the weights: read one as model.W_E or "
                    "model.transformer.wte.weight; print(model) shows all"),
    **dict.fromkeys(("half", "float", "bfloat16", "double", "dtype"),
                    "the model computes in its server's numbers; x.half() converts a result"),
    **dict.fromkeys(("train", "zero_grad", "requires_grad_", "backward"),
                    "nothing is trained, and there are no gradients"),
    **dict.fromkeys(("set_use_split_qkv_input", "set_use_attn_in", "set_use_hook_mlp_in"),
                    "set queries, keys and values, model.hooks['q', layer]"),
    **dict.fromkeys(("add_caching_hooks", "get_caching_hooks", "cache_all", "cache_some"),
                    "model.run_with_cache(prompt, names_filter=...) gives a cache"),
    "input_to_embed": "save model.hooks['embed'] in a run",
    **dict.fromkeys(("input", "inputs"), "the prompt's ids are tracer.inputs, and in a run "
                                         "model.transformer.wte.input"),
    "hook_points": "list(model.hooks) has the names",
    "W_gate": "this model's MLPs have no gates",
}


def _listed(value):
    return [value] if isinstance(value, str) or hasattr(value, "__index__") else list(value)


# Hugging Face's and TransformerLens's names of a model's sizes.
_CONFIG_NAMES = {"n_layer": "n_blocks", "num_hidden_layers": "n_blocks", "n_head": "n_heads",
                 "num_attention_heads": "n_heads", "n_embd": "width", "hidden_size": "width",
                 "n_inner": "inner", "vocab_size": "vocab", "n_positions": "context",
                 "n_ctx": "context", "max_position_embeddings": "context", "n_layers": "n_blocks",
                 "d_model": "width", "d_mlp": "inner", "d_vocab": "vocab", "d_vocab_out": "vocab",
                 "eps": "epsilon", "layer_norm_epsilon": "epsilon", "model_name": "name"}
_CONFIG_FACTS = {"model_type": "gpt2", "act_fn": "gelu_new", "activation_function": "gelu_new",
                 "normalization_type": "LN", "use_attn_result": True, "attn_only": False}


def _facts_of(document, name, host):
    """The facts of the model of this name, from GET /v1/models."""
    models = {row["name"]: row for row in document["models"]}
    row = models.get(name) or models.get(str(name).rpartition("/")[2])
    if row is None:
        raise RequestError("unknown",
                           f"{host} has no model {name!r}: it has {', '.join(sorted(models))}")
    names = {theirs: row[ours] for theirs, ours in _CONFIG_NAMES.items() if ours in row}
    if {"width", "n_heads"} <= row.keys():
        names["d_head"] = row["width"] // row["n_heads"]
    # Where torch's tensors that go along with a proxy live; and where the model does.
    row = {**row, "device": "cpu", "server_device": row.get("device")}
    return types.SimpleNamespace(**{**_CONFIG_FACTS, **names, **row})
