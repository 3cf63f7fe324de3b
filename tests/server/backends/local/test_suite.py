"""The local backend does what every backend does."""

from tests.server.backends.suite import *  # noqa: F403 -- pytest collects what is imported
