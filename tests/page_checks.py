"""Checks of an HTML page: is it balanced, do its links stay inside, does it load nothing?

problems(text) -> [] or sentences
"""

import base64
import hashlib
import re
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "input", "link", "path"}
LOADS = {"src", "srcset", "action", "poster", "data", "xlink:href", "style"}  # `style` is refused by the policy
REFERS = ("aria-labelledby", "aria-describedby", "for", "headers")


class Reader(HTMLParser):
    """Collects what `problems` judges."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.found, self.open, self.ids, self.links = [], [], [], []
        self.texts = {"script": "", "style": ""}
        self.policy = ""

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        values = dict(attributes)
        if len(names) != len(set(names)):
            self.found.append(f"<{tag}> has an attribute twice")
        for name in names:
            if name in LOADS or name.startswith("on"):
                self.found.append(f"<{tag}> has the attribute {name}")
        if tag in ("iframe", "object", "embed", "base", "img", "form"):
            self.found.append(f"there is a <{tag}>")
        if "id" in values:
            self.ids.append(values["id"])
        self.links += [values["href"]] if "href" in values else []
        self.links += [f"#{word}" for name in REFERS for word in (values.get(name) or "").split()]
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open[-1] != tag:
            self.found.append(f"</{tag}> closes {self.open[-1:] or 'nothing'}")
            return
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] in self.texts:
            self.texts[self.open[-1]] += data


def problems(text: str) -> list[str]:
    """What is wrong with a page, in words."""
    reader = Reader()
    reader.feed(text)
    reader.close()
    found = [*reader.found, *(f"<{tag}> is never closed" for tag in reader.open)]
    found += [f"the id {name} is there twice" for name in {n for n in reader.ids if reader.ids.count(n) > 1}]
    for link in reader.links:
        if not link.startswith("#"):
            found.append(f"a link leads to {link}")
        elif link[1:] not in reader.ids:
            found.append(f"a link leads to {link}, which is not there")
    for kind, content in reader.texts.items():
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        if f"'sha256-{digest}'" not in reader.policy:
            found.append(f"the policy does not name the {kind}")
    if "default-src 'none'" not in reader.policy:
        found.append("the policy allows more than it names")
    if not text.lstrip().startswith("<!DOCTYPE html>"):
        found.append("there is no doctype")
    if re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]", text):
        found.append("there is a character that HTML does not have")
    return found


def visible(text: str) -> str:
    """The text of a page as it is read, with single spaces."""
    body = re.sub(r"<(script|style)>.*?</\1>", " ", text, flags=re.S)
    words = re.sub(r"<[^>]+>", " ", body).replace("\u00a0", " ")
    return re.sub(r"\s+", " ", words)
