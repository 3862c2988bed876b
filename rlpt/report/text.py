"""Text of a run on a page: completions, names of metrics and settings may hold anything."""

from __future__ import annotations

import json
import re
import typing as tp

# Not seen, or turning what follows around: bidirectional controls, zero widths but for the
# joiners that scripts need, tags, byte order marks.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """The text with hidden characters as ‹U+202E›; line breaks and tabs stay."""
    return HIDDEN.sub(lambda match: f"‹U+{ord(match[0]):04X}›", text)


def short(text: str, most: int) -> str:
    """The text, its middle left out where it is longer than `most` characters."""
    if len(text) <= most:
        return text
    head, tail = -(-most * 3 // 5), most * 2 // 5
    gone = len(text) - head - tail
    return f"{text[:head]} […{gone} characters left out…] {text[-tail:]}"


def safe_json(value: tp.Any) -> str:
    """JSON that is inert inside <script type="application/json">."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
