"""Hook points by their names, in TransformerLens's way: `model.hooks["blocks.3.attn.hook_z"]`."""
from __future__ import annotations

import collections.abc
import contextlib
import difflib
import re
from typing import NamedTuple

from .current import add_hooked, drop_hooked
from .spec import Parameter, block_of, in_block

# TransformerLens's short names, as get_act_name has them: "*" is the block's number.
_SHORT = {
    **{name: f"blocks.*.attn.hook_{name}"
       for name in ("q", "k", "v", "z", "pattern", "attn_scores", "result")},
    **{name: f"blocks.*.hook_{name}"
       for name in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")},
    **{name: f"blocks.*.mlp.hook_{name}" for name in ("pre", "post")},
    **{name: f"hook_{name}" for name in ("tokens", "embed", "pos_embed")},
    "attn": "blocks.*.attn.hook_pattern", "attn_logits": "blocks.*.attn.hook_attn_scores",
    "key": "blocks.*.attn.hook_k", "query": "blocks.*.attn.hook_q",
    "value": "blocks.*.attn.hook_v", "mlp_pre": "blocks.*.mlp.hook_pre",
    "mlp_post": "blocks.*.mlp.hook_post",
}
_NORMS = {"ln1": "blocks.*.ln1", "ln2": "blocks.*.ln2", "ln_final": "ln_final"}


class Head(NamedTuple):
    """An attention head: its block and its number there."""

    layer: int
    head: int

    def __str__(self):
        return f"L{self.layer}H{self.head}"


def head(name):
    """The attention head of a name: "L9H6", "9.6", "a9.h6", or a pair of integers.

    Returns a Head, the pair (layer, head); str() of it is "L9H6". Raises ValueError for other
    names.

    >>> layer, index = interpose.head("L3H1")
    >>> with model.trace("The Eiffel Tower is in the city of"):
    ...     z = model.blocks[layer].attn.hook_z[:, :, index].save()
    >>> z.value.shape == (1, 10, model.config.width // model.config.n_heads)
    True
    """
    if isinstance(name, (tuple, list)) and len(name) == 2:
        return Head(*map(int, name))
    found = re.fullmatch(r"(?:L(\d+)H|a(\d+)\.h|(\d+)\.)(\d+)", str(name), re.IGNORECASE)
    if not found:
        raise ValueError(f"{name!r} is no head: write it as 'L9H6' or '9.6', layer and head")
    return Head(int(found[1] or found[2] or found[3]), int(found[4]))


def act_name(name, layer=None, kind=None):
    """The hook point of a short name, as TransformerLens's get_act_name has it: act_name("z", 9) is
    "blocks.9.attn.hook_z", act_name("normalized", 2, "ln1") "blocks.2.ln1.hook_normalized".

    A full name is returned as it is. Raises KeyError for an unknown name, and for one of a block
    without its layer.

    >>> interpose.act_name("resid_post", 3), interpose.act_name("scale", None, "ln_final")
    ('blocks.3.hook_resid_post', 'ln_final.hook_scale')
    """
    if "." in name or name.startswith("hook_"):
        return name
    if name in ("scale", "normalized"):
        norm = "ln_final" if kind is None and layer is None else kind
        if norm not in _NORMS:
            raise KeyError(f"{name} is of a layernorm: say which, {', '.join(_NORMS)}")
        path = f"{_NORMS[norm]}.hook_{name}"
    elif name in _SHORT:
        path = _SHORT[name]
    else:
        near = difflib.get_close_matches(name, [*_SHORT, "scale", "normalized"], 3)
        raise KeyError(f"there is no short name {name!r}"
                       + (f": did you mean {' or '.join(near)}?" if near else ""))
    if "*" in path and layer is None:
        raise KeyError(f"{name} is in every block: say which, as in hooks[{name!r}, 0]")
    return path.replace("*", str(layer))


class Hooks(collections.abc.Mapping):
    """The hook points of a model by name, Hugging Face's and TransformerLens's.

    `hooks[name]` is the tensor as the model's tree has it, a proxy; setting it replaces the whole.
    Short names take their block and, for a layernorm's, which one: `hooks["resid_post", 5]`,
    `hooks["normalized", 2, "ln1"]`. A negative block counts from the end. Iterating gives all
    names. Raises KeyError for a name that is none, IndexError for a block that does not exist.

    Called, it is TransformerLens's context: `with model.hooks(fwd_hooks=[(name, function)]):`.
    """

    def __call__(self, fwd_hooks=(), bwd_hooks=(), reset_hooks_end=True, clear_contexts=False):
        """A context: in each run that begins in its block the functions are called, as those of
        `model.add_hook` are, behind those at the same place; it gives the model. They are this
        thread's (or task of asyncio's) alone: others, those that begin in the block too, run
        without them. `reset_hooks_end=False` is add_hook of each instead.

        >>> def without_mlp(x, hook):
        ...     x[:] = 0
        >>> with model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", without_mlp)]):
        ...     _, cache = model.run_with_cache("Hello")
        >>> bool(cache["mlp_out", 1].any())
        False
        """
        if bwd_hooks:
            raise ValueError("bwd_hooks are not offered: a server computes no gradients")
        return self._here(fwd_hooks) if reset_hooks_end else self._staying(fwd_hooks)

    @contextlib.contextmanager
    def _here(self, fwd_hooks):
        new = self._model._named(fwd_hooks)
        add_hooked(self._model, new)
        try:
            yield self._model
        finally:
            drop_hooked(self._model, lambda hook: not any(hook is each for each in new))

    @contextlib.contextmanager
    def _staying(self, fwd_hooks):
        self._model._hook(fwd_hooks)
        yield self._model

    def __init__(self, model, root):
        self._model, self._root = model, root

    def __getitem__(self, name):
        module, leaf, places = self._find(name)
        found = getattr(module, leaf)
        for i in places:
            found = found[i]
        return getattr(found, "_tensor", found)

    def __setitem__(self, name, value):
        module, leaf, places = self._find(name)
        if not places:
            setattr(module, leaf, value)
            return
        target = getattr(module, leaf)
        for i in places[:-1]:
            target = target[i]
        target[places[-1]] = value

    def _find(self, name):
        """The module, the name of its tensor, and where in a tuple of them."""
        path = act_name(*name) if isinstance(name, tuple) else name
        if path in _SHORT or path in ("scale", "normalized"):
            path = act_name(path)
        dotted, _, places = path.partition("[")
        *names, leaf = dotted.split(".")
        module = self._root
        for name in names:
            if module._branch.is_list and re.fullmatch(r"-?\d+", name):
                module = module[int(name)]
            elif name in module._branch.children and name != "*":
                module = getattr(module, name)
            else:
                raise self._unknown(path)
        if isinstance(module._branch.leaves.get(leaf), (Parameter, type(None))):
            raise self._unknown(path)
        return module, leaf, [int(i) for i in re.findall(r"\d+", places)]

    def _unknown(self, path):
        block = block_of(path)
        near = [name if block is None else name.replace("*", str(block)) for name in
                difflib.get_close_matches(in_block(path, "*"), self._model.spec.points, 3, 0.5)]
        return KeyError(f"there is no hook point {path!r}"
                        + (f": did you mean {' or '.join(near)}?" if near else ""))

    def __iter__(self):
        for path in self._model.spec.points:
            for block in range(self._model.config.n_blocks) if "*" in path else [None]:
                yield path if block is None else path.replace("*", str(block))

    def __len__(self):
        return sum(1 for _ in self)

    def __contains__(self, name):
        return name in iter(self)


class HookPoint:
    """What a hook function is told about its place: `name`, `layer()`, and `ctx`, a dict of its
    own."""

    def __init__(self, name):
        self.name, self.ctx = name, {}

    def layer(self):
        """The block's number; ValueError for a place outside the blocks."""
        block = block_of(self.name)
        if block is None:
            raise ValueError(f"{self.name} is in no block")
        return block

    def __repr__(self):
        return f"<hook point {self.name}>"
