"""A run's activations by name, and what is made of them: TransformerLens's ActivationCache.

A cache holds what its run has sent. Whatever else is asked of it is computed by the server, in the
same run written once more: the bits of a request depend on nothing but the request. Functions are
called in the first run only, since what they do may depend on anything.
"""
from __future__ import annotations

import collections.abc
import copy
import functools
import inspect
import re
from typing import Callable, NamedTuple

import numpy as np

from . import einops_backend
from .current import apart, hooked, open_run
from .directions import residual_directions
from .errors import RequestError
from .finished import Value
from .folding import accumulated_bias, centred, folded, unfolded
from .functions import FUNCTIONS
from .hooks import HookPoint, act_name
from .losses import negative_log_probs
from .prompt import is_several, prompt_of
from .recording import Recording
from .spec import block_of, in_block
from .values import at_dim, is_number, tensor_of, whole


class Hook(NamedTuple):
    """A function at a hook point; a permanent one outlives reset_hooks()."""

    name: str
    function: Callable
    is_permanent: bool = False


class Pass:
    """A prompt with its hooks, and the model's edits: a run that can be written as often as somebody
    wants to see it.

    It ends in front of block `stop_at_layer`, where that is given: no hook behind is called.
    """

    def __init__(self, model, prompt, fwd_hooks=(), stop_at_layer=None):
        self.model, self.prompt = model, prompt_of(prompt)
        # The name of what it gives, and the moment at which it ends, where that is no name's.
        self._result, self._end = "unembed.hook_out", (3,)
        if stop_at_layer is not None:
            self._stop(whole(stop_at_layer, "stop_at_layer"), model.config.n_blocks)
        self.hooks = self.in_order([*hooked(model), *self.named(fwd_hooks)])
        self._edited = copy.copy(model)     # whose edits stay these
        self._edited._hooked = []
        self._recording = None      # what the hooks' functions wrote

    def _stop(self, layer, n):
        layer = max(layer + n, 0) if layer < 0 else layer   # as a slice of the blocks ends
        self._result = f"blocks.{min(layer, n - 1)}.hook_resid_{'pre' if layer < n else 'post'}"
        self._end = self._moment(self._result) if layer < n else (2,)

    def in_order(self, hooks):
        """Hooks in the order of the pass, as far as it goes."""
        return sorted((hook for hook in hooks if self._reaches(hook.name)),
                      key=lambda hook: self._moment(hook.name))

    def _reaches(self, name):
        return self._moment(name) < self._end

    def names(self):
        """The names of TransformerLens's hook points, in the order of the pass."""
        names = [name for name in self.model.hooks
                 if name.startswith(("blocks.", "hook_", "ln_final."))]
        return sorted(filter(self._reaches, names), key=self._moment)

    def _moment(self, name):
        """Names sort by this in the order in which the pass comes to them."""
        points = list(self.model.spec.points)
        each = [i for i, path in enumerate(points) if "*" in path]
        i, block = points.index(in_block(name, "*")), block_of(name)
        return (0, 0, i) if i < each[0] else (2, 0, i) if block is None else (1, block, i)

    def named(self, fwd_hooks, is_permanent=False):
        """The Hooks of pairs of a name, or of a function that is asked for each, and a function."""
        for pair in fwd_hooks:
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise TypeError("fwd_hooks is a list of pairs of a name and a function "
                                f"fn(tensor, hook): not {pair!r:.60}")
            name, function = pair
            if callable(name):
                yield from (Hook(each, function, is_permanent)
                            for each in self.names() if name(each))
            else:
                yield Hook(self.full_name(name), function, is_permanent)

    def full_name(self, key):
        """The full name of a hook point from that, a short name or a tuple; KeyError for none,
        IndexError for a block that does not exist."""
        name = act_name(*key) if isinstance(key, tuple) else key
        short = re.fullmatch(r"([a-z_]+?)(\d+)(ln\d)?", name)
        if short and "." not in name:   # "pre5", "scale4ln1"
            name = act_name(short[1], int(short[2]), short[3])
        elif "." not in name:
            name = act_name(name)
        block, n = block_of(name), self.model.config.n_blocks
        if block is not None:
            if not -n <= block < n:
                raise IndexError(f"{name} does not exist: this model has blocks 0 to {n - 1}")
            name = in_block(name, block % n)
        if in_block(name, "*") not in self.model.spec.points:
            self.model.hooks._find(name)    # which says what is near
        return name

    # Writing it.

    def run(self, write, return_type=None, loss_per_token=False):
        """(what return_type asks for, what write() gives, a dict of proxies, as values). The
        request is one of its own, also where a run is open: a hook may look into the cache of
        another run.
        """
        return apart(self._run, write, return_type, loss_per_token)

    def values(self, write):
        """The value of what write() gives, a proxy, or the values of a tuple of them."""
        one = []

        def named():
            made = write()
            one.append(not isinstance(made, tuple))
            return dict(enumerate([made] if one[0] else made))
        values = self.run(named)[1].values()
        return next(iter(values)) if one[0] else tuple(values)

    def planned(self, write):
        """(shape, dtype) of the proxy that write() gives."""
        def plan():
            with self._edited.scan(self.prompt) as run:
                self._write_hooks(run)
                x = write()
                return x.shape, x.dtype
        return apart(plan)

    def _write_hooks(self, run):
        if self._recording is not None:
            self._recording.replay(run)
            return
        recording = run.record(Recording())
        for hook in self.hooks:
            call_hook(run, hook)
        run.end_record(recording)
        self._recording = recording.unsaved()

    def _run(self, write, return_type, loss_per_token):
        if return_type not in ("logits", "loss", "both", None):
            raise ValueError("return_type is 'logits', 'loss', 'both' or None: not "
                             f"{return_type!r}")
        if self._end != (3,) and return_type is not None:
            return_type = "logits"      # which are the residual stream, then
        result = [None, None]
        with self._edited.trace(self.prompt) as run:
            self._write_hooks(run)
            if return_type in ("logits", "both"):
                result[0] = _read(self.model, self._result).save()
            if return_type in ("loss", "both"):
                result[1] = self._loss(run, loss_per_token).save()
            made = {key: x.save() for key, x in write().items()}
        logits, loss = (x if x is None else x.value.view(Value) for x in result)
        if loss is not None and not loss_per_token:
            loss = np.float64(loss)
        chosen = {"logits": logits, "loss": loss, "both": (logits, loss), None: None}[return_type]
        return chosen, {key: x.value.view(Value) for key, x in made.items()}

    def read(self, name):
        """The tensor at a hook point, in the model's numerics."""
        if not self._reaches(name):
            raise KeyError(f"{name} is not there: the pass ends with {self._result}")
        return _read(self.model, name)

    def _loss(self, run, per_token):
        lengths = {len(tokens) for tokens in run.tokens}
        if len(lengths) > 1 or min(lengths) < 2:
            raise ValueError("a loss needs prompts of one length, of two tokens or more: these "
                             f"have {', '.join(map(str, sorted(lengths)))}")
        logits, ids = self.model.lm_head.output[:, :-1], self.model.transformer.wte.input
        losses = negative_log_probs(logits, ids[:, 1:])
        return losses if per_token else losses.mean()


