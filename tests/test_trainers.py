"""Trainers are chosen by name, or as the first that can train here."""

from __future__ import annotations

import pytest

from caffesurgery.errors import TrainError, UsageError
from caffesurgery.train import job

FAKES = {"one": "one has no engine", "two": None}


@pytest.fixture(name="fakes")
def _fakes(monkeypatch, tmp_path):
    """Two trainers as packages, the first of which cannot train."""
    for name, reason in FAKES.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text(
            "class Fake:\n"
            f"    name = {name!r}\n"
            "    def available(self):\n"
            f"        return {reason!r}\n"
            "def trainer(**options):\n"
            "    return Fake()\n"
        )
    monkeypatch.setattr(job, "__file__", str(tmp_path / "job.py"))
    monkeypatch.setattr(job, "__package__", "trainers_of_a_test")
    package = type(job)("trainers_of_a_test")
    package.__path__ = [str(tmp_path)]
    monkeypatch.setitem(job.import_module.__globals__["sys"].modules, package.__name__, package)


def test_the_first_that_can_train_is_taken(fakes):
    assert job.trainers() == ("one", "two")
    assert job.choose().name == "two"


def test_a_named_one_that_cannot_says_why_and_what_else_there_is(fakes):
    with pytest.raises(TrainError, match="one has no engine; or take --trainer two"):
        job.choose("one")
    with pytest.raises(UsageError, match="unknown trainer 'three'; .*known: one, two"):
        job.choose("three")
