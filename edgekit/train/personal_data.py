"""Personal data in training texts: addresses and numbers that name or reach a person.

Whatever has a checksum must pass it, and a number without one counts as a telephone's only where
it is written as one or called one, so that little is found that is none. It counts, and says where
the first of each kind is; it keeps and tells no value. A text without a finding is not proved to be
free of them: names and street addresses are not looked for.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgekit.errors import InputError
from edgekit.train.records import Record, is_passages, place_of, unit

PersonalKind = Literal["e_mail", "iban", "payment_card", "ip_address", "phone"]
Scan = Literal["ignore", "report", "error"]
NAMES: dict[PersonalKind, str] = {
    "e_mail": "e-mail addresses",
    "iban": "bank accounts (IBAN)",
    "payment_card": "payment cards",
    "ip_address": "IP addresses",
    "phone": "phone numbers",
}
# How long an IBAN is, and where: the registry of ISO 13616.
_IBAN_COUNTRIES = {
    15: "NO",
    16: "BE",
    18: "DK FI FK FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
IBAN_LENGTHS = {c: length for length, names in _IBAN_COUNTRIES.items() for c in names.split()}
# Issuers of cards by their first digits, ISO/IEC 7812: from, to, and how many digits a number has.
CARDS = (
    ("34", "34", (15,)), ("37", "37", (15,)),  # American Express
    ("300", "305", (14,)), ("36", "36", (14,)), ("38", "39", (14,)),  # Diners Club
    ("3528", "3589", (16,)),  # JCB
    ("4", "4", (13, 16, 19)),  # Visa
    ("51", "55", (16,)), ("2221", "2720", (16,)),  # Mastercard
    ("6011", "6011", (16,)), ("644", "659", (16,)),  # Discover
    ("62", "62", (16, 17, 18, 19)),  # UnionPay
)  # fmt: skip
LEAST_OCTET = 64  # of the largest: versions and numbers of chapters look like addresses, too


@dataclass(slots=True)
class Found:
    """How many findings of a kind there are, and where the `first` is: file and line, or row."""

    count: int
    first: str


class PersonalData:
    """Is shown records one after the other, and counts."""

    def __init__(self, scan: Scan) -> None:
        """With "error" the first finding ends the reading; with "ignore" nothing is looked for."""
        self._scan = scan
        self._found: dict[PersonalKind, Found] = {}

    def look(self, record: Record) -> None:
        """Look through a record. Raises InputError at a finding if that was asked for."""
        if self._scan == "ignore":
            return
        for kind, start in findings(record.text):
            known = self._found.setdefault(kind, Found(0, ""))
            known.count += 1
            if known.count == 1:
                line = _line(record, start)
                known.first = f"{record.file.name}, {unit(record.file)} {line}"
                self._stop(kind, record, line)

    def _stop(self, kind: PersonalKind, record: Record, line: int) -> None:
        if self._scan == "error":
            raise InputError(
                f"{place_of(record.file, line)}: there is personal data, of the kind {NAMES[kind]}",
                hint='take it out, or count it only: [data] personal_data = "report"',
            )

    def to_dict(self) -> dict[str, Any]:
        """Return what was found, by kind, as plain JSON; the kinds in a fixed order."""
        return {
            kind: {"count": self._found[kind].count, "first": self._found[kind].first}
            for kind in NAMES
            if kind in self._found
        }


def in_words(found: dict[str, Any]) -> list[str]:
    """Return a phrase for each kind in what `PersonalData.to_dict` gave."""
    return [
        f"{entry['count']} {NAMES[kind]}, the first in {entry['first']}"
        for kind in NAMES
        if (entry := found.get(kind))
    ]


def findings(text: str) -> Iterator[tuple[PersonalKind, int]]:
    """Yield the kind of each finding in `text` and where it begins, kind by kind.

    Where two kinds overlap, the first in the order of `NAMES` counts.
    """
    taken = bytearray()  # a byte for each character, once there is a finding
    for kind, sign, pattern, is_one in _RULES:
        if not sign(text):
            continue
        for match in pattern.finditer(text):
            start, end = match.span()
            if taken.find(1, start, end) < 0 and is_one(match):
                taken = taken or bytearray(len(text))
                taken[start:end] = b"\1" * (end - start)
                yield kind, start


def _line(record: Record, start: int) -> int:
    """Return the line of a character; a record of a JSONL or Parquet file has only one."""
    is_text = is_passages(record.file)
    return record.line + (record.text.count("\n", 0, start) if is_text else 0)


def _is_address(match: re.Match[str]) -> bool:
    domain = match.group().rpartition("@")[2].lower()
    reserved = re.search(r"(?:^|\.)(?:example\.(?:com|net|org)|example|test|invalid)$", domain)
    return reserved is None and domain.rpartition(".")[2] not in _FILE_ENDINGS


def _is_iban(match: re.Match[str]) -> bool:
    """Return whether the beginning of `match` is an IBAN: ISO 7064, modulo 97."""
    length = IBAN_LENGTHS.get(match.group()[:2], 99)
    compact = match.group().replace(" ", "")
    pieces = match.group().split(" ")
    ends = [sum(map(len, pieces[:count])) for count in range(1, len(pieces) + 1)]
    if length not in ends:  # capitals may follow
        return False
    turned = compact[4:length] + compact[:4]
    return int("".join(str(int(c, 36)) for c in turned)) % 97 == 1


def _is_card(match: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", match.group())
    issued = any(
        low <= digits[: len(low)] <= high and len(digits) in lengths for low, high, lengths in CARDS
    )
    return issued and luhn(digits) and len(set(digits)) > 1


def luhn(digits: str) -> bool:
    """Return whether the last of `digits` checks the others (Luhn 1960, US patent 2950048)."""
    doubled = (int(d) * (1 + place % 2) for place, d in enumerate(reversed(digits)))
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def _is_public_address(match: re.Match[str]) -> bool:
    """Return whether it is an address of the internet, not a private one, or a version."""
    try:
        address = ipaddress.ip_address(match.group())
    except ValueError:
        return False
    if address.version == 4:
        before = match.string[max(0, match.start() - 10) : match.start()]
        if max(address.packed) < LEAST_OCTET or _VERSION.search(before):
            return False
    return address.is_global and not address.is_multicast


def _is_phone(match: re.Match[str]) -> bool:
    """Return whether what is written as a number, or behind its name, has a number's length."""
    called = match.groupdict().get("called")
    digits = re.sub(r"\D", "", called or match.group())
    is_made_up = "555-01" in match.group()  # kept free for stories
    return not is_made_up and (7 if called else 9) <= len(digits) <= 15 and len(set(digits)) > 2


