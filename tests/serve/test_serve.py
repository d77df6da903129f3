"""A real server asked by a real client: answers, batches, and everything that it refuses."""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image

import zoo

pytest.importorskip("fastapi")
pytest.importorskip("multipart")
uvicorn = pytest.importorskip("uvicorn")
pytestmark = pytest.mark.slow

from zoo.serve.app import Limits, build  # noqa: E402
from zoo.serve.batcher import Batcher, Full, Job  # noqa: E402
from zoo.serve.requests import job_of  # noqa: E402


class Running:
    """A server in a thread, at a port of its own."""

    def __init__(self, model, **limits):
        self.app = build(model, Limits(**limits))
        config = uvicorn.Config(self.app, host="127.0.0.1", port=0, log_level="error")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        end = time.monotonic() + 60
        while not self.server.started and time.monotonic() < end:
            time.sleep(0.02)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *error):
        self.server.should_exit = True
        self.thread.join(20)

    def ask(self, method, path, body=None, kind="application/json", headers=()):
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        body = json.dumps(body).encode() if kind == "application/json" and body is not None else body
        line.request(method, path, body, {"content-type": kind, **dict(headers)})
        answer = line.getresponse()
        text = answer.read()
        line.close()
        return answer.status, json.loads(text) if "json" in answer.headers["content-type"] else text.decode()


@pytest.fixture(scope="module")
def running():
    with Running(zoo.load("mdeq_tiny.digits"), body=200_000, wait=0.1) as server:
        yield server


def png(size=8, value=0):
    file = io.BytesIO()
    Image.new("L", (size, size), value).save(file, "PNG")
    return file.getvalue()


def test_numbers_pictures_and_forms_get_the_answer_of_predict(running):
    expected = zoo.predict("mdeq_tiny.digits", torch.zeros(8, 8))
    status, told = running.ask("POST", "/predict", {"input": [[0.0] * 8] * 8})
    assert status == 200 and told["label"] == expected.label and told["converged"] is True
    assert told["probability"] == pytest.approx(expected.probability, abs=1e-3) and 0 < told["residual"] <= 1e-3
    assert running.ask("POST", "/predict", png(), "image/png")[1]["label"] == expected.label
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\nContent-Type: image/png\r\n\r\n'
    form += png() + b"\r\n--x--\r\n"
    assert running.ask("POST", "/predict?top=1", form, "multipart/form-data; boundary=x")[1]["label"] == expected.label
    status, told = running.ask("POST", "/predict", {"input": [[[[0.0] * 8] * 8]] * 3, "top": 2})
    assert status == 200 and len(told["answers"]) == 3 and len(told["answers"][0]["top"]) == 2


def test_a_budget_of_steps_is_kept_and_a_failure_is_told_or_mended(running):
    ask = {"input": [[0.3] * 8] * 8, "max_steps": 1}
    short = running.ask("POST", "/predict", ask)[1]
    assert short["converged"] is False and short["residual"] > 1e-3
    mended = running.ask("POST", "/predict", {**ask, "on_failure": "fallback"})[1]
    assert mended["converged"] is True and mended["solver"].endswith((" 8 steps", " 100 steps"))
    assert running.ask("POST", "/predict", {"input": [[0.3] * 8] * 8})[1]["converged"] is True  # its own solver is back


def test_requests_that_arrive_together_are_one_batch(running):
    before = running.ask("GET", "/health")[1]
    with ThreadPoolExecutor(8) as pool:
        asked = [{"input": [[i / 8] * 8] * 8} for i in range(8)]
        told = list(pool.map(lambda body: running.ask("POST", "/predict", body), asked))
    after = running.ask("GET", "/health")[1]
    assert {status for status, _ in told} == {200} and after["samples"] - before["samples"] == 8
    assert after["batches"] - before["batches"] < 8
    alone = running.ask("POST", "/predict", asked[5])[1]
    assert alone["label"] == told[5][1]["label"]


