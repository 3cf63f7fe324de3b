"""The project below is run as its own, by the test beside this file."""

collect_ignore = ["project"]
