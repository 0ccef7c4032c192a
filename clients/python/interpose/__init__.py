"""Interpretability experiments on a GPT-2 that an Interpose server holds.

    from interpose import LanguageModel

    model = LanguageModel("demo")
    with model.trace("The Eiffel Tower is in the city of"):
        hidden = model.transformer.h[-1].output[0].save()
    hidden.value

Start with help(interpose.LanguageModel): its `trace` and `generate` open runs, print(model) shows
what there is to be looked at and set, and help(interpose.Proxy) says what a tensor of a run can do.
Every op of the server is also a function here (`interpose.softmax(x, dim=-1)`), and so is what
`interpose.__all__` lists besides; `interpose.list()` collects a value of each generation step.

The files, in the order in which one may read them:

    model       LanguageModel: opens runs, and knows what its server says of it
    tree        its modules, whose tensors are hook points; applied: modules called on a tensor;
                nested: outputs that are tuples
    run         one request from its `with` to its values; request: its side towards the server;
                invoke: a prompt of it; prompt: what may be given as one; current: which run is
                being written
    proxy       a tensor of a run: each operation on it adds a node
    graph       the nodes, and the form in which they travel
    values      numbers, arrays and indices to the wire and back; spec: the server's tables
    client      HTTP; frames: what comes back, out of its bytes
    errors      what can go wrong, and at which line; progress: a line about long runs

    iteration, condition, session, edit, cache, everyone    the contexts inside and around a run
    recording   what a program wrote, to be written once more (by iteration, edit and everyone)
    finished    a saved proxy behind its run; converted: results of dtypes that no server has

    functions   all ops as functions, and torch's and numpy's functions on proxies
    numeric     torch's methods that compute values; views: those that arrange elements anew;
                indexing: x[lists and tensors]
    products, functional, activations, einsum, einops, losses, making
                what is made of the server's ops, by torch's, einops' and our own names;
                einops_backend: einops' own functions on proxies

    tokenizer   the server's, remembered here; hooks: hook points by TransformerLens's names
    lens        a HookedTransformer's methods; activation_cache, folding, directions, factored:
                what they give
"""
import builtins as _builtins

from . import functions as _functions
from .activations import gelu, leaky_relu, logsigmoid, silu, softplus, vector_norm
from .einsum import einsum
from .errors import InterposeError, NoValue, RequestError, ServerError
from .factored import FactoredMatrix
from .functions import tensor, topk
from .hooks import act_name, head
from .iteration import List, save
from .losses import cross_entropy_loss
from .making import (arange, eye, full, full_like, linspace, one_hot, ones, ones_like, rand,
                     rand_like, randn, randn_like, zeros, zeros_like)
from .model import LanguageModel
from .proxy import Proxy

__version__ = "0.1.0"

# `from interpose import *` leaves Python's own list, abs, max, ... alone: those are interpose.max.
__all__ = sorted(["FactoredMatrix", "InterposeError", "LanguageModel", "NoValue", "Proxy",
                  "RequestError",
                  "ServerError", "act_name", "arange", "cross_entropy_loss", "einsum", "eye",
                  "full", "full_like", "gelu", "head", "leaky_relu", "linspace", "logsigmoid",
                  "one_hot", "ones", "ones_like", "rand", "rand_like", "randn", "randn_like",
                  "save", "silu", "softplus", "tensor", "topk", "vector_norm", "zeros", "zeros_like",
                  *(name for name in _functions.FUNCTIONS if not hasattr(_builtins, name))])

list = List
globals().update(_functions.FUNCTIONS)
