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


class HuggingfaceOptions(PluginOptions):
    """Options of a Hugging Face data set."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"dataset": "data", "held_out_documents": 10}]})

    dataset: str = Field(description="Hub id, or a folder of parquet or JSON-lines files.")
    configuration: str | None = Field(None, description="The data set's configuration, where it has several.")
    split: str = Field("train", description="Which of its splits is read.")
    text_field: str = Field("text", description="The column that holds the documents.")
    held_out_documents: int = Field(1000, ge=1, description="The first so many documents are held out.")


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
    register(
        "huggingface",
        options=HuggingfaceOptions,
        target=f"{HERE}.huggingface:Huggingface",
        summary="a data set of the Hugging Face hub, or a folder of parquet or JSON lines, streamed",
    )
