"""x[key] and x[key] = v where the key holds lists, arrays or proxies: torch's advanced indexing.

Places that are known travel as constants. Those that the graph computes are checked and counted
from the front by the server (wrap_index). Several indices become one, over their dimensions
flattened.
"""
from __future__ import annotations

import numbers
from typing import NamedTuple

import numpy as np

from .graph import Index
from .proxy import Proxy, apply, proxy_of
from .values import as_array, at_dim, tensor_of, whole

# So many elements are set one by one: nothing else of the tensor is touched then.
SINGLE_SETS_MAX = 64


def basic_of(key):
    """x[key] as the wire has it; None where the key holds a list or a tensor."""
    index = Index()
    for item in (key or (Ellipsis,)) if isinstance(key, tuple) else (key,):
        if item is None:
            index.append(None)
        elif item is Ellipsis:
            index.append("...")
        elif isinstance(item, slice):
            index.append({"slice": [b if b is None else whole(b, "a slice's bound")
                                    for b in (item.start, item.stop, item.step)]})
        elif _is_several(item):
            return None
        else:
            index.append(whole(item, "an index"))
    return index


def _is_several(item):
    return isinstance(item, (list, range, Proxy)) or bool(getattr(item, "ndim", 0))


class Chosen(NamedTuple):
    """What a key asks of x: elements of `x[basic]`."""
    basic: tuple    # ints, slices, None; a slice for each dimension that an index is for
    dims: list      # those dimensions, of x[basic], and
    indices: list   # theirs: int64 arrays, or proxies


def _array_of(item):
    """An index as an array of integers or booleans, or a proxy."""
    item = tensor_of(item)
    if isinstance(item, Proxy):
        if item.dtype.kind == "f":
            raise IndexError(f"an index must be of integers or booleans: {item._label()} is "
                             "float32")
        return item
    if isinstance(item, list) and any(isinstance(i, Proxy) for i in item):
        raise IndexError("a list in an index must be of numbers: join proxies with torch.stack or "
                         "interpose.stack")
    array = as_array(item)
    if array.dtype.kind == "b":
        return array
    if array.size and array.dtype.kind == "f":
        raise IndexError(f"an index must be of integers or booleans: {array.tolist()!r:.80}")
    return array.astype(np.int64)


def _part_of(item):
    """A part of a key: None, `...`, a slice, an int, or an index as above."""
    if _is_several(item):
        return _array_of(item)
    return item if item is None or item is Ellipsis or isinstance(item, slice) else whole(
        item, "an index")


def _known(index):
    if isinstance(index, Proxy) and index.dtype.kind == "b":
        raise IndexError("x[mask] has a shape that depends on values, and the mask is not known "
                         "before the run: take where(mask, x, y); x[mask] = number works")
    return index


def _expanded(x, items):
    """The key with slices in the place of `...`."""
    if not any(item is Ellipsis for item in items):
        return items
    named = sum(item.ndim if getattr(item, "dtype", np.dtype("i8")).kind == "b" else 1
                for item in items if item is not None and item is not Ellipsis)
    at = next(i for i, item in enumerate(items) if item is Ellipsis)
    if any(item is Ellipsis for item in items[at + 1:]):
        raise IndexError('an index can hold only one "..."')
    return items[:at] + [slice(None)] * (x.ndim - named) + items[at + 1:]


def _chosen(x, key):
    """The parts of a key; a mask becomes the places where it holds, one array for each
    dimension."""
    key = key if isinstance(key, tuple) else (key,)
    items = [_part_of(item) for item in key]
    basic, dims, indices, place = [], [], [], 0     # place: of the next dimension of x[basic]
    at = 0      # of the next dimension of x
    for item in _expanded(x, items):
        if not isinstance(item, (Proxy, np.ndarray)):
            basic.append(item)
            place += item is None or isinstance(item, slice)
            at += item is not None
            continue
        if isinstance(item, np.ndarray) and item.dtype.kind == "b":
            if item.shape != x.shape[at:at + item.ndim]:
                raise IndexError(f"the mask of shape {item.shape} stands at dimension {at} of "
                                 f"{x._label()}, whose shape is {x.shape}")
            parts = list(np.nonzero(item))
        else:
            parts = [_known(item)]
        for part in parts:
            basic.append(slice(None))
            dims.append(place)
            indices.append(part)
            place, at = place + 1, at + 1
    return Chosen(tuple(basic), dims, indices)


def _view(x, basic):
    return x if all(item == slice(None) for item in basic) else x[basic]


def _places(view, dim, index):
    """An index as it counts from the front."""
    size = view.shape[dim]
    if isinstance(index, Proxy):
        return apply(view._run, "wrap_index", [index, size])
    outside = index[(index < -size) | (index >= size)]
    if outside.size:
        raise IndexError(f"index {outside[0]} is out of range for dimension {dim} of size {size}")
    return np.where(index < 0, index + size, index)


