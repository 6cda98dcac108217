"""curl, as a vendor's page has it or by hand."""

import json
import subprocess

from support import PATIENCE


def curl(*arguments):
    """The status and the JSON that curl gets."""
    return _answer(["curl", "-sS", "--max-time", str(PATIENCE), "-w", "\n%{http_code}", *map(str, arguments)])


def head(*arguments):
    """The status, and how many bytes came with it, of what is no JSON."""
    told = "%{size_download}\n%{http_code}"
    status, size = curl("-o", "/dev/null", *arguments, "-w", told)
    return status, size


def shell(command, **variables):
    """The same for a command line as it stands on a page."""
    quiet = command.replace("curl ", f"curl -sS --max-time {PATIENCE} -w '\n%{{http_code}}' ", 1)
    return _answer(["bash", "-c", quiet], env={"PATH": "/usr/local/bin:/usr/bin:/bin", **variables})


def _answer(command, **settings):
    done = subprocess.run(command, capture_output=True, text=True, **settings)
    assert done.returncode == 0, done.stderr
    body, status = done.stdout.rsplit("\n", 1)
    return int(status), json.loads(body) if body else None
