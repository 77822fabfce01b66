"""`serve`: a checkpoint, or all variants of a run, for others to call."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from opendllm.core.checkpoints.files import VARIANT_FILE, model_folder
from opendllm.core.checkpoints.pretrained import is_hub_id
from opendllm.core.cli.common_options import ProgressStyle
from opendllm.core.cli.generate_command import check_decodings, parse_options
from opendllm.core.cli.trace_files import Decoding
from opendllm.core.foundation.heavy_imports import import_model_libraries
from opendllm.core.foundation.loopback import is_loopback
from opendllm.core.foundation.visible_text import visible
from opendllm.core.launching.stopping import stopping_at_once
from opendllm.core.progress.views import shown_progress
from opendllm.core.serving.limits import Limits
from opendllm.registries.errors import UserError

INSTALL = "pip install 'open-dllm[serve]'"
TOKEN_VARIABLE = "OPENDLLM_SERVE_TOKEN"  # noqa: S105
_LIMITS = Limits()


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)


def serve(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT|RUN",
            help="A run's variant, a checkpoint, a model folder, a hub id; or a run: all its variants.",
        ),
    ],
    host: Annotated[
        str, typer.Option(help="Where to listen. Others than this machine's own need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"What clients send as their API key, in one line; or the variable {TOKEN_VARIABLE}.",
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="Where a request names none; by default the one of the model's authors."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            "-o",
            metavar="KEY=VALUE",
            help="Of the decoder or the sampler, where a request names no sampler and doesn't say otherwise.",
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Texts that are written side by side; changes none of them.")
    ] = _LIMITS.rows,
    queue: Annotated[
        int, typer.Option(min=1, help="Texts that may wait beside these; more are refused.")
    ] = _LIMITS.waiting,
    most_tokens: Annotated[
        int, typer.Option(min=1, help="That a text may be asked to have.")
    ] = _LIMITS.new_tokens,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds that running requests have to end in, when it is stopped.")
    ] = _LIMITS.grace_seconds,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    progress: ProgressStyle = None,
) -> None:
    """Serve an OpenAI-compatible API, and a page that shows texts come to be."""
    options = parse_options(option or [])
    checkpoints = _checkpoints(checkpoint)
    for path in checkpoints.values():
        check_decodings(str(path), [Decoding(sampler, options)])
    token = _token(token_file)
    if token is None and not is_loopback(host):
        raise UserError(
            f"--host {host} lets other machines ask: give --token-file FILE, or set {TOKEN_VARIABLE}"
        )
    _check_extra()
    limits = Limits(rows=batch_size, waiting=queue, new_tokens=most_tokens, grace_seconds=grace)
    listening = _listen(host, port)
    with stopping_at_once(), shown_progress(progress) as shown:
        with shown.activity("importing libraries"):
            import_model_libraries(device)
            from opendllm.core.serving import server
        with shown.activity("loading the model"):
            served = server.Served(checkpoints, sampler, options, device)
            models = server.load_models(served, limits)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"

    def say_ready() -> None:
        print(f"serving {visible(', '.join(models.names))}")
        print(f"page: {address}/  API: {address}/v1  Ctrl-C stops", flush=True)

    server.HttpServer(models, limits, token, say_ready).answer(listening)
    print("stopped", file=sys.stderr)


def _checkpoints(given: str) -> dict[str, Path | str]:
    """By the name that requests give: one, or a run's variants that have one."""
    if is_hub_id(given) and not Path(given).exists():
        return {given: given}
    folder = Path(given).expanduser()
    variants = sorted(file.parent for file in folder.glob(f"*/{VARIANT_FILE}"))
    if not variants:
        model_folder(folder)
        parts = [part for part in folder.absolute().parts if part not in ("checkpoints", "model")]
        return {"/".join(parts[-2:]): folder}
    found: dict[str, Path | str] = {}
    for variant in variants:
        try:
            model_folder(variant)
        except UserError as error:
            print(f"note: {variant.name} isn't served: {error}", file=sys.stderr)
        else:
            found[variant.name] = variant
    if not found:
        raise UserError(f"{given} holds no checkpoint yet: run its manifest first")
    return found


def _token(file: Path | None) -> str | None:
    """What clients have to send.

    Raises:
        UserError: the file can't be read, or what it holds is no token.
    """
    if file is None:
        found = os.environ.get(TOKEN_VARIABLE)
        where = TOKEN_VARIABLE
    else:
        where = str(file)
        try:
            found = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--token-file {file} can't be read: {error}") from error
    if found is None:
        return None
    token = found.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(f"{where} holds no token: one line of printable ASCII characters without spaces")
    return token


def _check_extra() -> None:
    """Raises `UserError` where the web framework isn't installed."""
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"serve needs {' and '.join(missing)}: {INSTALL}")


def _listen(host: str, port: int) -> socket.socket:
    """A socket that is bound, before minutes are spent on loading a model.

    Raises:
        UserError: the port is taken, or the host isn't this machine's.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise UserError(
            f"can't listen on {host}, port {port} ({error.strerror or error}): give another --port or --host"
        ) from error
