"""The checkout that copies are made from: what it holds, what may be copied, and under which names."""

import difflib
import importlib.util
import keyword
import subprocess
import sys
import tomllib
from pathlib import Path

from common.errors import UserError
from vec_new.rename import Name, shared_modules


def git(folder: Path, *words: str) -> str:
    """What git prints.

    Raises:
        UserError: git fails; its first line says why.
    """
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True)
    if done.returncode != 0:
        raise UserError(f"{folder}: {(done.stderr.strip() or f'git {words[0]} fails').splitlines()[0]}")
    return done.stdout.strip()


def find(start: Path) -> Path:
    """The root of the checkout that a folder is in.

    Raises:
        UserError: it is in none.
    """
    for folder in (start, *start.parents):
        if (folder / "copier.yml").is_file() and (folder / "packages" / "common").is_dir():
            return folder
    raise UserError(f"{start} is in no checkout of the templates: go into one (or vec-new project --source URL).")


def templates(root: Path) -> dict[str, list[str]]:
    """The templates of each package."""
    found: dict[str, list[str]] = {
        file.parent.name: [] for file in sorted(root.glob("packages/*/pyproject.toml")) if file.parent.name != "common"
    }
    for config in sorted(root.glob("packages/*/src/*/*/config.yaml")):
        found.setdefault(config.parents[1].name, []).append(config.parent.name)
    return found


def source(root: Path, text: str) -> Name:
    """The template of this name, as it is committed.

    Raises:
        UserError: there is none, or it has changes that are not committed.
    """
    known = [f"{package}/{template}" for package, names in templates(root).items() for template in names]
    if text not in known:
        near = difflib.get_close_matches(text, known, n=1)
        raise UserError(f"--from {text}: unknown template: {_hint(near, known)}")
    name = Name.parse(text)
    if git(root, "status", "--porcelain", "--", str(folder(root, name))):
        raise UserError(
            f"{text} has changes that are not committed, and what is committed is copied: commit them first."
        )
    return name


def folder(root: Path, name: Name) -> Path:
    return root / "packages" / name.package / "src" / name.package / name.template


def smallest(root: Path, name: Name) -> str:
    """The overrides of the smallest job of a template."""
    toml = tomllib.loads((root / "packages" / name.package / "pyproject.toml").read_text(encoding="utf-8"))
    return toml["tool"]["vec"]["smallest"][name.template]


def new_template(root: Path, text: str, source: Name) -> Name:
    """A free name in the package of the template that is copied.

    Raises:
        UserError: it is no name, is taken, or is in another package.
    """
    package, _, template = text.partition("/")
    known = list(templates(root))
    if package not in known:
        near = difflib.get_close_matches(package, known, n=1)
        new = f"A new one: vec-new package {package} --from {source}"
        raise UserError(f"{text}: there is no package {package!r}: {_hint(near, known)} {new}")
    if package != source.package:
        raise UserError(
            f"{text}: {source} needs what {source.package} depends on: name it {source.package}/{template}."
        )
    _check_identifier(template, text)
    taken = folder(root, Name(package, template))
    if taken.exists() or taken.with_suffix(".py").exists():
        raise UserError(f"{text}: {taken.relative_to(root)} or a module of that name exists: take another name.")
    return Name(package, template)


def new_package(root: Path, package: str, source: Name) -> Name:
    """A free name of a package that can carry this template.

    Raises:
        UserError: it is no name, is taken, or the template needs modules of its own package.
    """
    check_package(package, package)
    if (root / "packages" / package).exists():
        raise UserError(f"packages/{package} exists: take another name, or vec-new template {package}/...")
    shared = sorted(shared_modules(folder(root, source).parent, source.template))
    if shared:
        raise UserError(
            f"{source} needs {', '.join(shared)}, and packages do not import each other: copy it inside of "
            f"{source.package} (vec-new template), or take one that stands alone, such as mlp/single."
        )
    return Name(package, source.template)


def check_package(package: str, text: str) -> None:
    """Refuse the name of a package that is none, or that hides a module.

    Raises:
        UserError: says which.
    """
    _check_identifier(package, text)
    if package in sys.stdlib_module_names or importlib.util.find_spec(package) is not None:
        raise UserError(f"{text}: Python or an installed package has a module {package!r}: take another name.")


def _check_identifier(word: str, text: str) -> None:
    if not word.isidentifier() or keyword.iskeyword(word) or word != word.lower():
        raise UserError(
            f"{text}: {word!r} is no name of a Python module: lower-case letters, digits and _, e.g. my_task."
        )


def _hint(near: list[str], known: list[str]) -> str:
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}."
