"""What a random program may compute: one line an expression, the same text for the client and for
torch. A word in braces is filled in by programs.py:

    x n f i b m     a tensor: any, number (no bool), float32, int64, bool, float32 of two dimensions
                    or more. A row's first is its subject, which {0} repeats, and the words below
                    are about it
    w wide block    float32 of the model's width, of its MLPs'; one of its blocks
    y same mask     what broadcasts with it (a number, a tensor, a constant); a tensor of its shape;
                    a bool that broadcasts with it
    dim dims perm   one of its dimensions (again: dim0); several; all, in another order
    index lists shape size      of x[...], with lists of integers, of reshape, of expand
    keep s c k dtype    True or False; a float; a small integer; at most the size of `dim0`, and again
                    k0; a dtype
    places alike column equation    int64 constants, indices along `dim0` (again: places0); one for
                    gather; a matrix to be multiplied with; of einsum, which takes its subject
    extent          the size of its first dimension, 1 or more
    beside keys     what has another size along `dim0`; another number of rows

`rows` is told where two right programs, which differ in their last bits, may give something else:
`step`, an operand near a place where the result jumps; `order`, elements of the subject that are
nearly equal. What torch leaves open is spelled otherwise for it, behind =>.
"""

import torch

import optable


class Torch(optable._Torch):
    """`interpose` in a program that torch runs."""
    others = {**optable._Torch.others,
              "wrap_index": lambda x, size: torch.where(x < 0, x + size, x),
              "first": lambda x, k, dim, descending=False: x.sort(
                  stable=True, dim=dim, descending=descending).indices.narrow(dim, 0, k)}


def rows(caution, texts):
    return [(text.strip(), caution) for text in texts.strip().splitlines()]


