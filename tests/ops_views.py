"""What arranges tensors and multiplies them: views, indexing, linear algebra, losses."""
import numpy as np

from optable import Operand, array, given, laid, operand, rows



def patterns(texts, over):
    """Rows of "what is asked | the same in torch"."""
    made = []
    for line in texts.strip().split("\n"):
        text, oracle = line.strip().split(" | ")
        made += rows(text, over, 2e-6, 2e-6, oracle=oracle)
    return made


def refusals(over, texts):
    """Rows of "what is refused | part of the sentence"."""
    made = []
    for line in texts.strip().split("\n"):
        text, sentence = line.strip().split(" | ")
        made += rows(text, over, refused=sentence)
    return made


LAID = [{"x": x} for x in laid("f") + laid("i")[:3] + laid("b")[:2]]
CUBES = [{"x": operand(kind, shape)} for kind in "fib" for shape in ((2, 3, 4), (1, 2, 1), (2, 0, 3))]

VIEWS = rows("""
    x[0]
    x[..., 1:]
    x.transpose(0, 1)
    x.swapaxes(0, -1)
    torch.transpose(x, 0, 1)
    interpose.transpose(x, 0, 1)
    x.T
    x.t()
    x.mT
    x.permute(1, 0)
    interpose.permute(x, (1, 0))
    x.reshape(4, 3)
    x.reshape(-1)
    x.view_as(x)
    interpose.reshape(x, (2, 6))
    x.flatten()
    interpose.flatten(x)
    x.unsqueeze(1)
    interpose.unsqueeze(x, -1)
    x[None].squeeze(0)
    x[None].squeeze()
    x[None, :, None].squeeze((0, 2))
    torch.squeeze(x[None], (0, -1))
    interpose.squeeze(x)
    x[0].expand(2, 4)
    x.expand_as(x)
    x[None].expand(2, -1, -1)
    x.split(2, -1)
    x.chunk(2, 1)
    x.unbind(1)
    len(x)
""", LAID) + rows("""
    x.reshape(5, 5)
""", LAID, refused="reshape of (3, 4), 12 elements, to (5, 5)") + rows("""
    x.transpose(0, 2)
""", LAID, refused="transpose: dimension 2 is out of range for (3, 4)") + rows("""
    x[3]
""", LAID, refused="index 3 is out of range for dimension 0 of size 3") + rows("""
    interpose.expand(x, (2, 4))
""", given(x=operand("f", (4,))), oracle="x.expand(2, 4)") + rows("""
    x.view(4, -1)
    interpose.view(x, (4, 6))
""", given(x=operand("f", (2, 3, 4)))) + rows("""
    x.view(12)
""", given(x=Operand(array("f", (4, 3)), "a.transpose(0, 1)")),
    refused="view of (3, 4) as (12,): no strides walk its elements in that order, use reshape, "
            "which copies")

JOINED = rows("""
    torch.cat([x, x], 1)
    torch.cat([x, x])
    torch.stack([x, x], -1)
    interpose.cat([x, x], dim=0)
    interpose.stack([x, x], dim=0)
""", CUBES)

CHOSEN = rows("""
    x.gather(-1, y)
    torch.gather(x, 1, y)
    interpose.gather(x, 1, y)
    x.index_select(1, y[0])
    interpose.index_select(x, 1, y[1])
""", given(x=operand("f", (2, 6)), y=abs(operand("i", (2, 4)).data)))

DIAGONALS = rows("""
    x.diagonal()
    x.diagonal(1)
    torch.diagonal(x, -2, 1, 0)
    x.diagonal(offset=2, dim1=-2, dim2=-1)
    interpose.diagonal(x)
    x.unfold(1, 2, 1)
    x.unfold(-1, 3, 2)
    x.unfold(0, 1, 1)
    x.unfold(1, 0, 5)
""", LAID + CUBES[:3]) + rows("""
    interpose.unfold(x, 0, 2, 1)
""", LAID, oracle="x.unfold(0, 2, 1)") + rows("""
    x.diagonal(0, 1, 1)
""", LAID, refused="diagonal: dim1 and dim2 are both 1") + rows("""
    x.unfold(0, 9, 1)
""", LAID, refused="unfold: windows of 9 do not fit into dimension 0 of (3, 4)")

