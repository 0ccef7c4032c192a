"""The model's tree of modules: `model.transformer.h[3].attn.output`, made of the paths that its
server has."""
from __future__ import annotations

import difflib

from .applied import applied
from .current import current_run, open_run
from .iteration import Iteration, Iterations
from .nested import Inputs, Outputs
from .proxy import Proxy, operand
from .spec import Parameter, Point
from .values import whole


class Module:
    """A module of the model: its submodules, and its tensors (`output`, `input`, ...)."""

    def __init__(self, model, path, branch, step=None):
        self.__dict__.update(_model=model, _path=path, _branch=branch, _step=step)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        branch = self._branch
        if name in branch.children and name != "*":
            kind = Modules if branch.children[name].is_list else Module
            # Kept, so that it is found before this function is asked.
            return self.__dict__.setdefault(name, kind(
                self._model, self._join(name), branch.children[name], self._step))
        if name in branch.leaves:
            return self._tensors(name)
        if name == "inputs" and "input" in branch.leaves:
            return self._tensors("input")
        return self._renamed(name)

    def _at(self, path):
        """What a path that begins at this module leads to: "h.3.mlp" is `self.h[3].mlp`."""
        found = self
        for name in path.split("."):
            found = found[int(name)] if name.isdigit() else getattr(found, name)
        return found

    def _renamed(self, name):
        """The module below this one that LanguageModel(rename=...) calls so."""
        for old, new in self._model._renamed.items():
            module = self
            for part in old.strip(".").split(".") if new == name else ():
                if module is not None and part not in module._branch.children and not (
                        module._branch.is_list and part.isdigit()):
                    module = None
                if module is not None:
                    module = module[int(part)] if module._branch.is_list else getattr(module, part)
            if module is not None and module is not self:
                return module
        raise self._unknown(name)

    def __setattr__(self, name, value):
        name = "input" if name == "inputs" else name
        if name in self._branch.children:
            raise AttributeError(f"{self._join(name)} is a module: set its output, or replace it by "
                                 f".{name}.skip(value)")
        if name not in self._branch.leaves:
            raise self._unknown(name)
        leaf = self._branch.leaves[name]
        if isinstance(leaf, Parameter):
            raise AttributeError(f"{self._join(name)} is a parameter: it can be read, but not set")
        place, value = self._tensors(name), _not_inputs(value)
        if isinstance(leaf, Point):
            if isinstance(place, Inputs):
                place = place._tensor
                if isinstance(value, tuple):    # (args, kwargs)
                    value = value[0][0] if isinstance(value[0], tuple) else value[0]
            _replace(place, value)
        elif isinstance(value, tuple):
            self._set_tuple(place, value)
        else:
            place[0] = value

    def _set_tuple(self, place, value):
        if len(value) > len(place):     # of fewer the others stay as they are
            raise ValueError(f"{place._path} is a tuple of {len(place)}: {len(value)} are given")
        for i, (old, new) in enumerate(zip(place, value)):
            if isinstance(old, tuple):
                self._set_tuple(old, new)
            elif not isinstance(new, Proxy) or new._node is not old._node:
                place[i] = new

    def _tensors(self, name):
        """What a name that ends a path gives: a proxy, or several as the module returns them."""
        leaf = self._branch.leaves[name]
        if isinstance(leaf, Parameter) and open_run(self._model) is None:
            return self._model.parameter(self._join(name), lambda: self._tensors(name))
        run = current_run(self._model)
        if isinstance(leaf, Parameter):
            return Proxy(run, run.parameter(self._join(name)))
        nodes = iter(run.hooks(self._path, self._branch.places(name), self._step))
        tensors = _tensors_of(run, self._join(name), leaf, nodes)
        return Inputs(tensors, _replace) if name == "input" else tensors

    def _modules(self):
        """All modules below this one that have an input or an output, in the order of the tree."""
        for name in self._branch.children:
            child = getattr(self, name)
            for module in child if child._branch.is_list else [child]:
                if {"input", "output"} & set(module._branch.leaves):
                    yield module
                yield from module._modules()

    def _join(self, name):
        return f"{self._path}.{name}" if self._path else name

    def _unknown(self, name):
        if name == "source":
            return AttributeError(f"{self._path}.source is not offered: no Python runs in the "
                                  "model; print(model) shows what can be looked at")
        if self._branch.is_list:
            return AttributeError(f"{self._path} has no {name!r}: it is a list of "
                                  f"{self._model.config.n_blocks} blocks")
        names = self._branch.names()
        near = difflib.get_close_matches(name, names, 3, 0.5)
        return AttributeError(
            f"{self._path or 'the model'} has no {name!r}"
            + (f": did you mean {' or '.join(near)}?" if near else f": it has {', '.join(names)}"))

    def __dir__(self):
        return [*self._branch.names(), "all", "iter", "next", "step"]

    # Generation steps.

    def step(self, k):
        """This module at generation step k (0 is the pass over the prompt, -1 the last step).

        Raises IndexError for a step that the run does not have, RuntimeError outside a run.

        >>> with model.generate("The Eiffel Tower is in the city of", max_new_tokens=3):
        ...     last = model.lm_head.step(2).output.save()
        >>> last.value.shape[:2]
        (1, 1)
        """
        k = current_run(self._model).checked_step(whole(k, "a step"))
        return type(self)(self._model, self._path, self._branch, k)

    def next(self, increment=1, propagate=False):
        """Moves this module (with `propagate` its submodules too) on to the next generation step,
        for the rest of the invoke; returns it.

        Behind the last step, where a loop may end, nothing is there to be seen: IndexError for what
        is looked at there, and for steps beyond. Raises RuntimeError outside an invoke.

        >>> with model.generate("The Eiffel Tower is in the city of", max_new_tokens=2):
        ...     first = model.lm_head.output.save()
        ...     second = model.lm_head.next().output.save()
        >>> first.value.shape[1] > second.value.shape[1]
        True
        """
        if self._step is not None:
            return self.step(self._step + increment)
        run = current_run(self._model)
        invoke = run.invoke_for(self._path or "the model")
        if run.iteration is not None:
            raise RuntimeError(f"{self._path or 'the model'}.next() inside an iteration: its step "
                               "is the iteration's, take .step(k) for another")
        moved = run.step_of(self._path) + whole(increment, "increment")
        if not run.has_step(moved) and not run.has_step(moved - 1):     # a loop ends there
            raise IndexError(f"{self._path or 'the model'} has no next step: {run.steps_text()}")
        invoke.steps[self._path] = moved
        if propagate or self._branch.is_list or not self._path:
            for path in self._model._paths_below(self._path, self._branch):
                invoke.steps[path] = moved
        return self

    @property
    def iter(self):
        """As `tracer.iter`, for this module and those below it: `with model.lm_head.iter[1:]:`."""
        return Iterations(current_run(self._model), self._path)

    def all(self):
        """As `tracer.all`, for this module and those below it.

        >>> with model.generate("The Eiffel Tower is in", max_new_tokens=3):
        ...     with model.transformer.h.all():
        ...         model.transformer.h[0].output[0][:] = 0
        ...     last = model.transformer.h[0].step(2).output[0].save()
        >>> bool(last.value.any())
        False
        """
        return Iteration(current_run(self._model), self._path, slice(None)).begin()

    def skip(self, replacement):
        """The module is left out: its output is `replacement`, a tensor or a tuple like its output,
        and nothing inside it can be looked at in this step.

        Raises RequestError, when the block ends, for a module that cannot be skipped (those that
        can are blocks, attn, mlp and layernorms) and for looking inside.

        >>> with model.trace("The Eiffel Tower is in the city of"):
        ...     before = model.transformer.h[0].output
        ...     model.transformer.h[1].skip(before)
        ...     after = model.transformer.h[1].output[0].save()
        ...     before = before[0].save()
        >>> bool((after == before.value).all())
        True
        """
        place = self._tensors("output") if "output" in self._branch.leaves else None
        if place is None:
            raise self._unknown("output")
        replacement = _not_inputs(replacement)
        if isinstance(place, tuple):
            place = place[0]
            replacement = replacement[0] if isinstance(replacement, tuple) else replacement
        run = place._run
        run.skip(self._path, place._node, operand(run, replacement))

    # The rest.

    def __call__(self, x):
        """What the module makes of a tensor, with the model's own numbers; no hook sees it.

        Layernorms, c_attn, c_proj, c_fc, act, mlp and lm_head take (..., width) of what they are
        given in the model and give a tensor; wte and wpe take ids. attn and a block take
        (..., T, D), the rows of a whole sequence from position 0 on, and give a tuple of one
        tensor, as their `.output` is.

        Raises TypeError for a module that computes nothing; RequestError, when the block ends, for
        another width or dtype.

        >>> with model.trace("The Eiffel Tower is in the city of"):
        ...     hidden = model.transformer.h[2].output[0][:, -1]
        ...     logits = model.lm_head(model.transformer.ln_f(hidden)).save()
        >>> logits.value.shape == (1, model.config.vocab)
        True
        """
        return applied(self, x)

    def __repr__(self):
        return "\n".join(drawn(self._path or "model", self._branch, self._model, 0))


