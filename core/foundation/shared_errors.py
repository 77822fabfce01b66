"""An error that one process has, told by all: none waits for what another will never do."""

from __future__ import annotations

import json

from opendllm.core.foundation.process_group import largest, text_from
from opendllm.core.foundation.ranks import rank
from opendllm.registries.errors import UserError


def raise_together(error: UserError | None) -> None:
    """Go on where no process has an error. Every process must call this; each waits as long as it takes.

    Raises:
        UserError: this process's own, or what another one has.
    """
    failing = largest(0 if error is None else rank() + 1) - 1
    if failing < 0:
        return
    own = None if error is None else [str(error), error.exit_code]
    message, exit_code = json.loads(text_from(failing, json.dumps(own)))
    if error is not None:
        raise error
    other = UserError(message)
    other.exit_code = exit_code
    raise other
