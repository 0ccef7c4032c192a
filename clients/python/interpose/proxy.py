"""What stands for a tensor while a request is written: every operation on it becomes a node."""
from __future__ import annotations

import difflib

import numpy as np

from . import converted
from .converted import Converted
from .current import current_run
from .errors import NoValue
from .finished import Value
from .graph import MAY_COPY
from .numeric import IN_PLACE, Numeric
from .spec import bind
from .values import constant, dtype_name, dtype_text, is_array_like, tensor_of, whole

# torch's and numpy's other names of ops.
ALIASES = {
    "multiply": "mul", "negative": "neg",
    "absolute": "abs", "fabs": "abs", "greater": "gt", "greater_equal": "ge", "less": "lt",
    "less_equal": "le", "equal": "eq", "not_equal": "ne", "power": "pow",
    "mod": "remainder", "invert": "bitwise_not", "rint": "round", "mm": "matmul", "bmm": "matmul",
    "left_shift": "bitwise_left_shift", "right_shift": "bitwise_right_shift", "fix": "trunc",
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arctan2": "atan2",
    "swapaxes": "transpose", "swapdims": "transpose", "expand_dims": "unsqueeze",
    "concatenate": "cat", "concat": "cat", "linalg_norm": "norm", "ravel": "flatten",
    "copy": "clone", "take_along_axis": "take_along_dim", "row_stack": "vstack", "ger": "outer",
    "linalg_diagonal": "diagonal", "expit": "sigmoid", "vdot": "dot", "around": "round",
    "array_equal": "equal", "linalg_matmul": "matmul",
}


