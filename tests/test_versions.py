"""Which versions were verified: the range of the package's own papers, and a warning that names the way back."""

from __future__ import annotations

import warnings
from importlib import metadata

import pytest

import vila_lab
from vila_lab import versions


@pytest.fixture
def installed(monkeypatch):
    """``installed(name="1.0")`` lets other versions be installed."""
    real = metadata.version

    def pretend(**others: str) -> None:
        monkeypatch.setattr(metadata, "version", lambda name: others.get(name) or real(name))

    return pretend


def test_the_range_is_that_of_the_papers():
    assert {"transformers", "torch", "captum", "numpy"} <= set(versions.requirements())
    assert "pytest" not in versions.requirements()  # an extra


@pytest.mark.parametrize("version", ["5.17.0", "5.25.0", "5.25.0.dev0", "4.57.6"])
def test_outside_the_verified_range_loading_warns_once_and_names_the_way_back(installed, version):
    needed = str(versions.requirements()["transformers"].specifier)
    installed(transformers=version)
    with pytest.warns(versions.UnverifiedVersionWarning) as caught:
        vila_lab.load()
    assert len(caught) == 1
    told = str(caught[0].message)
    assert f"transformers {version} ({needed})" in told
    assert told.endswith(f"pip install 'transformers{needed}'")
    assert caught[0].filename == __file__


@pytest.mark.parametrize("version", ["5.18.0", "5.24.0", "5.24.1"])
def test_inside_it_nothing_is_said(installed, version):
    installed(transformers=version)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vila_lab.load()
    assert "transformers" not in versions.unverified()


def test_several_packages_outside_are_one_warning(installed):
    installed(transformers="5.99.0", torch="2.0.0+cpu")
    with pytest.warns(
        versions.UnverifiedVersionWarning, match=r"transformers 5\.99\.0.*torch|torch.*transformers"
    ) as caught:
        versions.warn_if_unverified()
    assert len(caught) == 1


def test_where_the_package_is_not_installed_nothing_is_claimed(monkeypatch):
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    assert versions.requirements() == {}
    assert versions.unverified() == {}
    assert "pyproject.toml" in versions.remedy()
