"""Writes through views of the model's activations, whose rows lie among others': what torch makes of the
same program on the same numbers is what the model goes on with, and a copy is a copy."""
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import interpose
from interpose import LanguageModel, RequestError

IDS = [[5, 6, 7, 8, 9], [3, 1, 4, 1, 5]]

PLACES = {
    "hidden": lambda block: block.mlp.output,           # (B, T, D), row-major
    "heads": lambda block: block.attn.value.output,     # (B, H, T, D / H), every third part of a row
}

# x is (2, n, m, ...) with n and m of 2 at least; i and j are tensors.
PROGRAMS = """
x[0, 1] = 2
x.transpose(0, 1)[1] *= 3
x.permute(*range(x.ndim)[::-1])[0] = 1
x.flatten(0, 1)[3] = 1
x.flatten(2)[:, 1] = 0
x.diagonal().fill_(2)
x.diagonal(1, -2, -1)[:] = 0.5
x.diagonal(0, 0, x.ndim - 1).mul_(10)
x.unfold(-1, 2, 2)[..., 0] = 7
x.unfold(1, 2, 3).zero_()
x.movedim(-1, 0)[2] = x.movedim(-1, 0)[1] + 1
x.unflatten(-1, (2, -1))[..., 1, :] = 0
x.narrow(1, 1, 1).add_(1)
x.select(-1, 3).copy_(x.select(-1, 2).clone())
x.squeeze()[1, 0] = 4
x.unsqueeze(0)[0, 1, 1] = x[0, 0] * 2
x.view(2, -1)[1, :7] = 3
y = x.transpose(1, 2).reshape(-1); y[:5] = 0
y = x.permute(*range(x.ndim)[::-1]).flatten(); y.fill_(1)
y = x.clone(); y[:] = 0
y = x[[0, 1]]; y[:] = 0
y = x.flip(0); y[:] = 0
x[:, [1, 0]] = x[:, [0, 1]] * 2
x[1, :, [0, -1]] = 5
x[..., i] = 0
x[i, j] = x[0, 0] + 1
x[:, i, j] += 100
x[j[0], i[0]] = -1
x[x > 0] = 0
x[0, x[0] > 0.1] = 9
x[..., np.arange(x.shape[-1]) % 3 == 0] = 1
x[torch.tensor([False, True])] = x[:1].clone() * 2
x.index_add_(1, i, x[:, :2].clone())
x.index_fill_(-1, j, 0.25)
x.scatter_(-1, x.argmax(-1, keepdim=True), 0.0)
x.masked_fill_(x < 0, 0.0)
x.tril_()
x.copy_(x.roll(1, 1))
""".strip().split("\n")


@pytest.fixture(scope="module")
def model(server):
    name = json.loads(server.get("/v1/models")[1])["models"][0]["name"]
    return LanguageModel(name, host=server.host)


def run(model, place, program):
    """The activation behind a program, and what the model makes of it."""
    with model.trace(IDS):
        x = place(model.transformer.h[1])
        program(x)
        return x.save(), model.lm_head.output[:, -1].save()


@pytest.fixture(scope="module")
def unchanged(model):
    return {name: run(model, place, lambda x: None) for name, place in PLACES.items()}


def laid(name, array):
    """A tensor that lies in memory as the place's does in torch's GPT-2: heads in a row's last third."""
    x = torch.tensor(array)
    if name == "hidden":
        return x
    B, H, T, dh = x.shape
    return torch.zeros(B, T, 3, H, dh)[:, :, 2].transpose(1, 2).copy_(x)


def executed(program, x, tensor):
    exec(program, {"x": x, "i": tensor([1, 0]), "j": tensor([0, 1]), "torch": torch, "np": np})


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_write_reaches_the_model_as_in_torch(model, unchanged, place, program):
    torch.set_num_threads(1)
    before, logits = unchanged[place]
    expected = laid(place, before.value)
    try:
        executed(program, expected, torch.tensor)
    except RuntimeError:    # a view that no strides can say
        with pytest.raises(RequestError, match="no strides walk its elements in that order"):
            run(model, PLACES[place], lambda x: executed(program, x, interpose.tensor))
        return
    x, after = run(model, PLACES[place], lambda x: executed(program, x, interpose.tensor))
    np.testing.assert_array_equal(x.value, expected.numpy())
    _, wanted = run(model, PLACES[place], lambda x: x.copy_(expected))
    np.testing.assert_array_equal(after.value, wanted.value)
    is_copy = np.array_equal(expected, before.value)
    assert (after.value == logits.value).all() == is_copy
    assert is_copy == program.startswith("y =") or place == "heads"


