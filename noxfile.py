"""The checks of this project in environments of their own: ``nox -s tests-3.12``, ``nox -l``.

``pip install nox uv`` first. Python versions that are not on the machine are skipped.
"""

import nox

PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
# Holes without a fix, or in what this package does not use: each with the reason.
ACCEPTED = {
    "CVE-2025-3000": "torch.jit.script of a program of one's own; not used here",
}

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["tests", "lint"]
nox.options.error_on_missing_interpreters = False


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The tests, with the newest versions: ``nox -s tests-3.12 -- tests/system``."""
    session.install("-e", ".[test]")
    _run_tests(session)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """The tests, with the lowest versions that setup.cfg allows; needs uv."""
    # uv settles datasets last, and would take one that needs a newer pyarrow.
    lowest = ["--resolution", "lowest-direct", "datasets==4.0.0"]
    session.install(*lowest, "-e", ".[test,hub]")
    _run_tests(session)


def _run_tests(session: nox.Session) -> None:
    env = {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    session.run("pytest", "-n", "auto", "--dist", "worksteal", *session.posargs, env=env)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, formatting, and the direction of imports."""
    session.install("-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as a site, in ``site/``; a warning is an error."""
    session.install("-e", ".[docs]")
    session.run("mkdocs", "build", "--strict")


@nox.session(python=PYTHONS[1])
@nox.parametrize("versions", ["highest", "lowest-direct"])
def audit(session: nox.Session, versions: str) -> None:
    """Known holes in what is installed, newest and lowest versions; needs uv and the network."""
    session.install("pip-audit")
    session.install("--resolution", versions, "-e", ".[astro,hdf5]")
    ignored = [word for name in ACCEPTED for word in ("--ignore-vuln", name)]
    session.run("pip-audit", "--local", "--skip-editable", *ignored)
