"""Fixtures of all tests. scripts/test_clients sets the paths in the environment."""

import pytest

from support import receiver
from support.server import Server


@pytest.fixture(scope="module")
def files():
    """A server of the clips, which also receives webhooks."""
    with receiver.Receiver() as running:
        yield running


@pytest.fixture(scope="module")
def server(request):
    """A running server, with the flags in `FLAGS` of the test file."""
    with Server(*getattr(request.module, "FLAGS", ["--allow-local-urls"])) as running:
        yield running