SCATTERED = rows("""
    x.scatter(1, y, z)
    x.scatter(-1, y, 2)
    torch.scatter(x, 1, y[:, :2], z)
    interpose.scatter(x, 0, y[:1] % 2, z)
    x.scatter_(1, y, z); x
    x.scatter(0, y % 2, z)
""", given(x=operand("f", (2, 6)), y=Operand(np.array([[0, 1, 5], [4, 4, 2]])), z=operand("f", (2, 5)))
    + given(x=operand("i", (2, 6)), y=Operand(np.array([[0, 1, 5], [5, 4, 2]])), z=operand("i", (2, 5)))
    + given(x=operand("f", (2, 6)), y=Operand(np.array([[0], [4]])), z=operand("i", (2, 5)))) + rows("""
    x.scatter_add(1, y, z)
    torch.scatter_add(x, 0, y[:, 1:] % 2, z)
    interpose.scatter_add(x, 1, y[:, :3], z)
    x.scatter_add_(1, y, z); x
""", given(x=operand("f", (2, 6)), y=Operand(abs(array("i", (2, 7)))), z=operand("f", (2, 7)))
    + given(x=operand("i", (2, 6)), y=Operand(abs(array("i", (2, 7)))), z=operand("i", (2, 7)))) + rows("""
    x.scatter(1, torch.tensor([[6]]), 1.0)
""", given(x=operand("f", (2, 6))),
    refused="scatter: the index at (0, 0) is 6, which is out of range for dimension 1 of size 6") + rows("""
    x.scatter_add(1, y + 0, 1.0)
""", given(x=operand("f", (2, 6)), y=Operand(np.array([[-1]]))),
    refused="scatter_add: the index -1, which the graph computed, is out of range for dimension 1 of "
            "size 6") + rows("""
    interpose.wrap_index(x, 6)
""", given(x=Operand(np.array([[0, 1, 5], [-6, -1, 2]]))), oracle="x % 6") + rows("""
    interpose.wrap_index(x + 0, 6)
""", given(x=Operand(np.array([3, -7]))), refused="wrap_index: the index -7, which the graph computed, "
                                                  "is out of range for a dimension of size 6")

CUBE = given(x=operand("f", (2, 3, 4)), i=Operand(np.array([1, 0])), j=Operand(np.array([2, -1])))

INDEXED = rows("""
    x[[0, 1]]
    x[[1, -1, 0]]
    x[..., [1, -1]]
    x[:, [2, 0, 1], 1:3]
    x[0, :, [1, 2]]
    x[[1], None]
    x[:, np.array([[0, 1], [2, 2]])]
    x[:, torch.tensor([0, -1])]
    x[[0, 1], [1, 2]]
    x[0, [0, 1, 2], [3, 0, -1]]
    x[[0, 1], :, [1, 2]]
    x[:, None, [0, 2], [1, 1]]
    x[[0, 1], None, [0, 2]]
    x[..., [0, 2], [1, 1]]
    x[range(2), [0, 1], 2]
    x[range(2), i]
    x[:, [1, 2], i]
    x[0, [0, 1, 2], [3, -1, 0]]
    x[None, :, np.arange(3), torch.tensor([3, 0, 2])]
    x[[1], j[1:]]
    x[:, np.array([], dtype=int)]
    x[i]
    x[:, i]
    x[i, :, i]
    x[..., i]
    x[:, j, j]
    x[0, i[:, None], j]
    x[:, i[0]]
    x[i[1], j]
    x[i[0], :, i[1]]
    x[i[0], [0, 1], j[:2]]
    x[[0, 1], i, i - 2]
    x[torch.tensor([True, False])]
    x[:, np.array([True, False, True])]
    x[0, np.eye(3, 4, dtype=bool)]
    x[..., np.array([True, False, False, True])]
    x[np.array([True, True]), [0, 1]]
    x[:, np.array([True, False, True]), [0, 1]]
    x[np.zeros((2, 3), bool)]
    x.take_along_dim(i.reshape(2, 1, 1), 1)
    x.take_along_dim(torch.tensor([7, 0]))
    torch.take_along_dim(x, i.reshape(1, 1, 2), dim=2)
    x.take(j)
    torch.take(x, torch.tensor([[0, -1], [5, 3]]))
    F.embedding(i, x[0])
    F.embedding(i[:, None], x[0])
    interpose.take(x, i)
    interpose.take_along_dim(x, i.reshape(2, 1, 1), 0)
""", CUBE) + rows("""
    np.take(x, [0, 1], axis=1)
    x.take([0, 1], -2)
""", CUBE, oracle="x[:, [0, 1]]") + rows("""
    x[x > 0]
""", CUBE, refused="x[mask] has a shape that depends on values") + rows("""
    interpose.embedding(i, x[0])
""", CUBE, oracle="x[0][i]") + refusals(CUBE, """
    x[:, [0, 3]] | index_select: the index at (1,) is 3, which is out of range for dimension 1 of size 3
    x[[0, 2], [0, 1]] | index 2 is out of range for dimension 0 of size 2
    x[[0, 1], [-4, 0]] | index -4 is out of range for dimension 1 of size 3
    x[np.array([True])] | the mask of shape (1,) stands at dimension 0 of clone(tensor(2, 3, 4)), whose shape is (2, 3, 4)
    x[x] | an index must be of integers or booleans: clone(tensor(2, 3, 4)) is float32
    x[[0, 1], [0, 1, 2]] | the indices cannot be broadcast together: (2,), (3,)
    x[[i[0], i[1]]] | a list in an index must be of numbers: join proxies with torch.stack or interpose.stack
    x[[0, 1], j + 3] | wrap_index: the index 5, which the graph computed, is out of range for a dimension of size 3
    x[[1, 2], [0, 1]] | index 2 is out of range for dimension 0 of size 2
    x[:, j + 2] | wrap_index: the index 4, which the graph computed, is out of range for a dimension of size 3
    x[..., i, ...] | an index can hold only one "..."
    F.embedding(i, x) | embedding takes a matrix, and no max_norm: not (2, 3, 4)
""")

