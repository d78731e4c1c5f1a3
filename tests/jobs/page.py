"""An HTML page as the tests read it."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects what tests ask for, and fails on elements that do not close."""

    def __init__(self, html):
        super().__init__()
        self.open: list[str] = []
        self.tables: list[dict] = []
        self.images: list[dict] = []
        self.attributes: list[tuple] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag in VOID:
            if tag == "img":
                self.images.append(attributes)
            return
        self.open.append(tag)
        if tag == "table":
            self.tables.append({"caption": "", "rows": [], "scopes": []})
        elif tag == "tr":
            self.tables[-1]["rows"].append([])
        elif tag in ("td", "th"):
            self.tables[-1]["rows"][-1].append("")
            if tag == "th":
                self.tables[-1]["scopes"].append(attributes.get("scope"))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if "caption" in self.open:
            self.tables[-1]["caption"] += data
        elif "td" in self.open or "th" in self.open:
            self.tables[-1]["rows"][-1][-1] += data

    def table(self, caption):
        return next(table for table in self.tables if table["caption"].startswith(caption))

    def row(self, caption, name):
        rows = self.table(caption)["rows"]
        (found,) = (row for row in rows if row[0].split()[-1:] == [name])
        return [" ".join(cell.split()) for cell in found]
