"""Every link of every page leads somewhere, on a git host as in the site."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import pytest

from tests.docs import pages
from tests.docs.pages import Link

PAGES = pages.paths()


def test_the_pages_are_found() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/index.md", "packages/llm/README.md"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    wrong = [f"{link} ({fault})" for link in pages.links(page) if (fault := fault_of(link))]
    assert not wrong, "\n".join(wrong)


def fault_of(link: Link) -> str | None:
    """None for a good one. Addresses of other sites are not fetched: these tests need no network."""
    if "://" in link.target:
        return fault_of_address(link.target)
    target, _, anchor = link.target.partition("#")
    path = pages.resolve(link.page, target)
    if path.startswith(".."):
        return "outside of the repository"
    if not (pages.ROOT / path).is_file():  # a folder has no page in the site
        return f"there is no file {path}"
    if anchor and path.endswith(".md") and anchor not in pages.anchors(path):
        return f"{path} has no heading #{anchor}"
    return None


def fault_of_address(address: str) -> str | None:
    parts = urlsplit(address)
    host = parts.hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        named = True
    else:
        named = False
    if parts.scheme != "https":
        return "not https"
    if not named or "." not in host or host.endswith((".local", ".internal", ".lan", ".home", ".corp")):
        return "not a public host"
    return None


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("https://hydra.cc/docs", None),
        ("#layout", None),
        ("packages/mlp/README.md", None),
        ("packages/llm/README.md#sft", None),
        ("http://hydra.cc", "not https"),
        ("https://10.0.0.1/x", "not a public host"),
        ("https://wiki/x", "not a public host"),
        ("packages/nothing.md", "there is no file packages/nothing.md"),
        ("packages/mlp", "there is no file packages/mlp"),
        ("#no-such-heading", "README.md has no heading #no-such-heading"),
        ("../elsewhere.md", "outside of the repository"),
    ],
)
def test_a_broken_link_is_told(target: str, fault: str | None) -> None:
    assert fault_of(Link("README.md", 1, target, image=False)) == fault
