"""Interpretability experiments on a GPT-2 that an Interpose server holds.

    from interpose import LanguageModel

    model = LanguageModel("demo")
    with model.trace("The Eiffel Tower is in the city of"):
        hidden = model.transformer.h[-1].output[0].save()
    hidden.value

Every op of the server is also a function here (`interpose.softmax(x, dim=-1)`).
"""
import builtins as _builtins

from . import functions as _functions
from .activations import gelu, leaky_relu, logsigmoid, silu, softplus, vector_norm
from .einsum import einsum
from .errors import InterposeError, NoValue, RequestError, ServerError
from .functions import tensor, topk
from .hooks import act_name, head
from .iteration import List
from .losses import cross_entropy_loss
from .making import (arange, eye, full, full_like, linspace, one_hot, ones, ones_like, rand,
                     rand_like, randn, randn_like, zeros, zeros_like)
from .model import LanguageModel
from .proxy import Proxy

__version__ = "0.1.0"

__all__ = ["InterposeError", "LanguageModel", "NoValue", "Proxy", "RequestError", "ServerError",
           "act_name", "arange", "cross_entropy_loss", "einsum", "eye", "full", "full_like", "gelu",
           "head", "leaky_relu", "linspace", "logsigmoid", "one_hot", "ones", "ones_like", "rand",
           "rand_like", "randn", "randn_like", "silu", "softplus", "tensor", "topk", "vector_norm",
           "zeros", "zeros_like",
           *(name for name in _functions.FUNCTIONS if not hasattr(_builtins, name))]

list = List
globals().update(_functions.FUNCTIONS)
