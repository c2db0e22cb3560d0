"""HTML as a tree, for tests: strict about what a browser would silently repair."""

import dataclasses
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "hr", "img", "input"}


@dataclasses.dataclass
class Element:
    tag: str
    attributes: dict
    children: list = dataclasses.field(default_factory=list)

    def all(self, tag=None, **attributes):
        """Every element below, in order; ``class_`` matches one of its classes."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                if (tag is None or child.tag == tag) and child._has(attributes):
                    found.append(child)
                found += child.all(tag, **attributes)
        return found

    def _has(self, wanted):
        classes = self.attributes.get("class", "").split()
        return all(
            value in classes if name == "class_" else self.attributes.get(name) == value
            for name, value in wanted.items()
        )

    @property
    def text(self):
        return "".join(c if isinstance(c, str) else c.text for c in self.children)

    def cells(self):
        """The text of a table's cells, row by row."""
        rows = (row.children for row in self.all("tr"))
        return [[c.text for c in row if isinstance(c, Element)] for row in rows]


class _Builder(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        self.open[-1].children.append(data)


def parse(text):
    """The tree; an AssertionError where elements are not closed in their order."""
    builder = _Builder()
    builder.feed(text)
    builder.close()
    assert builder.open == [builder.root], f"left open: {[e.tag for e in builder.open[1:]]}"
    return builder.root
