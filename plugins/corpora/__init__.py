"""Corpora: names, options and where each is implemented."""

from pydantic import ConfigDict, Field

from opendllm.registries import PluginOptions, Register

HERE = "opendllm.plugins.corpora"


class PythonStdlibOptions(PluginOptions):
    """None: the running Python's own standard library."""


class TextFilesOptions(PluginOptions):
    """Options of a corpus of text files."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"train": "**/*.py"}]})

    train: str = Field(description="Glob of the files to train on, such as `data/**/*.py`.")
    held_out: str | None = Field(
        None, description="Glob of the files to hold out; without it, one in twenty of the others is."
    )


def register_all(register: Register) -> None:
    """Register every built-in corpus."""
    register(
        "python-stdlib",
        options=PythonStdlibOptions,
        target=f"{HERE}.python_stdlib:PythonStdlib",
        summary="source files of the running Python's standard library; needs no download",
    )
    register(
        "text-files",
        options=TextFilesOptions,
        target=f"{HERE}.text_files:TextFiles",
        summary="UTF-8 text files matched by a glob, one document a file",
    )
