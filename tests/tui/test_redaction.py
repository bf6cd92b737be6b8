"""Labelled cases from several countries, and texts that a slow pattern would choke on.

The numbers are published examples: ISO 13616's own IBANs, the card networks' test numbers, the
ranges that regulators keep for drama (Ofcom, NANPA, ACMA, Arcep, Bundesnetzagentur).
"""

from __future__ import annotations

import random
import time

import pytest

from tui.redaction import Finding, find, redact

FOUND = [
    # kind, text, what is replaced
    ("e-mail", "write to ann@example.com.", "ann@example.com"),
    ("e-mail", "<Ann.Lee+chat@mail.example.co.uk>", "Ann.Lee+chat@mail.example.co.uk"),
    ("e-mail", "mailto:o'brien@example.ie?subject=x", "o'brien@example.ie"),
    ("e-mail", "`root_1@host-2.example.org`", "root_1@host-2.example.org"),
    ("e-mail", "**bold@example.com**", "bold@example.com"),
    ("e-mail", "почта: иван@пример.рф, да", "иван@пример.рф"),
    ("e-mail", "用户@例子.公司。", "用户@例子.公司"),
    ("e-mail", "a@b.xn--p1ai", "a@b.xn--p1ai"),
    ("e-mail", "'quoted@example.com'", "quoted@example.com"),
    ("card", "Visa 4111 1111 1111 1111, thanks", "4111 1111 1111 1111"),
    ("card", "4012888888881881", "4012888888881881"),
    ("card", "card:5555-5555-5555-4444", "5555-5555-5555-4444"),
    ("card", "Amex 3782 822463 10005", "3782 822463 10005"),
    ("card", "371449635398431.", "371449635398431"),
    ("card", "Diners 30569309025904", "30569309025904"),
    ("card", "6011111111111117", "6011111111111117"),
    ("card", "JCB 3530111333300000", "3530111333300000"),
    ("card", "old Visa 4222222222222", "4222222222222"),
    ("card", "UnionPay 6205 5000 0000 0000 004", "6205 5000 0000 0000 004"),
    ("card", "4111 1111 1111 1111 until 12/29", "4111 1111 1111 1111"),
    ("card", "no-break 4111\u00a01111\u00a01111\u00a01111", "4111\u00a01111\u00a01111\u00a01111"),
    ("IBAN", "DE89 3704 0044 0532 0130 00", "DE89 3704 0044 0532 0130 00"),
    ("IBAN", "IBAN: GB29NWBK60161331926819.", "GB29NWBK60161331926819"),
    ("IBAN", "fr14 2004 1010 0505 0001 3m02 606", "fr14 2004 1010 0505 0001 3m02 606"),
    ("IBAN", "NO93 8601 1117 947", "NO93 8601 1117 947"),
    ("IBAN", "BE68539007547034", "BE68539007547034"),
    ("IBAN", "MT84MALT011000012345MTLCAST001S", "MT84MALT011000012345MTLCAST001S"),
    ("IBAN", "CH93-0076-2011-6238-5295-7", "CH93-0076-2011-6238-5295-7"),
    ("IBAN", "SA03 8000 0000 6080 1016 7519 und", "SA03 8000 0000 6080 1016 7519"),
    ("IBAN", "BR97 0036 0305 0000 1000 9795 493P 1", "BR97 0036 0305 0000 1000 9795 493P 1"),
    ("IP address", "ping 8.8.8.8 now", "8.8.8.8"),
    ("IP address", "http://192.168.1.20:8080/x", "192.168.1.20"),
    ("IP address", "from 203.0.113.7.", "203.0.113.7"),
    ("IP address", "10.0.0.0/8", "10.0.0.0"),
    ("IP address", "[2001:db8::1]:443", "2001:db8::1"),
    (
        "IP address",
        "2001:0db8:85a3:0000:0000:8a2e:0370:7334.",
        "2001:0db8:85a3:0000:0000:8a2e:0370:7334",
    ),
    ("IP address", "fe80::1ff:fe23:4567:890a%eth0", "fe80::1ff:fe23:4567:890a"),
    ("IP address", "::ffff:203.0.113.7", "::ffff:203.0.113.7"),
    ("IP address", "at 2001:db8:: it ends", "2001:db8::"),
    ("phone", "+44 20 7946 0958", "+44 20 7946 0958"),
    ("phone", "Büro: +49 (0)30 23125 000", "+49 (0)30 23125 000"),
    ("phone", "0049-30-23125000", "0049-30-23125000"),
    ("phone", "+14155552671", "+14155552671"),
    ("phone", "(415) 555-2671", "(415) 555-2671"),
    ("phone", "1-800-555-0199.", "1-800-555-0199"),
    ("phone", "212.555.0147", "212.555.0147"),
    ("phone", "ring 07700 900123 today", "07700 900123"),
    ("phone", "(020) 7946 0958", "(020) 7946 0958"),
    ("phone", "030/23125 000", "030/23125 000"),
    ("phone", "0171 39 200 55", "0171 39 200 55"),
    ("phone", "06 39 98 12 34", "06 39 98 12 34"),
    ("phone", "01.99.00.12.34", "01.99.00.12.34"),
    ("phone", "0612345678 is mine", "0612345678"),
    ("phone", "0491 570 006", "0491 570 006"),
    ("phone", "03-1234-5678", "03-1234-5678"),
    ("phone", "138 0013 8000", "138 0013 8000"),
    ("phone", "612 34 56 78", "612 34 56 78"),
    ("phone", "(11) 91234-5678", "(11) 91234-5678"),
    ("phone", "phone: 4155552671", "4155552671"),
    ("phone", "call me at 555 0199 please", "555 0199"),
    ("phone", "+91 98765 43210", "+91 98765 43210"),
    ("phone", "+86\u202f138\u202f0013\u202f8000", "+86\u202f138\u202f0013\u202f8000"),
    ("phone", "+1\u2011415\u2011555\u20112671", "+1\u2011415\u2011555\u20112671"),
    ("phone", "٠٦١٢٣٤٥٦٧٨", "٠٦١٢٣٤٥٦٧٨"),
]

