"""What computes values: arithmetic, functions of one number, reductions, orders, dtypes."""
import numpy as np

from optable import INTEGERS, SPECIAL, binary, given, laid, operand, rows, unary

ANY_ZERO = 1e-9     # of 0.0 and -0.0 torch gives either, by how the tensor lies in memory

FLOATS = unary("f")
NUMBERS = unary("fi")
ANY = unary("fib")
MANY = [{"x": x} for kind in "fib" for x in laid(kind)] + [
    {"x": operand(kind, shape)} for kind in "fib" for shape in ((), (2, 3, 4), (1,), (40, 70))]
FLOATS_MANY = [{"x": x} for x in laid("f")] + [
    {"x": operand("f", shape)} for shape in ((), (2, 3, 4), (1,), (40, 70))]

ARITHMETIC = rows("""
    x + y
    x * y
    x.add(y)
    x.mul(y)
    torch.add(x, y)
    torch.multiply(x, y)
    interpose.add(x, y)
    interpose.mul(x, y)
    x.maximum(y)
    x.minimum(y)
    torch.maximum(x, y)
    interpose.maximum(x, y)
    interpose.minimum(x, y)
""", binary(numbers=())) + rows("""
    x - y
    x.sub(y)
    x.subtract(y)
    interpose.sub(x, y)
""", binary(("ff", "fi", "if", "ii", "bf", "ib", "bi", "bb")),
    lenient="a bool beside a number counts as 0 or 1 in all of arithmetic") + rows("""
    x - y
""", given(x=operand("b", (3,)), y=operand("b", (3,))), refused="sub of bool is not defined") + rows("""
    x / y
    x.div(y)
    x.true_divide(y)
    torch.div(x, y)
    interpose.div(x, y)
    x.divide(y)
""", binary()) + rows("""
    x.add(y, alpha=2)
    x.sub(y, alpha=-1)
    torch.add(x, y, alpha=3)
""", binary(("ff", "fi", "ii"), special=False, numbers=(2, -3)), 1e-6) + rows("""
    x.div(y, rounding_mode=None)
    x.div(y, rounding_mode="floor")
    x.div(y, rounding_mode="trunc")
    torch.div(x, y, rounding_mode="trunc")
""", binary(("fp", "in", "fn"), special=False, numbers=(2, -3))) + rows("""
    x.div(y, rounding_mode="up")
""", given(x=operand("f", (3,)), y=2), refused="rounding_mode is None, 'floor' or 'trunc'")

COMPARISONS = rows("""
    x == y
    x != y
    x < y
    x <= y
    x > y
    x >= y
    x.eq(y)
    x.ne(y)
    x.lt(y)
    x.le(y)
    x.gt(y)
    x.ge(y)
    interpose.eq(x, y)
    interpose.ne(x, y)
    interpose.lt(x, y)
    interpose.le(x, y)
    interpose.gt(x, y)
    interpose.ge(x, y)
""", binary()) + rows("""
    x.logical_and(y)
    x.logical_or(y)
    interpose.logical_and(x, y)
    interpose.logical_or(x, y)
    x.logical_xor(y)
    interpose.logical_xor(x, y)
""", binary(numbers=()))

REFLECTED = rows("""
    2 + x
    0.5 + x
    True + x
    2 - x
    0.5 - x
    3 * x
    -1.5 * x
    2 / x
    0.5 / x
    2 == x
    1 < x
""", unary("fi"))

BITS = rows("""
    x & y
    x | y
    x ^ y
    x.bitwise_and(y)
    x.bitwise_or(y)
    x.bitwise_xor(y)
    interpose.bitwise_and(x, y)
    interpose.bitwise_or(x, y)
    interpose.bitwise_xor(x, y)
""", binary(("ii", "ib", "bi", "bb", "fi"))) + rows("""
    ~x
    x.bitwise_not()
    interpose.bitwise_not(x)
    3 & x
    True | x
    3 ^ x
""", unary("ibf"))

# The least integer by -1 ends torch's process, and any by 0 is refused by it.
_SOME = INTEGERS[(INTEGERS != 0) & (INTEGERS != -2**63)]
WHOLE = binary(("in", "fn", "nf"), special=False, numbers=(2, -3, 0.5)) + given(x=_SOME[:, None], y=_SOME)
# Where a quotient has more than 24 bits torch's remainders are NaN or not, by the layout.
NEAR = SPECIAL[(abs(SPECIAL) < 1e3) & (abs(SPECIAL) > 1e-3) | ~(abs(SPECIAL) < np.inf) | (SPECIAL == 0)]

