"""torch.nn.functional on proxies: normalizations, similarities and losses, made of ops."""
from __future__ import annotations

import numpy as np

from .proxy import Proxy, apply, function, method, proxy_of
from .values import as_array, tensor_of, whole, wholes


def _normalized(x, shape):
    shape = wholes((shape,), "a size")
    if not shape or tuple(shape) != x.shape[-len(shape):]:
        raise ValueError(f"the last dimensions of {x.shape} are not normalized_shape, "
                         f"{tuple(shape)}")
    return list(range(-len(shape), 0))


def _scaled(x, weight, bias):
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


@function("x, 3")
def layer_norm(run, input, normalized_shape, weight=None, bias=None, eps=1e-5):
    """(x - mean) / sqrt(variance + eps) over the last dimensions, then * weight + bias."""
    x = proxy_of(run, input)
    dims = _normalized(x, normalized_shape)
    x = x - x.mean(dim=dims, keepdim=True)
    return _scaled(x * (x.square().mean(dim=dims, keepdim=True) + eps).rsqrt(), weight, bias)


@function("x, 3")
def rms_norm(run, input, normalized_shape, weight=None, eps=None):
    """x / sqrt(mean(x * x) + eps) over the last dimensions, then * weight."""
    x = proxy_of(run, input)
    eps = float(np.finfo(np.float32).eps) if eps is None else eps
    mean = x.square().mean(dim=_normalized(x, normalized_shape), keepdim=True)
    return _scaled(x * (mean + eps).rsqrt(), weight, None)


@function("x, dim=-1")
def normalize(run, input, p=2.0, dim=1, eps=1e-12):
    """x divided by its norm over a dimension, or by eps where that is smaller."""
    x = proxy_of(run, input)
    return x / x.norm(p, dim, keepdim=True).clamp(min=eps)


@function("x, x[0], dim=-1")
def cosine_similarity(run, x1, x2, dim=1, eps=1e-8):
    """The product of two tensors over a dimension, each divided by its norm (or eps) there."""
    x, y = proxy_of(run, x1), proxy_of(run, x2)
    shape = np.broadcast_shapes(x.shape, y.shape)
    x, y = x.expand(shape), y.expand(shape)
    norms = [t.norm(2, dim, keepdim=True).clamp(min=eps) for t in (x, y)]
    return ((x / norms[0]) * (y / norms[1])).sum(dim)


@function("[0, 2], [[1.0], [2.0], [3.0]]")
def embedding(run, input, weight, padding_idx=None, max_norm=None, norm_type=2.0,
              scale_grad_by_freq=False, sparse=False):
    """The rows of a matrix that the integers of `input` name."""
    index, weight = proxy_of(run, input), proxy_of(run, weight)
    if max_norm is not None or weight.ndim != 2:
        raise ValueError(f"embedding takes a matrix, and no max_norm: not {weight.shape}")
    rows = apply(run, "index_select", [weight, 0, index.reshape(-1)])
    return rows.unflatten(0, index.shape) if index.ndim != 1 else rows


@method("x, (1, 0, 0, 2), value=1.0")
def pad(x, pad, mode="constant", value=None):
    """x with a number (0) around it: pad holds how many in front and behind, from the last
    dimension on; negative numbers cut off."""
    if mode != "constant":
        raise ValueError(f"pad: only mode='constant' is offered, not {mode!r}")
    pad = [whole(n, "pad") for n in pad]
    if len(pad) % 2 or len(pad) > 2 * x.ndim:
        raise ValueError(f"pad holds two numbers for each of at most {x.ndim} dimensions: not "
                         f"{pad}")
    shape, key = list(x.shape), [slice(None)] * x.ndim
    kept = list(key)
    for i, (front, behind) in enumerate(zip(pad[::2], pad[1::2])):
        dim = x.ndim - 1 - i
        size = shape[dim] = x.shape[dim] + front + behind
        if size < 0:
            raise ValueError(f"pad: {front} and {behind} leave nothing of dimension {dim} of "
                             f"{x.shape}")
        key[dim] = slice(max(front, 0), max(size - max(behind, 0), 0))
        kept[dim] = slice(max(-front, 0), max(x.shape[dim] - max(-behind, 0), 0))
    number = apply(x._run, "to", [0 if value is None else value, x.dtype.name])
    padded = apply(x._run, "expand", [number, shape]).clone()
    if 0 not in shape and all(a.stop is None or a.stop > a.start for a in key):
        padded[tuple(key)] = x[tuple(kept)]
    return padded


