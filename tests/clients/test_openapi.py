"""schemathesis on /openapi.json: no 5xx, and no status, content type or body that the document does not list."""

import os
import pathlib
import subprocess
import sys

import pytest

FLAGS = ["--fetch-timeout", "1"]
# Cases per operation; 300 for a long run.
EXAMPLES = os.environ.get("LATENTSYNC_EXAMPLES", "10")


def test_responses_conform_to_the_document(server, tmp_path):
    here = pathlib.Path(__file__).parent
    program = pathlib.Path(sys.executable).with_name("schemathesis")
    command = [program, "--config-file", here / "schemathesis.toml", "run", f"{server.url}/openapi.json"]
    settings = ["--max-examples", EXAMPLES, "--seed", "1", "--request-timeout", "60", "--no-color", "--warnings", "off"]
    done = subprocess.run([*command, *settings], cwd=tmp_path, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.fail(done.stdout + done.stderr, pytrace=False)
    # The number of cases.
    print(*done.stdout.splitlines()[-1:])
