"""kernels/safetensors.c, shards.c, config.c, gpt2_load.c and find.c: what Hugging Face's GPT-2 folders
may look like, beside HF's own logits, and every malformed one with the sentence that refuses it.
"""

import json
import os
import pathlib
import resource
import shutil
import struct
import subprocess

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

from gpt2_files import TOOL, activations, logits, random_ids, random_model, tool

TINY = dict(n_layer=2, n_head=3, n_embd=12, n_positions=16, vocab_size=19)


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def change_config(folder, **changes):
    """None removes a key."""
    config = {**config_of(folder), **changes}
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))


# ---- Folders that are taken ----

SIZES = [
    TINY,
    dict(n_layer=1, n_head=1, n_embd=5, n_positions=9, vocab_size=7, n_inner=3),
    dict(n_layer=3, n_head=7, n_embd=91, n_positions=40, vocab_size=301, n_inner=130),
    dict(n_layer=2, n_head=2, n_embd=128, n_positions=130, vocab_size=512),
]


def check_logits(folder, hf):
    ids = random_ids(hf, hf.config.n_positions)
    with torch.no_grad():
        theirs = hf(ids[None]).logits[0].numpy()
    ours = logits(folder, ids)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-4


def loaded_by_hf(folder):
    return transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"D{sizes['n_embd']}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_what_hf_saves(tmp_path, sizes, dtype, tied):
    random_model(seed=1, tie_word_embeddings=tied, **sizes).to(dtype).save_pretrained(tmp_path)
    check_logits(tmp_path, loaded_by_hf(tmp_path))


def test_shards(tmp_path):
    random_model(seed=2, **TINY).save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    check_logits(tmp_path, loaded_by_hf(tmp_path))


def tensors_of(hf):
    return {name: tensor.clone() for name, tensor in hf.transformer.state_dict().items()}


def save(folder, hf, tensors):
    hf.config.save_pretrained(folder)
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_names_without_a_prefix(tmp_path):
    hf = random_model(seed=3, **TINY)
    save(tmp_path, hf, tensors_of(hf))
    check_logits(tmp_path, hf)


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_the_buffers_of_older_files_are_ignored(tmp_path, prefix):
    hf = random_model(seed=4, **TINY)
    tensors = {prefix + name: tensor for name, tensor in tensors_of(hf).items()}
    for i, dtype in enumerate([torch.bool, torch.uint8]):
        tensors[f"{prefix}h.{i}.attn.bias"] = torch.ones(1, 1, 16, 16, dtype=dtype)
        tensors[f"{prefix}h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    save(tmp_path, hf, tensors)
    check_logits(tmp_path, hf)


def test_tensors_of_several_dtypes_in_one_file(tmp_path):
    hf = random_model(seed=5, **TINY)
    dtypes = [torch.float32, torch.float16, torch.bfloat16]
    tensors = {
        name: tensor.to(dtypes[i % 3]) for i, (name, tensor) in enumerate(tensors_of(hf).items())
    }
    save(tmp_path, hf, tensors)
    hf.transformer.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    check_logits(tmp_path, hf)


def test_every_half_precision_number_is_widened_exactly(tmp_path):
    """Token ids read rows of wte, which come back as the activation of `embed`."""
    hf = random_model(seed=6, **{**TINY, "n_embd": 32, "n_head": 1, "vocab_size": 2048})
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        numbers = bits.view(dtype)
        numbers = torch.where(numbers.isfinite(), numbers, 0).reshape(2048, 32)
        save(tmp_path, hf, {**tensors_of(hf), "wte.weight": numbers})
        for first in range(0, 2048, 16):
            ids = torch.arange(first, first + 16)
            found = activations("sites", tmp_path, ids, [16])[0]["embed", 0]
            assert found.tobytes() == numbers[ids].float().numpy().tobytes()


def test_a_head_of_its_own_is_used_where_there_is_one(tmp_path):
    hf = random_model(seed=7, **TINY)
    other = random_model(seed=8, tie_word_embeddings=False, **TINY)
    other.transformer.load_state_dict(hf.transformer.state_dict())
    save(tmp_path, hf, {**tensors_of(hf), "lm_head.weight": other.lm_head.weight.detach().clone()})
    check_logits(tmp_path, other)


def test_an_older_config(tmp_path):
    """As of 2019: n_ctx alone, no n_inner, no model_type, none of the later switches."""
    hf = random_model(seed=9, **TINY)
    save(tmp_path, hf, tensors_of(hf))
    kept = ("n_layer", "n_head", "n_embd", "vocab_size", "layer_norm_epsilon")
    config = {key: config_of(tmp_path)[key] for key in kept}
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_ctx": 16}))
    check_logits(tmp_path, hf)


def test_another_epsilon(tmp_path):
    random_model(seed=10, layer_norm_epsilon=0.05, **TINY).save_pretrained(tmp_path)
    check_logits(tmp_path, loaded_by_hf(tmp_path))


def test_links_to_files(tmp_path):
    hf = random_model(seed=11, **TINY)
    (tmp_path / "blobs").mkdir()
    hf.save_pretrained(tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "snapshot" / name).symlink_to(f"../blobs/{name}")
    check_logits(tmp_path / "snapshot", hf)


def test_loading_takes_little_more_memory_than_the_weights(tmp_path):
    sizes = dict(n_layer=2, n_head=8, n_embd=512, n_positions=64, vocab_size=30000)
    random_model(seed=12, **sizes).save_pretrained(tmp_path)
    done = tool("load", tmp_path)
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout) << 10
    embedding = 30000 * 512 * 4
    weights = (tmp_path / "model.safetensors").stat().st_size + embedding  # packed as the head
    assert peak <= weights + embedding + (32 << 20), peak


