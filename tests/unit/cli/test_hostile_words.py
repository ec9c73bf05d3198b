"""Whatever is typed, the answer is one sentence with an exit code: no page of usage, no traceback."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from agents.cli.main import VERBS, main
from agents.cli.parser import Parser, name, number, whole

Out = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EO_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.delenv("EO_CLUSTER", raising=False)
    (tmp_path / "random.bin").write_bytes(bytes(range(256)) * 64)
    return tmp_path


def said(capsys: Out, words: list[str]) -> tuple[int, str]:
    code = main(words)
    seen = capsys.readouterr()
    assert seen.err.count("\n") == 1 and "usage:" not in seen.err and "Traceback" not in seen.err, seen.err
    return code, seen.err


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_answers_an_unknown_option_in_one_sentence(capsys: Out, verb: str) -> None:
    code, told = said(capsys, [verb, "--no-such-option", "1"])
    assert code == 2 and told.startswith(f"eo {verb}: ") and f"`eo {verb} --help` has examples" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "eo: name a verb, such as `eo doctor`; `eo --help` lists them."),
        (["cap"], "write one of show, set, clear; "),
        (["cap", "sett", "GPU", "3"], "'sett' is none of show, set, clear, did you mean set?"),
        (["cap", "set", "--yes", "GPU-1", "abc"], "watts: 'abc' is not a number"),
        (["cap", "set", "", "300"], "'' is empty; write a name"),
        (["cap", "set", "GPU-1", "nan"], "nan W is outside 0 to 2000 W"),
        (["cap", "set", "GPU-1", "300", "extra"], "extra is not understood here"),
        (["top", "-1", "-n", "0"], "--rows: '0' is not a whole number from 1 to 1000000"),
        (["top", "--interval-s", "nan"], "--interval-s: 'nan' is not a number from 0.1 to 3600"),
        (["status", "--history-s", "1e30"], "--history-s: '1e30' is not a number from 1 to 3600"),
        (["explain"], "target is missing"),
        (["explain", " "], "is empty; write a name"),
        (["restore", "--node", "", "--yes"], "--node: '' is empty"),
        (["broker", "up", "--timeout", "inf"], "--timeout: 'inf' is not a number from 1 to 3600"),
        (["fleet", "--thin", "0"], "--thin: '0' is not a number above 0 to 1"),
        (["fleet", "--nodes", "9" * 400], "is not a whole number from 1 to 100000"),
        (["worker", "--only", ""], "--only: '' is empty"),
        (["dlq", "list", "-n", "-1"], "--count: '-1' is not a whole number"),
        (["dlq", "replay", "x@y", "--yes"], "'x@y' is no place of a letter"),
        (["webhook", "replay", "abc"], "'abc' is not a whole number"),
        (["webhook", "add", "https://e.example", "--allow-port", "99999"], "is not a whole number from 1 to 65535"),
        (["optimize", "--min-replicas", "1.5"], "'1.5' is not a whole number"),
        (["demo", "--strategy", "nope"], "--strategy 'nope' is none of conservative, balanced, ml-driven, aggressive"),
    ],
)
def test_bad_words_are_told_before_anything_is_asked(capsys: Out, words: list[str], told: str) -> None:
    code, seen = said(capsys, words)
    assert code == 2 and told in seen


def test_options_may_stand_before_the_words_that_they_do_not_belong_to(
    capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP")
    for words in (["cap", "set", "--yes", "GPU-1", "300"], ["cap", "--for", "1h", "set", "GPU-1", "--yes", "300"]):
        code, told = said(capsys, words)
        assert code == 1 and "no broker" in told  # understood: only the broker is missing


def test_files_of_rubbish_are_one_sentence(capsys: Out, nowhere: Path) -> None:
    junk = str(nowhere / "random.bin")
    code, told = said(capsys, ["webhook", "add", "https://e.example", "--secret-file", junk])
    assert code == 1 and "is no text; a secret is whsec_" in told
    code, told = said(capsys, ["gateway", "--host", "999.1.1.1"])
    assert code == 1 and told.endswith("choose another with --host.\n")
    code, told = said(capsys, ["capper", "--config", junk])
    assert code == 2 and "is not TOML" in told


def test_types_of_options() -> None:
    assert (number(0, 5)("5"), whole(1, 9)("9"), name("n")) == (5.0, 9, "n")
    for kind, text in (
        (number(0, 5), "5.1"),
        (number(0, 5, above=True), "0"),
        (whole(1, 9), "1_0"),
        (whole(1, 9), "¹"),
    ):
        with pytest.raises(argparse.ArgumentTypeError):
            kind(text)


def test_a_long_word_is_cut() -> None:
    from agents.cli.base import EoError

    parser = Parser(prog="eo x")
    parser.add_argument("--n", type=int)
    with pytest.raises(EoError) as error:
        parser.read(["--n", "x" * 5000])
    assert len(str(error.value)) < 200