class Proxy(Numeric):
    """A tensor of a run: of the model, or computed from others. Made by the contexts, not by hand.

    Python's operators, torch's methods and torch's and numpy's functions work on it and give new
    proxies; `x[...] = v`, `x += v` and `x.add_(v)` change what x is a view of, the model's own
    activation included. `.shape`, `.dtype`, `.ndim` and len() are known before anything has run.

    A server computes in float32, int64 and bool, with torch's rules of promotion and broadcasting.
    Python raises TypeError, ValueError or IndexError for what it can see to be wrong; all else that
    does not fit is a RequestError at its line, when the block ends.

    >>> with model.trace("The Eiffel Tower is in the city of"):
    ...     x = model.transformer.h[0].mlp.output           # (B, T, D), float32
    ...     x[:, -1] *= 0.5
    ...     norms = x.norm(dim=-1).save()                   # (B, T)
    >>> norms.value.shape, norms.value.dtype
    ((1, 10), dtype('float32'))
    """

    __slots__ = ("_run", "_node", "_save")

    def __init__(self, run, node, save=None):
        self._run, self._node, self._save = run, node, save
        recording = run.writer.recording
        if recording is not None:
            recording.proxies.append(self)

    # What is known before the run.

    @property
    def shape(self):
        """The shape, a tuple of ints: asked of the server, which plans the request so far."""
        return self._run.planned(self._node).shape

    @property
    def dtype(self):
        """numpy's dtype: float32, int64 or bool."""
        return np.dtype(self._run.planned(self._node).dtype)

    @property
    def ndim(self):
        """The number of dimensions."""
        return len(self.shape)

    @property
    def device(self):
        """Where torch's tensors that go along with this one live: on the CPU."""
        return "cpu"

    @property
    def data(self):
        """Itself: there are no gradients."""
        return self

    @property
    def requires_grad(self):
        """False: there are no gradients."""
        return False

    def is_floating_point(self):
        """Whether the dtype is float32."""
        return self.dtype.kind == "f"

    def dim(self):
        """The number of dimensions, as torch spells it."""
        return self.ndim

    def size(self, dim=None):
        """The shape, or one dimension's size."""
        return self.shape if dim is None else self.shape[whole(dim, "dim")]

    ndimension = dim

    def numel(self):
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    nelement = numel

    def is_contiguous(self):
        """True: how it lies in memory is the server's business."""
        return True

    def __len__(self):
        if not self.shape:
            raise TypeError(f"{self._label()} has no dimensions, and so no length: torch.stack "
                            "makes one tensor of several")
        return self.shape[0]

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    # What is known after it.

    def save(self):
        """Asks for this tensor as it is at this point of the program: it comes back as `.value`.

        Returns a proxy of the same tensor, so that `x = model.lm_head.output.save()` reads well.

        >>> with model.trace("Hello"):
        ...     logits = model.lm_head.output
        ...     before = logits.max().save()
        ...     logits[:] = 0
        ...     after = logits.max().save()
        >>> float(before) != 0, float(after)
        (True, 0.0)
        """
        self._run.saved.append(self)
        return self._kept(optional=False)._want()

    @property
    def value(self):
        """The saved tensor, a numpy array; NoValue before the run or where nothing was saved. One
        without dimensions is an array that torch's tensors take too: scores[3, 1] = x.value."""
        save = self._last_save()
        if save is None:
            raise NoValue(f"{self._label()} was not saved: call .save() inside the block")
        missing = save.missing
        if save.condition is not None and save.condition.value is not None and (
                not save.condition.value):
            missing = "the condition of its tracer.cond was false"
        if save.optional:
            missing = "its list was not saved, call .save() on that inside the block"
        if save.value is None or missing:
            raise NoValue(f"{self._label()} has no value: {missing or self._run.why_no_value()}")
        return save.value if save.value.ndim else save.value.view(Value)

    # Between the block and its values. A proxy is `kept` when it is copied as it is at a point of
    # the program, and comes back if it is `wanted`; it has `come` when its value is there.

    def _last_save(self):
        return self._save or (self._node.saves[-1] if self._node.saves else None)

    def _kept(self, optional=True):
        save = self._run.add("save", [self._node], optional=optional)
        self._node.saves = (*self._node.saves, save)
        return Proxy(self._run, self._node, save)

    def _want(self):
        self._save.optional = False
        self._run.saved.append(self)
        return self

    def _moved(self, run, made):
        """What this is in what a recording has written again."""
        node, save = made.get(self._node, self._node), made.get(self._save, self._save)
        if save is not self._save:
            node.saves = (*node.saves, save)
        return Proxy(run, node, save)

    def _move(self, made):
        """This name stands for what a recording has written again."""
        save = made.get(self._save, self._save)
        self._node = made.get(self._node, self._node)
        if save is not self._save:
            self._node.saves = (*self._node.saves, save)
            self._save = save

    def _has_come(self):
        try:
            return self.value is not None
        except NoValue:
            return False

    def _as_value(self):
        return self.value.view(Value)

    def _settle(self):
        """The run has ended: this is its value from here on, if that has come."""
        if self._has_come():
            self.__class__ = Finished

    def torch(self):
        """The saved tensor as torch's, sharing memory with `.value`."""
        import torch
        return torch.from_numpy(self.value)

    def numpy(self):
        """The saved tensor, as `.value`."""
        return self._now("numpy()")

    def _now(self, wish, instead=""):
        """The value for something that needs it at once."""
        if self._run.is_ahead:
            raise NoValue(f"{wish} needs a value now, and nothing has run yet: save "
                          f"{self._label()} and use its .value behind the block{instead}")
        return self.value

    def __array__(self, dtype=None, copy=None):
        return np.array(self._now("a numpy array"), dtype=dtype)

    def __dlpack__(self, **options):
        return self._now("a tensor of torch's own", ", or leave torch.tensor out, for torch's "
                         "functions take it as it is").__dlpack__(**options)

    def __dlpack_device__(self):
        return np.empty(0).__dlpack_device__()

    def __float__(self):
        return float(self._now("float()"))

    def __int__(self):
        return int(self._now("int()"))

    def __index__(self):
        return self._now("an index").__index__()

    def __format__(self, spec):
        return format(self._now(f"the format {spec!r}"), spec) if spec else str(self)

    def __bool__(self):
        return bool(self._now("`if` (and `and`, `or`, `not`, bool())",
                              ", or choose by it there: `with tracer.cond(x):`, x.where(...), &, "
                              "|, ~"))

    def item(self):
        """The one element of a tensor that has one: Python's number after the run, before it a
        value of the run without dimensions.

        >>> with model.trace("Hello"):
        ...     norm = model.transformer.h[0].output[0].norm().item().save()
        >>> norm.item() > 0
        True
        """
        if not self._run.is_ahead:
            return self.value.item()
        if self.numel() != 1:
            raise ValueError(f"item() takes a tensor of one element: not {self.shape}")
        return self.reshape(()) if self.shape else self

    def tolist(self):
        """The saved tensor as nested lists, after the run."""
        return self._now("tolist()").tolist()

    def __contains__(self, item):
        raise TypeError("`in` needs a value now: save the tensor and look in its .value")

    def __reduce_ex__(self, protocol):
        raise TypeError("a proxy cannot be copied or pickled: it belongs to one run")

    def __hash__(self):
        return id(self)

    def _label(self):
        return self._node.label()

    def __repr__(self):
        value = f" = {self.value!r}" if self._has_come() else ""
        return f"<proxy of {self._label()}{value}>"

    # Reading and changing parts. indexing.py and functions.py, which are made of proxies, are
    # imported where they are called: they cannot be there before this file.

    def __getitem__(self, key):
        from . import indexing
        index = indexing.basic_of(key)
        if index is None:
            return indexing.pick(self, key)
        return apply(self._run, "getitem", [self, index])

    def __setitem__(self, key, value):
        from . import indexing
        index = indexing.basic_of(key)
        if index is None:
            indexing.put(self, key, value)
        elif not self._was_changed_by(index, value):
            self[key]._assign(value)

    def _was_changed_by(self, index, value):
        """Whether this is the second half of `x[...] += v`: Python has set x[...] to itself."""
        if not isinstance(value, Proxy) or value._run.graph is not self._run.graph:
            return False
        node = value._node
        return (node.op == "getitem" and node.args[0] is self._run.graph.used(self._node)
                and node.args[1] == index and self._run.graph.ends_with_set_of(node))

    def _assign(self, value):
        self._run.add("set", [self._node, operand(self._run, value)])
        return self

    def _change(self, value):
        """As _assign, of what an in-place op gives: it must fit the dtype as it is."""
        self._run.add("set", [self._node, operand(self._run, value), True])
        return self

    def copy_(self, value):
        """Sets every element, as x[...] = value."""
        return self._assign(value)

    def masked_fill_(self, mask, value):
        """Sets the elements where the mask holds."""
        return self._assign(self.masked_fill(mask, value))

    def fill_(self, value):
        """Sets every element to one number."""
        return self._assign(value)

    def zero_(self):
        """Sets every element to 0."""
        return self._assign(0)

    def _op(self, name, *args, optional=False):
        return apply(self._run, name, args, optional=optional)

    # Every other method is an op of the server's table; these, and those of Numeric, have torch's
    # own conventions.

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        ops = self._run.spec.ops
        op = ops.get(ALIASES.get(name, name))
        if op is not None and op.kind != "effect":
            return Method(self, op.name)
        if name in ("unsqueeze_", "squeeze_", "transpose_", "swapaxes_", "swapdims_", "t_"):
            raise AttributeError(f"{name}() would give x itself another shape: write x = "
                                 f"x.{name[:-1]}(...)")
        if name.endswith("_") and name[:-1] in IN_PLACE:
            change = getattr(self, name[:-1])
            return lambda *args, **kwargs: self._change(change(*args, **kwargs))
        if name in self._run.spec.refused:
            raise AttributeError(no_shape(self._run, name))
        if name in ("grad", "backward", "requires_grad", "requires_grad_", "retain_grad",
                    "register_hook"):
            raise AttributeError(f"{name} is not offered: a server computes no gradients")
        near = difflib.get_close_matches(name, dir(self), 3)
        raise AttributeError(f"a proxy has no {name!r}"
                             + (f": did you mean {', '.join(near)}?" if near else ""))

    def __dir__(self):
        ops = (op.name for op in self._run.spec.ops.values() if op.kind != "effect")
        return sorted({*super().__dir__(), *ops})

    def where(self, condition, other):
        """This where the condition holds, else `other`."""
        return apply(self._run, "where", [condition, self, other])

    def masked_fill(self, mask, value):
        """`value` where the mask holds, else this, promoted as by where."""
        return apply(self._run, "where", [mask, value, self])

    @property
    def T(self):
        """The dimensions in reverse order."""
        return self.permute(*reversed(range(self.ndim)))

    @property
    def mT(self):
        """The last two dimensions transposed."""
        return self.transpose(-2, -1)

    def to(self, *args, dtype=None, device=None, non_blocking=False, copy=False, **unsupported):
        """As another dtype; a device is the server's business, and ignored."""
        if unsupported:
            raise TypeError(f"to() has no parameter {next(iter(unsupported))!r}")
        if copy:
            return self.clone().to(*args, dtype=dtype)
        for arg in args:
            if hasattr(arg, "dtype") and not isinstance(arg, type):     # as that tensor is
                dtype = arg.dtype
            elif not is_device(arg):
                dtype = arg
        if dtype is None:
            return self
        name = dtype_text(dtype)
        return (Converted.of(self, name) if name in converted.NAMES
                else apply(self._run, "to", [self, name]))

    type = to
    astype = to

    def type_as(self, other):
        """As the dtype of another."""
        return self.to(other.dtype)

    def float(self):
        """As float32."""
        return apply(self._run, "to", [self, "float32"])

    def long(self):
        """As int64."""
        return apply(self._run, "to", [self, "int64"])

    def int(self):
        """As int32, to be saved: a server computes in int64, which is long(). What int32 does not
        hold wraps."""
        return Converted.of(self, "int32")

    def half(self):
        """As float16, to be saved."""
        return Converted.of(self, "float16")

    def bfloat16(self):
        """As bfloat16, to be saved: `.torch()` has that dtype, `.value` is float32."""
        return Converted.of(self, "bfloat16")

    def double(self):
        """As float64, to be saved: the numbers are those of float32, or of int64."""
        return Converted.of(self, "float64")

    def bool(self):
        """As bool."""
        return apply(self._run, "to", [self, "bool"])

    def detach(self):
        """Itself: there are no gradients."""
        return self

    def conj(self):
        """Itself: nothing is complex."""
        return self

    positive = conj

    def cpu(self):
        """Itself: where it is computed is the server's business."""
        return self

    def cuda(self, device=None):
        """Itself: where it is computed is the server's business."""
        return self

    def contiguous(self):
        """Itself: how it lies in memory is the server's business. So it stays a view where torch
        would copy, as of a transpose: `clone()` before changing what shall be apart."""
        return self

    # torch's and numpy's functions, and arrays on the left of an operator.

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        from .functions import call_by_name
        if func.__name__ == "equal":    # numpy's is element by element
            return as_proxy(args[0]).equal(*args[1:])
        return call_by_name(func.__name__, args, kwargs or {})

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        from .functions import call_by_name
        if method != "__call__":
            raise TypeError(f"numpy.{ufunc.__name__}.{method} is not offered on proxies")
        if kwargs.get("out"):   # array += x, too
            raise TypeError("an array of yours cannot become what the run has not computed yet: "
                            "write array = array + x, or change it behind the run, by the .value")
        return call_by_name(ufunc.__name__, inputs, kwargs)

    def __array_function__(self, func, types, args, kwargs):
        from .functions import call_by_name
        name = func.__name__
        if name in ("shape", "ndim"):
            return getattr(as_proxy(args[0]), name)
        if name == "median":
            raise TypeError("numpy.median is not offered on proxies: torch.median gives the lower "
                            "of two in the middle")
        if name in ("var", "std"):
            kwargs = {**kwargs, "correction": kwargs.get("ddof", 0), "ddof": None}
        theirs = {"max": "amax", "min": "amin",     # numpy's have no indices, or mean other things
                  "dot": "numpy_dot",
                  "norm": "linalg_norm", "repeat": "repeat_interleave", "split": "tensor_split",
                  "array_split": "tensor_split"}
        result = call_by_name(theirs.get(name, name), args, kwargs)
        return result.values if name == "sort" else result

    # Python's operators.

    def __neg__(self):
        return apply(self._run, "neg", [self])

    def __pos__(self):
        return self

    def __abs__(self):
        return apply(self._run, "abs", [self])

    def __invert__(self):
        return apply(self._run, "bitwise_not", [self])

    def __round__(self, digits=None):
        return self.round(digits or 0)

    def __divmod__(self, other):
        return self // other, self % other

    def __rdivmod__(self, other):
        return other // self, other % self

    def __matmul__(self, other):
        return apply(self._run, "matmul", [self, other])

    def __rmatmul__(self, other):
        return apply(self._run, "matmul", [other, self])


