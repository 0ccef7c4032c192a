"""What a prompt may be given as: texts, token ids, a tokenizer's encoding."""
from __future__ import annotations

import collections.abc

import numpy as np

from .values import as_array, whole

# What add_bos puts before a text.
BOS = "<|endoftext|>"


# What a tokenizer's encoding holds of a prompt.
ENCODING = ("input_ids", "attention_mask", "token_type_ids")


def given_prompt(prompt, keywords):
    """The prompt of a call whose keywords may hold an encoding, or a part of it, which is taken out
    of them: model.trace(**tokenizer("Hello")), model.generate(ids, attention_mask=mask)."""
    encoding = {name: keywords.pop(name) for name in ENCODING if name in keywords}
    if prompt is None or not encoding:
        return encoding or prompt
    if "input_ids" in encoding:
        raise TypeError("the prompt is given twice: also as input_ids")
    return {"input_ids": prompt, **encoding}


def is_several(prompt):
    """Whether a prompt, as the wire has it, stands for several."""
    return isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], (str, list))


def prompt_of(prompt):
    """A prompt as the wire has it: a text, a list of ids, or a list of either."""
    if hasattr(prompt, "to_numpy"):     # a column of a table
        prompt = prompt.to_numpy()
    if getattr(getattr(prompt, "dtype", None), "kind", None) in ("O", "U", "T"):    # of texts
        prompt = prompt.tolist()
    if hasattr(prompt, "keys"):     # a dict, or a tokenizer's BatchEncoding
        prompt = _of_encoding(prompt)
    if isinstance(prompt, str):
        return _text(prompt)
    if isinstance(prompt, collections.abc.Sequence):    # run.output, too
        prompt = list(prompt)
    if isinstance(prompt, list) and prompt and all(isinstance(p, str) for p in prompt):
        return [_text(p) for p in prompt]
    if isinstance(prompt, list) and prompt and all(
            isinstance(p, (list, tuple)) or getattr(p, "ndim", 0) == 1 for p in prompt):
        return [_ids(p) for p in prompt]
    if getattr(prompt, "ndim", 1) == 2:
        return [_ids(row) for row in prompt]
    return _ids(prompt)


def _text(text):
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise ValueError(f"a prompt is no text: {e}") from None
    return text


def _ids(row):
    try:
        array = as_array(row)
    except (TypeError, ValueError):
        array = None
    if array is None or array.ndim != 1 or array.dtype.kind not in "iu" and array.size:
        raise TypeError("a prompt is a text, a list of token ids, a list of either, a 1-D or 2-D "
                        f"array of ids, or {{'input_ids': ...}}: not {row!r:.60}")
    return [whole(i, "a token id") for i in array.tolist()]


def _of_encoding(prompt):
    unsupported = set(prompt.keys()) - set(ENCODING)
    if "input_ids" not in prompt.keys() or unsupported:
        raise TypeError("a prompt given as a dict has input_ids and attention_mask: not "
                        f"{', '.join(map(repr, sorted(prompt.keys())))}")
    ids = prompt["input_ids"]
    mask = prompt["attention_mask"] if "attention_mask" in prompt.keys() else None
    if mask is None:
        return ids
    if not _is_nested(ids):
        return _unpadded(ids, mask)
    if not _is_nested(mask) or len(ids) != len(mask):
        raise ValueError("attention_mask and input_ids are of different prompts")
    return [_unpadded(*each) for each in zip(ids, mask)]


def _is_nested(ids):
    return getattr(ids, "ndim", 0) == 2 or isinstance(ids, (list, tuple)) and len(ids) > 0 and (
        isinstance(ids[0], (list, tuple)) or getattr(ids[0], "ndim", 0) == 1)


def _unpadded(ids, mask):
    """The ids that the mask shows: padding is never sent."""
    ids, mask = np.array(_ids(ids), np.int64), as_array(mask)
    if ids.shape != mask.shape:
        raise ValueError(f"attention_mask has the shape {mask.shape}, input_ids {ids.shape}")
    shown = np.flatnonzero(mask)
    if len(shown) and shown[-1] - shown[0] + 1 != len(shown):
        raise ValueError("attention_mask hides tokens between others: only padding at the ends can "
                         "be left out")
    return ids[shown].tolist()
