"""The functions of the Modal app, which these modules create when they are imported."""
