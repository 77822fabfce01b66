"""`lm_eval` with the model `opendllm`: takes whatever it takes."""

from __future__ import annotations

import sys

from lm_eval.__main__ import cli_evaluate

from opendllm.core.foundation.heavy_imports import import_model_libraries
from opendllm.core.foundation.visible_text import visible
from opendllm.registries.errors import UserError


def main() -> None:
    """Run lm-eval's command; what the user can mend is one line, with exit code 2."""
    import_model_libraries()
    try:
        cli_evaluate()
    except UserError as error:
        print(visible(f"error: {error}"), file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
