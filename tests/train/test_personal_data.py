"""Personal data: what is, what only looks like it, and that no value is ever told."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from edgekit.errors import InputError
from edgekit.train.personal_data import PersonalData, findings, in_words, luhn
from edgekit.train.records import Record, read_texts

# Numbers that banks and standards print as examples; no one's.
PERSONAL = [
    ("e_mail", "write to erika.mustermann+news@mail.bank-xy.de, please"),
    ("e_mail", "<a href='mailto:jo_99@uni.ac.uk'>"),
    ("e_mail", "jürgen@firma.de"),
    ("iban", "DE89 3704 0044 0532 0130 00"),
    ("iban", "IBAN: GB82WEST12345698765432."),
    ("iban", "pay NO93 8601 1117 947 AND BE68 5390 0754 7034 SOON"),
    ("iban", "MT84 MALT 0110 0001 2345 MTLC AST0 01S"),
    ("payment_card", "card 4111 1111 1111 1111"),
    ("payment_card", "5555-5555-5555-4444"),
    ("payment_card", "(378282246310005)"),
    ("payment_card", "3782 822463 10005"),
    ("payment_card", "30569309025904"),
    ("ip_address", "from 93.184.216.34:443"),
    ("ip_address", "2a00:1450:4001:80b::200e is up"),
    ("ip_address", "[2606:2800:220:1:248:1893:25c8:1946]"),
    ("phone", "call +49 30 901820 today"),
    ("phone", "+1 (212) 736-5000."),
    ("phone", "+442079460000"),
    ("phone", "(212) 736-5000 or 212-736-5001"),
    ("phone", "Tel.: 030/9018 20"),
    ("phone", "phone number: 01 42 68 53 00"),
]
HARMLESS = [
    "foo@example.com, bar@mail.example.org and root@localhost",
    "@dataclass and icon@2x.png, lodash@4.17.21, a @ b.c",
    "git@github.com:org/repo.git",
    "DE89 3704 0044 0532 0130 01",  # wrong check digits
    "ZZ89 3704 0044 0532 0130 00",  # no such country
    "DE89 3704 0044 0532 0130",  # too short for Germany
    "GB82WEST12345698765432X",
    "4111 1111 1111 1112",
    "9999 9999 9999 9995 and 0000 0000 0000 0000",
    "1234567812345670 is a number that Luhn likes, of no issuer",
    "pi = 3.1415926535897932384626433832795",
    "sha256: 4111111111111111abcdef",
    "550e8400-e29b-41d4-a716-446655440000",
    "127.0.0.1, 10.1.2.200, 192.168.0.255 and 198.51.100.77",
    "version 1.2.3.40 of 4.12.3.1, chapter 5.4.3.2, v99.1.2.3",
    "300.93.184.216 and 93.184.216.34.5",
    "2001:db8::1, fe80::1, ::1, std::vector, ab::cd, 2026:11:28:12:00",
    "2026-11-28 13:20:56 UTC, 1,234,567,890 and 12 345 678 people",
    "+1,000,000 or +12 points; 5+49309018; x +49",
    "ISBN 978-3-16-148410-0, 555-1234, 123-456-7890",
    "(212) 555-0123",
    "order 4012345 at 10:30; tel quel 12; the phone 3310",
    "fax machines cost 1000 to 2000 dollars",
    "00 01 02 03 04 05 06 07 08 09",
    "1.0.0.127.in-addr.arpa, section 8.2.4.44, Decimal(+35236450.6)",
    "-120 +150 +200 +250",
]


@pytest.mark.parametrize(("kind", "text"), PERSONAL)
def test_it_is_found_once_and_where_it_is(kind: str, text: str) -> None:
    for around in ("{}", "Some words before\n{}\nand behind.", "({})"):
        found = list(findings(around.format(text)))
        assert {name for name, _ in found} == {kind}
        assert len(found) == (2 if " AND " in text or " or " in text else 1)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_looks_like_it_is_let_be(text: str) -> None:
    assert list(findings(text)) == []
    assert list(findings(f"{text}.")) == []


def test_digits_are_checked_as_the_standard_says() -> None:
    assert luhn("79927398713")  # the example of the patent's usual description
    assert [luhn(f"7992739871{digit}") for digit in range(10)].count(True) == 1


def test_random_numbers_are_rarely_taken_for_someones() -> None:
    generator = random.Random(2)
    numbers = [generator.randrange(10 ** generator.randrange(3, 20)) for _ in range(20_000)]
    found = [kind for kind, _ in findings("\n".join(map(str, numbers)))]
    assert len(found) < 0.005 * len(numbers)


def records(folder: Path, text: str) -> list[Record]:
    (folder / "a.txt").write_text(text)
    return list(read_texts(folder / "a.txt"))


def test_kinds_are_counted_and_the_first_line_is_named(tmp_path: Path) -> None:
    passage = "A kettle boils. " * 150 + "\n\n"
    text = passage + "one\nmail a.b@c-d.de\n\n" + passage + "x@y.org, +49 30 901820\n"
    scan = PersonalData("report")
    for record in records(tmp_path, text):
        scan.look(record)
    assert scan.to_dict() == {
        "e_mail": {"count": 2, "first": "a.txt, line 4"},
        "phone": {"count": 1, "first": "a.txt, line 8"},
    }
    assert in_words(scan.to_dict()) == [
        "2 e-mail addresses, the first in a.txt, line 4",
        "1 phone numbers, the first in a.txt, line 8",
    ]
    ignoring = PersonalData("ignore")
    ignoring.look(records(tmp_path, text)[0])
    assert ignoring.to_dict() == {}


def test_the_first_finding_can_be_an_error_that_tells_no_value(tmp_path: Path) -> None:
    scan = PersonalData("error")
    (record,) = records(tmp_path, "fine\n4111 1111 1111 1111\n")
    with pytest.raises(InputError, match=r"a\.txt, line 2: there is .* payment cards") as caught:
        scan.look(record)
    assert "1111" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "1",
        "1 ",
        "A1",
        "1.",
        "a@",
        "+1-",
        ":1",
        "2001:",
        "A.b",
        "a@b.co ",
        "+" + "1" * 40 + "x ",
    ],
)
def test_no_text_takes_long(unit: str) -> None:
    start = time.process_time()
    list(findings(unit * (200_000 // len(unit))))
    assert time.process_time() - start < 2
