"""What a module's `.output` and `.input` are where they hold several tensors."""
from __future__ import annotations

from .proxy import OPERATORS, Proxy
from .values import is_number


class Outputs(tuple):
    """A module's tuple of outputs, proxies or tuples of them, as Hugging Face's modules return it.

    `outputs[0] = value` sets the whole tensor; `.shape`, `.save()` and `.value` are of all of them.
    """

    def __new__(cls, items, path, replace):
        self = super().__new__(cls, items)
        self._path = path
        self._replace = replace     # (places, value): sets the tensor at these places
        return self

    @property
    def shape(self):
        """The shapes of the tensors, nested as they are."""
        return tuple(item.shape for item in self)

    @property
    def value(self):
        """The saved values, nested as they are."""
        return tuple(item.value for item in self)

    def save(self):
        """Saves each tensor."""
        return Outputs([item.save() for item in self], self._path, self._replace)

    # As a proxy's own: see proxy.py.

    @property
    def _run(self):
        return self[0]._run

    def _each(self, verb, *args):
        return Outputs([getattr(item, verb)(*args) for item in self], self._path, self._replace)

    def _kept(self):
        return self._each("_kept")

    def _want(self):
        return self._each("_want")

    def _moved(self, run, made):
        return self._each("_moved", run, made)

    def _has_come(self):
        return all(item._has_come() for item in self)

    def _as_value(self):
        return tuple(item._as_value() for item in self)

    def __getitem__(self, i):
        if isinstance(i, slice) or hasattr(i, "__index__"):
            return tuple.__getitem__(self, i)
        raise TypeError(self._instead())

    def __setitem__(self, i, value):
        item = self[i]
        if isinstance(item, Proxy):
            self._replace(item, value)
        else:
            raise TypeError(f"{self._path}[{i}] is a tuple: set its tensors one by one")

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(f"{self._instead()}.{name}")

    def _as_tensor(self):
        raise TypeError(self._instead())

    def _instead(self):
        return f"{self._path} is a tuple of {len(self)}: its tensor is {self._path}[0]"

    def __repr__(self):
        return f"<{self._path}: ({', '.join(repr(item) for item in self)}{',' * (len(self) == 1)})>"


class Arguments(tuple):
    """A module's positional arguments, of which the first can be set."""

    def __new__(cls, tensor, replace):
        self = super().__new__(cls, (tensor,))
        self._replace = replace
        return self

    def __getitem__(self, i):
        if is_number(i) and i == 0:
            return tuple.__getitem__(self, 0)
        raise TypeError(f"{self._instead()}; the tensor's first row is input[0, ...]")

    def __setitem__(self, i, value):
        self._replace(self[i], value)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(f"{self._instead()}, and has the {name}")

    def _instead(self):
        return ("input[0] holds the module's arguments, of which there is one: its tensor is "
                "input[0][0], or input alone")


class Inputs(tuple):
    """A module's (args, kwargs), whose `[0][0]` is its tensor.

    Anything but [0] and [1] goes to that tensor: `.input.mean()`, `.input[:, -1]`, `.input + 1`.
    """

    def __new__(cls, tensor, replace):
        self = super().__new__(cls, (Arguments(tensor, replace), {}))
        self._tensor = tensor
        return self

    def _as_tensor(self):
        return self._tensor

    def __getitem__(self, key):
        if hasattr(key, "__index__") and not isinstance(key, (list, Proxy)):
            return tuple.__getitem__(self, key)
        return self._tensor[key]

    def __setitem__(self, key, value):
        if hasattr(key, "__index__"):
            raise TypeError("set the module's .input, or its .input[0][0]")
        self._tensor[key] = value

    def __getattr__(self, name):
        return getattr(self._tensor, name)

    def __repr__(self):
        return f"<input: (({self._tensor!r},), {{}})>"


class ModelOutput:
    """What the whole model returns: `.logits`, also as `[0]` and `["logits"]`, and
    `.past_key_values`, each block's pair of keys and values."""

    def __init__(self, model):
        self._model, self._logits = model, None

    @property
    def logits(self):
        """The logits, (B, T, V)."""
        return self._model.lm_head.output if self._logits is None else self._logits

    @logits.setter
    def logits(self, value):
        """Replaces the logits, as `model.lm_head.output = value`."""
        self._model.lm_head.output = value

    @property
    def past_key_values(self):
        """(keys, values) of each block."""
        return tuple(block.output[1] for block in self._model.transformer.h)

    def __getitem__(self, key):
        if key not in (0, "logits"):
            raise KeyError(f"the model's output has logits, as [0] or ['logits'], and no {key!r}")
        return self.logits

    def __getattr__(self, name):
        instead = {"loss": "write interpose.cross_entropy_loss(logits, ids)",
                   "hidden_states": "take each block's output[0]",
                   "attentions": "take each block's attn.pattern.output"}
        raise AttributeError(f"the model's output has logits and past_key_values, and no {name!r}"
                             + (f": {instead[name]}" if name in instead else ""))

    def save(self):
        """Saves the logits."""
        self._logits = self.logits.save()
        return self

    @property
    def value(self):
        """Itself: its logits have their value."""
        return self

    def __repr__(self):
        return f"<the model's output: logits {self._logits!r}>"


def _forward(name):
    return lambda self, *args: getattr(self._tensor, name)(*args)


def _refuse(name):
    def method(self, other):
        if isinstance(other, tuple) and name in ("__add__", "__radd__"):
            return getattr(tuple(self), name)(other)
        raise TypeError(self._instead())
    return method


for _op in (*OPERATORS, "matmul"):
    for _name in (f"__{_op}__", f"__r{_op}__"):
        setattr(Inputs, _name, _forward(_name))
        setattr(Outputs, _name, _refuse(_name))
        setattr(Arguments, _name, _refuse(_name))
for _op in ("neg", "abs", "invert", "eq", "ne", "lt", "le", "gt", "ge", "hash", "bool",
            "float", "int", "array"):
    setattr(Inputs, f"__{_op}__", _forward(f"__{_op}__"))
# They look at the arguments only.
Inputs.__array_ufunc__ = Proxy.__array_ufunc__
Inputs.__array_function__ = Proxy.__array_function__
Inputs.__torch_function__ = classmethod(Proxy.__torch_function__.__func__)