class Method:
    """An op of the table as a method of a proxy."""

    __slots__ = ("_proxy", "_op")

    def __init__(self, proxy, op):
        self._proxy, self._op = proxy, op

    def __call__(self, *args, **kwargs):
        return apply(self._proxy._run, self._op, [self._proxy, *args], kwargs)

    def __repr__(self):
        return f"<op {self._op} of {self._proxy!r}>"


# Python's names of its operators of two, and the ops that they are.
OPERATORS = {"add": "add", "sub": "sub", "mul": "mul", "truediv": "div",
             "floordiv": "floor_divide", "mod": "remainder", "pow": "pow", "and": "bitwise_and",
             "or": "bitwise_or", "xor": "bitwise_xor", "lshift": "bitwise_left_shift",
             "rshift": "bitwise_right_shift"}


def _give_operators():
    """x + v, v + x and x += v for each operator, and the comparisons."""
    def forward(op):
        return lambda self, other: apply(self._run, op, [self, other])

    def reflected(op):
        return lambda self, other: apply(self._run, op, [other, self])

    def in_place(op):
        return lambda self, other: self._change(apply(self._run, op, [self, other]))

    for name, op in OPERATORS.items():
        setattr(Proxy, f"__{name}__", forward(op))
        setattr(Proxy, f"__r{name}__", reflected(op))
        setattr(Proxy, f"__i{name}__", in_place(op))
    for op in ("eq", "ne", "lt", "le", "gt", "ge"):
        setattr(Proxy, f"__{op}__", forward(op))


