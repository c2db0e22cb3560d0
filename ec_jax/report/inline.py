"""A Matplotlib figure as a drawing inside a page.

The page forbids style attributes and has two themes: properties become attributes, colours those
of the page, and text is text.
"""

import io
from collections.abc import Mapping
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_TITLE = "title: "  # begins the gid of what gets a title
# Matplotlib says more of a font than a page needs.
_DROPPED = ("font-family", "font-style", "font-variant", "font-weight", "font-stretch")


def svg(figure: Figure, name: str, colours: Mapping[str, str]) -> str:
    """The figure as markup that starts with ``<svg``.

    Args:
      figure: an artist whose gid is ``title: TEXT`` shows the text under the pointer.
      name: unlike that of any other drawing on the page; of letters, digits, - and _.
      colours: {"#rrggbb": what a page has in its place}, in small letters.

    Returns:
      The same for the same figure.
    """
    out = io.StringIO()
    # Text stays text, and what Matplotlib draws from clock and chance stays the same.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    root = ElementTree.fromstring(out.getvalue())
    _clean(root, f"{name}-", colours)
    for size in ("width", "height"):
        root.attrib.pop(size)
    ElementTree.register_namespace("", _SVG[1:-1])
    return ElementTree.tostring(root, encoding="unicode")


def _clean(element: ElementTree.Element, prefix: str, colours: Mapping[str, str]) -> None:
    for child in list(element):
        if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
            element.remove(child)
        else:
            _clean(child, prefix, colours)
    _rename(element, prefix)
    for key, value in _properties(element.attrib.pop("style", "")):
        element.set(key, colours.get(value, value))


def _rename(element: ElementTree.Element, prefix: str) -> None:
    """Names that no other drawing on the page has, and only where something refers to them."""
    name = element.attrib.pop("id", "")
    if name.startswith(_TITLE):
        title = ElementTree.Element(f"{_SVG}title")
        title.text = name.removeprefix(_TITLE)
        element.insert(0, title)
    elif name and element.tag != f"{_SVG}g":
        element.set("id", prefix + name)
    if link := element.attrib.pop(_LINK, None):
        element.set("href", f"#{prefix}{link.removeprefix('#')}")
    if clip := element.get("clip-path"):
        element.set("clip-path", clip.replace("#", f"#{prefix}"))


def _properties(style: str) -> list[tuple[str, str]]:
    found = []
    for part in style.split(";"):
        key, _, value = (p.strip() for p in part.partition(":"))
        if key == "font":  # [weight …] SIZE FAMILY
            size = next(word for word in value.split() if word[:1].isdigit())
            found.append(("font-size", size))
        elif key and key not in _DROPPED:
            found.append((key, value))
    return found