def _common(indices):
    try:
        return np.broadcast_shapes(*(index.shape for index in indices))
    except ValueError:
        shapes = ", ".join(str(tuple(index.shape)) for index in indices)
        raise IndexError(f"the indices cannot be broadcast together: {shapes}") from None


class Lines(NamedTuple):
    """A view with the chosen dimensions in front and flattened, and where its parts go."""
    view: Proxy         # x[basic]
    order: list         # its dimensions, the chosen ones first
    flat: Proxy         # (all chosen places, *rest)
    rest: tuple
    places: object      # into the first dimension of flat: an array or a proxy of shape `common`
    common: tuple       # the shape of the indices together, and
    front: int          # how many dimensions of rest stand before it in the result


def _lines(x, key):
    chosen = _chosen(x, key)
    view = _view(x, chosen.basic)
    common = _common(chosen.indices)
    rest = [d for d in range(view.ndim) if d not in chosen.dims]
    # A proxy of one number picks as an integer does, and has no say about the place of the others.
    wide = [d for d, i in zip(chosen.dims, chosen.indices) if i.ndim] or chosen.dims
    between = [d for d in rest if wide[0] < d < wide[-1]]
    front = 0 if between else sum(d < wide[0] for d in rest)
    places = None
    for dim, index in zip(chosen.dims, chosen.indices):
        own = _places(view, dim, index)
        places = own if places is None else places * view.shape[dim] + own
    if tuple(places.shape) != common:   # one of them has no elements
        places = np.broadcast_to(places, common)
    order = chosen.dims + rest
    flat = view if order == sorted(order) else view.permute(order)
    if len(chosen.dims) > 1:
        flat = flat.flatten(0, len(chosen.dims) - 1)
    return Lines(view, order, flat, tuple(view.shape[d] for d in rest), places, common, front)


def _moved(n, source, count, target):
    """The order of n dimensions in which `count` of them from `source` on come to `target`."""
    moved = list(range(source, source + count))
    order = [d for d in range(n) if d not in moved]
    return order[:target] + moved + order[target:]


def _one_of_each(x, key):
    """x[..., arange(a, b), index]: an element of each slice, by a gather, for which what lies
    between need not exist; or None."""
    chosen = _chosen(x, key)
    dims, indices = chosen.dims, chosen.indices
    if len(dims) != 2 or dims[1] != dims[0] + 1 or any(i.ndim != 1 for i in indices) or (
            isinstance(indices[0], Proxy) or indices[0].shape != tuple(indices[1].shape)):
        return None
    first = int(indices[0][0]) if indices[0].size else -1
    if first < 0 or (indices[0] != np.arange(first, first + indices[0].size)).any():
        return None
    view = _view(x, chosen.basic)
    d, n = dims[0], indices[0].size
    _places(view, d, indices[0])
    index = proxy_of(x._run, _places(view, d + 1, indices[1]))
    shape = [*view.shape[:d], n, 1, *view.shape[d + 2:]]
    index = index.reshape([1] * d + [n] + [1] * (len(shape) - d - 1)).expand(shape)
    rows = view[at_dim(d, slice(first, first + n))]
    return apply(x._run, "gather", [rows, d + 1, index]).squeeze(d + 1)


def pick(x, key):
    """x[key]: a new tensor, as in torch."""
    quick = _pick_known(x, key)
    quick = _one_of_each(x, key) if quick is None else quick
    if quick is not None:
        return quick
    lines = _lines(x, key)
    picked = apply(x._run, "index_select", [lines.flat, 0, lines.places.reshape(-1)])
    n = len(lines.common)
    if n != 1:
        picked = picked.reshape([*lines.common, *lines.rest])
    if lines.front and n:
        # Laid out in the order of its dimensions, as torch's, so that .view() is what it is there.
        picked = picked.permute(_moved(n + len(lines.rest), 0, n, lines.front)).clone()
    return picked


def _pick_known(x, key):
    """The same for one list of places that need no size to be known, or None."""
    key = key if isinstance(key, tuple) else (key,)
    at = [i for i, item in enumerate(key) if _is_several(item)]
    if len(at) != 1 or isinstance(key[at[0]], Proxy) or hasattr(key[at[0]], "_as_tensor"):
        return None
    index = _array_of(key[at[0]])
    if index.dtype.kind == "b" or index.ndim != 1 or (index < 0).any():
        return None
    before, after = key[:at[0]], key[at[0] + 1:]
    kept = [sum(item is None or isinstance(item, slice) for item in part)
            for part in (before, after)]
    dim = -1 - kept[1] if Ellipsis in before else kept[0]
    view = x[(*before, slice(None), *after)] if before or after else x
    return apply(x._run, "index_select", [view, dim, index])


