"""What all test files share lies in the plugins; here is what marks a test.

TensorFlow is imported only by what computes.
"""

import gc

import pytest

import goodnet  # noqa: F401 - what it sets counts only before anything imports NumPy

pytest_plugins = [
    "tests.zoo",
    "tests.badnets",
    "tests.commands",
    "tests.servers",
    "tests.browser",
]

NEEDS = {
    "lab": {"lab"},
    "server": {"prefect_server", "ui_server", "deployed"},
    "browser": {"browser"},
    "slow": {"plain_keras", "channels_first_keras"},
}
"""Markers of tests by the fixtures that they ask for, in their own signature or a fixture's."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for marker, fixtures in NEEDS.items():
            if fixtures & set(getattr(item, "fixturenames", ())):
                item.add_marker(marker)
    # Where two processes share the files, those that take longest come first, so that in the end
    # neither waits for the other.
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("server") is None)


@pytest.fixture(scope="module", autouse=True)
def before_it_is_out_of_the_collectors_way() -> None:
    """Keep the garbage collector from looking again and again at what earlier files left."""
    gc.collect()
    gc.freeze()
