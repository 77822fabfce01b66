"""`platform generate`: prompts from anywhere, JSON lines out, traces."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from opendllm.core import load
from opendllm.core.cli.main import main
from opendllm.core.cli.output_files import Lines, new_file
from opendllm.core.progress.views import shown_progress
from opendllm.registries.backbones import Vocabulary
from opendllm.registries.discovery import installed_plugins

from .conftest import save_letter_tokenizer

LETTERS = "abcdefgh \n"
Own = dict[str, object]
Here = Callable[..., tuple[Any, str, str]]
QUIET = ["--progress", "none"]
OPTIONS = ["-o", "max_new_tokens=5", "-o", "temperature=1"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaDA of one-letter tokens."""
    folder = tmp_path_factory.mktemp("checkpoint")
    save_letter_tokenizer(folder, LETTERS)
    torch.manual_seed(0)
    lm = installed_plugins().backbones.get("llada").build().build(Vocabulary(12, 11, 10))
    lm.save(folder, lm.module.state_dict())
    return folder


@pytest.fixture
def generate(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """(arguments, standard input) -> exit code, output, errors."""

    def run(*arguments: object, stdin: str | bytes = "") -> tuple[int, str, str]:
        piped = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(piped), encoding="utf-8"))
        monkeypatch.setattr(
            "sys.argv",
            ["platform", "generate", "--checkpoint", str(checkpoint), *QUIET, *map(str, arguments), *OPTIONS],
        )
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def expected(checkpoint: Path, prompts: list[str]) -> list[str]:
    return load(checkpoint, device="cpu").generate(prompts, max_new_tokens=5, temperature=1)


def test_prompts_from_arguments_and_standard_input(
    generate: Callable[..., tuple[int, str, str]], checkpoint: Path
) -> None:
    texts = expected(checkpoint, ["abc", "a b"])
    code, output, _ = generate("--prompt", "abc", "--prompt", "a b")
    assert (code, output) == (0, "".join(text + "\n" for text in texts))
    code, output, _ = generate(stdin="abc")
    assert (code, output) == (0, texts[0] + "\n")


def test_json_lines_in_and_out(
    generate: Callable[..., tuple[int, str, str]], checkpoint: Path, tmp_path: Path
) -> None:
    lines = [{"prompt": "abc", "task": 7}, {"prompt": "ab", "suffix": "cd"}, {"prompt": "a b"}]
    given = tmp_path / "prompts.jsonl"
    given.write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    code, output, _ = generate("--input", given)
    assert code == 0
    found = [json.loads(line) for line in output.splitlines()]
    assert [line["prompt"] for line in found] == ["abc", "ab", "a b"]
    assert found[0]["task"] == 7
    assert found[0]["text"] == expected(checkpoint, ["abc"])[0]
    assert found[1]["suffix"] == "cd"
    assert all(1 <= line["forward_passes"] <= 5 and 0 <= line["tokens"] <= 5 for line in found)
    piped = generate("--input", "-", stdin=given.read_text())
    assert piped[1] == output
    for batch_size in (1, 16):
        target = tmp_path / f"out-{batch_size}.jsonl"
        code, nothing, _ = generate("--input", given, "--output", target, "--batch-size", batch_size)
        assert (code, nothing) == (0, "")
        assert target.read_text() == output


