"""Where `eo read` asks and how long it waits: the path of a URL, the usual path where it has none, --timeout."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agents.cli.base import DONE, FAILED, USAGE
from agents.cli.main import main
from agents.node.sources import fetch
from agents.node.sources.engines.source import EngineSource
from tests.unit.node.text_server import drip, ok, serving

VLLM = b'vllm:num_requests_running{model_name="m"} 3\n'
DCGM = b'DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-1"} 200\n'


@pytest.mark.parametrize(
    ("source", "text", "given", "asked"),
    [
        ("vllm", VLLM, "", "/metrics"),
        ("vllm", VLLM, "/metrics", "/metrics"),
        ("vllm", VLLM, "/foo/metrics", "/foo/metrics"),
        ("vllm", VLLM, "/", "/"),
        ("vllm", VLLM, "/foo/metrics?model=a", "/foo/metrics?model=a"),
        ("tensorrt-llm", b'trtllm_num_requests_running{model_name="m"} 3\n', "", "/prometheus/metrics"),
        ("dcgm", DCGM, "", "/metrics"),
        ("dcgm", DCGM, "/gpu-node/metrics", "/gpu-node/metrics"),
    ],
)
def test_the_path_of_a_url_is_asked(
    source: str, text: bytes, given: str, asked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving() as server:
        server.answers[asked] = ok(text)
        assert main(["read", source, "--url", server.url + given, "--json"]) == DONE
        record = json.loads(capsys.readouterr().out)
        assert record["gpus" if source == "dcgm" else "engines"]
        assert {head.split(b" ")[1].decode() for head in server.requests} == {asked}


@pytest.mark.parametrize(("arguments", "seconds"), [([], 5.0), (["--timeout", "42"], 42.0)])
def test_a_person_waits_longer_than_the_agent(
    arguments: list[str], seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def get(url: str, *, deadline_s: float, **_: Any) -> fetch.Text:
        waits.append(deadline_s)
        return fetch.Text(VLLM, url, 0.0)

    monkeypatch.setitem(EngineSource.__init__.__kwdefaults__ or {}, "get", get)
    assert main(["read", "vllm", "--url", "http://127.0.0.1:1/metrics", *arguments]) == DONE
    assert set(waits) == {seconds}


def test_the_engines_of_the_settings_are_waited_for_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving() as server:
        server.answers["/metrics"] = lambda link: drip(link, server.stop)
        monkeypatch.setenv("EO_NODE_ENGINE", f"vllm {server.url}/metrics name=chat-0")
        assert main(["read", "engines", "--timeout", "0.3"]) == FAILED
    assert "did not answer in full within 0.3 s" in capsys.readouterr().err


def test_what_is_longer_than_the_wait_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as server:
        server.answers["/metrics"] = lambda link: drip(link, server.stop)
        assert main(["read", "vllm", "--url", server.url, "--timeout", "0.2"]) == FAILED
    assert "did not answer in full within 0.2 s; is it overloaded or behind a firewall?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["vllm", "--timeout", "0"], "--timeout 0 is out of bounds; give 0.1 to 300 seconds"),
        (["vllm", "--timeout", "nan"], "--timeout nan is out of bounds; give 0.1 to 300 seconds"),
        (["procfs", "--timeout", "3"], "source procfs has no wait to be set; leave --timeout out"),
    ],
)
def test_waits_that_cannot_be(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", *arguments]) == USAGE
    assert text in capsys.readouterr().err
