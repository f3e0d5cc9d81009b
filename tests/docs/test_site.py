"""The site builds without a warning, shows what the pages say, and works without a network."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.chromium import chromium
from tests.docs import pages

MKDOCS = str(Path(sys.executable).with_name("mkdocs"))
# What Markdown makes of a page, wherever it is shown.
SHAPE = {
    "li": "list_item_open",
    "table": "table_open",
    "pre": "fence",
    "h2": "heading_open",
    "blockquote": "blockquote_open",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make site` does: a page that the navigation lacks, a link or an anchor to nothing, and it fails."""
    folder = tmp_path_factory.mktemp("site")
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    command = [MKDOCS, "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=pages.ROOT, env=env, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def shown_at(page: str) -> str:
    """Where the site has a page: those of docs/ are at its top."""
    if page == "README.md":
        return "readme.html"
    return re.sub(r"README\.html$", "index.html", page.removeprefix("docs/").replace(".md", ".html"))


def article(site: Path, page: str) -> str:
    html = (site / shown_at(page)).read_text(encoding="utf-8")
    return html.partition("<article")[2].partition("</article>")[0]


@pytest.mark.pages
def test_every_page_is_shown_as_a_git_host_shows_it(site: Path) -> None:
    wrong: list[str] = []
    for page in pages.paths():
        html = article(site, page)
        for tag, token in SHAPE.items():
            opened = [one for one in pages.tokens(page) if one.type == token and (tag != "h2" or one.tag == "h2")]
            shown = len(re.findall(f"<{tag}[ >]", html))
            if len(opened) != shown:
                wrong.append(f"{page}: {len(opened)} <{tag}>, but {shown} in the site")
    assert not wrong, "a list or block needs an empty line before it, or 4 spaces inside a list:\n" + "\n".join(wrong)


@pytest.mark.pages
def test_every_field_preset_and_verb_is_in_the_reference(site: Path) -> None:
    from common.config import CONFIGS
    from vec_jobs.cli import app

    reference = {path.stem: path.read_text(encoding="utf-8") for path in (site / "reference").glob("*.html")}
    for preset in CONFIGS.glob("compute/**/*.yaml"):
        assert f"<code>{preset.relative_to(CONFIGS / 'compute').with_suffix('')}</code>" in reference["presets"]
    for command in app.registered_commands:
        verb = command.name or command.callback.__name__  # type: ignore[union-attr]
        assert f"vec-jobs {verb}" in reference["commands"]
    for field in ("requeue.save_every_min", "user.slurm.account", "compute.slurm.partition", "tracking.backend"):
        assert f"<code>{field}</code>" in reference["fields"]
    for field in ("hydra.launcher.runs_per_job", "hydra.launcher.array_parallelism"):
        assert f"<code>{field}</code>" in reference["launcher"]
    for title in ("mlp.single", "llm.dpo", "vlm.sft", "rl.grpo"):
        assert f">{title}<" in reference["templates"]


@pytest.mark.pages
def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    loads = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=["']?(https?:)?//[^"' >]+""")
    for page in site.rglob("*.html"):
        found = loads.search(page.read_text(encoding="utf-8"))
        assert found is None, f"{page.name}: {found and found[0]}"


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    with chromium(1280, 900) as driver:
        yield driver


@pytest.mark.browser
def test_the_site_opened_from_a_file_is_searched_and_walked(site: Path, browser: webdriver.Chrome) -> None:
    browser.get((site / "index.html").as_uri())
    tabs = [link.text for link in browser.find_elements(By.CSS_SELECTOR, ".md-tabs__link")]
    assert tabs == ["Home", "Getting started", "Guide", "Packages", "Reference", "Design", "Project"]

    box = browser.find_element(By.CSS_SELECTOR, "[data-md-component=search-query]")
    box.click()
    box.send_keys("save_every_min")

    def first_hit(browser: webdriver.Chrome) -> str | None:
        """Its link, once the whole word has been searched for: there are hits after each key, and then others."""
        hits = browser.find_elements(By.CSS_SELECTOR, ".md-search-result__link")
        return next((hit.get_attribute("href") for hit in hits if "save_every_min" in hit.text), None)

    browser.get(WebDriverWait(browser, 60, ignored_exceptions=[StaleElementReferenceException]).until(first_hit))
    assert "save_every_min" in browser.find_element(By.TAG_NAME, "article").text

    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors, json.dumps(errors, indent=1)
