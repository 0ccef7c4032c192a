"""The model's tokenizer, which the server keeps; what was asked once is remembered."""
from __future__ import annotations

import collections
import difflib

import numpy as np

from .prompt import BOS
from .values import as_array, is_number, whole

_REMEMBERED = 4096


def rectangle(rows):
    """Ids of texts as one int64 array (B, T); ValueError for texts of several lengths."""
    lengths = sorted({len(row) for row in rows})
    if len(lengths) != 1:
        raise ValueError(f"texts of {' and '.join(map(str, lengths))} tokens are no array: take them one "
                         "by one, give the texts themselves as a prompt, or pad them, "
                         "tokenizer(texts, padding=True)")
    return np.array(rows, np.int64)


class Encoding(dict):
    """What a tokenizer gives, by key and by attribute."""

    def __getattr__(self, name):
        if name not in self:
            raise AttributeError(f"an encoding has {' and '.join(self)}: not {name!r}")
        return self[name]

    def to(self, device):
        """Itself: ids travel to the server from wherever they are."""
        return self


def _letters():
    """Of each byte: the letter that stands for it in the names of a byte-level BPE's tokens."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {b: chr(b if b in plain else 256 + others.index(b)) for b in range(256)}


_LETTERS = _letters()
_BYTES = {letter: b for b, letter in _LETTERS.items()}


class Tokenizer:
    """Texts to token ids and back.

    >>> ids = model.tokenizer.encode("The Eiffel Tower")
    >>> model.tokenizer.decode(ids)
    'The Eiffel Tower'
    >>> model.tokenizer("The Eiffel Tower").input_ids == ids
    True
    """

    bos_token = eos_token = unk_token = BOS
    pad_token = None    # scripts set it: `padding=True` fills up with it, and no prompt is padded
    padding_side = "right"

    def __init__(self, client, config):
        self._client, self._config = client, config     # config(): asks the server
        self._known = collections.OrderedDict()

    @property
    def eos_token_id(self):
        """The id of <|endoftext|>."""
        return self.encode(self.eos_token)[0]

    bos_token_id = unk_token_id = eos_token_id

    @property
    def pad_token_id(self):
        """The id of pad_token, None without one; setting it sets pad_token."""
        return None if self.pad_token is None else self.convert_tokens_to_ids(self.pad_token)

    @pad_token_id.setter
    def pad_token_id(self, token):
        """Makes the token of an id the pad_token."""
        self.pad_token = None if token is None else self.convert_ids_to_tokens(token)

    @property
    def vocab_size(self):
        """How many tokens there are; len() is the same."""
        return self._config().vocab

    @property
    def model_max_length(self):
        """How many tokens the model takes."""
        return self._config().context

    def __len__(self):
        return self.vocab_size

    def __bool__(self):
        return True

    def encode(self, text, add_special_tokens=True, return_tensors=None):
        """The ids of a text as a list of ints; of a list of texts, a list of such lists; with
        return_tensors "np" or "pt" as (B, T). GPT-2 has no special tokens to add.

        Raises TypeError for anything else.

        >>> [len(ids) > 0 for ids in model.tokenizer.encode(["Hello", "The Eiffel Tower"])]
        [True, True]
        """
        if return_tensors:
            return self(text, return_tensors=return_tensors).input_ids
        return self._ask(text, "tokens")

    def convert_ids_to_tokens(self, ids, skip_special_tokens=False):
        """The names that tokens have in the vocabulary, one for an id, a list for several: "\u0120Paris"
        is " Paris".

        Raises ValueError for a token that is a part of a character only.

        >>> model.tokenizer.convert_ids_to_tokens(model.tokenizer.encode("The city"))[0]
        'The'
        """
        if hasattr(ids, "__index__") and not getattr(ids, "ndim", 0):
            text = self.decode(ids)
            if "\ufffd" in text and self.encode(text) != [ids]:
                raise ValueError(f"token {ids} is a part of a character, whose name is not known "
                                 "here: take decode or tokenize")
            return "".join(_LETTERS[b] for b in text.encode())
        return [self.convert_ids_to_tokens(i) for i in self._plain(ids, skip_special_tokens)]

    def convert_tokens_to_ids(self, tokens):
        """The id of a token by its name in the vocabulary, or those of several.

        Raises ValueError for a name that is none (Hugging Face's give unk_token_id).

        >>> name = model.tokenizer.convert_ids_to_tokens(464)
        >>> model.tokenizer.convert_tokens_to_ids([name])
        [464]
        """
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        data = bytes(_BYTES.get(letter, 255) for letter in tokens)
        ids = self.encode(data.decode(errors="replace"))
        if len(ids) != 1 or self.convert_ids_to_tokens(ids[0]) != tokens:
            raise ValueError(f"{tokens!r} is no token's name: a space in front of a word is '\u0120'")
        return ids[0]

    def _plain(self, ids, skip_special_tokens):
        ids = as_array(ids).tolist()
        return [i for i in ids if not skip_special_tokens or i != self.eos_token_id]

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

    def decode(self, tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False):
        """The text of one id, or of a list or 1-D array of ids; of rows of ids, a list of texts.
        `skip_special_tokens` leaves <|endoftext|> out; cleaning up is not offered.

        Raises TypeError for anything else, RequestError for an id that the model does not have.

        >>> model.tokenizer.decode(model.tokenizer.encode(".")[0])
        '.'
        """
        if clean_up_tokenization_spaces:
            raise TypeError("clean_up_tokenization_spaces is not offered: a text is what its ids "
                            "spell")
        if is_number(tokens):
            tokens = [tokens]
        elif getattr(tokens, "ndim", 1) == 2 or any(
                isinstance(t, (list, tuple)) or getattr(t, "ndim", 0) for t in tokens):
            return [self.decode(row, skip_special_tokens) for row in tokens]
        ids = tuple(whole(t, "a token id") for t in self._plain(tokens, skip_special_tokens))
        return self._remembered(("text", ids), lambda: self._client.ask(
            "/v1/detokenize", {"tokens": list(ids)})["text"])

    batch_decode = decode

    def __call__(self, text, return_tensors=None, padding=False, truncation=False, max_length=None,
                 add_special_tokens=True, **unsupported):
        """{"input_ids": ..., "attention_mask": ...}, as Hugging Face's tokenizers give it: lists, or
        with return_tensors "np" or "pt" numpy's or torch's tensors (B, T).

        `padding` (True or "longest", or "max_length") fills up with pad_token, at `padding_side`;
        `truncation` leaves max_length tokens, or as many as the model takes. As a prompt, what is
        padding is never sent.

        >>> model.tokenizer.pad_token = model.tokenizer.eos_token
        >>> model.tokenizer(["Paris", "The city of Paris"], padding=True)["attention_mask"][0][-1]
        0
        """
        if return_tensors not in (None, "np", "pt"):
            raise ValueError(f"return_tensors is 'np', 'pt' or None: not {return_tensors!r}")
        if padding not in (False, True, "longest", "max_length", "do_not_pad"):
            raise ValueError("padding is True, False, 'longest', 'max_length' or 'do_not_pad': not "
                             f"{padding!r}")
        if unsupported:
            raise TypeError(f"the tokenizer has no parameter {next(iter(unsupported))!r}: it takes "
                            "a text or texts, return_tensors, padding, truncation and max_length")
        is_one, rows = isinstance(text, str), self.encode(text)
        rows, most = [rows] if is_one else rows, max_length or self.model_max_length
        rows = [row[:most] for row in rows] if truncation else rows
        masks = [[1] * len(row) for row in rows]
        if padding not in (False, "do_not_pad"):
            width = most if padding == "max_length" else max(map(len, rows), default=0)
            rows = [self._padded(row, width, self.pad_token_id) for row in rows]
            masks = [self._padded(mask, width, 0) for mask in masks]
        if return_tensors:
            rows, masks = rectangle(rows), rectangle(masks)
            if return_tensors == "pt":
                import torch
                rows, masks = torch.from_numpy(rows), torch.from_numpy(masks)
        elif is_one:
            [rows], [masks] = rows, masks
        return Encoding(input_ids=rows, attention_mask=masks)

    def _padded(self, row, width, token):
        if token is None:
            raise ValueError("padding needs a token to pad with: write tokenizer.pad_token = "
                             "tokenizer.eos_token first")
        more = [token] * (width - len(row))
        return more + row if self.padding_side == "left" else row + more

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        near = difflib.get_close_matches(name, dir(self), 3)
        raise AttributeError(f"the tokenizer has no {name!r}"
                             + (f": did you mean {' or '.join(near)}?" if near else ""))

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
