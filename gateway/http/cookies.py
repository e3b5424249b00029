"""Cookies as bytes: read from Cookie, RFC 6265 section 4.2, and Set-Cookie attributes rewritten, section 4.1."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

Field = tuple[bytes, bytes]
SecureRule = Literal["keep", "always", "never"]
SameSiteRule = Literal["keep", "strict", "lax", "none"]
PublicPath = Callable[[bytes], bytes | None]
"""The public path of an upstream's path; None when it has none."""

ANY_DOMAIN = "*"

_SAME_SITE = {"strict": b"Strict", "lax": b"Lax", "none": b"None"}


def cookie_pairs(fields: Iterable[Field]) -> list[tuple[bytes, bytes]]:
    """Name and value of every cookie of a request, in order, as they came; one without ``=`` has an empty name."""
    pairs = []
    for key, line in fields:
        if key == b"cookie":
            for member in line.split(b";"):
                name, mark, value = member.strip(b" \t").partition(b"=")
                if mark:
                    pairs.append((name.rstrip(b" \t"), value.lstrip(b" \t")))
                elif name:
                    pairs.append((b"", name))
    return pairs


def cookie_value(fields: Iterable[Field], name: bytes) -> bytes | None:
    """The value of the first cookie called ``name``, quotes included; None when there is none."""
    for key, line in fields:
        if key == b"cookie" and name in line:
            for found, value in cookie_pairs([(key, line)]):
                if found == name:
                    return value
    return None


class CookieRewrite:
    """Makes the attributes of Set-Cookie fit the public host; name and value stay byte for byte.

    ``domain`` maps the upstream's domains to public ones, ``*`` standing for any other; an empty one drops the
    attribute. Domains that equal one of ``upstream_hosts`` are dropped where nothing is mapped: no client could take
    such a cookie. ``path`` maps path prefixes, the longest first; a path that it does not name goes through
    ``public_path``. Cookies with the prefix ``__Host-`` keep their path, which must be ``/``.
    """

    def __init__(
        self,
        *,
        domain: Mapping[str, str] | None = None,
        path: Mapping[str, str] | None = None,
        secure: SecureRule = "keep",
        same_site: SameSiteRule = "keep",
        upstream_hosts: Iterable[str] = (),
        public_path: PublicPath | None = None,
    ) -> None:
        self._domains = {_domain(host.encode("ascii")): b"" for host in upstream_hosts}
        self._domains |= {_domain(old.encode("ascii")): new.encode("ascii") for old, new in (domain or {}).items()}
        self._other_domain = self._domains.pop(ANY_DOMAIN.encode("ascii"), None)
        prefixes = [(old.encode("ascii"), new.encode("ascii")) for old, new in (path or {}).items()]
        self._paths = sorted(prefixes, key=lambda pair: -len(pair[0]))
        self._secure = secure
        self._same_site = None if same_site == "keep" else _SAME_SITE[same_site]
        self._public_path = public_path
        rewrites = self._domains or self._other_domain is not None or self._paths or public_path is not None
        self.is_needed = bool(rewrites) or secure != "keep" or same_site != "keep"
        """Whether any cookie could come out other than it went in."""

    def apply(self, set_cookie: bytes, *, prefix: bytes = b"") -> bytes:
        """The value of a Set-Cookie field as the client gets it; ``prefix`` leads every public path."""
        pair, mark, rest = set_cookie.partition(b";")
        keeps_path = pair.lstrip(b" \t")[:7].lower() == b"__host-"
        kept: list[bytes] = [pair]
        is_secure = False
        for attribute in rest.split(b";") if mark else ():
            name, _, value = attribute.partition(b"=")
            kind = name.strip(b" \t").lower()
            if kind == b"domain":
                rewritten = self._with_domain(attribute, value.strip(b" \t"))
                if rewritten is not None:
                    kept.append(rewritten)
            elif kind == b"path":
                kept.append(attribute if keeps_path else self._with_path(attribute, value.strip(b" \t"), prefix))
            elif kind == b"secure":
                is_secure = True
                if self._secure != "never":
                    kept.append(attribute)
            elif kind != b"samesite" or self._same_site is None:
                kept.append(attribute)
        if self._secure == "always" and not is_secure:
            kept.append(b" Secure")
        if self._same_site is not None:
            kept.append(b" SameSite=" + self._same_site)
        return b";".join(kept)

    def _with_domain(self, attribute: bytes, domain: bytes) -> bytes | None:
        """The Domain attribute, or None where it is dropped."""
        public = self._domains.get(_domain(domain), self._other_domain)
        if public is None:
            return attribute
        return b" Domain=" + public if public else None

    def _with_path(self, attribute: bytes, path: bytes, prefix: bytes) -> bytes:
        for old, new in self._paths:
            rest = _below(path, old)
            if rest is not None:
                return b" Path=" + _mounted(prefix, _join(new, rest))
        if self._public_path is not None and path.startswith(b"/"):
            public = self._public_path(path)
            if public is not None and (prefix or public != path):
                return b" Path=" + _mounted(prefix, _join(public, b"/" if path == b"/" else b""))
        return attribute


def _domain(value: bytes) -> bytes:
    """A domain as it is compared, RFC 6265 section 5.2.3."""
    return value.lower().removeprefix(b".")


def _below(path: bytes, prefix: bytes) -> bytes | None:
    """What follows ``prefix``, from a slash on; None when ``path`` does not lie below it."""
    root = prefix.rstrip(b"/")
    if path in (prefix, root):
        return path[len(root) :]
    return path[len(root) :] if path.startswith(root + b"/") else None


def _join(prefix: bytes, rest: bytes) -> bytes:
    if rest == b"/":
        # What was "/" is "/shop": a cookie for "/shop/" would not reach "/shop" itself, RFC 6265 section 5.1.4.
        return prefix.rstrip(b"/") or b"/"
    if not rest:
        return prefix or b"/"
    return prefix.rstrip(b"/") + rest


def _mounted(prefix: bytes, path: bytes) -> bytes:
    return prefix + (b"" if prefix and path == b"/" else path)
