"""A client generated from the document sends a message and follows it until it is read.

    client.py ORIGIN KEY FOLDER
"""

import pathlib
import subprocess
import sys
import time
import urllib.request
import uuid

CONFIG = """
project_name_override: sanasr-client
package_name_override: sanasr_client
post_hooks: []
"""


def generate(origin, folder):
    with urllib.request.urlopen(f"{origin}/api/openapi.json") as answer:
        (folder / "openapi.json").write_bytes(answer.read())
    (folder / "config.yaml").write_text(CONFIG)
    program = pathlib.Path(sys.executable).parent / "openapi-python-client"
    command = [
        program, "generate", "--path", "openapi.json", "--config", "config.yaml", "--meta", "none",
        "--output-path", "sanasr_client", "--fail-on-warning",
    ]
    subprocess.run(command, cwd=folder, check=True)


def main():
    origin, key, folder = sys.argv[1:]
    folder = pathlib.Path(folder)
    generate(origin, folder)
    sys.path.insert(0, str(folder))
    from sanasr_client import AuthenticatedClient
    from sanasr_client.api.messages import get_message, list_messages, send_message
    from sanasr_client.api.usage import get_usage
    from sanasr_client.models import MessageType, Problem, SendMessage, Status, SuccessMessage

    client = AuthenticatedClient(base_url=origin, token=key, prefix="", auth_header_name="X-Api-Key", timeout=60)
    body = SendMessage(to="+15551231234", type_=MessageType.TEXT, text="By a generated client", reference="generated")
    idempotency_key = str(uuid.uuid4())
    sent = send_message.sync(client=client, body=body, idempotency_key=idempotency_key)
    assert isinstance(sent, SuccessMessage), sent
    again = send_message.sync_detailed(client=client, body=body, idempotency_key=idempotency_key)
    assert again.headers["Idempotent-Replayed"] == "true" and again.parsed.data.id == sent.data.id, again

    message, end = sent.data, time.monotonic() + 30
    while message.status != Status.READ:
        assert time.monotonic() < end, message
        message = get_message.sync(str(message.id), client=client, wait=10, known=message.status).data
    assert message.sent_at and message.delivered_at and message.read_at, message

    page = list_messages.sync(client=client, reference="generated", limit=1)
    assert [found.id for found in page.data] == [message.id], page
    assert get_usage.sync(client=client).data.quota.used >= 1

    wrong = send_message.sync(client=client, body=SendMessage(to="1", type_=MessageType.TEXT, text="x"))
    assert isinstance(wrong, Problem) and wrong.errors[0].field == "to", wrong
    print("sent, followed and read")


main()