_give_operators()


class Finished(Proxy):
    """A saved proxy behind its run: it acts as its value, a numpy array that torch takes too."""

    __slots__ = ()

    _OWN = {"value", "torch", "numpy", "item", "tolist", "save", "shape"}

    def __getattribute__(self, name):
        if name.startswith("_") or name in Finished._OWN:
            return object.__getattribute__(self, name)
        return getattr(self._as_value(), name)

    def __dir__(self):
        return dir(self.value)

    def __str__(self):
        return str(self.value)

    @property
    def shape(self):
        """The value's shape."""
        return self.value.shape

    def save(self):
        """Itself: it has been saved."""
        return self

    def __getitem__(self, key):
        return self._as_value()[_plain(key)]

    def __setitem__(self, key, value):
        self.value[_plain(key)] = _plain(value)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return Value.__torch_function__(func, types, _plain(args), _plain(kwargs or {}))

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        return getattr(ufunc, method)(*_plain(inputs), **_plain(kwargs))

    def __array_function__(self, func, types, args, kwargs):
        return func(*_plain(args), **_plain(kwargs))

    def __contains__(self, item):
        return item in self.value

    def __reduce_ex__(self, protocol):
        return np.asarray(self.value).__reduce_ex__(protocol)


def _plain(x):
    """The same with values in the place of finished proxies."""
    if isinstance(x, Finished):
        return x._as_value()
    if isinstance(x, (list, tuple)):
        return type(x)(map(_plain, x))
    return {k: _plain(v) for k, v in x.items()} if isinstance(x, dict) else x


