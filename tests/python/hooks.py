"""What schemathesis must not do: touch the admin's own account, or wait long."""

import schemathesis

# The first user, whose token is used.
OWN = "1"


@schemathesis.hook
def before_call(context, case, kwargs):
    path = case.operation.path
    if path.startswith("/api/v1/users/{id}") and str(case.path_parameters.get("id")).strip() == OWN:
        case.path_parameters["id"] = 999_999
    # A long poll of a minute proves no more than one of a second.
    if case.query and "wait" in case.query and str(case.query["wait"]).isdigit() and 1 < int(case.query["wait"]) <= 60:
        case.query["wait"] = 1
