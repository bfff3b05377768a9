"""A secret is replaced however it is spelled."""

import base64
import json
import traceback
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from keeper.observe.redaction import MASK, Redactor
from keeper.settings import Settings

KEY = "0x" + "a1b2c3d4" * 8


def redactor(url: str) -> Redactor:
    return Redactor(Settings.load({"KEEPER_CHAIN": "x", "KEEPER_RPC_URLS": url, "KEEPER_PRIVATE_KEY": KEY}).secrets())


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        KEY[2:],
        KEY.upper(),
        f"prefix{KEY}suffix",
        str(int(KEY, 16)),
        str(bytes.fromhex(KEY[2:])),
        base64.b64encode(bytes.fromhex(KEY[2:])).decode(),
        quote(KEY),
    ],
)
def test_a_key_is_replaced_in_every_spelling(text: str) -> None:
    shown = redactor("https://node.example")(text)
    assert MASK in shown
    assert KEY[2:20].lower() not in shown.lower()


@pytest.mark.parametrize(
    "url",
    [
        "https://node.example/v3/CANARYpathkey",
        "https://node.example/?key=CANARYquery",
        "https://node.example/rpc?CANARYbare",
        "https://user:CANARYpass@node.example/",
        "https://CANARY1subdomain.node.example/",
        "https://node.example/CANARY%2Fencoded%20key",
        "wss://node.example/ws/CANARY+plus/tail",
    ],
)
def test_every_part_of_a_url_that_tells_is_replaced(url: str) -> None:
    redact = redactor(url)
    seen = URL(url)
    texts = [
        url,
        str(seen),
        seen.human_repr(),
        repr(seen),
        seen.raw_path_qs,
        seen.path_qs,
        url.replace("https://", "http://other@"),
        quote(url, safe=""),
        quote_plus(url),
        json.dumps({"url": url}),
        "Authorization: Basic " + base64.b64encode(f"{seen.user}:{seen.password}".encode()).decode(),
    ]
    for text in texts:
        assert "CANARY" not in redact(text).upper(), text


def test_short_and_empty_secrets_blank_nothing() -> None:
    assert Redactor(["", "a", "abc"])("a b c abc") == "a b c abc"
    assert Redactor()("text") == "text"


def test_a_secret_of_any_alphabet_is_replaced_in_any_case() -> None:
    redact = Redactor(["ΚΑΝΑΡΊΝΙΑΣ", "Straßenschuh", "İstanbul"])
    for text in ("xΚΑΝΑΡΊΝΙΑΣx", "κανάρι καναρίνιαςx", "STRAßENSCHUH", "aİstanbulb"):
        assert MASK in redact(text), text


def test_the_longest_spelling_goes_first() -> None:
    assert Redactor(["CANARY", "CANARYlonger"])("CANARYlonger") == MASK


def test_a_traceback_through_the_redactor_shows_no_secret() -> None:
    url = "https://node.example/v3/CANARYpathkey"
    error = ConnectionError(f"429, message='Too Many', url={URL(url)!r}")
    error.__cause__ = OSError(url)
    text = "".join(traceback.format_exception(error))
    assert "CANARY" in text
    assert "CANARY" not in redactor(url)(text)


texts = st.text(alphabet=st.characters(exclude_characters=MASK))


@given(texts.filter(lambda text: len(text) >= 4), texts, texts)
def test_no_secret_survives_wherever_it_stands(secret: str, before: str, after: str) -> None:
    assert secret not in Redactor([secret])(before + secret + after)
