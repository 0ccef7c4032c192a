"""Each op as a function: `interpose.softmax(x, dim=-1)`, made from the table of ops.

torch's and numpy's own functions on proxies arrive here too, by their names.
"""
from __future__ import annotations

import difflib
import inspect
import json
import os

from . import activations, functional, making, products, views     # they give methods, too
from . import einops    # behind them: its `repeat` is the function of that name, torch's a method
from .current import current_run
from .einsum import einsum
from .proxy import ALIASES, COMPOSED, OF_RUN, OPERATORS, Proxy, apply, as_proxy, no_shape, proxy_of
from .spec import Op

# One sentence for each op that a formula does not say as well.
_MEANING = {
    "neg": "-x", "abs": "|x|", "sign": "-1, 0 or 1", "square": "x * x", "exp": "e to the power x",
    "exp2": "2 to the power x", "expm1": "exp(x) - 1, exact for small x",
    "log": "the natural logarithm", "log2": "the logarithm to base 2",
    "log10": "the logarithm to base 10", "log1p": "log(1 + x), exact for small x",
    "tan": "the tangent", "asin": "the angle whose sine x is",
    "acos": "the angle whose cosine x is", "atan": "the angle whose tangent x is",
    "atan2": "the angle of the point (y, x): x over y, its quadrant by their signs",
    "erf": "the error function", "trunc": "rounded towards zero",
    "to_float16": "the nearest number that float16 has, as float32",
    "to_bfloat16": "the nearest number that bfloat16 has, as float32",
    "isfinite": "whether x is neither infinite nor NaN", "fmod": "x % y, with x's sign",
    "logical_xor": "whether one is non-zero and the other not",
    "bitwise_left_shift": "x << y", "bitwise_right_shift": "x >> y, with x's sign",
    "random": "64 random bits of the seed x at the place y: Philox4x32-10 of Salmon et al., with "
              "the seed as key and the place as counter",
    "prod": "the product over dimensions, of all elements if none is given",
    "cumsum": "sums of the elements of a dimension up to each, added in double",
    "cumprod": "products of the elements of a dimension up to each, in double",
    "sqrt": "the square root", "rsqrt": "1 / sqrt(x)",
    "reciprocal": "1 / x", "tanh": "the hyperbolic tangent", "sigmoid": "1 / (1 + exp(-x))",
    "relu": "x where it is positive, else 0", "gelu_new": "GPT-2's activation, the tanh GELU",
    "sin": "the sine", "cos": "the cosine", "floor": "rounded down", "ceil": "rounded up",
    "round": "rounded to the nearest integer, halves to even", "isnan": "whether x is NaN",
    "isinf": "whether x is infinite", "logical_not": "whether x is zero",
    "bitwise_not": "~x", "add": "x + y", "sub": "x - y", "mul": "x * y",
    "div": "x / y, of float32", "floor_divide": "x // y", "remainder": "x % y, with y's sign",
    "pow": "x ** y", "maximum": "the greater of x and y", "minimum": "the lesser of x and y",
    "eq": "x == y", "ne": "x != y", "lt": "x < y", "le": "x <= y", "gt": "x > y", "ge": "x >= y",
    "logical_and": "whether both are non-zero", "logical_or": "whether one is non-zero",
    "bitwise_and": "x & y", "bitwise_or": "x | y", "bitwise_xor": "x ^ y",
    "getitem": "x[index], a view", "transpose": "two dimensions exchanged, a view",
    "permute": "the dimensions in another order, a view",
    "diagonal": "the elements whose places in dim1 and dim2 are offset apart, a view",
    "unfold": "windows of size elements of a dimension, step apart, as a last dimension: a view",
    "view": "the same elements in another shape, refused where that would need a copy",
    "reshape": "the same elements in another shape, a view where that can be",
    "flatten": "dimensions start_dim to end_dim as one", "unsqueeze": "a new dimension of size 1",
    "squeeze": "without dimensions of size 1", "expand": "dimensions of size 1 repeated, a view",
    "clone": "a copy", "to": "as another dtype", "where": "x where the mask holds, else y",
    "cat": "tensors one behind the other along a dimension",
    "stack": "tensors one behind the other along a new dimension",
    "sum": "the sum over dimensions, of all elements if none is given",
    "mean": "the mean over dimensions, of all elements if none is given",
    "max": "the greatest element; with dim, the pair (values, indices)",
    "min": "the least element; with dim, the pair (values, indices)",
    "argmax": "where the greatest element is", "argmin": "where the least element is",
    "norm": "the Euclidean norm over dimensions, of all elements if none is given",
    "logsumexp": "log(sum(exp(x))) over dimensions, without overflow",
    "topk_values": "the k greatest elements of a dimension in order, or the least; NaN is greatest",
    "topk_indices": "where they are; of equals the first comes first",
    "gather": "x at the index along a dimension, element by element: an index out of range is "
              "refused, and where the graph computes it, it ends the run",
    "index_select": "the elements of a dimension that the index names, one behind the other",
    "wrap_index": "places in a dimension of this size, counted from its front: -1 is the last; one "
                  "out of range is refused, and where the graph computes it, it ends the run",
    "scatter": "x with src written at the index along a dimension, of equal places the last one",
    "scatter_add": "x with src added at the index along a dimension, in the order of the index",
    "softmax": "exp(x) / sum(exp(x)) over a dimension",
    "log_softmax": "log(softmax(x)) over a dimension", "matmul": "the matrix product x @ y",
    "apply": "what a module of the model makes of x, by its path: `module(x)` says the same",
}

