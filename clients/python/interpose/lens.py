"""TransformerLens's way to run a model: run_with_cache, run_with_hooks, to_tokens and the like."""
from __future__ import annotations

import numpy as np

from .activation_cache import ActivationCache, Pass, Weight, aside
from .current import drop_hooked, open_run
from .directions import residual_directions
from .factored import FactoredMatrix
from .finished import Value
from .folding import NUMERICS, accumulated_bias
from .functions import FUNCTIONS
from .prompt import BOS, given_prompt
from .proxy import is_device
from .tokenizer import rectangle
from .values import as_array, is_number, whole


class BlockParameters(Weight):
    """A parameter of all blocks, stacked: `model.W_Q[3]` is block 3's, `model.W_Q[3, 1]` its head
    1's."""

    def __init__(self, model, path):
        super().__init__(model, f"blocks.*.{path}", lambda: self[:])
        self._model, self._path = model, path

    def __len__(self):
        return self._model.config.n_blocks

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key):
        block, *rest = key if isinstance(key, tuple) else (key,)
        if is_number(block):
            found = self._model.blocks[block]._at(self._path)
            return found[tuple(rest)] if rest else found
        if open_run(self._model) is None:
            return self._one.values(lambda: self[key])
        if not isinstance(block, slice):
            return self[:][key]
        found = FUNCTIONS["stack"]([self[i] for i in range(len(self))[block]], 0)
        return found[(slice(None), *rest)] if rest else found


