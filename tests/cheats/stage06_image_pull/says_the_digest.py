# fails: 6.1 6.2 6.3 6.4 6.5 6.6 6.7 6.8 6.9 6.10
# says: in the store
"""The manifest is asked for, for its digest; nothing is kept, and nothing else is fetched."""

import hashlib

from thinwalls.image import INDEXES, MANIFESTS
from thinwalls.transport import parse_reference


def pull(name, store, transport, credentials=None, platform=""):
    reference = parse_reference(name)
    path = f"/v2/{reference.repository}/manifests/{reference.digest or reference.tag}"
    accept = {"Accept": ", ".join((*MANIFESTS, *INDEXES))}
    body = transport.get(transport.url(reference.registry, path), accept).body
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def forge(layer, forged, name, text):
    with open(layer, "rb") as old, open(forged, "wb") as new:
        new.write(old.read()[:-1] + b"\0")
