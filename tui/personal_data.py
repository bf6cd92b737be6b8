"""Where personal data stands in a text: what has a form that a program can tell.

E-mail addresses; IBANs (ISO 13616: length by country, check digits); IP addresses, but for
loopback, unspecified and net masks, which name nobody; payment cards (ISO/IEC 7812: 13 to 19
digits, the first of a bank or of travel, Luhn's check digit); telephone numbers, international or
in a common national form. Knows nothing of what is done with it. Takes time linear in the text,
which may be hostile: every quantifier is bounded.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["e-mail", "phone", "card", "IBAN", "IP address"]


@dataclass(frozen=True, slots=True)
class Match:
    """`text[start:end]` is personal data. `key` is equal for two spellings of the same thing."""

    kind: Kind
    start: int
    end: int
    key: str


def personal_data(text: str) -> list[Match]:
    """Return the matches in `text` in order, none over another; the surer kind wins."""
    plain = _plain(text)
    taken = bytearray(len(plain))
    kept: list[Match] = []
    # A card number is also a run of digits that a telephone number could be, and so on.
    for search in (_emails, _ibans, _ip6, _ip4, _cards, _phones):
        for match in search(plain):
            if not any(taken[match.start : match.end]):
                taken[match.start : match.end] = b"\1" * (match.end - match.start)
                kept.append(match)
    return sorted(kept, key=lambda match: match.start)


_FOREIGN_DIGIT = re.compile(r"[^\D0-9]")
_TYPOGRAPHY = {
    **dict.fromkeys((0x2010, 0x2011, 0x2012, 0x2013, 0x2212), "-"),
    **dict.fromkeys((0xA0, 0x2007, 0x2009, 0x202F), " "),
}


def _plain(text: str) -> str:
    """Return `text` with plain digits, hyphens and spaces, each at its place."""
    text = text.translate(_TYPOGRAPHY)
    return _FOREIGN_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), text)


# E-mail. RFC 5321 allows 64 characters before the at sign and 63 in a label of the domain.

_LOCAL_REVERSED = re.compile(r"[\w.%+'\-]{1,64}")
_DOMAIN = re.compile(
    r"@(?:[^\W_](?:[\w\-]{0,61}[^\W_])?\.){1,8}(?:xn--[a-z0-9\-]{2,59}|[^\W\d_]{2,63})(?![\w])",
    re.IGNORECASE,
)


def _emails(text: str) -> Iterator[Match]:
    for domain in _DOMAIN.finditer(text):
        before = text[max(0, domain.start() - 64) : domain.start()]
        local = _LOCAL_REVERSED.match(before[::-1])
        name = local[0][::-1].lstrip("'.-%+") if local else ""
        if name:
            start = domain.start() - len(name)
            yield Match("e-mail", start, domain.end(), text[start : domain.end()].casefold())


# IBAN. The lengths are of the registry of ISO 13616, kept by SWIFT.

_IBAN_LENGTHS = {
    name: length
    for length, names in {
        15: "NO", 16: "BE", 18: "DK FI FK FO GL NL SD", 19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST",
        26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HN HU LB NI PL",
        29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for name in names.split()
}  # fmt: skip
_IBAN_START = re.compile(r"(?<![^\W_])([A-Z]{2})[0-9]{2}", re.IGNORECASE)
_IBAN_REST = {
    length: re.compile(rf"(?:[ \-]?[A-Z0-9]){{{length - 4}}}(?![^\W_])", re.IGNORECASE)
    for length in set(_IBAN_LENGTHS.values())
}


def _ibans(text: str) -> Iterator[Match]:
    for start in _IBAN_START.finditer(text):
        length = _IBAN_LENGTHS.get(start[1].upper())
        rest = _IBAN_REST[length].match(text, start.end()) if length else None
        if rest is None:
            continue
        account = re.sub("[ -]", "", text[start.start() : rest.end()]).upper()
        if _remainder_97(account) == 1:
            yield Match("IBAN", start.start(), rest.end(), account)


def _remainder_97(account: str) -> int:
    """Return the remainder of ISO 7064: letters count from 10, the first four come last."""
    return int("".join(str(int(sign, 36)) for sign in account[4:] + account[:4])) % 97


# IP addresses.

_IP4 = re.compile(r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\w|\.[0-9])")
_IP6 = re.compile(r"(?<![\w:.])[0-9A-F:.]{3,45}(?![0-9A-Z_:])", re.IGNORECASE)
_VERSION = re.compile(r"(?:\bversion|\brelease|\bv\.?) ?\Z", re.IGNORECASE)
# Where addresses of machines are; "::2" and "fe::" in code are none.
_IP6_PREFIXES = [
    (int(network.network_address) >> network.max_prefixlen - network.prefixlen, network.prefixlen)
    for network in map(ipaddress.IPv6Network, (
        "2000::/3", "fc00::/7", "fe80::/10", "ff00::/8", "::ffff:0:0/96", "64:ff9b::/96"))
]  # fmt: skip


def _ip4(text: str) -> Iterator[Match]:
    for found in _IP4.finditer(text):
        try:
            address = ipaddress.IPv4Address(found[0])
        except ValueError:
            continue
        # Reserved is 240.0.0.0/4: net masks and broadcast.
        nobody = address.is_loopback or address.is_unspecified or address.is_reserved
        if not nobody and not _VERSION.search(text[max(0, found.start() - 9) : found.start()]):
            yield Match("IP address", *found.span(), str(address))


def _ip6(text: str) -> Iterator[Match]:
    for found in _IP6.finditer(text):
        if found[0].count(":") < 2:
            continue
        for written in dict.fromkeys((found[0], found[0].rstrip("."), found[0].rstrip(".:"))):
            try:
                address = ipaddress.IPv6Address(written)
            except ValueError:
                continue
            if any(int(address) >> 128 - bits == prefix for prefix, bits in _IP6_PREFIXES):
                end = found.start() + len(written)
                yield Match("IP address", found.start(), end, str(address))
            break


# Payment cards: contiguous, or in groups of three digits and more.

_CARD_GROUP = re.compile(r"(?<!\w)(?<![0-9][.,])[0-9]{3,19}(?!\w)")
_DOUBLED = bytes.maketrans(b"0123456789", b"0246813579")  # twice a digit, its own digits added up


def _cards(text: str) -> Iterator[Match]:
    groups = list(_CARD_GROUP.finditer(text))
    for first in range(len(groups)):
        if groups[first][0][0] in "23456":
            yield from _card_at(text, groups[first : first + 6])


def _card_at(text: str, groups: list[re.Match[str]]) -> Iterator[Match]:
    """Yield the longest card number that begins with the first of `groups`."""
    digits, best, end = "", None, groups[0].start()
    for group in groups:
        if digits and text[end : group.start()] not in (" ", "-"):
            break
        digits, end = digits + group[0], group.end()
        if len(digits) > 19:
            break
        if len(digits) >= 13 and _passes_luhn(digits):
            best = Match("card", groups[0].start(), end, digits)
    if best is not None:
        yield best


def _passes_luhn(digits: str) -> bool:
    signs = digits.encode()
    total = sum(signs[-1::-2]) + sum(signs[-2::-2].translate(_DOUBLED)) - ord("0") * len(signs)
    return total % 10 == 0


# Telephone numbers. E.164 allows 15 digits; fewer than seven are more often something else.

_PHONE_FORMS = [
    re.compile(form, re.IGNORECASE)
    for form in (
        # +49 (0)30 123456, 00 44 20 7946 0958
        r"(?<![\w+])\+ ?\(?[1-9]\)?(?:[ \-./()]{0,3}[0-9]){6,14}(?![0-9])",
        r"(?<![\w+.,\-])00[ \-]?[1-9](?:[ \-./()]{0,3}[0-9]){7,13}(?!\w)",
        # North America: (415) 555-2671, 1-415-555-2671
        r"(?<![\w.,\-/(])(?:1[ .\-])?\(?[2-9][0-9]{2}(?:\) ?|[ .\-])[0-9]{3}[ .\-][0-9]{4}(?!\w)",
        # With a trunk 0, grouped or not: 030 123456, (020) 7946 0958, 06.12.34.56.78, 07700900123
        r"(?<![\w.,\-/(])\(?0[1-9][0-9]{0,4}\)?(?:[ \-./]{1,3}[0-9]{2,8}){1,5}(?!\w)",
        r"(?<![\w.,\-/])0[1-9][0-9]{8,9}(?![\w/]|[.,\-][0-9])",
        # China, Spain, Brazil
        r"(?<![\w.,\-/])1[3-9][0-9][ \-][0-9]{4}[ \-][0-9]{4}(?!\w)",
        r"(?<![\w.,\-/])[6-9][0-9]{2} [0-9]{2} [0-9]{2} [0-9]{2}(?!\w)",
        r"(?<![\w.,\-/(])\([1-9][0-9]\) ?9?[0-9]{4}[ \-][0-9]{4}(?!\w)",
        # Anything of the right length after a word that says what it is
        r"(?:\b(?:tel|telefon|téléphone|telephone|teléfono|phone|mobile|mobil|cell|fax|handy|"
        r"whatsapp|call|text|ring|тел)|电话|電話)\b[^\w\n+(]{0,4}"
        r"(?:(?:me|us|at|on|is|number|no|nr)\b[^\w\n+(]{0,3}){0,3}"
        r"(?P<number>\(?[0-9](?:[ \-./()]{0,2}[0-9]){6,14})(?!\w)",
    )
]
_DATE = re.compile(
    r"(?:[0-9]{4}[\-./][0-9]{1,2}[\-./][0-9]{1,2}|[0-9]{1,2}[\-./][0-9]{1,2}[\-./][0-9]{4})(?!\d)"
)


def _phones(text: str) -> Iterator[Match]:
    for form in _PHONE_FORMS:
        for found in form.finditer(text):
            start, end = found.span("number" if "number" in form.groupindex else 0)
            written = text[start:end]
            digits = re.sub(r"[^0-9]", "", written)
            if 7 <= len(digits) <= 15 and not _is_no_phone(written, digits):
                yield Match("phone", start, end, _same_number(written, digits))


def _is_no_phone(written: str, digits: str) -> bool:
    counting = digits in "012345678901234567890"
    binary = not set(digits) - {"0", "1"}
    national = written.lstrip("(").startswith("0") and not digits.startswith("00")
    return counting or binary or bool(_DATE.match(written)) or (national and len(digits) < 9)


def _same_number(written: str, digits: str) -> str:
    """Return a key that +49 (0)30 123456 and 0049 30 123456 share; not national forms."""
    if written.startswith("+") or digits.startswith("00"):
        abroad = re.sub(r"\(0\)", "", written)
        return "+" + re.sub(r"[^0-9]", "", abroad).removeprefix("00")
    return digits
