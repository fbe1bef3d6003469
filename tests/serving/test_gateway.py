"""What the gateway sends to a server."""

from __future__ import annotations

from gauntlet.serving.gateway import Request


def test_a_server_is_told_the_arm_by_the_gateway_and_not_by_the_client() -> None:
    headers = [(b"x-gauntlet-arm", b"forged"), (b"x-gauntlet-revision", b"other"), (b"accept", b"*/*")]
    request = Request(b"POST", b"/predict", headers)
    request.body = b"{}"
    head, _, body = request.encoded(b"33b067288080").partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /predict HTTP/1.1"
    assert sorted(lines[1:]) == [
        b"accept: */*",
        b"content-length: 2",
        b"x-gauntlet-arm: 33b067288080",
        b"x-gauntlet-counted: 1",
    ]
    assert body == b"{}"
