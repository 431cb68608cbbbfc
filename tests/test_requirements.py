"""A missing program skips a test, and fails it where the program was promised."""

import pytest

from tests.requirements import require


def test_a_program_that_is_here_is_returned(tmp_path, monkeypatch):
    program = tmp_path / "mpirun"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert require("mpirun") == str(program)


def test_a_missing_program_skips(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PTYCHO_TESTS_REQUIRE", "chromium")
    with pytest.raises(pytest.skip.Exception):
        require("mpirun")


def test_a_missing_program_fails_where_it_was_promised(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PTYCHO_TESTS_REQUIRE", "mpirun chromium")
    with pytest.raises(pytest.fail.Exception, match="mpirun is required"):
        require("mpirun")
