"""What every test has at hand. Where things are, scripts/test_clients tells in the environment."""

import pytest

from support import receiver
from support.server import Server


@pytest.fixture(scope="module")
def files():
    """Clips by URL, and somebody who receives webhooks."""
    with receiver.Receiver() as running:
        yield running


@pytest.fixture(scope="module")
def server(request):
    """The program, with the flags of the test file's `FLAGS`."""
    with Server(*getattr(request.module, "FLAGS", ["--allow-local-urls"])) as running:
        yield running
