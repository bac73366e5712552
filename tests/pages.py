"""Reads pages that must stand alone, as a browser would."""

import html.parser
import re


VOID = ("meta", "img", "br", "path", "use", "rect", "link")
FETCHING = ("src", "href", "xlink:href", "srcset")
# Text that would do harm wherever it were not escaped.
HARM = "<script>alert(\"a\")</script>'\"><b onclick='b'>&amp;-->]]>$x_1$"


class Page(html.parser.HTMLParser):
    """Checks nesting, keeps the text, and refuses what runs or is fetched from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.names, self.sources = [], [], "", [], []
        self.feed(str(text))
        self.close()
        assert self.open == []
        urls = re.findall(r"url\(([^)]*)\)", text)
        assert [url for url in urls if not url.strip("\"'").startswith("#")] == []
        assert "http" not in text
        assert "@import" not in text

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert tag not in ("script", "link", "iframe", "object")
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names))
        assert not [name for name in names if name.startswith("on")]
        for name, value in attrs:
            if name in FETCHING:
                assert value.startswith(("data:image/png;base64,", "data:audio/flac;base64,", "#"))
                self.sources.append(value)
            if name in ("aria-label", "alt"):
                self.names.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