_TYPES = {
    "same": "Takes float32, int64 and bool; the result has the operands' promoted dtype.",
    "number": "Takes float32 and int64; the result has the operands' promoted dtype.",
    "real": "Gives float32; other dtypes are converted to it.",
    "bits": "Takes int64 and bool.",
    "whole": "Takes int64.",
    "compare": "Gives bool.",
}

_ARGUMENTS = {  # of the examples, by the kind of a parameter; x is (2, 3)
    "tensor": "x", "tensors": "[x, x]", "dtype": "'int64'", "bool": "True", "int": "-1",
}
_EXAMPLES = {   # where those would not do
    "transpose": "(x, 0, 1)", "permute": "(x, (1, 0))", "reshape": "(x, (3, 2))",
    "expand": "(x, (4, 2, 3))", "unsqueeze": "(x, 0)", "flatten": "(x)", "squeeze": "(x)",
    "matmul": "(x, x.T)", "where": "(x > 0, x, 0)", "softmax": "(x, dim=-1)",
    "log_softmax": "(x, dim=-1)", "cat": "([x, x], dim=0)", "stack": "([x, x], dim=0)",
    "logsumexp": "(x, dim=-1)", "topk_values": "(x, 2)", "topk_indices": "(x, 2, largest=False)",
    "view": "(x, (3, 2))", "diagonal": "(x)", "unfold": "(x, 1, 2, 1)",
    "wrap_index": "([0, -1], 3)", "scatter": "(x, -1, x.argmax(-1, keepdim=True), 0.0)",
    "scatter_add": "(x, -1, x.argmax(-1, keepdim=True), 1.0)",
    "gather": "(x, -1, x.argmax(-1, keepdim=True))", "index_select": "(x, -1, [2, 0])",
    "sum": "(x, dim=-1)", "mean": "(x, dim=-1)", "norm": "(x, dim=-1)", "max": "(x)",
    "min": "(x)", "argmax": "(x, dim=-1)", "argmin": "(x, dim=-1)",
    "apply": "(model.transformer.h[0].output[0], 'transformer.ln_f')",
    "bitwise_and": "(x > 0, x < 2)", "bitwise_or": "(x > 0, x < 2)",
    "bitwise_left_shift": "(x.long(), 2)", "bitwise_right_shift": "(x.long(), 1)",
    "random": "(0, x.long())", "bitwise_xor": "(x > 0, x < 2)", "bitwise_not": "(x > 0)",
}


def function_of(op):
    """The function of one row of the table."""
    def function(*args, **kwargs):
        return _call(op.name, args, kwargs)

    function.__name__ = function.__qualname__ = op.name
    function.__module__ = "interpose"
    function.__signature__ = inspect.Signature([
        inspect.Parameter(p.name, inspect.Parameter.POSITIONAL_OR_KEYWORD,
                          default=None if p.optional else inspect.Parameter.empty)
        for p in op.params])
    arguments = _EXAMPLES.get(op.name) or "({})".format(
        ", ".join(_ARGUMENTS[p.kind] for p in op.params if not p.optional))
    function.__doc__ = _doc(
        op.name, arguments, f"""{_MEANING.get(op.name, op.name)}

        {_TYPES.get(op.types, "Takes every dtype that torch's function takes.")}
        Shapes follow torch's rules: operands broadcast, dimensions count from either end.
        Raises RequestError, when the block ends, where shapes or dtypes do not fit.""")
    return function


def _doc(name, arguments, text):
    return f"""{text}

        >>> with model.trace("Hello"):
        ...     x = interpose.tensor([[1.0, 2.0, 0.5], [-1.0, 0.25, 3.0]])
        ...     y = interpose.{name}{arguments}
        ...     y = (y[0] if isinstance(y, tuple) else y).save()
        >>> y.value.shape == y.shape
        True
        """