WRITTEN = rows("""
    x[[0, 1]] = 5; x
    x[:, [0, 2]] = x[0, :2] * 2; x
    x[:, [0, -1]] += 10; x
    x[[0, 1], [2, 0]] = x[0, :2].clone(); x
    x[[0, 1], :, [2, 0]] = x[0, :3, :1].T.clone(); x
    x[:, np.array([[0, 1], [1, 2]])] = 7; x
    x[..., [0, 2], [1, 3]] = x[0, 0, :2].clone(); x
    x[:, [0, 0], 1] = 3; x
    x[i] = 0; x
    x[i] = x[0].clone(); x
    x[:, i] = 1; x
    x[:, i, 1:3] = 4; x
    x[i[0]] = 9; x
    x[i[0], [0, 2]] = x[0, 0].clone(); x
    x[..., j[0]] = x[..., 0].clone(); x
    x[i, j] = -1; x
    x[:, j, j] += 1; x
    x[0, i[:, None], j] = x[1, :2, :2].clone(); x
    x[0][i] = 3; x
    x.transpose(0, 2)[i] = 5; x
    x.view(6, 4)[i + 2, j] = x[0, 0, :2].clone(); x
    x[:, torch.tensor([True, False, True])] = x[:, :2] + 1; x
    x[np.eye(2, 3, dtype=bool)] = x[0, :2].clone(); x
    x[:, np.eye(3, 4, dtype=bool)] = 2; x
    x[x > 0] = 0; x
    x[0, x[0] > 0] = 1; x
    x[..., x[0, 0] > 0] = 3; x
    x[x[..., 0] > 0] = x[0, 0, 0] * 2; x
    x.index_put_((i, j), x[0, :2].clone()); x
    x.index_put((i, i), x[0, 0], accumulate=True)
    x.index_put((torch.tensor([0, 0]), torch.tensor([1, 1])), x[1, :2], accumulate=True)
    x.index_add(1, i, x[:, :2] * 2)
    torch.index_add(x, 0, torch.tensor([1, 1, 1]), x[[0, 1, 0]])
    x.index_copy(1, i, x[:, 1:])
    x.index_copy_(0, i, x.clone()); x
    torch.index_copy(x, -1, i, x[..., 2:])
    x.index_fill(1, i, 3)
    x.index_fill_(-1, j % 4, 0.5); x
    torch.index_fill(x, 0, i, 2.0)
    interpose.index_add(x, 1, i, x[:, :2])
    interpose.index_copy(x, 1, i, x[:, :2])
    interpose.index_fill(x, 1, i, -1)
    interpose.index_put(x, (i, j), 2.5 * x[0, :2])
    x[1, 1:, ::2] = x[0, 0, 0] + 1; x
    x.masked_fill_(x > 0.5, 0); x
    x.unfold(1, 1, 1)[0] = 3; x
    x.diagonal(0, 1, 2)[1] = 0; x
    x.diagonal().fill_(2); x
    y = x.transpose(0, 1).reshape(-1); y[:5] = 0; x
    y = x.reshape(-1); y[:5] = 0; x
    y = x.flatten(1); y[:, 3] = 0; x
    y = x.movedim(0, -1).unflatten(1, (2, 2)); y[:, 0] = 0; x
    x.narrow(2, 1, 2).zero_(); x
    x.select(1, -1).fill_(4); x
    x.tensor_split(2, -1)[1][:] = 0; x
""", CUBE) + rows("""
    x.index_add_(2, i, x[..., :2].clone(), alpha=-3); x
""", CUBE, 1e-6, 1e-6) + rows("""
    x.unfold(0, 2, 1)[0] = 0; x
""", given(x=operand("f", (2, 3)))) + refusals(CUBE, """
    x.unfold(1, 2, 1).fill_(0); x | in which elements share their place, as expand and unfold make it: clone it first
    x.expand(2, 2, 3, 4).fill_(0) | in which elements share their place, as expand and unfold make it: clone it first
    x[x > 0] = x[0, 0]; x | x[mask] takes one number: for a tensor use where(mask, y, x)
    x[:, x[0, 0] > 0] = 1; x | the mask of shape (4,) stands at dimension 1 of clone(tensor(2, 3, 4)), whose shape is (2, 3, 4)
    x[[0, 1], [0, 3]] = 1; x | index 3 is out of range for dimension 1 of size 3
    x[:, j + 2] = 1; x | wrap_index: the index 4, which the graph computed, is out of range for a dimension of size 3
    x.index_add(1, i, x) | the source of (2, 3, 4) must be (2, 2, 4): as (2, 3, 4), and in dimension 1 as long as the index
    x.scatter(1, i, x) | scatter of (2, 3, 4) into (2, 3, 4) with an index of (2,): all have as many dimensions
""")

