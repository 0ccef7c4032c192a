"""What arranges tensors and multiplies them: views, indexing, linear algebra, losses."""
import numpy as np

from optable import Operand, array, given, laid, operand, rows

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

PRODUCTS = rows("""
    x @ y
    x.matmul(y)
    torch.matmul(x, y)
    interpose.matmul(x, y)
""", given(x=operand("f", (3, 4)), y=operand("f", (4, 5)))
    + given(x=operand("f", (2, 3, 4)), y=operand("f", (4,)))
    + given(x=operand("f", (3, 4)), y=operand("f", (5, 4))), 2e-6, 2e-6) + rows("""
    torch.einsum("ij,kj->ik", x, y)
    interpose.einsum("ij,kj->ik", x, y)
""", given(x=operand("f", (3, 4)), y=operand("f", (5, 4))), 2e-6, 2e-6)

ROWS = VIEWS + JOINED + DIAGONALS + CHOSEN + SCATTERED + PRODUCTS