NOT_FOUND = [
    "user@localhost", "a @decorator.call and @app.route", "react@18.2.0", "1@2", "@example.com",
    "4111 1111 1111 1112", "1700000000000", "9783161484100", "0.4111111111111111",
    "x4111111111111111", "ISBN 978-3-16-148410-0", "12345678901234567890",
    "DE88370400440532013000", "GB29 NWBK 6016 1331 9268 1", "ZZ89370400440532013000",
    "127.0.0.1", "0.0.0.0", "255.255.255.0", "256.1.1.1", "1.2.3", "v1.2.3.4", "version 1.2.3.4",
    "1.2.3.4.5", "::1", "x[::2]", "[1::2]", "std::vector", "dead::beef is C++", "12:34:56",
    "00:1a:2b:3c:4d:5e", "2024-01-15", "2024-01-15 10:30:00", "15.01.2024", "01/02/2024 12:30",
    "from 1999 to 2024", "in 2023 2024 2025", "1,234,567.89 EUR", "$1 234 567", "3.14159265358979",
    "page 100-200", "0.5 0.25", "0b00100110101", "00100110101", "0123456789", "1 2 3 4 5 6 7 8 9",
    "550e8400-e29b-41d4-a716-446655440000", "2^64 = 18446744073709551616", "+5", "a+1234567x",
    "sha 0a1b2c3d4e5f60718293", "call 911", "no. 12345", "1e10", "09-12-2023", "2+2=4", "C++ 20",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text", "data"), FOUND, ids=[text for _, text, _ in FOUND])
def test_personal_data_is_found_whole(kind: str, text: str, data: str) -> None:
    assert find(text) == [Finding(kind, data, f"[{kind} 1]", 1)]
    assert redact(text)[0] == text.replace(data, f"[{kind} 1]")


@pytest.mark.parametrize("text", NOT_FOUND)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert redact(text) == (text, [])


def test_the_same_data_gets_the_same_placeholder_however_it_is_written() -> None:
    text = (
        "a@example.com, b@example.com, A@EXAMPLE.com; 4111111111111111 = 4111-1111-1111-1111; "
        "+49 (0)30 23125000 = 0049 30 23125000; 2001:db8::1 = 2001:0DB8:0::1; "
        "DE89370400440532013000 = de89 3704 0044 0532 0130 00"
    )
    assert redact(text)[0] == (
        "[e-mail 1], [e-mail 2], [e-mail 1]; [card 1] = [card 1]; "
        "[phone 1] = [phone 1]; [IP address 1] = [IP address 1]; [IBAN 1] = [IBAN 1]"
    )
    assert [(f.kind, f.count) for f in find(text)] == [
        ("e-mail", 2), ("e-mail", 1), ("card", 2), ("phone", 2), ("IP address", 2), ("IBAN", 2),
    ]  # fmt: skip


def test_every_single_digit_error_of_a_card_and_an_iban_is_refused() -> None:
    for sound, kind in (("4012888888881881", "card"), ("DE89370400440532013000", "IBAN")):
        assert find(sound)[0].kind == kind
        for place in range(2, len(sound)):
            for digit in set("0123456789") - {sound[place]}:
                wrong = sound[:place] + digit + sound[place + 1 :]
                assert not [f for f in find(wrong) if f.kind == kind], wrong


def test_redacting_twice_changes_nothing() -> None:
    once, _ = redact("\n".join(text for _, text, _ in FOUND))
    assert redact(once) == (once, [])


ADVERSARIAL = [
    "a" * 64 + "@", "a@", "@a.", "a.", "1", "1 ", "1-", "411 ", "4111 ", "4111-", "0 ", "00", "01 ",
    "06 ", "+1 ", "+", "(", "1.", "1.2.3.4.", ":", "a:", "2001:", "::1 ", "DE89 ", "DE89", "tel ",
    "tel. me me me ", "0612345678 ", "٣", "\u00a0", "a@b.de ", "0/-.", "é@é.é", "[2001:db8::",
]  # fmt: skip


def redacting_s(piece: str, characters: int) -> float:
    text = (piece * (characters // len(piece) + 1))[:characters]
    start = time.process_time()
    redact(text)
    return time.process_time() - start


@pytest.mark.parametrize("piece", ADVERSARIAL)
def test_a_hostile_text_takes_linear_time(piece: str) -> None:
    redacting_s(piece, 5_000)  # the patterns are compiled by now
    short = min(redacting_s(piece, 10_000) for _ in range(3))
    long = min(redacting_s(piece, 80_000) for _ in range(2))
    assert long < 24 * short + 0.05  # 8 times the text; a quadratic search takes 64 times as long


def test_random_texts_lose_nothing_but_what_was_found() -> None:
    draw = random.Random(7)
    signs = "0123456789 -+().@:/abcdefDE\n"
    for _ in range(3000):
        text = "".join(draw.choices(signs, k=draw.randrange(60)))
        redacted, findings = redact(text)
        assert (redacted == text) == (not findings)
        assert all(finding.text in text and finding.count >= 1 for finding in findings)