ARRANGED = rows("""
    x.movedim(0, 1)
    x.moveaxis(0, -1)
    torch.movedim(x, (0, 1), (-1, 0))
    x.unflatten(0, (3, -1))
    x.unflatten(1, (2, 2))
    torch.unflatten(x, -1, (1, 4))
    x.narrow(1, 1, 2)
    torch.narrow(x, 0, -2, 1)
    x.select(0, -1)
    torch.select(x, 1, 2)
    x[:, :0].split(2, 1)
    x[:, :0].chunk(2, 1)
    x.tensor_split(2)
    x.tensor_split((1, 3), dim=1)
    torch.tensor_split(x, 3, dim=-1)
    torch.split(x, [1, 3], dim=1)
    torch.chunk(x, 2, dim=1)
    torch.unbind(x, 1)
    torch.atleast_1d(x[0, 0])
    torch.atleast_2d(x[0])
    x.adjoint()
    x.broadcast_to((2, 3, 4))
    torch.broadcast_to(x, (1, 3, 4))
    x.repeat(2, 1)
    x.repeat(2, 1, 3)
    x.repeat((0, 2))
    x.repeat(1, 1)
    x.tile(2)
    torch.tile(x, (2, 1, 1))
    torch.tile(x, dims=(2,))
    x.repeat_interleave(2)
    x.repeat_interleave(3, dim=1)
    torch.repeat_interleave(x, torch.tensor([0, 2, 1]), dim=0)
    x.flip(0)
    x.flip(0, -1)
    torch.flip(x, (1,))
    torch.flip(x, dims=[0, 1])
    torch.fliplr(x)
    torch.flipud(x)
    x.roll(1)
    x.roll(-2, 1)
    torch.roll(x, (1, -1), (0, 1))
    torch.roll(x, shifts=5, dims=0)
    x.tril()
    x.triu()
    x.tril(-1)
    torch.triu(x, diagonal=1)
    torch.tril(x[None], 2)
    x.diag()
    x[0].diag()
    torch.diag(x[0], 1)
    torch.diag(x, -1)
    x.diag_embed()
    torch.diag_embed(x, 1, 0, -1)
    x.new_zeros(2, 3)
    x.new_zeros((2,))
    torch.hstack([x, x])
    torch.hstack([x[0], x[1]])
    torch.vstack([x, x[0]])
    torch.row_stack([x[0], x])
    torch.column_stack([x[:, 0], x])
    torch.concat([x, x], dim=-1)
    torch.broadcast_tensors(x, x[0], x[:, :1])
    x.ravel()
    torch.ravel(x)
    torch.swapdims(x, 0, 1)
    interpose.movedim(x, 0, 1)
    interpose.moveaxis(x, 0, 1)
    interpose.unflatten(x, 1, (2, 2))
    interpose.narrow(x, 1, 0, 2)
    interpose.select(x, 1, 0)
    interpose.tensor_split(x, 2, 1)
    interpose.atleast_1d(x)
    interpose.atleast_2d(x[0])
    interpose.adjoint(x)
    interpose.broadcast_to(x, (2, 3, 4))
    interpose.tile(x, (2, 1))
    interpose.repeat_interleave(x, 2, 1)
    interpose.flip(x, (1,))
    interpose.fliplr(x)
    interpose.flipud(x)
    interpose.roll(x, 1, 0)
    interpose.tril(x)
    interpose.triu(x)
    interpose.diag(x)
    interpose.diag_embed(x)
    interpose.new_zeros(x, (2,))
    interpose.hstack([x, x])
    interpose.vstack([x, x])
    interpose.column_stack([x, x])
    interpose.broadcast_tensors(x, x[0])
    x.size(1)
    x.numel()
    x.dim()
    x.ndim
""", LAID) + rows("""
    list(x.shape)
    list(x.size())
""", LAID) + refusals(LAID[:1], """
    x.movedim(0, 2) | dimension 2 is out of range for (3, 4), whose dimensions are -2 to 1
    x.unflatten(1, (3, -1)) | unflatten: dimension 1 of (3, 4) has no sizes [3, 1]
    x.narrow(1, 3, 2) | narrow: 2 elements from 3 on are not in dimension 1 of (3, 4)
    x.select(0, 3) | index 3 is out of range for dimension 0 of size 3
    x.repeat(2) | repeat(2,) of (3, 4): each dimension needs a number, 0 or more; new ones come first
    x.roll((1, 2), 0) | roll: 2 shifts for 1 dimensions
    x.flip() | flip needs the dimensions that it turns around
    x.flip(0, 0) | a dimension is named twice: [0, 0]
    x.tile(-1) | repeat(1, -1) of (3, 4): each dimension needs a number, 0 or more; new ones come first
    x[0].tril() | a triangle is of two dimensions: clone(tensor(3, 4))[0] has 1
    x.repeat_interleave(torch.tensor([1, 2]), dim=0) | repeat_interleave: (2,) repeats for dimension 0 of (3, 4)
    x.repeat_interleave(x[0] > 0, dim=1) | repeat_interleave: the shape would depend on values
    x.unsqueeze_(0) | unsqueeze_() would give x itself another shape: write x = x.unsqueeze(...)
""")