# ---- Folders that are refused ----


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    random_model(seed=0, **TINY).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tiny, tmp_path):
    return pathlib.Path(shutil.copytree(tiny, tmp_path / "model"))


def bounded():
    """What a file claims is not believed: a machine with little memory refuses it just as well."""
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))


def is_expected(text, sentence):
    """What jansson says about JSON differs from version to version: only ours is compared."""
    return text.startswith(sentence) if sentence.endswith(NOT_JSON) else text == sentence


NOT_JSON = "not valid JSON at byte"


def refusal(folder):
    """The one line, without the folder's path."""
    done = subprocess.run(
        [TOOL, "load", folder], capture_output=True, timeout=60, preexec_fn=bounded
    )
    assert done.returncode == 1, done
    assert done.stdout == b""
    text = done.stderr.decode()
    assert text.endswith("\n") and text.count("\n") == 1, text
    return text[:-1].replace(f"{folder}/", "").replace(f"{folder}", "FOLDER")


CONFIGS = [  # what changes (None: the key goes), the sentence
    (dict(n_layer=-1), "n_layer is -1, it must be from 1 to 1000"),
    (dict(n_layer=0), "n_layer is 0, it must be from 1 to 1000"),
    (dict(n_layer=10**9), "n_layer is 1000000000, it must be from 1 to 1000"),
    (dict(n_layer=2.0), "n_layer must be a whole number from 1 to 1000"),
    (dict(n_layer="2"), "n_layer must be a whole number from 1 to 1000"),
    (dict(n_layer=True), "n_layer must be a whole number from 1 to 1000"),
    (dict(n_layer=None), "n_layer is missing"),
    (dict(n_head=5), "n_embd is 12, not a multiple of n_head, 5"),
    (dict(n_head=0), "n_head is 0, it must be from 1 to 65536"),
    (dict(n_head=None), "n_head is missing"),
    (dict(n_embd=0), "n_embd is 0, it must be from 1 to 65536"),
    (dict(n_embd=2**31), "n_embd is 2147483648, it must be from 1 to 65536"),
    (dict(n_embd=None), "n_embd is missing"),
    (dict(vocab_size=0), "vocab_size is 0, it must be from 1 to 1048560"),
    (dict(vocab_size=None), "vocab_size is missing"),
    (dict(n_positions=0), "n_positions is 0, it must be from 1 to 1048576"),
    (dict(n_positions=None), "n_positions is missing"),
    (dict(n_positions=None, n_ctx=-5), "n_ctx is -5, it must be from 1 to 1048576"),
    (dict(n_inner=0), "n_inner is 0, it must be from 1 to 262144"),
    (dict(n_inner="wide"), "n_inner must be a whole number from 1 to 262144"),
    (dict(layer_norm_epsilon=0), "layer_norm_epsilon is 0, it must be above 0 and at most 1"),
    (dict(layer_norm_epsilon=-1e-5), "layer_norm_epsilon is -1e-05, it must be above 0 and at most 1"),
    (dict(layer_norm_epsilon=1e-60), "layer_norm_epsilon is 1e-60, it must be above 0 and at most 1"),
    (dict(layer_norm_epsilon=7), "layer_norm_epsilon is 7, it must be above 0 and at most 1"),
    (dict(layer_norm_epsilon="1e-5"), "layer_norm_epsilon must be a number"),
    (dict(eos_token_id="</s>"), "eos_token_id must be a token id or a list of them"),
    (dict(eos_token_id=[0, 1.5]), "eos_token_id must be a token id or a list of them"),
    (dict(eos_token_id=list(range(9))), "eos_token_id has 9 tokens, it may have 8"),
    (dict(model_type="llama"), 'model_type is "llama", only "gpt2" is supported'),
    (dict(model_type=2), 'model_type must be "gpt2"'),
    (dict(model_type="a\nb"), 'model_type is "a?b", only "gpt2" is supported'),
    (dict(activation_function="gelu"), 'activation_function is "gelu", only "gelu_new" is supported'),
    (dict(activation_function="relu"), 'activation_function is "relu", only "gelu_new" is supported'),
    (dict(scale_attn_weights=False),
     "scale_attn_weights is false: this variant of GPT-2 is not supported"),
    (dict(scale_attn_by_inverse_layer_idx=True),
     "scale_attn_by_inverse_layer_idx is true: this variant of GPT-2 is not supported"),
    (dict(reorder_and_upcast_attn=True),
     "reorder_and_upcast_attn is true: this variant of GPT-2 is not supported"),
    (dict(add_cross_attention=True),
     "add_cross_attention is true: this variant of GPT-2 is not supported"),
    (dict(add_cross_attention="no"), "add_cross_attention must be true or false"),
    (dict(tie_word_embeddings=1), "tie_word_embeddings must be true or false"),
    (dict(pruned_heads={"0": [1]}), "pruned_heads is set: this variant of GPT-2 is not supported"),
    (dict(quantization_config={"bits": 4}),
     "quantization_config is set: this variant of GPT-2 is not supported"),
]


