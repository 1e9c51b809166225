"""Check a built site without network: every link leads somewhere, and a page loads nothing from another host.

Run as ``python docs/check_site.py FOLDER``; exits with 1 and one line for each fault.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes whose address a browser fetches to show the page; an anchor's href is only followed when it is clicked.
_LOADED = {
    ("img", "src"),
    ("link", "href"),
    ("script", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("object", "data"),
}


class _Page(HTMLParser):
    """The addresses and the anchors of one HTML page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[tuple[str, bool]] = []  # address, and whether showing the page loads it
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the addresses and anchors of a tag."""
        for name, value in attrs:
            if value is None:
                continue
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value)
            if (tag, name) in _LOADED or (tag, name) == ("a", "href"):
                self.links.append((value, tag != "a"))


def site_faults(folder: Path) -> Iterator[str]:
    """The faults of a built site, one sentence each.

    Args:
        folder: where the site was built.
    """
    pages = {path: _Page(path.read_text("utf-8")) for path in sorted(folder.resolve().rglob("*.html"))}
    for path, page in pages.items():
        for address, loaded in page.links:
            if fault := _fault(address, path, pages, loaded=loaded):
                yield f"{path.relative_to(folder.resolve())}: {fault}"


def _fault(address: str, path: Path, pages: dict[Path, _Page], *, loaded: bool) -> str | None:
    parts = urlsplit(address)
    if parts.scheme in ("data", "mailto"):
        return None
    if parts.scheme or parts.netloc:
        if loaded:
            return f"the page loads {address} from another host"
        well_formed = parts.scheme in ("http", "https") and "." in parts.netloc and " " not in address
        return None if well_formed else f"{address} is no web address"
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        return f"{address} leads to no file"
    if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
        return f"{address} leads to no anchor"
    return None


def main(arguments: list[str]) -> int:
    """Print the faults of the site in the folder that is given; returns the exit code."""
    faults = list(site_faults(Path(arguments[0])))
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
