"""The model's tokenizer, which the server keeps; what was asked once is remembered."""
from __future__ import annotations

import collections

import numpy as np

from .prompt import BOS
from .values import as_array, whole

_REMEMBERED = 4096


def rectangle(rows):
    """Ids of texts as one int64 array (B, T); ValueError for texts of several lengths."""
    lengths = sorted({len(row) for row in rows})
    if len(lengths) != 1:
        raise ValueError(f"texts of {' and '.join(map(str, lengths))} tokens are no array: take them one "
                         "by one")
    return np.array(rows, np.int64)


class Encoding(dict):
    """What a tokenizer gives, by key and by attribute."""

    def __getattr__(self, name):
        if name not in self:
            raise AttributeError(f"an encoding has {' and '.join(self)}: not {name!r}")
        return self[name]


class Tokenizer:
    """Texts to token ids and back.

    >>> ids = model.tokenizer.encode("The Eiffel Tower")
    >>> model.tokenizer.decode(ids)
    'The Eiffel Tower'
    >>> model.tokenizer("The Eiffel Tower").input_ids == ids
    True
    """

    bos_token = eos_token = BOS
    pad_token = None    # scripts set it; nothing is ever padded with it

    def __init__(self, client):
        self._client = client
        self._known = collections.OrderedDict()

    @property
    def eos_token_id(self):
        """The id of <|endoftext|>."""
        return self.encode(self.eos_token)[0]

    bos_token_id = eos_token_id

    def encode(self, text):
        """The ids of a text as a list of ints; of a list of texts, a list of such lists.

        Raises TypeError for anything else.

        >>> [len(ids) > 0 for ids in model.tokenizer.encode(["Hello", "The Eiffel Tower"])]
        [True, True]
        """
        return self._ask(text, "tokens")

    def tokenize(self, text):
        """The pieces of a text, as texts; bytes that are no UTF-8 by themselves show as \ufffd.

        >>> "".join(model.tokenizer.tokenize("The Eiffel Tower"))
        'The Eiffel Tower'
        """
        return self._ask(text, "pieces")

    def offsets(self, text):
        """Where each token stands in the text, as [from, to) in characters; a token that is a part
        of a character has that character's.

        >>> [tuple(pair) for pair in model.tokenizer.offsets(".")]
        [(0, 1)]
        """
        return self._ask(text, "offsets")

    def positions(self, tokens, text, occurrence=0):
        """Which of these ids spell the part of their text that is `text` (of several the one asked
        for, counted from either end): a list of positions in `tokens`.

        Raises ValueError where there is no such part; TypeError for a text that is none.

        >>> ids = model.tokenizer.encode("The Eiffel Tower is in")
        >>> found = model.tokenizer.positions(ids, "Eiffel Tower")
        >>> model.tokenizer.decode([ids[i] for i in found]).strip()
        'Eiffel Tower'
        """
        if not isinstance(text, str):
            raise TypeError(f"a text is needed, not {text!r:.60}")
        tokens = as_array(tokens).tolist()
        whole_text = self.decode(tokens)
        starts, at = [], whole_text.find(text) if text else -1
        while at >= 0:
            starts.append(at)
            at = whole_text.find(text, at + 1)
        if not -len(starts) <= occurrence < len(starts):
            raise ValueError(f"{text!r} stands {len(starts)} times in {whole_text!r:.200}"
                             + (f": there is no occurrence {occurrence}" if starts else ""))
        start = starts[occurrence]
        offsets = self._offsets_of(tokens, whole_text)
        return [i for i, (a, b) in enumerate(offsets) if a < start + len(text) and b > start]

    def _offsets_of(self, tokens, text):
        """Where ids stand in the text that they spell."""
        if self.encode(text) == tokens:
            return self.offsets(text)
        pieces = self.decode([[token] for token in tokens])
        if "".join(pieces) != text:
            raise ValueError("these ids divide characters otherwise than the tokenizer does: give "
                             "the prompt as a text to find parts of it")
        ends = np.cumsum([len(piece) for piece in pieces]).tolist()
        return [(end - len(piece), end) for piece, end in zip(pieces, ends)]

    def decode(self, tokens):
        """The text of one id, or of a list or 1-D array of ids; of rows of ids, a list of texts.

        Raises TypeError for anything else, RequestError for an id that the model does not have.

        >>> model.tokenizer.decode(model.tokenizer.encode(".")[0])
        '.'
        """
        if hasattr(tokens, "__index__") and not getattr(tokens, "ndim", 0):
            tokens = [tokens]
        elif getattr(tokens, "ndim", 1) == 2 or any(
                isinstance(t, (list, tuple)) or getattr(t, "ndim", 0) for t in tokens):
            return [self.decode(row) for row in tokens]
        ids = tuple(whole(t, "a token id") for t in as_array(tokens).tolist())
        return self._remembered(("text", ids), lambda: self._client.ask(
            "/v1/detokenize", {"tokens": list(ids)})["text"])

    batch_decode = decode

    def __call__(self, text, return_tensors=None, **unsupported):
        """{"input_ids": ..., "attention_mask": ...}, as Hugging Face's tokenizers give it: lists, or of
        texts of one length with return_tensors "np" or "pt" numpy's or torch's tensors (B, T)."""
        if return_tensors not in (None, "np", "pt"):
            raise ValueError(f"return_tensors is 'np', 'pt' or None: not {return_tensors!r}")
        if unsupported:
            raise TypeError(f"the tokenizer has no parameter {next(iter(unsupported))!r}")
        ids = self.encode(text)
        if return_tensors:
            ids = rectangle([ids] if isinstance(text, str) else ids)
            if return_tensors == "pt":
                import torch
                ids = torch.from_numpy(ids)
            return Encoding(input_ids=ids, attention_mask=ids * 0 + 1)
        ones = [1] * len(ids) if isinstance(text, str) else [[1] * len(row) for row in ids]
        return Encoding(input_ids=ids, attention_mask=ones)

    def _ask(self, text, field):
        if isinstance(text, str):
            return list(self._reply(text)[field])
        if not isinstance(text, (list, tuple)) or not all(isinstance(t, str) for t in text):
            raise TypeError(f"a text or a list of texts is needed, not {text!r:.60}")
        missing = [t for t in dict.fromkeys(text) if ("tokens", t) not in self._known]
        if len(missing) > 1:
            reply = self._client.ask("/v1/tokenize", {"text": missing})
            for i, t in enumerate(missing):
                self._remember(("tokens", t), {field: reply[field][i] for field in reply})
        return [list(self._reply(t)[field]) for t in text]

    def _reply(self, text):
        return self._remembered(("tokens", text),
                                lambda: self._client.ask("/v1/tokenize", {"text": text}))

    def _remembered(self, key, ask):
        known = self._known.get(key)
        return self._remember(key, ask()) if known is None else known

    def _remember(self, key, answer):
        self._known[key] = answer
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return answer