@pytest.mark.parametrize("changes,sentence", CONFIGS, ids=lambda value: str(value)[:40])
def test_a_config_is_refused(folder, changes, sentence):
    change_config(folder, **changes)
    assert is_expected(refusal(folder), f"config.json: {sentence}")


CONFIG_TEXTS = [
    (b"", NOT_JSON),
    (b"[]", "must be a JSON object"),
    (b'{"n_layer": 1, "n_layer": 2}', NOT_JSON),
    (b'{"n_layer": 1e999}', NOT_JSON),
    (b'{"n_layer": NaN}', NOT_JSON),
    (b'{"a": "\xff"}', NOT_JSON),
    (b'{"a\\u0000b": 1}', NOT_JSON),
    (b'{"a": 1} x', NOT_JSON),
    (b'{"a":' * 9, "containers are nested more than 8 deep"),
    (b"[" * 10**6, "containers are nested more than 8 deep"),
    (b'{"a": [' + b"{}," * 10**5 + b"1]}", "has more than 200000 values"),
]


@pytest.mark.parametrize("text,sentence", CONFIG_TEXTS, ids=lambda value: str(value)[:40])
def test_a_config_s_text_is_refused(folder, text, sentence):
    (folder / "config.json").write_bytes(text)
    assert is_expected(refusal(folder), f"config.json: {sentence}")