def _read(model, name):
    x = model.hooks[name]
    return folded(model, name, x) if model.numerics == "transformer_lens" else x


def call_hook(run, hook):
    """Calls a hook function in a run: what it returns, or sets, is what the model goes on with."""
    model, name = run.model, hook.name
    own, seen = model.hooks[name], _read(model, name)
    is_other = seen._node is not own._node
    if is_other:
        seen = seen.clone()     # what is set in it does not reach the model by itself
    first = len(run.graph.nodes)
    new = _called(hook.function, seen, HookPoint(name))
    is_set = any(node.op == "set" and _root(node.args[0]) is seen._node
                 for node in run.graph.nodes[first:])
    if new is None and is_other and is_set:
        new = seen
    if new is None or new is seen and not (is_other and is_set):
        return
    model.hooks[name] = unfolded(model, name, new, own) if is_other else new


def _called(function, x, hook):
    """A hook function takes (x, hook=...), as TransformerLens calls it; a second parameter of
    another name and none at all are fine too."""
    try:
        takes = inspect.signature(function).parameters.values()
    except ValueError:      # of what is written in C
        return function(x)
    if any(p.name == "hook" or p.kind is p.VAR_KEYWORD for p in takes):
        return function(x, hook=hook)
    n = sum(p.default is p.empty and p.kind <= p.POSITIONAL_OR_KEYWORD for p in takes)
    return function(x, hook) if n > 1 else function(x)


