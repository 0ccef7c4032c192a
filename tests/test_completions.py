"""/v1/completions by the unmodified openai client, beside Hugging Face's generate: text and
log-probabilities, whole and streamed, what ends it, what is refused."""
import json
import pathlib
import socket
import struct
import time

import numpy as np
import openai
import pytest

import wire
from conftest import IS_SLOW, MODEL
from test_generation import PROMPT, hf_generate, theirs, tokenizer

import torch

PARIS = "The Eiffel Tower is in the city of Paris"


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.host + "/v1", api_key="any", max_retries=0) as client:
        yield client


def complete(client, prompt=PROMPT, **options):
    return client.completions.create(model="demo", prompt=prompt,
                                     **{"temperature": 0, "max_tokens": 12, **options})


def streamed(client, prompt=PROMPT, **options):
    """The chunks, and each choice's text, finish reason and logprobs of all of them together."""
    chunks = list(complete(client, prompt, stream=True, **options))
    texts, reasons, logprobs = {}, {}, {}
    for chunk in chunks:
        for choice in chunk.choices:
            assert choice.index not in reasons or not reasons[choice.index]
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            reasons[choice.index] = choice.finish_reason
            if choice.logprobs:
                for key, values in choice.logprobs.model_dump().items():
                    logprobs.setdefault(choice.index, {}).setdefault(key, []).extend(values)
    return chunks, texts, reasons, logprobs


def text_of(ids):
    return tokenizer().decode([i for i in ids if i != 0])


def test_models(client):
    models = client.models.list()
    assert [m.id for m in models.data] == ["demo"] and models.object == "list"
    assert client.models.retrieve("demo") == models.data[0]
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("lab/gpt2 medium")
    assert refused.value.body["message"] == 'the model "lab/gpt2 medium" is not loaded here; "demo" is'
    assert refused.value.body["code"] == "unknown"


@pytest.mark.parametrize("prompt", [PROMPT, "A dog is a kind of", "Once upon a time"])
def test_greedy_text_is_hugging_face_s(client, prompt):
    ids = hf_generate(prompt, max_new_tokens=12)
    reply = complete(client, prompt)
    assert reply.object == "text_completion" and reply.id.startswith("cmpl-")
    assert reply.model == "demo" and abs(reply.created - time.time()) < 600
    choice, = reply.choices
    assert choice.text == text_of(ids) and choice.index == 0 and choice.logprobs is None
    assert choice.finish_reason == ("stop" if ids[-1] == 0 else "length")
    n = len(tokenizer()(prompt).input_ids)
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens,
            reply.usage.total_tokens) == (n, len(ids), n + len(ids))
    chunks, texts, reasons, _ = streamed(client, prompt)
    assert texts == {0: choice.text} and reasons == {0: choice.finish_reason}
    assert len(chunks) >= 1


def test_prompts_of_every_kind(client):
    ids = tokenizer()(PROMPT).input_ids
    text = complete(client).choices[0].text
    assert complete(client, ids).choices[0].text == text
    for prompts in ([PROMPT, "A dog is a kind of"], [ids, tokenizer()("A dog is a kind of").input_ids]):
        both = complete(client, prompts, n=2)
        assert [c.index for c in both.choices] == [0, 1, 2, 3]
        other = complete(client, "A dog is a kind of").choices[0].text
        assert [c.text for c in both.choices] == [text, text, other, other]
        assert streamed(client, prompts, n=2)[1] == {c.index: c.text for c in both.choices}


def test_sampling_is_seeded(client):
    options = {"temperature": 1.3, "top_p": 0.9, "n": 4, "max_tokens": 10}
    one = [c.text for c in complete(client, seed=7, **options).choices]
    assert [c.text for c in complete(client, seed=7, **options).choices] == one
    assert len(set(one)) > 1
    assert streamed(client, seed=7, **options)[1] == dict(enumerate(one))
    unseeded = {tuple(c.text for c in complete(client, **options).choices) for _ in range(3)}
    assert len(unseeded) == 3
    extra = {"top_k": 1, "min_p": 0.1, "repetition_penalty": 1.3}
    greedy = complete(client, temperature=2, extra_body=extra).choices[0].text
    assert greedy == text_of(hf_generate(max_new_tokens=12, repetition_penalty=1.3))


