"""Every op, method and function beside torch's, row by row of the tables in tests/ops_*.py: over
shapes, layouts, dtypes, broadcasting, tensors without elements, NaN and infinities, and over what
torch refuses. A row is one request, each refusal another."""
import importlib
import json
import pathlib

import pytest

pytest.importorskip("torch")

import torch

import interpose
from interpose import LanguageModel, Proxy, RequestError
from interpose.converted import Converted
from interpose.numeric import IN_PLACE
import optable
from optable import difference, evaluate, flat, names_of

TABLES = [importlib.import_module(path.stem)
          for path in sorted(pathlib.Path(__file__).parent.glob("ops_*.py"))]
ROWS = [row for table in TABLES for row in table.ROWS]
NAMES = set().union(*map(names_of, ROWS))

# What is no value of a tensor: the way to it, and what is said about it without a run.
NO_VALUES = {"save", "value", "torch", "numpy", "item", "tolist", "shape", "dtype", "ndim", "dim",
             "size", "numel"}
# What torch does not have: compared with the model's own and with the loss of values elsewhere.
NO_TORCH = {"apply", "cross_entropy_loss"}
# Modules of functions that compute no tensor: of names, of positions, of what is saved.
NO_TENSORS = {"interpose.hooks", "interpose.iteration"}
# Python's own ways to a proxy that are no operators, and one that only an array can take.
NO_OPERATORS = {"rmatmul", "array", "array_function", "array_ufunc", "torch_function", "bool", "float", "int",
                "index", "iter", "hash", "repr", "dir", "reduce_ex", "getattr", "init", "doc",
                "module", "slots", "contains", "array_priority", "init_subclass", "firstlineno",
                "static_attributes", "class_getitem", "format", "complex", "dlpack", "dlpack_device"}
REFUSALS = (RequestError, TypeError, ValueError, IndexError, RuntimeError, OverflowError,
            AttributeError)


@pytest.fixture(scope="module")
def model(server):
    name = json.loads(server.get("/v1/models")[1])["models"][0]["name"]
    return LanguageModel(name, host=server.host)


def asked(row, operands):
    """What torch gives, as numpy arrays, or the error that it raises."""
    try:
        result = evaluate(row.oracle or row.text, operands, torch.tensor)
        # A test of exact numbers sees them before another case's sets.
        return [x.detach().clone().resolve_neg().numpy() if isinstance(x, torch.Tensor) else x
                for x in flat(result)]
    except Exception as e:  # torch's refusals have many classes
        return e


def saved(row, operands):
    return [x.save() if isinstance(x, (Proxy, Converted)) else x
            for x in flat(evaluate(row.text, operands, interpose.tensor))]


def told(row, operands):
    names = ", ".join(f"{name} = {o}" for name, o in operands.items())
    return f"{row.text} of {names}: "


def compare(row, operands, expected, got):
    got = [x.value if isinstance(x, (Proxy, Converted)) else x for x in got]
    assert len(got) == len(expected), told(row, operands) + f"{len(got)} results"
    for mine, theirs in zip(got, expected):
        if not hasattr(theirs, "dtype"):
            assert mine == theirs, told(row, operands) + f"{mine!r} instead of {theirs!r}"
            continue
        wrong = difference(mine, theirs, row)
        assert not wrong, told(row, operands) + wrong


def run(model, row, cases):
    with model.trace([1]):
        results = [saved(row, operands) for operands, _ in cases]
    for (operands, expected), got in zip(cases, results):
        compare(row, operands, expected, got)


def refuse(model, row, operands, why):
    try:
        with model.trace([1]):
            got = saved(row, operands)
    except REFUSALS as e:
        assert row.refused in str(e), told(row, operands) + f"refused otherwise: {e}"
        return
    got = [x.value if isinstance(x, (Proxy, Converted)) else x for x in got]
    raise AssertionError(told(row, operands) + f"gives {got} and not: {why}")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.text)
def test_row(model, row):
    torch.set_num_threads(1)
    cases = [(operands, asked(row, operands)) for operands in row.over]
    valid = [case for case in cases if not row.refused and isinstance(case[1], list)]
    assert valid or row.refused, f"torch refuses all of it: {cases[0][1]}"
    try:
        run(model, row, valid)
    except REFUSALS:
        for operands, expected in valid:    # which of them
            try:
                run(model, row, [(operands, expected)])
            except REFUSALS as e:
                raise AssertionError(told(row, operands) + str(e)) from e
        raise
    for operands, expected in cases:
        if row.refused or not (row.lenient or isinstance(expected, list)):
            refuse(model, row, operands, row.refused or expected)


IN_HOOKS = """
h += 1
h[:, 1:] *= 2
h[..., ::2].add_(3)
h.transpose(1, 2)[:, 3].zero_()
h[:, -1].fill_(0.5)
h.clamp_(-1, 1)
h[0].copy_(h[0] * 2)
h[:, [0, 2]] -= 1
h[h > 0] = 0
h.view(-1)[5:9] /= 2
h[:, 0].sub_(h[:, 1], alpha=2)
h[:, 1:] **= 2
h[:, 1].neg_().abs_()
h.masked_fill_(h < 0, 7)
h //= 0.5
h %= 0.75
h[None].squeeze(0)[:, 2].relu_()
""".strip().split("\n")


@pytest.mark.parametrize("program", IN_HOOKS)
def test_in_place_on_an_activation(model, program):
    """The model's own tensor changes as torch's would, and the model goes on with it."""
    with model.trace([5, 6, 7, 8]):
        was = model.transformer.h[1].output[0].save()
        after = model.transformer.h[2].output[0].save()
    h = torch.tensor(was.value)
    exec(program, {"h": h})
    with model.trace([5, 6, 7, 8]):
        exec(program, {"h": model.transformer.h[1].output[0]})
        now = model.transformer.h[1].output[0].save()
        seen = model.transformer.h[2].input.save()
        then = model.transformer.h[2].output[0].save()
    assert not difference(now.value, h.numpy(), optable.EXACT), program
    assert seen.value.tobytes() == now.value.tobytes()
    assert then.value.tobytes() != after.value.tobytes()


def test_every_op_has_a_row(model):
    ops = {op.name for op in model.spec.ops.values() if op.kind != "effect"}
    assert sorted(ops - {"getitem"} - NO_TORCH - NAMES) == []


def test_every_method_has_a_row():
    methods = {name for name in dir(Proxy) if not name.startswith("_")}
    assert sorted(methods - NO_VALUES - NAMES) == []


def test_every_method_of_torch_that_works_in_place_has_a_row(model):
    with model.trace([1]):
        x = interpose.tensor([1.0])
        offered = {name for name in dir(torch.Tensor) if name.endswith("_") and name[0] != "_"
                   and hasattr(x, name)}
        x.save()
    assert sorted(offered - NAMES) == []
    assert {"exp_", "add_", "masked_fill_"} <= offered
    assert sorted(name for name in IN_PLACE if not hasattr(torch.Tensor, name + "_")) == []


def test_every_operator_has_a_row():
    operators = {name for kind in Proxy.__mro__[:-1] for name in vars(kind)
                 if name.startswith("__") and callable(vars(kind)[name])}
    assert sorted(name for name in operators - NAMES if name.strip("_") not in NO_OPERATORS) == []


def test_every_function_has_a_row():
    functions = {name for name in interpose.__all__ if name == name.lower()
                 and getattr(getattr(interpose, name), "__module__", "") not in NO_TENSORS}
    assert sorted(functions - NO_TORCH - NAMES) == []
