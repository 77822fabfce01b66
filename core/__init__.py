"""The platform: train, decode, evaluate and compare diffusion language models.

from opendllm.core import load
lm = load("runs/quickstart/open-dcoder")
lm.generate(["def add(a, b):"], max_new_tokens=32)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opendllm.core.language_model import LanguageModel, load

__all__ = ["LanguageModel", "load"]


def __getattr__(name: str) -> Any:
    # torch is imported when a model is first asked for, not by `import opendllm.core`.
    if name in __all__:
        from opendllm.core.foundation.heavy_imports import import_model_libraries, uncollected

        with uncollected():
            import_model_libraries()
            from opendllm.core import language_model
        return getattr(language_model, name)
    raise AttributeError(name)