MATRICES = given(x=operand("f", (3, 4)), y=operand("f", (4, 5)))
SQUARE = given(x=operand("f", (3, 4)), y=operand("f", (3, 4), "y"), v=operand("f", (4,)), w=operand("f", (3,)))
NEAR = dict(rtol=5e-6, atol=5e-6)

PRODUCTS = rows("""
    x @ y
    x.matmul(y)
    torch.matmul(x, y)
    interpose.matmul(x, y)
""", MATRICES + given(x=operand("f", (2, 3, 4)), y=operand("f", (4,)))
    + given(x=operand("f", (3, 4)), y=operand("f", (5, 4)))
    + given(x=operand("f", (4,)), y=operand("f", (4,)))
    + given(x=operand("f", (4,)), y=operand("f", (2, 4, 3)))
    + given(x=operand("f", (2, 1, 3, 4)), y=operand("f", (5, 4, 2)))
    + given(x=operand("f", (0, 4)), y=operand("f", (4, 2))), 2e-6, 2e-6) + rows("""
    x.mm(y)
    torch.mm(x, y)
    x[None].bmm(y[None])
    torch.bmm(x[None], y[None])
    x.mv(y[:, 0])
    torch.mv(x, y[:, 0])
    interpose.mv(x, y[:, 0])
    x[0].dot(y[:, 1])
    torch.dot(x[0], y[:, 1])
    interpose.dot(x[0], y[:, 1])
    x[0].outer(y[0])
    torch.outer(x[0], y[0])
    torch.ger(x[0], y[0])
    interpose.outer(x[0], y[0])
    torch.inner(x, y.T)
    x[0].inner(y[:, 0])
    interpose.inner(x, y.T)
    torch.inner(x[0, 0], y)
    torch.tensordot(x, y, dims=1)
    torch.tensordot(x, y, dims=([1], [0]))
    torch.tensordot(x, y, dims=0)
    torch.tensordot(y, x, dims=([0], [1]))
    interpose.tensordot(x, y, 1)
    x.tensordot(y, 1) if hasattr(x, "_run") else torch.tensordot(x, y, 1)
    torch.trace(x)
    x.trace()
    interpose.trace(x)
    torch.addmm(y[:3, 0:1], x, y)
    torch.addmm(y[0], x, y, beta=0.5, alpha=2)
    (x @ y).addmm(x, y, beta=0)
    interpose.addmm(y[0], x, y)
    torch.addmv(x[:, 0], x, y[:, 1])
    x[:, 0].addmv(x, y[:, 1], alpha=3)
    interpose.addmv(x[:, 0], x, y[:, 1])
    torch.baddbmm(y[None, 0:1], x[None], y[None])
    y[None, 0:1].baddbmm(x[None], y[None], beta=2)
    interpose.baddbmm(y[None, 0:1], x[None], y[None])
    F.linear(x, y.T)
    F.linear(x, y.T, y[0])
    F.linear(x[0], y.T, bias=y[0])
    interpose.linear(x, y.T)
    torch.einsum("ij,jk->ik", x, y)
    torch.einsum("ij,jk", x, y)
    torch.einsum("ij,jk->ki", [x, y])
    torch.einsum("ij->ji", x)
    torch.einsum("ij->", x)
    torch.einsum("ij", x)
    torch.einsum("ba", x)
    torch.einsum("ii->i", x[:, :3])
    torch.einsum("ii", x[:, :3])
    torch.einsum("...j,jk->...k", x, y)
    torch.einsum("...ij,jk->...ik", x, y)
    torch.einsum("...,...->...", x, y[:, 0])
    torch.einsum("b...,b...", x[None], x[None])
    torch.einsum("i...,j...->ij...", x, x[:2])
    torch.einsum("ij,kj->ik", x, x[:, :1])
    torch.einsum("ij,ij->i", x, x[:1])
    torch.einsum("ii,ij->ij", x[:, :3], x[:, :3])
    torch.einsum("bij,bjk->bik", x[None].expand(2, 3, 4), y[None])
    torch.einsum("ij,jk,lk->il", x, y, y)
    torch.einsum("i,j->ij", x[0], y[0])
    torch.einsum(",ij->ij", x[0, 0], y)
    interpose.einsum("ij,jk->ik", x, y)
""", MATRICES, **NEAR) + rows("""
    interpose.einsum("row mid, mid out -> row out", x, y)
    interpose.einsum(x, y, "row mid, mid out -> row out")
    interpose.einsum("row mid, mid out", y.T, x.T)
    interpose.einsum("... mid, mid out -> ... out", x, y)
""", MATRICES, **NEAR, oracle="x @ y") + rows("""
    interpose.einsum("mid, mid ->", x[0], y[:, 0])
""", MATRICES, **NEAR, oracle="x[0] @ y[:, 0]") + refusals(MATRICES, """
    torch.einsum("ij,ij->ij", x, y) | einsum: 'ij,ij->ij': 'i' is 3 and 4 long
    interpose.einsum("row mid, row col -> col", x, y) | einsum: 'row mid, row col -> col': 'row' is 3 and 4 long
    torch.einsum("...i,...i->i", x, y) | einsum: '...i,...i->i': a dimension of '...' is 3 and 4 long
    torch.einsum("ij,jk->il", x, y) | einsum: 'ij,jk->il' has a name behind the arrow that is not before it
    torch.einsum("ijk,jk->i", x, y) | einsum: 'ijk,jk->i' names 3 dimensions of a tensor that has 2
    interpose.einsum("a (b c), d e -> a e", x, y) | 'a (b c), d e -> a e' is not of the form 'ij,jk->ik' or 'row mid, mid column -> row column', with '...' in each term or none
    interpose.einsum("row mid -> row", x, y) | einsum: 'row mid -> row' has 1 terms, and 2 tensors are given
    torch.einsum("ij->ii", x) | einsum: 'ij->ii' has a name twice behind the arrow
    torch.einsum("ii->i", x) | einsum: 'ii->i': 'i' is 3 and 4 long
    torch.einsum("i j", x, y) | einsum: 'i j' has 1 terms, and 2 tensors are given
    torch.einsum("i1->i", x) | einsum: 'i1->i' is not of the form 'ij,jk->ik' or 'row mid, mid column -> row column', with '...' in each term or none
    torch.mv(x, y) | mv takes tensors of 2 and 1 dimensions: not (3, 4) and (4, 5)
    torch.dot(x, y) | dot takes tensors of 1 and 1 dimensions: not (3, 4) and (4, 5)
    torch.outer(x, y) | outer takes tensors of 1 and 1 dimensions: not (3, 4) and (4, 5)
    torch.tensordot(x, y, dims=2) | tensordot over [0, 1] of (3, 4) and [0, 1] of (4, 5)
    torch.addmm(y[None, None], x, y) | expand of (1, 1, 4, 5) to (3, 5)
    torch.baddbmm(y[None], x, y) | baddbmm takes tensors of 3 and 3 dimensions: not (3, 4) and (4, 5)
""")

