"""Tensors arranged anew, with torch's meaning: written with the views and copies that a server
has."""
from __future__ import annotations

import numpy as np

from .indexing import scattered
from .numeric import dims_of
from .proxy import Proxy, apply, function, is_listed, method, only_method, proxy_of
from .values import as_array, at_dim, whole, wholes


def _listed(given):
    return wholes(given, "a size or a dimension")


def _ints(value):
    return _listed((value,))


def distinct_dims(x, dims, rank=None):
    """As dims_of, of one or several; ValueError where one is named twice."""
    dims = dims_of(x, _ints(dims), rank)
    if len(set(dims)) < len(dims):
        raise ValueError(f"a dimension is named twice: {dims}")
    return dims


def dim_of(x, dim):
    """One dimension, counted from the front."""
    return dims_of(x, whole(dim, "dim"))[0]


# The same elements in another shape: ops of the table, with torch's spelling of sizes.

def _varargs(given):
    """(2, -1) and ((2, -1),) as the one argument that the op takes; none where none is given."""
    return given if len(given) == 1 and is_listed(given[0]) else [list(given)] * bool(given)


@only_method
def reshape(x, *shape, **named):
    """The same elements in another shape: reshape(2, -1) or reshape((2, -1))."""
    return apply(x._run, "reshape", [x, *_varargs(shape)], named)


@only_method
def view(x, *shape, **named):
    """As reshape, but refused where that would copy: what is set in a view is set in x."""
    return apply(x._run, "view", [x, *_varargs(shape)], named)


@only_method
def expand(x, *shape, **named):
    """Dimensions of size 1 repeated without a copy: expand(3, -1) or expand((3, -1))."""
    return apply(x._run, "expand", [x, *_varargs(shape)], named)


@only_method
def expand_as(x, other):
    """Expanded to the shape of another."""
    return x.expand(other.shape)


@only_method
def reshape_as(x, other):
    """Reshaped to the shape of another."""
    return x.reshape(other.shape)


@only_method
def view_as(x, other):
    """Reshaped to the shape of another."""
    return x.reshape(other.shape)


@only_method
def permute(x, *dims, **named):
    """The dimensions in another order: permute(0, 2, 1) or permute((0, 2, 1))."""
    return apply(x._run, "permute", [x, *_varargs(dims)], named)


@only_method
def flatten(x, start_dim=0, end_dim=-1):
    """Dimensions start_dim to end_dim as one."""
    return apply(x._run, "flatten", [x, start_dim, end_dim])


@only_method
def split(x, split_size, dim=0):
    """Views of split_size (or of the sizes in a list) along a dimension, as a tuple."""
    dim, size = whole(dim, "dim"), x.size(dim)
    if isinstance(split_size, (list, tuple)):
        sizes = [whole(n, "a size") for n in split_size]
        if sum(sizes) != size:
            raise ValueError(f"split: the sizes {sizes} do not add up to {size}")
    else:
        step = whole(split_size, "split_size")
        if step < 1:
            raise ValueError(f"split: split_size must be at least 1: it is {step}")
        sizes = [min(step, size - start) for start in range(0, max(1, size), step)]
    dim, ends = dim % x.ndim, np.cumsum(sizes).tolist()
    return tuple(x[at_dim(dim, slice(end - n, end))] for n, end in zip(sizes, ends))


