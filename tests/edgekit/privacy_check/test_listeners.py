"""The far side of the proof: listeners hear what is sent, and know whose it is."""

from __future__ import annotations

import socket
import struct

import pytest

from edgekit.workflows.privacy.channels import mark, token
from edgekit.workflows.privacy.listeners import Listeners, dns_reply


@pytest.mark.usefixtures("loopback")
def test_a_token_is_heard_once_and_told_from_the_others() -> None:
    with Listeners() as listeners:
        with socket.create_connection(tuple(listeners.targets["tcp4"])) as stream:
            first, rest = token("n", "tcp4")[:5], token("n", "tcp4")[5:]
            stream.sendall(first)
            listeners.settle()
            stream.sendall(rest)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
            datagram.sendto(token("n", "udp4"), tuple(listeners.targets["udp4"]))
            datagram.sendto(token("other", "udp4"), tuple(listeners.targets["udp4"]))
        listeners.settle()
        assert listeners.heard(token("n", "tcp4")) == 1
        assert listeners.heard(token("n", "udp4")) == 1
        assert listeners.heard(token("n", "udp")) == 0
        assert listeners.strangers(mark("n")) == 1


@pytest.mark.usefixtures("loopback")
def test_a_bare_connection_is_a_stranger() -> None:
    with Listeners() as listeners:
        socket.create_connection(tuple(listeners.targets["tcp4"])).close()
        listeners.settle()
        assert listeners.strangers(mark("n")) == 1


def test_the_name_server_answers_as_rfc_1035_says() -> None:
    header = bytes.fromhex("abcd 0100 0001 0000 0000 0000")
    question = b"\3abc\7invalid\0" + struct.pack(">HH", 1, 1)
    reply = dns_reply(header + question)
    assert reply[:4] == bytes.fromhex("abcd 8180")
    assert reply[4:12] == struct.pack(">4H", 1, 1, 0, 0)
    assert reply[12:].startswith(question)
    assert socket.inet_ntoa(reply[-4:]) == "127.0.0.1"
    assert dns_reply(header + b"\3abc") == b""
    assert dns_reply(b"") == b""