def random_part(rng, sizes):
    """Something for the next dimensions of a key: what torch has, and how ours makes it. Indices hold
    no place twice."""
    kind, n = rng.integers(9), sizes[0]
    if kind == 0:
        return int(rng.integers(-n, n)), None
    if kind == 1:
        return None, None
    if kind <= 3:
        start = int(rng.integers(-n, n))
        return slice(start, start + int(rng.integers(1, 4)), int(rng.integers(1, 3))), None
    if kind == 4 and len(sizes) > 1:
        return torch.tensor(rng.integers(0, 2, sizes[:2]).astype(bool)), None
    if kind == 5:
        return torch.tensor(rng.integers(0, 2, n).astype(bool)), None
    places = rng.permutation(n)[:2] - rng.integers(0, 2) * n
    shape = [(), (len(places),), (len(places), 1)][rng.integers(3)]
    places = torch.tensor(places[0] if shape == () else places.reshape(shape))
    return places, rng.integers(2) and interpose.tensor


def random_key(rng, shape):
    """A key, as torch takes it, and as ours does, with some of its indices proxies."""
    theirs, makers, at = [], [], 0
    while at < len(shape) and (len(theirs) < 2 or rng.integers(3)):
        part, maker = random_part(rng, shape[at:])
        theirs.append(part)
        makers.append(maker)
        at += part is not None and (part.ndim if getattr(part, "dtype", 0) == torch.bool else 1)
    if rng.integers(4) == 0:
        place = rng.integers(len(theirs) + 1)
        theirs.insert(place, Ellipsis)
        makers.insert(place, None)
    return tuple(theirs), lambda: tuple(m(p) if m else p for m, p in zip(makers, theirs))


@pytest.mark.parametrize("seed", range(40))
def test_random_indices_mean_what_they_mean_in_torch(model, seed):
    rng = np.random.default_rng(seed)
    cases = []
    while len(cases) < 12:
        shape = tuple(rng.integers(1, 5, rng.integers(1, 5)).tolist())
        array = rng.standard_normal(shape).astype(np.float32)
        theirs, ours = random_key(rng, shape)
        x = torch.tensor(array)
        try:
            picked = x[theirs].clone()
            value = [1.5, picked * 2, picked[:1] + 1 if picked.ndim else 2][rng.integers(3)]
            x[theirs] = value
        except (IndexError, RuntimeError):
            continue
        if picked.numel():      # a set of nothing is refused
            cases.append((array, theirs, ours, value, picked.numpy(), x.numpy()))
    with model.trace([1]):
        saved = []
        for array, _, ours, value, _, _ in cases:
            x = interpose.tensor(array)
            picked = x[ours()].clone().save()
            x[ours()] = value
            saved.append((picked, x.save()))
    for (array, theirs, _, value, picked, changed), (got, after) in zip(cases, saved):
        said = f"{array.shape}: {theirs} = {getattr(value, 'shape', value)}"
        np.testing.assert_array_equal(got.value, picked, said)
        np.testing.assert_array_equal(after.value, changed, said)


@pytest.mark.parametrize("view", ["x", "x[1:]", "x.flatten(1)[:, 3:9]", "x.transpose(1, 2).reshape(-1)",
                                  "x.transpose(1, 2).reshape(-1)[5:9]", "x.transpose(1, 2).flatten()",
                                  "x.float()", "x.to(torch.float32)[0]", "x.long()", "x.bool().long()"])
def test_names_keep_the_tensor_that_a_module_had(model, unchanged, view):
    """Views see what is set in it before the module is given another one, copies do not."""
    x = torch.tensor(unchanged["hidden"][0].value)
    expected = eval(view, {"x": x, "torch": torch})
    x[:, 1] = 7
    with model.trace(IDS):
        block = model.transformer.h[1]
        x = block.mlp.output
        name = eval(view, {"x": x, "torch": torch})
        x[:, 1] = 7
        block.mlp.output = x * 2
        name = name.save()
    np.testing.assert_array_equal(name.value, expected)


def test_windows_that_overlap_are_not_set(model):
    with pytest.raises(RequestError, match="elements share their place, as expand and unfold make it: clone it first"):
        run(model, PLACES["hidden"], lambda x: x.unfold(1, 3, 1).fill_(0))