@only_method
def chunk(x, chunks, dim=0):
    """`chunks` views of equal size (the last may be smaller) along a dimension, as a tuple."""
    size, chunks = x.size(dim), whole(chunks, "chunks")
    return x.split(-(-size // chunks) if size else [0] * chunks, dim)


@only_method
def unbind(x, dim=0):
    """The views along a dimension, as a tuple."""
    size = x.size(dim)
    return tuple(x[at_dim(dim % x.ndim, i)] for i in range(size))


@only_method
def t(x):
    """The transpose of a matrix."""
    if x.ndim > 2:
        raise ValueError(f"t() is for matrices: {x._label()} has {x.ndim} dimensions, "
                         "name two with transpose(dim0, dim1)")
    return x if x.ndim < 2 else x.transpose(0, 1)


# Views.

@method("x, 0, 1")
def movedim(x, source, destination):
    """Dimensions moved to other places, the rest in their order: a view."""
    source, destination = distinct_dims(x, source), distinct_dims(x, destination)
    if len(source) != len(destination):
        raise ValueError(f"movedim: {len(source)} dimensions to {len(destination)} places")
    order = [d for d in range(x.ndim) if d not in source]
    for at, dim in sorted(zip(destination, source)):
        order.insert(at, dim)
    return x.permute(order)


@method("x, 0, 1")
def moveaxis(x, source, destination):
    """As movedim."""
    return x.movedim(source, destination)


@method("x, 1, (3, 1)")
def unflatten(x, dim, sizes):
    """A dimension as several, of which one size may be -1: a view."""
    dim, sizes, shape = dim_of(x, dim), _ints(sizes), x.shape
    known = int(np.prod([n for n in sizes if n != -1], dtype=np.int64))
    sizes = [n if n != -1 else shape[dim] // max(known, 1) for n in sizes]
    if int(np.prod(sizes, dtype=np.int64)) != shape[dim]:
        raise ValueError(f"unflatten: dimension {dim} of {shape} has no sizes {sizes}")
    return x.view([*shape[:dim], *sizes, *shape[dim + 1:]])


@method("x, 1, 0, 2")
def narrow(x, dim, start, length):
    """`length` elements of a dimension from `start` on: a view."""
    dim, start, length = dim_of(x, dim), whole(start, "start"), whole(length, "length")
    size = x.shape[dim]
    first = start + size if start < 0 else start
    if not (0 <= first <= size and 0 <= length <= size - first):
        raise IndexError(f"narrow: {length} elements from {start} on are not in dimension {dim} of "
                         f"{x.shape}")
    return x[at_dim(dim, slice(first, first + length))]


@method("x, 1, -1")
def select(x, dim, index):
    """x at one place of a dimension, which is gone: a view."""
    return x[at_dim(dim_of(x, dim), whole(index, "index"))]


@method("x, 2, 1")
def tensor_split(x, indices_or_sections, dim=0):
    """Views of almost equal size, or between the given places, as a tuple."""
    dim = dim_of(x, dim)
    size = x.shape[dim]
    if hasattr(indices_or_sections, "__index__"):
        n = whole(indices_or_sections, "sections")
        if n < 1:
            raise ValueError(f"tensor_split: sections must be at least 1: it is {n}")
        bounds = np.cumsum([size // n + (i < size % n) for i in range(n)])[:-1].tolist()
    else:
        bounds = _ints(indices_or_sections)
    return tuple(x[at_dim(dim, slice(a, b))] for a, b in zip([None, *bounds], [*bounds, None]))


@method("x")
def atleast_1d(x):
    """x, with a dimension if it has none."""
    return x.reshape(1) if x.ndim == 0 else x


@method("x")
def atleast_2d(x):
    """x, with dimensions in front until it has two."""
    return x.reshape(1, 1) if x.ndim == 0 else x[None] if x.ndim == 1 else x


@method("x")
def adjoint(x):
    """The last two dimensions transposed: there are no complex numbers."""
    return x.mT


@method("x, 2, 3")
def broadcast_to(x, *shape):
    """As expand, but that sizes are as they are: broadcast_to((3, 4))."""
    return x.expand(_listed(shape))


# Copies.

@method("x, 2, 1")
def repeat(x, *repeats):
    """x side by side with itself, so often along each dimension: repeat(2, 1)."""
    repeats = _listed(repeats)
    new = len(repeats) - x.ndim
    if new < 0 or any(n < 0 for n in repeats):
        raise ValueError(f"repeat{tuple(repeats)} of {x.shape}: each dimension needs a number, 0 "
                         "or more; new ones come first")
    shape = (1,) * new + x.shape
    wide = [n for i, n in enumerate(repeats) for n in ((n, shape[i]) if n != 1 else (shape[i],))]
    x = x.reshape(shape)[tuple(i for n in repeats for i in ([None, slice(None)] if n != 1
                                                             else [slice(None)]))]
    return x.expand(wide).reshape([n * size for n, size in zip(repeats, shape)]).clone()


@method("x, 2, 1")
def tile(x, *given, dims=None):
    """As repeat, but that missing numbers are ones, in front: tile(2, 1) or tile(dims=(2, 1))."""
    dims = _listed(given if dims is None else (dims,))
    return x.repeat(*[1] * (x.ndim - len(dims)), *dims)


@method("x, 2, 1")
def repeat_interleave(x, repeats, dim=None, output_size=None):
    """Each element of a dimension (of all, flattened, if none is given) so often: a number, or one
    for each, which must be known before the run."""
    del output_size
    x, dim = (x.flatten(), 0) if dim is None else (x, dim_of(x, dim))
    if isinstance(repeats, Proxy):
        raise TypeError("repeat_interleave: the shape would depend on values: repeats must be "
                        "known before the run")
    repeats = as_array(repeats)
    if repeats.ndim > 1 or repeats.ndim and len(repeats) not in (1, x.shape[dim]):
        raise ValueError(f"repeat_interleave: {repeats.shape} repeats for dimension {dim} of "
                         f"{x.shape}")
    if (repeats < 0).any():
        raise ValueError("repeat_interleave: repeats must be 0 or more")
    places = np.repeat(np.arange(x.shape[dim]), repeats)
    return apply(x._run, "index_select", [x, dim, places])


@method("x, 1")
def flip(x, *given, dims=None):
    """Dimensions in reverse, a copy as torch's: flip(0, 1) or flip(dims=(0, 1))."""
    if not given and dims is None:
        raise TypeError("flip needs the dimensions that it turns around")
    dims = _listed(given if dims is None else (dims,))
    for dim in distinct_dims(x, dims):
        if x.ndim:
            x = apply(x._run, "index_select", [x, dim, np.arange(x.shape[dim])[::-1]])
    return x if dims and x.ndim else x.clone()


@method("x")
def fliplr(x):
    """Dimension 1 in reverse."""
    return x.flip(1)


@method("x")
def flipud(x):
    """Dimension 0 in reverse."""
    return x.flip(0)


@method("x, 1, 0")
def roll(x, shifts, dims=None):
    """Elements moved along dimensions (of all, flattened, if none is given), around their ends."""
    if dims is None:
        return x.flatten().roll(shifts, 0).reshape(x.shape)
    shifts, dims = _ints(shifts), [dim_of(x, d) for d in _ints(dims)]
    if len(shifts) != len(dims):
        raise ValueError(f"roll: {len(shifts)} shifts for {len(dims)} dimensions")
    moved = x
    for shift, dim in zip(shifts, dims):
        size = x.shape[dim]
        if size and shift % size:
            cut = size - shift % size
            parts = [moved[at_dim(dim, slice(cut, None))], moved[at_dim(dim, slice(cut))]]
            moved = apply(x._run, "cat", [parts, dim])
    return x.clone() if moved is x else moved


def _triangle(x, diagonal, op):
    if x.ndim < 2:
        raise ValueError(f"a triangle is of two dimensions: {x._label()} has {x.ndim}")
    rows, columns = (np.arange(n) for n in x.shape[-2:])
    mask = apply(x._run, op, [rows[:, None] + whole(diagonal, "diagonal"), columns])
    return apply(x._run, "where", [mask, x, x.new_zeros(())])


@method("x")
def tril(x, diagonal=0):
    """The elements up to a diagonal of the last two dimensions, 0 behind it."""
    return _triangle(x, diagonal, "ge")


@method("x")
def triu(x, diagonal=0):
    """The elements from a diagonal of the last two dimensions on, 0 in front of it."""
    return _triangle(x, diagonal, "le")


@method("x")
def diag_embed(x, offset=0, dim1=-2, dim2=-1):
    """The last dimension as a diagonal of two new ones, 0 elsewhere."""
    offset, n = whole(offset, "offset"), x.shape[-1]
    dims = distinct_dims(x, (dim1, dim2), x.ndim + 1)
    size = n + abs(offset)
    matrix = x.new_zeros((*x.shape[:-1], size, size))
    matrix.diagonal(offset, -2, -1).copy_(x)
    return matrix.movedim((-2, -1), dims)


@method("x")
def diag(x, diagonal=0):
    """The matrix that has x as its diagonal; of a matrix its diagonal."""
    if x.ndim not in (1, 2):
        raise ValueError(f"diag is of one or two dimensions: {x._label()} has {x.ndim}")
    return x.diag_embed(diagonal) if x.ndim == 1 else x.diagonal(diagonal).clone()


# Elements by their places.

@method("x, [[0], [2]], 1")
def take_along_dim(x, indices, dim=None):
    """x at the index along a dimension, where both broadcast against each other in the others."""
    indices = proxy_of(x._run, indices)
    x, indices, dim = ((x.flatten(), indices.flatten(), 0) if dim is None
                       else (x, indices, dim_of(x, dim)))
    if x.ndim != indices.ndim:
        raise ValueError(f"take_along_dim: {x.shape} and an index of {indices.shape} must have as "
                         "many dimensions")
    try:
        shape = list(np.broadcast_shapes(*(s[:dim] + (1,) + s[dim + 1:]
                                           for s in (x.shape, indices.shape))))
    except ValueError:
        raise ValueError(f"take_along_dim: {x.shape} and an index of {indices.shape} do not "
                         "broadcast") from None
    shape[dim] = -1
    indices = apply(x._run, "wrap_index", [indices, x.shape[dim]])
    return apply(x._run, "gather", [x.expand(shape), dim, indices.expand(shape)])


@method("x, [0, -1]")
def take(x, index, dim=None):
    """The elements of x, flattened, at these places; or, as numpy's axis, those of a dimension."""
    index = index if isinstance(index, Proxy) else as_array(index)
    if dim is None:
        return x.flatten()[index]
    return x[at_dim(dim_of(x, dim), index)]


def _along(x, dim, index, source):
    """An index for each slice of a dimension as one for each element of the source."""
    dim, index = dim_of(x, dim), proxy_of(x._run, index)
    shape = list(x.shape)
    if not shape or index.ndim > 1:
        raise ValueError(f"an index of one dimension is needed, of a tensor that has some: not "
                         f"{index.shape} of {x.shape}")
    shape[dim] = index.numel()
    if source is not None and list(source.shape) != shape:
        raise ValueError(f"the source of {source.shape} must be {tuple(shape)}: as {x.shape}, and "
                         f"in dimension {dim} as long as the index")
    return dim, index.reshape([*[1] * dim, -1, *[1] * (len(shape) - dim - 1)]).expand(shape)


@method("x, 0, [1], [[1.0, 2.0, 3.0]]")
def index_add(x, dim, index, source, *, alpha=1):
    """x with the slices of a source added at the index along a dimension, in its order."""
    source = proxy_of(x._run, source)
    dim, index = _along(x, dim, index, source)
    return apply(x._run, "scatter_add", [x, dim, index, source if alpha == 1 else source * alpha])


@method("x, 0, [1], [[1.0, 2.0, 3.0]]")
def index_copy(x, dim, index, source):
    """x with the slices of a source in the place of those at the index along a dimension."""
    source = proxy_of(x._run, source)
    dim, index = _along(x, dim, index, source)
    return apply(x._run, "scatter", [x, dim, index, source])


@method("x, 1, [0, 2], 0.0")
def index_fill(x, dim, index, value):
    """x with a number in the place of the slices at the index along a dimension."""
    dim, index = _along(x, dim, index, None)
    index = apply(x._run, "wrap_index", [index, x.shape[dim]])
    return apply(x._run, "scatter", [x, dim, index, apply(x._run, "to", [value, x.dtype.name])])


@method("x, ([0, 1], [2, 0]), 1.0")
def index_put(x, indices, values, accumulate=False):
    """x with values at x[indices], as x[indices] = values on a copy; `accumulate` adds them."""
    key = tuple(slice(None) if i is None else i for i in indices)
    if not accumulate:
        changed = x.clone()
        changed[key] = values
        return changed
    x = x.clone()
    lines, changed = scattered(x, key, values, "scatter_add")
    lines.view.copy_(changed)
    return x


# Several tensors.

def _all(run, tensors):
    return [proxy_of(run, t) for t in tensors]


@function("[x, x]")
def hstack(run, tensors):
    """Tensors side by side: along dimension 1, vectors along 0."""
    tensors = [t.atleast_1d() for t in _all(run, tensors)]
    return apply(run, "cat", [tensors, 0 if tensors[0].ndim == 1 else 1])


@function("[x, x]")
def vstack(run, tensors):
    """Tensors below one another: along dimension 0, vectors as rows."""
    return apply(run, "cat", [[t.atleast_2d() for t in _all(run, tensors)], 0])


@function("[x, x]")
def column_stack(run, tensors):
    """As hstack, vectors as columns."""
    columns = [t.reshape(-1, 1) if t.ndim < 2 else t for t in _all(run, tensors)]
    return apply(run, "cat", [columns, 1])


@function("x, x[0]")
def broadcast_tensors(run, *tensors):
    """All expanded to their common shape, as a tuple of views."""
    tensors = _all(run, tensors)
    shape = np.broadcast_shapes(*(t.shape for t in tensors))
    return tuple(t.expand(shape) for t in tensors)
