"""One file and one line add a class of any kind: the contract tests of its kind find it, in a copy of the packages."""

from __future__ import annotations

from pathlib import Path

from .extended import ALL, add_to_copy, run


def test_contract_tests_find_a_class_of_each_kind(tmp_path: Path) -> None:
    copy = add_to_copy(tmp_path)
    files = sorted({f"tests/{extension.tests}" for extension in ALL} | {"tests/test_settings.py"})
    names = " or ".join(extension.cls for extension in ALL)
    result = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", "-rA", "-k", names, *files], copy, cwd=copy)
    passed = [line for line in result.stdout.splitlines() if line.startswith("PASSED")]
    assert result.returncode == 0, result.stdout[-5000:]
    for extension in ALL:
        for file in (extension.tests, "test_settings.py"):
            assert any(extension.cls in line and file in line for line in passed), (extension.cls, file)