def expected_logprobs(ids):
    with torch.no_grad():
        return theirs()(torch.tensor([ids])).logits[0].log_softmax(-1).numpy()


def check_logprobs(found, ids, first):
    """Of tokens `first` and on of these ids, as a choice has them."""
    logits = expected_logprobs(ids)
    tokens = [tokenizer().decode([i]) for i in ids[first:]]
    assert found["tokens"] == tokens
    offsets = np.cumsum([0] + [len(t) for t in tokens])[:-1]
    assert found["text_offset"] == offsets.tolist()
    for i, (logprob, top) in enumerate(zip(found["token_logprobs"], found["top_logprobs"])):
        at = first + i
        if at == 0:
            assert logprob is None and top is None
            continue
        assert abs(logprob - logits[at - 1, ids[at]]) < 2e-4
        best = np.argsort(-logits[at - 1])[:3]
        for j in best:
            assert abs(top[tokenizer().decode([j])] - logits[at - 1, j]) < 2e-4
        assert tokens[i] in top and len(top) == 3 + (ids[at] not in best)


@pytest.mark.parametrize("echo", [False, True])
def test_log_probabilities_are_hugging_face_s(client, echo):
    ids = tokenizer()(PROMPT).input_ids
    new = [i for i in hf_generate(max_new_tokens=12) if i != 0]
    choice = complete(client, logprobs=3, echo=echo).choices[0]
    assert choice.text == (PROMPT if echo else "") + tokenizer().decode(new)
    check_logprobs(choice.logprobs.model_dump(), ids + new, 0 if echo else len(ids))
    _, texts, _, logprobs = streamed(client, logprobs=3, echo=echo)
    assert texts[0] == choice.text and logprobs[0] == choice.logprobs.model_dump()


def test_log_probabilities_of_a_prompt_alone(client):
    prompts = [PARIS, "A", "The capital of Germany is"]
    reply = complete(client, prompts, max_tokens=0, echo=True, logprobs=3)
    assert [c.text for c in reply.choices] == prompts
    for choice, prompt in zip(reply.choices, prompts):
        check_logprobs(choice.logprobs.model_dump(), tokenizer()(prompt).input_ids, 0)
        assert choice.finish_reason == "length"
    only = complete(client, PARIS, max_tokens=1, echo=True, logprobs=0).choices[0].logprobs
    assert [len(top) for top in only.top_logprobs[1:]] == [1] * (len(only.tokens) - 1)


