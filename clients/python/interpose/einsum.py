"""Einstein's summation, written with views, reshape and matmul."""
from __future__ import annotations

import math
import re

from .proxy import Proxy, proxy_of
from .values import tensor_of


def einsum(equation, *operands):
    """Sums of products over named dimensions, as torch.einsum: einsum("bhtd,hdm->bthm", z, w).

    A dimension's name is one letter; one that stands twice in a term means its diagonal. `...` are
    dimensions that broadcast. Without an arrow the result has the names that stand once, sorted,
    behind those of `...`. The operands may be one list. Words are names, too, where spaces part
    them, as in fancy_einsum ("batch pos head, head out -> batch pos out"), and the equation may
    stand at the end, as in einops: einsum(z, w, "b t h d, h d m -> b t m"). Takes tensors of
    float32 (a product of several terms) or of any numbers (one term), at least one of them a proxy.
    Raises ValueError where equation and operands do not belong together.

    >>> with model.trace("Hello"):
    ...     x = interpose.tensor([[1.0, 2.0], [3.0, 4.0]])
    ...     y = interpose.einsum("ij,kj->ik", x, x).save()
    >>> y.value.tolist()
    [[5.0, 11.0], [11.0, 25.0]]
    """
    if len(operands) == 1 and type(operands[0]) in (list, tuple):
        operands = operands[0]
    if operands and isinstance(operands[-1], str):
        equation, operands = operands[-1], (equation, *operands[:-1])
    if not isinstance(equation, str):
        raise TypeError("einsum takes its equation as a text: einsum('ij,jk->ik', x, y)")
    operands = _proxies(operands)
    terms, result = _parse(equation, [x.ndim for x in operands])
    parts = [_once(equation, term, x) for term, x in zip(terms, operands)]
    sizes = _sizes(equation, parts)
    names, x = parts[0]
    for i in range(1, len(parts)):
        wanted = set(result).union(*(name for name, _ in parts[i + 1:]))
        names, x = _product(names, x, *parts[i], wanted, sizes)
    names, x = _only(names, x, set(result))
    x = _arranged(names, x, result)
    shape = [sizes[n] for n in result]
    return x if list(x.shape) == shape else x.expand(shape)


def _proxies(operands):
    operands = [tensor_of(x) for x in operands]
    run = next((x._run for x in operands if isinstance(x, Proxy)), None)
    if run is None:
        raise TypeError("einsum needs a proxy among its tensors")
    return [proxy_of(run, x) for x in operands]


_MORE = "..."
_WORD, _LETTER = r"\.\.\.|[^\s,.>()-]+", r"\.\.\.|[^\W\d_]"


def _has_words(equation, ranks):
    """Whether names are words, as einops and fancy_einsum have them: where spaces part them, or
    where each tensor has as many dimensions as its term words."""
    terms = [re.findall(_WORD, term) for term in equation.partition("->")[0].split(",")]
    has_gaps = " " in re.sub(r"\s*(,|->|^|$)\s*", "", equation)
    return any(len(word) > 1 and word != _MORE for term in terms for word in term) and (
        has_gaps or [len(term) for term in terms] == ranks)


def _split(equation, ranks):
    """The names of each term, and those behind the arrow, "..." among them."""
    name = _WORD if _has_words(equation, ranks) else _LETTER
    found = []
    for text in equation.replace("->", ",", 1).split(","):
        names = re.findall(name, text)
        if "".join(names) != "".join(text.split()) or names.count(_MORE) > 1:
            raise ValueError(f"einsum: {equation!r} is not of the form 'ij,jk->ik' or 'row mid, mid "
                             "column -> row column', with '...' in each term or none")
        found.append(names)
    return (found[:-1], found[-1]) if "->" in equation else (found, None)


def _parse(equation, ranks):
    """The names of each term's dimensions and of the result's, as lists; those of `...` are 0, 1,
    ..."""
    terms, result = _split(equation, ranks)
    if len(terms) != len(ranks):
        raise ValueError(f"einsum: {equation!r} has {len(terms)} terms, and {len(ranks)} "
                         "tensors are given")
    n_more = [rank - len([n for n in names if n != _MORE]) for names, rank in zip(terms, ranks)]
    for names, n, rank in zip(terms, n_more, ranks):
        if n < 0 or n and _MORE not in names:
            raise ValueError(f"einsum: {equation!r} names {rank - n} dimensions of a tensor that "
                             f"has {rank}")
    more = list(range(max(n_more)))
    named = [_spelled(names, more[len(more) - n:]) for names, n in zip(terms, n_more)]
    if result is None:
        every = [name for names in terms for name in names]
        result = [_MORE] * (_MORE in every) + sorted(
            n for n in set(every) - {_MORE} if every.count(n) == 1)
    result = _spelled(result, more)
    if len(set(result)) < len(result):
        raise ValueError(f"einsum: {equation!r} has a name twice behind the arrow")
    if not set(result) <= {name for names in named for name in names}:
        raise ValueError(f"einsum: {equation!r} has a name behind the arrow that is not before it")
    return named, result


def _spelled(names, more):
    """The names with those of `...` in its place."""
    return [each for name in names for each in (more if name == _MORE else [name])]


def _once(equation, names, x):
    """The names and the tensor with the diagonals of those that stand twice."""
    for name in dict.fromkeys(names):
        while names.count(name) > 1:
            a = names.index(name)
            b = names.index(name, a + 1)
            if x.shape[a] != x.shape[b]:
                raise ValueError(f"einsum: {equation!r}: {name!r} is {x.shape[a]} and {x.shape[b]} "
                                 "long")
            x = x.diagonal(0, a, b)
            names = [*names[:a], *names[a + 1:b], *names[b + 1:], name]
    return names, x


def _sizes(equation, parts):
    """The size of each name: that of the terms where it is not 1, which broadcasts."""
    sizes = {}
    for names, x in parts:
        for name, size in zip(names, x.shape):
            known = sizes.setdefault(name, size)
            if known != size and 1 not in (known, size):
                what = repr(name) if isinstance(name, str) else "a dimension of '...'"
                raise ValueError(f"einsum: {equation!r}: {what} is {known} and {size} long")
            sizes[name] = size if known == 1 else known
    return sizes


def _only(names, x, wanted):
    """x summed over the dimensions that nobody wants."""
    lost = [i for i, name in enumerate(names) if name not in wanted]
    return [n for n in names if n in wanted], x.sum(dim=lost) if lost else x


def _arranged(names, x, order):
    return x if names == order else x.permute([names.index(name) for name in order])


def _product(a, x, b, y, wanted, sizes):
    """Two terms as one matrix product: (shared, rows, inner) with (shared, inner, columns)."""
    a, x = _only(a, x, wanted.union(b))
    b, y = _only(b, y, wanted.union(a))
    shared = [n for n in a if n in b and n in wanted]
    inner = [n for n in a if n in b and n not in wanted]
    rows = [n for n in a if n not in b]
    columns = [n for n in b if n not in a]

    def matrices(names, x, first, second):
        x = _arranged(names, x, shared + first + second)
        full = [sizes[n] for n in shared + first + second]
        x = x if list(x.shape) == full else x.expand(full)
        shape = [sizes[n] for n in shared]
        shape += [math.prod(sizes[n] for n in part) for part in (first, second)]
        return x if list(x.shape) == shape else x.reshape(shape)

    product = matrices(a, x, rows, inner) @ matrices(b, y, inner, columns)
    shape = [sizes[n] for n in shared + rows + columns]
    return shared + rows + columns, product.reshape(shape)