def function_of_composed(name, made, arguments):
    """The function of what is made of ops: of a method, or of a run and tensors."""
    def function(*args, **kwargs):
        return _call(name, args, kwargs)

    parameters = list(inspect.signature(made).parameters.values())
    function.__name__ = function.__qualname__ = name
    function.__module__ = "interpose"
    function.__signature__ = inspect.Signature(parameters[1:] if name in OF_RUN else parameters)
    function.__doc__ = _doc(name, f"({arguments})", f"""{inspect.getdoc(made)}

        Means what torch's function of the same name means; any of its tensors may be the proxy.
        Raises ValueError or IndexError where shapes or places do not fit, RequestError where only
        the server finds that.""")
    return function


def table():
    """The ops that this package knows without having asked a server."""
    with open(os.path.join(os.path.dirname(__file__), "ops.json"), encoding="utf-8") as file:
        return [Op.of(row) for row in json.load(file)]


FUNCTIONS = {op.name: function_of(op) for op in table()
             if op.kind != "effect" and op.name != "getitem"}
FUNCTIONS.update((name, function_of_composed(name, *row)) for name, row in COMPOSED.items())


def tensor(data, dtype=None):
    """A tensor of the run from an array, a torch tensor, a number or nested lists.

    Floats of any width become float32, integers int64. Use it where a function has no proxy among
    its arguments, or to send a constant once that is used often.

    Raises TypeError for anything that is not numbers, RuntimeError outside a run.

    >>> with model.trace("Hello"):
    ...     x = (interpose.tensor([1.0, 2.0]) * 2).save()
    >>> x.value
    array([2., 4.], dtype=float32)
    """
    run = current_run()
    if isinstance(data, Proxy):
        return data if dtype is None else data.to(dtype)
    x = apply(run, "clone", [data])
    return x if dtype is None else x.to(dtype)


def topk(x, k, dim=-1, largest=True, sorted=True):
    """The k greatest (or least) elements of a dimension and their places, in order: a named pair.

    >>> with model.trace("Hello"):
    ...     values, indices = interpose.topk(model.lm_head.output[0, -1], 3).save()
    >>> values.value.shape, indices.value.dtype
    ((3,), dtype('int64'))
    """
    return _call("topk", [x, k, dim, largest], {})


# torch's and numpy's functions that neither the table of ops nor those of proxy.py have.
_OTHERS = {"einsum": einsum, "topk": topk, "gelu": activations.gelu, "silu": activations.silu,
           "softplus": activations.softplus, "leaky_relu": activations.leaky_relu,
           "log_sigmoid": activations.logsigmoid, "one_hot": making.one_hot,
           "zeros_like": making.zeros_like, "ones_like": making.ones_like,
           "full_like": making.full_like, "rand_like": making.rand_like,
           "randn_like": making.randn_like, "linalg_norm": activations.linalg_norm,
           "linalg_vector_norm": activations.vector_norm, "dropout": activations.dropout,
           "numpy_dot": products.numpy_dot, "elu": activations.elu, "softmin": activations.softmin,
           "hardtanh": activations.hardtanh,
           "relu6": lambda x: activations.hardtanh(x, 0.0, 6.0), "empty_like": making.zeros_like,
           "linalg_matrix_norm": activations.matrix_norm, "linalg_vecdot": products.vecdot,
           "getitem": lambda x, key: as_proxy(x)[key]}      # torch's tensor at places of the run


# Parameters about where and how a tensor lies, which is the server's business.
_CHANGE_NOTHING = {"_stacklevel", "device", "memory_format", "layout", "pin_memory"}

# What to write for a function that is not offered, where none is near.
_INSTEAD = {
    "setitem": "only a tensor of floats takes values of a run, when that has ended: set them in "
               "interpose.zeros(...), or join several by torch.stack",
    **dict.fromkeys(("multinomial", "gumbel_softmax", "bernoulli", "normal"),
                    "random numbers are interpose.rand and randn with a seed; (x.log() - "
                    "interpose.rand_like(x, seed=1).log().neg().log()).argmax(-1) draws by the "
                    "probabilities x"),
    **dict.fromkeys(("histc", "histogram", "bincount"),
                    "count, ((x >= low) & (x < high)).sum(), or use it on the .value"),
    **dict.fromkeys(("kron", "meshgrid", "cartesian_prod"), "x[:, None] and y[None] broadcast"),
    **dict.fromkeys(("svd", "svd_lowrank", "pca_lowrank", "qr", "inverse", "pinverse", "det",
                     *("linalg_" + each for each in (
                         "svd", "svdvals", "eig", "eigh", "eigvals", "eigvalsh", "qr", "inv",
                         "pinv", "solve", "lstsq", "det", "matrix_rank", "cholesky"))),
                    "save the tensor and decompose its .value; of a parameter it works outside of "
                    "runs"),
}


def _proxies(values):
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _proxies(value)
        elif isinstance(value, Proxy):
            yield value
        elif hasattr(value, "_as_tensor"):
            yield value._as_tensor()


