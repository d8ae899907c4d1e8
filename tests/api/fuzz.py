"""Send what schemathesis makes of the description to a server, and check each answer.

``python -m tests.api.fuzz URL CASES SEED STEP=TOKEN…`` prints how many it has sent. The command
line of schemathesis sends the same, but takes three times as long for it.
"""

import gc
import json
import sys
from pathlib import Path

from tests.fork_server import FEW_COLLECTIONS

DESCRIPTION = Path(__file__).parents[2] / "garmin_auth" / "api" / "openapi.json"
# What is valid is not always accepted: Garmin judges it too, and may be away, as 503 says.
CONFIG = """
[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "503"]
positive_data_acceptance.expected-statuses = ["2xx", "409", "422", "429", "503"]
"""


def as_with_tokens():
    """The description of a site with tokens: else a cookie would be tried along with each token."""
    description = json.loads(DESCRIPTION.read_text())
    for operations in description["paths"].values():
        for operation in operations.values():
            ways = operation["security"]
            operation["security"] = [way for way in ways if "session" not in way]
    return description


def main(url, cases, start, *steps):
    import requests
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from schemathesis import GenerationMode

    tokens = dict(step.split("=") for step in steps)
    description = as_with_tokens()
    for step in tokens:
        # The command line sends the examples. To mix them into other cases takes long.
        body = description["paths"][f"/connection/{step}/"]["post"]["requestBody"]
        del body["content"]["application/json"]["examples"]
    config = schemathesis.Config.from_str(CONFIG)
    schema = schemathesis.openapi.from_dict(description, config=config)
    limits = settings(
        max_examples=-(-int(cases) // len(tokens) // len(GenerationMode)),
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    sent = []

    def send_as(token):
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {token}"

        def send(case):
            sent.append(1)
            case.call_and_validate(base_url=url, session=session)

        return send

    for step, token in tokens.items():
        operation = schema[f"/connection/{step}/"]["post"]
        for mode in GenerationMode:
            made = given(operation.as_strategy(generation_mode=mode))
            seed(int(start))(limits(made(send_as(token))))()
    print(sum(sent))


if __name__ == "__main__":
    gc.set_threshold(*FEW_COLLECTIONS)
    main(*sys.argv[1:])