def test_what_is_answered_when_it_is_terminated_is_kept(
    generate: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a file left behind in which nothing was written."""
    add, ignored = Lines.add, []

    def add_and_terminate(self: Lines, index: int, line: str) -> None:
        add(self, index, line)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Lines, "add", add_and_terminate)
    before = signal.signal(signal.SIGTERM, lambda *_: ignored.append(1))
    target, trace = tmp_path / "texts.jsonl", tmp_path / "trace.html"
    try:
        asked = ("--prompt", "abc", "--batch-size", 1, "--output", target)
        code, _, errors = generate(*asked, "--trace", trace)
        assert (code, ignored) == (143, [])
        assert "1 of 1 prompts are answered" in errors
        assert len(target.read_text().splitlines()) == 1
        assert not trace.exists()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_closed_standard_error_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    with shown_progress(None) as shown, shown.activity("generating") as task:
        task.update(1, 2)


def test_how_far_it_is_stands_beside_what_is_written(
    generate: Callable[..., tuple[int, str, str]], checkpoint: Path
) -> None:
    texts = expected(checkpoint, ["abc", "a b"])
    asked = ("--prompt", "abc", "--prompt", "a b", "--batch-size", 1)
    _, output, errors = generate(*asked, "--progress", "plain")
    assert output == "".join(text + "\n" for text in texts)
    assert "[0:00] loading the model" in errors.splitlines()
    assert re.search(r"^\[\d:\d\d\] generating: 2 of 2 prompts$", errors, re.MULTILINE)
    _, output, errors = generate(*asked, "--progress", "json")
    assert output == "".join(text + "\n" for text in texts)
    assert {json.loads(line)["activity"] for line in errors.splitlines()} >= {"generating"}


def write_alone(checkpoint: Path, folder: Path, **own: object) -> Path:
    """A checkpoint's config.json without the rest: whoever reads weights says that they are missing."""
    config = json.loads((checkpoint / "config.json").read_text())
    config["open_dllm"] = {**config.get("open_dllm", {}), **own}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


UNIFORM: Own = {"name": "linear", "options": {"destination": "uniform"}}
NOISY: Own = {"noise": {"bound": "noise", "schedule": UNIFORM, "time_conditioning": True}}
TIMED: Own = {"noise": {"bound": "masks", "schedule": None, "time_conditioning": True}}
BLOCKS: Own = {"attention": "block-causal", "block_length": 4}
COMMANDS = ("generate --prompt a --checkpoint", "evaluate --benchmark stdlib-infilling")
MISFITS: list[tuple[Own, str, str]] = [
    (NOISY, "--sampler=p2", "sampler 'p2' undoes mask noise, and this model's is uniform"),
    (NOISY, "--sampler=uniform-ancestral -o cache=dual", "a model that is told the time"),
    (TIMED, "--sampler=p2", "trained with the time as an input"),
    (BLOCKS, "--sampler=p2 -o cache=prefix", "cache has no effect with a block-causal checkpoint"),
    (BLOCKS, "--sampler=dreamon", "needs a bidirectional checkpoint, and this is a block-causal one"),
]


@pytest.mark.parametrize(("own", "options", "said"), MISFITS)
@pytest.mark.parametrize(
    "command", ["generate --prompt a --checkpoint", "evaluate --benchmark stdlib-infilling"]
)
def test_what_does_not_go_with_a_checkpoint_is_said_before_its_weights_are_read(
    checkpoint: Path,
    tmp_path: Path,
    here: Here,
    command: str,
    own: dict[str, object],
    options: str,
    said: str,
) -> None:
    folder = write_alone(checkpoint, tmp_path / "alone", **own)
    output = ("--output", tmp_path / "results") if command.startswith("evaluate") else ()
    code, _, errors = here(*command.split(), folder, *options.split(), *QUIET, *output)
    assert (code, errors.count("\n")) == (2, 1)
    assert said in errors


def test_an_existing_file_is_never_overwritten(
    generate: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text("mine")
    for option in ("--output", "--trace"):
        code, _, errors = generate("--prompt", "a", option, kept)
        assert code == 2
        assert "is there already" in errors
        assert kept.read_text() == "mine"
        code, _, errors = generate("--prompt", "a", option, tmp_path / "none" / "file.json")
        assert code == 2
        assert "is no folder" in errors


def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    generate: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """And whatever is refused leaves no empty file in the way."""
    target = tmp_path / "out.jsonl"
    for arguments in (
        ["--output", target, "--trace", target],
        ["--output", target, "--trace", tmp_path / ("x" * 300)],
        ["--output", target, "-o", "stesp=3"],
    ):
        code, _, errors = generate("--prompt", "a", *arguments)
        assert (code, errors.count("\n")) == (2, 1)
        assert list(tmp_path.iterdir()) == []


def test_lines_that_have_come_outlive_an_interruption(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.jsonl"

    def answer_two(lines: Lines) -> None:
        with lines.kept():
            lines.add(3, "three")
            assert not path.exists() or path.read_text() == "three\n"
            lines.add(1, "one")
            raise KeyboardInterrupt

    with new_file(path) as file, pytest.raises(KeyboardInterrupt):
        answer_two(Lines(path, file, total=5, printed_early=True))
    assert path.read_text() == "one\nthree\n"
    assert capsys.readouterr().err == f"2 of 5 prompts are answered, in {path}\n"
    path.unlink()
    for printed, output in ((True, "one\nthree\n"), (False, "")):
        with pytest.raises(KeyboardInterrupt):
            answer_two(Lines(None, None, total=5, printed_early=printed))
        captured = capsys.readouterr()
        assert captured.out == output
        assert ("2 of 5 prompts are answered, above" in captured.err) == printed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": "a"}\n{"prompt"', "prompts.jsonl:2 is not JSON"),
        ('{"a":' * 100_000, "prompts.jsonl:1 is not JSON"),
        ('{"text": "a"}', 'prompts.jsonl:1 has no "prompt"'),
        ("1", "prompts.jsonl:1 is no JSON object"),
        ("[1]", "prompts.jsonl:1 begins a JSON array"),
        ('{"prompt": "a", "suffix": 3}', """prompts.jsonl:1 has a "suffix" that isn't text"""),
        ('{"prompt": "a\\ud800"}', "prompt 0 is no text: character 1 is a lone surrogate"),
        ("\n", "holds no prompt"),
        ('{"prompt": ""}', "prompt 0 is empty"),
    ],
)
def test_lines_that_are_no_prompts_are_named(
    content: str, message: str, generate: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(content)
    code, _, errors = generate("--input", path)
    assert code == 2
    assert message in errors
    assert "internal error" not in errors


def test_only_a_newline_ends_a_line(generate: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """JSON strings may hold the other separators that `splitlines` knows; files may begin with a mark."""
    path = tmp_path / "prompts.jsonl"
    content = '\ufeff{"prompt": "a\u2028b"}\r\n{"prompt": "b\u0085"}\n'
    path.write_text(content, encoding="utf-8", newline="")
    code, output, _ = generate("--input", path)
    assert code == 0
    assert [json.loads(line)["prompt"] for line in output.split("\n")[:-1]] == ["a\u2028b", "b\u0085"]
    assert generate("--input", "-", stdin=content)[1] == output


def test_standard_input_that_is_no_text_is_refused(generate: Callable[..., tuple[int, str, str]]) -> None:
    for arguments, message in (
        ([], "standard input is not UTF-8 (byte 1)"),
        (["--input", "-"], "standard input:1 is not UTF-8"),
    ):
        code, _, errors = generate(*arguments, stdin=b"a\xff")
        assert (code, errors.count("\n")) == (2, 1)
        assert message in errors


def test_a_line_keeps_fields_that_utf8_cannot_spell(
    generate: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    path, target = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    path.write_text('{"prompt": "a", "id": "\\ud800"}')
    assert generate("--input", path, "--output", target)[0] == 0
    assert json.loads(target.read_text())["id"] == "\ud800"


@pytest.mark.parametrize(
    "name", ["seed", "sampler", "batch_size", "chat", "trace", "gaps", "options", "on_written", "self"]
)
def test_what_is_no_option_of_the_decoder_is_refused(
    name: str, generate: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, errors = generate("--prompt", "a", "-o", f"{name}=1")
    assert code == 2
    assert f"has an option '{name}'" in errors


def test_an_option_counts_once_and_a_sampler_has_a_name(
    generate: Callable[..., tuple[int, str, str]],
) -> None:
    code, _, errors = generate("--prompt", "a", "-o", "steps=3", "-o", "steps=5")
    assert (code, errors) == (2, "error: -o steps is given twice\n")
    code, _, errors = generate("--prompt", "a", "--sampler", "")
    assert code == 2
    assert "no plugin samplers/" in errors


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1, 10**30])
def test_a_seed_has_64_bits(seed: int, generate: Callable[..., tuple[int, str, str]]) -> None:
    code, _, errors = generate("--prompt", "a", "--seed", seed)
    assert (code, errors) == (2, f"error: seed {seed} is no signed integer of 64 bits\n")


def test_prompts_come_from_one_place(generate: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    for given in (["--prompt", "a"], ["--suffix", "b"]):
        code, _, errors = generate("--input", tmp_path / "x", *given)
        assert code == 2
        assert "leave --prompt and --suffix out" in errors
    code, _, errors = generate("--input", tmp_path / "missing.jsonl")
    assert code == 2
    assert "cannot be read" in errors


def test_a_trace_holds_every_canvas(generate: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    code, output, _ = generate("--prompt", "ab", "--suffix", "c", "--trace", path, "-o", "steps=3")
    assert code == 0
    trace: dict[str, Any] = json.loads(path.read_text())
    mask, spelt = trace["mask_token_id"], trace["vocabulary"]
    assert trace["sampler"] == "low-confidence"
    assert trace["options"] == {"steps": 3, "max_new_tokens": 5, "temperature": 1}
    (row,) = trace["rows"]
    left = [canvas.count(mask) for canvas in row["canvases"]]
    assert left == [5, 3, 1, 0]
    assert [spelt[str(token)] for token in row["canvases"][0]] == ["a", "b", *["<M>"] * 5, "c"]
    assert "".join(spelt[str(token)] for token in row["canvases"][-1]).startswith(
        "ab" + output.rstrip("\n")[:1]
    )


def traces_of(page: Path) -> list[dict[str, Any]]:
    """The groups of traces that a page holds."""
    packed = re.search(r'id="traces-data">([^<]*)<', page.read_text())
    assert packed is not None
    found: list[dict[str, Any]] = json.loads(gzip.decompress(base64.b64decode(packed[1])))
    return found


def test_a_page_and_an_animation_show_two_samplers_side_by_side_on_each_prompt(
    generate: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    page, gif = tmp_path / "trace.html", tmp_path / "trace.gif"
    samplers = [
        "--sampler",
        "p2",
        "--sampler",
        "low-confidence",
        "-o",
        "p2.steps=2",
        "-o",
        "low-confidence.steps=4",
    ]
    code, output, errors = generate(*samplers, "--prompt", "ab", "--trace", page, "--gif", gif)
    assert code == 0, errors
    (group,) = traces_of(page)
    p2, other = group["traces"]
    assert [(each["label"], len(each["steps"])) for each in (p2, other)] == [("p2", 2), ("low-confidence", 4)]
    assert p2["options"] == {"max_new_tokens": 5, "temperature": 1, "steps": 2}
    assert output == f"{p2['text']}\n{other['text']}\n"
    written = [token for _, token, _ in [each for step in other["steps"] for each in step["commit"]]]
    assert len(written) == 5
    assert gif.read_bytes().startswith(b"GIF89a")


def test_what_one_sampler_writes_beside_another_is_what_it_writes_alone(
    generate: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    alone = [generate("--prompt", "ab", "--sampler", name)[1] for name in ("p2", "entropy")]
    both = generate(
        "--prompt", "ab", "--sampler", "p2", "--sampler", "entropy", "--trace", tmp_path / "both.html"
    )
    assert both[1] == "".join(alone)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--sampler", "p2", "--sampler", "entropy"], "--sampler is given 2 times"),
        (["--sampler", "p2", "--sampler", "entropy", "--trace", "t.json"], "with --trace FILE.html or --gif"),
        (["--sampler", "p2", "--sampler", "p2", "--trace", "t.html"], "--sampler p2 is given twice"),
        (["--gif", "picture.png"], "name ends in .gif"),
        (["--trace", "t.txt"], "--trace t.txt: a trace's name ends in .html, which plays it, or in .json"),
        (["--suffix", "a", "--suffix", "b"], "--suffix is given 2 times, and one holds for all prompts"),
        (["--prompt", "b", "--gif", "t.gif"], "--gif draws one prompt, and there are 2"),
        (["--sampler", "p2", "--sampler", "entropy", "--trace", "t.html", "-o", "remdm.eta=1"], "remdm.eta"),
    ],
)
def test_what_cant_be_drawn_is_refused_in_a_line_and_leaves_no_file(
    generate: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, errors = generate("--prompt", "ab", *arguments)
    assert code == 2
    assert expected in errors
    assert list(tmp_path.iterdir()) == []


def test_a_text_cant_steer_a_terminal_and_a_pipe_gets_it_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "red \x1b[31m \u202e\n  "
    for terminal, expected in ((True, "red \\x1b[31m \\u202e\n  \n"), (False, text + "\n")):
        monkeypatch.setattr("sys.stdout.isatty", lambda terminal=terminal: terminal)
        lines = Lines(None, None, 1, printed_early=False)
        with lines.kept():
            lines.add(0, text)
        assert capsys.readouterr().out == expected
