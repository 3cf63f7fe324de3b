"""Jobs in the Modal account of the user."""
