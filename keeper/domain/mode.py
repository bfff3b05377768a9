"""How far the keeper may go."""

from enum import StrEnum


class Mode(StrEnum):
    """`OBSERVE` only watches, `SHADOW` does everything but sign and send, `LIVE` sends."""

    OBSERVE = "observe"
    SHADOW = "shadow"
    LIVE = "live"
