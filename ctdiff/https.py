"""Downloads over TLS only, with certificates checked, whatever an address redirects to."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request

__all__ = ["fetch"]


class _OnlyTLS(urllib.request.HTTPRedirectHandler):
    """Follows a redirection to another https address only."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        if not newurl.startswith("https:"):
            raise urllib.error.URLError(f"redirected to {newurl}, expected an https address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(url: str) -> bytes:
    """What is at an https address.

    Raises:
        OSError: it could not be fetched: no network, a refused certificate, a time-out, a redirection to another protocol.
    """
    tls = urllib.request.HTTPSHandler(context=ssl.create_default_context())
    with urllib.request.build_opener(tls, _OnlyTLS).open(url, timeout=60) as response:
        content: bytes = response.read()
    return content