def _call(name, args, kwargs):
    """An op, or a method of the same name, whose first argument need not be a proxy."""
    proxy = next(_proxies([*args, *kwargs.values()]), None)
    run = proxy._run if proxy is not None else current_run()
    if name in OF_RUN:
        return OF_RUN[name](run, *args, **kwargs)
    return _call_method(run, name, args, kwargs)


def _call_method(run, name, args, kwargs):
    if name == "where" and len(args) + len(kwargs) == 1:    # the places where it holds
        raise TypeError(no_shape(run, "nonzero"))
    if not hasattr(Proxy, name) or name == "where":
        return apply(run, name, args, kwargs)
    if not args:    # x=... or input=...
        names = [n for n in ("x", "input", "self", "a") if n in kwargs]
        if not names:
            raise TypeError(f"{name}() needs a tensor")
        args, kwargs = [kwargs[names[0]]], {k: v for k, v in kwargs.items() if k != names[0]}
    if "y" in kwargs:   # the table's name of torch's `other`
        kwargs = {**kwargs, "other": kwargs["y"]}
        del kwargs["y"]
    x = proxy_of(run, args[0])
    if "axis" in kwargs and name in COMPOSED:   # numpy's
        takes = inspect.signature(COMPOSED[name][0]).parameters
        kwargs["dims" if "dims" in takes else "dim"] = kwargs.pop("axis")
    return getattr(x, name)(*args[1:], **kwargs)


def _set_later(tensor, key, value):
    """`scores[hook.layer()] = x` of a torch tensor of floats: it is NaN until the run has ended,
    and x from then on."""
    import torch
    if value._run.iteration is not None and value._run.iteration.is_recorded:
        raise RuntimeError("this block is written once for all of its steps, of which a tensor of "
                           "yours would get the last one's value alone: write `for step in "
                           "tracer.iter[...]:`")
    saved = value.save()
    try:
        tensor[key] = torch.full(value.shape, float("nan"))
    except RuntimeError:
        raise ValueError(f"a value of {value.shape} does not fit into your tensor's part of "
                         f"{tuple(tensor[key].shape)}") from None
    value._run.fills.append((tensor, key, saved))
    return tensor


def _change_given(name, given, args):
    """torch's in-place method `name` of a tensor that is the user's own."""
    if name == "copy_" and given.is_floating_point():
        return _set_later(given, ..., args[0].expand(given.shape))
    raise TypeError(f"{name}() cannot change a tensor of yours by what the run has not computed "
                    f"yet: write x = x.{name[:-1]}(...), or do it behind the run, with the .value")


def call_by_name(name, args, kwargs):
    """What torch.<name>(...) or numpy.<name>(...) is on proxies."""
    kwargs = {k: v for k, v in kwargs.items()
              if not (v is None or k in _CHANGE_NOTHING
                      or k in ("inplace", "requires_grad") and not v)}
    if kwargs.pop("inplace", False):
        return args[0]._change(call_by_name(name, args, kwargs))
    if name.endswith("_") and not name.startswith("_") and not next(_proxies(args[:1]), None):
        return _change_given(name, args[0], args[1:])
    if kwargs.get("out") is not None:
        raise TypeError(f"{name}: out= cannot take what the run has not computed yet")
    name = name.strip("_") if name.startswith("__") else name
    name = OPERATORS.get(name, name).removeprefix("special_")
    if name == "transpose" and len(args) < 3 and "dim0" not in kwargs:    # numpy's
        axes = kwargs.pop("axes", args[1] if len(args) > 1 else None)
        return args[0].T if axes is None else args[0].permute(*axes)
    if name in _OTHERS:
        return _OTHERS[name](*args, **kwargs)
    if name == "setitem" and isinstance(args[2], Proxy) and not next(_proxies(args[:2]), None) and (
            args[0].is_floating_point()):
        return _set_later(*args)
    proxy = next(_proxies([*args, *kwargs.values()]), None)
    op = ALIASES.get(name, name)
    if proxy is not None and op in proxy._run.spec.ops and op != "getitem":
        return _call(op, args, kwargs)
    if proxy is not None and not op.startswith("_") and callable(getattr(Proxy, op, None)):
        return _call_method(proxy._run, op, args, kwargs)
    if op in OF_RUN:
        return _call(op, args, kwargs)
    if proxy is not None and name.lstrip("_") in proxy._run.spec.refused:
        raise TypeError(no_shape(proxy._run, name.lstrip("_")))
    if name in _INSTEAD:
        raise TypeError(f"{name} is not offered on proxies: {_INSTEAD[name]}")
    near = difflib.get_close_matches(name, {*FUNCTIONS, *_OTHERS, *ALIASES}, 3)
    raise TypeError(f"{name} is not offered on proxies: "
                    + (f"did you mean {' or '.join(near)}? Else " if near else "")
                    + "save the tensor and use it on its .value, or write it with the ops of "
                    "interpose")


