"""A server with API keys: it accepts every vendor's header, and refuses in every vendor's error format."""

import pytest

from support.curl import curl, head

KEY = "id:secret"
FLAGS = ["--api-key", KEY, "--allow-local-urls"]
NONE = "00000000-0000-0000-0000-000000000000"

# Path of a job that does not exist, key header, and the responses with a valid and with an invalid key.
APIS = {
    "fal": (f"/fal-ai/latentsync/requests/{NONE}/status", "Authorization: Key", (404, "detail"), (401, "detail")),
    "eachlabs": (f"/v1/prediction/{NONE}", "X-API-Key:", (404, "details"), (401, "details")),
    "wavespeed": (f"/api/v3/predictions/{NONE}/result", "Authorization: Bearer", (404, "message"), (401, "message")),
    "JoggAI": (f"/open/v2/lip_sync_video/{NONE}", "x-api-key:", (200, 10104), (200, 10105)),
    "sync.so": (f"/v2/generate/{NONE}", "x-api-key:", (404, "statusCode"), (401, "statusCode")),
}


@pytest.mark.parametrize("api", APIS)
def test_key(server, api):
    path, header, known, unknown = APIS[api]
    for given, (status, word) in [((), unknown), ((f"{header} wrong",), unknown), ((f"{header} {KEY}",), known)]:
        arguments = [part for one in given for part in ("-H", one)]
        answer, body = curl(*arguments, f"{server.url}{path}")
        assert answer == status, (given, body)
        assert body["code"] == word if isinstance(word, int) else word in body, (given, body)


def test_paths_without_a_key(server):
    for path in ("/healthz", "/readyz", "/openapi.json", "/.well-known/jwks.json"):
        assert head(f"{server.url}{path}")[0] == 200
    assert head(f"{server.url}/metrics")[0] == 401


def test_a_token_is_enough_to_upload(server):
    _, token = curl("-X", "POST", "-H", f"Authorization: Key {KEY}", f"{server.url}/storage/auth/token")
    upload = ("-H", "Content-Type: video/mp4", "-d", "content", f"{server.url}/files/upload")
    assert curl("-H", f"Authorization: {token['token_type']} {token['token']}", *upload)[0] == 200
    assert curl("-H", "Authorization: Bearer other", *upload)[0] == 401


def test_the_log_does_not_contain_the_key(server):
    assert KEY not in "".join(server.log)
