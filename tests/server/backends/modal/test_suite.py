"""The Modal backend under the suite of all backends, on containers of the control plane."""

import pytest

from tests.server.backends.suite import *  # noqa: F403 - the suite is made to be taken whole

pytestmark = pytest.mark.modal