SHIFTS = rows("""
    x.bitwise_left_shift(y)
    x.bitwise_right_shift(y)
    interpose.bitwise_left_shift(x, y)
    interpose.bitwise_right_shift(x, y)
    x << y
    x >> y
""", binary(("ii", "ib", "bi", "bb", "fi"), numbers=(1, 63, 64, -1))) + rows("""
    1 << x
    9 >> x
""", unary("i"))

RANDOM = rows("""
    interpose.random(x, y)
""", binary(("ii", "fi"), numbers=(2, -3)))

# Of integers torch refuses a division by zero when it meets it: here that would be known too late.
QUOTIENTS = rows("""
    x // y
    x.floor_divide(y)
    interpose.floor_divide(x, y)
""", binary(("ff",), numbers=(2, -3, 0.5, -1.5)) + WHOLE) + rows("""
    x % y
    x.remainder(y)
    x.fmod(y)
    interpose.remainder(x, y)
    interpose.fmod(x, y)
""", binary(("ff",), special=False, numbers=(2, -3, 0.5, -1.5)) + WHOLE
    + given(x=NEAR[:, None], y=NEAR)) + rows("""
    7 // x
    0.5 // x
    7 % x
    0.5 % x
""", unary("pn", special=False)) + rows("""
    divmod(x, 2)
""", unary("pi", special=False), oracle="x // 2, x % 2") + rows("""
    divmod(7, x)
""", unary("pn", special=False), oracle="7 // x, 7 % x")

POWERS = rows("""
    x ** y
    x.pow(y)
    torch.pow(x, y)
    interpose.pow(x, y)
""", binary(("pf", "pi", "in", "np", "fn"), special=False, numbers=(2, 3, 0, 0.5)), 1e-6) + rows("""
    x ** y
""", binary(("ff",), numbers=(2, 3, 0.5, -1, -2)), 1e-6) + rows("""
    2 ** x
    0.5 ** x
    1.5 ** x
""", unary("p") + unary("n", special=False), 1e-6)

EXACT = rows("""
    -x
    +x
    abs(x)
    x.neg()
    x.abs()
    torch.neg(x)
    torch.absolute(x)
    interpose.neg(x)
    interpose.abs(x)
    x.square()
    interpose.square(x)
    x.floor()
    x.ceil()
    interpose.floor(x)
    interpose.ceil(x)
    x.trunc()
    interpose.trunc(x)
    x.round()
    torch.round(x)
    interpose.round(x)
""", NUMBERS) + rows("""
    round(x)
""", NUMBERS, oracle="x.round()") + rows("""
    x.relu()
    F.relu(x)
    interpose.relu(x)
""", NUMBERS) + rows("""
    x.sign()
    torch.sign(x)
    interpose.sign(x)
    x.isnan()
    torch.isnan(x)
    interpose.isnan(x)
    x.isfinite()
    interpose.isfinite(x)
    x.isinf()
    interpose.isinf(x)
    x.logical_not()
    interpose.logical_not(x)
    x.reciprocal()
    interpose.reciprocal(x)
""", ANY)

