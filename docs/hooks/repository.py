"""MkDocs sees the repository's Markdown files at their places, so that a link works there as on a git host.

The files of docs/ come to the top of the site; READMEs, changelogs and CONTRIBUTING keep their folders. A file of code
that a page links to is shown as a page of its own.
"""

from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

OUTSIDE_DOCS = ("*.md", "benchmarks/*.md", "packages/*/*.md")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".md": "markdown"}


class Source(File):
    """A file of code as a page."""

    def is_documentation_page(self) -> bool:
        return True

    @property
    def content_string(self) -> str:
        assert self.abs_src_path is not None
        code = Path(self.abs_src_path).read_text(encoding="utf-8").rstrip()
        language = LANGUAGES.get(Path(self.src_uri).suffix, "text")
        return f"# {self.src_uri}\n\n`````{language}\n{code}\n`````\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """A pattern in the navigation stands for the pages it fits, so that a new package needs no change there."""
    config.nav = expanded(config.nav, Path(config.config_file_path).parent)
    return config


def expanded(nav: Any, root: Path) -> Any:
    """`packages/*/README.md`: an entry for each package, under its name; `docs/design/*.md`: each page, no index."""
    if isinstance(nav, dict):
        return {title: expanded(below, root) for title, below in nav.items()}
    if isinstance(nav, str):
        return nav
    entries: list[Any] = []
    for entry in nav:
        if not isinstance(entry, str) or "*" not in entry:
            entries.append(expanded(entry, root))
            continue
        found = sorted(path for path in root.glob(entry) if path.name != "index.md")
        in_folders = "*" in Path(entry).parent.name
        paths = {path.parent.name: str(path.relative_to(root)) for path in found} if in_folders else {}
        entries += [{title: path} for title, path in paths.items()] or [str(path.relative_to(root)) for path in found]
    return entries


def on_files(files: Files, config: MkDocsConfig) -> Files:
    root = Path(config.config_file_path).parent
    docs = Path(config.docs_dir).relative_to(root)

    def at_its_place(path: str, kind: type[File] = File, dest_uri: str | None = None, **facts: InclusionLevel) -> File:
        return kind(path, str(root), config.site_dir, config.use_directory_urls, dest_uri=dest_uri, **facts)

    of_docs = [file for file in files if file.src_dir == config.docs_dir]
    shown = [file for file in files if file.src_dir != config.docs_dir]  # the theme's
    shown += [at_its_place(f"{docs}/{one.src_uri}", dest_uri=one.dest_uri, inclusion=one.inclusion) for one in of_docs]
    for pattern in OUTSIDE_DOCS:
        for path in sorted(str(path.relative_to(root)) for path in root.glob(pattern)):
            # the README of the top would otherwise take the place of docs/index.md
            shown.append(at_its_place(path, dest_uri="readme.html" if path == "README.md" else None))
    known = {file.src_uri for file in shown}
    for path in sorted(linked(root, known) - known):
        if path.endswith((".png", ".svg")):
            shown.append(at_its_place(path))
        else:
            page = f"{path}.html"
            shown.append(at_its_place(path, Source, dest_uri=page, inclusion=InclusionLevel.NOT_IN_NAV))
    return Files(shown)


def linked(root: Path, pages: set[str]) -> set[str]:
    """The files of the repository that these pages link to or show."""
    found: set[str] = set()
    for page in pages:
        if not page.endswith(".md"):
            continue
        for block in MarkdownIt("gfm-like", {"linkify": False}).parse((root / page).read_text(encoding="utf-8")):
            for token in block.children or []:
                target = str(token.attrGet("href") or token.attrGet("src") or "").partition("#")[0]
                path = (root / page).parent / target
                if target and "://" not in target and path.is_file():
                    found.add(str(path.resolve().relative_to(root)))
    return found