@method("x, x, x")
def scaled_dot_product_attention(x, key, value, attn_mask=None, dropout_p=0.0, is_causal=False,
                                 scale=None, enable_gqa=False):
    """softmax(x @ key transposed * scale, + mask) @ value: where a mask of booleans does not hold,
    or behind the diagonal with is_causal, keys are not seen."""
    if dropout_p or enable_gqa:
        raise ValueError("scaled_dot_product_attention: dropout_p and enable_gqa are not offered")
    key, value = proxy_of(x._run, key), proxy_of(x._run, value)
    scores = x @ key.mT * (x.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = np.tri(*scores.shape[-2:], dtype=bool)
    if attn_mask is not None:
        mask = proxy_of(x._run, attn_mask)
        scores = (apply(x._run, "where", [mask, scores, float("-inf")]) if mask.dtype.kind == "b"
                  else scores + mask)
    return scores.softmax(-1) @ value


# Statistics and distances.

@method("x")
def cov(x, *, correction=1):
    """The covariances of variables, the rows, over observations, the columns."""
    if x.ndim > 2:
        raise ValueError(f"cov takes variables by observations: not {x.shape}")
    rows = (x if x.ndim == 2 else x.reshape(1, -1)).float()
    rows = rows - rows.mean(-1, keepdim=True)
    sums = rows @ rows.T / max(rows.shape[-1] - correction, 0)
    return sums if x.ndim == 2 else sums[0, 0]


@method("x")
def corrcoef(x):
    """The correlations of variables, the rows, over observations, the columns."""
    c = x.cov()
    if not c.shape:
        return c / c
    scale = c.diagonal().sqrt()
    return (c / scale[:, None] / scale).clamp(-1, 1)


@function("x, x + 1")
def cdist(run, x1, x2, p=2.0, compute_mode=None):
    """The p-norms of the differences of each row of x1 (..., n, D) and each of x2 (..., m, D)."""
    x, y = proxy_of(run, x1), proxy_of(run, x2)
    return (x.unsqueeze(-2) - y.unsqueeze(-3)).norm(p, -1)


@method("x, x + 1")
def dist(x, other, p=2):
    """The p-norm of the difference of two tensors."""
    return (x - other).norm(p)


@function("x, x + 1")
def pairwise_distance(run, x1, x2, p=2.0, eps=1e-6, keepdim=False):
    """The p-norms of the differences of rows, with eps added to each element."""
    return (proxy_of(run, x1) - proxy_of(run, x2) + eps).norm(p, -1, keepdim)


@function("x, [1.0, 2.0]")
def isin(run, elements, test_elements, *, assume_unique=False, invert=False):
    """Whether each element is one of others."""
    others = proxy_of(run, test_elements).flatten()
    found = (proxy_of(run, elements).unsqueeze(-1) == others).any(-1)
    return found.logical_not() if invert else found


# Losses.

def _reduced(loss, reduction):
    if reduction == "none":
        return loss
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is 'none', 'mean' or 'sum', not {reduction!r}")
    return loss.mean() if reduction == "mean" else loss.sum()


def _pair(run, x, y):
    """Both, of one shape."""
    x, y = proxy_of(run, x), proxy_of(run, y)
    shape = np.broadcast_shapes(x.shape, y.shape)
    return x.expand(shape), y.expand(shape)


@function("x, x + 1")
def mse_loss(run, input, target, reduction="mean"):
    """The squares of differences: their mean, their sum, or all of them ("none")."""
    x, y = _pair(run, input, target)
    return _reduced((x - y).square(), reduction)


@function("x, x + 1")
def l1_loss(run, input, target, reduction="mean"):
    """The sizes of differences: their mean, their sum, or all of them ("none")."""
    x, y = _pair(run, input, target)
    return _reduced((x - y).abs(), reduction)


@function("x, x + 1")
def huber_loss(run, input, target, reduction="mean", delta=1.0):
    """Half the squares of differences up to delta, and lines beyond it."""
    x, y = _pair(run, input, target)
    size = (x - y).abs()
    loss = apply(run, "where", [size < delta, size.square() * 0.5, (size - 0.5 * delta) * delta])
    return _reduced(loss, reduction)


@function("x, x + 1")
def smooth_l1_loss(run, input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """huber_loss divided by beta, where that is its delta; of beta 0 l1_loss."""
    if beta == 0:
        return l1_loss(run, input, target, reduction)
    return huber_loss(run, input, target, reduction, beta) / beta


@function("x, x > 0")
def binary_cross_entropy_with_logits(run, input, target, weight=None, size_average=None,
                                     reduce=None, reduction="mean", pos_weight=None):
    """-(target log(sigmoid(x)) + (1 - target) log(1 - sigmoid(x))), without overflow."""
    x, y = _pair(run, input, proxy_of(run, target).float())
    below = (-x).relu() + (-x.abs()).exp().log1p()      # -log(sigmoid(x))
    scale = y if pos_weight is None else y * pos_weight
    loss = (1 - y) * (x + below) + scale * below
    return _reduced(loss if weight is None else loss * weight, reduction)


@function("x.sigmoid(), x > 0")
def binary_cross_entropy(run, input, target, weight=None, size_average=None, reduce=None,
                         reduction="mean"):
    """-(target log(x) + (1 - target) log(1 - x)) of probabilities, logarithms held above -100."""
    x, y = _pair(run, input, proxy_of(run, target).float())
    loss = -(y * x.log().clamp(min=-100) + (1 - y) * (1 - x).log().clamp(min=-100))
    return _reduced(loss if weight is None else loss * weight, reduction)


@function("x, x.softmax(-1)")
def kl_div(run, input, target, reduction="mean", log_target=False):
    """target * (log(target) - input), where input is a logarithm, and so is target with log_target.

    `reduction` "batchmean" divides the sum by the size of the first dimension.
    """
    x, y = _pair(run, input, target)
    if log_target:
        loss = y.exp() * (y - x)
    else:   # 0 log 0 is 0
        loss = apply(run, "where", [y == 0, 0.0, y * y.log()]) - y * x
    if reduction == "batchmean":
        return loss.sum() / (loss.shape[0] if loss.ndim else 1)
    return _reduced(loss, reduction)


class _Targets:
    """Class indices beside a tensor of classes: (C) and (), or (N, C, ...) and (N, ...)."""

    def __init__(self, x, target, ignore_index):
        self.dim = 0 if x.ndim == 1 else 1
        if tuple(target.shape) != x.shape[:self.dim] + x.shape[self.dim + 1:]:
            raise ValueError(f"classes of {x.shape} need targets of "
                             f"{x.shape[:self.dim] + x.shape[self.dim + 1:]}, or probabilities of "
                             f"{x.shape}: not {tuple(target.shape)}")
        self.kept = None    # of each target: whether it counts; None where all do
        if isinstance(target, Proxy):
            self.kept = target != ignore_index
            target = apply(x._run, "where", [self.kept, target, 0])
        elif (target == ignore_index).any():
            self.kept = target != ignore_index
            target = np.where(self.kept, target, 0)
        self.index = target

    def of(self, x):
        """The elements of x at the targets."""
        index = (self.index.unsqueeze(self.dim) if isinstance(self.index, Proxy)
                 else np.expand_dims(self.index, self.dim))
        return apply(x._run, "gather", [x, self.dim, index]).squeeze(self.dim)

    def only(self, x):
        """x where the targets count, else 0."""
        return x if self.kept is None else apply(x._run, "where", [self.kept, x, 0.0])

    def mean(self, x, weights):
        """The sum over the weights (all 1 where None) of the targets that count."""
        if weights is None and self.kept is None:
            return x.mean()
        if weights is None:
            return x.sum() / proxy_of(x._run, self.kept).sum()
        return x.sum() / weights.sum()


def _target_of(target):
    target = tensor_of(target)
    return target if isinstance(target, Proxy) else as_array(target)


def _weight_of(run, weight, t):
    """Of each target: the weight of its class."""
    if weight is None:
        return None
    picked = apply(run, "index_select", [weight, 0, t.index.reshape(-1)])
    return t.only(picked.reshape(t.index.shape))


def _negative(x, t, weights, reduction):
    """-x at the targets."""
    loss = t.only(-t.of(x))
    loss = loss if weights is None else loss * weights
    return t.mean(loss, weights) if reduction == "mean" else _reduced(loss, reduction)


@method("x, [0, 2]")
def nll_loss(x, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
             reduction="mean"):
    """-x at the target of each row: x holds logarithms of probabilities, (N, C, ...) or (C)."""
    t = _Targets(x, _target_of(target), ignore_index)
    return _negative(x, t, _weight_of(x._run, weight, t), reduction)


@method("x, [0, 2]")
def cross_entropy(x, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                  reduction="mean", label_smoothing=0.0):
    """log(sum(exp(x))) - x at the target, over the classes of (N, C, ...) or (C): targets are
    indices of classes, (N, ...), or probabilities in x's shape."""
    target = _target_of(target)
    if target.dtype.kind == "f":
        return _of_probabilities(x, proxy_of(x._run, target), weight, reduction, label_smoothing)
    t = _Targets(x, target, ignore_index)
    weights = _weight_of(x._run, weight, t)
    if weight is None and not label_smoothing:      # the logits need not be whole anywhere
        loss = t.only(x.logsumexp(t.dim) - t.of(x))
        return t.mean(loss, None) if reduction == "mean" else _reduced(loss, reduction)
    logs = x.log_softmax(t.dim)
    loss = _negative(logs, t, weights, reduction)
    if not label_smoothing:
        return loss
    each = t.only(-(logs if weight is None else logs * _by_class(x, weight)).sum(t.dim))
    smooth = t.mean(each, weights) if reduction == "mean" else _reduced(each, reduction)
    return loss * (1 - label_smoothing) + smooth * (label_smoothing / x.shape[t.dim])


def _by_class(x, weight):
    weight = proxy_of(x._run, weight)
    return weight.reshape([-1, *[1] * max(x.ndim - 2, 0)])


def _of_probabilities(x, target, weight, reduction, smoothing):
    dim = 0 if x.ndim == 1 else 1
    if target.shape != x.shape:
        raise ValueError(f"probabilities of {target.shape} for classes of {x.shape}")
    if smoothing:
        target = target * (1 - smoothing) + smoothing / x.shape[dim]
    logs = x.log_softmax(dim) * target
    loss = -(logs if weight is None else logs * _by_class(x, weight)).sum(dim)
    if reduction == "mean":
        return loss.sum() / max(int(np.prod(loss.shape)), 1)
    return _reduced(loss, reduction)
