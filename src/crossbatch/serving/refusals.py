"""Everything that a request can be refused for: a status, a name for programs, a sentence."""

from typing import NamedTuple


class Reason(NamedTuple):
    """Status of HTTP, and what it means, for the description of the API."""

    status: int
    meaning: str


REASONS = {
    "unauthorized": Reason(401, "The token is missing or wrong."),
    "cross_site": Reason(403, "Another site's page made the request."),
    "not_found": Reason(404, "There is nothing at this address."),
    "no_such_item": Reason(404, "The index has no such item."),
    "image_gone": Reason(404, "The item's image cannot be read any more."),
    "method_not_allowed": Reason(405, "The address is there, for other methods."),
    "too_slow": Reason(408, "The body did not arrive in time."),
    "upload_too_large": Reason(413, "The body is larger than the server takes."),
    "not_multipart": Reason(415, "The body is not multipart/form-data."),
    "not_an_image": Reason(415, "A file is of no kind of image that the server reads."),
    "wrong_host": Reason(421, "The request names another host than this machine."),
    "empty_image": Reason(422, "A file has no bytes."),
    "broken_image": Reason(422, "An image is truncated or damaged."),
    "too_many_pixels": Reason(422, "An image has more pixels than the server decodes."),
    "bad_form": Reason(422, "The fields are not those of a search."),
    "bad_parameter": Reason(422, "A value is not in its range."),
    "bad_filter": Reason(422, "The condition is none, or names an unknown column."),
    "busy": Reason(503, "The server does as much as it can; try again."),
    "timed_out": Reason(503, "The answer took too long; try again."),
    "index_unavailable": Reason(503, "The index is gone, damaged or just being replaced."),
}
AGAIN = 1
"""Seconds after which a client may try again."""


class Refusal(Exception):
    """A request that is not served.

    Args:
        code: One of `REASONS`.
        message: A sentence for people. It names nothing of the disk.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = REASONS[code].status
        self.headers: dict[str, str] = {}
        if self.status == 503:
            self.headers["Retry-After"] = str(AGAIN)
        if self.status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"

    def body(self) -> dict[str, dict[str, str]]:
        """What is answered, in JSON."""
        return {"error": {"code": self.code, "message": self.message}}
