"""What an install brings, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "sfi_agent": ROOT / "sfi_agent",
    "sfi_plugins": ROOT / "plugins/sfi_plugins",
    "sfi_kernels": ROOT / "kernels/sfi_kernels",
    "langchain_sfi": ROOT / "integrations/langchain_sfi",
    "sfi_mqtt": ROOT / "integrations/sfi_mqtt",
    "sfi_lm_eval": ROOT / "integrations/sfi_lm_eval",
}


def test_the_wheel_has_these_top_level_names_alone(wheel: list[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_every_package_folder_of_the_repository_is_listed() -> None:
    """A new integration must be added to pyproject.toml, to the import rules and here."""
    homes = [ROOT, ROOT / "plugins", ROOT / "kernels", ROOT / "integrations"]
    found = {path.parent for home in homes for path in home.glob("*/__init__.py")}
    assert found == set(PACKAGES.values())


def test_every_module_and_data_file_is_in_the_wheel(wheel: list[str], files: list[Path]) -> None:
    shipped = {".py", ".typed", ".md", ".json", ".jinja", ".html", ".css", ".js"}
    for name, folder in PACKAGES.items():
        expected = {
            f"{name}/{file.relative_to(folder).as_posix()}"
            for file in files
            if file.is_relative_to(folder) and (file.suffix in shipped or file.name == "py.typed")
        }
        assert {entry for entry in wheel if entry.startswith(f"{name}/")} == expected


def test_every_package_says_that_it_is_typed(wheel: list[str]) -> None:
    assert {f"{name}/py.typed" for name in PACKAGES} <= set(wheel)


def test_the_licence_travels_with_the_wheel(wheel: list[str]) -> None:
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel)


def test_every_folder_with_modules_is_a_package() -> None:
    """setuptools leaves a folder without ``__init__.py`` out, without a word."""
    for folder in PACKAGES.values():
        for module in folder.rglob("*.py"):
            assert (module.parent / "__init__.py").exists(), module


def test_the_import_rules_know_every_package(project: dict[str, Any]) -> None:
    rules = project["tool"]["importlinter"]
    others = set(PACKAGES) - {"sfi_agent"}
    assert set(rules["root_packages"]) == set(PACKAGES)
    forbidden, independent = rules["contracts"]
    assert set(forbidden["forbidden_modules"]) == others
    assert set(independent["modules"]) == others
