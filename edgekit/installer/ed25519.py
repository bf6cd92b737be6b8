"""Ed25519 signatures, verification only, in plain Python (RFC 8032, section 5.1.7).

A device has no cryptography library before the installation, so this one checks the bundle.
It is strict: S below the group order, canonical encodings, no point of small order as a key or
as R. It handles public data only, so its running time may depend on it. About 5 ms on a PC.
"""

from __future__ import annotations

import hashlib

KEY_BYTES = 32
SIGNATURE_BYTES = 64

_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_SQRT_MINUS_1 = pow(2, (_P - 1) // 4, _P)

# A point in extended homogeneous coordinates (X, Y, Z, T): x = X/Z, y = Y/Z, x*y = T/Z.
_Point = tuple[int, int, int, int]
_NEUTRAL: _Point = (0, 1, 1, 0)


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Return whether `signature` (64 bytes) of `message` was made by the owner of `public_key`."""
    if len(public_key) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    key, commitment = _decode(public_key), _decode(signature[:32])
    scalar = int.from_bytes(signature[32:], "little")
    if key is None or commitment is None or scalar >= _ORDER:
        return False
    if _has_small_order(key) or _has_small_order(commitment):
        return False
    digest = hashlib.sha512(signature[:32] + public_key + message).digest()
    challenge = int.from_bytes(digest, "little") % _ORDER
    # S*B - h*A must be R itself: the equation without the cofactor, as most libraries check it.
    left = _add(_multiply(scalar, _BASE), _multiply(challenge, _negative(key)))
    return _equal(left, commitment)


def _decode(data: bytes) -> _Point | None:
    """Return the point of a 32-byte encoding, or None if it is none or is not canonical."""
    number = int.from_bytes(data, "little")
    sign, y = number >> 255, number & ((1 << 255) - 1)
    if y >= _P:
        return None
    x = _x_of(y, sign)
    return None if x is None else (x, y, 1, x * y % _P)


def _x_of(y: int, sign: int) -> int | None:
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    x = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P), (_P - 5) // 8, _P) % _P
    if v * x * x % _P == -u % _P:
        x = x * _SQRT_MINUS_1 % _P
    if v * x * x % _P != u or (x == 0 and sign):
        return None
    return _P - x if x & 1 != sign else x


def _add(a: _Point, b: _Point) -> _Point:
    first, second = (a[1] - a[0]) * (b[1] - b[0]) % _P, (a[1] + a[0]) * (b[1] + b[0]) % _P
    third, fourth = 2 * a[3] * b[3] * _D % _P, 2 * a[2] * b[2] % _P
    e, f, g, h = second - first, fourth - third, fourth + third, second + first
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _double(a: _Point) -> _Point:
    x2, y2, z2 = a[0] * a[0] % _P, a[1] * a[1] % _P, 2 * a[2] * a[2] % _P
    h = x2 + y2
    e, g = h - (a[0] + a[1]) ** 2 % _P, x2 - y2
    f = z2 + g
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _multiply(scalar: int, point: _Point) -> _Point:
    total = _NEUTRAL
    for bit in bin(scalar)[2:]:
        total = _double(total)
        if bit == "1":
            total = _add(total, point)
    return total


def _negative(a: _Point) -> _Point:
    return (-a[0] % _P, a[1], a[2], -a[3] % _P)


def _equal(a: _Point, b: _Point) -> bool:
    same_x = (a[0] * b[2] - b[0] * a[2]) % _P == 0
    return same_x and (a[1] * b[2] - b[1] * a[2]) % _P == 0


def _has_small_order(a: _Point) -> bool:
    return _equal(_double(_double(_double(a))), _NEUTRAL)


_BASE_POINT = _decode((4 * pow(5, _P - 2, _P) % _P).to_bytes(32, "little"))
if _BASE_POINT is None:  # pragma: no cover - arithmetic
    raise ArithmeticError("the base point of Ed25519 does not decode")
_BASE: _Point = _BASE_POINT