def test_a_config_of_another_model_is_refused(folder):
    change_config(folder, n_layer=1)
    assert refusal(folder) == (
        "model.safetensors: has transformer.h.1.ln_1.weight, but config.json says that n_layer is 1"
    )
    change_config(folder, n_layer=3)
    assert refusal(folder) == "model.safetensors: has no tensor transformer.h.2.ln_1.weight"
    change_config(folder, n_layer=2, n_embd=24)
    assert refusal(folder) == (
        "model.safetensors: transformer.h.0.ln_1.weight has shape (12,), but config.json asks for "
        "(24,)"
    )
    change_config(folder, n_embd=12, n_inner=50)
    assert refusal(folder) == (
        "model.safetensors: transformer.h.0.mlp.c_fc.weight has shape (12, 48), but config.json "
        "asks for (12, 50)"
    )
    change_config(folder, n_inner=None, vocab_size=20)
    assert refusal(folder) == (
        "model.safetensors: transformer.wte.weight has shape (19, 12), but config.json asks for "
        "(20, 12)"
    )
    change_config(folder, vocab_size=19, n_positions=2**20)
    assert refusal(folder) == (
        "model.safetensors: transformer.wpe.weight has shape (16, 12), but config.json asks for "
        "(1048576, 12)"
    )
    change_config(folder, n_positions=16, tie_word_embeddings=False)
    assert refusal(folder) == (
        "model.safetensors: has no tensor lm_head.weight, and config.json says that "
        "tie_word_embeddings is false"
    )


def read(path):
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def write(path, header, data, size=None):
    if not isinstance(header, bytes):
        header = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header) if size is None else size) + header + data)


NAME = "transformer.h.0.ln_1.bias"
DATA = 16848  # bytes of the tiny model's tensors


def entry(**changes):
    """Changes the header's entry of one tensor; None removes a field."""

    def change(header, data):
        header[NAME] = {**header[NAME], **changes}
        header[NAME] = {key: value for key, value in header[NAME].items() if value is not None}
        return header, data

    return change


def header_of(text):
    return lambda header, data: (text, data)


def twice(header, data):
    text = json.dumps(header)
    return (text[:-1] + f', "{NAME}": ' + json.dumps(header[NAME]) + "}").encode(), data


def added(name, **fields):
    def change(header, data):
        return {**header, name: fields}, data + b"\0" * max(0, fields["data_offsets"][1] - DATA)

    return change


def swapped(name, number, dtype="<f4"):
    """Overwrites element 1 of a tensor."""

    def change(header, data):
        begin = header[name]["data_offsets"][0] + np.dtype(dtype).itemsize
        raw = np.array([number], dtype).tobytes()
        return header, data[:begin] + raw + data[begin + len(raw) :]

    return change


def widened(header, data):
    """One tensor as F64 behind the others."""
    begin, end = header[NAME]["data_offsets"]
    for other in header.values():
        if "data_offsets" in other and other["data_offsets"][0] > begin:
            other["data_offsets"] = [at - 48 for at in other["data_offsets"]]
    data = data[:begin] + data[end:]
    header[NAME] = {"dtype": "F64", "shape": [12], "data_offsets": [len(data), len(data) + 96]}
    return header, data + b"\0" * 96


def reshaped(*shape):
    return entry(shape=list(shape))


