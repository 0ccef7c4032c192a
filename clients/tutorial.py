"""The tutorial: each piece of code below is shown, run against the server at INTERPOSE_HOST, and
followed by what it really gives. Ends with 1 if the model does not know Paris, a shape is not what
it must be, or ablating a head does not cost anything.
"""
import ast
import contextlib
import io
import sys

import numpy as np

import interpose
from interpose.client import Client

CELLS = """
import interpose
from interpose import LanguageModel

model = LanguageModel("{name}")    # and host="http://...", or INTERPOSE_HOST

# 1. Generate, reading one activation on the way. Nothing runs until the outer block ends.

with model.generate(max_new_tokens=1) as generator:
    with generator.invoke("The Eiffel Tower is in the city of") as invoker:
        hidden_states = model.transformer.h[-1].output[0].save()

[model.tokenizer.decode(t) for t in generator.output]
hidden_states.value
hidden_states.value.shape

# 2. Shapes before running, also of inputs and of nested outputs. Token ids work as a prompt too.

tokens = model.tokenizer.encode("The Eiffel Tower is in the city of")
tokens

with model.generate(max_new_tokens=1) as generator:
    with generator.invoke(tokens) as invoker:
        print(model.transformer.h[-1].output.shape)
        print(model.transformer.h[2].input[0][0].shape)
        x = model.transformer.h[2].input[0][0].save()

x.value.mean(), x.value.std()

# 3. Two invokes in one run: one as it is, one with head 7 of block 0 ablated. Compare losses.

with model.generate(max_new_tokens=1) as generator:
    with generator.invoke(tokens) as invoker:
        normal = model.lm_head.output.save()
    with generator.invoke(tokens) as invoker:
        value = model.transformer.h[0].attn.value.output
        value[:, 7, :, :] = 0.
        ablated = model.lm_head.output.save()

interpose.cross_entropy_loss(normal.value, tokens, shift=True)
interpose.cross_entropy_loss(ablated.value, tokens, shift=True)
"""


def show(source):
    """Prints the source, each statement followed by what it prints and what it is; gives the names
    that it defines."""
    names, lines, shown = {}, source.strip("\n").split("\n"), 0
    for statement in ast.parse(source.strip("\n")).body:
        print("\n".join(lines[shown:statement.end_lineno]), flush=True)
        shown = statement.end_lineno
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            run(statement, names)
        for line in printed.getvalue().splitlines():
            print("  =>", line)
    return names


def run(statement, names):
    """Runs one statement; an expression's value is printed."""
    if isinstance(statement, ast.Expr):
        value = eval(compile(ast.Expression(statement.value), "tutorial", "eval"), names)
        if value is not None:
            print(repr(value))
    else:
        exec(compile(ast.Module([statement], []), "tutorial", "exec"), names)


def mistakes(names):
    """What is not as the tutorial says it is."""
    model, tokens = names["model"], names["tokens"]
    width, heads = model.config.width, model.config.n_heads
    text = model.tokenizer.decode(names["generator"].output[0])
    if not text.endswith("the city of Paris"):
        yield f"the model continues with {text!r}"
    if names["hidden_states"].value.shape != (1, len(tokens), width):
        yield f"hidden_states is {names['hidden_states'].value.shape}"
    cache = (1, heads, len(tokens), width // heads)
    with model.trace(tokens):
        shape = model.transformer.h[-1].output.shape
    if shape != ((1, len(tokens), width), (cache, cache)):
        yield f"the last block's output is {shape}"
    losses = [interpose.cross_entropy_loss(names[n].value, tokens) for n in ("normal", "ablated")]
    if not 0 < losses[0] < losses[1]:
        yield f"the loss is {losses[0]:.4f} as it is and {losses[1]:.4f} without head 7"


if __name__ == "__main__":
    np.set_printoptions(precision=3, suppress=True, edgeitems=2)
    try:
        name = Client().document("/v1/models")["models"][0]["name"]
        wrong = list(mistakes(show(CELLS.format(name=name))))
    except interpose.InterposeError as e:
        wrong = [str(e)]
    for mistake in wrong:
        print(f"not as it should be: {mistake}", file=sys.stderr)
    sys.exit(bool(wrong))