class Lens:
    """What a LanguageModel has of TransformerLens's HookedTransformer.

    `numerics="transformer_lens"` makes run_with_cache and run_with_hooks show, and take, what
    TransformerLens's processed weights have at its hook points, and its centred logits; "hf" what
    Hugging Face's weights have. No BOS is put in front of a text unless `prepend_bos=True` asks for
    it: numbers are Hugging Face's of the same ids.
    """

    numerics = "hf"

    def _take_numerics(self, numerics):
        if numerics not in NUMERICS:
            raise ValueError(f"numerics is {' or '.join(map(repr, NUMERICS))}: not {numerics!r}")
        self.numerics = numerics

    # Tokens.

    @property
    def bos_token_id(self):
        """The id of <|endoftext|>, GPT-2's only special token."""
        return self.to_single_token(BOS)

    def to_tokens(self, text, prepend_bos=False, padding_side=None, move_to_device=True):
        """The ids of a text, or of a list of texts of one length, as int64 (B, T). Nothing is
        padded, and nothing has to move.

        Raises ValueError for texts of several lengths, TypeError for what is none.

        >>> model.to_tokens("The Eiffel Tower", prepend_bos=True).shape[0]
        1
        """
        rows = self.tokenizer.encode([text] if isinstance(text, str) else text)
        return rectangle([[self.bos_token_id] * bool(prepend_bos) + row for row in rows]).view(Value)

    def to_str_tokens(self, text, prepend_bos=False):
        """The tokens of a text, of a list of texts, or of ids (T) or (1, T), as texts.

        >>> "".join(model.to_str_tokens("The Eiffel Tower"))
        'The Eiffel Tower'
        """
        if isinstance(text, (list, tuple)) and text and all(isinstance(t, str) for t in text):
            return [self.to_str_tokens(t, prepend_bos) for t in text]
        if isinstance(text, str):
            text = self.to_tokens(text, prepend_bos)
        ids = as_array(text)
        if ids.ndim == 2 and len(ids) != 1 or ids.ndim > 2:
            return [self.to_str_tokens(row) for row in ids]
        ids = [[whole(i, "a token id")] for i in ids.reshape(-1).tolist()]
        return self.client.ask("/v1/detokenize", {"tokens": ids})["text"] if ids else []

    def to_string(self, tokens):
        """The text of ids (T), or a list of the texts of (B, T).

        >>> model.to_string(model.to_tokens("The Eiffel Tower")[0])
        'The Eiffel Tower'
        """
        return self.tokenizer.decode(tokens)

    def to_single_token(self, text):
        """The id of a text that is one token; ValueError where it is not.

        >>> model.to_string([model.to_single_token(" Paris")])
        ' Paris'
        """
        ids = self.tokenizer.encode(text)
        if len(ids) != 1:
            raise ValueError(f"{text!r} is {len(ids)} tokens, not one: {self.to_str_tokens(text)}")
        return ids[0]

    def get_token_position(self, single_token, input, mode="first", prepend_bos=False,
                           padding_side=None):
        """Where a token, a text or an id, stands in a text or in ids, (T) or (1, T): the first or,
        with mode="last", the last time.

        Raises ValueError for one that is not there.

        >>> model.get_token_position(" Tower", "The Eiffel Tower")
        4
        """
        del padding_side    # of one text: nothing is padded
        ids = self.to_tokens(input, prepend_bos) if isinstance(input, str) else as_array(input)
        if ids.ndim > 2 or ids.ndim == 2 and len(ids) != 1:
            raise ValueError("get_token_position takes one text or the ids of one: not "
                             f"{ids.shape}")
        if isinstance(single_token, str):
            single_token = self.to_single_token(single_token)
        places = np.flatnonzero(ids.reshape(-1) == single_token)
        if mode not in ("first", "last"):
            raise ValueError(f"mode is 'first' or 'last': not {mode!r}")
        if not len(places):
            raise ValueError(f"{self.to_single_str_token(single_token)!r} does not stand in "
                             f"{self.to_str_tokens(ids)}")
        return int(places[0 if mode == "first" else -1])

    def to_single_str_token(self, token):
        """The text of one id.

        >>> model.to_single_str_token(model.to_single_token(" Paris"))
        ' Paris'
        """
        return self.tokenizer.decode([whole(token, "a token id")])

    def _prompt(self, prompt, prepend_bos):
        """What is run for a prompt of one of these methods."""
        is_list = isinstance(prompt, (list, tuple)) and prompt and isinstance(prompt[0], str)
        if not prepend_bos or not (isinstance(prompt, str) or is_list):
            return prompt
        bos = self.bos_token_id
        if is_list:
            return [[bos, *row] for row in self.tokenizer.encode(prompt)]
        return [bos, *self.tokenizer.encode(prompt)]

    # Runs.

    @property
    def cfg(self):
        """`config`, which has TransformerLens's names of the sizes too: n_layers, d_model, d_head,
        ...

        >>> model.cfg.d_head * model.cfg.n_heads == model.cfg.d_model
        True
        """
        return self.config

    @property
    def device(self):
        """Where torch's tensors that go along with the model's live: on the CPU."""
        return "cpu"

    def to(self, *args, dtype=None, **ignored):
        """Itself, like eval(), cpu() and cuda(): it lives where its server has put it, never
        trains, and computes in its server's numbers, so that none of them changes anything.

        Raises TypeError for a dtype.
        """
        for each in (*args, *([] if dtype is None else [dtype])):
            if not is_device(each):
                raise TypeError(f"to({each}) is not offered: the model computes in its server's "
                                "numbers; x.to(dtype) converts a result")
        return self

    def eval(self):
        """Itself: see to()."""
        return self

    def cpu(self):
        """Itself: see to()."""
        return self

    def cuda(self, device=None):
        """Itself: see to()."""
        return self

    def set_use_attn_result(self, use_attn_result=True):
        """Nothing: hook_result is always there."""

    def all_head_labels(self):
        """The names of all heads, in order.

        >>> model.all_head_labels()[:2]
        ['L0H0', 'L0H1']
        """
        return [f"L{i}H{h}" for i in range(self.cfg.n_layers) for h in range(self.cfg.n_heads)]

    @property
    def OV(self):
        """W_V @ W_O of all heads, a FactoredMatrix (L, H, D, D)."""
        return FactoredMatrix(self.W_V, self.W_O)

    @property
    def QK(self):
        """W_Q @ W_K transposed of all heads, a FactoredMatrix (L, H, D, D)."""
        return FactoredMatrix(self.W_Q, np.swapaxes(self.W_K, -2, -1))

    @property
    def b_U(self):
        """The unembedding's bias, which GPT-2 does not have: zeros (V)."""
        return np.zeros(self.config.vocab, np.float32).view(Value)

    def loss_fn(self, logits, tokens, per_token=False):
        """The mean cross-entropy of logits (B, T, V), an array, against the next tokens of (B, T);
        or each one, (B, T - 1). In a run it is interpose.cross_entropy_loss.

        >>> logits, loss = model("The Eiffel Tower", return_type="both")
        >>> bool(abs(model.loss_fn(logits, model.to_tokens("The Eiffel Tower")) - loss) < 1e-4)
        True
        """
        logits, tokens = as_array(logits).astype(np.float64)[:, :-1], as_array(tokens)[:, 1:]
        logits = logits - logits.max(-1, keepdims=True)
        right = np.take_along_axis(logits, tokens[..., None], -1)[..., 0]
        losses = np.log(np.exp(logits).sum(-1)) - right
        return losses.astype(np.float32).view(Value) if per_token else losses.mean()

    # Hooks that stay.

    def add_hook(self, name, hook, dir="fwd", is_permanent=False, level=None, prepend=False):
        """Has a function fn(tensor, hook) called, as run_with_hooks calls it, at the front of each
        invoke of this model from here on, traces and generations too (there at each step), until
        reset_hooks(), in all threads. `name` is a hook point or a function that is asked for each
        name.

        Raises KeyError for a name that is none, ValueError for dir="bwd": there are no gradients.

        >>> def half(x, hook):
        ...     return x / 2
        >>> model.add_hook("blocks.0.hook_attn_out", half)
        >>> logits = model("The Eiffel Tower")
        >>> model.reset_hooks()
        >>> bool((logits == model("The Eiffel Tower")).all())
        False
        """
        del level
        if dir != "fwd":
            raise ValueError("dir='bwd' is not offered: a server computes no gradients")
        self._hook([(name, hook)], is_permanent, prepend)

    def add_perma_hook(self, name, hook, dir="fwd"):
        """add_hook of a hook that reset_hooks() leaves there."""
        self.add_hook(name, hook, dir, is_permanent=True)

    def reset_hooks(self, clear_contexts=True, direction="both", including_permanent=False,
                    level=None):
        """Takes back what add_hook added, with `including_permanent` all of it, and what is of a
        `with model.hooks(...)` around."""
        del clear_contexts, level
        if direction != "bwd":
            with self.client.hooking:
                self._hooked = [h for h in self._hooked
                                if h.is_permanent and not including_permanent]
            drop_hooked(self, lambda hook: False)

    @property
    def hook_dict(self):
        """`hooks`, by another name."""
        return self.hooks

    def _hook(self, pairs, is_permanent=False, prepend=False):
        new = self._named(pairs, is_permanent)
        with self.client.hooking:
            self._hooked = [*new, *self._hooked] if prepend else [*self._hooked, *new]

    def _named(self, pairs, is_permanent=False):
        return list(Pass(self, [0]).named(pairs, is_permanent))

    def __call__(self, prompt=None, return_type="logits", **kwargs):
        """run_with_hooks without hooks; `model(**tokenizer(text))` too gives logits.

        >>> model("The Eiffel Tower is in the city of").shape == (1, 10, model.cfg.d_vocab)
        True
        """
        return self.run_with_hooks(given_prompt(prompt, kwargs), return_type=return_type, **kwargs)

    def run_with_hooks(self, prompt, fwd_hooks=(), *, return_type="logits", prepend_bos=False,
                       loss_per_token=False, stop_at_layer=None, **unsupported):
        """Runs a prompt with functions at hook points, and gives its logits.

        `fwd_hooks` are pairs of a name, or a function that is asked for each name, and a function
        fn(tensor, hook): it is called once, in the order of the pass, with a proxy, while the
        request is written. What it sets in the tensor, or returns, is what the model goes on with;
        what it keeps for later it saves: `kept[hook.layer()] = tensor.mean(0).save()`.

        `return_type` is "logits" (B, T, V), "loss" (a float, or with `loss_per_token` (B, T - 1)),
        "both" (a pair) or None. With `stop_at_layer` the pass ends in front of that block, counted
        from either end, and the residual stream there is what comes back (B, T, D). Raises KeyError
        for a name that is none; RequestError for what the server refuses, at the line that made it.

        >>> def without_head_3(z, hook):
        ...     z[:, :, 3] = 0.
        >>> loss = model.run_with_hooks("The Eiffel Tower is in the city of Paris",
        ...     fwd_hooks=[("blocks.2.attn.hook_z", without_head_3)], return_type="loss")
        >>> bool(loss > 0)
        True
        """
        self._refuse_more("run_with_hooks", unsupported, "a prompt, fwd_hooks, return_type, "
                          "prepend_bos, loss_per_token and stop_at_layer: there are no gradients")
        one = Pass(self, self._prompt(prompt, prepend_bos), fwd_hooks, stop_at_layer)
        return one.run(dict, return_type, loss_per_token)[0]

    def run_with_cache(self, prompt, *, names_filter=None, pos_slice=None, return_type="logits",
                       remove_batch_dim=False, prepend_bos=False, fwd_hooks=(),
                       loss_per_token=False, stop_at_layer=None, **unsupported):
        """Runs a prompt, and gives (logits, an ActivationCache).

        `names_filter`, a name, a list of names or a function that is asked for each, chooses what
        travels at once. Without one nothing does: the cache asks the server for what is looked at,
        which runs the same request again, to the same bits: what the functions and the model's edits
        wrote in the first run is kept, and no function is called again. `pos_slice` (an index, a slice or a
        list) keeps these positions only, in all of the cache; `remove_batch_dim` drops the first
        dimension of one prompt. The others are as in run_with_hooks, whose changes the cache shows.

        >>> logits, cache = model.run_with_cache("The Eiffel Tower is in the city of")
        >>> cache["resid_post", -1].shape == (1, 10, model.config.width)
        True
        >>> cache["pattern", 3, "attn"].shape == (1, model.config.n_heads, 10, 10)
        True
        """
        self._refuse_more("run_with_cache", unsupported, "a prompt, names_filter, pos_slice, "
                          "return_type, remove_batch_dim, prepend_bos, fwd_hooks, loss_per_token "
                          "and stop_at_layer")
        one = Pass(self, self._prompt(prompt, prepend_bos), fwd_hooks, stop_at_layer)
        cache = ActivationCache(one, names_filter, pos_slice)
        result = None
        if return_type is not None or names_filter is not None or one.hooks:
            result, values = one.run(cache.written, return_type, loss_per_token)
            cache.take(values)
        return result, cache.remove_batch_dim() if remove_batch_dim else cache

    def _refuse_more(self, what, given, takes):
        """As _refuse, but for TransformerLens's parameters that say what is so here anyway."""
        said = {"device": None, "padding_side": None, "reset_hooks_end": True, "incl_bwd": False,
                "clear_contexts": None, "bwd_hooks": [], "return_cache_object": True}
        self._refuse(what, [name for name, value in given.items()
                            if name not in said or said[name] not in (None, value)], takes)

    def parameter(self, path, write):
        """The parameter of a path, as write() gives it in a run, where there is none.

        >>> model.W_E.shape == (model.cfg.d_vocab, model.cfg.d_model)
        True
        >>> model.W_U[:, 464].shape == model.W_Q[3, 1, :, 0].shape == (model.cfg.d_model,)
        True
        """
        return Weight(self, path, write)

    def accumulated_bias(self, layer, mlp_input=False, include_mlp_biases=True):
        """What the biases in front of a block add to the residual stream, (D); with `mlp_input`
        that block's attention's too.

        >>> bool((model.accumulated_bias(0, mlp_input=True) == model.b_O[0]).all())
        True
        """
        return aside(self).values(
            lambda: accumulated_bias(self, layer, mlp_input, include_mlp_biases))

    def tokens_to_residual_directions(self, tokens):
        """The directions of the residual stream, behind the last layernorm's scale, that raise the
        logits of tokens: (..., D) for ids (...), (D) for a text of one token or an id. The last
        layernorm's gain is in them; with numerics="transformer_lens" they are centred over the
        vocabulary.

        >>> model.tokens_to_residual_directions(" Paris").shape == (model.config.width,)
        True
        """
        return aside(self).values(lambda: residual_directions(self, tokens))


for _path in ("attn.W_Q", "attn.W_K", "attn.W_V", "attn.W_O", "attn.b_Q", "attn.b_K", "attn.b_V",
              "attn.b_O", "mlp.W_in", "mlp.b_in", "mlp.W_out", "mlp.b_out"):
    setattr(Lens, _path.partition(".")[2],
            property(lambda self, path=_path: BlockParameters(self, path), doc=f"blocks.*.{_path}"))
