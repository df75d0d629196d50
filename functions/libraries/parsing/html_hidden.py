"""Which elements of a page are not shown, by their own style, attributes and simple rules."""

from __future__ import annotations

import re

from selectolax.lexbor import LexborNode

_STYLE = re.compile(r"""style\s{0,9}=\s{0,9}["']?([^"'>]{1,1000})""", re.IGNORECASE)
_HIDDEN = re.compile(r"(?:\A|\s)hidden(?:\s|=|/|\Z)", re.IGNORECASE)
_DECLARATION = re.compile(r"([\w-]{1,40})\s{0,9}:\s{0,9}([^;{}]{1,200})")
_SIMPLE = re.compile(r"[.#][\w-]{1,100}\Z")
_SHEET_CHARACTERS = 200_000
_STYLE_CHARACTERS = 2_000  # of one rule, or one element
_TINY = re.compile(r"0*(?:\.\d+|[01](?:\.\d*)?)?(?:px|pt|em|rem|%)?\Z")
_NIL = re.compile(r"0*(?:\.0*)?(?:px|pt|em|rem|%)?\Z")
_FAR = re.compile(r"-\d{3,}(?:\.\d*)?(?:px|pt|em|rem|%|vw|vh)?\Z")
_WHITES = frozenset({"white", "#fff", "#ffff", "#ffffff", "#ffffffff"})
_WHITE_RGB = re.compile(r"rgba?\(255[, ]+255[, ]+255(?:[, /]+1(?:\.0*)?)?\)\Z")
_CLEAR = frozenset({"transparent", "#0000", "#00000000", "rgba(0,0,0,0)", "rgba(0, 0, 0, 0)"})
_READERS_ONLY = frozenset({"sr-only", "visually-hidden", "screen-reader-text", "visuallyhidden"})
_ANCESTORS = 12


def hiding_rules(styles: list[str]) -> frozenset[str]:
    """`.class` and `#id` selectors that a page's own style sheets hide.

    Whoever hides a text with a longer selector is not found out.
    """
    hidden = set()
    for style in styles:
        for rule in style[:_SHEET_CHARACTERS].split("}"):
            selectors, _, body = rule.rpartition("{")
            if _by_style(body) is not None:
                for selector in selectors.rpartition("{")[2].split(","):
                    if _SIMPLE.match(selector.strip()):
                        hidden.add(selector.strip())
    return frozenset(hidden)


def why_hidden(node: LexborNode, rules: frozenset[str]) -> str | None:
    """The reason why an element is not shown; None where it is."""
    attributes = node.attributes
    if attributes.get("role") == "tabpanel":
        return None  # shown when its tab is chosen
    if "hidden" in attributes:
        return "hidden_attribute"
    classes = (attributes.get("class") or "").split()
    if not _READERS_ONLY.isdisjoint(classes):
        return "screen_readers_only"
    if rules and (
        f"#{attributes.get('id')}" in rules or any(f".{name}" in rules for name in classes)
    ):
        return "style_sheet"
    style = attributes.get("style")
    if style:
        return _by_style(style) or _white_on_white(node, style)
    color = (attributes.get("color") or "").lower()  # <font color=white>
    return "white_text" if color in _WHITES and not _background_above(node) else None


def hides(attributes: str) -> str | None:
    """The same of a tag's attributes as they are written, where the element is not whole."""
    style = _STYLE.search(attributes)
    if style:
        return _by_style(style.group(1))
    return "hidden_attribute" if _HIDDEN.search(attributes) else None


def _by_style(style: str) -> str | None:  # noqa: PLR0911 - one return for each way to hide
    declared = _declarations(style)
    if declared.get("display") == "none":
        return "display_none"
    if declared.get("visibility") in {"hidden", "collapse"}:
        return "visibility_hidden"
    if _is(_NIL, declared.get("opacity")):
        return "transparent"
    if _is(_TINY, declared.get("font-size")):
        return "tiny_font"
    if declared.get("color") in _CLEAR:
        return "transparent"
    for side in ("left", "top", "right", "text-indent", "margin-left"):
        if _is(_FAR, declared.get(side)):
            return "off_screen"
    clipped = declared.get("overflow") == "hidden" or declared.get("overflow-y") == "hidden"
    if clipped and any(
        _is(_TINY, declared.get(side)) for side in ("height", "width", "max-height")
    ):
        return "clipped"
    return None


def _white_on_white(node: LexborNode, style: str) -> str | None:
    declared = _declarations(style)
    color = declared.get("color")
    if color is None:
        return None
    background = declared.get("background-color") or declared.get("background")
    if background is not None:
        same = color == background or (_is_white(color) and _is_white(background))
        return "same_color" if same else None
    return "white_text" if _is_white(color) and not _background_above(node) else None


def _background_above(node: LexborNode) -> bool:
    """Whether something around the element has a background of its own that is not white."""
    parent = node.parent
    for _ in range(_ANCESTORS):
        if parent is None or not parent.is_element_node:
            return False
        declared = _declarations(parent.attributes.get("style") or "")
        background = declared.get("background-color") or declared.get("background")
        background = background or (parent.attributes.get("bgcolor") or "").lower()
        if background:
            return not _is_white(background)
        parent = parent.parent
    return False


def _declarations(style: str) -> dict[str, str]:
    found = _DECLARATION.findall(style[:_STYLE_CHARACTERS])
    return {name.lower(): value.replace("!important", "").strip().lower() for name, value in found}


def _is(pattern: re.Pattern[str], value: str | None) -> bool:
    return bool(value) and pattern.match(value or "") is not None


def _is_white(color: str) -> bool:
    return color in _WHITES or _WHITE_RGB.match(color) is not None
