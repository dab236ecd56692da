"""Under CI a skip fails the run, wherever it happens; an expected failure does not."""

import pytest

pytest_plugins = ["pytester"]

CONFTEST = """
from tests.support.no_skips import NoSkips

def pytest_configure(config):
    config.pluginmanager.register(NoSkips())
"""


def _run(pytester: pytest.Pytester, body: str) -> pytest.RunResult:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(body)
    return pytester.runpytest_inprocess("-p", "no:asyncio")


@pytest.mark.parametrize(
    "body",
    [
        "import pytest\ndef test_one(): pytest.skip('no broker')",
        "import pytest\n@pytest.mark.skip\ndef test_one(): pass\ndef test_two(): pass",
        "import pytest\npytest.skip('no broker', allow_module_level=True)",
        "import pytest\npytest.importorskip('no_such_module_at_all')\ndef test_one(): pass",
    ],
    ids=["in a test", "by a mark", "a module", "a missing module"],
)
def test_a_skip_fails_the_run(pytester: pytest.Pytester, body: str) -> None:
    result = _run(pytester, body)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*skipped under CI: a failure*"])


def test_an_expected_failure_is_no_skip(pytester: pytest.Pytester) -> None:
    result = _run(pytester, "import pytest\n@pytest.mark.xfail\ndef test_one(): assert False")
    assert result.ret == pytest.ExitCode.OK
