"""A page for each workflow, made from its contract."""