def _root(node):
    while node.base is not None:
        node = node.base
    return node


def aside(model):
    """A pass apart from all hooks and edits, for what no prompt says anything about."""
    model = copy.copy(model)
    model._hooked, model._edits = [], ()
    return Pass(model, [0])


class Later(np.lib.mixins.NDArrayOperatorsMixin):
    """An array which the server computes when it is looked at: write() gives its proxy in a run of
    the pass `one`. Its shape and dtype are known before."""

    def __init__(self, one, write):
        self._one, self._write, self._value, self._plan = one, write, None, None
        einops_backend.offer()

    @property
    def value(self):
        """The array."""
        if self._value is None:
            self._value = self._one.values(self._write)
        return self._value

    @property
    def shape(self):
        """The shape, a tuple of ints."""
        return self._planned()[0]

    @property
    def dtype(self):
        """numpy's dtype."""
        return self._planned()[1]

    @property
    def ndim(self):
        """The number of dimensions."""
        return len(self.shape)

    def _planned(self):
        if self._value is not None:
            return self._value.shape, self._value.dtype
        self._plan = self._plan or self._one.planned(self._write)
        return self._plan

    _as_value = _as_tensor = lambda self: self.value

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.value, dtype)

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        return getattr(ufunc, method)(*map(tensor_of, inputs), **kwargs)

    def __array_function__(self, func, types, args, kwargs):
        return func(*_tensors(args), **{name: _tensors(x) for name, x in kwargs.items()})

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if not all(issubclass(each, Later) or each.__module__.startswith("torch") for each in types):
            return NotImplemented       # a proxy knows
        return Value.__torch_function__(func, types, args, kwargs)

    def __dlpack__(self, **options):
        return self.value.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.value.__dlpack_device__()

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._as_tensor(), name)

    def __getitem__(self, key):
        return self.value[key]

    def __len__(self):
        return self.shape[0]

    def __iter__(self):
        return iter(self._as_tensor())

    def __repr__(self):
        return f"<{self._label}>" if self._value is None else repr(self._value)


def _tensors(x):
    return type(x)(map(_tensors, x)) if isinstance(x, (list, tuple)) else tensor_of(x)


class Stack(Later):
    """Tensors stacked along a first dimension: not computed at all where a cache's method makes
    something smaller of them."""

    _label = "a stack that nobody has looked at"


class Weight(Later):
    """A parameter outside of runs: fetched when it is looked at, whole, or the part x[...] that is
    asked for. In a run it is the parameter there, of which nothing travels."""

    def __init__(self, model, label, write):
        super().__init__(aside(model), write)
        self._label = label

    def _as_tensor(self):
        return self.value if open_run(self._one.model) is None else self._write()

    def __getitem__(self, key):
        if open_run(self._one.model) is not None:
            return self._write()[key]
        if self._value is not None:
            return self._value[key]
        return self._one.values(lambda: self._write()[key])

    def save(self):
        """Itself: its value is there when it is looked at."""
        return self if open_run(self._one.model) is None else self._write().save()

    @property
    def data(self):
        """Itself: there are no gradients."""
        return self

    def __setitem__(self, key, value):
        raise TypeError(f"{self._label} is a parameter: it can be read, but not set")

    @property
    def T(self):
        """The dimensions in reverse order."""
        return Weight(self._one.model, self._label + ".T", lambda: self._write().T)


