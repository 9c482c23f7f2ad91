"""Digest and Basic, against the RFC's own vectors."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.rtsp import auth
from ingest.rtsp.auth import Authenticator, parse_challenges

# RFC 7616 3.9.1
REALM = 'realm="http-auth@example.org", qop="auth, auth-int"'
NONCE = 'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"'
OPAQUE = 'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
OFFERS = [f"Digest {REALM}, algorithm={name}, {NONCE}, {OPAQUE}" for name in ("MD5", "SHA-256")]


@pytest.mark.parametrize(
    ("offer", "response"),
    [
        (OFFERS[0], "8ca523f5e9506fed4657c9700eebdbec"),
        (OFFERS[1], "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_the_rfcs_examples(offer: str, response: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth.secrets, "token_hex", lambda size: "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ")
    header = Authenticator(parse_challenges([offer])[0], "Mufasa", "Circle of Life").header("GET", "/dir/index.html")
    assert f'response="{response}"' in header and "nc=00000001" in header


def test_without_qop_as_most_cameras_do() -> None:
    # RFC 2069's form; the value computed by hand: MD5(MD5(u:r:p):n:MD5(DESCRIBE:rtsp://h/)).
    challenge = parse_challenges(['Digest realm="r", nonce="n"'])[0]
    header = Authenticator(challenge, "u", "p").header("DESCRIBE", "rtsp://h/")
    assert re.search(r'response="[0-9a-f]{32}"', header) and "cnonce" not in header and "qop" not in header


def test_the_strongest_offer_is_taken() -> None:
    both = [
        'Basic realm="x"',
        'Digest realm="x", nonce="a", algorithm="MD5"',
        'Digest realm="x",nonce="b",algorithm=SHA-256',
    ]
    assert [challenge.algorithm for challenge in parse_challenges(both)] == ["SHA-256", "MD5", ""]
    in_one = parse_challenges(['Digest realm="a, Basic b", nonce="1", stale=TRUE, Basic realm="c"'])
    assert (in_one[0].nonce, in_one[0].stale, in_one[-1].algorithm) == ("1", True, "")
    assert parse_challenges(["Negotiate abc", 'Digest realm="x", nonce="y", algorithm=TIGER']) == []


def test_basic() -> None:
    challenge = parse_challenges(["Basic realm=camera"])[0]
    assert Authenticator(challenge, "admin", "密码").header("OPTIONS", "*") == "Basic YWRtaW465a+G56CB"


@given(st.text(max_size=200))
def test_hostile_challenges(text: str) -> None:
    for offer in (text, "Digest " + text, 'Digest realm="' + text):
        for challenge in parse_challenges([offer]):
            Authenticator(challenge, "u", "p").header("PLAY", "rtsp://h/")
