"""Tensors of a run that are made from sizes: filled, counted, random. They are made on the server,
so that their size is nothing to send."""
from __future__ import annotations

import math

import numpy as np

from .current import current_run
from .proxy import apply, as_proxy, method, only_method
from .values import constant, whole, wholes


def _size(given):
    return wholes(given, "a size")


def _filled(run, size, value, dtype=None):
    x = apply(run, "expand", [constant(value), size])
    return (x if dtype is None else x.to(dtype)).clone()


def zeros(*size, dtype=None):
    """Zeros of a size, float32 if nothing else is said: zeros(2, 3) or zeros((2, 3)).

    >>> with model.trace("Hello"):
    ...     x = interpose.zeros(2, 3).save()
    >>> x.value.tolist()
    [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    return _filled(current_run(), _size(size), 0.0, dtype)


def ones(*size, dtype=None):
    """Ones of a size, float32 if nothing else is said.

    >>> with model.trace("Hello"):
    ...     x = interpose.ones(2, dtype="int64").save()
    >>> x.value.tolist()
    [1, 1]
    """
    return _filled(current_run(), _size(size), 1.0, dtype)


def full(size, fill_value, dtype=None):
    """One number in a size; its kind is the dtype if nothing else is said.

    >>> with model.trace("Hello"):
    ...     x = interpose.full((2,), 7).save()
    >>> x.value.tolist()
    [7, 7]
    """
    return _filled(current_run(), _size((size,)), fill_value, dtype)


def zeros_like(x, dtype=None):
    """Zeros of a proxy's shape, and of its dtype if no other is given.

    >>> with model.trace("Hello"):
    ...     x = interpose.zeros_like(interpose.tensor([1, 2])).save()
    >>> x.value
    array([0, 0])
    """
    return full_like(x, 0, dtype)


def ones_like(x, dtype=None):
    """Ones of a proxy's shape, and of its dtype if no other is given.

    >>> with model.trace("Hello"):
    ...     x = interpose.ones_like(interpose.tensor([1, 2]), dtype="float32").save()
    >>> x.value
    array([1., 1.], dtype=float32)
    """
    return full_like(x, 1, dtype)


def full_like(x, fill_value, dtype=None):
    """One number in a proxy's shape, and in its dtype if no other is given.

    >>> with model.trace("Hello"):
    ...     x = interpose.full_like(interpose.tensor([1, 2]), 7).save()
    >>> x.value
    array([7, 7])
    """
    x = as_proxy(x)
    return _filled(x._run, list(x.shape), fill_value, x.dtype if dtype is None else dtype)


def arange(start, end=None, step=1, dtype=None):
    """start, start + step, ... before end: int64 where all three are integers, else float32.
    arange(n) counts from 0. Raises ValueError where step leads nowhere.

    >>> with model.trace("Hello"):
    ...     x = interpose.arange(2, 8, 3).save()
    >>> x.value.tolist()
    [2, 5]
    """
    if end is None:
        start, end = 0, start
    if step == 0 or (end - start) / step < 0:
        raise ValueError(f"arange: from {start} to {end} by steps of {step} there is no way")
    run, count = current_run(), math.ceil((end - start) / step)
    if all(isinstance(n, (int, np.integer)) for n in (start, end, step)):
        x = _places(run, count) * step + start
    else:
        x = apply(run, "clone", [np.float32(start + step * np.arange(count))])
    return x if dtype is None else x.to(dtype)


def _places(run, count):
    """0 .. count - 1, counted on the server."""
    return apply(run, "cumsum", [apply(run, "expand", [constant(1), [count]]), 0]) - 1


def linspace(start, end, steps, dtype=None):
    """`steps` float32 numbers from start to end, both included, evenly spaced.

    >>> with model.trace("Hello"):
    ...     x = interpose.linspace(0, 1, 5).save()
    >>> x.value.tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    numbers = np.linspace(start, end, whole(steps, "steps"), dtype=np.float32)
    x = apply(current_run(), "clone", [numbers])
    return x if dtype is None else x.to(dtype)