def put(x, key, value):
    """x[key] = value."""
    value = tensor_of(value)
    if not isinstance(value, (Proxy, numbers.Real)):
        value = as_array(value)
    for item in key if isinstance(key, tuple) else (key,):
        known = _array_of(item) if _is_several(item) else None
        if isinstance(known, np.ndarray) and not (known.any() if known.dtype.kind == "b"
                                                  else known.size):
            raise IndexError("the index of this set chooses no element: nothing would be changed")
    if _put_where(x, key, value) or _put_singly(x, key, value):
        return
    lines, changed = scattered(x, key, value, "scatter")
    lines.view._assign(changed)


def scattered(x, key, value, op):
    """x[key], all of it, with the value written or added at its places."""
    lines = _lines(x, key)
    view, n = lines.view, len(lines.common)
    dtype = view.dtype.name
    if isinstance(value, Proxy) or not getattr(value, "ndim", 0):
        value = apply(x._run, "to", [value, dtype])
    else:
        value = proxy_of(x._run, value.astype(view.dtype))
    if value.ndim:
        shape = lines.rest[:lines.front] + lines.common + lines.rest[lines.front:]
        while value.ndim > len(shape) and value.shape[0] == 1:
            value = value[0]
        value = value.expand(shape)
        if lines.front and n:
            value = value.permute(_moved(len(shape), lines.front, n, 0))
        if n != 1:
            value = value.reshape([int(np.prod(lines.common, dtype=np.int64)), *lines.rest])
    index = proxy_of(x._run, lines.places).reshape([-1, *[1] * len(lines.rest)])
    changed = apply(x._run, op, [lines.flat, 0, index.expand([-1, *lines.rest]), value])
    changed = changed.reshape([view.shape[d] for d in lines.order])
    back = [lines.order.index(d) for d in range(len(lines.order))]
    return lines, changed if back == sorted(back) else changed.permute(back)


def _put_singly(x, key, value):
    """Few known places, one after the other; whether that was so."""
    key = key if isinstance(key, tuple) else (key,)
    items = [_part_of(item) for item in key]
    at = [i for i, item in enumerate(items) if isinstance(item, (Proxy, np.ndarray))]
    if any(isinstance(items[i], Proxy) or items[i].dtype.kind == "b" for i in at):
        return False
    common = _common([items[i] for i in at])
    if not 0 < np.prod(common, dtype=np.int64) <= SINGLE_SETS_MAX:
        return False
    places = [np.broadcast_to(items[i], common) for i in at]
    if getattr(value, "ndim", 0):
        chosen = _chosen(x, key)
        rest = [n for d, n in enumerate(_view(x, chosen.basic).shape) if d not in chosen.dims]
        is_apart = chosen.dims[-1] - chosen.dims[0] >= len(chosen.dims)
        front = 0 if is_apart else chosen.dims[0]
        shape = tuple(rest[:front]) + common + tuple(rest[front:])
        while value.ndim > len(shape) and value.shape[0] == 1:
            value = value[0]
        value = (value.expand(shape) if isinstance(value, Proxy)
                 else _broadcast(value, shape))
        if isinstance(value, Proxy) and value._node.base is not None:
            value = value.clone()   # it may be of x itself: what is set first must not change it
    for where in np.ndindex(*common):
        one = list(items)
        for i, place in zip(at, places):
            one[i] = int(place[where])
        part = value
        if getattr(value, "ndim", 0):
            part = value[(slice(None),) * front + where]
        x[tuple(one)] = part
    return True


def _broadcast(value, shape):
    try:
        return np.broadcast_to(value, shape)
    except ValueError:
        raise IndexError(f"a value of shape {value.shape} cannot be written to {shape}") from None


def _put_where(x, key, value):
    """x[mask] = number, x[0, mask] = number; whether the key is that."""
    key = key if isinstance(key, tuple) else (key,)
    at = [i for i, item in enumerate(key) if _is_several(item)]
    if len(at) != 1:
        return False
    mask = _array_of(key[at[0]])
    if mask.dtype.kind != "b":
        return False
    is_number = not getattr(value, "ndim", 0)
    if not is_number and isinstance(mask, np.ndarray):
        return False
    if not is_number:
        raise IndexError("x[mask] takes one number: for a tensor use where(mask, y, x)")
    basic = [slice(None) if i == at[0] else item for i, item in enumerate(key)]
    basic[at[0]:at[0] + 1] = [slice(None)] * mask.ndim
    kept = sum(item is None or isinstance(item, slice) for item in basic[:at[0]])
    if Ellipsis in basic[:at[0]]:
        kept = x.ndim - sum(item is not None and item is not Ellipsis for item in basic) + kept
    view = _view(x, tuple(basic))
    shape = view.shape
    if tuple(mask.shape) != shape[kept:kept + mask.ndim]:
        raise IndexError(f"the mask of shape {tuple(mask.shape)} stands at dimension {kept} of "
                         f"{view._label()}, whose shape is {shape}")
    mask = mask.reshape(tuple(mask.shape) + (1,) * (len(shape) - kept - mask.ndim))
    view._assign(apply(x._run, "where", [mask, value, view]))
    return True