FUNCTIONS = rows("""
    F.layer_norm(x, (4,))
    F.layer_norm(x, [3, 4])
    F.layer_norm(x, (4,), v)
    F.layer_norm(x, (4,), weight=v, bias=v * 2, eps=0.1)
    interpose.layer_norm(x, (4,))
    F.rms_norm(x, (4,), v)
    F.rms_norm(x, (4,), eps=0.5)
    interpose.rms_norm(x, (4,))
    F.normalize(x)
    F.normalize(x, dim=-1)
    F.normalize(x * 0, dim=0)
    interpose.normalize(x, dim=-1)
    F.cosine_similarity(x, y)
    F.cosine_similarity(x, v, dim=-1)
    torch.cosine_similarity(x[:, None], y[None], dim=-1)
    torch.cosine_similarity(x * 0, y, dim=0)
    interpose.cosine_similarity(x, y, dim=-1)
    F.mse_loss(x, y)
    F.mse_loss(x, y, reduction="sum")
    F.mse_loss(x, y, reduction="none")
    interpose.mse_loss(x, y)
    F.l1_loss(x, y)
    F.l1_loss(x, y, reduction="none")
    interpose.l1_loss(x, y)
    F.kl_div(x.log_softmax(-1), y.softmax(-1))
    F.kl_div(x.log_softmax(-1), y.softmax(-1), reduction="batchmean")
    F.kl_div(x.log_softmax(-1), y.softmax(-1), reduction="sum")
    F.kl_div(x.log_softmax(-1), y.log_softmax(-1), reduction="none", log_target=True)
    F.kl_div(x, torch.tensor([[0.0, 1.0, 0.0, 0.5]]), reduction="none")
    torch.softmax(x, -1)
    torch.log_softmax(x, 0)
    F.pad(x, (1, 2))
    F.pad(x, (0, 1, 2, 0), value=-1.5)
    F.pad(x, (-1, 1), "constant", 3.0)
    F.pad(x, (0, 0, -1, -1))
    interpose.pad(x, (1, 2))
    F.scaled_dot_product_attention(x[None], y[None], y[None])
    F.scaled_dot_product_attention(x[None], y[None], y[None, :, :2], is_causal=True)
    F.scaled_dot_product_attention(x[None], y[None], y[None], attn_mask=x[:, :3] > -9, scale=0.5)
    F.scaled_dot_product_attention(x[None], y[None], y[None], x[:, :3])
    interpose.scaled_dot_product_attention(x[None], y[None], y[None])
    F.softmax(x, dim=-1)
    F.cross_entropy(x, torch.tensor([0, 3, 1]))
    F.cross_entropy(x, torch.tensor([0, -100, 1]))
    F.cross_entropy(x, torch.tensor([0, -100, 1]), reduction="sum")
    F.cross_entropy(x, torch.tensor([0, 2, 1]), ignore_index=2, reduction="none")
    F.cross_entropy(x, torch.tensor([0, 2, 1]), weight=torch.tensor([1.0, 2.0, 0.5, 3.0]))
    F.cross_entropy(x, torch.tensor([0, -100, 1]), v.exp(), reduction="none")
    F.cross_entropy(x, torch.tensor([0, -100, 1]), v.exp(), label_smoothing=0.1)
    F.cross_entropy(x, torch.tensor([0, 2, 1]), label_smoothing=0.2)
    F.cross_entropy(x, torch.tensor([0, -100, 1]), label_smoothing=0.2, reduction="sum")
    F.cross_entropy(x, y.argmax(-1))
    F.cross_entropy(x, y.argmax(-1), ignore_index=1, reduction="none")
    F.cross_entropy(x, y.argmax(-1), v.exp())
    F.cross_entropy(x[None], y.argmax(0)[None])
    F.cross_entropy(x[None], y.argmax(0)[None], reduction="none")
    F.cross_entropy(x[0], y[0].argmax())
    F.cross_entropy(x[0], torch.tensor(2))
    F.cross_entropy(x, y.softmax(-1))
    F.cross_entropy(x, y.softmax(-1), reduction="sum")
    F.cross_entropy(x, y.softmax(-1), v.exp(), reduction="none", label_smoothing=0.1)
    F.cross_entropy(x[0], y[0].softmax(-1))
    interpose.cross_entropy(x, torch.tensor([0, 3, 1]))
    F.nll_loss(x, torch.tensor([0, 3, 1]))
    F.nll_loss(x, torch.tensor([0, -100, 1]), v.exp())
    F.nll_loss(x, y.argmax(-1), reduction="none")
    F.nll_loss(x[None], y.argmax(0)[None], reduction="sum")
    interpose.nll_loss(x, torch.tensor([0, 3, 1]))
""", SQUARE, **NEAR) + rows("""
    interpose.kl_div(x, y.softmax(-1))
""", SQUARE, oracle="F.kl_div(x, y.softmax(-1))", **NEAR) + refusals(SQUARE, """
    F.pad(x, (1,)) | pad holds two numbers for each of at most 2 dimensions: not [1]
    F.pad(x, (1, 1), "reflect") | pad: only mode='constant' is offered, not 'reflect'
    F.layer_norm(x, (3,)) | the last dimensions of (3, 4) are not normalized_shape, (3,)
    F.cross_entropy(x, torch.tensor([0, 3])) | classes of (3, 4) need targets of (3,), or probabilities of (3, 4): not (2,)
    F.cross_entropy(x, torch.tensor([0, 4, 1])) | the index at (1, 0) is 4, which is out of range for dimension 1 of size 4
    F.cross_entropy(x, y.argmax(-1) + 4) | which the graph computed, is out of range for dimension 1 of size 4
    F.cross_entropy(x, torch.tensor([0, 3, 1]), reduction="all") | reduction is 'none', 'mean' or 'sum', not 'all'
    F.nll_loss(x, y) | classes of (3, 4) need targets of (3,), or probabilities of (3, 4): not (3, 4)
""")


