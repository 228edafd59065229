"""schemathesis on the OpenAPI page: what it makes of the page is answered as the page says, and never with 500.

`OUTRIDER_NUM_EXAMPLES` requests are drawn at random for each path, beside those that try each field's limits.
"""

import os

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

# Else it draws others each time.
_config = schemathesis.Config(seed=1)
page = schemathesis.openapi.from_url(f"{os.environ['OUTRIDER_URL']}/openapi.json", config=_config)


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
    case.call_and_validate(excluded_checks=_EXCLUDED, timeout=120)
