"""Results in dtypes that a server does not compute in: float16, bfloat16, float64 and int32."""
from __future__ import annotations

import numpy as np

# How each comes from a proxy: rounded by the server, so that what is converted back is what torch
# has, and cast exactly where it arrives. numpy has no bfloat16: its `.value` is float32.
_ROUNDED = {
    "float16": lambda x: x._op("to_float16", x),
    "bfloat16": lambda x: x._op("to_bfloat16", x),
    "float64": lambda x: x,
    "int32": lambda x: (x.long() << 32) >> 32,
}
_ARRAYS = {"float16": np.float16, "bfloat16": np.float32, "float64": np.float64, "int32": np.int32}
NAMES = tuple(_ROUNDED)


class Converted:
    """A tensor of a run as float16, bfloat16, float64 or int32: it can be saved, and converted back
    with .float(), .long(), .bool() or to(...). An op on it is a TypeError, since a server computes
    in float32, int64 and bool only.

    >>> with model.trace("Hello"):
    ...     x = (interpose.tensor([1.0, 2.0]) / 3).half().save()
    >>> x.value
    array([0.3333, 0.6665], dtype=float16)
    """

    __slots__ = ("_proxy", "_name")

    def __init__(self, proxy, name):
        self._proxy, self._name = proxy, name

    @classmethod
    def of(cls, proxy, name):
        """A proxy in the dtype of this name."""
        return cls(_ROUNDED[name](proxy), name)

    def save(self):
        """Asks for it: it comes back as `.value`, or as `.torch()`."""
        return Converted(self._proxy.save(), self._name)

    @property
    def value(self):
        """The saved tensor, a numpy array of its dtype, float32 for bfloat16."""
        return self._proxy.value.astype(_ARRAYS[self._name])

    def numpy(self):
        """The saved tensor, as `.value`."""
        return self.value

    def torch(self):
        """The saved tensor as torch's, of its dtype."""
        import torch
        return torch.from_numpy(self.value).to(getattr(torch, self._name))

    @property
    def shape(self):
        """The shape, a tuple of ints."""
        return tuple(self._proxy.shape)

    @property
    def dtype(self):
        """numpy's dtype; of bfloat16 its name, as numpy has none."""
        return self._name if self._name == "bfloat16" else np.dtype(_ARRAYS[self._name])

    def to(self, dtype):
        """As another dtype."""
        return self._proxy.to(dtype)

    def float(self):
        """As float32."""
        return self._proxy.float()

    def long(self):
        """As int64."""
        return self._proxy.long()

    def bool(self):
        """As bool."""
        return self._proxy.bool()

    def _refuse(self, wish):
        raise TypeError(f"{wish} of {self._name} is not offered: it is a dtype of results. Save "
                        "it, or convert it with .float() or .long() first")

    def _as_tensor(self):
        self._refuse("an op")

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        self._refuse(name)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.value, dtype=dtype)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        next(x for x in args if isinstance(x, Converted))._refuse(func.__name__)

    def __repr__(self):
        return f"<{self._name} of {self._proxy!r}>"


def _refused(name):
    def operator(self, *others):
        self._refuse(name)
    return operator


for _name in ("add sub mul truediv floordiv mod pow and or xor lshift rshift matmul").split():
    for _side in ("", "r", "i"):
        setattr(Converted, f"__{_side}{_name}__", _refused(_name))
for _name in "eq ne lt le gt ge neg pos abs invert getitem setitem len iter bool".split():
    setattr(Converted, f"__{_name}__", _refused(_name))
Converted.__hash__ = object.__hash__
