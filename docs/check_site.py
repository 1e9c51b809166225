"""Check a built site without network: every link has a target, and no page loads anything from another host.

Run as ``python docs/check_site.py FOLDER``; prints one line for each fault and exits with 1 if there are faults.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes whose address a browser fetches to show the page; the href of a link is fetched only after a click.
_LOADED = {
    ("img", "src"),
    ("link", "href"),
    ("script", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("object", "data"),
}


class _Page(HTMLParser):
    """The link addresses and the anchors of one HTML page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[tuple[str, bool]] = []  # address, and whether showing the page loads it
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the addresses and the anchors in the attributes of a tag."""
        for name, value in attrs:
            if value is None:
                continue
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value)
            if (tag, name) in _LOADED or (tag, name) == ("a", "href"):
                self.links.append((value, tag != "a"))


def site_faults(folder: Path) -> Iterator[str]:
    """Yield a sentence for each broken link and each resource from another host in a built site.

    Args:
        folder: the folder in which the site was built.
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
    """Print the faults of the site in the folder named by the first argument; return the exit code."""
    faults = list(site_faults(Path(arguments[0])))
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
