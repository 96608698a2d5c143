"""The document is OpenAPI.

    validate.py ORIGIN FOLDER
"""

import json
import sys
import urllib.request

from openapi_spec_validator import OpenAPIV31SpecValidator

with urllib.request.urlopen(f"{sys.argv[1]}/api/openapi.json") as answer:
    document = json.load(answer)
assert document["openapi"].startswith("3.1."), document["openapi"]
errors = [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in OpenAPIV31SpecValidator(document).iter_errors()]
assert not errors, "\n".join(errors)