def _give_operators_of_arrays():
    """The operators of arrays, for which Python looks at the class."""
    def operator(name):
        return lambda self, *args: getattr(self._as_value(), name)(*_plain(args))

    names = [f"__{side}{op}__" for op in OPERATORS for side in ("", "r", "i")]
    for name in [*names, *(f"__{op}__" for op in (
            "eq", "ne", "lt", "le", "gt", "ge", "neg", "pos", "abs", "invert", "matmul", "rmatmul",
            "len", "iter"))]:
        setattr(Finished, name, operator(name))


_give_operators_of_arrays()


# From a call to a node.

def apply(run, name, args, kwargs=None, optional=False):
    """Adds the node of an op of the table, its parameters by position or name; gives its proxy."""
    op = run.spec.ops[name]
    kwargs = dict(kwargs or {})
    if kwargs.get("dtype") is not None and all(p.name != "dtype" for p in op.params) and args:
        args = [apply(run, "to", [args[0], kwargs.pop("dtype")]), *args[1:]]
    for ignored in ("out", "dtype", "_stacklevel", "where"):    # torch's and numpy's own defaults
        if kwargs.get(ignored) is None or ignored == "_stacklevel":
            kwargs.pop(ignored, None)
    given = {p: _convert(run, op, p, v) for p, v in bind(op, args, kwargs).items()}
    first = given.get(op.params[0].name)
    if isinstance(first, dict) and (op.kind == "view" or name == "to"):     # nobody else's constant
        given[op.params[0].name] = run.add("clone", [first])
    in_order = []
    for param in op.params:
        if param.name not in given:
            break
        in_order.append(given.pop(param.name))
    is_view = op.kind == "view" or op.name in MAY_COPY
    node = run.add(op.name, in_order, given, optional=optional, is_view=is_view)
    return Proxy(run, node)