SMOOTH = rows("""
    x.exp2()
    x.expm1()
    x.log2()
    x.log10()
    x.log1p()
    x.tan()
    x.asin()
    x.acos()
    x.atan()
    torch.arctan(x)
    interpose.asin(x)
    interpose.acos(x)
    interpose.atan(x)
    x.erf()
    torch.log1p(x)
    interpose.exp2(x)
    interpose.expm1(x)
    interpose.log2(x)
    interpose.log10(x)
    interpose.log1p(x)
    interpose.tan(x)
    interpose.erf(x)
    x.exp()
    torch.exp(x)
    interpose.exp(x)
    x.log()
    interpose.log(x)
    x.sqrt()
    torch.sqrt(x)
    interpose.sqrt(x)
    x.rsqrt()
    interpose.rsqrt(x)
    x.tanh()
    interpose.tanh(x)
    x.sigmoid()
    interpose.sigmoid(x)
    x.sin()
    x.cos()
    interpose.sin(x)
    interpose.cos(x)
    torch.special.expit(x)
    torch.special.log1p(x)
    torch.special.exp2(x)
""", ANY, 1e-6, 1e-38) + rows("""
    F.gelu(x, approximate="tanh")
    x.logit()
    x.logit(eps=0.1)
    torch.logit(x, 0.25)
    F.silu(x)
    interpose.silu(x)
    F.softplus(x)
    F.softplus(x, beta=2, threshold=3)
    interpose.softplus(x)
    F.logsigmoid(x)
    interpose.logsigmoid(x)
    F.leaky_relu(x)
    interpose.leaky_relu(x, 0.25)
    F.elu(x)
    F.elu(x, alpha=0.5)
    F.relu6(x)
    F.hardtanh(x)
    F.hardtanh(x, -2, 0.5)
    x.sinh()
    torch.cosh(x)
    x.erfc()
    torch.special.erfc(x)
""", FLOATS, 2e-6, 2e-6) + rows("""
    F.gelu(x)
    interpose.gelu(x)
""", unary("f", special=False) + given(x=SPECIAL[:-3]), 2e-6, 2e-6) + rows("""
    x.frac()
    torch.frac(x)
    F.dropout(x, training=False)
    F.dropout(x, p=0.0)
    torch.nn.Dropout().eval()(x)
""", FLOATS) + rows("""
    F.dropout(x)
""", given(x=operand("f", (3,))), refused="dropout with training=True draws at random what it zeroes: write "
    "training=False, or x * (interpose.rand_like(x, seed=1) > p) / (1 - p)") + rows("""
    x.nan_to_num()
    x.nan_to_num(1.5, 2.0, -3)
    torch.nan_to_num(x, nan=-1.0)
""", NUMBERS) + rows("""
    x.lerp(y, 0.25)
    x.lerp(y, 0.75)
    torch.lerp(x, y, 0.5)
    x.lerp(y, y)
""", binary(("ff",), special=False, numbers=()), 1e-6, 1e-6) + rows("""
    x.logaddexp(y)
    torch.logaddexp(x, y)
""", binary(("ff",), numbers=()), 1e-6, 1e-6) + rows("""
    interpose.gelu_new(x)
""", FLOATS, 2e-6, 2e-6, oracle="F.gelu(x, approximate='tanh')")

CLAMPED = rows("""
    x.clamp(y, y + 1)
    x.clamp(max=y)
""", binary(("ff", "fi", "ii"), numbers=()), ANY_ZERO) + rows("""
    x.clamp()
""", given(x=operand("f", (3,))), refused="clamp needs min or max")

CHOICES = rows("""
    x.clamp(-1, 2)
    x.clamp(min=0)
    x.clip(max=1.5)
    torch.clamp(x, -1, 1)
    x.clamp(2, -2)
    x.clamp_min(0)
    x.clamp_max(1)
    torch.clamp_min(x, -1)
""", NUMBERS) + rows("""
    torch.where(x > 0, x, y)
    torch.where(x > 0, x, 2.5)
    torch.where(x > 0, 1, y)
    interpose.where(x > 0, x, y)
    x.where(y > 0, y)
    y.where(x > 0, 0)
    x.masked_fill(x > 0, 7)
    x.masked_fill(y > 0, -1)
""", binary(("ff", "fi", "if", "ii"), numbers=()), lenient="a fill of another dtype promotes") + rows("""
    torch.where(x, 1, 2)
""", given(x=operand("f", (3,))), refused="where needs a mask of bool: this is float32")

# Rows with a NaN, with infinities of one sign and of both.
WRONG = given(x=np.float32([[1, np.nan, 2], [np.inf, 1, 2], [-np.inf, np.inf, 0], [-np.inf, 0, 1],
                            [3, 2, 1], [-np.inf] * 3]))

SUMS = rows("""
    x.sum()
    x.sum(-1)
    x.sum(dim=0, keepdim=True)
    x.sum(dim=(0, -1))
    x.sum((0, 2), keepdim=True)
    torch.sum(x, dim=0)
    interpose.sum(x)
    x.sum(0, dtype=torch.float32)
    x.sum(axis=0, keepdims=True)
    x.count_nonzero()
    x.count_nonzero(0)
    torch.count_nonzero(x, dim=-1)
    x.any()
    x.any(-1)
    x.any(dim=0, keepdim=True)
    torch.any(x, 0)
    x.all()
    x.all(0)
    x.all(dim=-1, keepdim=True)
    torch.all(x)
    x.mean(dtype=torch.float32)
""", MANY + given(x=operand("f", (0,))) + given(x=operand("i", (2, 0, 3))) + WRONG, 1e-6, 1e-4) + rows("""
    x.mean()
    x.mean(-1)
    x.mean(dim=(0, -1), keepdim=True)
    torch.mean(x, dim=0)
    interpose.mean(x)
    x.norm()
    x.norm(dim=-1)
    x.norm(1)
    x.norm(p=3, dim=0)
    x.norm(float("inf"), -1, True)
    x.norm(0, dim=0)
    x.norm(p=0.5, dim=-1)
    torch.linalg.vector_norm(x, 1, dim=-1)
    torch.linalg.vector_norm(x)
    torch.linalg.norm(x, dim=-1)
    torch.norm(x, dim=0)
    interpose.norm(x)
    x.logsumexp(-1)
    x.logsumexp((0, 1), keepdim=True)
    torch.logsumexp(x, 0)
    interpose.logsumexp(x, 0)
""", FLOATS_MANY + given(x=operand("f", (0,))) + WRONG, 2e-6, 2e-6)