PATTERNS = patterns("""
    interpose.rearrange(x, "a b c -> c a b") | x.permute(2, 0, 1)
    interpose.rearrange(x, "a b c -> a (b c)") | x.reshape(2, 12)
    interpose.rearrange(x, "a b (c d) -> a c b d", c=2) | x.reshape(2, 3, 2, 2).permute(0, 2, 1, 3)
    interpose.rearrange(x, "a b (c d) -> (a c) (b d)", d=2) | x.reshape(2, 3, 2, 2).permute(0, 2, 1, 3).reshape(4, 6)
    interpose.rearrange(x, "... c -> c ...") | x.permute(2, 0, 1)
    interpose.rearrange(x, "a ... -> (a ...)") | x.reshape(-1)
    interpose.rearrange(x, "a b c -> a 1 b c 1") | x[:, None, ..., None]
    interpose.rearrange(x[:, :1], "a 1 c -> c a") | x[:, 0].T
    interpose.rearrange(x, "a b c -> () a b c") | x[None]
    interpose.rearrange([x, x * 2], "n a b c -> a b c n") | torch.stack([x, x * 2], -1)
    interpose.reduce(x, "a b c -> a", "sum") | x.sum((1, 2))
    interpose.reduce(x, "a b c -> c a", "mean") | x.mean(1).T
    interpose.reduce(x, "a b (c 2) -> a b c", "max") | x.reshape(2, 3, 2, 2).amax(-1)
    interpose.reduce(x, "a b c -> a 1 c", "min") | x.amin(1, keepdim=True)
    interpose.reduce(x, "... c -> ...", "sum") | x.sum(-1)
    interpose.reduce(x, "a b c ->", "mean") | x.mean()
    interpose.einsum(x, x, "a b c, a d c -> a b d") | torch.einsum("abc,adc->abd", x, x)
    interpose.einsum(x, x[0], "batch row col, row col -> batch") | torch.einsum("abc,bc->a", x, x[0])
    interpose.einsum(x, x[0, 0], "... col, col -> ...") | torch.einsum("...c,c->...", x, x[0, 0])
    interpose.repeat(x, "a b c -> a n b c", n=3) | x[:, None].expand(2, 3, 3, 4)
    interpose.repeat(x, "a b c -> (n a) b c", n=2) | x.repeat(2, 1, 1)
    interpose.repeat(x, "a b c -> a b (c n)", n=2) | x.repeat_interleave(2, -1)
    interpose.repeat(x, "a b c -> a b c 2") | x[..., None].expand(2, 3, 4, 2)
""", CUBE) + refusals(CUBE, """
    interpose.rearrange(x, "a b -> b a") | 'a b -> b a': 2 axes for a tensor of shape (2, 3, 4)
    interpose.rearrange(x, "a b c -> a b") | 'a b c -> a b': 'c' stands on one side only
    interpose.rearrange(x, "a b (c d) -> a b c d", c=3) | an axis of 4 in (2, 3, 4) is no (c d), whose known sizes make 3
    interpose.rearrange(x, "a b (c d) -> a b c d") | the sizes of c and d are not known: give c=... or d=...
    interpose.rearrange(x, "a a c -> a c") | 'a' stands twice on one side
    interpose.rearrange(x, "a b c -> a b c", n=2) | has no axis 'n'
    interpose.rearrange(x, "a (b c -> a b c") | a bracket is not closed
    interpose.reduce(x, "a b c -> a", "median") | reduce offers sum, mean, max, min
    interpose.reduce(x, "a b c -> a d", "sum") | 'd' stands on the right only: repeat can do that
    interpose.repeat(x, "a b c -> a b c n") | the size of 'n' is not known: give n=...
    interpose.repeat(x, "a b c -> a b") | 'c' stands on the left only: reduce can do that
    torch.fft.fft(x) | fft_fft is not offered on proxies
    torch.cummax(x, 0) | cummax is not offered on proxies: did you mean
""")

ROWS = (VIEWS + JOINED + DIAGONALS + CHOSEN + SCATTERED + INDEXED + WRITTEN + ARRANGED + PRODUCTS
        + FUNCTIONS + PATTERNS)