WEIGHTS = [  # how the file changes, the sentence
    (header_of(b""), NOT_JSON),
    (header_of(b"[]"), "must be a JSON object"),
    (header_of(b"{}"), "its tensors take 0 bytes, the file has 16848 for them"),
    (header_of(b'{"a": "\xfe"}'), NOT_JSON),
    (header_of(b'{"\xc3": 1}'), NOT_JSON),
    (header_of(b"{" * 9), "containers are nested more than 8 deep"),
    (header_of(b'{"a":' * 9), "containers are nested more than 8 deep"),
    (header_of(b'{"a":7}'), "the entry of a is not an object"),
    (header_of(b'{"a\\nb":7}'), "the entry of a?b is not an object"),
    (twice, NOT_JSON),
    (entry(dtype=None), f"{NAME} has no dtype"),
    (entry(dtype=4), f"{NAME} has no dtype"),
    (entry(dtype="F33"), f"{NAME} has the unknown dtype F33"),
    (entry(dtype="F16"), f"{NAME} is F16 of shape (12,), which does not take its 48 bytes"),
    (entry(dtype="I32"), f"{NAME} has dtype I32, only F32, F16 and BF16 are supported"),
    (widened, f"{NAME} has dtype F64, only F32, F16 and BF16 are supported"),
    (entry(shape=None), f"{NAME} has no shape"),
    (entry(shape=12), f"{NAME} has no shape"),
    (reshaped(-12), f"{NAME}: shape[0] is not a whole number"),
    (reshaped(12.0), f"{NAME}: shape[0] is not a whole number"),
    (reshaped(13), f"{NAME} is F32 of shape (13,), which does not take its 48 bytes"),
    (reshaped(*[1] * 8, 12), f"{NAME} has 9 dimensions, at most 8 are supported"),
    (reshaped(2**62, 2**62), f"the shape of {NAME} has too many elements"),
    (reshaped(2**62, 3), f"the shape of {NAME} has too many elements"),
    (reshaped(2**62, 1), f"{NAME} is F32 of shape (4611686018427387904, 1), which does not take its 48 bytes"),
    (reshaped(1, 12), f"{NAME} has shape (1, 12), but config.json asks for (12,)"),
    (reshaped(3, 4), f"{NAME} has shape (3, 4), but config.json asks for (12,)"),
    (reshaped(2**64), NOT_JSON),
    (entry(data_offsets=None), f"data_offsets of {NAME} are not two whole numbers"),
    (entry(data_offsets=[0]), f"data_offsets of {NAME} are not two whole numbers"),
    (entry(data_offsets=[0, 48, 96]), f"data_offsets of {NAME} are not two whole numbers"),
    (entry(data_offsets=["0", "48"]), f"data_offsets of {NAME} are not two whole numbers"),
    (entry(data_offsets=[-48, 0]),
     f"data_offsets of {NAME} are -48 and 0, the file has {DATA} bytes of data"),
    (entry(data_offsets=[48, 0]),
     f"data_offsets of {NAME} are 48 and 0, the file has {DATA} bytes of data"),
    (entry(data_offsets=[2**63 - 49, 2**63 - 1]),
     f"data_offsets of {NAME} are 9223372036854775759 and 9223372036854775807, the file has "
     f"{DATA} bytes of data"),
    (entry(data_offsets=[DATA, DATA + 48]),
     f"data_offsets of {NAME} are {DATA} and {DATA + 48}, the file has {DATA} bytes of data"),
    (entry(data_offsets=[4, 52]), f"{NAME} begins at byte 4, the tensor before ends at 144"),
    (added("hole", dtype="U8", shape=[1], data_offsets=[DATA + 1, DATA + 2]),
     f"hole begins at byte {DATA + 1}, the tensor before ends at {DATA}"),
    (added("overlap", dtype="U8", shape=[1], data_offsets=[DATA - 1, DATA]),
     f"overlap begins at byte {DATA - 1}, the tensor before ends at {DATA}"),
    (lambda header, data: (header, data + b"\0"),
     f"its tensors take {DATA} bytes, the file has {DATA + 1} for them"),
    (lambda header, data: (header, data[:-1]),
     f"data_offsets of transformer.wte.weight are 15936 and {DATA}, the file has {DATA - 1} bytes of "
     "data"),
    (added("wte.weight", dtype="F32", shape=[0], data_offsets=[DATA, DATA]),
     "has both wte.weight and transformer.wte.weight"),
    (swapped(NAME, np.nan), f"element 1 of {NAME} is not a number: the weights are damaged"),
    (swapped("transformer.wte.weight", np.inf),
     "element 1 of transformer.wte.weight is infinite: the weights are damaged"),
]


@pytest.mark.parametrize("change,sentence", WEIGHTS, ids=lambda value: str(value)[:48])
def test_weights_are_refused(folder, change, sentence):
    path = folder / "model.safetensors"
    write(path, *change(*read(path)))
    assert is_expected(refusal(folder), f"model.safetensors: {sentence}")