def test_ids_that_the_tokenizer_lacks(start_server, tmp_path):
    """A vocabulary that is padded to a round number, here from 256: each id is another token."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(pathlib.Path(MODEL).resolve() / name)
    spelling = [c for c in range(0x144) if 0x20 < c < 0x7F or (c > 0xA0 and c != 0xAD)]
    (tmp_path / "tokenizer.json").write_text(json.dumps({
        "model": {"vocab": {chr(c): i for i, c in enumerate(spelling)}, "merges": []},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}}))
    with start_server("--model", tmp_path) as s:
        status, reply = wire.post_json(s.host, "/v1/completions", {
            "prompt": [300, 65, 301], "max_tokens": 0, "echo": True, "logprobs": 5, "temperature": 0})
        choice = reply["choices"][0]
        assert status == 200 and choice["text"] == "b"
        assert choice["logprobs"]["tokens"] == ["token_id:300", "b", "token_id:301"]
        assert all(len(top) >= 5 for top in choice["logprobs"]["top_logprobs"][1:])
        status, _, text = wire.call(s.host, "POST", "/v1/run", b'{"prompt": [300, 65]}',
                                    {"Content-Type": "application/json", "Accept": "text/plain"})
        assert status == 200 and b"300 65" in text


def test_log_probabilities_of_several_choices(client):
    reply = complete(client, [PROMPT, "A dog is a kind of"], n=3, logprobs=3, temperature=1, seed=3,
                     max_tokens=6)
    for choice in reply.choices:
        prompt = [PROMPT, "A dog is a kind of"][choice.index // 3]
        ids, new = tokenizer()(prompt).input_ids, tokenizer()(choice.text).input_ids
        if [tokenizer().decode([i]) for i in new] == choice.logprobs.tokens:
            check_logprobs(choice.logprobs.model_dump(), ids + new, len(ids))


def test_stop_texts_are_no_part_of_the_text(client):
    whole = complete(client, max_tokens=24, extra_body={"eos_token_id": []}).choices[0].text
    for first, last in [(1, 2), (4, 9), (7, 8), (12, 30)]:
        stop = whole[first:last]
        cut = whole[:whole.index(stop)]
        for stops in (stop, ["never said", stop]):
            options = {"max_tokens": 24, "stop": stops, "extra_body": {"eos_token_id": []}}
            choice = complete(client, **options).choices[0]
            assert (choice.text, choice.finish_reason) == (cut, "stop")
            _, texts, reasons, _ = streamed(client, **options)
            assert (texts, reasons) == ({0: cut}, {0: "stop"})
    choice = complete(client, stop=whole[4:9], logprobs=1, max_tokens=24).choices[0]
    assert "".join(choice.logprobs.tokens).startswith(choice.text)


def test_characters_are_never_cut(client):
    """Tokens that end within a character: chunks are whole characters, together the same text."""
    ids = tokenizer()("naïve café – 東京 🙂").input_ids
    options = {"temperature": 8, "max_tokens": 40, "extra_body": {"eos_token_id": []}}
    n_cut = 0
    for seed in range(4):
        whole = complete(client, ids, seed=seed, logprobs=0, **options).choices[0]
        chunks, texts, _, _ = streamed(client, ids, seed=seed, **options)
        assert texts[0] == whole.text
        n_cut += sum(token.startswith("bytes:") for token in whole.logprobs.tokens)
    assert n_cut > 0


def test_usage_of_a_stream(client):
    chunks, _, _, _ = streamed(client, stream_options={"include_usage": True,
                                                       "include_obfuscation": False})
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0


def test_a_stream_as_it_is_on_the_wire(server):
    body = json.dumps({"model": "demo", "prompt": PROMPT, "max_tokens": 3, "stream": True}).encode()
    status, headers, data = wire.call(server.host, "POST", "/v1/completions", body, {
        "Content-Type": "application/json", "Accept": "text/event-stream"})
    assert status == 200 and headers["Content-Type"].startswith("text/event-stream")
    events = data.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    for event in events[:-2]:
        assert json.loads(event.removeprefix("data: "))["object"] == "text_completion"


REFUSED = [
    ({"model": "other"}, openai.NotFoundError, "unknown", "model",
     'the model "other" is not loaded here; "demo" is'),
    ({"prompt": ""}, openai.UnprocessableEntityError, "value", "prompt", "a prompt is empty"),
    ({"prompt": [[1], [4096]]}, openai.UnprocessableEntityError, "value", "prompt[1]",
     "a token id is 0 to 4095, not 4096"),
    ({"prompt": [1] * 300}, openai.UnprocessableEntityError, "context", "prompt",
     "300 tokens and 16 new ones are 316: this model's context is 256"),
    ({"max_tokens": 0}, openai.UnprocessableEntityError, "value", "max_tokens",
     "max_tokens is 1 to 1024, or 0 with echo"),
    ({"max_tokens": 2000}, openai.APIStatusError, "limit", "max_tokens",
     "max_tokens is at most 1024, not 2000"),
    ({"temperature": -1}, openai.UnprocessableEntityError, "value", "temperature",
     "temperature is 0 to 1e6, not -1"),
    ({"top_p": 2}, openai.UnprocessableEntityError, "value", "top_p",
     "top_p is more than 0 and at most 1, not 2"),
    ({"n": 0}, openai.UnprocessableEntityError, "value", "n", "n is 1 to 256, not 0"),
    ({"logprobs": 21}, openai.UnprocessableEntityError, "value", "logprobs",
     "logprobs is 0 to 20, not 21"),
    ({"best_of": 3}, openai.UnprocessableEntityError, "value", "best_of",
     "best_of is not supported here: leave it out"),
    ({"presence_penalty": 0.5}, openai.UnprocessableEntityError, "value", "presence_penalty",
     "presence_penalty is not supported here: leave it out"),
    ({"frequency_penalty": 0.5}, openai.UnprocessableEntityError, "value", "frequency_penalty",
     "frequency_penalty is not supported here: leave it out"),
    ({"logit_bias": {"5": 1}}, openai.UnprocessableEntityError, "value", "logit_bias",
     "logit_bias is not supported here: leave it out"),
    ({"suffix": "x"}, openai.UnprocessableEntityError, "value", "suffix",
     "suffix is not supported here: leave it out"),
    ({"stream_options": {"include_obfuscation": True}}, openai.UnprocessableEntityError, "value",
     "stream_options.include_obfuscation",
     "stream_options.include_obfuscation is not supported here: leave it out"),
    ({"stream_options": {"include_obfuscations": False}}, openai.BadRequestError, "syntax",
     "stream_options.include_obfuscations",
     'there is no field "include_obfuscations" here: did you mean "include_obfuscation"?'),
    ({"stop": ["a"] * 17}, openai.APIStatusError, "limit", "stop",
     "at most 16 texts end a generation"),
    ({"extra_body": {"logit_biass": 1}}, openai.BadRequestError, "syntax", "logit_biass",
     'there is no field "logit_biass" here: did you mean "logit_bias"?'),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields, kind, code, param, message", REFUSED,
                         ids=[str(row[0])[:30] for row in REFUSED])
def test_what_cannot_be_is_refused(client, fields, kind, code, param, message, stream):
    options = {"model": "demo", "prompt": PROMPT, "stream": stream, **fields}
    with pytest.raises(kind) as refused:
        client.completions.create(**options)
    error = refused.value
    assert (error.code, error.param, error.body["message"]) == (code, param, message)
    assert error.type == "invalid_request_error"


def test_what_asks_for_nothing_is_taken(client):
    text = complete(client).choices[0].text
    assert complete(client, best_of=1, presence_penalty=0, frequency_penalty=0, logit_bias={},
                    suffix=None, user="someone").choices[0].text == text


def test_a_reply_that_takes_long_begins_as_white_space(start_server, client):
    long = {"prompt": [1, 2, 3], "max_tokens": 250, "n": 6, "temperature": 1, "seed": 5,
            "eos_token_id": []}
    with start_server("--heartbeat-seconds", "0") as s:
        with openai.OpenAI(base_url=s.host + "/v1", api_key="any", max_retries=0) as other:
            assert complete(other).choices == complete(client).choices
        def call(document):
            return wire.call(s.host, "POST", "/v1/completions", json.dumps(document).encode(),
                             {"Content-Type": "application/json"})
        status, headers, body = call(long)
        assert status == 200 and headers["Transfer-Encoding"] == "chunked"
        assert body.startswith(b" ") and len(json.loads(body)["choices"]) == 6
        # What is known to be wrong has its status all the same.
        assert call({"prompt": []})[0] == 422


def connect(s, **fields):
    """A connection with a long request on its way."""
    body = json.dumps({"prompt": [1, 2, 3], "max_tokens": 250, "n": 32, "eos_token_id": [],
                       "temperature": 1, **fields}).encode()
    connection = socket.create_connection(("127.0.0.1", s.port), timeout=60)
    connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                       b"application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    return connection


def test_a_client_that_leaves_a_stream_frees_its_job(start_server):
    with start_server("--queue", "1") as s:
        connection = connect(s, stream=True)
        assert b"data: " in connection.recv(1 << 16) + connection.recv(1 << 16)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        assert s.wait_line(r"POST /v1/completions 200", 60 if IS_SLOW else 10), s.log
        assert wire.run(s.host, {"prompt": [1]})[1]["status"] == "done"


def test_a_client_that_waits_no_more_frees_its_job(server):
    connection = connect(server)
    connection.shutdown(socket.SHUT_WR)     # which counts as leaving
    reply = connection.recv(1 << 16).decode()
    connection.close()
    assert reply.startswith("HTTP/1.1 499 ")
    assert '"message": "the request was taken back"' in reply and '"code": "cancelled"' in reply
