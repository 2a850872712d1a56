"""The server against its own description: what it says of itself is what it does."""

import re

import hypothesis
import jsonschema_rs
import pytest
import schemathesis
from hypothesis import given
from schemathesis.checks import CHECKS, load_all_checks

from crossbatch.serving import Limits, application, description
from crossbatch.serving.refusals import REASONS
from tests import galleries

TOKEN = "0123456789abcdef"
LIMITS = Limits(pictures=2, k=7)
MODES = {mode.value: mode for mode in schemathesis.GenerationMode}
CASES = [
    (mode, method.upper(), path)
    for path, about in description(LIMITS)["paths"].items()
    for method in about
    if method != "parameters"
    for mode in MODES
    if mode == "positive" or path not in ("/health", "/openapi.json")  # nothing to get wrong
]
load_all_checks()
# A text of any letters is rarely a condition, a crop, or a picture; refusing it is no fault.
FREE = CHECKS.get_by_names(["positive_data_acceptance"])


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    path = galleries.make(tmp_path_factory.mktemp("gallery")).path
    app = application(path, LIMITS, token=TOKEN)

    async def lasting(scope, receive, send):
        """Schemathesis starts and stops an application around every call; this one goes on."""
        if scope["type"] != "lifespan":
            return await app(scope, receive, send)
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return None

    return schemathesis.openapi.from_asgi("/openapi.json", lasting)


def near_by(case):
    """Ask for items that there are, or nearly, and with pictures, so that there are answers."""
    if "id" in case.path_parameters:
        case.path_parameters["id"] %= 14
    if isinstance(case.body, dict) and "item" in case.body:
        case.body["item"] %= 14
    if isinstance(case.body, dict) and "image" in case.body:
        case.body["image"] = [data or galleries.png() for data in case.body["image"]]


def right_as_sent(case):
    """Whether a form that was made wrong is right once it is sent as texts.

    An empty list leaves no field, False is a word, and what lacks one of two alternatives may have
    the other.
    """
    if case.path != "/search" or not isinstance(case.body, dict):
        return False
    sent = {}
    for name, value in case.body.items():
        several = value if isinstance(value, list) else [value]
        if name == "image" and several:
            sent[name] = ["" if isinstance(one, str) else one for one in several]
        elif len(several) == 1:
            text = "" if several[0] is None else str(several[0])
            sent[name] = int(text) if re.fullmatch("[0-9]{1,18}", text) else text
        elif several:
            return False  # of one field only one is taken
    about = case.operation.definition.raw["requestBody"]["content"]["multipart/form-data"]
    return jsonschema_rs.is_valid(about["schema"], sent)


@pytest.mark.parametrize(("mode", "method", "path"), CASES)
def test_every_answer_is_described(api, mode, method, path):
    statuses = set()

    @hypothesis.settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @given(api[path][method].as_strategy(generation_mode=MODES[mode]))
    def check(case):
        if mode == "positive":
            near_by(case)
        elif right_as_sent(case):
            return
        headers = {"Authorization": f"Bearer {TOKEN}"}
        statuses.add(case.call_and_validate(headers=headers, excluded_checks=FREE).status_code)

    check()
    if mode == "positive":
        assert 200 in statuses


def test_every_refusal_is_described():
    told = str(description(LIMITS)["paths"])
    unaddressed = {"not_found", "method_not_allowed"}  # of addresses that it does not have
    assert [code for code in REASONS if f"'{code}'" not in told] == sorted(
        unaddressed, reverse=True
    )
