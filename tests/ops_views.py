"""What arranges tensors and multiplies them: views, indexing, linear algebra, losses."""
from optable import given, laid, operand, rows

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
""", given(x=operand("f", (2, 3, 4))))

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

ROWS = VIEWS + JOINED + CHOSEN + PRODUCTS
