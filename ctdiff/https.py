"""Downloads files over TLS with checked certificates. A redirection to another protocol is refused."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request

from ctdiff.progress import bar

__all__ = ["fetch"]

_PIECE = 1 << 20  # bytes


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
        OSError: the download failed. Possible reasons are no network, a wrong certificate, a time-out, or a redirection to
            another protocol.
    """
    if not url.startswith("https://"):
        raise ValueError(f"url = {url}, expected an https address")
    tls = urllib.request.HTTPSHandler(context=ssl.create_default_context())
    try:
        with urllib.request.build_opener(tls, _OnlyTLS).open(url, timeout=60) as response:
            length, content = response.length, bytearray()
            with bar(f"downloading {url.rpartition('/')[2]}", length) as shown:
                while part := response.read(_PIECE):
                    content += part
                    shown.update(len(part))
    except http.client.HTTPException as error:  # an incomplete response, for example
        raise OSError(f"{type(error).__name__}: {error}") from error
    if length is not None and len(content) < length:
        raise OSError(f"the download has {len(content)} bytes, expected {length}")
    return bytes(content)
