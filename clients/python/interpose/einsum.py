"""Einstein's summation, written with permute, reshape and matmul."""
from __future__ import annotations

import math

from .proxy import Proxy, apply


def einsum(equation, *operands):
    """Sums of products over named dimensions, as torch.einsum: einsum("bhtd,hdm->bthm", z, w).

    Takes float32 tensors, at least one of them a proxy, as many as the equation has terms. A
    dimension's name is one letter and stands once in a term; `...` is not offered. Gives float32.
    Raises ValueError where equation and operands do not belong together.

    >>> with model.trace("Hello"):
    ...     x = interpose.tensor([[1.0, 2.0], [3.0, 4.0]])
    ...     y = interpose.einsum("ij,kj->ik", x, x).save()
    >>> y.value.tolist()
    [[5.0, 11.0], [11.0, 25.0]]
    """
    terms, result = _parse(equation)
    if len(terms) != len(operands):
        raise ValueError(f"einsum: {equation!r} has {len(terms)} terms, and {len(operands)} "
                         "tensors are given")
    operands = _proxies(operands)
    sizes = {}
    for term, x in zip(terms, operands):
        if len(term) != x.ndim:
            raise ValueError(f"einsum: {term!r} names {len(term)} dimensions of a tensor of shape "
                             f"{x.shape}")
        for name, size in zip(term, x.shape):
            if sizes.setdefault(name, size) != size:
                raise ValueError(f"einsum: {name!r} is {sizes[name]} and {size} long")
    names, x = terms[0], operands[0]
    for i in range(1, len(terms)):
        wanted = set(result).union(*terms[i + 1:])
        names, x = _product(names, x, terms[i], operands[i], wanted, sizes)
    names, x = _only(names, x, set(result))
    return _arranged(names, x, result)


def _proxies(operands):
    operands = [getattr(x, "_as_tensor", lambda x=x: x)() for x in operands]
    run = next((x._run for x in operands if isinstance(x, Proxy)), None)
    if run is None:
        raise TypeError("einsum needs a proxy among its tensors")
    return [x if isinstance(x, Proxy) else apply(run, "clone", [x]) for x in operands]


def _parse(equation):
    left, arrow, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    for term in [*terms, result]:
        if not arrow or not all(c.isalpha() for c in term) or len(set(term)) != len(term):
            raise ValueError(f"einsum: {equation!r} is not of the form 'ij,jk->ik', with each "
                             "letter once in a term")
    if not set(result) <= set(left):
        raise ValueError(f"einsum: {equation!r} has a name behind the arrow that is not before it")
    return terms, result


def _only(names, x, wanted):
    """x summed over the dimensions that nobody wants."""
    lost = [i for i, name in enumerate(names) if name not in wanted]
    return "".join(n for n in names if n in wanted), x.sum(dim=lost) if lost else x


def _arranged(names, x, order):
    return x if names == order else x.permute(*(names.index(name) for name in order))


def _product(a, x, b, y, wanted, sizes):
    """Two terms as one matrix product: (shared, rows, inner) with (shared, inner, columns)."""
    a, x = _only(a, x, wanted | set(b))
    b, y = _only(b, y, wanted | set(a))
    shared = "".join(n for n in a if n in b and n in wanted)
    inner = "".join(n for n in a if n in b and n not in wanted)
    rows = "".join(n for n in a if n not in b)
    columns = "".join(n for n in b if n not in a)

    def matrices(names, x, first, second):
        shape = [sizes[n] for n in shared]
        shape += [math.prod(sizes[n] for n in part) for part in (first, second)]
        return _arranged(names, x, shared + first + second).reshape(shape)

    product = matrices(a, x, rows, inner) @ matrices(b, y, inner, columns)
    return shared + rows + columns, product.reshape([sizes[n] for n in shared + rows + columns])
