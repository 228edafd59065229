"""schemathesis on the OpenAPI page: what it makes of the page is answered as the page says, and never with 500.

`OUTRIDER_NUM_EXAMPLES` requests are drawn at random for each path, beside those that try each field's limits.
"""

import json
import os
import urllib.request

import hypothesis
import schemathesis
from schemathesis.specs.openapi.checks import positive_data_acceptance

_NUM_EXAMPLES = int(os.environ.get("OUTRIDER_NUM_EXAMPLES", "50"))
# A page cannot say all that makes a request a good one, so that a good one may be refused.
_EXCLUDED = [positive_data_acceptance]
# What would take minutes is made short. A value that is none stays as it is.
_MOST = {"max_tokens": 4, "max_completion_tokens": 4, "max_output_tokens": 4, "n": 2}
_NAMES = {
    "/v1/completions": "max_tokens",
    "/v1/chat/completions": "max_completion_tokens",
    "/v1/responses": "max_output_tokens",
}
_LARGEST = 128

_URL = os.environ["OUTRIDER_URL"]
# Lists that pass such limits are compared with one another for many minutes. Tests of ours send one that is too long.
_MOST_ITEMS = 1000


def without_long_lists(schema: object) -> object:
    """Return a schema without what it says of how long a list may be, where that is more than is tried."""
    if isinstance(schema, list):
        return [without_long_lists(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: without_long_lists(value)
        for name, value in schema.items()
        if not (name == "maxItems" and type(value) is int and value > _MOST_ITEMS)
    }


with urllib.request.urlopen(f"{_URL}/openapi.json") as _answer:
    _page = without_long_lists(json.load(_answer))
# Without a seed it draws others each time.
page = schemathesis.openapi.from_dict(_page, config=schemathesis.Config(seed=1))


def shorten(case: schemathesis.Case) -> None:
    """Have a request ask for a few tokens where it would be served."""
    if not isinstance(case.body, dict):
        return
    for name, most in _MOST.items():
        value = case.body.get(name)
        if type(value) is int and most < value and (name != "n" or value <= _LARGEST):
            case.body[name] = most
    if (name := _NAMES.get(case.operation.path)) is not None:
        case.body.setdefault(name, _MOST[name])


@page.parametrize()
@hypothesis.settings(
    max_examples=_NUM_EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
)
def test_the_page_is_true_of(case: schemathesis.Case) -> None:
    """One request."""
    shorten(case)
    case.call_and_validate(base_url=_URL, excluded_checks=_EXCLUDED, timeout=120)