def eye(n, m=None, dtype=None):
    """The n x n identity matrix, or n x m with ones where row and column are the same.

    >>> with model.trace("Hello"):
    ...     x = interpose.eye(2).save()
    >>> x.value.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    rows, columns = arange(n)[:, None], arange(n if m is None else m)
    return (rows == columns).to("float32" if dtype is None else dtype)


def one_hot(x, num_classes):
    """A last dimension of num_classes, 1 at the place that an integer names and 0 elsewhere: int64.
    An integer outside 0 .. num_classes - 1 has no 1.

    Raises TypeError without num_classes, which would depend on the values.

    >>> with model.trace("Hello"):
    ...     x = interpose.one_hot(interpose.tensor([2, 0]), 3).save()
    >>> x.value.tolist()
    [[0, 0, 1], [1, 0, 0]]
    """
    x = as_proxy(x)
    if whole(num_classes, "num_classes") < 1:
        raise TypeError("one_hot: num_classes must be given, as shapes are known before the run")
    return (x[..., None] == _places(x._run, num_classes)).long()


def _bits(run, size, seed):
    if seed is None:
        seed = int(np.random.randint(2**63 - 1, dtype=np.int64))
    bits = apply(run, "random", [whole(seed, "seed"), _places(run, math.prod(size))])
    return bits.reshape(size)


def _uniform(run, size, seed):
    return ((_bits(run, size, seed) >> 40) & 0xffffff).float() * 2.0**-24


def _normal(run, size, seed):
    bits = _bits(run, size, seed)
    first = (((bits >> 32) & 0xffffffff) + 1).float() * 2.0**-32
    second = (bits & 0xffffffff).float() * 2.0**-32
    return (first.log() * -2).sqrt() * (second * (2 * math.pi)).cos()


def rand(*size, seed=None):
    """Uniform float32 numbers of 0 <= x < 1: multiples of 2 ** -24 from the bits of
    interpose.random.

    They are a function of the seed and the place in the tensor alone, whoever shares the batch and
    wherever the model runs. Without a seed one is drawn from numpy's global generator.

    >>> with model.trace("Hello"):
    ...     x, y = interpose.rand(2, seed=1).save(), interpose.rand(2, seed=1).save()
    >>> x.value.tolist() == y.value.tolist()
    True
    """
    return _uniform(current_run(), _size(size), seed)


def randn(*size, seed=None):
    """Normal float32 numbers of mean 0 and variance 1, by Box and Muller's transform of two uniform
    numbers of 32 bits for each; at most 6.7. Seeds are as those of rand.

    >>> with model.trace("Hello"):
    ...     x = interpose.randn(1000, seed=1).save()
    >>> bool(abs(x.value.mean()) < 0.1)
    True
    """
    return _normal(current_run(), _size(size), seed)


def rand_like(x, seed=None):
    """rand of a proxy's shape: float32, whatever the proxy is.

    >>> with model.trace("Hello"):
    ...     x = interpose.rand_like(model.lm_head.output[0, -1, :3], seed=1).save()
    >>> bool(((0 <= x.value) & (x.value < 1)).all())
    True
    """
    x = as_proxy(x)
    return _uniform(x._run, list(x.shape), seed)


def randn_like(x, seed=None):
    """randn of a proxy's shape: float32, whatever the proxy is.

    >>> with model.trace("Hello"):
    ...     hidden = model.transformer.h[0].output[0]
    ...     hidden[:] = hidden + 0.1 * interpose.randn_like(hidden, seed=1)
    ...     logits = model.lm_head.output.save()
    >>> logits.value.shape == (1, logits.value.shape[1], model.config.vocab)
    True
    """
    x = as_proxy(x)
    return _normal(x._run, list(x.shape), seed)


# Methods of proxies.

@method("x, ()")
def new_zeros(x, *size, dtype=None):
    """Zeros of another size, of x's dtype if no other is given: new_zeros(2, 3) or
    new_zeros((2, 3))."""
    return _filled(x._run, _size(size), 0, x.dtype if dtype is None else dtype)


@only_method
def new_ones(x, *size, dtype=None):
    """Ones of another size, of x's dtype if no other is given."""
    return _filled(x._run, _size(size), 1, x.dtype if dtype is None else dtype)


@only_method
def new_full(x, size, fill_value, dtype=None):
    """One number in another size, of x's dtype if no other is given."""
    return _filled(x._run, _size((size,)), fill_value, x.dtype if dtype is None else dtype)


@only_method
def normal_(x, mean=0.0, std=1.0, *, seed=None):
    """Sets every element to a normal number of this mean and standard deviation; seeds are as those
    of interpose.rand."""
    return x.copy_(randn_like(x, seed) * std + mean)


@only_method
def uniform_(x, low=0.0, high=1.0, *, seed=None):
    """Sets every element to a uniform number of low <= x < high; seeds are as those of
    interpose.rand."""
    return x.copy_(rand_like(x, seed) * (high - low) + low)


@only_method
def bernoulli(x, *, seed=None):
    """1 with the probability that an element says, else 0; seeds are as those of interpose.rand."""
    return (rand_like(x, seed) < x).float()
