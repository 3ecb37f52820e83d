"""A session asks once more with a new token, and not for ever; what a realm answers is looked at."""

import pytest

from thinwalls.image import BadImage, Descriptor
from thinwalls.registry import Registry
from thinwalls.session import Session, basic
from thinwalls.transport import Refused, Transport, TransportError, parse_reference


class Polite(Session):
    """Gets its tokens where this registry gives them, and counts how often it was told to."""

    asked = 0

    def authorize(self, refused):
        self.asked += 1
        headers = {"Authorization": basic(self.credentials)} if self.credentials else {}
        realm = self.transport.url(self.reference.registry, "/token")
        query = {"service": "", "scope": f"repository:{self.reference.repository}:pull"}
        self.token = {"Authorization": f"Bearer {self.fetch_token(realm, query, headers)}"}


@pytest.fixture
def registry():
    with Registry(token=True) as registry:
        yield registry


@pytest.fixture
def blob(registry):
    found = registry.add_blob(bytes(range(256)) * 2000)
    return Descriptor("x", found["digest"], found["size"])


@pytest.fixture
def session(registry):
    registry.add_manifest("a/b", "x", b"{}")
    with Transport(pause=0.01, retries=2) as transport:
        yield Polite(parse_reference(f"{registry.host}/a/b:x"), transport)


def test_a_token_is_fetched_when_it_is_asked_for_and_used_from_then_on(registry, session, blob):
    assert session.get("manifests/x", {}) == b"{}"
    assert session.get("manifests/x", {"Accept": "*/*"}) == b"{}"
    assert b"".join(session.download(blob)) == bytes(range(256)) * 2000
    assert session.asked == 1
    assert [each.headers["Accept"] for each in registry.asked("*/manifests/*")[-1:]] == ["*/*"]
    assert "service" not in registry.asked("/token")[0].path  # what is empty is left out


def test_a_download_goes_on_with_a_new_token_from_the_byte_where_it_was(registry, session, blob):
    session.get("manifests/x", {})
    registry.misbehave("*/blobs/*", "truncate", at=200_000)
    pieces = session.download(blob)
    data = next(pieces)
    registry.expire_tokens()
    assert data + b"".join(pieces) == bytes(range(256)) * 2000
    assert session.asked == 2
    assert registry.asked("*/blobs/*")[-1].headers["Range"].startswith("bytes=200000-")


def test_whoever_is_refused_twice_at_the_same_byte_gives_up(registry, session, blob):
    registry.misbehave("*/blobs/*", "expired", 10**9)
    with pytest.raises(Refused):
        list(session.download(blob))
    assert session.asked == 1
    registry.misbehave("*/manifests/*", "expired", 10**9)
    with pytest.raises(Refused):
        session.get("manifests/x", {})
    assert session.asked == 2


def test_who_knows_no_way_to_a_token_is_refused(registry, session):
    stranger = Session(session.reference, session.transport)
    with pytest.raises(Refused) as refused:
        stranger.get("manifests/x", {})
    assert refused.value.status == 401


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"token": 5}', b'{"token": ""}', b"[" * 50_000, b"\xff"])
def test_an_answer_without_a_token_is_a_bad_image(registry, session, body):
    registry.misbehave("/token", "wrong", 10, body=body)
    with pytest.raises(BadImage, match="gave none"):
        session.get("manifests/x", {})


@pytest.mark.parametrize("name", ["token", "access_token"])
def test_a_token_has_either_of_two_names(registry, session, name):
    registry.misbehave("/token", "wrong", 1, body=b'{"%b": "word"}' % name.encode())
    realm = f"{registry.url}/token?of=mine"
    assert session.fetch_token(realm, {"scope": "a b"}, {}) == "word"
    assert registry.requests[-1].path == "/token?of=mine&scope=a+b"


def test_a_registry_that_wants_a_password_for_itself_is_told_in_a_sentence(registry, session, blob):
    registry.challenge = 'Basic realm="here"'
    for ask in (lambda: session.get("manifests/x", {}), lambda: list(session.download(blob))):
        with pytest.raises(TransportError, match="by the scheme Basic; only tokens"):
            ask()
    assert session.asked == 0


def test_a_password_may_have_a_colon():
    assert basic(("ann", "a:b")) == "Basic YW5uOmE6Yg=="
