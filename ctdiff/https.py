"""Downloads over TLS only, with checked certificates, also after redirections."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request

__all__ = ["fetch"]


class _OnlyTLS(urllib.request.HTTPRedirectHandler):
    """Follows redirections to https addresses only."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        if not newurl.startswith("https:"):
            raise urllib.error.URLError(f"redirected to {newurl}, expected an https address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(url: str) -> bytes:
    """Return the content of an https address.

    Raises:
        ValueError: the address has another protocol.
        OSError: the download failed: no network, a refused certificate, a time-out, a redirection to another protocol.
    """
    if not url.startswith("https://"):
        raise ValueError(f"url = {url}, expected an https address")
    tls = urllib.request.HTTPSHandler(context=ssl.create_default_context())
    try:
        with urllib.request.build_opener(tls, _OnlyTLS).open(url, timeout=60) as response:
            content: bytes = response.read()
    except http.client.HTTPException as error:  # an incomplete response, for example
        raise OSError(f"{type(error).__name__}: {error}") from error
    return content