_FILE_ENDINGS = ("png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "py", "md", "html")
_VERSION = re.compile(r"(?:version|release|v\.?|§|section|chapter)\s*$", re.I)
_E_MAIL = re.compile(  # RFC 5321 without quoted names; `user@host:path` is a remote file
    r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.){1,8}"
    r"[a-z]{2,24}(?![\w-]|:[\w~/])",
    re.I,
)
_IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Z]{2}\d\d(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])"
)
_CARD = re.compile(
    r"(?<![\w.,+/-])[2-6]\d{3}(?:([ -]?)\d{4}\1\d{4}\1\d{1,7}|([ -]?)\d{6}\2\d{4,5})"
    r"(?![\w/-]|[.,]\d)"
)
_IPV4 = re.compile(r"(?<![\w.-])\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\w-]|\.\w)")
_IPV6 = re.compile(  # 2000::/3, what is given out; other groups are paths of a programming language
    r"(?<![\w:.])[23][0-9a-f]{3}(?::[0-9a-f]{0,4}){2,7}(?![\w:])", re.I
)
_GROUPS = r"(?:[ ./-]?\(\d{1,5}\)|[ ./-]\d{2,12}){0,6}(?![\w+-]|[.,]\d)"
_INTERNATIONAL = re.compile(rf"(?<![\w+.,/-])\+[1-9]\d{{0,13}}{_GROUPS}")  # ITU-T E.123
_AMERICAN = re.compile(
    r"(?<![\w+.,/-])(?:\([2-9]\d\d\) ?|[2-9]\d\d-)[2-9]\d\d-\d{4}(?![\w-]|[.,]\d)"
)
_NAMED = r"\b(?:tel(?:ephone|efon)?|phone|mobile?|handy|fax|whatsapp)\b"
_CALLED = re.compile(
    rf"{_NAMED}(?: (?:number|no|nr))?[.:]{{0,2}} ?(?P<called>\(?\d{{1,14}}\)?{_GROUPS})", re.I
)
_CALLED_SIGN = re.compile(rf"{_NAMED}[^\n]{{0,10}}\d", re.I)
_DIGITS = re.compile(r"[2-6]\d{3}[ -]?\d{4}|3\d{3}[ -]?\d{6}")
_DOTTED = re.compile(r"\d\.\d{1,3}\.\d")
_GROUP = re.compile(r"[23][0-9A-Fa-f]{3}:")
_BANK = re.compile(r"[A-Z]{2}\d\d[ A-Z0-9]")
_Rule = tuple[
    PersonalKind, Callable[[str], object], re.Pattern[str], Callable[[re.Match[str]], bool]
]
# A kind, what a text with one has at least (it is quick to see), what it looks like, what it is.
_RULES: Sequence[_Rule] = (
    ("e_mail", lambda text: "@" in text, _E_MAIL, _is_address),
    ("iban", _BANK.search, _IBAN, _is_iban),
    ("payment_card", _DIGITS.search, _CARD, _is_card),
    ("ip_address", _DOTTED.search, _IPV4, _is_public_address),
    ("ip_address", _GROUP.search, _IPV6, _is_public_address),
    ("phone", lambda text: "+" in text, _INTERNATIONAL, _is_phone),
    ("phone", lambda text: "-" in text, _AMERICAN, _is_phone),
    ("phone", _CALLED_SIGN.search, _CALLED, _is_phone),
)
