"""A repository of a registry, asked with a token: the dull half of task 6.2.

A token ends when it likes, in the middle of a blob too. What is here notices it, has another one fetched, and goes on
from the byte where it was. How one gets a token, and from whom, is for authorize() to know, which is the learner's.
"""

import base64
import json
import urllib.parse
from collections.abc import Iterator, Mapping

from .image import BadImage, Descriptor
from .reference import Reference, shown
from .transport import Refused, Transport, TransportError

Credentials = tuple[str, str]  # user and password


class Session:
    """Asks one repository. Those who know how to get a token write a subclass with an authorize()."""

    def __init__(self, reference: Reference, transport: Transport, credentials: Credentials | None = None):
        """reference: where the repository is; its tag and digest do not matter here."""
        self.reference, self.transport, self.credentials = reference, transport, credentials
        self.token: dict[str, str] = {}  # headers of every request: {}, or {"Authorization": "Bearer …"}

    def authorize(self, refused: Refused) -> None:
        """Set self.token, by what the refusal asks for; raise the refusal if it asks for nothing."""
        raise refused

    def url(self, path: str) -> str:
        """The URL of "manifests/TAG", "manifests/DIGEST" or "blobs/DIGEST"."""
        return self.transport.url(self.reference.registry, f"/v2/{self.reference.repository}/{path}")

    def get(self, path: str, headers: Mapping[str, str]) -> bytes:
        """The body of an answer, such as a manifest. Who is refused authorizes, and asks once more.

        Raises what Transport.get() raises, and what authorize() does.
        """
        try:
            return self.transport.get(self.url(path), {**headers, **self.token}).body
        except Refused as refused:
            self._renew(refused)
        return self.transport.get(self.url(path), {**headers, **self.token}).body

    def download(self, blob: Descriptor) -> Iterator[bytes]:
        """The bytes of a blob, in pieces, as Transport.download() gives them; never more than blob.size of them.

        Who is refused authorizes, and goes on from the byte where it was. Who is refused twice there gives up.
        """
        done, refused_at = 0, -1
        while True:
            try:
                for piece in self.transport.download(self.url(f"blobs/{blob.digest}"), self.token, blob.size, done):
                    done += len(piece)
                    yield piece
                return
            except Refused as refused:
                if refused_at == done:
                    raise
                refused_at = done
                self._renew(refused)

    def fetch_token(self, realm: str, query: Mapping[str, str], headers: Mapping[str, str]) -> str:
        """The token that a realm gives, under "token" or "access_token". query: what is empty in it is left out.

        Raises what Transport.get() raises, and BadImage if there is no token in the answer. Source: "Token
        Authentication Specification" of distribution, the registry's own documentation.
        """
        words = urllib.parse.urlencode({name: value for name, value in query.items() if value})
        body = self.transport.get(f"{realm}{'&' if '?' in realm else '?'}{words}", headers).body
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            found = None
        token = (found.get("token") or found.get("access_token")) if isinstance(found, dict) else None
        if not isinstance(token, str):
            raise BadImage(f"{shown(realm)} was asked for a token, and gave none")
        return token

    def _renew(self, refused: Refused) -> None:
        scheme = refused.headers.get("WWW-Authenticate", "").partition(" ")[0]
        if refused.status == 401 and scheme.lower() == "basic":
            why = "the registry wants a password by the scheme Basic; only tokens (Bearer) are spoken here"
            raise TransportError(f"GET {shown(refused.url)}: {why}") from refused
        self.authorize(refused)


def basic(credentials: Credentials) -> str:
    """What the header Authorization says by the scheme Basic (RFC 7617)."""
    return f"Basic {base64.b64encode(':'.join(credentials).encode()).decode()}"
