"""What the tables of tests/ops_*.py are written in: operands, rows, and when two results are equal.

A row is an expression, or a program whose last statement is the expression ("x.add_(1); x"), and the
operands over which it is tried. It is evaluated on torch's tensors and on proxies; where torch
raises, ours must refuse. The names in it are x, y, z as the operands say, torch, F
(torch.nn.functional), np, and interpose, of which each function is torch's own for the oracle.
"""
from __future__ import annotations

import ast
import functools
import zlib
from typing import Any, Dict, List, NamedTuple, Optional

import numpy as np
import torch

import interpose

F = torch.nn.functional


# Operands.

class Operand(NamedTuple):
    """A tensor that is `view` of an array `a`; or, without a view, the Python object itself."""
    data: Any
    view: Optional[str] = "a"

    def of(self, tensor):
        """The operand made by `tensor`, torch.tensor or interpose.tensor."""
        if self.view is None:
            return self.data
        return eval(_compiled(self.view, "eval"), {"a": tensor(self.data)})

    def __str__(self):
        if self.view is None:
            return repr(self.data)
        return f"{self.data.dtype}{self.data.shape}" + self.view[1:]


def array(kind, shape, salt=""):
    """Seeded numbers: "f" float32, "p" positive float32, "i" int64 of -5 .. 5, "n" int64 of 1 .. 5,
    "b" bool."""
    random = np.random.default_rng(zlib.crc32(f"{kind}{shape}{salt}".encode()))
    if kind == "f":
        return (2 * random.standard_normal(shape)).astype(np.float32)
    if kind == "p":
        return random.uniform(0.25, 4, shape).astype(np.float32)
    if kind == "b":
        return random.integers(0, 2, shape).astype(bool)
    return random.integers(-5 if kind == "i" else 1, 6, shape)


def operand(kind, shape, salt=""):
    """A tensor that lies as it is."""
    return Operand(array(kind, shape, salt))


def laid(kind, salt=""):
    """Tensors of shape (3, 4), each in memory in another way."""
    return [Operand(array(kind, (3, 4), salt)),
            Operand(array(kind, (4, 3), salt), "a.transpose(0, 1)"),
            Operand(array(kind, (6, 6), salt), "a[::2, 2:]"),
            Operand(array(kind, (3, 1), salt), "a.expand(3, 4)"),
            Operand(array(kind, (4, 2, 3), salt), "a.permute(1, 2, 0)[1]")]


SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3.0, -7.25, 100.0, -100.0, 1e-40,
                    1e-20, 1e20, 16777217.0, 3e38, -3e38, np.inf, -np.inf, np.nan], np.float32)
INTEGERS = np.array([0, 1, -1, 2, 3, -7, 10, 2**31, -2**40, 2**62, -2**63, 2**63 - 1])


def unary(kinds="fib", special=True):
    """x: every layout, a scalar, tensors without elements, a long one, and the special numbers."""
    chosen = []
    for kind in kinds:
        chosen += laid(kind)
        chosen += [operand(kind, shape) for shape in ((), (0,), (2, 0, 3), (2, 1, 3, 2), (1000,))]
    if special and "f" in kinds:
        chosen.append(Operand(SPECIAL))
    if special and "i" in kinds:
        chosen.append(Operand(INTEGERS))
    return [{"x": x} for x in chosen]


SHAPES = [((3, 4), (4,)), ((3, 1), (1, 4)), ((3, 1), (2, 3, 4)), ((), (3, 4)), ((3, 4), ()),
          ((), ()), ((0, 4), (1, 4)), ((0,), (1,)), ((3, 4), (3,)), ((2, 3), (3, 2)), ((0,), (2,))]


def binary(kinds=("ff", "fi", "if", "ii", "bf", "ib", "bi", "bb"), special=True,
           numbers=(2, -3, 0.5, -1.5, True, 0)):
    """x and y: every pair of kinds, of shapes (that broadcast or do not) and of layouts, a number
    beside a tensor, and every pair of special numbers."""
    chosen = []
    for kind, other in kinds:
        chosen.append((operand(kind, (3, 4), "x"), operand(other, (3, 4), "y")))
        chosen += [(operand(kind, (2, 3), "x"), Operand(n, None)) for n in numbers]
    kind, other = kinds[0]
    chosen += [(operand(kind, a, "x"), operand(other, b, "y")) for a, b in SHAPES]
    chosen += list(zip(laid(kind, "x"), laid(other, "y")[::-1]))
    if special and kind in "fi" and other == kind:
        values = SPECIAL if kind == "f" else INTEGERS
        chosen.append((Operand(values[:, None]), Operand(values)))
    return [{"x": x, "y": y} for x, y in chosen]


def given(**operands):
    """One choice of operands: arrays, numbers and Operands by name."""
    return [{name: o if isinstance(o, Operand)
             else Operand(o) if isinstance(o, np.ndarray) else Operand(o, None)
             for name, o in operands.items()}]


# Rows.

class Row(NamedTuple):
    text: str                   # the expression or program
    over: List[Dict[str, Operand]]
    rtol: float                 # against torch: 0 and 0 ask for the same numbers
    atol: float
    oracle: Optional[str]       # what torch is asked, where that is spelled otherwise
    lenient: str                # why ours may give what torch refuses
    refused: str                # the sentence with which ours refuses it, whatever torch does


