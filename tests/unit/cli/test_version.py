"""`headwater --version`."""

from importlib.metadata import version

from typer.testing import CliRunner

from headwater.cli.app import app


def test_the_version_is_that_of_the_package() -> None:
    told = CliRunner().invoke(app, ["--version"])
    assert (told.exit_code, told.output) == (0, f"headwater {version('headwater')}\n")
