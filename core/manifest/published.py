"""The published figures that a manifest quotes."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from opendllm.core.manifest.checks import Issue, ManifestError, issues_of
from opendllm.core.manifest.schema import PublishedFigures
from opendllm.core.manifest.section import Section
from opendllm.core.manifest.sources import Source, read_yaml


class _Quoted(Section):
    """A file of published figures."""

    figures: tuple[PublishedFigures, ...]


def read_published(source: Source) -> tuple[PublishedFigures, ...]:
    """The figures themselves, or those of the file that the manifest names, which lies relative to it.

    Raises:
        ManifestError: they are not well-formed.
        UserError: the file can't be read.
    """
    given = source.data.get("published")
    if given is None:
        return ()
    location = source.location(("published",))
    if isinstance(given, str):
        quoted = read_yaml(Path(location.source).parent / given)
    elif isinstance(given, list):
        locations = {
            ("figures", *path[1:]): at for path, at in source.locations.items() if path[:1] == ("published",)
        }
        quoted = Source({"figures": given}, {(): location, **locations})
    else:
        raise ManifestError([Issue(location, "published", "name a YAML file, or list the figures")])
    try:
        return _Quoted.model_validate(quoted.data).figures
    except ValidationError as error:
        raise ManifestError(list(issues_of(error, quoted, _Quoted))) from error