SCANS = rows("""
    x.cumsum(-1)
    x.cumsum(0)
    x.cumsum(dim=1)
    torch.cumsum(x, 0)
    interpose.cumsum(x, 0)
""", MANY + given(x=operand("f", (0,))) + given(x=operand("i", (2, 0, 3))) + given(x=SPECIAL), 1e-6, 1e-6) + rows("""
    x.cumprod(-1)
    x.cumprod(0)
    torch.cumprod(x, 0)
    interpose.cumprod(x, 0)
    x.prod()
    x.prod(-1)
    x.prod(dim=0, keepdim=True)
    torch.prod(x, 0)
    interpose.prod(x)
""", MANY + given(x=operand("f", (0,))) + given(x=operand("i", (2, 0, 3))) + WRONG, 2e-6)

# Of equal elements torch gives any: these are all different. Nor are they expanded: torch's median
# of such a tensor is what it finds in memory.
APART = [{"x": x} for i, x in enumerate(laid("f")) if i != 3] + [
    {"x": operand("f", shape)} for shape in ((), (2, 3, 4), (1,), (40, 70))]

# What torch's users expect beside the list.
EXTRAS = rows("""
    x.atan2(y)
    torch.atan2(x, y)
    interpose.atan2(x, y)
""", binary(numbers=()), 1e-6) + rows("""
    x.round(decimals=2)
    x.round(decimals=-1)
    torch.round(x, decimals=1)
""", unary("f", special=False), 1e-6) + rows("""
    interpose.add(x, y=y)
""", given(x=operand("f", (3, 4)), y=operand("f", (4,))), oracle="x + y") + rows("""
    interpose.sub(x=x, y=y)
""", given(x=operand("f", (3, 4)), y=operand("f", (4,))), oracle="x - y") + rows("""
    x.addcmul(y, y)
    x.addcmul(y, y, value=-2)
    x.addcdiv(y, y + 9)
    torch.addcmul(x, y, y, value=0.5)
""", binary(("ff",), special=False, numbers=()), 1e-6, 1e-6) + rows("""
    x.addcmul_(y, y, value=0.5); x
    x[:2].addcdiv_(y[1:], y[:2]); x
""", given(x=operand("f", (3, 4)), y=operand("p", (3, 4))), 1e-6, 1e-6) + rows("""
    x.heaviside(y)
    torch.heaviside(x, y)
    x.isclose(y)
    torch.isclose(x, y, equal_nan=True)
    torch.isclose(x, y, rtol=0.5, atol=1)
    torch.allclose(x, y, rtol=0.5, atol=9)
    x.allclose(y)
    torch.equal(x, y)
    x.equal(x + 0)
""", binary(("ff",), numbers=())) + rows("""
    x.data
    x.conj()
    torch.positive(x)
    x.ndimension() + x.nelement()
    x.is_contiguous() | True
    torch.empty_like(x).fill_(2)
    x.requires_grad
    x.is_floating_point()
    torch.zeros(3, 4, device=x.device) + x.float()
    x.to("cpu", torch.float32, non_blocking=True, copy=True)
    (x > 0).to(x)
    x.to(torch.tensor([1]))
    torch.zeros_like(x, device="cpu", requires_grad=False)
    x.diff()
    x.diff(dim=0)
    x.diff(n=2, dim=-1)
    torch.diff(x, dim=0)
    x.new_zeros(2, 3)
    x.new_ones((3,), dtype=torch.int64)
    x.new_full((2, 2), 1)
    x.new_zeros(4).add_(1)
""", [{"x": x} for kind in "fi" for x in laid(kind)] + given(x=operand("f", (2, 3, 4)))) + rows("""
    x.kthvalue(1)
    x.kthvalue(3, 0)
    x.kthvalue(2, dim=-1, keepdim=True)
    torch.kthvalue(x, 1, 0)
    x.kthvalue(9)
""", APART) + rows("""
    x.quantile(0.5)
    x.quantile(0.3, -1)
    x.quantile(1.0, dim=0, keepdim=True)
    x.quantile(0.8, keepdim=True)
    torch.quantile(x, 0.25, dim=0)
""", APART + given(x=WRONG[0]["x"].data[:2]) + given(x=operand("i", (3,))), 1e-6, 1e-6) + rows("""
    x.quantile(1.5)
""", given(x=operand("f", (3,))), refused="quantile: q is from 0 to 1: it is 1.5")