@pytest.mark.parametrize("name", ["wte.weight", "wpe.weight", "ln_f.bias", "h.1.mlp.c_proj.weight"])
def test_a_missing_tensor_is_named(folder, name):
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    del tensors[f"transformer.{name}"]
    safetensors.torch.save_file(tensors, path)
    full = name if name == "wte.weight" else f"transformer.{name}"
    assert refusal(folder) == f"model.safetensors: has no tensor {full}"


SIZES_CLAIMED = [0, 7, 10**6, 100 << 20, 2**63, 2**64 - 1]


@pytest.mark.parametrize("size", SIZES_CLAIMED)
def test_a_header_s_size_is_refused(folder, size):
    path = folder / "model.safetensors"
    header, data = read(path)
    text = json.dumps(header).encode()
    write(path, text, data, size=size)
    if size < len(text):
        sentence = NOT_JSON
    else:
        sentence = f"its header claims {size} bytes, the file has {len(text) + len(data)} after it"
    assert is_expected(refusal(folder), f"model.safetensors: {sentence}")


@pytest.mark.parametrize("size", [0, 1, 7])
def test_a_file_too_short_for_a_header_is_refused(folder, size):
    (folder / "model.safetensors").write_bytes(b"\1" * size)
    assert refusal(folder) == f"model.safetensors: has {size} bytes, too few for a header"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("kind", ["fifo", "folder", "/dev/zero", "/dev/null"])
def test_what_is_no_file_is_refused(folder, name, kind):
    path = folder / name
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(kind)
    assert refusal(folder) == f"{name}: is not a regular file"


def test_a_file_that_may_not_be_read_is_refused(folder):
    if os.geteuid() == 0:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors").symlink_to("model.safetensors.gone")
        expected = "FOLDER: has neither model.safetensors nor its index"
    else:
        (folder / "model.safetensors").chmod(0)
        expected = "model.safetensors: Permission denied"
    assert refusal(folder) == expected