def _convert(run, op, name, value):
    kind = next(p.kind for p in op.params if p.name == name)
    what = f"{op.name}: {name}"
    if kind == "tensor":
        return operand(run, value)
    if kind == "tensors":
        return [operand(run, item) for item in value]
    if kind == "int":
        return whole(value, what)
    if kind == "ints":
        return [whole(i, what) for i in value] if is_listed(value) else whole(value, what)
    if kind == "bool":
        return bool(value)
    if kind == "dtype":
        return dtype_name(value)
    return value    # an Index, made by __getitem__


def operand(run, value):
    """What stands for a tensor among a node's arguments: a node, a number, a constant."""
    value = tensor_of(value)
    if isinstance(value, Finished) and value._run is not run:
        value = value.value
    if isinstance(value, Proxy):
        if value._run.graph is not run.graph:
            if value._run.is_open and not run.is_ahead:
                raise ValueError(f"{value._label()} meets a value of a run that has ended: save "
                                 "that one there and use its .value here")
            raise ValueError(f"{value._label()} is of another run: save it there and use its "
                             ".value here")
        return value._node
    if not is_array_like(value):
        raise TypeError(f"a tensor, an array or a number is needed here, not {value!r:.80}")
    if run.fills:
        run.refuse_unfilled(value)
    return constant(value)


# What is made of ops, by name, with the arguments of its example, in which x is (2, 3).
COMPOSED, OF_RUN = {}, {}


def method(arguments):
    """Makes a function of a tensor a method of proxies, and torch's function of its name."""
    def give(made):
        COMPOSED[made.__name__] = made, arguments
        setattr(Proxy, made.__name__, made)
        return made
    return give


def only_method(made):
    """Makes a function of a tensor a method of proxies, and no function of torch's."""
    setattr(Proxy, made.__name__, made)
    return made


def function(arguments):
    """Makes a function of a run and of tensors, of which any may be the proxy, torch's of its
    name."""
    def give(made):
        COMPOSED[made.__name__] = made, arguments
        OF_RUN[made.__name__] = made
        return made
    return give


def proxy_of(run, value):
    """The proxy that stands for a tensor, an array or a number."""
    value = tensor_of(value)
    return value if isinstance(value, Proxy) else apply(run, "clone", [value])


def no_shape(run, name):
    """Why there is nothing of this name, from the server's table."""
    return (f"{name} is not offered: the shape of its result depends on values, and every shape is "
            f"known before a run; {run.spec.refused[name]}")


def as_proxy(x):
    """A proxy as it is; what is none becomes a tensor of the run that is open."""
    x = tensor_of(x)
    return x if isinstance(x, Proxy) else proxy_of(current_run(), x)


def is_listed(value):
    """Whether a call has several integers in one argument."""
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 1


def is_device(arg):
    """Whether a call says where a tensor shall live."""
    return (type(arg).__name__ == "device"
            or isinstance(arg, str) and arg.partition(":")[0] in ("cpu", "cuda", "mps"))


