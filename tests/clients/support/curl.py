"""curl commands, documented ones and others."""

import json
import subprocess

from support import TIMEOUT


def curl(*arguments):
    """Status and JSON body of a response."""
    return _answer(["curl", "-sS", "--max-time", str(TIMEOUT), "-w", "\n%{http_code}", *map(str, arguments)])


def head(*arguments):
    """Status and size in bytes of a response that is not JSON."""
    written = "%{size_download}\n%{http_code}"
    status, size = curl("-o", "/dev/null", *arguments, "-w", written)
    return status, size


def shell(command, **variables):
    """Status and JSON body of a documented command line."""
    quiet = command.replace("curl ", f"curl -sS --max-time {TIMEOUT} -w '\n%{{http_code}}' ", 1)
    return _answer(["bash", "-c", quiet], env={"PATH": "/usr/local/bin:/usr/bin:/bin", **variables})


def _answer(command, **settings):
    done = subprocess.run(command, capture_output=True, text=True, **settings)
    assert done.returncode == 0, done.stderr
    body, status = done.stdout.rsplit("\n", 1)
    return int(status), json.loads(body) if body else None
