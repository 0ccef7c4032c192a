"""`tracer.cache()`: the outputs, and inputs, of many modules, as they are when the model has
run."""
from __future__ import annotations

import collections.abc
import difflib

from .errors import NoValue

# Modules of ours, inside Hugging Face's attention and between its modules, and one that its
# attention does not call: cached if asked for by name.
_NOT_HUGGING_FACE_S = {"query", "key", "value", "scores", "pattern", "attn_dropout", "z", "result",
                       "mid", "generator"}


class Entry:
    """A module's `output`, and its `inputs`, (args, kwargs), of which `input` is the first; None
    where the cache leaves them out."""

    def __init__(self):
        self._output = self._input = None

    @property
    def output(self):
        """The output, an array or a tuple of them as the module returns it."""
        return None if self._output is None else self._output._as_value()

    @property
    def input(self):
        """The input, an array."""
        return None if self._input is None else self._input._as_value()

    @property
    def inputs(self):
        """The input as (args, kwargs)."""
        return None if self._input is None else ((self.input,), {})

    def __repr__(self):
        return f"<cached: output {self._output!r}, input {self._input!r}>"


class Cache(collections.abc.Mapping):
    """What each module gave: `cache["transformer.h.0"].output`, also with nnsight's "model." in
    front, or `cache.transformer.h[0].output`; where several tokens are generated, a list, one for
    each step.
    """

    def __init__(self, invoke, modules, include_output, include_inputs):
        self._invoke, self._modules = invoke, modules
        self._include = {"output": include_output, "input": include_inputs}
        self._entries = {}

    def write(self):
        """Saves what the cache holds, at the end of its invoke."""
        run = self._invoke.run
        for module in self._modules:
            branch, entries = module._branch, []
            for k in range(run.n_steps):
                entry, hidden = Entry(), self._hidden(module._path, k)
                for name, is_included in self._include.items():
                    if is_included and name in branch.leaves and name not in hidden:
                        tensors = getattr(module.step(k), name)
                        setattr(entry, "_" + name, getattr(tensors, "_tensor", tensors).save())
                entries.append(entry)
            self._entries[module._path] = entries[0] if run.n_steps == 1 else entries

    def save(self):
        """Itself: all that a cache holds comes back."""
        return self

    def _hidden(self, path, step):
        """What of a module cannot be looked at, because one is skipped."""
        skipped = [each for each, k in self._invoke.skipped if k == step]
        if any(path.startswith(each + ".") for each in skipped):
            return {"output", "input"}
        return {"input"} if path in skipped else ()

    def __getitem__(self, path):
        if self._invoke.run.is_open:
            raise NoValue(f"the cache has no values: {self._invoke.run.why_no_value()}")
        return self._entries[self._plain(path)]

    def __contains__(self, path):
        return self._plain(path) in self._entries

    def _plain(self, path):
        """A module's path without nnsight's "model." and without names of
        LanguageModel(rename=...)."""
        if path in self._entries or not isinstance(path, str):
            return path
        try:
            return self._invoke.run.model._root()._at(path.removeprefix("model."))._path
        except (AttributeError, IndexError, TypeError):
            return path

    def __iter__(self):
        return iter(self._entries)

    def __len__(self):
        return len(self._entries)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        root = CachedModule(self, self._invoke.run.model._root())
        return root if name == "model" else getattr(root, name)

    def __repr__(self):
        return f"<a cache of {len(self)} modules>"


class CachedModule:
    """A place in a cache's tree of modules: `cache.transformer.h[0]`."""

    def __init__(self, cache, module):
        self._cache, self._module = cache, module

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        if name in ("output", "input", "inputs"):
            entry = self._cache[self._module._path]
            return [getattr(e, name) for e in entry] if isinstance(entry, list) else (
                getattr(entry, name))
        return self._below(name, AttributeError)

    def __getitem__(self, key):
        if isinstance(key, str):
            return self._below(key, KeyError)
        if not self._module._branch.is_list:
            raise KeyError(f"{self._module._path} is no list of blocks")
        return CachedModule(self._cache, self._module[key])._found(IndexError)

    def _below(self, names, error):
        module = self._module
        for name in names.split("."):
            branch = module._branch
            if name in branch.leaves:
                raise error(f"{module._path}.{name} is not in the cache: output and inputs are")
            is_block = name.isdigit() and branch.is_list
            module = module[int(name)] if is_block else getattr(module, name)
        return CachedModule(self._cache, module)._found(error)

    def _found(self, error):
        path = self._module._path
        if not any(each == path or each.startswith(path + ".") for each in self._cache):
            raise error(f"{path} is not in the cache")
        return self


def chosen(model, modules):
    """The modules that a cache is of, given as modules or by name; all of Hugging Face's if
    None."""
    known = {module._path: module for module in model._root()._modules()}
    if modules is None:
        return [m for path, m in known.items() if not _NOT_HUGGING_FACE_S & set(path.split("."))]
    found = []
    for each in modules:
        path = each.removeprefix("model.") if isinstance(each, str) else each._path
        if path not in known:
            near = difflib.get_close_matches(path, known, 3)
            raise ValueError(f"{path} is no module with an output: did you mean "
                             f"{', '.join(near) or 'one that print(model) shows'}?")
        found.append(known[path])
    return found
