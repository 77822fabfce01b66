"""Upload and download, against a hub of our own on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from opendllm.core import load
from opendllm.core.cli.main import main
from opendllm.registries.errors import UserError

from .conftest import Platform, Stock, one_line, train_tokenizer
from .fake_hub import FakeHub, fake_hub

PROMPT = ("generate", "--prompt", "def f", "--device", "cpu", "-o", "max_new_tokens=2", "-o", "steps=1")


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as server:
        yield server


@pytest.fixture(scope="module")
def published(stock: Stock, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 checkpoint as Open-dCoder publishes it."""
    folder = tmp_path_factory.mktemp("published") / "model"
    stock(folder, "qwen2", tie_word_embeddings=True)
    train_tokenizer(folder, mask_token="<|endoftext|>")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_push_uploads_what_export_writes(
    hub: FakeHub, published: Path, tmp_path: Path, platform: Any
) -> None:
    environment = hub.environment(tmp_path / "cache")
    result = platform("push", published, "org/name", "--private", cwd=tmp_path, **environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("pushed: ")
    assert "org/name" in result.stdout
    [created] = hub.created
    assert (created["organization"], created["name"]) == ("org", "name")
    assert created.get("visibility", created.get("private")) in ("private", True)
    exported = platform("export", published, "--to", "exported", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    assert hub.committed == contents(tmp_path / "exported")
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= set(
        hub.committed
    )


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_refused_upload_is_one_line(
    hub: FakeHub, published: Path, tmp_path: Path, platform: Platform, status: int
) -> None:
    hub.refusal = status
    result = platform("push", published, "org/name", cwd=tmp_path, **hub.environment(tmp_path / "cache"))
    assert one_line(result).startswith("error: org/name cannot be uploaded: ")
    assert str(status) in one_line(result)
    assert len(set(hub.requests)) == len(hub.requests), "a refusal is final"
    assert hub.committed == {}
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == []


def test_push_without_a_hub_is_one_line(published: Path, tmp_path: Path, platform: Platform) -> None:
    nobody = FakeHub()
    environment = nobody.environment(tmp_path / "cache")
    nobody.server_close()
    result = platform("push", published, "org/name", cwd=tmp_path, **environment)
    assert one_line(result).startswith("error: org/name cannot be uploaded: ")


def test_download_takes_what_is_needed_and_the_cache_serves_it_offline(
    hub: FakeHub, published: Path, tmp_path: Path, platform: Platform
) -> None:
    unwanted = {"pytorch_model.bin": b"pickle", "modeling.py": b"raise SystemExit", "model.gguf": b"gguf"}
    wanted = {**contents(published), "qwen.tiktoken": b"IQ== 0\n"}  # read where there is no tokenizer.json
    hub.files = {**wanted, **unwanted, "logo.png": b"png"}
    environment = hub.environment(tmp_path / "cache")
    asked = (*PROMPT, "--checkpoint", "org/name")
    misfit = platform(*asked, "--sampler", "gidd", cwd=tmp_path, **environment)
    assert "sampler 'gidd' undoes mixture noise, and this model's is mask" in one_line(misfit)
    assert [
        Path(request).name for request in hub.requests if "/resolve/" in request and "GET" in request
    ] == ["config.json"]
    first = platform(*asked, cwd=tmp_path, **environment)
    assert first.returncode == 0, first.stderr
    [snapshot] = (tmp_path / "cache").glob("hub/models--org--name/snapshots/*")
    assert contents(snapshot) == wanted
    assert not [request for request in hub.requests if request.endswith((".bin", ".py", ".gguf", ".png"))]
    hub.shutdown()
    hub.server_close()
    for offline in ("0", "1"):
        found = refusal("org/name", tmp_path, {**environment, "HF_HUB_OFFLINE": offline})
        assert found == f"fetched {snapshot}"
    ids = torch.arange(6)[None]
    assert torch.equal(load(snapshot, device="cpu").logits(ids), load(published, device="cpu").logits(ids))


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("unknown", "the hub has no org/other, or it wants a token (HF_TOKEN)"),
        ("broken", "org/other cannot be downloaded ("),
        ("gone", "org/other cannot be downloaded ("),
        ("nameless", "org/other cannot be downloaded ("),
        ("offline", "org/other cannot be downloaded ("),
    ],
)
def test_what_cannot_be_downloaded_is_one_line(
    hub: FakeHub, tmp_path: Path, state: str, expected: str
) -> None:
    environment = hub.environment(tmp_path / "cache")
    if state == "broken":
        hub.refusal = 503
    elif state == "gone":
        environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
    elif state == "nameless":
        environment["HF_ENDPOINT"] = "http://no-such-host.invalid"
    elif state == "offline":
        environment["HF_HUB_OFFLINE"] = "1"
    line = refusal("org/other", tmp_path, environment)
    assert expected in line
    assert "\n" not in line
    assert state == "unknown" or "fetch it elsewhere and give its folder" in line


def refusal(name: str, cwd: Path, environment: dict[str, str]) -> str:
    """What `fetch` says, in a process that takes `environment` for the hub's."""
    script = (
        "import sys; from opendllm.core.checkpoints.pretrained import fetch\n"
        "from opendllm.registries.errors import UserError\n"
        "try: print('fetched', fetch(sys.argv[1]))\n"
        "except UserError as error: print(error)"
    )
    result = run_python(script, cwd, environment, name)
    assert result.returncode == 0, result.stderr
    return str(result.stdout.removesuffix("\n"))


def run_python(script: str, cwd: Path, environment: dict[str, str], *arguments: str) -> Any:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_repository_of_pickles_only_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    hub.files = {"pytorch_model.bin": b"pickle", "modeling.py": b"raise SystemExit"}
    found = refusal("org/name", tmp_path, hub.environment(tmp_path / "cache")).removeprefix("fetched ")
    assert not [request for request in hub.requests if request.endswith((".bin", ".py"))]
    with pytest.raises(UserError, match=r"does not exist|holds no config\.json"):
        load(found, device="cpu")


def test_a_mistyped_path_is_never_looked_up(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    environment = hub.environment(tmp_path / "cache")
    for name in ("runs/gone", "gone", "/gone/away", "a/b/c"):
        assert "does not exist" in refusal(name, tmp_path, environment)
    assert hub.requests == []
    monkeypatch.setattr(sys, "argv", ["platform", *PROMPT, "--checkpoint", "./org/name"])
    with pytest.raises(SystemExit):
        main()
    assert "error: ./org/name does not exist" in capsys.readouterr().err