DISTANCES = rows("""
    x.xlogy(y)
    torch.special.xlogy(x, y)
""", binary(("ff",), numbers=()), 1e-6) + rows("""
    x.nansum()
    x.nansum(-1)
    torch.nansum(x, dim=0, keepdim=True)
    x.nanmean()
    torch.nanmean(x, dim=1)
""", WRONG + given(x=operand("f", (3, 4))), 1e-6) + rows("""
    x.cov()
    torch.cov(x, correction=0)
    x.corrcoef()
    torch.corrcoef(x)
""", given(x=operand("f", (3, 5))) + given(x=operand("f", (6,))) + given(x=operand("i", (2, 9)))
    + given(x=operand("f", (2, 3, 4))), 5e-6, 5e-6) + rows("""
    torch.cdist(x, y)
    torch.cdist(x, y[:2], p=1.0)
    torch.dist(x, y)
    x.dist(y, 1)
    F.pairwise_distance(x, y)
    F.pairwise_distance(x, y, p=1, keepdim=True)
    torch.linalg.vecdot(x, y)
    torch.linalg.matrix_norm(x)
    torch.linalg.matrix_norm(torch.stack([x, y]))
    torch.linalg.matrix_norm(torch.stack([x, y, y]), dim=(0, 1), keepdim=True)
    F.softmin(x, dim=-1)
    x.reshape_as(y.T)
    F.huber_loss(x, y)
    F.huber_loss(x, y, delta=0.5, reduction="none")
    F.smooth_l1_loss(x, y)
    F.smooth_l1_loss(x, y, beta=0.25, reduction="sum")
    F.smooth_l1_loss(x, y, beta=0.0)
    F.binary_cross_entropy_with_logits(x, (y > 0).float())
    F.binary_cross_entropy_with_logits(x, y.sigmoid(), weight=y.exp(), pos_weight=y[0].exp(), reduction="none")
    F.binary_cross_entropy(x.sigmoid(), (y > 0).float())
    F.binary_cross_entropy(x.sigmoid().round(), y.sigmoid(), reduction="sum")
""", given(x=operand("f", (3, 4)), y=operand("f", (3, 4), "y")), 5e-6, 5e-6) + rows("""
    torch.isin(x, y)
    torch.isin(x, y[0], invert=True)
    torch.isin(x, 3)
""", given(x=operand("i", (3, 4)), y=operand("i", (2, 2))))

SPREADS = rows("""
    x.var()
    x.var(-1)
    x.var(dim=(0, -1), unbiased=False)
    x.var(False)
    x.var(0, correction=0)
    x.var(0, correction=2, keepdim=True)
    torch.var(x, dim=-1, unbiased=False)
    torch.var_mean(x, dim=0)
    x.std()
    x.std(0, keepdim=True)
    x.std(-1, True)
    torch.std(x, 0)
    torch.std_mean(x)
""", FLOATS_MANY + given(x=operand("f", (0,))) + given(x=operand("i", (3,))) + WRONG, 2e-6, 2e-6) + rows("""
    interpose.vector_norm(x, 3, -1)
""", FLOATS_MANY, 2e-6, 2e-6, oracle="torch.linalg.vector_norm(x, 3, -1)") + rows("""
    x.var_mean(-1)
""", FLOATS_MANY, 2e-6, 2e-6, oracle="torch.var_mean(x, -1)") + rows("""
    x.std_mean(0)
""", FLOATS_MANY, 2e-6, 2e-6, oracle="torch.std_mean(x, 0)")

