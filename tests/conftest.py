"""Its place here puts tests/ on the import path, so that tests can say `from helpers import ...`."""

from __future__ import annotations

import os

import pytest

# Words of the reasons for which a test is skipped where `make system-packages test-packages` was not run.
SYSTEM_PACKAGES = ("MariaDB's server", "bubblewrap", "make system-packages", "make test-packages")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI all that apt supplies is there, so a test that skips for want of it has failed."""
    report = yield
    if report.skipped and os.environ.get("CI") and any(name in str(report.longrepr) for name in SYSTEM_PACKAGES):
        report.outcome = "failed"
        *_, reason = report.longrepr
        must = "may not skip in CI, where `make system-packages test-packages` must have run"
        report.longrepr = f"{item.nodeid} {must}: {reason}"
    return report
