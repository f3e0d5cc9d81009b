"""The Markdown pages of the repository, and what stands in them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from pymdownx.slugs import slugify

ROOT = Path(__file__).parents[2]
# Made when the site is built, by docs/hooks/reference.py; docs/reference/index.md says so.
GENERATED = "docs/reference/"
_slug = slugify(case="lower")  # the site's, and the git hosts'


@dataclass(frozen=True)
class Link:
    """Where a page points to; an image is one, too."""

    page: str
    line: int
    target: str
    image: bool

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.target}"


@dataclass(frozen=True)
class Command:
    """One line of a ```bash block, joined with those it goes on in, without its comment."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def paths() -> list[str]:
    """All pages: in docs/, and what stands beside the code."""
    found = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("benchmarks/*.md"),
        *ROOT.glob("packages/*/*.md"),
    ]
    return sorted(str(path.relative_to(ROOT)) for path in found)


@cache
def tokens(page: str) -> list[Token]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return MarkdownIt("gfm-like", {"linkify": False}).parse(text)


def links(page: str) -> Iterator[Link]:
    for block in tokens(page):
        for token in block.children or []:
            target = token.attrGet("href") or token.attrGet("src")
            if target is not None:
                yield Link(page, (block.map or [0])[0] + 1, str(target), token.type == "image")


def codes(page: str) -> Iterator[str]:
    """What stands between backticks in the text."""
    for block in tokens(page):
        yield from (token.content for token in block.children or [] if token.type == "code_inline")


@cache
def anchors(page: str) -> frozenset[str]:
    """What can stand after the # of a link to this page."""
    read = tokens(page)
    titles = [read[i + 1].children or [] for i, token in enumerate(read) if token.type == "heading_open"]
    return frozenset(_slug("".join(part.content for part in title), "-") for title in titles)


def commands(page: str) -> Iterator[Command]:
    for token in tokens(page):
        if token.type == "fence" and token.info.split(" ")[0] in ("bash", "sh", "shell", "console"):
            assert token.map is not None
            yield from _commands_of(page, token.map[0] + 2, token.content)


def _commands_of(page: str, first_line: int, block: str) -> Iterator[Command]:
    begun, begun_at = "", 0
    for number, line in enumerate(block.splitlines(), start=first_line):
        begun, begun_at = (f"{begun} {line.strip()}", begun_at) if begun else (line.strip(), number)
        if begun.endswith("\\"):
            begun = begun[:-1].rstrip()
            continue
        if text := _without_comment(begun):
            yield Command(page, begun_at, text)
        begun = ""


def _without_comment(line: str) -> str:
    """Quotes hide a #; what follows one that begins a word is a comment."""
    for found in re.finditer(r"""'[^']*'|"[^"]*"|(?P<comment>(?:^|(?<=\s))#)""", line):
        if found["comment"]:
            return line[: found.start()].rstrip()
    return line


def resolve(page: str, target: str) -> str:
    """The path in the repository that a relative link of this page means."""
    return os.path.normpath(os.path.join(os.path.dirname(page), target)) if target else page
