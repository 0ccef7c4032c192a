"""The scripts of clients/curl: readable in a terminal, and the same numbers as the Python client's."""
import json
import os
import pathlib
import subprocess

import numpy as np
import pytest

from interpose import LanguageModel

CURL = pathlib.Path(__file__).resolve().parent.parent / "clients/curl"
PROMPT = "The Eiffel Tower is in the city of"


def script(name, host, accept=None):
    environment = {**os.environ, "INTERPOSE_HOST": host}
    environment.pop("ACCEPT", None)
    if accept:
        environment["ACCEPT"] = accept
    return subprocess.run(["sh", str(CURL / f"{name}.sh")], capture_output=True, text=True,
                          timeout=120, env=environment)


def frames(name, server):
    """The frames of the script's answer, and its saved values by name."""
    done = script(name, server.host, "application/json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["frames"]
    return found, {f["name"]: np.array(f["data"], f["dtype"]) for f in found
                   if f["type"] == "tensor"}


@pytest.fixture(scope="module")
def model(server):
    name = json.loads(server.get("/v1/models")[1])["models"][0]["name"]
    return LanguageModel(name, host=server.host)


def test_read(server, model):
    found, values = frames("read", server)
    with model.trace(PROMPT) as tracer:
        hidden = model.transformer.h[-1].output[0][:, -1].save()
    assert found[0]["tokens"] == [[tracer.tokens[0].tolist()]]
    np.testing.assert_array_equal(values["hidden"], hidden.value)


def test_generate(server, model):
    found, values = frames("generate", server)
    with model.generate(PROMPT, max_new_tokens=1) as generator:
        p = model.lm_head.output[0, -1].softmax(-1)
        top, probability = p.argmax().save(), p.max().save()
    assert found[-1]["generated"] == [[[int(generator.output[0][-1])]]]
    assert values["most likely token"] == top.value == generator.output[0][-1]
    assert values["its probability"] == probability.value


def test_complete(server, model):
    done = script("complete", server.host)
    assert done.returncode == 0, done.stderr
    choice, = json.loads(done.stdout)["choices"]
    with model.generate(PROMPT, max_new_tokens=3) as run:
        pass
    new = run.output[0][len(run.tokens[0]):]
    assert choice["text"] == model.tokenizer.decode(new[new != 0])
    assert len(choice["logprobs"]["top_logprobs"][0]) == 2


def test_ablate(server, model):
    _, values = frames("ablate", server)
    with model.trace() as tracer:
        with tracer.invoke(PROMPT):
            normal = model.lm_head.output[0, -1].log_softmax(-1)
        with tracer.invoke(PROMPT):
            model.transformer.h[0].attn.value.output[:, 7] = 0.
            ablated = model.lm_head.output[0, -1].log_softmax(-1)
        expected = {
            "normal top token": normal.argmax().save(),
            "normal log-probability": normal.max().save(),
            "ablated top token": ablated.argmax().save(),
            "ablated log-probability": ablated.max().save(),
            "divergence": (normal.exp() * (normal - ablated)).sum().save(),
        }
    assert values == {name: proxy.value for name, proxy in expected.items()}
    assert values["divergence"] > 0


@pytest.mark.parametrize("name, words", [("read", "hidden"), ("generate", "most likely token"),
                                         ("ablate", "divergence")])
def test_the_answer_is_for_people(server, name, words):
    done = script(name, server.host)
    assert done.returncode == 0 and done.stderr == ""
    assert words in done.stdout and "{" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120


def test_no_server_is_an_error():
    done = script("read", "http://127.0.0.1:1")
    assert done.returncode != 0 and "connect" in done.stderr


def test_a_refusal_is_an_error_that_is_shown(server, tmp_path):
    text = (CURL / "read.sh").read_text().replace("transformer.h.-1", "transformer.h.99")
    (tmp_path / "bad.sh").write_text(text)
    done = subprocess.run(["sh", str(tmp_path / "bad.sh")], capture_output=True, text=True,
                          timeout=120, env={**os.environ, "INTERPOSE_HOST": server.host})
    assert done.returncode != 0
    assert "transformer.h.99.output[0] does not exist: this model has blocks 0 to" in done.stdout
