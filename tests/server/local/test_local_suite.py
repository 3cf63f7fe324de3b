"""The local backend does what every backend does."""

from tests.server.backend_suite import *  # noqa: F403 -- pytest collects what is imported