EXTREMES = rows("""
    x.max()
    x.min()
    x.max(-1).values
    x.max(0)
    x.min(dim=-1, keepdim=True)
    torch.max(x, dim=0)
    interpose.max(x)
    interpose.min(x)
    x.amax()
    x.amax(dim=(0, -1))
    x.amin(-1, keepdim=True)
    x.argmax()
    x.argmax(-1)
    x.argmin(dim=0, keepdim=True)
    interpose.argmax(x, 0)
    interpose.argmin(x, -1)
""", FLOATS_MANY + given(x=SPECIAL) + given(x=operand("f", (0,))) + given(x=operand("f", (2, 0)))
    + given(x=operand("f", (7, 1000)))) + rows("""
    x.max()
    x.amax(0)
    x.max(-1).values
    x.min(0).values
    x.argmax(0)
""", [{"x": x} for x in laid("i")]) + rows("""
    x.max(y)
    x.min(y)
""", binary(("ff", "fi", "ii"), numbers=()))

ORDERS = rows("""
    x.sort()
    x.sort(0)
    x.sort(-1, True)
    x.sort(dim=0, descending=True)
    torch.sort(x, dim=0)
    x.argsort()
    x.argsort(dim=0, descending=True)
    torch.argsort(x, -1)
    x.median()
    x.median(0)
    x.median(dim=-1, keepdim=True)
    torch.median(x, -1)
    torch.median(x)
    x.topk(2)
    x.topk(3, -1, False)
    x.topk(2, dim=0)
    torch.topk(x, 3, dim=-1, largest=False)
    interpose.topk(x, 2)
    x.topk(9)
""", APART + given(x=SPECIAL[2:]) + given(x=operand("f", (0,))) + given(x=operand("f", (3, 0)))) + rows("""
    x.sort(-1).values
    x.topk(2).values
""", WRONG + MANY) + rows("""
    x.median(-1).values
    x.median(0).values
""", WRONG + APART) + rows("""
    x.sort(dim=-1, stable=True)
    x.sort(dim=0, descending=True, stable=True)
    torch.sort(x, dim=0, stable=True)
    x.argsort(dim=-1, stable=True)
""", MANY) + rows("""
    interpose.topk_values(x, 2)
""", APART, oracle="x.topk(2).values") + rows("""
    interpose.topk_indices(x, 2, 0)
""", APART, oracle="x.topk(2, 0).indices")

# Around the numbers that float16 and bfloat16 round at.
HALVES = np.float32(np.outer([1, -1.5, 2**-14, 2**-24, 2**-26, 65504, 3e38 / 2**16],
                             1 + np.array([0, 1, 2, 3, 4, 8, 12, 16, 24, 32]) * 2**-13)).ravel()
HALVES = np.concatenate([HALVES, np.float32([65519.99, 65520, -65520, 3.4e38])])

DTYPES = rows("""
    x.to(torch.float32)
    x.to(torch.int64)
    x.to(torch.bool)
    x.to("cpu")
    x.to("cpu", torch.float32)
    x.float()
    x.long()
    x.bool()
    x.int()
    x.half()
    x.double()
    x.to(torch.float16)
    x.type(torch.int32)
    x.to("cpu", torch.float64)
    x.half().float()
    x.bfloat16().float()
    x.int().long()
    x.double().bool()
    x.type(torch.float32)
    x.cpu()
    x.detach()
    x.contiguous()
    x.clone()
    interpose.clone(x)
""", unary("fib", special=False)) + rows("""
    interpose.to(x, "float32")
    x.astype("float32")
""", unary("fib", special=False), oracle="x.to(torch.float32)") + rows("""
    x.half()
    x.half().float()
    x.bfloat16().float()
    x.double()
""", given(x=SPECIAL) + given(x=HALVES)) + rows("""
    interpose.to_float16(x)
""", given(x=SPECIAL) + given(x=HALVES), oracle="x.half().float()") + rows("""
    interpose.to_bfloat16(x)
""", given(x=SPECIAL) + given(x=HALVES), oracle="x.bfloat16().float()") + rows("""
    x.bfloat16()
""", given(x=SPECIAL), oracle="x.bfloat16().float()") + rows("""
    x.int()
""", given(x=INTEGERS)) + rows("""
    x.cuda()
""", FLOATS, oracle="x") + rows("""
    x.type_as(y)
""", binary(numbers=(), special=False))