class Modules(Module):
    """The list of blocks."""

    def __init__(self, *args):
        super().__init__(*args)
        self.__dict__.update(_blocks={})

    def __getitem__(self, i):
        if type(i) is int and i in self._blocks:
            return self._blocks[i]
        n = len(self)
        if isinstance(i, str):
            return getattr(self, i)
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(n))]
        i = whole(i, "a block's number")
        if not -n <= i < n:
            raise IndexError(f"{self._path}.{i} does not exist: this model has blocks 0 to {n - 1}")
        i %= n
        if i not in self._blocks:
            self._blocks[i] = Module(self._model, f"{self._path}.{i}", self._branch.children["*"],
                                     self._step)
        return self._blocks[i]

    def __len__(self):
        return self._model.config.n_blocks

    def __iter__(self):
        return (self[i] for i in range(len(self)))


def _tensors_of(run, path, leaf, nodes):
    if isinstance(leaf, Point):
        return Proxy(run, next(nodes))
    return Outputs([_tensors_of(run, f"{path}[{i}]", each, nodes) for i, each in enumerate(leaf)],
                   path, _replace)


def _not_inputs(value):
    """A module's input as the tensor that it is, for it looks like a tuple of outputs."""
    return value._tensor if isinstance(value, Inputs) else value


def _replace(place, value):
    run = place._run
    run.replace(place._node, operand(run, value))


def drawn(name, branch, model, depth):
    """The lines of a module's tree, blocks drawn once."""
    indent = "    " * depth
    if branch.is_list:
        yield f"{indent}{name}: blocks 0 to {model.config.n_blocks - 1}, each"
        branch = branch.children["*"]
    else:
        yield indent + name
    for leaf, points in sorted(branch.leaves.items()):
        yield f"{indent}    .{leaf} {_shapes(points)}"
    for child, below in branch.children.items():
        yield from drawn(child, below, model, depth + 1)


def _shapes(points):
    if isinstance(points, Parameter):
        return f"{points.shape}, a parameter"
    if isinstance(points, Point):
        return points.shape + ("" if points.writable else ", read only")
    return f"({', '.join(_shapes(p) for p in points)}{',' * (len(points) == 1)})"