# Far below zero torch's gelu takes 1 from nearly 1 and keeps few digits, and of infinity the other
# one makes NaN: it is asked between. Its norm of order 1 adds one by one, some 20 times as far from
# the sum of a thousand as ours: of integers both are exact. Sums of the greatest floats are infinite
# or not by the order of their terms: what is no number becomes a small one.
ROWS = rows("", """
    -{n}
    abs({n})
    {n}.square()
    ({f}.tanh() * 3).exp()
    torch.exp(-{f}.abs())
    ({i} % 5).exp()
    ({f}.abs() + 0.1).log()
    {f}.abs().sqrt()
    ({f}.square() + 0.5).rsqrt()
    ({f}.abs() + 0.5).reciprocal()
    {f}.tanh()
    torch.sigmoid({f})
    {n}.relu()
    torch.nn.functional.gelu({f}.clamp(min=-1), approximate='tanh')
    {f}.sin()
    {f}.cos()
    {n}.isnan()
    torch.isinf({n})
    ~{b}
    ~{i}
    {f}.exp2()
    {f}.clamp(max=3).expm1()
    ({f}.abs() + 0.2).log2()
    ({f}.square() + 0.2).log10()
    {f}.abs().log1p()
    {f}.tanh().tan()
    {f}.erf()
    ({f}.tanh() * 0.9).asin()
    ({f}.tanh() * 0.9).acos()
    {f}.atan()
    {f}.atan2({same}.float().abs() + 0.5)
    {n}.isfinite()
    torch.nn.functional.gelu({f}.clamp(-1, 99))
    torch.nn.functional.silu({f})
    {f}.nan_to_num(0.5, 9.0, -9.0)
    {x} + {y}
    {n} - {y}
    {x} * {y}
    {n} / 4
    {s} - {n}
    {s} * {n}
    {c} + {x}
    {n} / ({same}.float().square() + 0.5)
    {s} / ({f}.abs() + 0.5)
    {n} ** 2
    ({f}.abs() + 0.5) ** {s}
    2 ** ({i} % 5)
    {f}.tanh() ** 3 + {y}
    torch.maximum({x}, {same})
    {x}.minimum({same})
    {n}.clamp(-{c}, {c})
    {f}.clamp(min={s})
    {b} & {mask}
    {b} | {mask}
    {b} ^ {mask}
    {i} & {c}
    {i} | {c}
    {i} ^ {same}
    {b} * {y}
    {i}.fmod({c})
    {i} << {c}
    {i} >> {c}
    {c} << ({i} % 5)
    interpose.random({c}, {i}) >> 7
    {f}.lerp({same}.float(), 0.25)
    {n}.add({same}, alpha=2)
    {x}[{index}]
    {x}[{index}]
    {x}[{index}]
    {x}[{lists}]
    {x}.transpose({dim}, {dim})
    {x}.permute({perm})
    {x}.reshape({shape})
    {x}.flatten()
    {x}.flatten({dim})
    {x}.unsqueeze({dim})
    {x}.squeeze()
    {x}.squeeze({dim})
    {x}.expand({size})
    {m}.mT
    {x}.unbind({dim})[-1]
    {x}.chunk(2, {dim})[0]
    {x}.split(2, {dim})[-1]
    {x}.view({shape})
    {m}.diagonal({c}, -2, -1)
    {m}.diagonal(dim1=-1, dim2=0)
    {x}.unfold({dim}, 2, {c})
    {x}.clone()
    {b}.to({dtype})
    {i}.to({dtype})
    {x}.where({mask}, {y})
    {n}.masked_fill({mask}, 1)
    torch.cat([{x}, {same}], {dim})
    torch.cat([{x}, {0}[..., :2]], -1)
    torch.stack([{x}, {same}, {0}], {dim})
    torch.cat([{x}, {beside}, {0}], {dim0})
    {m} @ {keys}.transpose(-1, -2)
    {x}.sum()
    {x}.sum({dims}, keepdim={keep})
    {f}.mean({dims}, keepdim={keep})
    {f}.mean()
    {f}.var({dim}, unbiased=False)
    {x}.max()
    {n}.amax({dims}, keepdim={keep})
    {n}.min({dim}, keepdim={keep}).values
    {n}.amin({dims})
    {f}.norm(dim={dims}, keepdim={keep})
    {f}.norm()
    ({f} + 1.25).logsumexp({dims}, keepdim={keep})
    {n}.gather({dim}, {0}.argmax({dim0}, keepdim=True))
    {n}.topk({k}, {dim0}).values
    {n}.topk({k}, {dim0}, largest=False).values
    {n}.cumsum({dim})
    {f}.tanh().cumprod({dim})
    ({i} % 3).cumprod({dim})
    {f}.tanh().prod({dim}, keepdim={keep})
    ({i} % 3).prod()
    {f}.std({dim}, unbiased=False)
    {i}.float().norm(1, {dim})
    {n}.sort({dim}).values
    {n}.median({dim}).values
    {n}.scatter({dim}, {alike}, 2)
    {n}.scatter_add({dim}, {alike}, {same})
    {x}.index_select(0, interpose.wrap_index({i}.flatten() % {extent}, {extent0}))
    {x}.index_select(0, interpose.wrap_index(-1 - {i}.flatten() % {extent}, {extent0}))
    {x}.gather({dim}, {alike})
    {x}.index_select({dim}, {places})
    {f}.softmax({dim})
    torch.softmax({f}, dim={dim})
    {f}.log_softmax({dim})
    {m} @ {0}.transpose(-1, -2)
    {m}.mT.matmul({0})
    {f} @ {column}
    torch.einsum({equation}, {0}, {0})
    model.transformer.ln_f({w})
    model.lm_head({w})
    model.lm_head(model.transformer.ln_f({w}))
    {block}.ln_1({w})
    {block}.attn.c_attn({w})
    {block}.attn.c_proj({w})
    {block}.ln_2({w})
    {block}.mlp.c_fc({w})
    {block}.mlp.c_proj({wide})
    {block}.mlp({w})
    {m}.tril()
    {m}.triu({c})
    {x}.flip({dim})
    {x}.roll({c}, {dim})
    {x}.movedim({dim}, 0)
    {x}[{i} % {extent}].clone()
    {x}.repeat(2, 1, 1, 1)
    {n}.index_add({dim}, {places}, {0}.index_select({dim0}, {places0}))
    (({i} % 9) / 8).half().float()
    (({i} % 9) / 8).bfloat16().float()
    {x}.repeat_interleave(2, {dim})
    torch.zeros_like({x}) + {y}
    torch.ones_like({n}) * {y}
""") + rows("step", """
    {n}.sign()
    ({n} * 2).floor()
    ({f} * 3).ceil()
    ({f} * 5).round()
    {x}.logical_not()
    ({n} * 3).trunc()
    {f}.frac()
    {n} // {c}
    {n} // ({same}.abs() + 1)
    {n} % {c}
    ({f} * 4) % 0.75
    {n} == {y}
    {n} != {y}
    {n} < {y}
    {n} <= {y}
    {n} > {y}
    {n} >= {y}
    {x}.logical_and({same})
    torch.logical_or({x}, {same})
    ({f} * 3).fmod(0.75)
    {x}.logical_xor({same})
    {n}.div({c}, rounding_mode='floor')
    {f}.bool()
    {f}.nan_to_num().clamp(-9, 9).long()
    {x}.any({dim})
    {x}.all()
    {x}.count_nonzero({dim})
""") + rows("order", """
    {n}.argmax({dim}, keepdim={keep})
    {n}.flatten().argmax()
    {n}.max({dim}).indices
    {n}.argmin({dim}, keepdim={keep})
    {n}.argsort({dim}, stable=True)
    {n}.sort(stable=True, dim={dim}, descending=True).indices
    {n}.topk({k}, {dim0}).indices => interpose.first({0}, {k0}, {dim0}, True)
    {n}.topk({k}, {dim0}, largest=False).indices => interpose.first({0}, {k0}, {dim0})
""")

# Conditions.
FLAGS = rows("step", """
    {n}.sum() > {s}
    ({f} > {s}).any()
""") + rows("", """
    {i}.flatten()[0] % 2 == 0
""")

# Statements that change their target: {t} is a tensor or a part of one, {v} what broadcasts to it
# and is known in time.
CHANGES = [
    "{t} = {s}", "{t} = {v}", "{t} = {v}", "{t} = {v}", "{t} *= {s}", "{t} += {s}", "{t} += {v}",
    "{t} -= {v}", "{t} /= 2", "{t} = {t}.tanh()", "{t} = -{t}", "{t}.copy_({v})", "{t}.fill_({s})",
    "{t}.zero_()", "{t}.mul_({s})", "{t}.add_({v})", "{t}.clamp_(-1, 1)", "{t}.sub_({v})",
    "{t}.tanh_()", "{t}.abs_()", "{t} = {t} * {v}",
]