MADE = rows("""
    torch.zeros_like(x)
    torch.ones_like(x)
    torch.full_like(x, 1)
    interpose.zeros_like(x)
    interpose.ones_like(x)
    interpose.full_like(x, 1)
    torch.zeros_like(x, dtype=torch.int64)
    interpose.ones_like(x, dtype=torch.bool)
    interpose.zeros(2, 3)
    interpose.zeros((2, 3), dtype=torch.int64)
    interpose.ones(2, 3)
    interpose.ones([0])
    interpose.full((2, 3), 7)
    interpose.full((3,), 0.5)
    interpose.full((3,), True)
    interpose.full((3,), 2, dtype=torch.float32)
    interpose.arange(5)
    interpose.arange(2, 9, 3)
    interpose.arange(9, 2, -2)
    interpose.arange(0)
    interpose.arange(3, dtype=torch.float32)
    interpose.arange(0, 1, 0.3)
    interpose.arange(5.0)
    interpose.eye(3)
    interpose.eye(2, 4)
    interpose.eye(3, dtype=torch.int64)
    interpose.zeros(2, 3).add_(1)
    interpose.tensor([1.5, 2]) + x[:0].sum()
""", unary("fib", special=False)) + rows("""
    interpose.linspace(0, 1, 7)
    interpose.linspace(-3.5, 2, 5)
    interpose.linspace(2, 2, 1)
""", given(x=0), 1e-6, 1e-6) + rows("""
    interpose.one_hot(x, 5)
    F.one_hot(x, 5)
    F.one_hot(x, num_classes=6)
""", given(x=abs(operand("i", (2, 3)).data) % 5) + given(x=np.array(3))) + rows("""
    F.one_hot(x)
""", given(x=np.array([1, 2])), refused="num_classes") + rows("""
    interpose.arange(3, 1)
""", given(x=0), refused="arange: from 3 to 1 by steps of 1 there is no way") + rows("""
    interpose.rand_like(x, seed=2) - interpose.rand(3, 4, seed=2)
    interpose.randn_like(x, seed=2) - interpose.randn((3, 4), seed=2)
""", given(x=operand("f", (3, 4))), oracle="torch.zeros(3, 4)") + rows("""
    torch.rand_like(x) < 0
    torch.rand_like(x) < 1
    torch.randn_like(x) > 7
    x.normal_(1.5, 0); x
    x[1:].uniform_(2, 2); x
    x.T[0].normal_() > 7
    (x > 0).float().bernoulli()
    torch.bernoulli((x > 0).float())
""", given(x=operand("f", (3, 4)))) + rows("""
    interpose.rand(2, 3, seed=5)
""", given(x=0), oracle="""
    bits = interpose.random(5, torch.arange(6)).reshape(2, 3);
    (bits >> 40 & 0xffffff).float() * 2**-24
""".strip()) + rows("""
    interpose.randn(6, seed=-7)
""", given(x=0), 1e-6, 1e-6, oracle="""
    bits = interpose.random(-7, torch.arange(6)); u = (bits >> 32 & 0xffffffff).double();
    v = (bits & 0xffffffff).double() * 2**-32;
    (((u + 1) * 2**-32).log() * -2).sqrt().float() * (v * 2 * np.pi).cos().float()
""".replace("\n   ", ""))

IN_PLACE = rows("""
    x.add_(y); x
    x.mul_(y); x
    x += y; x
    x -= y; x
    x *= y; x
    x.copy_(y); x
    x[:] = y; x
    x[1:].copy_(y[1:]); x
    x.clamp_(-1, 1).add_(1); x
    x[0].zero_(); x
    x.fill_(2); x
    x.T[1:3].mul_(2); x
    x.relu_(); x
""", given(x=operand("f", (3, 4)), y=operand("f", (3, 4), "y"))
    + given(x=operand("i", (3, 4)), y=operand("i", (3, 4), "y"))
    + given(x=laid("f")[2], y=operand("f", (3, 4), "y"))
    + given(x=laid("f")[1], y=operand("f", (4,), "y")) + given(x=operand("f", (3, 4)), y=2)) + rows("""
    x /= y; x
    x //= y; x
    x %= y; x
""", given(x=operand("f", (3, 4)), y=operand("p", (3, 4), "y"))
    + given(x=operand("f", (3, 4)), y=operand("f", (2, 3, 4), "y"))) + rows("""
    x **= y; x
    x.pow_(y); x
""", given(x=operand("p", (3, 4)), y=operand("f", (3, 4), "y")), 1e-6) + rows("""
    x &= y; x
    x |= y; x
    x ^= y; x
""", given(x=operand("i", (3, 4)), y=operand("i", (3, 4), "y"))
    + given(x=operand("b", (3, 4)), y=operand("b", (3, 4), "y"))) + rows("""
    x <<= y; x
    x >>= y; x
""", given(x=operand("i", (3, 4)), y=operand("n", (3, 4), "y")))