@pytest.mark.parametrize(
    ("body", "kind", "status", "why"),
    [
        ({"input": "/etc/passwd"}, "application/json", 422, "no path is ever opened"),
        ({"input": ["/etc/passwd"]}, "application/json", 422, "no path is ever opened"),
        ({"inputs": 1}, "application/json", 422, "Did you mean 'input'"),
        ({}, "application/json", 422, "has the field input"),
        ({"input": [[0, "a"]]}, "application/json", 422, "nested lists of numbers"),
        ({"input": [[0, 1], [2]]}, "application/json", 422, "nested lists of numbers"),
        ({"input": [[0.0] * 8] * 8, "max_steps": 10**6}, "application/json", 422, "max_steps must be a whole number"),
        ({"input": [[0.0] * 8] * 8, "max_steps": True}, "application/json", 422, "max_steps must be a whole number"),
        ({"input": [[5.0] * 8] * 8}, "application/json", 422, "Pixels must lie between"),
        ({"input": [[[[0.0] * 8] * 8]] * 65}, "application/json", 422, "at most 64 samples"),
        (b"[1, 2]", "application/json; charset=utf-8", 422, "must be a JSON object"),
        (b"{", "application/json;", 422, "not valid JSON"),
        (b"no picture", "image/png", 422, "cannot be decoded"),
        (b"\x80\x04\x95", "application/octet-stream", 422, "cannot be decoded"),  # a pickle is never read
        (b"x", "text/plain", 415, "Send JSON"),
        (b"0" * 300_000, "image/png", 413, "at most 200,000 bytes"),
    ],
)
def test_what_is_refused_says_why_in_one_sentence(running, body, kind, status, why):
    found, told = running.ask("POST", "/predict", body, kind)
    assert found == status and why in told["error"] and "\n" not in told["error"]
    assert running.ask("GET", "/health")[0] == 200


def test_a_body_that_declares_a_gigabyte_is_refused_before_it_is_read(running):
    assert running.ask("POST", "/predict", b"x", "image/png", [("content-length", str(2**30))])[0] == 413


def test_the_page_and_the_facts_are_there(running):
    status, page = running.ask("GET", "/")
    assert status == 200 and "<canvas" in page and "http://" not in page and "https://" not in page
    about = running.ask("GET", "/about")[1]
    assert about["model"] == "mdeq_tiny.digits" and about["kind"] == "classification" and about["max_steps"] == 18
    assert running.ask("GET", "/nowhere")[0] == 404


def test_prompts_are_texts_alone(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("ROMEO")
    with Running(zoo.load("lstm_small.tiny_shakespeare")) as server:
        status, told = server.ask("POST", "/predict", {"input": "ROMEO", "length": 5})
        assert status == 200 and len(told["text"]) == 5 and told["residual"] is None
        status, told = server.ask("POST", "/predict", {"input": str(secret), "length": 1})
        assert status == 422 or told["prompt"] == str(secret)  # the name, never the content
        assert server.ask("POST", "/predict", {"input": "a" * 20_001})[0] == 422


def test_a_full_queue_is_told_at_once_and_a_stop_fails_what_waits():
    model = zoo.load("mdeq_tiny.digits")
    batcher = Batcher(model, waiting=2)  # not started: nothing is answered
    jobs = [job_of(model, {"input": [[0.0] * 8] * 8}, 10)[0] for _ in range(3)]
    assert isinstance(jobs[0], Job)
    first = batcher.submit(jobs[0])
    batcher.submit(jobs[1])
    with pytest.raises(Full, match="2 requests wait already"):
        batcher.submit(jobs[2])
    batcher.stop()
    with pytest.raises(RuntimeError, match="The server ends"):
        first.result(1)


def test_a_full_server_answers_429_and_a_slow_one_503():
    with Running(zoo.load("mdeq_tiny.digits"), waiting=1, timeout=0.3) as server:
        batcher, ask = server.app.state.batcher, batcher_ask
        gate = threading.Event()
        batcher._answer = lambda jobs: gate.wait(20)
        body = {"input": [[0.0] * 8] * 8}
        with ThreadPoolExecutor(6) as pool:
            found = [s for s, _ in pool.map(lambda _: ask(server, body), range(6))]
        gate.set()
        assert set(found) == {429, 503}


def batcher_ask(server, body):
    return server.ask("POST", "/predict", body)
