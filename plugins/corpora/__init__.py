"""Corpora: names, options and where each is implemented."""

import sys
from typing import TYPE_CHECKING, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from opendllm.registries import HubIdOrPath, ManifestPath, PluginOptions, Register

if TYPE_CHECKING:
    from opendllm.plugins.corpora.records import RecordFields

HERE = "opendllm.plugins.corpora"


class PythonStdlibOptions(PluginOptions):
    """Options of the corpus that the running Python brings along."""

    packages: tuple[str, ...] = Field(
        (),
        description="Installed packages whose Python files are read besides, by the names that they are "
        "imported by, such as `[torch, numpy]`.",
    )

    @field_validator("packages")
    @classmethod
    def _each_file_once(cls, packages: tuple[str, ...]) -> tuple[str, ...]:
        for name in packages:
            if name in sys.stdlib_module_names:
                raise ValueError(f"{name} is of the standard library, which is read anyway: leave it out")
            if packages.count(name) > 1:
                raise ValueError(f"{name} is named twice")
        return packages


class TextFilesOptions(PluginOptions):
    """Options of a corpus of text files."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"train": "**/*.py"}]})

    train: ManifestPath = Field(description="Glob of the files to train on, such as `data/**/*.py`.")
    held_out: ManifestPath | None = Field(
        None, description="Glob of the files to hold out; without it, one in twenty of the others is."
    )


class SyntheticFunctionsOptions(PluginOptions):
    """Options of the corpus of made-up functions."""

    most_steps: Literal[1, 2] = Field(2, description="How many steps a function may have.")


class RecordOptions(PluginOptions):
    """Where a record's parts are: a text, or a prompt with a response, or a chat."""

    text_field: str = Field("text", description="Field that holds a plain text.")
    prompt_field: str | None = Field(
        None, description="Field of a prompt, which is never masked; goes with `response_field`."
    )
    response_field: str | None = Field(None, description="Field of what answers the prompt.")
    messages_field: str | None = Field(
        None,
        description="Field of a chat: a list of {role, content} or {from, value}; the assistant's texts are "
        "learnt.",
    )
    on_bad_record: Literal["error", "skip"] = Field(
        "error", description="Whether a record that can't be read ends the run, or is left out and counted."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> "RecordOptions":
        if (self.prompt_field is None) != (self.response_field is None):
            raise ValueError("prompt_field and response_field go together")
        kinds = {
            "text_field": "text_field" in self.model_fields_set,
            "prompt_field": self.prompt_field is not None,
            "messages_field": self.messages_field is not None,
        }
        given = [name for name, is_given in kinds.items() if is_given]
        if len(given) > 1:
            raise ValueError(f"{given[0]} and {given[1]} exclude each other")
        return self

    def fields(self) -> "RecordFields":
        """The same for the reader."""
        from opendllm.plugins.corpora.records import RecordFields

        return RecordFields(self.text_field, self.prompt_field, self.response_field, self.messages_field)


class RecordFileOptions(RecordOptions):
    """Options of a corpus of files of records."""

    train: ManifestPath = Field(description="Glob of the files to train on, such as `data/**/*.jsonl`.")
    held_out: ManifestPath | None = Field(
        None, description="Glob of the files to hold out; without it, one record in twenty is."
    )


class JsonlOptions(RecordFileOptions):
    """Options of a corpus of JSON lines."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"train": "data/*.jsonl"}, {"train": "data/*.jsonl", "on_bad_record": "skip"}]
        }
    )


class ParquetOptions(RecordFileOptions):
    """Options of a corpus of parquet files."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"train": "**/*.parquet"}]})


class HuggingfaceOptions(RecordOptions):
    """Options of a Hugging Face data set."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"dataset": "data", "held_out_documents": 10}]})

    dataset: HubIdOrPath = Field(
        description="Hub id, or a folder: of parquet or JSON-lines files, or as `save_to_disk` writes it."
    )
    configuration: str | None = Field(None, description="The data set's configuration, where it has several.")
    split: str = Field("train", description="Which of its splits is read.")
    held_out_documents: int = Field(1000, ge=1, description="The first so many rows are held out.")
    train_documents: int | None = Field(
        None, ge=1, description="Only so many rows after those are trained on; by default all."
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
        "synthetic-functions",
        options=SyntheticFunctionsOptions,
        target=f"{HERE}.synthetic_functions:SyntheticFunctionsCorpus",
        summary="small made-up Python functions, each a docstring with its answer; needs no download",
    )
    register(
        "text-files",
        options=TextFilesOptions,
        target=f"{HERE}.text_files:TextFiles",
        summary="UTF-8 text files matched by a glob, packed or not, one document a file",
    )
    register(
        "jsonl",
        options=JsonlOptions,
        target=f"{HERE}.jsonl:Jsonl",
        summary="files of JSON lines: texts, prompts with responses, or chats",
    )
    register(
        "parquet",
        options=ParquetOptions,
        target=f"{HERE}.parquet:Parquet",
        summary="parquet files: texts, prompts with responses, or chats",
    )
    register(
        "huggingface",
        options=HuggingfaceOptions,
        target=f"{HERE}.huggingface:Huggingface",
        summary="a data set of the Hugging Face hub, or a folder of parquet or JSON lines, streamed",
    )