# Every in-place form: of a float, an integer and a bool tensor, laid in other ways, and of a view.
_TRIED = given(x=operand("p", (3, 4))) + given(x=laid("f")[2]) + given(x=operand("i", (3, 4))) + given(
    x=operand("b", (3, 4)))
_TRIED_TWO = [over for over in binary(("fp", "fn", "if", "in", "bb", "bi"), special=False)
              if getattr(over["x"].data, "shape", ()) in ((3, 4), (2, 3))]

IN_PLACE_METHODS = rows("\n".join(f"x[1:].{name}_(); x" for name in """
    abs absolute asin acos atan arcsin arccos arctan bitwise_not ceil cos erf exp exp2 expm1 fix floor frac log log10 log1p log2 logical_not
    nan_to_num neg negative reciprocal relu round rsqrt sigmoid sign sin sqrt square tan tanh trunc
    """.split()), _TRIED, 1e-6, 1e-38) + rows("\n".join(f"x.{name}_(y); x" for name in """
    add bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor div divide eq
    floor_divide fmod ge greater greater_equal gt le less less_equal logical_and logical_or
    logical_xor lt mul multiply ne not_equal remainder true_divide clamp_min clamp_max
    """.split()), _TRIED_TWO, ANY_ZERO, lenient="a bool counts as 0 or 1, and a 0 may be computed") + rows("""
    x.sub_(y); x
    x.atan2_(y); x
    x.arctan2_(y); x
    x.subtract_(y); x
    x.lerp_(y, 0.25); x
    x.pow_(2); x
    x.add_(y, alpha=2); x
    x.div_(y, rounding_mode="floor"); x
    x.clip_(-1, 1); x
    x.clamp_(0.5, 1.5); x
    x.cumsum_(0); x
    x.tril_(); x
    x.triu_(1); x
    x.cumprod_(-1); x
    x.masked_fill_(x > 1, 0.5); x
    x.masked_fill_(x > 1, 2); x
    x.transpose(0, 1).cumsum_(0); x
""", given(x=operand("f", (3, 4)), y=operand("p", (3, 4), "y")) + given(
    x=operand("i", (3, 4)), y=operand("n", (3, 4), "y")) + given(
    x=operand("i", (3, 4)), y=operand("f", (3, 4), "y")), 1e-6, 1e-6) + rows("""
    x += 0.5; x
    x.add_(0.5); x
    x.exp_(); x
    x[0] *= y; x
""", given(x=operand("i", (3,)), y=operand("f", ())),
    refused="an in-place op gives float32, which cannot be put into int64")
SOFTMAXES = rows("""
    x.softmax(-1)
    x.softmax(dim=0)
    torch.softmax(x, dim=-1)
    F.softmax(x, dim=0)
    interpose.softmax(x, 0)
    x.log_softmax(-1)
    F.log_softmax(x, dim=0)
    interpose.log_softmax(x, 0)
""", FLOATS_MANY + given(x=operand("f", (0,))) + WRONG, 2e-6, 2e-6)

REFUSED = rows("""
    x.sum(5)
    x.softmax(3)
    x.argmax(-3)
    x.var(5)
    x.sort(2)
    x.median(2)
""", given(x=operand("f", (3, 4))), refused="is out of range for (3, 4), whose dimensions are -2 to 1") + rows("""
    x.sum((0, 0))
    x.mean((1, -1))
""", given(x=operand("f", (3, 4))), refused="appears twice in dim") + rows("""
    x ** -1
""", given(x=operand("i", (3,))), refused="pow of int64 to -1: a negative power of an integer is none") + rows("""
    x // 0
    x.floor_divide(0)
""", given(x=operand("i", (3,))), refused="floor_divide of int64 by 0") + rows("""
    x % 0
""", given(x=operand("i", (3,))), refused="remainder of int64 by 0") + rows("""
    x.fmod(0)
""", given(x=operand("i", (3,))), refused="fmod of int64 by 0")

ROWS = (ARITHMETIC + COMPARISONS + REFLECTED + BITS + SHIFTS + RANDOM + QUOTIENTS + POWERS + EXACT + SMOOTH + CLAMPED + CHOICES
        + SUMS + SCANS + EXTRAS + DISTANCES + SPREADS + EXTREMES + ORDERS + DTYPES + MADE + IN_PLACE + IN_PLACE_METHODS + SOFTMAXES + REFUSED)
