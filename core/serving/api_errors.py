"""What a request is refused with, in the API's form."""

from __future__ import annotations

from typing import Any

_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}

TOO_LONG = "context_length_exceeded"
"""The code by which clients tell a prompt that is too long from a request that is wrong."""


class ApiError(Exception):
    """A request that isn't answered.

    Attributes:
        status: of HTTP.
        message: one line: what, where, what to do.
        code: for programs; None where there is none.
        param: the field that is wrong; None where it isn't one.
    """

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    def content(self) -> dict[str, Any]:
        """As the API has it."""
        kind = _KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