def _as_now(method):
    """For a method whose result is computed when somebody looks at it: it is of the cache, and of
    lists of positions, as they are when the method is called."""
    @functools.wraps(method)
    def called(self, *args, **kwargs):
        return method(copy.copy(self), *map(_copied, args),
                      **{name: _copied(x) for name, x in kwargs.items()})
    return called


def _copied(x):
    return [*x] if isinstance(x, list) else x


class _Items(collections.abc.ItemsView):

    def __iter__(self):
        return ((name, self._mapping[name]) for name in self._mapping._each())


class _Values(collections.abc.ValuesView):

    def __iter__(self):
        return (self._mapping[name] for name in self._mapping._each())


class ActivationCache(collections.abc.Mapping):
    """The activations of a run: `cache["blocks.5.hook_resid_post"]`, `cache["resid_post", 5]`,
    `cache["pattern", -1]`, `cache["scale", 2, "ln1"]`, as arrays.

    Made by `model.run_with_cache`. Iterating gives the names that its filter chose, of all hook
    points without one; items() and values() fetch all at once, where cache[name] asks for one, and
    for more ahead once names are looked up in that order, as dict(cache) does. Methods that stack,
    and `logit_attrs`, are computed by the server.
    """

    def __init__(self, one, names_filter=None, pos_slice=None):
        self.model, self._pass = one.model, one
        self._positions = [pos_slice] if isinstance(pos_slice, int) else copy.deepcopy(pos_slice)
        self._names = self._chosen(names_filter)
        self._filter_is_given = names_filter is not None
        self._values = {}
        self._next, self._n_ahead = None, 0     # see _fetch_from
        self.has_batch_dim = True

    def _chosen(self, names_filter):
        if names_filter is None:
            return self._pass.names()
        if callable(names_filter):
            return [name for name in self._pass.names() if names_filter(name)]
        listed = [names_filter] if isinstance(names_filter, (str, tuple)) else names_filter
        return [self._pass.full_name(name) for name in listed]

    # What the run sends at once.

    def written(self):
        """The proxies of what the filter chose, in the run."""
        return {name: self._act(name) for name in self._names} if self._filter_is_given else {}

    def take(self, values):
        """Their values."""
        self._values.update(values)

    # Its values.

    def __getitem__(self, key):
        name = self._pass.full_name(key)
        if name not in self._values:
            self._fetch_from(name)
        return self._values[name] if self.has_batch_dim else self._values[name][0]

    def _fetch_from(self, name):
        """A name and, where it is the next behind those that came last, twice as many as came then:
        who looks at names in their order asks seldom, and never has much that nobody wants."""
        at = self._names.index(name) if name in self._names else len(self._names)
        n = 2 * self._n_ahead if at == self._next else 1
        names = self._names[at:at + n] or [name]
        while not self._came(names):
            names = names[:len(names) // 2]
        self._next, self._n_ahead = at + len(names), len(names)

    def _came(self, names):
        """Whether names are here now: not if the server wants several requests for so much."""
        try:
            self._fetch(names)
        except RequestError as e:
            if e.code != "limit" or len(names) == 1:
                raise
            return False
        return True

    def _fetch(self, names):
        missing = [name for name in names if name not in self._values]
        if missing:
            self._values.update(self._pass.run(
                lambda: {name: self._act(name) for name in missing})[1])

    def _each(self):
        """The names, each when its value is here: all that is missing comes in one request, or in
        as many as the server wants for so much."""
        rest = [self._names]
        while rest:
            names = rest.pop()
            if self._came(names):
                yield from names
            else:
                half = len(names) // 2
                rest += [names[half:], names[:half]]

    def items(self):
        """Pairs of the names that iterating gives and their arrays. What is not here yet comes in
        one request for all, or in several where that is more than the server sends at once.

        >>> _, cache = model.run_with_cache("The Eiffel Tower is in", return_type=None)
        >>> norms = {name: np.linalg.norm(x) for name, x in cache.items()}
        >>> len(norms) == len(cache)
        True
        """
        return _Items(self)

    def values(self):
        """The arrays of items()."""
        return _Values(self)

    def __contains__(self, key):
        try:
            return self._pass.full_name(key) in self._names
        except (KeyError, IndexError):
            return False

    def __iter__(self):
        return iter(self._names)

    def __len__(self):
        return len(self._names)

    def __repr__(self):
        return f"<a cache of {len(self)} hook points, {len(self._values)} of them here>"

    def remove_batch_dim(self):
        """The same without the first dimension, of a run of one prompt; returns itself.

        >>> _, cache = model.run_with_cache("Hello", return_type=None)
        >>> cache.remove_batch_dim()["embed"].ndim
        2
        """
        if is_several(self._pass.prompt) and len(self._pass.prompt) > 1:
            raise ValueError(f"a cache of {len(self._pass.prompt)} prompts has its batch dimension")
        self.has_batch_dim = False
        return self

    def to(self, device, move_model=False):
        """Itself, like cpu() and cuda(): its arrays are numpy's."""
        return self

    def cpu(self):
        """Itself: see to()."""
        return self

    def cuda(self, device=None):
        """Itself: see to()."""
        return self

    @property
    def cache_dict(self):
        """A dict of the activations that its filter chose, all of them fetched, as items() does."""
        return dict(self.items())

    def _act(self, name):
        """A hook point in a run, with its batch dimension, at the cache's positions."""
        x = self._pass.read(self._pass.full_name(name))
        if self._positions is None:
            return x
        dim = 2 if name.endswith(("hook_pattern", "hook_attn_scores")) else 1
        return x[at_dim(dim, self._positions)]

    def _part(self, name, pos_slice):
        """As it goes into a stack: (B, T, D), of one position (B, D), without B where that is
        gone."""
        x = self._act(self._pass.full_name(name))
        x = x if self.has_batch_dim else x[0]
        return x if pos_slice is None else x[at_dim(int(self.has_batch_dim), pos_slice)]

    def _ask(self, write):
        return self._pass.values(write)

    # Stacks.

    def _stacked(self, parts, labels, return_labels, ln=None):
        def write():
            stack = FUNCTIONS["stack"](parts(), 0)
            return stack if ln is None else self._normalized(stack, *ln)
        stack = Stack(self._pass, write)
        return (stack, labels) if return_labels else stack

    def _layer(self, layer):
        n = self.model.config.n_blocks
        if layer is None or layer == -1:
            return n
        if not 0 <= layer <= n:
            raise IndexError(f"layer {layer} does not exist: this model has layers 0 to {n}")
        return layer

    @_as_now
    def accumulated_resid(self, layer=None, incl_mid=False, apply_ln=False, pos_slice=None,
                          mlp_input=False, return_labels=False):
        """The residual stream in front of each block up to `layer` (None or -1: to the end),
        stacked (n, B, T, D); with `incl_mid` between attention and MLP too. `apply_ln` centres each
        and divides it by the scale of the layernorm in front of `layer`; at the end by its own, as
        in a logit lens. An index as `pos_slice` drops T.

        >>> _, cache = model.run_with_cache("The Eiffel Tower is in", return_type=None)
        >>> stack, labels = cache.accumulated_resid(return_labels=True, pos_slice=-1)
        >>> stack.shape == (model.config.n_blocks + 1, 1, model.config.width), labels[-1]
        (True, 'final_post')
        """
        layer, n = self._layer(layer), self.model.config.n_blocks
        names, labels = [], []
        for i in range(layer + 1):
            names.append(("resid_pre", i) if i < n else ("resid_post", n - 1))
            labels.append(f"{i}_pre" if i < n else "final_post")
            if incl_mid and i < layer:
                names.append(("resid_mid", i))
                labels.append(f"{i}_mid")
        if mlp_input:
            names.append(("resid_mid", layer))
            labels.append(f"{layer}_mid")
        ln = (layer, mlp_input, pos_slice, layer == n) if apply_ln else None
        return self._stacked(lambda: [self._part(name, pos_slice) for name in names], labels,
                             return_labels, ln)

    @_as_now
    def decompose_resid(self, layer=None, mlp_input=False, mode="all", apply_ln=False,
                        pos_slice=None, incl_embeds=True, return_labels=False):
        """What the residual stream in front of `layer` is the sum of, stacked (n, B, T, D): the two
        embeddings, and each block's attention and MLP (`mode` "attn" or "mlp": one of them).

        >>> _, cache = model.run_with_cache("The Eiffel Tower is in", return_type=None)
        >>> parts = cache.decompose_resid(pos_slice=-1)
        >>> bool(abs(parts.sum(0) - cache["resid_post", -1][:, -1]).max() < 1e-3)
        True
        """
        if mode not in ("all", "mlp", "attn"):
            raise ValueError(f"mode is 'all', 'mlp' or 'attn': not {mode!r}")
        layer = self._layer(layer)
        names = [("embed",), ("pos_embed",)] * bool(incl_embeds)
        for i in range(layer):
            names += [("attn_out", i)] * (mode != "mlp") + [("mlp_out", i)] * (mode != "attn")
        if mlp_input and mode != "mlp":
            names.append(("attn_out", layer))
        labels = [name[0] if len(name) == 1 else f"{name[1]}_{name[0]}" for name in names]
        return self._stacked(lambda: [self._part(name, pos_slice) for name in names], labels,
                             return_labels, (layer, mlp_input, pos_slice) if apply_ln else None)

    @_as_now
    def stack_activation(self, name, layer=-1, sublayer_type=None):
        """One activation of all blocks in front of `layer`, stacked.

        >>> _, cache = model.run_with_cache("The Eiffel Tower is in", return_type=None)
        >>> len(cache.stack_activation("pattern")) == model.config.n_blocks
        True
        """
        keys = [(name, i, sublayer_type) for i in range(self._layer(layer))]

        def parts():
            return [x if self.has_batch_dim else x[0] for x in
                    (self._act(self._pass.full_name(key)) for key in keys)]
        return self._stacked(parts, [], False)

    @_as_now
    def stack_head_results(self, layer=-1, return_labels=False, incl_remainder=False,
                           pos_slice=None, apply_ln=False):
        """What each head in front of `layer` adds to the residual stream, stacked (n, B, T, D),
        heads of a block one behind the other; with `incl_remainder` last what is none of theirs.

        >>> _, cache = model.run_with_cache("The Eiffel Tower is in", return_type=None)
        >>> _, labels = cache.stack_head_results(return_labels=True, pos_slice=-1)
        >>> labels[:2]
        ['L0H0', 'L0H1']
        """
        layer, heads = self._layer(layer), self.model.config.n_heads
        labels = [f"L{i}H{h}" for i in range(layer) for h in range(heads)]
        labels += ["remainder"] * bool(incl_remainder)

        def parts():
            results = [self._part(("result", i), pos_slice) for i in range(layer)]
            all_heads = [x[..., h, :] for x in results for h in range(heads)]
            if not incl_remainder:
                return all_heads
            n = self.model.config.n_blocks
            name = ("resid_pre", layer) if layer < n else ("resid_post", n - 1)
            rest = self._part(name, pos_slice)
            for x in results:
                rest = rest - x.sum(-2)
            return [*all_heads, rest]
        return self._stacked(parts, labels, return_labels,
                             (layer, False, pos_slice) if apply_ln else None)

    def compute_head_results(self):
        """Nothing: cache["result", layer] is always there."""

    # Neurons.

    @_as_now
    def get_neuron_results(self, layer, neuron_slice=None, pos_slice=None):
        """What each neuron of a block's MLP adds to the residual stream: (B, T, F, D), of those
        that neuron_slice (a slice, a list or an index) chooses.

        >>> _, cache = model.run_with_cache("The Eiffel Tower is in", return_type=None)
        >>> cache.get_neuron_results(2, neuron_slice=[5, 7], pos_slice=-1).shape[-2:]
        (2, 256)
        """
        return Stack(self._pass, lambda: self._neurons(layer, neuron_slice, pos_slice))

    def _neurons(self, layer, neurons, pos_slice):
        x, weight = self._part(("post", layer), pos_slice), self.model.blocks[layer].mlp.W_out
        if neurons is not None:
            x, weight = x[..., neurons], weight[neurons]
        x = x[..., None] * weight
        return centred(x) if self.model.numerics == "transformer_lens" else x

    @_as_now
    def stack_neuron_results(self, layer=-1, pos_slice=None, neuron_slice=None, return_labels=False,
                             incl_remainder=False, apply_ln=False):
        """What each neuron in front of `layer` adds to the residual stream, stacked (n, B, T, D),
        those of a block one behind the other; with `incl_remainder` last what is none of theirs.
        Take a position and some neurons: all of them are as many numbers as the weights.

        >>> _, cache = model.run_with_cache("The Eiffel Tower is in", return_type=None)
        >>> _, labels = cache.stack_neuron_results(1, -1, slice(3, 5), return_labels=True)
        >>> labels
        ['L0N3', 'L0N4']
        """
        layer = self._layer(layer)
        if layer == 0:
            raise ValueError("there are no neurons in front of layer 0")
        chosen = [neuron_slice] if is_number(neuron_slice) else neuron_slice
        numbers = np.arange(self.model.config.inner)
        labels = [f"L{i}N{n}" for i in range(layer)
                  for n in (numbers if chosen is None else numbers[chosen])]
        labels += ["remainder"] * bool(incl_remainder)

        def write():
            stack = FUNCTIONS["cat"]([self._neurons(i, chosen, pos_slice).movedim(-2, 0)
                                      for i in range(layer)], 0)
            if incl_remainder:
                rest = self._part(("resid_post", layer - 1), pos_slice) - stack.sum(0)
                stack = FUNCTIONS["cat"]([stack, rest[None]], 0)
            return self._normalized(stack, layer, False, pos_slice) if apply_ln else stack
        stack = Stack(self._pass, write)
        return (stack, labels) if return_labels else stack

    @_as_now
    def get_full_resid_decomposition(self, layer=None, mlp_input=False, expand_neurons=True,
                                     apply_ln=False, pos_slice=None, return_labels=False):
        """What the residual stream in front of `layer` is the sum of, stacked (n, B, T, D): each
        head, each neuron (or with expand_neurons=False each MLP), the two embeddings, and the sum
        of the biases.

        >>> _, cache = model.run_with_cache("The Eiffel Tower is in", return_type=None)
        >>> parts = cache.get_full_resid_decomposition(2, expand_neurons=False, pos_slice=-1)
        >>> bool(abs(parts.sum(0) - cache["resid_pre", 2][:, -1]).max() < 1e-3)
        True
        """
        layer = self._layer(layer)
        parts = []
        if layer + mlp_input:
            parts.append(self.stack_head_results(layer + mlp_input, True, pos_slice=pos_slice))
        if layer and expand_neurons:
            parts.append(self.stack_neuron_results(layer, pos_slice, return_labels=True))
        elif layer:
            parts.append(self.decompose_resid(layer, mode="mlp", pos_slice=pos_slice,
                                              incl_embeds=False, return_labels=True))
        parts.append(self.decompose_resid(0, pos_slice=pos_slice, return_labels=True))
        labels = [label for _, some in parts for label in some] + ["bias"]

        def write():
            stacks = [stack._write() for stack, _ in parts]
            bias = accumulated_bias(self.model, layer, mlp_input, expand_neurons)
            stack = FUNCTIONS["cat"]([*stacks, bias.expand((1, *stacks[-1].shape[1:]))], 0)
            return self._normalized(stack, layer, mlp_input, pos_slice) if apply_ln else stack
        stack = Stack(self._pass, write)
        return (stack, labels) if return_labels else stack

    # Layernorms and logits.

    def _scale(self, layer, mlp_input, pos_slice):
        name = ("scale", None, "ln_final") if layer == self.model.config.n_blocks else (
            "scale", layer, "ln2" if mlp_input else "ln1")
        return self._part(name, pos_slice)

    def _normalized(self, stack, layer, mlp_input, pos_slice, recompute_ln=False):
        stack = stack - stack.mean(-1, keepdim=True)
        if recompute_ln:
            variance = stack.square().mean(-1, keepdim=True)
            return stack / (variance + self.model.config.epsilon).sqrt()
        return stack / self._scale(layer, mlp_input, pos_slice)

    @_as_now
    def apply_ln_to_stack(self, residual_stack, layer=None, mlp_input=False, pos_slice=None,
                          recompute_ln=False):
        """A stack centred, and divided by the scale that the layernorm in front of `layer` (None or
        -1: the last one) has in this run, or with `recompute_ln` each tensor by its own. The gain
        and the bias are left out. `pos_slice` is the one with which the stack was made.

        >>> _, cache = model.run_with_cache("The Eiffel Tower is in", return_type=None)
        >>> stack = cache.decompose_resid(pos_slice=-1)
        >>> cache.apply_ln_to_stack(stack, pos_slice=-1).shape == stack.shape
        True
        """
        layer = self._layer(layer)
        if isinstance(residual_stack, Stack) and residual_stack._value is None:
            return Stack(self._pass, lambda: self._normalized(
                residual_stack._write(), layer, mlp_input, pos_slice, recompute_ln))
        stack = np.asarray(residual_stack)
        stack = stack - stack.mean(-1, keepdims=True)
        if recompute_ln:
            variance = np.square(stack).mean(-1, keepdims=True)
            return stack / np.sqrt(variance + np.float32(self.model.config.epsilon))
        return stack / self._ask(lambda: self._scale(layer, mlp_input, pos_slice))

    def logit_attrs(self, residual_stack, tokens, incorrect_tokens=None, pos_slice=None):
        """How much each part of a stack adds to the logit of `tokens` (or to the logit less that of
        `incorrect_tokens`): (n, ...), without the last dimension.

        `tokens` is a text of one token, an id, or ids that broadcast with the stack's dimensions
        between the first and the last. `pos_slice` is the one with which the stack was made. The
        last layernorm is applied with its scale of this run and with its gain; biases are left out.

        >>> _, cache = model.run_with_cache("The Eiffel Tower is in the city of", return_type=None)
        >>> heads, labels = cache.stack_head_results(return_labels=True, pos_slice=-1)
        >>> attrs = cache.logit_attrs(heads, " Paris", " London", pos_slice=-1)
        >>> attrs.shape == (len(labels), 1)
        True
        """

        def directions():
            return residual_directions(self.model, tokens, incorrect_tokens)
        n = self.model.config.n_blocks
        if isinstance(residual_stack, Stack) and residual_stack._value is None:
            return self._ask(lambda: (self._normalized(residual_stack._write(), n, False, pos_slice)
                                      * directions()).sum(-1))
        scaled = self.apply_ln_to_stack(residual_stack, pos_slice=pos_slice)
        return (scaled * self._ask(directions)).sum(-1)
