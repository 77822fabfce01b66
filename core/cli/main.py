"""`platform`: the command line, and how it ends when something is wrong."""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
import threading
import traceback
import warnings
from contextlib import suppress
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.main import get_command

from opendllm.core.cli import (
    doctor_command,
    evaluate_command,
    experiment_commands,
    export_commands,
    generate_command,
    new_plugin_command,
    plan_command,
    plugin_commands,
    score_command,
    serve_command,
    status_command,
)
from opendllm.core.cli.machine_trouble import machine_trouble
from opendllm.core.cli.mistyped_options import as_option
from opendllm.core.foundation.ranks import is_first_process
from opendllm.core.foundation.visible_text import visible
from opendllm.core.launching.launcher import this_command
from opendllm.core.launching.stopping import Stopped
from opendllm.core.launching.worker_errors import launcher_reports, record_error
from opendllm.registries.deprecations import DeprecatedWarning
from opendllm.registries.errors import UserError
from opendllm.registries.registry import PluginWarning

# Two threads that spin while they wait lose four fifths of their speed when a core is busy.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# A process that ends needn't look for garbage among all that it imported, which takes a second.
atexit.register(gc.freeze)

_INTERRUPTED = 130
"""A shell's exit code for what Ctrl-C ended."""

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"open-dllm {version('open-dllm')}")
        raise typer.Exit


@app.callback()
def _platform(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Train, decode, evaluate and compare diffusion language models from one YAML manifest."""


experiment_commands.add_to(app)
plan_command.add_to(app)
export_commands.add_to(app)
plugin_commands.add_to(app)
new_plugin_command.add_to(app)
generate_command.add_to(app)
score_command.add_to(app)
evaluate_command.add_to(app)
serve_command.add_to(app)
doctor_command.add_to(app)
status_command.add_to(app)


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """What is meant for people in their form, everything else in Python's."""
    if issubclass(category, (PluginWarning, DeprecatedWarning)):
        print(f"warning: {visible(str(message))}", file=sys.stderr)
    else:
        _python_shows(message, category, *where, **more)


_python_shows = warnings.showwarning


def _show_thread_error(failed: threading.ExceptHookArgs) -> None:
    """A library's own thread that can't write, TensorBoard's say: one line, too."""
    error = failed.exc_value
    trouble = machine_trouble(error) if isinstance(error, Exception) else None
    if trouble is None or "--debug" in sys.argv:
        threading.__excepthook__(failed)
    else:
        print(f"error: {visible(str(trouble))}", file=sys.stderr)


def main() -> None:
    """Run a command.

    Exit codes: 0 done, 2 a mistake in what was given, 143 or 130 stopped by SIGTERM or Ctrl-C, 1 anything
    else.
    """
    debug = "--debug" in sys.argv
    warnings.showwarning = _show_warning
    threading.excepthook = _show_thread_error
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files needn't be Unicode, and are printed
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = get_command(app).main(
            args=[argument for argument in sys.argv[1:] if argument != "--debug"] or ["--help"],
            prog_name="platform",
            standalone_mode=False,
        )
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except Stopped as stopped:
        if is_first_process() and str(stopped):
            with suppress(OSError):  # the terminal is gone
                print(f"{stopped}; resume with: {this_command()}", flush=True)
        # Our own launcher takes every other code for a failure; it exits with the right one itself.
        sys.exit(0 if launcher_reports() else stopped.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            traceback.print_exc()
        told = machine_trouble(error) or error
        record_error(told)
        sys.exit(_report(told))
    if code == _INTERRUPTED:  # typer makes it of Ctrl-C
        _say_interrupted(sys.argv[1:])
    sys.exit(code if isinstance(code, int) else 0)


def _say_interrupted(arguments: list[str]) -> None:
    """One line; of a command that begins where it was stopped, with that."""
    if launcher_reports() or not is_first_process():
        return
    command = next((each for each in arguments if not each.startswith("-")), "")
    goes_on = f"; what was finished is kept; go on with: {this_command()}"
    print(f"stopped{goes_on if command in ('run', 'evaluate') else ''}", file=sys.stderr, flush=True)


def _report(error: Exception) -> int:
    """Print an error for people, unless the launcher does, and choose the exit code."""
    if launcher_reports():
        return error.exit_code if isinstance(error, UserError) else 1
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # of the command's own arguments
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "platform"
        given = getattr(error, "option_name", None)
        instead = as_option(command.split()[-1], given) if given else None
        said = f"No such option: {given}: {instead}" if instead else error.format_message()
        print(f"error: {visible(said)} ({command} --help says more)", file=sys.stderr)
        return 2
    if isinstance(error, UserError):
        for line in str(error).splitlines():
            print(f"error: {visible(line)}", file=sys.stderr)
        return error.exit_code
    said = visible(f"{type(error).__name__}: {error}")
    print(f"internal error: {said} (--debug shows where)", file=sys.stderr)
    return 1
