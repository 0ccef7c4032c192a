"""Numbers, arrays and indices on their way to the wire and back."""
from __future__ import annotations

import math
import numbers
import operator

import numpy as np

from .errors import ServerError

# The wire's dtypes, and what each kind of numpy's travels as.
DTYPES = {"float32": np.dtype("<f4"), "int64": np.dtype("<i8"), "bool": np.dtype("?")}
_TRAVELS_AS = {"f": "float32", "i": "int64", "u": "int64", "b": "bool"}


def as_array(data):
    """A numpy array of numbers from an array, a torch tensor or (nested) lists."""
    if hasattr(data, "detach") and hasattr(data, "cpu"):    # torch's, without importing it
        data = data.detach().cpu()
        data = (data.float() if str(data.dtype) == "torch.bfloat16" else data).numpy()
    array = np.asarray(data)
    if array.dtype.kind not in _TRAVELS_AS:
        raise TypeError(f"an array of {array.dtype} cannot be sent: only floats, integers and "
                        "booleans can")
    return array


def constant(data):
    """A number as it is, anything array-like as the wire's {"tensor", "dtype", "shape"}.

    Floats of any width become float32 and integers int64, the only ones that a server has.
    """
    if isinstance(data, (bool, np.bool_)):
        return bool(data)
    if isinstance(data, numbers.Integral):
        if not -2**63 <= data < 2**63:
            raise OverflowError(f"{data} does not fit into int64")
        return int(data)
    if isinstance(data, numbers.Real):
        return float(data)
    array = as_array(data)
    if array.dtype.kind == "u" and array.size and array.max() >= 2**63:
        raise OverflowError(f"{array.max()} does not fit into int64")
    dtype = _TRAVELS_AS[array.dtype.kind]
    with np.errstate(over="ignore"):    # what is too large for float32 becomes infinite
        array = array.astype(DTYPES[dtype])
    return {"tensor": array.tobytes(), "dtype": dtype, "shape": list(array.shape)}


def is_number(i):
    """Whether an index is one number, and not an array of them."""
    return hasattr(i, "__index__") and not getattr(i, "ndim", 0)


def tensor_of(x):
    """The tensor that something of ours stands for (a module's tuple, a cache's stack), or else
    what is given; TypeError for what stands for none (see _as_tensor in nested.py and
    converted.py)."""
    return getattr(x, "_as_tensor", lambda: x)()


def at_dim(dim, item):
    """The key of x[..., item, ...] at a dimension counted from the front."""
    return (slice(None),) * dim + (item,)


def is_array_like(data):
    """Whether `data` can be a constant: a number, an array, a torch tensor, a list of numbers."""
    return (isinstance(data, (numbers.Real, np.ndarray, np.generic, list))
            or (hasattr(data, "detach") and hasattr(data, "cpu")))


def dtype_text(dtype):
    """The name of a dtype given as a text, or as numpy's, torch's or Python's own."""
    if isinstance(dtype, str) or str(dtype).startswith("torch."):
        name = str(dtype).rpartition(".")[2]
    elif dtype is int or dtype is float:
        name = {int: "int64", float: "float32"}[dtype]
    else:
        name = np.dtype(dtype).name
    return {"float": "float32", "long": "int64", "half": "float16", "double": "float64",
            "int": "int32"}.get(name, name)


def dtype_name(dtype):
    """The wire's name of a dtype, which is one that a server computes in."""
    name = dtype_text(dtype)
    if name not in DTYPES:
        raise TypeError(f"{name} is not offered: a server's tensors are float32, int64 or bool")
    return name


def whole(number, what):
    """A Python int from anything that is one."""
    if isinstance(number, (bool, np.bool_)):
        raise TypeError(f"{what} must be an integer: it is {number!r}")
    try:
        number = operator.index(number)
    except TypeError:
        raise TypeError(f"{what} must be an integer: it is {number!r}") from None
    if not -2**63 <= number < 2**63:
        raise OverflowError(f"{what} must fit into int64: it is {number}")
    return number


def wholes(given, what):
    """Integers that a call has one by one or as a list: (2, 3) and ((2, 3),) as [2, 3]."""
    if len(given) == 1 and not hasattr(given[0], "__index__"):
        given = given[0]
    return [whole(number, what) for number in given]


def id_lists(prompts):
    """The arrays of a list of lists of token ids, as the server sends them."""
    if not isinstance(prompts, list) or not all(
            isinstance(ids, list) and all(type(i) is int for i in ids) for ids in prompts):
        raise ServerError("the server's reply is malformed: token ids that are none")
    return [np.array(ids, np.int64) for ids in prompts]


def array_of(dtype, shape, data):
    """The array that a tensor frame holds; refuses bytes that are not what the frame says."""
    if dtype not in DTYPES or not isinstance(data, (bytes, bytearray, np.ndarray)) or (
            not isinstance(shape, list)) or any(type(n) is not int or n < 0 for n in shape):
        raise ServerError("the server's reply is malformed: a tensor without dtype, shape or data")
    if len(data) != math.prod(shape) * DTYPES[dtype].itemsize:
        raise ServerError(f"the server's reply is malformed: {len(data)} bytes for a {dtype} "
                          f"tensor of shape {tuple(shape)}")
    array = np.ndarray(shape, DTYPES[dtype], data)
    if array.flags.writeable and array.dtype.isnative:
        return array
    return array.astype(array.dtype.newbyteorder("="))
