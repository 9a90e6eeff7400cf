"""Seeded random changes of bytes, for fuzz tests."""

from __future__ import annotations

import random

_ODD = b"\r\n\t :;,%/?#\\\x00\x7f\xff0aA+-="


def mutated(chance: random.Random, data: bytes) -> bytes:
    """The bytes with some of them changed, duplicated, moved or removed."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(4):
            case 0:
                changed[at:at] = bytes([chance.choice(_ODD)])
            case 1:
                del changed[at : at + chance.randint(1, 3)]
            case 2:
                changed[at : at + 1] = bytes([chance.randrange(256)])
            case 3:
                piece = changed[at : at + chance.randint(1, 30)]
                other = chance.randrange(len(changed) + 1)
                changed[other:other] = piece
    return bytes(changed)