def rows(texts, over, rtol=0.0, atol=0.0, oracle=None, lenient="", refused=""):
    """A row for each line of `texts`, all alike."""
    return [Row(text.strip(), over, rtol, atol, oracle, lenient, refused)
            for text in texts.strip().split("\n") if text.strip()]


def _philox(key, counter):
    """The first two words of Philox4x32-10 as one int64."""
    words = [counter & 0xffffffff, counter >> 32 & 0xffffffff, 0, 0]
    low, high = key & 0xffffffff, key >> 32 & 0xffffffff
    for _ in range(10):
        a, b = 0xD2511F53 * words[0], 0xCD9E8D57 * words[2]
        words = [b >> 32 ^ words[1] ^ low, b & 0xffffffff, a >> 32 ^ words[3] ^ high, a & 0xffffffff]
        low, high = low + 0x9E3779B9 & 0xffffffff, high + 0xBB67AE85 & 0xffffffff
    return int.from_bytes((words[0] << 32 | words[1]).to_bytes(8, "little"), "little", signed=True)


def _random(x, y):
    x, y = torch.broadcast_tensors(torch.as_tensor(x), torch.as_tensor(y))
    if x.dtype != torch.int64 or y.dtype != torch.int64:
        raise TypeError("random bits of integers only")
    bits = [_philox(*pair) for pair in zip(x.flatten().tolist(), y.flatten().tolist())]
    return torch.tensor(bits, dtype=torch.int64).reshape(x.shape)


EXACT = Row("", [], 0.0, 0.0, None, "", "")


class _Torch:
    """torch's functions under the names of ours, and what torch does not have."""
    others = {"pow": torch.pow, "tensor": torch.tensor, "random": _random}

    def __getattr__(self, name):
        if name in self.others:
            return self.others[name]
        return (getattr(torch, name, None) or getattr(F, name, None)
                or getattr(torch.Tensor, name))


@functools.lru_cache(maxsize=None)
def _compiled(text, mode):
    return compile(text, text, mode)


def evaluate(text, operands, tensor):
    """The value of a row's text over operands, in the world of `tensor`."""
    names = {"torch": torch, "F": F, "np": np,
             "interpose": interpose if tensor is interpose.tensor else _Torch()}
    names.update((name, o.of(tensor)) for name, o in operands.items())
    statements, _, expression = text.rpartition(";")
    exec(_compiled(statements.strip(), "exec"), names)
    return eval(_compiled(expression.strip(), "eval"), names)


def flat(result):
    """The tensors of a result: one, or those of (nested) tuples and lists."""
    if isinstance(result, (tuple, list)) and not isinstance(result, torch.Size):
        return [x for part in result for x in flat(part)]
    return [result]


def difference(got, expected, row):
    """What is different about an array, or "". NaN equals NaN; of exact rows zeros have signs."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return f"{got.dtype}{got.shape} instead of {expected.dtype}{expected.shape}"
    if expected.dtype.kind != "f":
        same = got == expected
    else:
        same = (got == expected) | (np.isnan(got) & np.isnan(expected))
        if row.rtol or row.atol:
            with np.errstate(all="ignore"):
                apart = np.abs(got.astype(np.float64) - expected)
                same |= apart <= row.atol + row.rtol * np.abs(expected.astype(np.float64))
        else:
            same &= (np.signbit(got) == np.signbit(expected)) | np.isnan(got)
    if same.all():
        return ""
    at = tuple(int(i) for i in np.argwhere(~same)[0])
    return f"at {at}: {got[at]!r} instead of {expected[at]!r} ({int((~same).sum())} elements)"


# What a row is about.

_OPERATORS = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "truediv",
              ast.FloorDiv: "floordiv", ast.Mod: "mod", ast.Pow: "pow", ast.BitAnd: "and",
              ast.BitOr: "or", ast.BitXor: "xor", ast.LShift: "lshift", ast.RShift: "rshift",
              ast.MatMult: "matmul", ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "lt", ast.LtE: "le",
              ast.Gt: "gt", ast.GtE: "ge", ast.USub: "neg", ast.UAdd: "pos", ast.Invert: "invert"}


def _operators(node):
    if isinstance(node, ast.BinOp):
        return ["r" * isinstance(node.left, ast.Constant) + _OPERATORS[type(node.op)]]
    if isinstance(node, ast.AugAssign):
        return ["i" + _OPERATORS[type(node.op)]]
    if isinstance(node, ast.Compare):
        return [_OPERATORS.get(type(op), "contains") for op in node.ops]
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        return [_OPERATORS[type(node.op)]]
    if isinstance(node, ast.Subscript):
        return ["getitem" if isinstance(node.ctx, ast.Load) else "setitem"]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        is_reflected = node.args and isinstance(node.args[0], ast.Constant)
        return ["r" * bool(is_reflected) + node.func.id]    # abs(x), round(x), divmod(2, x)
    return []


def names_of(row):
    """The methods, functions and operators that a row uses: "exp", "__add__", "__radd__", ..."""
    found = set()
    for node in ast.walk(ast.parse(row.text.replace(";", "\n").replace("\n ", "\n"))):
        found.update(f"__{name}__" for name in _operators(node))
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found