def test_a_pickle_alone_is_refused_with_the_way_out(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert refusal(folder) == (
        "FOLDER: has only a pytorch_model.bin, a pickle, which could run code: with transformers, "
        "GPT2LMHeadModel.from_pretrained(folder).save_pretrained(folder) writes model.safetensors "
        "beside it"
    )


def test_a_folder_without_weights_or_config_is_refused(folder):
    (folder / "model.safetensors").unlink()
    assert refusal(folder) == "FOLDER: has neither model.safetensors nor its index"
    (folder / "config.json").unlink()
    assert refusal(folder) == "config.json: No such file or directory"


# ---- The index of shards ----


@pytest.fixture
def sharded(tmp_path):
    folder = tmp_path / "model"
    random_model(seed=0, **TINY).save_pretrained(folder, max_shard_size="8KB")
    return folder


def change_map(folder, **changes):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"].update(changes)
    path.write_text(json.dumps(index))


INDEX = "model.safetensors.index.json"
OUTSIDE = ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "..", ".", "", "a\nb"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_index_stays_in_its_folder(sharded, name):
    change_map(sharded, more=name)
    shown = name.replace("\n", "?")
    assert refusal(sharded) == (
        f'{INDEX}: weight_map names "{shown}", which is not a file of this folder'
    )


def test_an_index_is_held_to_its_shards(sharded):
    shards = sorted(path.name for path in sharded.glob("model-*.safetensors"))
    original = (sharded / INDEX).read_text()
    change_map(sharded, more=shards[0])
    assert refusal(sharded) == f"{shards[0]}: has no tensor more, but the index says so"
    (sharded / INDEX).write_text(original)
    change_map(sharded, more="gone.safetensors")
    assert refusal(sharded) == "gone.safetensors: No such file or directory"
    (sharded / INDEX).write_text(original)
    change_map(sharded, more=3)
    assert refusal(sharded) == f"{INDEX}: weight_map does not say which file has more"
    (sharded / INDEX).write_text("{}")
    assert refusal(sharded) == f"{INDEX}: has no weight_map"
    (sharded / INDEX).write_text('{"weight_map": {}}')
    assert refusal(sharded) == f"{INDEX}: has no tensor wte.weight"
    (sharded / INDEX).write_text(original)
    shutil.copy(sharded / shards[0], sharded / "copy.safetensors")
    name = next(name for name in read(sharded / shards[0])[0] if name != "__metadata__")
    change_map(sharded, **{name: "copy.safetensors"})
    first, second = "copy.safetensors", shards[0]
    assert refusal(sharded) in [
        f"{one}: has {any_name}, and so has {other}"
        for one, other in ((first, second), (second, first))
        for any_name in read(sharded / shards[0])[0]
    ]


# ---- Names of models ----

HASH = "607a30d783dfa663caf39e06633721c8d4cfcd7e"


def cached(cache, repo, reference=HASH):
    base = cache / ("models--" + repo.replace("/", "--"))
    (base / "snapshots" / HASH).mkdir(parents=True)
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text(reference)
    return base / "snapshots" / HASH


def find(name, **environment):
    unset = dict.fromkeys(("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"), "")
    done = tool("find", name, **{**unset, **environment})
    return (done.stdout or done.stderr).decode().rstrip("\n")


@pytest.mark.parametrize(
    "variable,below",
    [("HF_HUB_CACHE", ""), ("HF_HOME", "hub"), ("XDG_CACHE_HOME", "huggingface/hub"),
     ("HOME", ".cache/huggingface/hub")],
)
def test_a_model_is_found_in_the_cache(tmp_path, variable, below):
    folder = cached(tmp_path / below, "someone/my.gpt2_v1")
    assert find("someone/my.gpt2_v1", **{variable: str(tmp_path)}) == str(folder)


def test_the_first_variable_that_is_set_counts(tmp_path):
    cached(tmp_path / "hub", "gpt2")
    (tmp_path / "empty").mkdir()
    assert find("gpt2", HF_HUB_CACHE=str(tmp_path / "empty"), HF_HOME=str(tmp_path)) == (
        f'gpt2 is neither a folder nor in the cache {tmp_path}/empty: try "hf download '
        'openai-community/gpt2"'
    )


@pytest.mark.parametrize(
    "name,repo",
    [("gpt2", "gpt2"), ("gpt2", "openai-community/gpt2"), ("gpt2-xl", "openai-community/gpt2-xl"),
     ("gpt2-medium", "openai-community/gpt2-medium"), ("gpt2-large", "openai-community/gpt2-large"),
     ("distilgpt2", "distilbert/distilgpt2"), ("distilgpt2", "distilgpt2")],
)
def test_bare_names_have_owners_today(tmp_path, name, repo):
    folder = cached(tmp_path, repo, HASH + "\n")
    assert find(name, HF_HUB_CACHE=str(tmp_path)) == str(folder)


def test_a_folder_goes_before_the_cache(tmp_path, monkeypatch):
    cached(tmp_path, "gpt2")
    (tmp_path / "gpt2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find("gpt2", HF_HUB_CACHE=str(tmp_path)) == "gpt2"


@pytest.mark.parametrize("reference", ["", "../../..", "main", HASH[:-1], HASH + "/x", "\0", "a b"])
def test_a_damaged_reference_finds_nothing(tmp_path, reference):
    cached(tmp_path, "me/model", reference)
    assert find("me/model", HF_HUB_CACHE=str(tmp_path)) == (
        f'me/model is neither a folder nor in the cache {tmp_path}: try "hf download me/model"'
    )


ODD = ["../gpt2", "/nowhere/gpt2", "./gpt2", "a/b/c", "a//b", "/gpt2", "gpt2/", "a--b", "a..b", "-a",
       "a.", "gpt2\n", "gpt2;rm", "g\u00fcnther/gpt2", "~/gpt2", "", "x" * 97, "$(gpt2)"]


@pytest.mark.parametrize("name", ODD)
def test_an_odd_name_is_refused(tmp_path, name):
    cached(tmp_path, "gpt2")
    shown = "".join(c if " " <= c <= "~" else "?" * len(c.encode()) for c in name[:96])
    assert find(name, HF_HUB_CACHE=str(tmp_path), HOME=str(tmp_path)) == (
        f'there is no folder "{shown}": a model is a folder, or a name as on Hugging Face such as '
        "openai-community/gpt2"
    )
