"""Each tox environment as a nox session of the same name: ``nox -s unit -- -k parameters``.

The sessions run tox, so that only ``tox.ini`` defines what they install and run.
"""

from __future__ import annotations

import configparser
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"


def declare(environment: str, description: str) -> None:
    """Declares the session that runs one tox environment, and passes the arguments after ``--`` to it."""

    def forward(session: nox.Session) -> None:
        session.install("tox", "tox-uv")
        session.run("tox", "run", "-e", environment, "--", *session.posargs)

    forward.__doc__ = description
    nox.session(name=environment, default=environment == "unit")(forward)


tox = configparser.ConfigParser(interpolation=None)
tox.read(Path(__file__).with_name("tox.ini"), encoding="utf-8")
for section in tox.sections():
    _, _, environment = section.partition("testenv:")
    if environment and not environment.startswith("."):
        declare(environment, tox[section]["description"])
